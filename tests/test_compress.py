import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import compress, svd
from helpers.backend import keras

Dense = keras.layers.Dense


def two_branches():
    """A functional model of other widths and activations, with two outputs."""
    image = keras.Input((6, 5))
    x = keras.layers.Flatten()(image)
    left = Dense(17, activation="tanh", name="left")(x)
    right = Dense(9, use_bias=False, name="right")(x)
    joined = Dense(12, activation="gelu", name="joined")(keras.layers.Concatenate()([left, right]))
    logits = Dense(4, name="logits")(joined)
    outputs = [keras.layers.Softmax()(logits), Dense(2, name="second")(joined)]
    return keras.Model(image, outputs)


def sequential(widths=(8, 11, 5), use_bias=True):
    layers = [Dense(n, activation="relu", use_bias=use_bias, name=f"d{n}") for n in widths]
    return keras.Sequential([keras.Input((7,)), *layers, Dense(3, name="out")])


class Subclassed(keras.Model):
    """A model whose layers no graph connects."""

    def __init__(self):
        super().__init__()
        self.dense = Dense(3)
        self(np.zeros((1, 7), "float32"))

    def call(self, x):
        return self.dense(x)


def kernel(model, name):
    return model.get_layer(name).get_weights()[0]


def test_the_outputs_are_left_alone_by_default():
    assert compress.hidden_layers(two_branches()) == ["left", "right", "joined"]
    assert compress.hidden_layers(sequential()) == ["d8", "d11", "d5"]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_kernels_become_the_rank_D_truncation(D, use_bias, seed):
    keras.utils.set_random_seed(seed)
    model = sequential(use_bias=use_bias)
    before = [w.copy() for w in model.get_weights()]
    small = compress.truncate(model, D)
    for name in ("d8", "d11", "d5"):
        U, s, Vt = np.linalg.svd(kernel(model, name), full_matrices=False)
        expected = U[:, :D] @ np.diag(s[:D]) @ Vt[:D]
        np.testing.assert_allclose(kernel(small, name), expected, atol=1e-5)
    np.testing.assert_array_equal(kernel(small, "out"), kernel(model, "out"))
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


@pytest.mark.parametrize("make", [two_branches, sequential])
@pytest.mark.parametrize("whitened", [False, True])
def test_full_rank_equals_the_model(make, whitened):
    model = make()
    x = np.random.default_rng(0).normal(size=(50, *model.input_shape[1:])).astype("float32")
    svds = compress.decompose(model, inputs=x if whitened else None)
    small = compress.truncate(model, 10_000, svds=svds)
    for ours, theirs in zip(
        keras.tree.flatten(small(x)), keras.tree.flatten(model(x)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_ranks_and_layers_can_be_chosen():
    model = two_branches()
    small = compress.truncate(model, [2, 3], layers=["joined", "logits"])
    assert np.linalg.matrix_rank(kernel(small, "joined"), tol=1e-4) == 2
    assert np.linalg.matrix_rank(kernel(small, "logits"), tol=1e-4) == 3
    np.testing.assert_array_equal(kernel(small, "left"), kernel(model, "left"))
    none = compress.truncate(model, 2, layers=[])
    np.testing.assert_array_equal(kernel(none, "left"), kernel(model, "left"))


def test_whitening_sees_what_each_layer_sees():
    model = sequential()
    x = np.random.default_rng(0).normal(size=(6000, 7)).astype("float32")  # more than one batch
    hidden = keras.Model(model.inputs[0], model.get_layer("d11").input)(x).numpy().astype(float)
    W = kernel(model, "d11")
    expected = svd.decompose_whitened(W, hidden.T @ hidden / len(hidden))
    ours = compress.decompose(model, inputs=x)["d11"]
    np.testing.assert_allclose(ours.s, expected.s, rtol=1e-4, atol=1e-5)


def test_wrong_requests_are_clear_errors():
    model = sequential()
    with pytest.raises(ValueError, match="not Dense layers of the model; these are"):
        compress.truncate(model, 2, layers=["d9"])
    with pytest.raises(ValueError, match="2 ranks for 3 layers"):
        compress.truncate(model, [1, 2])
    with pytest.raises(ValueError, match="D must be a whole number"):
        compress.truncate(model, 0)
    with pytest.raises(ValueError, match="D must be a whole number"):
        compress.truncate(model, "abc")
    with pytest.raises(ValueError, match="svds lack"):
        compress.truncate(model, 2, layers=["d5"], svds=compress.decompose(model, ["d8"]))
    with pytest.raises(ValueError, match="nested"):
        compress.truncate(keras.Sequential([keras.Input((7,)), model, Dense(2)]), 2)
    for alien in (Subclassed(), Dense(3), "model.keras"):
        with pytest.raises(ValueError, match="built Keras model"):
            compress.truncate(alien, 2)
    with pytest.raises(ValueError, match="built"):
        compress.truncate(keras.Sequential([Dense(3), Dense(2)]), 2)
