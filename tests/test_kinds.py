"""Every kind of layer: as a matrix, as two factors, left alone with a reason; nested models."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers import compress, moments, svd
from helpers.backend import keras, tf
from helpers.compress import graph, kinds, watch
from helpers.lab import cost

from .zoo import LOSS, MODELS, NAMES, inputs, matches, resnet, text

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
    make = partial(
        L.Conv1D,
        draw(st.integers(1, 7)),
        draw(st.integers(1, 3)),
        strides=strides,
        dilation_rate=dilation,
        padding=draw(st.sampled_from(["valid", "same", "causal"])),
        data_format=(data_format := draw(FORMATS)),
        **ends(draw(ACTIVATIONS), draw(st.booleans())),
    )
    channels = draw(st.integers(1, 4))
    return make, normal(4, *((9, channels) if data_format == "channels_last" else (channels, 9)))


@st.composite
def conv2d(draw):
    strides, dilation = draw(st.sampled_from([(1, 1), (2, 1), ((1, 2), 1), (1, 2), (1, (2, 1))]))
    data_format, channels = draw(FORMATS), draw(st.integers(1, 4))
    make = partial(
        L.Conv2D,
        draw(st.integers(1, 7)),
        draw(st.sampled_from([1, 2, 3, (3, 1), (2, 3)])),
        strides=strides,
        dilation_rate=dilation,
        padding=draw(st.sampled_from(["valid", "same"])),
        data_format=data_format,
        **ends(draw(ACTIVATIONS), draw(st.booleans())),
    )
    shape = (8, 7, channels) if data_format == "channels_last" else (channels, 8, 7)
    return make, normal(3, *shape)


@st.composite
def dense(draw):
    make = partial(L.Dense, draw(st.integers(1, 9)), **ends(draw(ACTIVATIONS), draw(st.booleans())))
    return make, normal(*draw(st.sampled_from([(6,), (4, 3), (3, 2, 2)])), draw(st.integers(1, 9)))


@st.composite
def embedding(draw):
    tokens, width = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    make = partial(L.Embedding, tokens, width, mask_zero=draw(st.booleans()))
    return make, np.random.default_rng(0).integers(0, tokens, (5, 6))


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
    make = partial(
        L.EinsumDense,
        equation,
        sizes,
        bias_axes=bias_axes,
        activation=draw(ACTIVATIONS),
        bias_initializer="normal",
    )
    return make, normal(5, *shape)


EVERY = st.one_of(dense(), conv1d(), conv2d(), embedding(), einsum())


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


@settings(max_examples=100)
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


@settings(max_examples=60)
@given(conv2d())
def test_a_convolution_is_a_product_of_vertical_patches_summed_over_columns(case):
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


@settings(max_examples=60)
@given(st.one_of(EVERY, conv2d()), st.integers(1, 6), st.booleans())
def test_factors_give_what_the_truncated_layer_gives_and_full_rank_what_the_layer_gives(
    case, D, balanced
):
    layer, x = case[0](), case[1]
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
        assert cost.multiply_adds(small) == D * watch.multiply_adds(model)[path].each
    # Beyond break-even the pair gives the layer's outputs, too.
    factors = kind.decompose()
    pair = kind.pair(*svd.factors(factors, 99), kind.bias)
    matches(graph.copy(model, {path: pair})(x), model(x))


@settings(max_examples=40)
@given(EVERY)
def test_moments_are_those_of_the_rows(case):
    layer, x = case[0](), case[1]
    model, kind = alone(layer, x), kinds.of(layer)
    rows = kind.rows(tf.constant(x)).astype(float)
    if isinstance(layer, L.Embedding) and layer.mask_zero:
        rows = rows[rows[:, 0] == 0]
    if len(rows) < min(moments.LEAST, kind.shape[0]):
        return
    C = moments.observe(model, [layer.name], x)[layer.name].C
    expected = rows.T @ rows / len(rows)
    np.testing.assert_allclose(np.diag(C) if C.ndim == 1 else C, expected, atol=1e-5)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def test_layers_are_found_in_nested_models_and_outputs_left_alone(model):
    assert set(compress.hidden_layers(model)) == NAMES[model.name]
    assert "out" in graph.compressible(model)


@pytest.mark.parametrize("loss", [None, LOSS], ids=["whitened", "two-sided"])
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


def test_padding_that_is_masked_stays_so():
    model = text()
    x = inputs(model)
    unpadded = np.where(x == 0, 1, x)
    assert not np.allclose(model(x), model(unpadded))
    small = compress.factorize(model, 3)
    x[:, 6:] = 0
    short = compress.factorize(model, 3)(x)
    matches(short, small(x))
    counts = moments.observe(model, ["words"], x)["words"].C
    assert counts[0] == 0
    assert counts.sum() == pytest.approx(1)


def test_what_stands_in_several_places_is_one_in_the_copy():
    """A layer used by two models, and a model used twice."""
    shared = L.Dense(8, "tanh", name="shared")
    start = keras.Input((8,))
    twice = keras.Model(start, shared(L.Dense(8, name="own")(start)), name="twice")
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    joined = L.Concatenate()([twice(a), twice(b), shared(a)])
    model = keras.Model({"a": a, "b": b}, {"y": L.Dense(3, name="out")(joined)})
    assert compress.hidden_layers(model) in (["twice/own", "twice/shared"], ["twice/own", "shared"])
    x = {"a": normal(50, 8), "b": normal(50, 8) + 1}
    for arguments in ({}, {"inputs": x}):
        small = compress.factorize(model, 2, **arguments)
        matches(small(x), compress.truncate(model, 2, **arguments)(x))
        assert small.count_params() == model.count_params() - 2 * (64 - 2 * 16)
    matches(compress.truncate(model, 8, inputs=x)(x), model(x), 1e-3)
    rows = np.concatenate([x["a"], x["b"]])
    C = moments.observe(model, ["twice/own"], x)["twice/own"].C
    np.testing.assert_allclose(C, rows.T @ rows / 100, atol=1e-5)
    adds = watch.multiply_adds(model)
    assert sorted(count.whole for count in adds.values()) == sorted([2 * 64, 3 * 64, 24 * 3])


def test_outputs_are_found_in_nested_models_and_through_arithmetic():
    start = keras.Input((6,))
    nested = keras.Sequential([keras.Input((6,)), L.Dense(5, name="a"), L.Dense(4, name="b")])
    ends = L.Softmax()(2 * nested(start) + L.Dense(4, name="c")(start))
    model = keras.Model(start, ends)
    assert compress.hidden_layers(model) == [f"{nested.name}/a"]
    assert compress.factorize(model, 1).count_params() < model.count_params()


@pytest.mark.parametrize(("filters", "kind"), [(5, kinds.Crossed), (6, kinds.Conv)])
def test_crossed_are_convolutions_of_fewer_filters_than_a_vertical_patch_has_numbers(filters, kind):
    layer = L.Conv2D(filters, (3, 2))
    layer.build((None, 5, 4, 2))
    assert type(kinds.of(layer)) is kind


def test_errors_of_different_columns_are_felt_alike_and_apart():
    layer = L.Conv2D(2, (3, 2))
    layer.build((None, 5, 4, 2))
    felt = kinds.of(layer).spread(np.array([[1, 2], [3, 4]]))
    expected = [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 1, 2], [0, 0, 3, 4]]
    np.testing.assert_array_equal(felt, expected)


@pytest.mark.parametrize(("kernel", "positions", "outputs"), [((2, 1), 16, 3), ((2, 2), 12, 2 * 3)])
def test_what_the_loss_feels_is_the_sum_over_the_positions_of_an_image(kernel, positions, outputs):
    """Of the squared error to outputs with noise of variance 1, the identity at each position."""
    start = keras.Input((5, 4, 2))
    model = keras.Model(start, L.Conv2D(3, kernel, name="conv")(start))
    model.trainable = False  # the loss feels what is frozen, too
    Gamma = moments.observe(model, ["conv"], normal(4000, 5, 4, 2), "mse")["conv"].Gamma
    np.testing.assert_allclose(Gamma, positions * np.eye(outputs), atol=0.5)


@pytest.mark.parametrize(
    ("filters", "sizes"), [(20, [(3, 1), (1, 3)]), (24, [(3, 3), (1, 1)]), (30, [(3, 3), (1, 1)])]
)
def test_a_convolution_takes_the_form_whose_singular_values_are_cheaper(filters, sizes):
    layer = L.Conv2D(filters, 3, name="conv")
    small = compress.factorize(alone(layer, normal(1, 5, 5, 8)), {"conv": 2})
    assert [part.kernel_size for part in small.layers[1:]] == sizes
    whole, crossed = 2 * (72 + filters), 2 * (24 + 3 * filters)
    assert small.count_params() == filters + min(whole, crossed)


def test_a_diagonal_stands_for_the_matrix():
    W, C, Gamma = normal(6, 4), np.array([0, 1, 2, 3, 4, 5.0]), np.diag([1, 2, 3, 4.0])
    for weights in ((), (Gamma,)):
        ours, whole = svd.decompose(W, C, *weights), svd.decompose(W, np.diag(C), *weights)
        np.testing.assert_allclose(ours.s, whole.s)
        np.testing.assert_allclose(svd.truncate(ours, 2), svd.truncate(whole, 2), atol=1e-9)
    with pytest.raises(ValueError, match="C must be"):
        svd.decompose(W, np.ones(5))


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


def quantized():
    layer = L.Dense(4)
    layer.build((None, 4))
    layer.quantize("int8")
    return layer


def with_lora():
    layer = L.Dense(4)
    layer.build((None, 4))
    layer.enable_lora(2)
    return layer


PIXELS, VECTORS = (6, 6, 4), (5, 4)
ALONE = {
    "grouped": (lambda: L.Conv2D(4, 3, groups=2), PIXELS),
    "depthwise": (lambda: L.DepthwiseConv2D(3), PIXELS),
    "separable": (lambda: L.SeparableConv2D(4, 3), PIXELS),
    "no kind of layer": (lambda: L.Conv2DTranspose(4, 3), PIXELS),
    "recurrent": (lambda: L.LSTM(3), VECTORS),
    "a wrapper": (lambda: L.TimeDistributed(L.Dense(3)), VECTORS),
    "a subclass, with a call": (lambda: Doubled(4), (4,)),
    "subclassed model": (Net, (4,)),
    "quantized": (quantized, (4,)),
    "LoRA": (with_lora, (4,)),
    "no product": (lambda: L.EinsumDense("abc,bcd->abd", (5, 6)), VECTORS),
    "not one number per output": (
        lambda: L.EinsumDense("abc,cd->abd", (5, 4), bias_axes="bd"),
        VECTORS,
    ),
    "no matrix": (L.LayerNormalization, (4,)),
}


@pytest.mark.parametrize("reason", ALONE)
def test_what_cannot_be_compressed_is_left_alone_and_says_why(reason):
    make, shape = ALONE[reason]
    layer, start = make(), keras.Input(shape)
    hidden = L.Flatten()(layer(start))
    model = keras.Model(start, L.Dense(2, name="out")(L.Dense(9, name="fc")(hidden)))
    x = normal(20, *shape)
    assert compress.hidden_layers(model) == ["fc"]
    assert reason in graph.why_not(model, layer.name)
    with pytest.raises(ValueError, match=f"cannot be compressed .{layer.name}: .*{reason}"):
        compress.factorize(model, 1, [layer.name])
    matches(compress.truncate(model, 99)(x), model(x))


def test_attention_is_left_alone():
    assert "attention" in graph.why_not(MODELS["transformer"](), "attention")


def test_a_model_that_computes_something_else_than_its_graph_is_refused():
    start = keras.Input((4,))
    odd = Odd(start, L.Dense(3)(start))
    with pytest.raises(ValueError, match="Sequential or functional"):
        compress.factorize(odd, 1)
    assert "subclassed" in graph.why_not(keras.Sequential([start, odd]), odd.name)


def test_dynamic_is_for_dense_layers_and_says_so():
    model = resnet()
    dynamic = compress.dynamic(model, 3)
    kinds_of = {path: type(layer).__name__ for path, layer in graph.leaves(dynamic).items()}
    assert [path for path, kind in kinds_of.items() if kind == "DynamicDense"] == ["fc"]
    x = inputs(model, 10)
    matches(compress.factorize(dynamic, 3, ["fc"])(x), compress.truncate(model, 3, ["fc"])(x))
    with pytest.raises(ValueError, match=r"dynamic layers are Dense.*backbone/stem"):
        compress.dynamic(model, 3, ["fc", "backbone/stem"])


def test_ranks_can_be_given_by_name():
    model = resnet()
    ranks = {"fc": 3, "backbone/block_1/conv_1": 2}
    by_name = compress.factorize(model, ranks)
    by_list = compress.factorize(model, list(ranks.values()), list(ranks))
    matches(by_name(x := inputs(model, 5)), by_list(x))
    assert by_name.count_params() == compress.kept_parameters(model, ranks)


def test_initial_values_of_the_whole_shape_do_not_hinder_the_factors():
    """As pretrained word vectors are often given."""
    start, words = keras.Input((3,), dtype="int32"), keras.initializers.Constant(normal(20, 6))
    embedded = L.Embedding(20, 6, embeddings_initializer=words, name="words")(start)
    model = keras.Model(start, L.Dense(2)(L.Flatten()(embedded)))
    small = compress.factorize(model, 2)
    assert [layer.name for layer in small.layers][1:3] == ["words_U", "words_Vt"]


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_other_precisions(dtype):
    start = keras.Input((6, 6, 2), dtype="float32")
    x = L.Conv2D(5, 3, dtype=dtype, name="conv")(start)
    model = keras.Model(start, L.Dense(2, dtype=dtype)(L.Flatten()(x)))
    images = normal(30, 6, 6, 2)
    small = compress.factorize(model, 2, inputs=images)
    assert small.get_layer("conv_U").dtype_policy.name == dtype
    tolerance = 1e-5 if dtype == "float64" else 0.1
    truncated = compress.truncate(model, 2, inputs=images)
    matches(np.array(small(images), float), np.array(truncated(images), float), tolerance)
