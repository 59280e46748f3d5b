"""Every kind of layer: as a matrix, as two factors, left alone with a reason; nested models."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import compress, moments, svd
from helpers.lab import cost
from helpers.lab.backend import keras, tf
from helpers.networks import graph, kinds

L = keras.layers
ACTIVATIONS = st.sampled_from(["relu", "tanh", "linear", "gelu"])
FORMATS = st.sampled_from(["channels_last", "channels_first"])


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def ends(activation, use_bias):
    return {"activation": activation, "use_bias": use_bias, "bias_initializer": "normal"}


@st.composite
def conv1d(draw):
    strides, dilation = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2)]))
    layer = L.Conv1D(
        draw(st.integers(1, 7)),
        draw(st.integers(1, 3)),
        strides=strides,
        dilation_rate=dilation,
        padding=draw(st.sampled_from(["valid", "same", "causal"])),
        **ends(draw(ACTIVATIONS), draw(st.booleans())),
    )
    return layer, normal(4, 9, draw(st.integers(1, 4)))


@st.composite
def conv2d(draw):
    strides, dilation = draw(st.sampled_from([(1, 1), (2, 1), ((1, 2), 1), (1, 2), (1, (2, 1))]))
    data_format, channels = draw(FORMATS), draw(st.integers(1, 4))
    layer = L.Conv2D(
        draw(st.integers(1, 7)),
        draw(st.sampled_from([1, 2, 3, (3, 1), (2, 3)])),
        strides=strides,
        dilation_rate=dilation,
        padding=draw(st.sampled_from(["valid", "same"])),
        data_format=data_format,
        **ends(draw(ACTIVATIONS), draw(st.booleans())),
    )
    shape = (8, 7, channels) if data_format == "channels_last" else (channels, 8, 7)
    return layer, normal(3, *shape)


@st.composite
def dense(draw):
    layer = L.Dense(draw(st.integers(1, 9)), **ends(draw(ACTIVATIONS), draw(st.booleans())))
    return layer, normal(*draw(st.sampled_from([(6,), (4, 3), (3, 2, 2)])), draw(st.integers(1, 9)))


@st.composite
def embedding(draw):
    tokens, width = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    layer = L.Embedding(tokens, width, mask_zero=draw(st.booleans()))
    return layer, np.random.default_rng(0).integers(0, tokens, (5, 6))


EINSUMS = [  # equation, sizes of the outputs, axes of the bias, shape of an input
    ("ab,bc->ac", 5, "c", (6,)),
    ("ab,cb->ac", 5, "c", (6,)),
    ("abc,cd->abd", (None, 5), "d", (3, 4)),
    ("abc,cde->abde", (3, 2, 5), "de", (3, 4)),
    ("abc,ecd->abde", (None, 5, 2), None, (3, 4)),
    ("abcd,cde->abe", (None, 5), "e", (3, 2, 4)),
    ("abcd,dec->abe", (3, 5), "e", (3, 2, 4)),
    ("abc,bd->adc", (5, 4), None, (3, 4)),
    ("...x,xy->...y", 5, "y", (3, 2, 4)),
    ("...xw,wxy->...y", 5, "y", (3, 2, 4)),
    ("ab...,bc->ac...", 5, None, (3, 4)),
    ("...a,abc->...bc", (2, 3), "bc", (3, 4)),
]


@st.composite
def einsum(draw):
    equation, sizes, bias_axes, shape = draw(st.sampled_from(EINSUMS))
    layer = L.EinsumDense(
        equation,
        sizes,
        bias_axes=bias_axes,
        activation=draw(ACTIVATIONS),
        bias_initializer="normal",
    )
    return layer, normal(5, *shape)


EVERY = st.one_of(dense(), conv1d(), conv2d(), embedding(), einsum())


def alone(layer, x):
    """A model of one layer, to be compressed although it gives the outputs."""
    start = keras.Input(x.shape[1:], dtype=x.dtype)
    return keras.Model(start, layer(start))


def matches(ours, theirs, tolerance=1e-4):
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))


@settings(max_examples=100)
@given(EVERY)
def test_every_kind_is_a_product_of_rows_with_a_matrix(case):
    layer, x = case
    z = alone(layer, x)(x)
    kind = kinds.of(layer)
    assert kind.refusal == ""
    W, rows = kind.matrix(), kind.rows(tf.constant(x))
    assert W.shape == kind.shape
    b = np.reshape(kind.bias[0], -1) if kind.bias else 0
    activation = getattr(layer, "activation", None) or keras.activations.linear
    matches(activation(tf.constant(rows @ W + b)), kind.rows_out(z))
    np.testing.assert_array_equal(kind.fold(W), kind.kernel)


@settings(max_examples=60)
@given(EVERY, st.integers(1, 6), st.booleans())
def test_factors_give_what_the_truncated_layer_gives_and_full_rank_what_the_layer_gives(
    case, D, balanced
):
    layer, x = case
    model = alone(layer, x)
    path = layer.name
    full = compress.truncate(model, 99, [path])
    matches(full(x), model(x))
    truncated = compress.truncate(model, D, [path])
    small = compress.factorize(model, D, [path], balanced=balanced)
    matches(small(x), truncated(x))
    assert small.count_params() == compress.kept_parameters(model, {path: D})
    kind = kinds.of(layer)
    if D <= svd.break_even_rank(kind.shape):
        assert [inner.name for inner in small.layers[1:]] == [f"{path}_U", f"{path}_Vt"]
    # Beyond break-even the pair gives the layer's outputs, too.
    factors = kind.decompose()
    pair = kind.pair(*svd.factors(factors, 99), kind.bias)
    matches(graph.copy(model, {path: pair})(x), model(x))


@settings(max_examples=40)
@given(EVERY)
def test_moments_are_those_of_the_rows(case):
    layer, x = case
    kind, model = kinds.of(layer), alone(layer, x)
    rows = kind.rows(tf.constant(x)).astype(float)
    if isinstance(layer, L.Embedding) and layer.mask_zero:
        rows = rows[rows[:, 0] == 0]
    if len(rows) < min(moments.LEAST, kind.shape[0]):
        return
    C = moments.observe(model, [layer.name], x)[layer.name].C
    expected = rows.T @ rows / len(rows)
    np.testing.assert_allclose(np.diag(C) if C.ndim == 1 else C, expected, atol=1e-5)


def lenet(data_format="channels_last"):
    shape = (28, 28, 1) if data_format == "channels_last" else (1, 28, 28)
    options = {"activation": "relu", "data_format": data_format}
    return keras.Sequential(
        [
            keras.Input(shape),
            L.Conv2D(6, 5, name="conv_1", **options),
            L.MaxPooling2D(data_format=data_format),
            L.Conv2D(8, 5, name="conv_2", **options),
            L.MaxPooling2D(data_format=data_format),
            L.Flatten(),
            L.Dense(30, "relu", name="fc"),
            L.Dense(10, name="out"),
        ],
        name="lenet",
    )


def block(channels, width, name):
    """Two convolutions around which the input is led."""
    x = keras.Input((14, 14, channels))
    y = L.Conv2D(width, 3, padding="same", use_bias=False, name="conv_1")(x)
    y = L.ReLU()(L.BatchNormalization(name="norm")(y))
    y = L.Conv2D(width, 3, padding="same", name="conv_2")(y)
    around = L.Conv2D(width, 1, name="around")(x)
    return keras.Model(x, L.ReLU()(L.Add()([y, around])), name=name)


def resnet():
    """Blocks in a backbone in a model: two levels deep."""
    image = keras.Input((28, 28, 1), name="image")
    stem = L.Conv2D(6, 3, strides=2, padding="same", name="stem")(image)
    features = block(8, 8, "block_2")(block(6, 8, "block_1")(stem))
    backbone = keras.Model(image, L.GlobalAveragePooling2D()(features), name="backbone")
    head = [L.Dropout(0.1), L.Dense(20, "relu", name="fc"), L.Dense(10, name="out")]
    return keras.Sequential([keras.Input((28, 28, 1)), backbone, *head], name="resnet")


def text():
    tokens = keras.Input((12,), dtype="int32")
    x = L.Embedding(40, 10, mask_zero=True, name="words")(tokens)
    x = L.Conv1D(9, 3, padding="same", activation="relu", name="ngrams")(x)
    x = L.Dense(8, "relu", name="fc")(L.GlobalAveragePooling1D()(x))
    return keras.Model(tokens, L.Dense(10, name="out")(x), name="text")


def transformer():
    tokens = keras.Input((12,), dtype="int32")
    x = L.Embedding(40, 10, name="words")(tokens)
    y = L.MultiHeadAttention(2, 5, name="attention")(x, x)
    x = L.LayerNormalization(name="norm")(x + y)
    y = L.Dense(24, "gelu", name="wide")(x)
    y = L.EinsumDense("abc,cd->abd", (12, 10), bias_axes="d", name="narrow")(y)
    x = L.GlobalAveragePooling1D()(L.Add()([x, y]))
    return keras.Model(tokens, L.Dense(10, name="out")(x), name="transformer")


MODELS = {"lenet": lenet, "resnet": resnet, "text": text, "transformer": transformer}
BLOCK = ["conv_1", "around", "conv_2"]
NAMES = {
    "lenet": {"conv_1", "conv_2", "fc"},
    "resnet": {"backbone/stem", "fc"}
    | {f"backbone/block_{i}/{name}" for i in (1, 2) for name in BLOCK},
    "text": {"words", "ngrams", "fc"},
    "transformer": {"words", "wide", "narrow"},
}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def inputs(model, n=120):
    """Random images with structure, or tokens, of which few are common."""
    rng = np.random.default_rng(0)
    if model.inputs[0].dtype == "int32":
        return np.minimum(rng.geometric(0.1, (n, 12)), 39).astype("int32")
    shape = tuple(model.inputs[0].shape[1:])
    mixed = rng.normal(size=(n, 20)) @ rng.normal(size=(20, np.prod(shape)))
    return mixed.reshape(n, *shape).astype("float32")


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def test_layers_are_found_in_nested_models_and_outputs_left_alone(model):
    assert set(compress.hidden_layers(model)) == NAMES[model.name]
    assert "out" in graph.compressible(model)


@pytest.mark.parametrize("loss", [None, LOGITS := LOSS], ids=["whitened", "two-sided"])
def test_full_rank_is_the_model_and_factorized_is_truncated(model, loss):
    x = inputs(model)
    weighted = compress.decompose(model, inputs=x, loss=loss)
    for arguments in ({}, {"svds": weighted}, {"inputs": x, "loss": loss}):
        matches(compress.truncate(model, 999, **arguments)(x), model(x), 2e-3)
        truncated = compress.truncate(model, 2, **arguments)
        small = compress.factorize(model, 2, **arguments)
        matches(small(x), truncated(x), 1e-3)
        assert small.count_params() < model.count_params()
        assert small.count_params() == compress.kept_parameters(
            model, dict.fromkeys(NAMES[model.name], 2)
        )
        plain = {type(layer) for layer in graph.leaves(model).values()}
        made = {type(layer) for layer in graph.leaves(small).values()}
        assert made <= plain | {L.Dense}
        for path, layer in graph.leaves(truncated).items():
            if path in NAMES[model.name]:
                assert np.linalg.matrix_rank(kinds.of(layer).matrix(), tol=1e-4) <= 2


def test_copies_are_saved_loaded_cloned_trained_and_exported(model, tmp_path):
    x = inputs(model, 16)
    model.compile("adam", LOSS)
    small = compress.factorize(model, 2)
    small.save(tmp_path / "small.keras")
    matches(keras.saving.load_model(tmp_path / "small.keras")(x), small(x))
    clone = keras.models.clone_model(small)
    clone.set_weights(small.get_weights())
    matches(clone(x), small(x))
    run = cost.litert_function(cost.to_litert(small), len(x))
    matches(run(x), small(x))
    before = small.get_weights()
    small.fit(x, np.arange(16) % 10, verbose=0)
    changed = [np.any(a != b) for a, b in zip(before, small.get_weights(), strict=True)]
    assert sum(changed) >= len(small.trainable_weights) - 1  # of attention's, the keys' bias rests
    for old, new in zip(model.get_weights(), MODELS[model.name]().get_weights(), strict=True):
        assert old.shape == new.shape  # the model keeps its layers


def test_layer_after_layer_sees_into_nested_models_and_is_better():
    model = resnet()
    x = inputs(model, 400)
    names = [name for name in compress.hidden_layers(model) if "conv" in name]

    def error(cut):
        return float(np.mean((cut(x) - model(x)) ** 2))

    by_layer = compress.factorize(model, 4, names, inputs=x)
    assert error(by_layer) < error(compress.factorize(model, 4, names)) / 2
    assert error(by_layer) < error(
        compress.factorize(model, 4, svds=compress.decompose(model, names, inputs=x))
    )
