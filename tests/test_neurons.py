"""Which neurons can go, and what is left without them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers import compress
from helpers.backend import keras
from helpers.compress import graph, neurons
from helpers.lab import cost

from .zoo import LOSS, MODELS, inputs, matches, resnet

L = keras.layers


IMAGE = (12, 12, 3)


def chain(*layers, shape=(9,)):
    return keras.Sequential([keras.Input(shape), *layers])


def conv(**options):
    return L.Conv2D(6, 3, bias_initializer="normal", name="a", **options)


def two_consumers():
    x = keras.Input((9,))
    a = L.Dense(8, "relu", name="a")(x)
    return keras.Model(x, [L.Dense(4, name="b")(a), L.Dense(4, name="c")(a)])


def shared():
    """Layers a and b are each used twice."""
    x, y = keras.Input((9,)), keras.Input((9,))
    a, relu, b = L.Dense(8, name="a"), L.ReLU(), L.Dense(7, "relu", name="b")
    both = L.Concatenate()([b(relu(a(x))), b(relu(a(y)))])
    return keras.Model([x, y], L.Dense(3, name="out")(both))


def fed_by_others():
    x = keras.Input((9,))
    b = L.Dense(7, name="b")
    ends = [b(L.Dense(8, name="a")(x)), b(L.Dense(8, name="c")(x))]
    return keras.Model(x, L.Dense(3, name="out")(L.Add()(ends)))


def embedded():
    """Of pretrained vectors, as they are often given."""
    vectors = keras.initializers.Constant(np.random.default_rng(0).normal(size=(9, 8)))
    x = L.Embedding(9, 8, embeddings_initializer=vectors, name="a")(tokens := keras.Input((6,)))
    x = L.GlobalAveragePooling1D(dtype="mixed_bfloat16")(x)
    return keras.Model(tokens, L.Dense(3, name="b", kernel_constraint="non_neg")(x))


def dense():
    a = L.Dense(8, "tanh", name="a"), L.Dropout(0.5), L.Activation("gelu")
    b = L.Dense(6, name="b"), L.BatchNormalization(name="norm"), L.ReLU()
    return chain(*a, *b, L.Dense(5, name="c"))


def convolutions():
    a = conv(padding="same"), L.BatchNormalization(name="norm"), L.ReLU(), L.ZeroPadding2D()
    b = L.Conv2D(5, 3, name="b"), L.AveragePooling2D(2), L.Flatten()
    return chain(*a, *b, L.Dense(4, name="c"), shape=IMAGE)


def flat():
    return chain(conv(), L.Flatten(), L.BatchNormalization(), L.Dense(4, name="b"), shape=IMAGE)


def one_dimension():
    a = L.Conv1D(6, 3, name="a"), L.MaxPooling1D()
    b = L.Conv1D(5, 2, name="b"), L.GlobalMaxPooling1D(), L.Reshape((1, 5))
    return chain(*a, *b, L.Dense(7, name="c"), L.Flatten(), L.Dense(4, name="d"), shape=(14, 3))


# {name: (model, {layer whose neurons go: the layer they feed})}; the last layer is an output.
GO = {
    "dense": (dense, {"a": "b", "b": "c"}),
    "convolutions": (convolutions, {"a": "b", "b": "c"}),
    "normalized when flat": (flat, {"a": "b"}),
    "one dimension": (one_dimension, {"a": "b", "b": "c", "c": "d"}),
    "embedding": (embedded, {"a": "b"}),
    "used twice": (shared, {"a": "b"}),
    "blocks": (
        resnet,
        {
            "backbone/block_1/conv_1": "backbone/block_1/conv_2",
            "backbone/block_2/conv_1": "backbone/block_2/conv_2",
            "fc": "out",
        },
    ),
}


def without(model, links, kept):
    """The model whose dropped neurons feed nothing."""
    copy = graph.copy(model, {})
    for path, link in links.items():
        layer = graph.leaves(copy)[link.consumer]
        kernel = np.moveaxis(np.asarray(layer.kernel), -2, 0).copy()
        kernel[~np.isin(link.entries, kept[path])] = 0
        layer.kernel.assign(np.moveaxis(kernel, 0, -2))
    return copy


def trained(model):
    """The model with vectors that differ from neuron to neuron, as after training."""
    rng = np.random.default_rng(0)
    for layer in graph.leaves(model).values():
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    return model


def images(model, n):
    rng = np.random.default_rng(1)
    found = [rng.uniform(0, 9, (n, *x.shape[1:])).astype("float32") for x in model.inputs]
    return found if len(found) > 1 else found[0]


@pytest.mark.parametrize("name", GO)
def test_a_network_without_neurons_is_one_they_do_not_feed(name):
    make, goes = GO[name]
    model = trained(make())
    links, _stay = neurons.links(model, compress.hidden_layers(model))
    assert {path: link.consumer for path, link in links.items()} == goes
    kept = {path: np.arange(0, link.count, 2) for path, link in links.items()}
    small, x = neurons.narrow(model, links, kept), images(model, 100)
    matches(small(x), without(model, links, kept)(x))
    assert small.count_params() < model.count_params()
    assert {*links} < {*graph.leaves(small)}
    seen = compress.observe(model, x)
    every = {path: np.arange(links[path].count) for path in seen.neurons}
    matches(seen.network(every, {})(x), model(x), 1e-3)


FORMS = ["channels_last", "channels_first"]
BETWEEN = {
    "relu": lambda form: L.ReLU(),
    "norm": lambda form: L.BatchNormalization(axis=1 if form == FORMS[1] else -1),
    "most": lambda form: L.MaxPooling2D(data_format=form),
    "mean": lambda form: L.AveragePooling2D(2, padding="same", data_format=form),
    "zeros": lambda form: L.ZeroPadding2D(data_format=form),
    "larger": lambda form: L.UpSampling2D(data_format=form),
}
NAMES = st.lists(st.sampled_from([*BETWEEN]), max_size=3)


@settings(max_examples=15)
@given(st.sampled_from(FORMS), st.integers(1, 7), st.integers(1, 3), NAMES, st.booleans())
def test_neurons_that_go_feed_nothing_whatever_lies_between(form, n, size, names, flat):
    between = [BETWEEN[name](form) for name in names]
    assume(not (flat and "zeros" in names))  # what flattened zeros feed belongs to no neuron
    end = L.Flatten() if flat else L.GlobalAveragePooling2D(data_format=form)
    a = L.Conv2D(n, size, data_format=form, bias_initializer="normal", name="a")
    model = trained(chain(a, *between, end, L.Dense(4, name="b"), shape=(19, 20, 21)))
    links, _stay = neurons.links(model, ["a"])
    kept = {"a": np.flatnonzero(np.arange(n) % 3 != 1)}
    x = images(model, 3)
    matches(neurons.narrow(model, links, kept)(x), without(model, links, kept)(x))


def between(*layers, shape=(9,)):
    return lambda: chain(L.Dense(8, name="a"), *layers, L.Dense(5, name="b"), shape=shape)


def twice():
    return chain(a := L.Dense(9, "relu", name="a"), a, L.Dense(5, name="b"))


FIRST = {"data_format": "channels_first"}
STAYS = {
    "outputs": (lambda: chain(L.Dense(8, name="a")), "outputs"),
    "softmax": (lambda: chain(L.Dense(8, "softmax", name="a"), L.Dense(5)), "compares them"),
    "normalized together": (between(L.LayerNormalization(name="n")), "they go to n"),
    "two consumers": (two_consumers, "they go to b and c"),
    "fed by others": (fed_by_others, "b takes those of other layers"),
    "mixed": (between(L.Reshape((4, 2), name="r")), "r mixes them"),
    "its own input": (twice, "they go to a and b"),
    "through another model": (between(chain(L.ReLU(name="r"), shape=(8,))), "/r, in another model"),
    "pooled over neurons": (between(L.GlobalMaxPooling1D(**FIRST), shape=(12, 3)), "mixed"),
}


@pytest.mark.parametrize("name", STAYS)
def test_neurons_stay_for_a_reason(name):
    make, reason = STAYS[name]
    links, stay = neurons.links(make(), ["a"])
    assert links == {}
    assert reason in stay["a"]


@pytest.fixture(scope="module")
def redundant():
    """A network with a copied, a constant and a dead neuron, what it was shown, and seen."""
    keras.utils.set_random_seed(0)
    hidden = [L.Dense(n, "relu", name=name) for name, n in (("a", 12), ("b", 10))]
    model = chain(*hidden, L.Dense(3, name="out"))
    W, b = hidden[0].get_weights()
    W[:, 4], b[4] = W[:, 1], b[1]
    W[:, 7], b[7] = 0, 2.0
    W[:, 9], b[9] = 0, -1.0
    hidden[0].set_weights([W, b])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(2000, 9)).astype("float32")
    return model, x, compress.observe(model, x, "mse")


def test_what_nobody_needs_is_dropped_at_no_loss(redundant):
    model, x, seen = redundant
    found = seen.cut(parameters=model.count_params() - 3 * (9 + 1 + 10), ranks=False)
    assert found.widths == {"a": 9, "b": 10}
    matches(found.network(x), model(x), 1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_cut_has_the_size_that_was_promised(name):
    model = MODELS[name]()
    x = inputs(model, 200)
    seen = compress.observe(model, x, LOSS)
    found = seen.cut(fraction=0.75)
    assert found.met
    assert found.network.count_params() <= 0.75 * model.count_params()
    small = graph.leaves(found.network)
    for path, k in found.widths.items():
        last = small.get(path) or small[f"{path}_Vt"]
        assert last.weights[0].shape[-1] == k
    assert np.isfinite(found.network(x)).all()
    report = compress.report(model, found.network, seen)
    assert sum(row.rise or 0 for row in report.rows) == pytest.approx(found.rise, abs=1e-9)
    for path, reason in seen.stay.items():
        (note,) = [row.note for row in report.rows if row.layer == path]
        assert reason in note


def test_plain_keras_layers_come_out_and_can_be_trained(redundant, tmp_path):
    _, x, seen = redundant
    small = seen.cut(fraction=0.5).network
    small.fit(x, np.zeros((len(x), 3)), verbose=0)
    small.save(tmp_path / "small.keras")
    matches(keras.saving.load_model(tmp_path / "small.keras")(x), small(x), 1e-6)
    matches(cost.litert_function(cost.to_litert(small))(x[:1]), small(x[:1]))
