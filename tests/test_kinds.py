"""Every kind of layer: as a matrix, as two factors, left alone with a reason; nested models."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers import compress, svd
from helpers.backend import keras, tf
from helpers.compress import graph, kinds, moments, watch
from helpers.lab import cost

from .zoo import LOSS, MODELS, NAMES, inputs, matches, sixteen_bits, text

L = keras.layers
ACTIVATIONS = st.sampled_from(["relu", "tanh", "linear", "gelu"])
FORMATS = st.sampled_from(["channels_last", "channels_first"])


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def ends(draw):
    """How a layer may end."""
    activation, use_bias = draw(ACTIVATIONS), draw(st.booleans())
    return {"activation": activation, "use_bias": use_bias, "bias_initializer": "normal"}


def sizes(draw):
    """What a window does at the border, and where it stands."""
    padding = draw(st.sampled_from(["valid", "same"]))
    return {"padding": padding, "strides": draw(st.integers(1, 2))}


def convolution(draw, kind, windows, moves, paddings, places):
    """Of either data format, and (strides, dilation) from `moves`."""
    strides, dilation = draw(st.sampled_from(moves))
    options = ends(draw) | {"strides": strides, "dilation_rate": dilation}
    options["padding"], options["data_format"] = draw(st.sampled_from(paddings)), draw(FORMATS)
    make = partial(kind, draw(st.integers(1, 7)), draw(st.sampled_from(windows)), **options)
    channels, last = (draw(st.integers(1, 4)),), options["data_format"] == "channels_last"
    return make, normal(3, *(places + channels if last else channels + places))


@st.composite
def conv1d(draw):
    moves = [(1, 1), (2, 1), (3, 1), (1, 2)]
    return convolution(draw, L.Conv1D, [1, 2, 3], moves, ["valid", "same", "causal"], (9,))


@st.composite
def conv2d(draw):
    windows = [1, 2, 3, (3, 1), (2, 3)]
    moves = [(1, 1), (2, 1), ((1, 2), 1), (1, 2), (1, (2, 1))]
    return convolution(draw, L.Conv2D, windows, moves, ["valid", "same"], (8, 7))


@st.composite
def dense(draw):
    make = partial(L.Dense, draw(st.integers(1, 9)), **ends(draw))
    return make, normal(*draw(st.sampled_from([(6,), (4, 3), (3, 2, 2)])), draw(st.integers(1, 9)))


@st.composite
def embedding(draw):
    tokens, width = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    make = partial(L.Embedding, tokens, width, mask_zero=draw(st.booleans()))
    return make, np.random.default_rng(0).integers(0, tokens, (5, 6))


@st.composite
def conv3d(draw):
    options, window = sizes(draw) | ends(draw), draw(st.sampled_from([2, (1, 2, 3)]))
    make = partial(L.Conv3D, draw(st.integers(1, 5)), window, **options)
    return make, normal(3, 4, 5, 6, draw(st.integers(1, 3)))


@st.composite
def transposed(draw):
    n, options = draw(st.integers(1, 2)), sizes(draw) | ends(draw)
    kind = (L.Conv1DTranspose, L.Conv2DTranspose)[n - 1]
    make = partial(kind, draw(st.integers(1, 5)), draw(st.integers(1, 3)), **options)
    return make, normal(3, *(5, 4)[:n], draw(st.integers(1, 6)))


@st.composite
def recurrent(draw):
    options = {"use_bias": draw(st.booleans()), "bias_initializer": "normal"}
    options["return_sequences"] = draw(st.booleans())
    cell = partial(draw(st.sampled_from([L.LSTM, L.GRU])), draw(st.integers(1, 5)), **options)
    make = draw(st.sampled_from([cell, lambda: L.Bidirectional(cell())]))
    return make, normal(3, 6, draw(st.integers(1, 9)))


EVERY = st.one_of(dense(), conv1d(), conv2d(), conv3d(), embedding())
OTHERS = st.one_of(transposed(), recurrent())


def of_columns(layer, u, width):
    """z of a Conv2D from u (n, rows, columns, its columns · filters), summed column by column."""
    kernel, step, apart = (
        size[1] for size in (layer.kernel_size, layer.strides, layer.dilation_rate)
    )
    u = u.reshape(*u.shape[:3], kernel, layer.filters)
    reach = (kernel - 1) * apart
    out = -(-width // step) if layer.padding == "same" else (width - reach - 1) // step + 1
    left = max((out - 1) * step + reach + 1 - width, 0) // 2 if layer.padding == "same" else 0
    z = np.zeros((*u.shape[:2], out, layer.filters))
    for q in range(out):
        for j in range(kernel):
            column = q * step + j * apart - left
            if 0 <= column < width:
                z[:, :, q] += u[:, :, column, j]
    return z


def alone(layer, x):
    """A model of one layer, to be compressed although it gives the outputs."""
    start = keras.Input(x.shape[1:], dtype=x.dtype)
    return keras.Model(start, layer(start))


@given(EVERY)
def test_every_kind_is_a_product_of_rows_with_a_matrix(case):
    layer, x = case[0](), case[1]
    z = alone(layer, x)(x)
    kind = kinds.of(layer)
    assume(not isinstance(kind, kinds.Crossed))
    # Keras 3.15 on TensorFlow adds such a bias along the width, where that is as long.
    first = getattr(layer, "data_format", None) == "channels_first"
    assume(not (first and z.shape[1] == z.shape[-1]))
    assert kind.refusal == ""
    W, rows = kind.matrix(), kind.rows(tf.constant(x))
    assert W.shape == kind.shape
    b = np.reshape(kind.bias[0], -1) if kind.bias else 0
    activation = getattr(layer, "activation", None) or keras.activations.linear
    matches(activation(tf.constant(rows @ W + b)), kind.rows_out(z))
    np.testing.assert_array_equal(kind.fold(W), kind.kernel)


@given(conv2d())
def test_a_convolution_is_a_product_of_vertical_patches(case):
    layer, x = case[0](), case[1]
    z = np.array(alone(layer, x)(x))
    kind = kinds.of(layer)
    assume(isinstance(kind, kinds.Crossed))
    first = layer.data_format == "channels_first"
    assume(not (first and z.shape[1] == z.shape[-1]))  # as above
    z, width = (np.moveaxis(z, 1, -1), x.shape[3]) if first else (z, x.shape[2])
    W, rows = kind.matrix(), kind.rows(tf.constant(x))
    assert W.shape == kind.shape == (rows.shape[1], layer.kernel_size[1] * layer.filters)
    summed = of_columns(layer, (rows @ W).reshape(len(x), -1, width, W.shape[1]), width)
    b = np.array(kind.bias[0]) if kind.bias else 0
    matches(np.array(layer.activation(tf.constant(summed + b))), z)
    np.testing.assert_array_equal(kind.fold(W), kind.kernel)
    (lost,) = kind.moved_bias(np.arange(W.shape[1])) or [None]
    assert lost is None or np.allclose(lost - b, np.arange(W.shape[1]).reshape(-1, len(b)).sum(0))


@given(st.one_of(EVERY, conv2d(), OTHERS), st.integers(1, 6))
def test_factors_give_the_truncated_layer(case, D):
    """At full rank the layer itself, also beyond break-even."""
    layer, x = case[0](), case[1]
    model, path = alone(layer, x), layer.name
    matches(compress.truncate(model, {path: 99})(x), model(x))
    small = compress.factorize(model, {path: D})
    matches(small(x), compress.truncate(model, {path: D})(x))
    assert small.count_params() == compress.kept_parameters(model, {path: D})
    kind = kinds.of(layer)
    if D <= svd.break_even_rank(kind.shape):
        assert [inner.name for inner in small.layers[1:]] == [f"{path}_U", f"{path}_Vt"]
        each = np.dot(watch.multiply_adds(model)[path][1:], kind.shape)
        assert cost.multiply_adds(small) == D * each
    pair = kind.pair(*svd.factors(kind.decompose(), 99), kind.bias)
    two = graph.copy(model, {path: pair})
    matches(two(x), model(x))
    one = compress.merge(two)
    matches(one(x), model(x))
    assert [inner.name for inner in one.layers[1:]] == [path]
    assert one.count_params() == model.count_params()


@settings(max_examples=8)
@given(st.one_of(OTHERS, conv3d()))
def test_a_layer_fitted_to_what_it_gets_already_is_what_it_was(case):
    layer, x = case[0](), np.tile(case[1], (9, *[1] * (case[1].ndim - 1)))
    model, path = alone(layer, x), layer.name
    seen = compress.observe(model, x, "mse", layers=[path])
    matches(seen.layer_by_layer(99)(x), model(x), 1e-3)


@settings(max_examples=20)
@given(EVERY)
def test_moments_are_those_of_the_rows(case):
    layer, x = case[0](), case[1]
    model, kind = alone(layer, x), kinds.of(layer)
    rows = kind.rows(tf.constant(x)).astype(float)
    if isinstance(layer, L.Embedding) and layer.mask_zero:
        rows = rows[rows[:, 0] == 0]
    if len(rows) < min(moments.LEAST, kind.shape[0]):
        return
    C = moments.measure(model, [layer.name], x)[layer.name].C
    expected = rows.T @ rows / len(rows)
    np.testing.assert_allclose(np.diag(C) if C.ndim == 1 else C, expected, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_factorized_as_it_is_truncated(name):
    model = MODELS[name]()
    assert set(compress.hidden_layers(model)) == NAMES[name]
    x = inputs(model)
    seen = compress.observe(model, x, LOSS)
    truncated, small = (cut(model, 2, seen.svds) for cut in (compress.truncate, compress.factorize))
    matches(small(x), truncated(x), 1e-3)
    ranks = dict.fromkeys(NAMES[name], 2)
    assert small.count_params() == compress.kept_parameters(model, ranks) < model.count_params()
    plain = {type(layer) for layer in graph.leaves(model).values()}
    assert {type(layer) for layer in graph.leaves(small).values()} <= plain | {L.Dense}
    for path in ranks:
        W = kinds.of(graph.leaves(truncated)[path]).matrix()
        assert np.linalg.matrix_rank(W, tol=1e-4) <= 2
    matches(seen.layer_by_layer(999)(x), model(x), 2e-3)


def test_copies_are_saved_loaded_and_trained(tmp_path):
    model = MODELS["transformer"]()
    x = inputs(model, 16)
    model.compile("adam", LOSS)
    small = compress.factorize(model, 2)
    small.save(tmp_path / "small.keras")
    matches(keras.saving.load_model(tmp_path / "small.keras")(x), small(x))
    before, whole = small.get_weights(), model.get_weights()
    small.fit(x, np.arange(16) % 10, verbose=0)
    changed = [np.any(a != b) for a, b in zip(before, small.get_weights(), strict=True)]
    assert sum(changed) >= len(small.trainable_weights) - 1  # the bias of attention's keys rests
    assert all(map(np.array_equal, model.get_weights(), whole))


def test_padding_that_is_masked_stays_so():
    model = text()
    x = inputs(model)
    x[:, 6:] = 0
    assert not np.allclose(model(x), model(np.where(x == 0, 1, x)))
    C = moments.measure(model, ["words"], x)["words"].C
    counts = np.bincount(x[x > 0], minlength=40)
    np.testing.assert_allclose(C, counts / counts.sum())
    seen = compress.observe(model, x, LOSS)
    words = seen.layer_by_layer({"words": 3}), compress.factorize(model, {"words": 3}, seen.svds)
    matches(*(network(x) for network in words))
    small = seen.layer_by_layer({"tagged": 3, "fc": 3})
    ends = (model, "fc"), (small, "fc_U")
    before, after = (keras.Model(m.input, m.get_layer(name).input)(x) for m, name in ends)
    W, b = model.get_layer("fc").get_weights()
    U, (Vt, c) = small.get_layer("fc_U").kernel, small.get_layer("fc_Vt").get_weights()
    means = np.mean(before @ W + b, axis=0), np.mean(after @ U @ Vt + c, axis=0)
    np.testing.assert_allclose(*means, atol=1e-4)


def test_a_layer_in_several_places_is_one_in_the_copy():
    """A layer used by two models, and a model used twice."""
    shared, start = L.Dense(8, "tanh", name="shared"), keras.Input((8,))
    twice = keras.Model(start, shared(L.Dense(8, name="own")(start)), name="twice")
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    joined = L.Concatenate()([twice(a), twice(b), shared(a)])
    model = keras.Model({"a": a, "b": b}, {"y": L.Dense(3, name="out")(joined)})
    assert compress.hidden_layers(model) in (["twice/own", "twice/shared"], ["twice/own", "shared"])
    x = {"a": normal(50, 8), "b": normal(50, 8) + 1}
    seen, small = compress.observe(model, x), compress.factorize(model, 2)
    matches(small(x), compress.truncate(model, 2)(x))
    for network in (small, seen.layer_by_layer(2)):
        assert network.count_params() == model.count_params() - 2 * (64 - 2 * 16)
    matches(seen.layer_by_layer(8)(x), model(x), 1e-3)
    rows = np.concatenate([x["a"], x["b"]])
    C = moments.measure(model, ["twice/own"], x)["twice/own"].C
    np.testing.assert_allclose(C, rows.T @ rows / 100, atol=1e-5)
    adds = watch.multiply_adds(model)
    assert sorted(count.whole for count in adds.values()) == sorted([2 * 64, 3 * 64, 24 * 3])


def test_errors_of_columns_are_felt_alike_and_apart():
    layer = L.Conv2D(2, (3, 2))
    layer.build((None, 5, 4, 2))
    felt = kinds.of(layer).spread(np.array([[1, 2], [3, 4]]))
    np.testing.assert_array_equal(felt, np.kron(np.eye(2), [[1, 2], [3, 4]]))


SUMMED = {  # positions, outputs of a position, numbers in all
    "square": (lambda: L.Conv2D(3, (2, 2)), (5, 4, 2), 12, 2 * 3, 12 * 3),
    # Of 8 · 8 outputs, at strides of 2, a place of a window of 2 · 2 reaches 16.
    "transposed": (lambda: L.Conv2DTranspose(3, 2, strides=2), (4, 4, 6), 16, 12, 8 * 8 * 3),
}


@pytest.mark.parametrize("name", SUMMED)
def test_the_loss_feels_the_sum_over_all_positions(name):
    """A mean of squares over all outputs has the curvature 2 / their number at each."""
    make, shape, positions, outputs, numbers = SUMMED[name]
    layer, x = make(), normal(4000, *shape)
    model = alone(layer, x)
    model.trainable = False  # the loss feels what is frozen, too
    Gamma = moments.measure(model, [layer.name], x, "mse")[layer.name].Gamma
    np.testing.assert_allclose(Gamma, positions * 2 / numbers * np.eye(outputs), atol=0.03)


@pytest.mark.parametrize(
    ("filters", "sizes"), [(20, [(3, 1), (1, 3)]), (24, [(3, 3), (1, 1)]), (30, [(3, 3), (1, 1)])]
)
def test_a_convolution_takes_the_cheaper_form(filters, sizes):
    layer = L.Conv2D(filters, 3, name="conv")
    small = compress.factorize(alone(layer, normal(1, 5, 5, 8)), {"conv": 2})
    assert [part.kernel_size for part in small.layers[1:]] == sizes
    whole, crossed = 2 * (72 + filters), 2 * (24 + 3 * filters)
    assert small.count_params() == filters + min(whole, crossed)


class Doubled(L.Dense):
    def call(self, x):
        return 2 * super().call(x)


class Net(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = L.Dense(4)

    def call(self, x):
        return self.dense(x)


class Odd(keras.Model):
    """Made as a functional model is, it computes something else."""

    def call(self, x):
        return 2 * super().call(x)


def changed(change, *arguments):
    """A Dense layer after one of its own methods."""
    layer = L.Dense(4)
    layer.build((None, 4))
    getattr(layer, change)(*arguments)
    return layer


PIXELS, VECTORS = (6, 6, 4), (5, 4)
ALONE = {
    "grouped": (lambda: L.Conv2D(4, 3, groups=2), PIXELS),
    "depthwise": (lambda: L.DepthwiseConv2D(3), PIXELS),
    "separable": (lambda: L.SeparableConv2D(4, 3), PIXELS),
    "unknown layer type EinsumDense": (lambda: L.EinsumDense("abc,cd->abd", (5, 6)), VECTORS),
    "recurrent, but neither": (lambda: L.SimpleRNN(3), VECTORS),
    "a wrapper": (lambda: L.TimeDistributed(L.Dense(3)), VECTORS),
    "a subclass, with a call": (lambda: Doubled(4), (4,)),
    "subclassed model": (Net, (4,)),
    "quantized": (partial(changed, "quantize", "int8"), (4,)),
    "LoRA": (partial(changed, "enable_lora", 2), (4,)),
    "no matrix": (L.LayerNormalization, (4,)),
}


@pytest.mark.parametrize("reason", ALONE)
def test_a_layer_left_alone_says_why(reason):
    make, shape = ALONE[reason]
    layer, start = make(), keras.Input(shape)
    hidden = L.Flatten()(layer(start))
    model = keras.Model(start, L.Dense(2, name="out")(L.Dense(9, name="fc")(hidden)))
    x = normal(20, *shape)
    assert compress.hidden_layers(model) == ["fc"]
    assert reason in graph.why_not(model, layer.name)
    with pytest.raises(ValueError, match=f"cannot be compressed .{layer.name}: .*{reason}"):
        compress.factorize(model, {layer.name: 1})
    matches(compress.truncate(model, 99)(x), model(x))


def test_what_computes_something_of_its_own_is_refused():
    start = keras.Input((4,))
    odd = Odd(start, L.Dense(3)(start))
    with pytest.raises(ValueError, match="Sequential or functional"):
        compress.factorize(odd, 1)
    assert "subclassed" in graph.why_not(keras.Sequential([start, odd]), odd.name)
    assert "attention" in graph.why_not(MODELS["transformer"](), "attention")


@pytest.mark.parametrize("dtype", ["float64", pytest.param("mixed_bfloat16", marks=sixteen_bits)])
def test_other_precisions(dtype):
    start = keras.Input((6, 6, 2), dtype="float32")
    x = L.Conv2D(5, 3, dtype=dtype, name="conv")(start)
    model = keras.Model(start, L.Dense(2, dtype=dtype)(L.Flatten()(x)))
    images = normal(80, 6, 6, 2)
    seen = compress.observe(model, images)
    small = compress.factorize(model, 2, seen.svds)
    assert small.get_layer("conv_U").dtype_policy.name == dtype
    tolerance = 1e-5 if dtype == "float64" else 0.1
    truncated = compress.truncate(model, 2, seen.svds)
    matches(np.array(small(images), float), np.array(truncated(images), float), tolerance)
    by_layer = np.array(seen.layer_by_layer(99)(images), float)
    matches(by_layer, np.array(model(images), float), max(tolerance, 1e-3))


def test_a_transposed_convolution_keeps_its_means_at_every_place():
    start = keras.Input((4, 4, 16))
    layer = L.Conv2DTranspose(8, 2, strides=2, name="up")
    model, x = keras.Model(start, layer(start)), 5 + 0.1 * normal(300, 4, 4, 16)
    small = compress.observe(model, x, "mse", layers=["up"]).layer_by_layer(2)
    off = np.mean(small(x) - model(x), axis=0)
    assert np.abs(off).max() < 0.02 * np.abs(model(x)).max()
