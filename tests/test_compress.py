"""All layers cut at once: which ones, to what, and the copy around them."""

import numpy as np
import pytest

from helpers import compress, svd
from helpers.backend import keras, tf
from helpers.lab import cost

from .zoo import inputs, matches, resnet

Dense = keras.layers.Dense
CHANGES = [compress.truncate, compress.factorize, compress.dynamic]


def sequential():
    options = {"activation": "relu", "bias_initializer": "normal"}
    layers = [Dense(n, name=f"d{n}", **options) for n in (8, 11, 5)]
    return keras.Sequential([keras.Input((7,)), *layers, Dense(3, name="out")])


def kernel(model, name):
    return model.get_layer(name).get_weights()[0]


@pytest.mark.parametrize("D", [1, 3, 5, 12])
def test_kernels_become_the_rank_D_truncation(D):
    model = sequential()
    before = [w.copy() for w in model.get_weights()]
    small = compress.truncate(model, D)
    for name in ("d8", "d11", "d5"):
        U, s, Vt = np.linalg.svd(kernel(model, name), full_matrices=False)
        expected = U[:, :D] @ np.diag(s[:D]) @ Vt[:D]
        np.testing.assert_allclose(kernel(small, name), expected, atol=1e-5)
    np.testing.assert_array_equal(kernel(small, "out"), kernel(model, "out"))
    assert all(map(np.array_equal, before, model.get_weights()))


def own_loss(labels, outputs):
    return keras.ops.mean(outputs)


class OwnOptimizer(keras.optimizers.SGD):
    def __init__(self, what):
        super().__init__()


def test_copies_are_compiled_anew_as_the_model_is():
    """Its optimizer not built, whose moments would be saved; a loss of its own is shared."""
    model, x = sequential(), np.ones((4, 7), "float32")
    assert not compress.truncate(model, 2).compiled
    model.compile(keras.optimizers.Adam(0.02), own_loss, metrics=[own_loss, "mse"])
    model.fit(x, np.ones((4, 3)), verbose=0)
    for copy in (compress.truncate(model, 2), compress.factorize(model, 2)):
        assert copy.loss is own_loss
        assert copy.optimizer is not model.optimizer
        assert not copy.optimizer.built
        assert float(copy.optimizer.learning_rate) == pytest.approx(0.02)
    copy.fit(x, np.ones((4, 3)), verbose=0)
    model.compile(OwnOptimizer("x"), own_loss)
    with pytest.warns(UserWarning, match="compile the copy"):
        assert not compress.truncate(model, 2).compiled


def test_beyond_break_even_a_layer_is_left_alone():
    model, edge = sequential(), svd.break_even_rank((8, 11))
    names = {layer.name for layer in compress.factorize(model, {"d11": edge}).layers}
    assert {"d8", "d11_U", "d11_Vt", "d5"} < names
    for D in (edge + 1, 8, 1000):
        same = compress.factorize(model, {"d11": D})
        assert [layer.name for layer in same.layers] == [layer.name for layer in model.layers]
        assert np.linalg.matrix_rank(kernel(same, "d11"), tol=1e-5) == min(D, 8)


@pytest.mark.parametrize("change", CHANGES)
def test_the_layers_cut_are_those_of_D_or_of_the_svds(change):
    model = sequential()
    svds = {"d11": svd.SVD(np.ones((8, 1)), np.ones(1), np.ones((1, 11)))}  # of a matrix of ones
    whole = compress.decompose(model) | svds
    x = np.random.default_rng(0).normal(size=(5, 7)).astype("float32")
    d8, d11, d5, out = (layer.get_weights() for layer in model.layers)
    h = np.maximum(np.maximum(x @ d8[0] + d8[1], 0).sum(1, keepdims=True) + d11[1], 0)
    expected = np.maximum(h @ d5[0] + d5[1], 0) @ out[0] + out[1]
    for small in (change(model, np.int64(1), svds), change(model, {"d11": 1}, whole)):
        np.testing.assert_allclose(small(x), expected, atol=1e-5)
    for none in (change(model, {}), change(model, 1, {})):
        np.testing.assert_allclose(none(x), model(x), atol=1e-6)
    assert list(compress.decompose(model, ["d5", "d8"])) == ["d5", "d8"]


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_requests_are_clear_errors(change):
    model = sequential()
    cases = [(model, D, "D must be a whole number") for D in (0, [1, 2, 3], {"d8": 2, "d11": 0})]
    cases += [(model, {"d9": 2}, r"compressed \(d9: no layer has this name\); these can")]
    aliens = "model.keras", keras.Sequential([Dense(3), Dense(2)])
    cases += [(alien, 2, "built Keras model") for alien in aliens]
    for what, D, message in cases:
        with pytest.raises(ValueError, match=message):
            change(what, D)
    with pytest.raises(ValueError, match=r"svds lack the layers \['d5'\]"):
        change(model, {"d5": 2}, compress.decompose(model, ["d8"]))


