import numpy as np
import pytest

from helpers import compress, optimizers
from helpers.backend import keras, tf
from helpers.lab import cost

from .conftest import dynamic_layer, with_spectrum

W = with_spectrum((30, 20), np.linspace(3, 0.1, 20))


def train(layer, optimizer, steps):
    """Steps on random data; returns the share of each ΔW that lies outside."""
    rng, shares = np.random.default_rng(0), []
    optimizer.build(layer.trainable_variables)
    for _ in range(steps):
        before = layer.kernel.numpy()
        x = tf.constant(rng.normal(size=(6, before.shape[0])))
        target = rng.normal(size=(6, before.shape[1]))
        with tf.GradientTape() as tape:
            error = tf.reduce_sum((layer(x, training=True) - target) ** 2)
        optimizer.apply(tape.gradient(error, layer.trainable_variables), layer.trainable_variables)
        step, (U, _, Vt) = layer.kernel.numpy() - before, layer.svd()
        rest = step - U @ (U.T @ step)
        shares.append(np.linalg.norm(rest - rest @ Vt.T @ Vt) / np.linalg.norm(step))
    return shares


@pytest.mark.parametrize("derivative", ["tangent", "exact"])
def test_some_optimizers_stay_in_the_tangent_space(derivative):
    def shares(optimizer, derivative=derivative):
        return train(dynamic_layer(W, 4, derivative), optimizer, steps=3)[1:]

    rate, SGD = 1e-3, keras.optimizers.SGD
    for stays in (optimizers.TangentSGD(rate), SGD(rate)):
        assert max(shares(stays)) < 1e-5
    assert min(shares(SGD(rate, momentum=0.9, nesterov=True))) > 1e-4
    assert min(shares(keras.optimizers.AdamW(rate, weight_decay=0.0))) > 0.1
    assert min(shares(optimizers.TangentSGD(rate), "straight_through")) > 0.1


@pytest.mark.parametrize("rank", [2, 4])
def test_momentum_is_projected_onto_the_tangent_space(rank):
    layer = dynamic_layer(W, 4)
    layer.set_rank(rank)
    X = np.random.default_rng(1).normal(size=(30, 20))
    U, _, Vt = layer.svd()
    assert Vt.shape == (rank, 20)
    expected = X - (np.eye(30) - U @ U.T) @ X @ (np.eye(20) - Vt.T @ Vt)
    np.testing.assert_allclose(layer.project(tf.constant(X)), expected, atol=1e-12)
    straight_through = dynamic_layer(W, 4, "straight_through")
    np.testing.assert_array_equal(straight_through.project(X), X)


def test_TangentSGD_is_SGD_without_dynamic_layers():
    rng, networks = np.random.default_rng(0), []
    x, y = (rng.normal(size=(40, n)).astype("float32") for n in (5, 3))
    options = {"weight_decay": 0.1, "global_clipnorm": 1.0, "momentum": 0.9}
    for optimizer in (
        optimizers.TangentSGD(0.05, **options),
        keras.optimizers.SGD(0.05, nesterov=True, **options),
    ):
        keras.utils.set_random_seed(0)
        network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        network.compile(optimizer, "mse")
        network.fit(x, y, 10, 2, shuffle=False, verbose=0)
        networks.append(network.get_weights())
    for ours, theirs in zip(*networks, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_compiled_networks_load_and_train_on(tmp_path):
    keras.utils.set_random_seed(0)
    dense = keras.Sequential([keras.Input((9,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    network = compress.dynamic(dense, 3)
    x, y = (np.random.default_rng(0).normal(size=(40, n)).astype("float32") for n in (9, 2))
    network.compile(optimizers.TangentSGD(0.01, momentum=0.8), "mse")
    network.fit(x, y, 10, verbose=0)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert loaded.optimizer.momentum == 0.8
    for each in (network, loaded):
        each.fit(x, y, 10, verbose=0, shuffle=False)
    for ours, theirs in zip(network.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    cost.to_litert(network)
