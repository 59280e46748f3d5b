"""Compress the Dense layers of a Keras model by singular value decomposition.

What there is to learn stands in the modules beside this one: `svd`, `ranks`, `moments`, `compress`
and `graph`, `layers`, `model` and `data`. What runs, keeps, measures, draws and checks is in `lab`.
"""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