def test_dynamic_layers_are_dense_ones_that_D_cuts():
    model = resnet()
    dynamic = compress.dynamic(model, 3, derivative="straight_through")
    assert list(compress.dynamic_layers(dynamic)) == ["fc"]
    assert compress.dynamic_layers(model) == {}
    (layer,) = compress.dynamic_layers(dynamic).values()
    assert (layer.D, layer.derivative) == (3, "straight_through")
    x = inputs(model, 10)
    matches(dynamic(x), compress.truncate(model, {"fc": 3})(x))
    matches(compress.factorize(dynamic, {"fc": 3})(x), dynamic(x))
    for D in (8, 9):
        assert compress.dynamic_layers(compress.dynamic(model, D)) == {}
    with pytest.raises(ValueError, match=r"only Dense layers can be dynamic.*backbone/stem"):
        compress.dynamic(model, {"fc": 3, "backbone/stem": 2})


def graph(ends):
    """A functional model with Dense layers a → b and a → c, and these outputs of b and c."""
    image = keras.Input((6,))
    a = Dense(8, "relu", name="a")(image)
    return keras.Model(image, ends(Dense(4, name="b")(a), Dense(4, name="c")(a)))


ENDS = {
    "one": (lambda b, c: b, ["a", "c"]),
    "list": (lambda b, c: [b, c], ["a"]),
    "nested": (lambda b, c: {"x": [b], "y": {"z": c}}, ["a"]),
    "one of two through a softmax": (lambda b, c: keras.layers.Softmax()(b), ["a", "c"]),
    "softmax and flatten": (
        lambda b, c: keras.layers.Flatten()(keras.layers.Softmax()(keras.layers.Add()([b, c]))),
        ["a"],
    ),
    "through weights": (lambda b, c: [keras.layers.BatchNormalization()(b), c], ["a", "b"]),
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
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    copy = compress.factorize(model, 1)
    structures = [keras.tree.map_structure(lambda y: y.shape, net(x)) for net in (copy, model)]
    assert structures[0] == structures[1]


def test_a_layer_that_also_gives_an_output_is_not_hidden():
    image, relu = keras.Input((6,)), keras.layers.ReLU()
    shared, last = Dense(6, name="shared"), Dense(3, name="last")
    a = relu(Dense(8, name="a")(image))
    b = relu(keras.layers.Add()([Dense(8, name="b")(a), a]))
    for ends, hidden in (
        (last(shared(shared(image))), ["shared"]),
        ([last(shared(image)), shared(shared(image))], []),
        (relu(Dense(5, name="c")(b)), ["a", "b"]),  # a ReLU in many places
        (b, []),  # both feed the sum
    ):
        assert compress.hidden_layers(keras.Model(image, ends)) == hidden


def test_the_copy_keeps_names_and_other_weights():
    image = keras.Input((9,), name="image")
    norm = keras.layers.BatchNormalization(name="norm")
    layers = [Dense(8, "relu", name="a", activity_regularizer="l2"), norm, Dense(7, name="b")]
    model = keras.Sequential([image, *layers, Dense(3, name="c")], name="mine")
    norm.gamma.assign(np.arange(8.0))
    for change in CHANGES:
        copy = change(model, 2)
        assert (copy.name, copy.inputs[0].name) == ("mine", "image")
        np.testing.assert_array_equal(copy.get_layer("norm").gamma, np.arange(8.0))
        assert copy.get_layer("norm") is not norm
        np.testing.assert_array_equal(kernel(copy, "c"), kernel(model, "c"))
    small = compress.factorize(model, 2).layers
    assert [layer.name for layer in small] == ["a_U", "a_Vt", "norm", "b_U", "b_Vt", "c"]
    assert [layer.name for layer in small if layer.activity_regularizer] == ["a_Vt"]


def test_inputs_keep_their_type_and_batch_size():
    tokens = keras.Input((4,), dtype="int32", batch_size=3)
    layers = [keras.layers.Embedding(5, 6), keras.layers.Flatten(), Dense(8), Dense(2)]
    (x,) = compress.factorize(keras.Sequential([tokens, *layers]), 2).inputs
    assert (x.dtype, x.shape) == ("int32", (3, 4))


def test_the_copy_knows_what_preprocessing_has_learned():
    L, x = keras.layers, np.random.default_rng(0).normal(5, 3, size=(300, 6)).astype("float32")
    words = np.array([["c"], ["d"], ["d"]])
    for layer, rows, hidden in (
        (L.Normalization(), x, [Dense(11, "relu")]),
        (L.StringLookup(output_mode="one_hot"), words, [Dense(5, "relu")]),
        (L.Discretization(num_bins=5), x, [L.Embedding(5, 4), L.Flatten()]),
    ):
        layer.adapt(rows)
        inputs = keras.Input(rows.shape[1:], dtype="string" if rows is words else "float32")
        model, rows = keras.Sequential([inputs, layer, *hidden, Dense(2)]), tf.constant(rows)
        np.testing.assert_allclose(compress.truncate(model, 9)(rows), model(rows), atol=1e-4)
        if layer.name.startswith("normalization"):
            by_layer = compress.observe(model, x).layer_by_layer(9)
            np.testing.assert_allclose(by_layer(x), model(x), atol=1e-3)


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_nested_model_may_give_outputs_and_hidden_values(as_dict):
    start = keras.Input((9,))
    h = Dense(9, name="h")(start)
    ends = {"q": Dense(9, name="q")(h), "p": Dense(9, name="p")(h)}
    nested = keras.Model(start, ends if as_dict else [*ends.values()], name="n")
    found = nested(x := keras.Input((9,)))
    q, p = (found["q"], found["p"]) if as_dict else found
    assert compress.hidden_layers(keras.Model(x, [p, Dense(3)(q)])) == ["n/h", "n/q"]
    assert compress.hidden_layers(keras.Model(x, [Dense(3)(p), q])) == ["n/h", "n/p"]


@pytest.mark.parametrize("constraint", ["non_neg", "unit_norm"])
def test_factors_are_free_of_what_holds_for_the_whole_matrix(constraint):
    """Its constraints, and initial values such as pretrained word vectors."""
    words = keras.initializers.Constant(np.random.default_rng(0).normal(size=(40, 20)))
    options = {"embeddings_constraint": constraint, "embeddings_initializer": words}
    start = keras.Input((8,), dtype="int32")
    hidden = keras.layers.Flatten()(keras.layers.Embedding(40, 20, **options, name="e")(start))
    model = keras.Model(start, Dense(3)(Dense(30, kernel_constraint=constraint)(hidden)))
    small = compress.factorize(model, 5)
    x = np.random.default_rng(0).integers(0, 40, size=(50, 8))
    before = small(x).numpy()
    small.compile(keras.optimizers.SGD(0.0), "mse")
    small.fit(x, np.zeros((50, 3)), verbose=0)
    np.testing.assert_allclose(small(x), before, atol=1e-5)


class Own(keras.Model):
    """A functional model with a constructor of its own."""

    def __init__(self):
        start = keras.Input((8,))
        super().__init__(start, Dense(3)(Dense(9)(start)))


def test_a_functional_model_may_have_a_constructor_of_its_own():
    x = np.ones((2, 8), "float32")
    for model in (Own(), keras.Sequential([keras.Input((8,)), Own()])):
        assert len(compress.hidden_layers(model)) == 1
        np.testing.assert_allclose(compress.truncate(model, 8)(x), model(x), atol=1e-5)


def test_a_layer_may_be_called_by_keyword():
    start, image = keras.Input((8,)), keras.Input((6, 6, 2))
    model = keras.Model(start, Dense(3)(Dense(9, name="hidden")(inputs=start, training=False)))
    x = np.ones((2, 8), "float32")
    small = compress.factorize(model, 3)
    np.testing.assert_allclose(small(x), compress.truncate(model, 3)(x), atol=1e-5)
    model = keras.Model(image, keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs=image)))
    assert cost.multiply_adds(model) == 16 * 9 * 2 * 4


