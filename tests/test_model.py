import dataclasses
import multiprocessing
import os

import numpy as np
import pytest

from helpers import data, files, model
from helpers.backend import keras


@pytest.fixture(scope="module")
def few():
    """A tenth of the subset."""
    digits = data.load("subset")
    parts = {k: getattr(digits, k)[:350] for k in ("x_train", "y_train", "x_val", "y_val")}
    return data.Data("few", "few", **parts, x_test=digits.x_test, y_test=digits.y_test)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "CACHE", tmp_path)
    return tmp_path


@pytest.fixture
def trainings(monkeypatch):
    """Counts the trainings, which it makes short."""
    counted = []

    def train(network, digits, epochs, seed):
        counted.append(seed)
        return {"val_accuracy": [0.1] * epochs}

    monkeypatch.setattr(model, "_key", lambda digits, epochs, seed: f"{epochs}-{seed}")
    monkeypatch.setattr(model, "train", train)
    return counted


def same_weights(a, b):
    return all(map(np.array_equal, a.get_weights(), b.get_weights()))


def test_training_learns_and_can_be_repeated(few):
    once, again = (model.baseline(few, epochs=10, seed=s) for s in (1, 1))
    assert model.accuracy(once.network, few.x_test, few.y_test) > 0.5
    assert same_weights(once.network, again.network)
    assert [len(curve) for curve in once.history.values()] == [10] * 4
    assert once.history == again.history
    fresh = model.build(seed=1)
    assert model.train(fresh, few, epochs=10, seed=1) == once.history
    assert same_weights(fresh, once.network)


def test_black_on_white_trains_too(few):
    negative = dataclasses.replace(few, x_train=1 - few.x_train, x_val=1 - few.x_val)
    assert np.isfinite(model.train(model.build(seed=0), negative, 3, 0)["loss"]).all()


def test_an_image_is_moved_to_each_of_nine_places():
    image = np.random.default_rng(0).uniform(size=(28, 28)).astype("float32")
    framed = np.pad(image, 1)
    expected = {framed[i : i + 28, j : j + 28].tobytes() for i in range(3) for j in range(3)}
    images = np.tile(image.ravel(), (500, 1))
    moved = model.shift(images, (1, 2)).numpy()
    assert {row.tobytes() for row in moved} == expected
    np.testing.assert_array_equal(moved, model.shift(images, (1, 2)))
    assert not np.array_equal(moved, model.shift(images, (1, 3)))


def test_images_are_moved_in_training_only(few):
    def images(seed):
        return np.concatenate([x for x, _ in model.batches(few.x_train, few.y_train, seed)])

    np.testing.assert_array_equal(images(None), few.x_train)
    epoch = images(0)
    assert not (np.sort(epoch, axis=0) == np.sort(few.x_train, axis=0)).all()
    np.testing.assert_array_equal(epoch, images(0))


def test_without_dropout_training_sees_what_inference_sees(few):
    network = model.build(seed=0)
    copy = model.without_dropout(network)
    x = few.x_train[:20]
    np.testing.assert_array_equal(copy(x, training=True), network(x, training=False))
    assert not np.array_equal(network(x, training=True), network(x, training=False))
    assert same_weights(copy, network)


def test_all_that_determines_the_baseline_is_in_its_key(few, monkeypatch):
    keys = {model._key(few, 1, 0), model._key(few, 2, 0), model._key(few, 1, 1)}
    keys.add(model._key(data.Data(**vars(few) | {"sha256": "other"}), 1, 0))
    monkeypatch.setattr(model, "WEIGHT_DECAY", 0.5)
    keys.add(model._key(few, 1, 0))
    for part in ("build", "initial_std", "train", "steps", "batches", "shift"):
        monkeypatch.setattr(model, part, lambda: None)
        keys.add(model._key(few, 1, 0))
    assert len(keys) == 11


