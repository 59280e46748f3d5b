"""The parameters that all notebooks share: checked before any work, recorded with its results."""

import numbers
from pathlib import Path

from ..svd import check_rank
from .files import write_json


def check(D, dataset, epochs, seed, results):
    """Raise ValueError with one sentence for the first parameter that cannot be used.

    Args:
        D: singular values kept per hidden layer, a whole number of at least 1.
        dataset: a name or path for `helpers.data.load`, not empty.
        epochs: passes over the training data, a whole number of at least 1.
        seed: of all random numbers, a whole number from 0 to 2**32 - 1.
        results: path of the JSON to write, or "" to write none.
    """
    check_rank(D)
    if not isinstance(dataset, str) or not dataset:
        raise ValueError(f"dataset must be a name or a path, not {dataset!r}.")
    if not _is_whole(epochs) or epochs < 1:
        raise ValueError(f"epochs must be a whole number, at least 1, not {epochs!r}.")
    if not _is_whole(seed) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, not {seed!r}.")
    if not isinstance(results, str) or (results and Path(results).is_dir()):
        raise ValueError(f'results must be the path of a JSON file or "", not {results!r}.')


def record(path, notebook, D, dataset, epochs, seed, measured):
    """Write what a notebook measured, and at which parameters, to the JSON file `path`.

    The path is its parameter `results`, of which "" writes nothing; the notebook's name has no
    ending, and dataset is the name of the data that were loaded.
    """
    run = {"notebook": notebook, "D": D, "seed": seed, "dataset": dataset, "epochs": epochs}
    if path:
        write_json(path, run | measured)


def _is_whole(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
