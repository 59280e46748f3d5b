import dataclasses
import itertools
import re

import numpy as np
import pytest

from helpers import compress, model
from helpers.backend import keras


def small(seed, dropout=0.5):
    """A network for digits that trains in no time."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(16, "relu", name="hidden"), keras.layers.Dropout(dropout)]
    output = keras.layers.Dense(10, name="output")
    return keras.Sequential([keras.Input((784,)), *layers, output])


def cross_entropy(logits, targets):
    """The mean over images, in float64."""
    logits = np.asarray(logits, dtype=float)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - (targets * logits).sum(axis=1))


def smooth(labels):
    return np.where(np.arange(10) == np.asarray(labels)[:, None], 0.91, 0.01)


def test_an_image_is_moved_to_each_of_nine_places():
    image = np.random.default_rng(0).uniform(size=(28, 28)).astype("float32")
    framed = np.pad(image, 1)
    expected = {framed[i : i + 28, j : j + 28].tobytes() for i in range(3) for j in range(3)}
    images = np.tile(image.ravel(), (500, 1))
    moved = model.shift(images, (1, 2)).numpy()
    assert {row.tobytes() for row in moved} == expected
    np.testing.assert_array_equal(moved, model.shift(images, (1, 2)))
    assert not np.array_equal(moved, model.shift(images, (1, 3)))


def test_without_dropout_training_sees_what_inference_sees(few):
    x = few.x_train[:20]
    image = keras.Input((784,))
    h = keras.layers.Dropout(0.3)(keras.layers.Dense(12, "tanh")(image))
    both = keras.layers.Add()([h, keras.layers.Dense(12)(image)])
    graph = keras.Model(image, keras.layers.Dense(10)(both))
    nested = keras.Sequential([keras.Input((784,)), small(0)])
    for network in (small(0), nested, graph):
        copy = model.without_dropout(network)
        np.testing.assert_array_equal(copy(x, training=True), network(x, training=False))
        assert not np.array_equal(network(x, training=True), network(x, training=False))
        assert all(map(np.array_equal, copy.get_weights(), network.get_weights()))


def unlearning(few):
    """A network with an output layer of zeros, and targets that it meets: no gradients."""
    network = small(0)
    network.layers[0].bias.assign_add(np.ones(16))
    network.layers[-1].kernel.assign(0 * network.layers[-1].kernel)
    return network, np.full((len(few.x_train), 10), 0.1, "float32")


def decay(rate, weight_decay):
    """What four steps leave of a kernel, at rates along a cosine."""
    return np.prod(1 - weight_decay * rate * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2)


@pytest.mark.parametrize("optimizer", model.OPTIMIZERS)
def test_without_gradients_kernels_decay_and_biases_do_not(few, optimizer):
    network, even = unlearning(few)
    kernel, bias = network.get_layer("hidden").get_weights()
    options = {"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 10}
    model.train(network, few, 2, 0, targets=even, **options)
    after = network.get_layer("hidden").get_weights()
    np.testing.assert_allclose(after[0], kernel * decay(0.01, 10), rtol=1e-5)
    np.testing.assert_array_equal(after[1], bias)


def test_fine_tuning_decays_kernels_by_a_tenth_of_the_rate(few):
    network, even = unlearning(few)
    before = network.get_layer("hidden").kernel.numpy()
    for rate, options in ((2e-3, {}), (0.5, {"learning_rate": 0.5})):
        tuned, _ = model.fine_tune(network, few, 2, 0, targets=even, **options)
        kept = np.vdot(tuned.get_layer("hidden").kernel, before) / np.vdot(before, before)
        assert 1 - kept == pytest.approx(1 - decay(rate, 0.1), rel=1e-2)


def test_sgd_but_not_adamw_stays_in_the_span_of_the_inputs(few):
    keras.utils.set_random_seed(0)  # as `train` does, on which the moves of the images depend
    images = np.concatenate([x for x, _ in model.batches(few.x_train, few.y_train, 0)])
    basis = np.linalg.svd(images, full_matrices=False)[2]

    def share_outside(optimizer):
        network = small(0, dropout=0.0)
        start = network.get_layer("hidden").get_weights()[0]
        options = {"optimizer": optimizer, "learning_rate": 1e-3, "weight_decay": 0}
        model.train(network, few, 1, 0, **options)
        change = network.get_layer("hidden").get_weights()[0] - start
        return np.linalg.norm(change - basis.T @ (basis @ change)) / np.linalg.norm(change)

    assert share_outside("SGD") < 1e-2 < 0.1 < share_outside("AdamW")


def test_the_network_starts_as_described():
    network = model.build(seed=3)
    hidden = [network.get_layer(f"hidden_{i}") for i in range(1, 6)]
    assert [layer.kernel.shape for layer in hidden] == [(784, 1024)] + 4 * [(1024, 1024)]
    for layer in hidden:
        kernel = layer.kernel.numpy()
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / len(kernel)), rel=0.01)
        assert np.abs(np.mean(kernel)) < 1e-3
        assert layer.activation is keras.activations.relu
        assert not layer.bias.numpy().any()
    assert [layer.rate for layer in network.layers[:-1:2]] == [0.1] * 5
    output = network.get_layer("output")
    assert (output.units, output.activation) == (10, keras.activations.linear)
    assert all(map(np.array_equal, network.get_weights(), model.build(seed=3).get_weights()))
    other = model.build(seed=4).get_layer("hidden_5")
    assert not np.array_equal(hidden[-1].kernel, other.kernel)


def test_losses_smooth_labels_and_validation_is_on_its_own_part(few):
    untested = dataclasses.replace(few, x_test=None, y_test=None)
    soft = np.random.default_rng(0).dirichlet(np.ones(10), len(few.x_train)).astype("float32")
    np.testing.assert_allclose(model.smoothed(few.y_val), smooth(few.y_val), rtol=1e-6)
    for targets in (None, soft):  # the latter are learnt as they are
        network = small(0, dropout=0.0)
        history = model.train(network, untested, 1, 5, targets=targets, learning_rate=0.0)
        keras.utils.set_random_seed(5)
        seen = [*model.batches(few.x_train, few.y_train if targets is None else soft, 5)]
        x, y = (np.concatenate(part) for part in zip(*seen, strict=True))
        loss = cross_entropy(network(x), smooth(y) if targets is None else y)
        assert history["loss"][0] == pytest.approx(loss, rel=1e-5)
        val = cross_entropy(network(few.x_val), smooth(few.y_val))
        assert history["val_loss"][0] == pytest.approx(val, rel=1e-5)
        accuracy = model.accuracy(network, few.x_val, few.y_val)
        assert history["val_accuracy"][0] == pytest.approx(accuracy, abs=1e-6)


def test_each_epoch_is_in_a_new_order_and_moved_anew():
    n = 600
    images = np.zeros((n, 28, 28), "float32")
    images[:, 14, 14] = np.arange(1, n + 1)
    batches = model.batches(images.reshape(n, 784), np.arange(n), 3)
    orders, places, moves = [np.arange(n)], [], []
    for _ in range(3):
        epoch = [(x.numpy(), y.numpy()) for x, y in batches]
        assert [len(y) for _, y in epoch] == [256, 256, 88]
        x, y = (np.concatenate(part) for part in zip(*epoch, strict=True))
        np.testing.assert_array_equal(x.max(axis=1), y + 1)  # each image with its own label
        np.testing.assert_array_equal(np.sort(y), np.arange(n))
        assert np.abs(y - orders[-1]).mean() > n / 6  # n / 3 by chance
        orders.append(y)
        moves.append(x.argmax(axis=1))
        places.append(moves[-1][np.argsort(y)])
    moves.append(np.roll(moves[-1], 256))  # nor is each batch moved like the one before
    for several in (moves, places):
        for one, next in itertools.pairwise(several):
            assert np.mean(one == next) < 0.3  # one in nine by chance


def test_steps_are_the_batches_of_all_epochs(few):
    for images, epochs, steps in ((350, 3, 6), (512, 2, 4), (1, 5, 5)):  # in batches of 256
        part = dataclasses.replace(few, x_train=np.zeros((images, 784), "float32"))
        assert model.steps(part, epochs) == steps


def test_training_shows_its_progress_and_calls_callbacks(few, capsys):
    seen = []
    spy = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    history = model.train(small(0), few, 2, 0, callbacks=[spy])
    lines = re.findall("^epoch .*$", capsys.readouterr().out, re.MULTILINE)
    for i, (line, loss) in enumerate(zip(lines, history["loss"], strict=True)):
        assert line.startswith(f"epoch {i + 1} of 2: loss {loss:.3f}, ")
        assert f"accuracy {history['val_accuracy'][i]:.2%}" in line
    model.fine_tune(small(0), few, 1, 0, callbacks=(spy,))
    assert seen == [0, 1, 0]


def test_logits_are_of_inference_for_any_number_of_images(few):
    network, x = small(0), np.concatenate([few.x_test, few.x_test, few.x_val[:9]])
    expected = network(x, training=False)
    np.testing.assert_allclose(model.logits(network, x), expected, atol=1e-5)
    labels = np.argmax(expected, axis=1)
    assert model.accuracy(network, x, labels) == 1
    labels[:500] = (labels[:500] + 1) % 10
    assert model.accuracy(network, x, labels) == pytest.approx(1 - 500 / len(x))


@keras.saving.register_keras_serializable(package="tests")
class Traced(keras.layers.ReLU):
    """Counts how often it is called, or traced."""

    traces = 0

    def call(self, inputs):
        Traced.traces += 1
        return super().call(inputs)


def test_fine_tuning_changes_a_copy_without_dropout(few):
    network = small(0)
    before = network.get_weights()
    tuned, history = model.fine_tune(network, few, 2, 0)
    assert all(map(np.array_equal, before, network.get_weights()))
    assert (network.layers[1].rate, tuned.layers[1].rate) == (0.5, 0)
    assert history["loss"][1] < history["loss"][0]
    accuracy = model.accuracy(tuned, few.x_val, few.y_val)
    assert history["val_accuracy"][1] == pytest.approx(accuracy, abs=1e-6)


def test_starts_of_one_architecture_share_a_compilation_only(few):
    def start(seed, name):
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Dense(16, name="hidden"), Traced(name="traced")]
        image, output = keras.Input((784,), name="image"), keras.layers.Dense(10, name="output")
        return keras.Sequential([image, *layers, output], name=name)

    alone, history = model.fine_tune(start(1, "alone"), few, 2, 0)
    first, _ = model.fine_tune(start(2, "shared"), few, 2, 7)
    kept = first.get_weights()
    network, before = start(1, "shared"), Traced.traces
    second, again = model.fine_tune(network, few, 2, 0)
    assert Traced.traces == before + 2  # by validation after each epoch, not by another step
    assert all(map(np.array_equal, alone.get_weights(), second.get_weights()))
    assert history == again
    assert all(map(np.array_equal, kept, first.get_weights()))
    assert not np.array_equal(kept[0], second.get_weights()[0])
    other, _ = model.fine_tune(network, few, 2, 1)  # another order of the batches
    assert not np.array_equal(other.get_weights()[0], second.get_weights()[0])


def test_dynamic_networks_are_trained_as_a_copy_by_their_recipe(few):
    network = compress.dynamic(small(0), 4)
    before = network.get_weights()
    trained, _ = model.train_dynamic(network, few, 2, 0)
    assert all(map(np.array_equal, before, network.get_weights()))
    other = model.without_dropout(network)
    options = {"learning_rate": 0.3 * 0.002**0.2, "weight_decay": 0.0005}  # of four steps
    model.train(other, few, 2, 0, optimizer="TangentSGD", **options)
    assert all(map(np.array_equal, trained.get_weights(), other.get_weights()))
    assert model.dynamic_rate(2000) == model.dynamic_rate(10_000) == 0.3
