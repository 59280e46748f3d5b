"""Trained once, kept on disk: the baseline that the three notebooks share."""

import ast
import hashlib
import inspect
import json
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from .. import PROJECT, model
from ..backend import keras, tf
from .files import write_json, write_whole

CACHE = PROJECT / ".cache"


class Baseline(NamedTuple):
    """The trained network, and its learning curve as from `train`."""

    network: keras.Model
    history: dict


def baseline(data, epochs, seed):
    """The trained baseline: from disk if it was trained before, else trained and kept there.

    The cache key covers everything that affects the result: the images as they are split and
    scaled, epochs, seed, the code of helpers/model.py but for docstrings and comments, and the
    versions of TensorFlow and Keras. Of several processes that ask at once, one trains and the
    others wait. A damaged file is trained again. Arguments are as for `helpers.model.train`; the
    seed is that of initialisation and dropout, too.
    """
    record = CACHE / f"baseline-{_key(data, epochs, seed)}.json"
    CACHE.mkdir(exist_ok=True)
    with _locked(record.with_suffix(".lock")):
        kept = _load(record)
        if kept is None:
            trained, network = model.build(seed), model.build(seed)
            history = model.train(trained, data, epochs, seed)
            network.set_weights(trained.get_weights())  # not compiled, as one from disk
            kept = Baseline(network, history)
            _save(record, kept)
    return kept


def _key(data, epochs, seed):
    images = hashlib.sha256()
    for part in (*data.train, *data.validation):
        images.update(f"{part.shape} {part.dtype}".encode())
        images.update(np.ascontiguousarray(part))
    code = _code(inspect.getsource(model))
    versions = [tf.__version__, keras.__version__]
    covered = json.dumps([images.hexdigest(), int(epochs), int(seed), code, versions])
    return hashlib.sha256(covered.encode()).hexdigest()[:16]


def _code(source):
    """The source without docstrings, comments and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def _locked(path):
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print("Another process is training this baseline: waiting for it.")
        return lock.acquire()


def _save(record, kept):
    """Write the weights, then the record that vouches for them by their digest."""
    weights = record.with_suffix(".weights.h5")
    with write_whole(weights) as temporary:
        kept.network.save_weights(temporary)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    write_json(record, {"sha256": sha256, "history": kept.history})


def _load(record):
    """The Baseline kept under `record`, or None if there is none or it is damaged."""
    weights = record.with_suffix(".weights.h5")
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        if hashlib.sha256(weights.read_bytes()).hexdigest() != kept["sha256"]:
            return None
        network = model.build(seed=0)
        network.load_weights(weights)
        return Baseline(network, kept["history"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
