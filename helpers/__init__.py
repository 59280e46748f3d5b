"""Compress a Keras model by singular value decomposition.

Each module answers one question; README.md in this folder lists them. `compress` takes any Keras
model and gives a smaller one. `lab` runs, keeps, measures and draws.
"""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
