"""Network in, network out: any Keras model with its matrices at rank D."""

from .cut import decompose, dynamic, factorize, hidden_layers, kept_parameters, truncate
from .graph import dynamic_layers
from .observed import observe
from .table import report

__all__ = [
    "decompose",
    "dynamic",
    "dynamic_layers",
    "factorize",
    "hidden_layers",
    "kept_parameters",
    "observe",
    "report",
    "truncate",
]