class Transposing(keras.layers.Layer):
    """Uses the kernel of another layer, the other way round."""

    def call(self, x):
        return x @ keras.ops.transpose(self.dense.kernel)


def test_weights_that_two_layers_hold_are_refused_by_both_names():
    x, encoder, decoder = keras.Input((10,)), Dense(4, name="encoder"), Transposing(name="decoder")
    decoder.dense = encoder
    model = keras.Model(x, decoder(encoder(x)))
    x = np.ones((200, 10), "float32")
    for what in (lambda: compress.factorize(model, 1), lambda: compress.observe(model, x)):
        with pytest.raises(ValueError, match="encoder and decoder hold the same weights"):
            what()


def test_a_layer_that_cannot_be_made_anew_is_named():
    own = keras.layers.Lambda(lambda x: 2 * x, name="own")
    model = keras.Sequential([keras.Input((4,)), Dense(5), own, Dense(3)])
    with pytest.raises(ValueError, match="the layer own cannot be made anew"):
        compress.factorize(model, 1)


def wide():
    options = {"activation": "relu", "bias_initializer": "normal"}
    hidden = [Dense(128, name="fc1", **options), Dense(128, name="fc2", **options)]
    return keras.Sequential([keras.Input((100,)), *hidden, Dense(4, name="out")])


