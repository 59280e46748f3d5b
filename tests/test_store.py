import contextlib
import dataclasses
import inspect
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import model
from helpers.backend import keras
from helpers.lab import store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "new"
    monkeypatch.setattr(store, "CACHE", folder)
    return folder


@pytest.fixture
def trainings(monkeypatch):
    """Counts the trainings, which it makes short, of a network that is quickly kept."""
    counted = []

    def build(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)], name="baseline")

    def train(network, digits, epochs, seed):
        counted.append(seed)
        return {"val_accuracy": [0.1] * epochs}

    monkeypatch.setattr(store, "_key", lambda digits, epochs, seed: f"{epochs}-{seed}")
    monkeypatch.setattr(model, "build", build)
    monkeypatch.setattr(model, "train", train)
    return counted


def same_weights(a, b):
    return all(map(np.array_equal, a.get_weights(), b.get_weights()))


def test_training_learns_and_can_be_repeated(few):
    once, again = (store.baseline(few, epochs=10, seed=s) for s in (1, 1))
    assert model.accuracy(once.network, few.x_test, few.y_test) > 0.5
    assert same_weights(once.network, again.network)
    assert not any(kept.network.compiled for kept in (once, again))
    assert [len(curve) for curve in once.history.values()] == [10] * 4
    assert once.history == again.history
    fresh = model.build(seed=1)
    assert model.train(fresh, few, epochs=10, seed=1) == once.history
    assert same_weights(fresh, once.network)


def test_the_seconds_of_the_training_are_kept(few, trainings, monkeypatch):
    """By a clock that stands still but for the training, which takes 7."""
    monkeypatch.setattr(
        store, "time", SimpleNamespace(perf_counter=lambda: 100.0 + 7 * len(trainings))
    )
    assert [store.baseline(few, 1, 0).seconds for _ in range(2)] == [7, 7]
    assert trainings == [0]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"sha256": 1}', None])
@pytest.mark.parametrize("suffix", [".json", ".weights.h5"])
def test_a_damaged_baseline_is_trained_again(few, cache, trainings, suffix, damage):
    store.baseline(few, 1, 0)
    path = cache / f"baseline-1-0{suffix}"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    store.baseline(few, 1, 0)
    store.baseline(few, 1, 0)
    assert trainings == [0, 0]


def test_a_flipped_bit_in_the_weights_is_noticed(few, cache, trainings):
    store.baseline(few, 1, 0)
    path = cache / "baseline-1-0.weights.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store.baseline(few, 1, 0)
    assert trainings == [0, 0]


def test_interrupted_writing_leaves_nothing_behind(few, cache, trainings, monkeypatch):
    def interrupted(network, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keras.Sequential, "save_weights", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.baseline(few, 1, 0)
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]
    store.baseline(few, 1, 0)
    assert trainings == [0, 0]


def test_who_has_to_wait_says_so_at_once(few, trainings, monkeypatch, capsys):
    asked = []

    class Busy:
        """A lock that another process holds, until one is ready to wait for it."""

        def __init__(self, path):
            assert path.suffix == ".lock"

        def acquire(self, timeout=None):
            asked.append(timeout)
            if timeout is not None:
                raise store.Timeout("busy")
            return contextlib.nullcontext()

    monkeypatch.setattr(store, "FileLock", Busy)
    store.baseline(few, 1, 0)
    assert asked == [0, None]
    said = capsys.readouterr().out
    assert said == "Another process is training this baseline: waiting for it.\n"


def _race(folder, digits, queue, both_ready):
    store.CACHE = folder
    trained = model.train

    def train(*args):
        queue.put("trained")
        return trained(*args)

    model.train, store._key = train, lambda *args: "race"
    both_ready.wait(timeout=100)
    kept = store.baseline(digits, epochs=1, seed=0)
    queue.put(model.accuracy(kept.network, digits.x_test, digits.y_test))


def test_of_two_processes_one_trains_and_both_get_the_same(few, cache, monkeypatch):
    """This process, and one that it starts."""
    monkeypatch.setattr(model, "train", model.train)  # what _race changes is put back here
    monkeypatch.setattr(store, "_key", store._key)
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    arguments = (cache, few, queue, spawn.Barrier(2))
    other = spawn.Process(target=_race, args=arguments)
    other.start()
    _race(*arguments)
    said = [queue.get(timeout=100) for _ in range(3)]
    other.join(timeout=100)
    assert said.count("trained") == 1
    assert len({x for x in said if x != "trained"}) == 1


def test_the_key_covers_everything_that_affects_the_result(few, monkeypatch):
    def key(digits=few, epochs=1, seed=0):
        return store._key(digits, epochs, seed)

    def changed(name, index):
        part = getattr(few, name).copy()
        part[index] = 1 - part[index]
        return dataclasses.replace(few, **{name: part})

    keys = [key(), key(epochs=2), key(seed=1)]
    keys += [key(changed(name, 0)) for name in ("x_train", "y_train", "x_val", "y_val")]
    keys.append(key(dataclasses.replace(few, x_train=few.x_train[::-1])))  # split in another order
    for library in (store.keras, store.tf):
        with monkeypatch.context() as patch:
            patch.setattr(library, "__version__", "0")
            keys.append(key())
    source = inspect.getsource(model)
    for old, new in [
        ("BATCH_SIZE = 256", "BATCH_SIZE = 255"),
        ("LEARNING_RATE = 0.2", "LEARNING_RATE = 0.3"),
        ("WEIGHT_DECAY = 0.005", "WEIGHT_DECAY = 0.006"),
        ("momentum=0.9", "momentum=0.8"),
        ("global_clipnorm=3.0", "global_clipnorm=4.0"),
        ("0.9 * tf.one_hot", "0.8 * tf.one_hot"),
        ("(2 / n_in)", "(1 / n_in)"),
    ]:
        assert old in source
        changed_source = source.replace(old, new)
        monkeypatch.setattr(inspect, "getsource", lambda _, s=changed_source: s)
        keys.append(key())
    assert len(set(keys)) == len(keys)
    monkeypatch.undo()
    assert key() == keys[0]
    renamed = dataclasses.replace(few, name="another", x_test=few.x_test[:5], y_test=few.y_test[:5])
    assert key(renamed) == keys[0]


CODE = '''
"""A module."""

def f(x):
    """A function, whose numbers are "2 ** x"."""
    # twice
    return 2 * x
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [("A module.", "One."), ("A function", "It"), ("# twice", ""), ("2 * x", "(2 *   x)")],
)
def test_an_edit_of_words_keeps_the_key(old, new):
    assert old in CODE
    assert store._code(CODE.replace(old, new)) == store._code(CODE)


@pytest.mark.parametrize(
    ("old", "new"), [("2 * x", "3 * x"), ("f(x)", "f(x, y=1)"), ("return", "print('a'); return")]
)
def test_an_edit_of_code_changes_the_key(old, new):
    assert old in CODE
    assert store._code(CODE.replace(old, new)) != store._code(CODE)
