import time

import numpy as np
import pytest

from helpers import compress, data, model, svd
from helpers.lab import cost
from helpers.lab.backend import keras


def test_counts_of_the_baseline_are_those_by_hand():
    network = model.build(seed=0)
    names = compress.hidden_layers(network)
    assert network.count_params() == 5_012_490
    assert compress.kept_parameters(network, dict.fromkeys(names, 20)) == 215_370
    assert compress.kept_parameters(network, dict.fromkeys(names, 1024)) == 5_012_490


@pytest.mark.parametrize("shape", [(784, 1024), (1024, 1024), (7, 5), (3, 1000)])
def test_break_even_is_the_last_rank_that_saves(shape):
    D, dense = svd.break_even_rank(shape), shape[0] * shape[1]
    assert svd.factorized_parameters(shape, D) < dense
    assert svd.factorized_parameters(shape, D + 1) >= dense
    assert svd.svd_parameters(shape, D) == svd.factorized_parameters(shape, D) + D


def test_multiply_adds_are_those_by_hand():
    network = model.build(seed=0)
    assert cost.multiply_adds(network) == 784 * 1024 + 4 * 1024**2 + 10_240
    assert cost.multiply_adds(compress.factorize(network, 20)) == 200_000 + 10_240


@pytest.fixture(scope="module")
def networks():
    """Small networks whose biases differ, as LiteRT stores equal arrays once."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(256, "relu", bias_initializer="normal") for _ in range(2)]
    dense = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
    return {"dense": dense, "factorized": compress.factorize(dense, 20)}


@pytest.fixture(scope="module")
def exported(networks):
    """{(name, int8): content of the LiteRT file}."""
    return {(n, q): cost.to_litert(net, q) for n, net in networks.items() for q in (False, True)}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_litert_agrees_with_keras_on_digits(networks, exported, batch_size):
    x = data.load("subset").x_test[:batch_size]
    for (name, int8), content in exported.items():
        expected, tolerance = networks[name](x), 0.05 if int8 else 1e-5
        run = cost.litert_function(content, batch_size)
        np.testing.assert_allclose(run(x), expected, atol=tolerance * np.abs(expected).max())


def test_files_hold_the_weights_and_little_else(networks, exported):
    for (name, int8), content in exported.items():
        size, slack = networks[name].count_params() * (1 if int8 else 4), 12000 if int8 else 8000
        assert 0 <= len(content) - size < slack


def test_a_training_step_trains(networks):
    network = keras.models.clone_model(networks["dense"])
    digits = data.load("subset")
    x, y = digits.x_train[:64], keras.ops.one_hot(digits.y_train[:64], 10)
    step = cost.training_step(network, x, y)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    before = loss(y, network(x))
    for _ in range(20):
        step()
    assert loss(y, network(x)) < before / 2


def test_seconds_are_those_of_a_call():
    times = cost.seconds({"slow": lambda: time.sleep(0.002), "fast": int}, rounds=5, calls=3)
    assert times["slow"].shape == (5,)
    assert 0.002 <= np.median(times["slow"]) < 0.1
    assert np.median(times["fast"]) < 0.001
