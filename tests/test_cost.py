from types import SimpleNamespace

import numpy as np
import pytest

from helpers import compress, model
from helpers.backend import keras, tf
from helpers.lab import cost


def test_the_baseline_costs_what_is_counted_by_hand():
    network = model.build(seed=0)
    names = compress.hidden_layers(network)
    assert network.count_params() == 5_012_490
    assert compress.kept_parameters(network, dict.fromkeys(names, 20)) == 215_370
    assert compress.kept_parameters(network, dict.fromkeys(names, 1024)) == 5_012_490
    assert cost.multiply_adds(network) == 784 * 1024 + 4 * 1024**2 + 10_240


@pytest.fixture(scope="module")
def networks():
    """Small networks whose biases differ, as LiteRT stores equal arrays once."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(256, "relu", bias_initializer="normal") for _ in range(2)]
    dense = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
    return {"dense": dense, "factorized": compress.factorize(dense, 20)}


@pytest.fixture(scope="module")
def exported(networks, digits):
    """{(name, int8): content of the LiteRT file}."""
    inputs = {False: None, True: digits.x_train[:100]}
    return {
        (n, q): cost.to_litert(net, x) for n, net in networks.items() for q, x in inputs.items()
    }


def test_files_hold_the_weights_alone_and_agree_with_keras(networks, exported, digits):
    for (name, int8), content in exported.items():
        n, tolerance, each, slack = (7, 0.05, 1, 12000) if int8 else (1, 1e-5, 4, 8000)
        x = digits.x_test[:n]
        expected, run = networks[name](x), cost.litert_function(content, n)
        np.testing.assert_allclose(run(x), expected, atol=tolerance * np.abs(expected).max())
        assert 0 <= len(content) - each * networks[name].count_params() < slack


def test_small_matrices_are_integers_too(digits):
    """LiteRT leaves those of less than 1024 numbers in float32 if it does not know the inputs."""
    chain = [keras.layers.Dense(30, "relu", bias_initializer="normal") for _ in range(4)]
    network = keras.Sequential([keras.Input((784,)), *chain])
    saved = len(cost.to_litert(network)) - len(cost.to_litert(network, digits.x_train[:50]))
    assert saved > 3 * 784 * 30 + 2 * 3 * 30 * 30


def test_models_of_one_input_and_output_are_timed(monkeypatch, capfd):
    rounds = []

    def seconds(functions, n):
        rounds.append(n)
        functions[""]()
        return {"": np.array([0.001, 0.009, 0.002])}

    monkeypatch.setattr(cost, "seconds", seconds)
    x, sequence = keras.Input((3,)), keras.Input((10, 4))
    y = keras.layers.Dense(2)(x)
    found = cost.deployed(keras.Model(x, y))
    assert (found["latency, ms"], rounds) == (pytest.approx(2), [50])
    assert found["LiteRT bytes"] > 4 * (3 * 2 + 2)
    recurrent = keras.layers.GRU(3)(sequence)  # LiteRT has no operation for it
    for other in (keras.Model(x, [y, keras.layers.Dense(3)(x)]), keras.Model(sequence, recurrent)):
        assert list(cost.deployed(other)) == ["LiteRT bytes"]
    assert "".join(capfd.readouterr()) == ""  # the export is silent


@pytest.mark.parametrize("optimizer", [None, keras.optimizers.SGD(0.1)])
def test_a_training_step_trains(networks, digits, optimizer):
    network = keras.models.clone_model(networks["dense"])
    x, y = digits.x_train[:64], keras.ops.one_hot(digits.y_train[:64], 10)
    step = cost.training_step(network, x, y, optimizer)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    before = loss(y, network(x))
    for _ in range(20):
        step()
    assert loss(y, network(x)) < before / 2


N, WIDTHS = 16, ((7, 9), (9, 8))


def step_adds(make=lambda network: network, rank=None):
    """The multiply-adds of a training step of 7-9-8-10, or what is made of it, at batch size N."""
    hidden = [keras.layers.Dense(n_out, "relu", name=f"d{n_out}") for _, n_out in WIDTHS]
    dense = keras.Sequential([keras.Input((7,)), *hidden, keras.layers.Dense(10, name="out")])
    x, y = np.zeros((N, 7), "float32"), np.eye(N, 10, dtype="float32")
    return cost.traced_multiply_adds(cost.training_step(make(dense), x, y), rank)


OUTPUT = 3 * N * 8 * 10


def test_a_dense_step_has_three_products_a_factorized_six():
    assert step_adds() == sum(3 * N * a * b for a, b in WIDTHS) - N * 7 * 9 + OUTPUT
    D = 2
    thin = sum(3 * N * D * (a + b) for a, b in WIDTHS) - N * 7 * D
    assert step_adds(lambda network: compress.factorize(network, D)) == thin + OUTPUT


def test_a_dynamic_step_has_the_products_of_its_formula():
    D = 5
    by_hand = sum(3 * N * D * (a + b) + 4 * D * a * b + D**2 * (3 * a + 2 * b) for a, b in WIDTHS)
    assert step_adds(lambda network: compress.dynamic(network, D), D) == by_hand + OUTPUT


def test_a_straight_through_step_forms_the_whole_gradient():
    D, option = 3, {"derivative": "straight_through"}
    tracking = sum(2 * D * a * b + D**2 * (2 * a + b) for a, b in WIDTHS)
    products = sum(2 * N * D * (a + b) + N * a * b for a, b in WIDTHS)
    by_hand = tracking + products + OUTPUT
    assert step_adds(lambda network: compress.dynamic(network, D, **option), D) == by_hand


def adds(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return cost.traced_multiply_adds(tf.function(function).get_concrete_function(*specs))


def test_each_product_counts_once():
    assert adds(lambda A, B: A @ B, (7, 2, 3), (7, 3, 5)) == 7 * 30
    assert adds(lambda A, B: tf.matmul(A, B, transpose_a=True), (3, 2), (3, 5)) == 30
    assert adds(lambda A, B: A @ B + A @ B, (2, 3), (3, 5)) == 30
    assert adds(lambda A, B: A @ B + A @ (2 * B), (2, 3), (3, 5)) == 60


@pytest.mark.parametrize(("calls", "given"), [(1, []), (4, [4])])
def test_each_round_times_every_function_in_turn(calls, given, monkeypatch):
    """After a call that is not timed, which takes 100 seconds after another function."""
    now, called = [0.0], []
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def function(name, seconds):
        def run():
            now[0] += seconds if called[-1:] == [name] else 100
            called.append(name)

        return run

    times = cost.seconds({"a": function("a", 1), "b": function("b", 3)}, 3, *given)
    assert [*times["a"], *times["b"]] == [1, 1, 1, 3, 3, 3]
    assert called == (["a"] * (calls + 1) + ["b"] * (calls + 1)) * 3


def test_the_converter_has_the_private_option_that_cost_sets():
    name = "_experimental_disable_per_channel_quantization_for_dense_layers"
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    assert hasattr(converter, name), "without it int8 files of thin factors grow by half"