@pytest.mark.parametrize("damage", [b"", b"{", b'{"sha256": 1}', None])
@pytest.mark.parametrize("suffix", [".json", ".weights.h5"])
def test_a_damaged_baseline_is_trained_again(few, cache, trainings, suffix, damage):
    model.baseline(few, 1, 0)
    path = cache / f"baseline-1-0{suffix}"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    model.baseline(few, 1, 0)
    model.baseline(few, 1, 0)
    assert trainings == [0, 0]


def test_a_flipped_bit_in_the_weights_is_noticed(few, cache, trainings):
    model.baseline(few, 1, 0)
    path = cache / "baseline-1-0.weights.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    model.baseline(few, 1, 0)
    assert trainings == [0, 0]


def test_interrupted_writing_leaves_nothing_behind(few, cache, trainings, monkeypatch):
    def interrupted(network, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keras.Sequential, "save_weights", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.baseline(few, 1, 0)
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]
    model.baseline(few, 1, 0)
    assert trainings == [0, 0]


def _race(folder, digits, queue, both_ready):
    model.CACHE = folder
    trained = model.train

    def train(*args):
        queue.put("trained")
        return trained(*args)

    model.train, model._key = train, lambda *args: "race"
    both_ready.wait(timeout=100)
    kept = model.baseline(digits, epochs=1, seed=0)
    queue.put(model.accuracy(kept.network, digits.x_test, digits.y_test))


def test_of_two_processes_one_trains_and_both_get_the_same(few, cache):
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    arguments = (cache, few, queue, spawn.Barrier(2))
    pair = [spawn.Process(target=_race, args=arguments) for _ in range(2)]
    for process in pair:
        process.start()
    said = [queue.get(timeout=100) for _ in range(3)]
    for process in pair:
        process.join(timeout=100)
    assert said.count("trained") == 1
    assert len({x for x in said if x != "trained"}) == 1


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "results.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError), files.write_whole(path) as temporary:
        temporary.write_bytes("half a file, then not bytes")
    with pytest.raises(TypeError):
        files.write_json(path, {"b": object()})
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert os.listdir(path.parent) == ["results.json"]


def test_weight_decay_leaves_what_the_product_says():
    eta = [model.LEARNING_RATE * (1 + np.cos(np.pi * t / 50)) / 2 for t in range(50)]
    factors = 1 - model.WEIGHT_DECAY * np.array(eta)
    assert model.remaining_initialisation(50) == pytest.approx(np.prod(factors))


@pytest.mark.parametrize("optimizer", model.OPTIMIZERS)
def test_without_gradients_kernels_decay_and_biases_do_not(few, optimizer):
    network = model.build(seed=0)
    for layer in network.layers:
        if layer.weights:
            layer.bias.assign(layer.bias + 1)
    network.layers[-1].kernel.assign(0 * network.layers[-1].kernel)
    before = network.get_layer("hidden_2").get_weights()
    # An output layer of zeros, learning what it says: nothing is there to learn.
    even = np.full((len(few.x_train), 10), 0.1, "float32")
    model.train(network, few, 2, 0, even, optimizer, learning_rate=0.01, weight_decay=10)
    after = network.get_layer("hidden_2").get_weights()
    eta = 0.01 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(after[0], before[0] * np.prod(1 - 10 * eta), rtol=1e-5)
    np.testing.assert_array_equal(after[1], before[1])


def test_sgd_moves_a_kernel_within_the_span_of_its_inputs_adamw_does_not(few):
    images = np.concatenate([x for x, _ in model.batches(few.x_train, few.y_train, 0)])
    basis = np.linalg.svd(images, full_matrices=False)[2]

    def share_outside(optimizer):
        network = model.without_dropout(model.build(seed=0))
        start = network.get_layer("hidden_1").get_weights()[0]
        model.train(network, few, 1, 0, None, optimizer, 1e-3, weight_decay=0)
        change = network.get_layer("hidden_1").get_weights()[0] - start
        return np.linalg.norm(change - basis.T @ (basis @ change)) / np.linalg.norm(change)

    assert share_outside("SGD") < 1e-2 < 0.1 < share_outside("AdamW")