def test_what_was_cut_is_cut_again_as_if_once():
    model, x = wide(), np.random.default_rng(0).normal(size=(300, 100)).astype("float32")
    once, names = compress.factorize(model, 32), ["fc1", "fc2", "out"]
    twice, direct = compress.factorize(once, 8), compress.factorize(model, 8)
    assert twice.count_params() == direct.count_params()
    np.testing.assert_allclose(twice(x), direct(x), atol=1e-3)
    assert [row.layer for row in compress.report(model, twice).rows] == names
    report = compress.report(once, twice)
    assert report.rows[0].parameters == (32 * 228 + 128, 8 * 228 + 128)
    seen = compress.observe(once, x, "mse")
    found = seen.cut(parameters=3000)
    assert found.met
    assert found.network.count_params() <= 3000
    left = {layer.name.removesuffix("_U").removesuffix("_Vt") for layer in found.network.layers}
    assert left == {*names}
    assert seen.cut(fraction=1).network.count_params() <= once.count_params()
    merged = compress.merge(once)
    assert [layer.name for layer in merged.layers] == names
    np.testing.assert_allclose(merged(x), once(x), atol=1e-3)


def test_nothing_to_cut_is_said_with_reasons():
    x = keras.Input((6, 4))
    model = keras.Model(x, Dense(3, name="out")(keras.layers.SimpleRNN(5, name="memory")(x)))
    seen = compress.observe(model, np.ones((200, 6, 4), "float32"))
    with pytest.raises(ValueError, match=r"nothing can be cut: memory: recurrent.*out: it gives"):
        seen.cut(fraction=0.5)
    stateful = keras.layers.LSTM(5, stateful=True, name="memory")
    model = keras.Model(x := keras.Input(batch_shape=(10, 7, 8)), Dense(2)(stateful(x)))
    with pytest.raises(ValueError, match="memory: recurrent and stateful"):
        compress.factorize(model, {"memory": 2})


