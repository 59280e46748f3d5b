import numpy as np
import pytest

from helpers import compress
from helpers.lab import controls, shown


def test_a_network_starts_anew_in_its_shape(small):
    factorized = compress.factorize(small, 20)
    fresh = controls.anew(factorized, seed=1)
    again = controls.anew(factorized, seed=1)
    for layer in fresh.layers:
        old, twin = (net.get_layer(layer.name).get_weights() for net in (factorized, again))
        kernel, *bias = layer.get_weights()
        assert kernel.shape == old[0].shape
        np.testing.assert_array_equal(kernel, twin[0])
        assert not np.any(bias)
        gain = 1 if layer.name.endswith("_U") else 2
        assert np.var(kernel) * len(kernel) == pytest.approx(gain, rel=0.2)


def test_biases_and_the_output_layer_learn_alone(small, few):
    tuned, history = controls.biases_and_output(compress.factorize(small, 20), few, 2, seed=0)
    before = compress.factorize(small, 20)
    for layer in before.layers:
        for old, new in zip(layer.weights, tuned.get_layer(layer.name).weights, strict=True):
            learns = old.name == "bias" or layer.name == "out"
            assert np.array_equal(old, new) != learns
    assert history["loss"][1] < history["loss"][0]


def test_a_body_is_a_source_without_its_docstring():
    said = shown.body(controls.anew)
    assert "from random weights" not in said
    assert said.startswith("def anew(network, seed):\n    network, rng = ")
    assert said.rstrip().endswith("return network")
