import dataclasses

import numpy as np
import pytest

from helpers import model


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
    assert all(map(np.array_equal, copy.get_weights(), network.get_weights()))


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