def test_a_text_model_and_an_upsampling_one_are_cut_to_half():
    L, rng = keras.layers, np.random.default_rng(0)
    tokens = keras.Input((12,), dtype="int32")
    h = L.Embedding(50, 16, mask_zero=True, name="words")(tokens)
    h = L.Bidirectional(L.GRU(12, return_sequences=True), name="both")(h)
    text = keras.Model(tokens, Dense(3, name="out")(L.LSTM(20, name="last")(h)))
    image = keras.Input((8, 8, 3))
    h = L.Conv2D(16, 3, 2, "same", activation="relu", name="down")(image)
    h = L.Conv2DTranspose(12, 3, 2, "same", activation="relu", name="up")(h)
    images = keras.Model(image, L.Conv2D(2, 1, name="out")(h))
    for model, x in (
        (text, rng.integers(0, 50, (300, 12))),
        (images, rng.normal(size=(300, 8, 8, 3)).astype("float32")),
    ):
        seen = compress.observe(model, x, "mse")
        found = seen.cut(fraction=0.5)
        assert found.met
        assert found.network.count_params() <= model.count_params() / 2
        assert np.isfinite(found.network.predict(x, verbose=0)).all()
        assert str(compress.report(model, found.network, seen))


def test_a_loaded_model_with_an_activation_layer_is_observed(tmp_path):
    """Names that Keras would give to layers of our own may be taken."""
    L = keras.layers
    keras.utils.clear_session()
    model = keras.Sequential([keras.Input((8,)), Dense(6), L.Activation("relu"), Dense(3)])
    model.save(tmp_path / "model.keras")
    keras.utils.clear_session()
    model = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
    assert compress.observe(model, x).cut(fraction=0.6).met


def test_a_state_is_no_input():
    L, rng = keras.layers, np.random.default_rng(0)
    features, tokens = keras.Input((20,)), keras.Input((7,), dtype="int32")
    words = L.Embedding(50, 16, mask_zero=True, name="words")(tokens)
    state = Dense(16, "relu", name="state")(features)
    memory = L.GRU(16, name="memory")(words, initial_state=state)
    model = keras.Model([features, tokens], Dense(5, name="out")(memory))
    x = [rng.normal(size=(400, 20)).astype("float32"), rng.integers(0, 50, (400, 7))]
    seen = compress.observe(model, x)
    assert [*seen.neurons] == ["words"]
    assert "not as its inputs" in seen.stay["state"]
    found = seen.cut(fraction=0.6)
    assert found.met
    assert np.isfinite(found.network.predict(x, verbose=0)).all()
    small = compress.factorize(model, {"memory": 3})
    assert "memory" in [layer.name for layer in compress.merge(small).layers]
    np.testing.assert_allclose(compress.merge(small)(x), small(x), atol=1e-4)


def test_directions_of_two_sizes_and_their_constraints():
    L = keras.layers
    back = L.GRU(4, go_backwards=True, return_sequences=True)
    front = L.LSTM(5, kernel_constraint="non_neg", return_sequences=True)
    x = keras.Input((7, 30))
    both = L.Bidirectional(front, backward_layer=back, name="both")
    model = keras.Model(x, both(x))
    rows = np.random.default_rng(0).normal(size=(9, 7, 30)).astype("float32")
    small = compress.factorize(model, {"both": 3})
    np.testing.assert_allclose(small(rows), compress.truncate(model, {"both": 3})(rows), atol=1e-5)
    assert small.get_layer("both_Vt").forward_layer.cell.kernel_constraint is None


def test_few_inputs_leave_neurons_they_cannot_tell_apart():
    hidden = [Dense(400, "relu", name="a"), Dense(400, "relu", name="b")]
    model = keras.Sequential([keras.Input((500,)), *hidden, Dense(3, name="out")])
    x = np.random.default_rng(0).normal(size=(120, 500)).astype("float32")
    seen = compress.observe(model, x, "mse")
    assert seen.stay["a"] == "its neurons stay: b sees 120 rows, too few for its inputs"
    found = seen.cut(fraction=0.3)
    assert found.met
    np.testing.assert_allclose(found.network(x), model(x), atol=0.3 * np.abs(model(x)).max())
    np.testing.assert_allclose(compress.truncate(model, 999, seen.svds)(x), model(x), atol=1e-5)


def test_factors_that_another_layer_uses_stay_two():
    x = keras.Input((9,))
    h = Dense(3, use_bias=False, name="h_U")(x)
    model = keras.Model(x, [Dense(8, name="h_Vt")(h), Dense(8, name="other")(h)])
    merged = compress.merge(model)
    assert [layer.name for layer in merged.layers][1:] == ["h_U", "h_Vt", "other"]
