"""Any Keras model in, a smaller one out: its weight matrices at rank D.

`truncate`, `factorize` and `dynamic` cut all layers at once. `observe` looks at a model once, to
cut it layer by layer or to a goal. `report` says what became of each layer.
"""

from .cut import decompose, dynamic, factorize, hidden_layers, kept_parameters, truncate
from .graph import dynamic_layers
from .merged import merge
from .observed import observe
from .share import shared_ranks
from .table import report

__all__ = [
    "decompose",
    "dynamic",
    "dynamic_layers",
    "factorize",
    "hidden_layers",
    "kept_parameters",
    "merge",
    "observe",
    "report",
    "shared_ranks",
    "truncate",
]
