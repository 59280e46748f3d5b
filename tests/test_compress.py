import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import compress, svd
from helpers.backend import keras, tf
from helpers.lab import cost

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
    layers = [Dense(n, "relu", use_bias, bias_initializer="normal", name=f"d{n}") for n in widths]
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


@settings(max_examples=15)
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


ACTIVATIONS = st.sampled_from(["relu", "tanh", "linear", "gelu", "softmax"])


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=3),
    st.integers(1, 40),
    ACTIVATIONS,
    *[st.booleans()] * 3,
)
def test_factorized_outputs_are_the_truncated_ones(widths, D, activation, bias, functional, even):
    image = keras.Input((9,))
    layers = [Dense(n, activation, bias, bias_initializer="normal") for n in widths]
    chain = [*layers, Dense(3)]
    x = image
    for layer in chain:
        x = layer(x)
    model = keras.Model(image, x) if functional else keras.Sequential([image, *chain])
    images = np.random.default_rng(D).normal(size=(5, 9)).astype("float32")
    small = compress.factorize(model, D, balanced=even)
    expected = compress.truncate(model, D)(images)
    np.testing.assert_allclose(small(images), expected, atol=2e-5)
    chosen = dict.fromkeys(compress.hidden_layers(model), D)
    assert small.count_params() == compress.kept_parameters(model, chosen)


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("make", [two_branches, sequential])
def test_factorized_models_are_plain_keras(make, whitened, tmp_path):
    model = make()
    x = np.random.default_rng(0).normal(size=(50, *model.input_shape[1:])).astype("float32")
    svds = compress.decompose(model, inputs=x if whitened else None)
    small = compress.factorize(model, 2, svds=svds)
    assert {type(layer) for layer in small.layers} == {type(layer) for layer in model.layers}
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    truncated = compress.truncate(model, 2, svds=svds)
    for outputs in (small(x), loaded(x)):
        for ours, theirs in zip(
            keras.tree.flatten(outputs), keras.tree.flatten(truncated(x)), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("make", [two_branches, sequential])
def test_copies_are_compiled_as_the_model_is(make):
    model = make()
    assert not compress.truncate(model, 2).compiled
    model.compile("sgd", "mse")
    for copy in (compress.truncate(model, 2), compress.factorize(model, 2)):
        assert copy.compiled
        assert isinstance(copy.optimizer, keras.optimizers.SGD)

    def own_loss(labels, outputs):
        return keras.ops.mean(outputs)

    model.compile("sgd", own_loss)
    with pytest.raises(ValueError, match="register it by"):
        compress.truncate(model, 2)


def test_a_layer_used_twice_stays_one_pair():
    shared, image = Dense(8, activation="relu", name="shared"), keras.Input((8,))
    model = keras.Model(image, Dense(2)(shared(shared(image))))
    small = compress.factorize(model, 3)
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    np.testing.assert_allclose(small(x), compress.truncate(model, 3)(x), atol=1e-5)
    assert small.count_params() == 2 * 3 * 8 + 8 + 18


def test_beyond_break_even_a_layer_is_left_alone():
    model = sequential()
    edge = svd.break_even_rank((8, 11))
    names = {layer.name for layer in compress.factorize(model, edge, layers=["d11"]).layers}
    assert {"d8", "d11_U", "d11_Vt", "d5"} < names
    for D in (edge + 1, 8, 1000):
        same = compress.factorize(model, D, layers=["d11"])
        assert [layer.name for layer in same.layers] == [layer.name for layer in model.layers]
        if D >= 8:
            np.testing.assert_array_equal(kernel(same, "d11"), kernel(model, "d11"))


def test_balanced_factors_share_the_singular_values():
    model = sequential()
    small = compress.factorize(model, 3, layers=["d11"], balanced=True)
    U, Vt = kernel(small, "d11_U"), kernel(small, "d11_Vt")
    s = np.linalg.svd(kernel(model, "d11"))[1][:3]
    np.testing.assert_allclose(U.T @ U, np.diag(s), atol=1e-5)
    np.testing.assert_allclose(Vt @ Vt.T, np.diag(s), atol=1e-5)
    U = kernel(compress.factorize(model, 3, layers=["d11"]), "d11_U")
    np.testing.assert_allclose(U.T @ U, np.eye(3), atol=1e-5)


def test_many_ranks_are_tried_on_one_decomposition(monkeypatch):
    model, x = sequential(), np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    svds, cut = compress.cutter(model)
    expected = compress.factorize(model, 2, svds=svds)(x)
    monkeypatch.delattr(svd, "decompose")
    np.testing.assert_array_equal(cut(dict.fromkeys(svds, 2))(x), expected)


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
    expected = svd.decompose(W, hidden.T @ hidden / len(hidden))
    ours = compress.decompose(model, inputs=x)["d11"]
    np.testing.assert_allclose(ours.s, expected.s, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [compress.truncate, compress.factorize])
def test_wrong_requests_are_clear_errors(change):
    model = sequential()
    with pytest.raises(
        ValueError, match=r"cannot be compressed \(d9: no layer has this name\); these can"
    ):
        change(model, 2, layers=["d9"])
    with pytest.raises(ValueError, match="2 ranks for 3 layers"):
        change(model, [1, 2])
    with pytest.raises(ValueError, match="D must be a whole number"):
        change(model, 0)
    with pytest.raises(ValueError, match="D must be a whole number"):
        change(model, "abc")
    with pytest.raises(ValueError, match="svds lack"):
        change(model, 2, layers=["d5"], svds=compress.decompose(model, ["d8"]))
    for alien in (Subclassed(), Dense(3), "model.keras"):
        with pytest.raises(ValueError, match="built Keras model"):
            change(alien, 2)
    with pytest.raises(ValueError, match="built"):
        change(keras.Sequential([Dense(3), Dense(2)]), 2)


def graph(ends):
    """A functional model with Dense layers a → b and a → c, and these outputs of b and c."""
    image = keras.Input((6,))
    a = Dense(8, "relu", name="a")(image)
    return keras.Model(image, ends(Dense(4, name="b")(a), Dense(4, name="c")(a)))


ENDS = {
    "one": (lambda b, c: b, ["a", "c"]),
    "list": (lambda b, c: [b, c], ["a"]),
    "dictionary": (lambda b, c: {"x": b, "y": c}, ["a"]),
    "nested": (lambda b, c: {"x": [b], "y": {"z": c}}, ["a"]),
    "sum": (lambda b, c: keras.layers.Add()([b, c]), ["a"]),
    "one of two through a softmax": (lambda b, c: keras.layers.Softmax()(b), ["a", "c"]),
    "softmax and flatten": (
        lambda b, c: keras.layers.Flatten()(keras.layers.Softmax()(keras.layers.Add()([b, c]))),
        ["a"],
    ),
    "through weights": (
        lambda b, c: [keras.layers.BatchNormalization()(b), c],
        ["a", "b"],
    ),
    "named argument": (
        lambda b, c: keras.layers.Concatenate()(inputs=[keras.layers.Softmax()(b), c]),
        ["a"],
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_outputs_are_found_in_every_structure(name):
    ends, hidden = ENDS[name]
    model = graph(ends)
    layers = {layer.name for layer in model.layers if isinstance(layer, Dense)}
    assert set(compress.hidden_layers(model)) == set(hidden) & layers
    loaded = keras.models.clone_model(model)
    assert set(compress.hidden_layers(loaded)) == set(hidden) & layers
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    copy = compress.factorize(model, 1)
    structures = [keras.tree.map_structure(lambda y: y.shape, net(x)) for net in (copy, model)]
    assert structures[0] == structures[1]


def test_a_layer_that_also_gives_an_output_is_no_hidden_one():
    image = keras.Input((6,))
    shared, last = Dense(6, name="shared"), Dense(3, name="last")
    model = keras.Model(image, last(shared(shared(image))))
    assert compress.hidden_layers(model) == ["shared"]
    model = keras.Model(image, [last(shared(image)), shared(shared(image))])
    assert compress.hidden_layers(model) == []


def test_the_end_of_a_sequential_model_is_found_behind_what_has_no_weights():
    ends = [keras.layers.Softmax(), keras.layers.Dropout(0.5), keras.layers.Flatten()]
    layers = [keras.Input((6,)), Dense(5, name="a"), Dense(4, name="b"), Dense(3, name="c")]
    assert compress.hidden_layers(keras.Sequential(layers)) == ["a", "b"]
    assert compress.hidden_layers(keras.Sequential([*layers, *ends])) == ["a", "b"]
    behind = keras.Sequential([*layers, keras.layers.BatchNormalization()])
    assert compress.hidden_layers(behind) == ["a", "b", "c"]
    assert compress.hidden_layers(keras.Sequential([keras.Input((3,)), ends[0]])) == []


def test_kept_parameters_are_those_of_the_smaller_form():
    model = sequential()  # 7 → 8 → 11 → 5 → 3
    whole = 7 * 8 + 8 + 8 * 11 + 11 + 11 * 5 + 5 + 5 * 3 + 3
    assert compress.kept_parameters(model, {}) == whole
    assert compress.kept_parameters(model, {"d8": 2}) == whole - 7 * 8 + 2 * (7 + 8)
    assert compress.kept_parameters(model, {"d8": 2, "d11": 4}) == whole - 56 - 88 + 30 + 76
    assert compress.kept_parameters(model, {"d8": 4, "d11": 5}) == whole


def test_the_copy_keeps_names_and_other_weights():
    image = keras.Input((9,), name="image")
    norm = keras.layers.BatchNormalization(name="norm")
    layers = [Dense(8, "relu", name="a"), norm, Dense(7, name="b")]
    model = keras.Sequential([image, *layers, Dense(3, name="c")], name="mine")
    norm.gamma.assign(np.arange(8.0))
    for change in (compress.truncate, compress.factorize, compress.dynamic):
        copy = change(model, 2)
        assert (copy.name, copy.inputs[0].name) == ("mine", "image")
        np.testing.assert_array_equal(copy.get_layer("norm").gamma, np.arange(8.0))
        assert copy.get_layer("norm") is not norm
        np.testing.assert_array_equal(kernel(copy, "c"), kernel(model, "c"))
    names = [layer.name for layer in compress.factorize(model, 2).layers]
    assert names == ["a_U", "a_Vt", "norm", "b_U", "b_Vt", "c"]


def test_biases_activations_and_regularizers_go_with_the_second_factor():
    options = {"bias_initializer": "normal", "activity_regularizer": "l2"}
    model = keras.Sequential([keras.Input((9,)), Dense(8, "tanh", name="a", **options), Dense(3)])
    small = compress.factorize(model, 2)
    first, second = small.get_layer("a_U"), small.get_layer("a_Vt")
    assert (first.units, first.use_bias) == (2, False)
    assert first.activation is keras.activations.linear
    assert first.activity_regularizer is None
    assert second.activation is keras.activations.tanh
    assert second.activity_regularizer is not None
    np.testing.assert_array_equal(second.bias, model.get_layer("a").bias)


def test_svds_of_some_layers_stand_for_those_layers():
    model = sequential()
    svds = compress.decompose(model, ["d11"])
    small = compress.truncate(model, 2, svds=svds)
    np.testing.assert_array_equal(kernel(small, "d8"), kernel(model, "d8"))
    assert np.linalg.matrix_rank(kernel(small, "d11"), tol=1e-4) == 2
    both = compress.truncate(model, 2, layers=["d11"], svds=compress.decompose(model))
    np.testing.assert_allclose(kernel(both, "d11"), kernel(small, "d11"), atol=1e-6)


def test_inputs_keep_their_type_and_batch_size():
    image = keras.Input((4,), dtype="int32", batch_size=3)
    layers = [keras.layers.Embedding(5, 6), keras.layers.Flatten(), Dense(8, name="a"), Dense(2)]
    model = keras.Sequential([image, *layers])
    for change in (compress.truncate, compress.factorize, compress.dynamic):
        (x,) = change(model, 2).inputs
        assert (x.dtype, x.shape) == ("int32", (3, 4))


def test_what_preprocessing_layers_have_learned_is_kept():
    x = np.random.default_rng(0).normal(5, 3, size=(300, 8)).astype("float32")
    scale = keras.layers.Normalization()
    scale.adapt(x)
    model = keras.Sequential([keras.Input((8,)), scale, Dense(11, "relu"), Dense(5)])
    np.testing.assert_allclose(compress.truncate(model, 8)(x), model(x), atol=1e-4)
    np.testing.assert_allclose(compress.truncate(model, 8, inputs=x)(x), model(x), atol=1e-3)
    words = keras.layers.StringLookup(output_mode="one_hot")
    words.adapt(["c", "d", "d"])
    start = keras.Input((1,), dtype="string")
    model = keras.Model(start, Dense(2)(Dense(5, "relu")(words(start))))
    text = tf.constant([["d"], ["c"]])
    np.testing.assert_allclose(compress.truncate(model, 3)(text), model(text), atol=1e-5)


def test_bins_that_were_adapted_are_kept():
    values = np.random.default_rng(0).normal(size=(300, 6))
    bins = keras.layers.Discretization(num_bins=5)
    bins.adapt(values)
    start = keras.Input((6,))
    seen = keras.layers.Flatten()(keras.layers.Embedding(5, 4)(bins(start)))
    model = keras.Model(start, Dense(2)(Dense(9, "relu")(seen)))
    np.testing.assert_allclose(compress.truncate(model, 9)(values), model(values), atol=1e-5)


@pytest.mark.parametrize("as_dict", [False, True])
def test_of_a_nested_model_only_the_outputs_used_as_such_are_outputs(as_dict):
    start = keras.Input((9,))
    h = Dense(9, name="h")(start)
    ends = {"q": Dense(9, name="q")(h), "p": Dense(9, name="p")(h)}
    nested = keras.Model(start, ends if as_dict else [*ends.values()], name="n")
    found = nested(x := keras.Input((9,)))
    q, p = (found["q"], found["p"]) if as_dict else found
    assert compress.hidden_layers(keras.Model(x, [p, Dense(3)(q)])) == ["n/h", "n/q"]
    assert compress.hidden_layers(keras.Model(x, [Dense(3)(p), q])) == ["n/h", "n/p"]


@pytest.mark.parametrize("constraint", ["non_neg", "unit_norm"])
def test_what_constrains_a_matrix_does_not_constrain_its_factors(constraint):
    start = keras.Input((8,), dtype="int32")
    tokens = keras.layers.Embedding(40, 20, embeddings_constraint=constraint, name="e")(start)
    hidden = Dense(30, kernel_constraint=constraint, name="d")(keras.layers.Flatten()(tokens))
    model = keras.Model(start, Dense(3)(hidden))
    small = compress.factorize(model, 5)
    x = np.random.default_rng(0).integers(0, 40, size=(50, 8))
    before = small(x).numpy()
    small.compile(keras.optimizers.SGD(0.0), "mse")
    small.fit(x, np.zeros((50, 3)), verbose=0)
    np.testing.assert_allclose(small(x), before, atol=1e-5)


def test_outputs_are_found_behind_a_layer_that_stands_in_many_places():
    relu, start = keras.layers.ReLU(), keras.Input((8,))
    a = relu(Dense(8, name="a")(start))
    b = relu(keras.layers.Add()([Dense(8, name="b")(a), a]))
    assert compress.hidden_layers(keras.Model(start, relu(Dense(5, name="c")(b)))) == ["a", "b"]
    assert compress.hidden_layers(keras.Model(start, b)) == []  # both feed the sum


class Own(keras.Model):
    """A functional model with a constructor of its own."""

    def __init__(self, units):
        start = keras.Input((8,))
        super().__init__(start, Dense(3, name="out")(Dense(units, name="hidden")(start)))


def test_a_functional_model_may_have_a_constructor_of_its_own():
    x = np.ones((2, 8), "float32")
    for model in (Own(9), keras.Sequential([keras.Input((8,)), Own(9)])):
        (name,) = compress.hidden_layers(model)
        assert name.endswith("hidden")
        np.testing.assert_allclose(compress.truncate(model, 8)(x), model(x), atol=1e-5)


def test_a_layer_may_be_called_by_keyword():
    start = keras.Input((8,))
    model = keras.Model(start, Dense(3)(Dense(9, name="hidden")(inputs=start)))
    x = np.ones((2, 8), "float32")
    small = compress.factorize(model, 3)
    np.testing.assert_allclose(small(x), compress.truncate(model, 3)(x), atol=1e-5)
    model = keras.Model(start, Dense(3)(Dense(9, name="hidden")(inputs=start, training=False)))
    assert compress.factorize(model, 3)(x).shape == (2, 3)
    image = keras.Input((6, 6, 2))
    model = keras.Model(image, keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs=image)))
    assert cost.multiply_adds(model) == 16 * 9 * 2 * 4


def test_a_layer_that_cannot_be_made_anew_is_named():
    start = keras.Input((8,))
    twice = keras.layers.Lambda(lambda x: 2 * x, name="twice")
    model = keras.Model(start, Dense(3)(Dense(9)(twice(start))))
    with pytest.raises(ValueError, match="the layer twice cannot be made anew"):
        compress.truncate(model, 2)


def test_layers_and_ranks_by_name_must_be_of_the_same_names():
    model = sequential()
    both = compress.truncate(model, {"d11": 2}, layers=["d11"])
    assert np.linalg.matrix_rank(both.get_layer("d11").kernel, tol=1e-4) == 2
    with pytest.raises(ValueError, match=r"D names the layers \['d11'\], and layers \['d8'\]"):
        compress.truncate(model, {"d11": 2}, layers=["d8"])
