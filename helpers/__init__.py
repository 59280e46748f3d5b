"""Compress a Keras model by singular value decomposition.

What there is to learn is in the modules beside this one: `svd`, `ranks`, `moments`, `compress`,
`layers`, `optimizers`, `callbacks`, `model`, `data` and `progress`. What makes it serve any network
is in `networks`; what runs, keeps, measures, draws and checks is in `lab`.
"""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
