import contextlib
import dataclasses
import functools
import inspect
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import model
from helpers.lab import store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A folder of its own, and narrow networks."""
    folder = tmp_path / "new"
    monkeypatch.setattr(store, "CACHE", folder)
    monkeypatch.setattr(model, "build", functools.partial(model.build, width=64))
    return folder


@pytest.fixture
def trainings(monkeypatch):
    """Counts the trainings, which it leaves out."""
    counted = []

    def train(network, digits, epochs, seed):
        counted.append(seed)
        return {"val_accuracy": [0.1] * epochs}

    monkeypatch.setattr(store, "_key", lambda digits, epochs, seed: f"{epochs}-{seed}")
    monkeypatch.setattr(model, "train", train)
    return counted


def same_weights(a, b):
    return all(map(np.array_equal, a.get_weights(), b.get_weights()))


def test_training_learns_and_can_be_repeated(few):
    once, again = (store.baseline(few, epochs=15, seed=s) for s in (1, 1))
    assert model.accuracy(once.network, few.x_test, few.y_test) > 0.5
    assert same_weights(once.network, again.network)
    assert not any(kept.network.compiled for kept in (once, again))
    assert [len(curve) for curve in once.history.values()] == [15] * 4
    assert once.history == again.history
    fresh = model.build(seed=1)
    assert model.train(fresh, few, epochs=15, seed=1) == once.history
    assert same_weights(fresh, once.network)


def flipped(content):
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]


WEIGHTS = ".weights.h5"


DAMAGES = [(".json", b"{"), (".json", b'{"sha256": 1}'), (WEIGHTS, flipped), (WEIGHTS, None)]


@pytest.mark.parametrize(("suffix", "damage"), DAMAGES)
def test_a_damaged_baseline_is_trained_again(few, cache, trainings, suffix, damage):
    store.baseline(few, 1, 0)
    path = cache / f"baseline-1-0{suffix}"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)
    store.baseline(few, 1, 0)
    store.baseline(few, 1, 0)
    assert trainings == [0, 0]


def test_who_has_to_wait_says_so_at_once(few, trainings, monkeypatch, capsys):
    asked = []

    def acquire(timeout=None):  # as of a lock that is held until one is ready to wait for it
        asked.append(timeout)
        if timeout is not None:
            raise store.Timeout("busy")
        return contextlib.nullcontext()

    monkeypatch.setattr(store, "FileLock", lambda path: SimpleNamespace(acquire=acquire))
    store.baseline(few, 1, 0)
    assert asked == [0, None]
    assert "Another process is training this baseline" in capsys.readouterr().out


def _race(folder, digits, queue, both_ready):
    store.CACHE = folder
    trained = model.train

    def train(*args):
        queue.put("trained")
        return trained(*args)

    model.build = functools.partial(model.build, width=64)  # in a new process, too
    model.train, store._key = train, lambda *args: "race"
    both_ready.wait(timeout=100)
    kept = store.baseline(digits, epochs=1, seed=0)
    queue.put(model.accuracy(kept.network, digits.x_test, digits.y_test))


@pytest.mark.slow
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

    def changed(name):
        part = getattr(few, name).copy()
        part[0] = 1 - part[0]
        return dataclasses.replace(few, **{name: part})

    def edited(old, new):
        assert old in source
        with monkeypatch.context() as patch:
            patch.setattr(inspect, "getsource", lambda _: source.replace(old, new))
            return key()

    keys = [key(), key(epochs=2), key(seed=1)]
    keys += [key(changed(name)) for name in ("x_train", "y_train", "x_val", "y_val")]
    keys.append(key(dataclasses.replace(few, x_train=few.x_train[::-1])))  # split in another order
    for library in (store.keras, store.tf):
        with monkeypatch.context() as patch:
            patch.setattr(library, "__version__", "0")
            keys.append(key())
    source = inspect.getsource(model)
    keys += [edited("BATCH_SIZE = 256", "BATCH_SIZE = 255"), edited("(2 / n_in)", "(1 / n_in)")]
    assert len(set(keys)) == len(keys)
    renamed = dataclasses.replace(few, name="another", x_test=few.x_test[:5], y_test=few.y_test[:5])
    assert key(renamed) == keys[0]
    assert edited("BATCH_SIZE = 256", "BATCH_SIZE  =  256  # a comment") == keys[0]
    assert edited("The untrained", "An untrained") == keys[0]  # in a docstring
