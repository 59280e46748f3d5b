"""What layers see, what the loss feels in them, and networks cut by it."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import compress, svd
from helpers.backend import keras, tf
from helpers.compress import feed, moments, watch

from .zoo import LOSS as LOGITS
from .zoo import matches, sixteen_bits

Dense = keras.layers.Dense
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)


def chain(use_bias=True, widths=(12, 9, 10)):
    keras.utils.set_random_seed(0)
    hidden = [Dense(n, "tanh", use_bias, bias_initializer="normal", name=f"d{n}") for n in widths]
    return keras.Sequential([keras.Input((8,)), *hidden, Dense(4, name="out")])


def branches():
    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    left = Dense(9, "relu", bias_initializer="normal", name="left")(x)
    right = Dense(7, use_bias=False, name="right")(x)
    joined = Dense(11, "tanh", name="joined")(keras.layers.Concatenate()([left, right]))
    return keras.Model(x, Dense(4, name="out")(keras.layers.Add()([joined, Dense(11)(joined)])))


def images(n=400, seed=0):
    mixed = np.random.default_rng(7).normal(size=(8, 8))
    x = np.random.default_rng(seed).normal(size=(n, 8))
    return (x @ mixed + 0.5).astype("float32")


def watched(model, names):
    return watch.watched(model, compress.cut.chosen(model, names))


@pytest.mark.parametrize("make", [chain, branches])
def test_moments_are_those_of_single_examples(make):
    """C from the layers' inputs; Γ from each example's gradient at each label, by its chance."""
    model, few = make(), images(6)
    names = compress.hidden_layers(model)
    seen = moments.measure(model, names, np.tile(few, (1500, 1)), LOGITS)
    probe, parts, *_ = watched(model, names)
    tensors = [[parts[name][0].output, parts[name][2].output] for name in names]
    probe = keras.Model(probe.inputs, [*probe.outputs, tensors])
    expected = {name: [0, 0] for name in names}
    for x in few:
        for label in range(4):
            with tf.GradientTape() as tape:
                logits, pairs = probe([x[None]])
                loss = LOGITS(np.array([label]), logits)
            chance = tf.nn.softmax(logits)[0, label].numpy()
            for name, (x_in, _), g in zip(
                names, pairs, tape.gradient(loss, [z for _, z in pairs]), strict=True
            ):
                expected[name][0] += chance * np.outer(x_in, x_in) / len(few)
                expected[name][1] += chance * np.outer(g, g) / len(few)
    for name, (C, Gamma) in expected.items():
        np.testing.assert_allclose(seen[name].C, C, atol=1e-4 * np.abs(C).max())
        off = np.linalg.norm(seen[name].Gamma - Gamma) / np.linalg.norm(Gamma)
        assert off < 0.15, name


def test_gamma_of_an_output_layer_is_known():
    """The curvature of the loss as Keras takes it: of cross-entropy diag(p) − ppᵀ."""
    model, x = chain(), np.tile(images(1), (20_000, 1))
    p = tf.nn.softmax(model(x[:1]))[0].numpy()
    Gamma = moments.measure(model, ["out"], x, LOGITS, 20_000)["out"].Gamma
    np.testing.assert_allclose(Gamma, np.diag(p) - np.outer(p, p), atol=0.01)
    Gamma = moments.measure(model, ["out"], x, "mean_squared_error", 20_000)["out"].Gamma
    np.testing.assert_allclose(Gamma, 2 / 4 * np.eye(4), atol=0.03)  # of a mean of squares
    p = tf.sigmoid(model(x[:1]))[0].numpy()
    Gamma = moments.measure(model, ["out"], x, BINARY, 20_000)["out"].Gamma
    np.testing.assert_allclose(Gamma, np.diag(p * (1 - p)) / 4, atol=0.01)


@pytest.mark.parametrize(
    ("activation", "name", "loss"),
    [
        ("softmax", "sparse_categorical_crossentropy", LOGITS),
        ("sigmoid", "binary_crossentropy", BINARY),
    ],
)
def test_probabilities_are_felt_as_their_logits_are(activation, name, loss):
    model, x = chain(), images()
    ends = keras.layers.Activation(activation)
    probabilities = keras.Sequential([keras.Input((8,)), *model.layers, ends])
    ours = moments.measure(probabilities, ["d9"], x, name)["d9"].Gamma
    logits = moments.measure(model, ["d9"], x, loss)["d9"].Gamma
    np.testing.assert_allclose(ours, logits, rtol=1e-2, atol=1e-4 * np.abs(logits).max())


def test_the_svds_are_weighted_by_what_is_seen_and_felt():
    model, x = branches(), images(2500)  # more than one batch
    hidden = keras.Model(model.input, model.get_layer("joined").input)(x).numpy().astype(float)
    W, C = model.get_layer("joined").kernel.numpy(), hidden.T @ hidden / len(hidden)
    Gamma = moments.measure(model, ["joined"], x, LOGITS)["joined"].Gamma
    seen, felt = (compress.observe(model, x, loss, layers=["joined"]) for loss in (None, LOGITS))
    for svds, weights in ((seen.svds, [C]), (felt.svds, [C, Gamma])):
        assert list(svds) == ["joined"]
        expected = svd.decompose(W, *weights)
        np.testing.assert_allclose(svds["joined"].s, expected.s, rtol=1e-3, atol=1e-4)


def test_half_of_the_squares_dropped_is_the_rise_of_the_loss():
    model, x = chain(), images(2000)
    svds = compress.observe(model, x, LOGITS).svds
    for name, D in {"d12": 7, "d9": 7, "d10": 6}.items():
        cut = compress.truncate(model, {name: D}, svds)
        p, q = (tf.nn.log_softmax(network(x)) for network in (model, cut))
        rise = np.mean(np.sum(np.exp(p) * (p - q), axis=1))
        assert rise == pytest.approx(np.sum(svds[name].s[D:] ** 2) / 2, rel=0.3)


def weights(network, name):
    """W and b of a layer that has become two."""
    U, (Vt, *bias) = (network.get_layer(f"{name}_{part}").get_weights() for part in ("U", "Vt"))
    return U[0] @ Vt, bias[0] if bias else 0


@pytest.mark.parametrize("use_bias", [True, False])
def test_each_layer_answers_no_worse_than_by_whitening(use_bias, monkeypatch):
    """By whitening of what it now sees."""
    monkeypatch.setattr(feed, "BATCH_SIZE", 150)
    model, x, D = chain(use_bias), images(), 3
    cut = compress.observe(model, x).layer_by_layer(D)
    whole, seen = x, x
    for name in ("d12", "d9", "d10"):
        kernel, bias = (*model.get_layer(name).get_weights(), 0)[:2]
        z = whole @ kernel + bias
        W, b = weights(cut, name)
        ours = seen @ W + b
        whitened = svd.decompose(kernel, seen.T @ seen / len(seen))
        theirs = seen @ svd.truncate(whitened, D) + bias
        assert np.linalg.matrix_rank(W, tol=1e-4) == D
        assert np.sum((ours - z) ** 2) <= np.sum((theirs - z) ** 2) * 1.001
        if use_bias:
            np.testing.assert_allclose(ours.mean(0), z.mean(0), atol=1e-3)
        whole, seen = np.tanh(z), np.tanh(ours)


def test_the_error_is_measured_by_what_the_loss_feels():
    model, x = chain(), images()
    Gamma = moments.measure(model, ["d12"], x, LOGITS)["d12"].Gamma
    lost = {}
    for loss in (None, LOGITS):
        W, b = weights(compress.observe(model, x, loss).layer_by_layer({"d12": 2}), "d12")
        error = x @ W + b - x @ model.get_layer("d12").kernel - model.get_layer("d12").bias
        lost[loss] = np.trace(Gamma @ error.T @ error)
    assert lost[LOGITS] < 0.9 * lost[None]


def test_inputs_are_taken_evenly_and_no_more_than_asked_for():
    model, x = chain(), images(1000)
    some, all_of_some = compress.observe(model, x, samples=200), compress.observe(model, x[::5])
    for name, factors in some.svds.items():
        np.testing.assert_allclose(factors.s, all_of_some.svds[name].s, rtol=1e-6)
    assert not np.allclose(compress.observe(model, x).svds["d12"].s, some.svds["d12"].s, rtol=1e-3)


def test_batches_fit_in_memory_and_say_how_far_they_are(monkeypatch):
    said, x = [], images(7)
    probe = watched(chain(), ["d12"])  # 8 numbers come in, 12 go out; a row of 8
    monkeypatch.setattr(feed, "Line", lambda after: SimpleNamespace(say=said.append))
    monkeypatch.setattr(feed, "BATCH_SIZE", 4)

    def sizes(limit, numbers):
        monkeypatch.setattr(feed, limit, numbers)
        batches = [batch for (batch,) in feed.batches([x], "seeing", probe)]
        np.testing.assert_array_equal(np.concatenate(batches), x)
        return [len(batch) for batch in batches]

    assert sizes("NUMBERS", 1000) == [4, 3]
    assert said == ["seeing: 4 of 7 inputs", "seeing: 7 of 7 inputs"]
    assert sizes("NUMBERS", 3 * 28) == [3, 3, 1]
    assert sizes("NUMBERS", 1) == [1] * 7
    monkeypatch.setattr(feed, "NUMBERS", 1000)
    through = 8 + 8 + 3 * 12 + 9 + 10 + 4  # in and through, 12 three times, 9, 10 and 4 out
    assert sizes("PASSING", 3 * through) == [3, 3, 1]


def test_of_many_rows_some_are_drawn_the_same_in_both_networks(monkeypatch):
    keras.utils.set_random_seed(0)
    convolutions = [keras.layers.Conv2D(n, 3, activation="relu", name=f"c{n}") for n in (4, 5)]
    ends = [keras.layers.Flatten(), Dense(4, name="out")]
    model = keras.Sequential([keras.Input((8, 8, 2)), *convolutions, *ends])
    x = np.random.default_rng(0).normal(size=(300, 8, 8, 2)).astype("float32")
    every = compress.observe(model, x)
    monkeypatch.setattr(moments, "PRODUCT", 2000 * 6**2)  # of 14,400 rows (3 · 2) of c4, 2,000
    some = compress.observe(model, x)
    for name, (_, s, _) in some.svds.items():
        np.testing.assert_allclose(s, every.svds[name].s, rtol=0.1)
        assert np.abs(s / every.svds[name].s - 1).max() > 1e-6
    matches(some.layer_by_layer(99)(x), model(x))  # W, by X = C W, whichever the rows


def test_a_layer_used_twice_is_fitted_to_both_places():
    keras.utils.set_random_seed(0)
    shared, start = Dense(8, "tanh", name="shared"), keras.Input((8,))
    model, x = keras.Model(start, Dense(4)(shared(shared(start)))), images()
    both = np.concatenate([x, shared(x)]).astype(float)
    C, W = np.cov(both.T, bias=True), shared.kernel.numpy()
    expected = svd.truncate(svd.decompose(svd.regress(C, C @ W, W), C), 3)
    cut = compress.observe(model, x, layers=["shared"]).layer_by_layer(3)
    np.testing.assert_allclose(weights(cut, "shared")[0], expected, atol=1e-4)


def test_between_residual_sums_each_piece_runs_once(monkeypatch):
    """Once for each network, not from the inputs on for each of five layers."""
    ran, small, inputs = [], [], keras.Input((8,))

    class Noted(keras.layers.Layer):
        def call(self, x):
            ran.append(len(x) if hasattr(x, "numpy") else 0)
            return x

    x = Dense(9, "relu")(Noted()(inputs))
    for _ in range(4):
        x = keras.layers.Add()([x, Dense(9, "relu")(x)])
    seen = compress.observe(keras.Model(inputs, Dense(4)(x)), images())
    for kept, times in ((moments.KEPT, 1), (0, 5)):
        monkeypatch.setattr(moments, "KEPT", kept)
        ran.clear()
        small.append(seen.layer_by_layer(4)(images()))
        assert 0 <= sum(ran) - (2 * times + 1) * 400 < 20  # a few for estimates
    np.testing.assert_allclose(*small, atol=1e-4)


def test_a_large_mean_costs_no_accuracy():
    """In float32 the squares of 300 hide a variance of 1."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((20,)), Dense(30, name="d30"), Dense(4, name="out")])
    x = (rng.normal(size=(3000, 20)) + 300).astype("float32")
    cut = compress.observe(model, x, layers=["d30"]).layer_by_layer(8)
    W, rows = model.get_layer("d30").kernel.numpy().astype(float), x.astype(float)
    least = np.sum(svd.decompose(W, np.cov(rows.T, bias=True)).s[8:] ** 2)
    kernel, bias = weights(cut, "d30")
    lost = rows @ W - rows @ kernel - bias
    assert np.mean(np.sum(lost**2, axis=1)) < 1.02 * least


def test_networks_cut_by_zeros_are_finite():
    model, x = chain(), np.zeros((200, 8), "float32")
    seen = compress.observe(model, x, LOGITS)
    for small in (seen.layer_by_layer(2), compress.factorize(model, 2, seen.svds)):
        assert np.isfinite(small(images())).all()


def test_each_output_draws_labels_of_its_own():
    """Two outputs of h and −h: were their labels drawn alike, nothing would be felt of h."""
    start = keras.Input((8,))
    h = Dense(5, name="h")(start)
    model = keras.Model(start, [Dense(5, name="plus")(h), Dense(5, name="minus")(h)])
    for name, sign in (("plus", 1), ("minus", -1)):
        model.get_layer(name).kernel.assign(sign * np.eye(5))
    Gamma = moments.measure(model, ["h"], images(4000), "mse")["h"].Gamma
    np.testing.assert_allclose(Gamma, 2 * 2 / 5 * np.eye(5), atol=0.1)  # each a mean of squares


def test_inputs_are_told_apart_by_their_names():
    starts = [keras.Input((8,), name=name) for name in ("b", "a")]
    ends = [Dense(3, name=f"of_{x.name}")(x) for x in starts]
    inputs = {"a": images(seed=1), "b": images(seed=2)}
    named, listed = dict(zip(("b", "a"), starts, strict=True)), [inputs["b"], inputs["a"]]
    for structure, given in ((starts, inputs), (named, inputs), (starts, listed)):
        seen = moments.measure(keras.Model(structure, ends), ["of_a", "of_b"], given)
        for name, x in inputs.items():
            np.testing.assert_allclose(seen[f"of_{name}"].C, x.T @ x / len(x), rtol=1e-4)
    alone = keras.Sequential([keras.Input((8,), name="x"), Dense(5, name="d"), Dense(3)])
    C = moments.measure(alone, ["d"], {"x": inputs["a"]})["d"].C
    np.testing.assert_allclose(C, inputs["a"].T @ inputs["a"] / 400, rtol=1e-4)
    model = keras.Model(starts, ends)
    with pytest.raises(ValueError, match=r"inputs \['b', 'a'\], and \['b'\] are missing"):
        moments.measure(model, ["of_a"], {"a": images()})
    with pytest.raises(ValueError, match=r"equally many, these are \[5, 400\]"):
        moments.measure(model, ["of_a"], [images(5), images()])


def test_classes_lie_along_the_axis_that_the_loss_says():
    image = keras.Input((3, 6, 5))
    first = {"data_format": "channels_first"}
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Conv2D(4, 3, activation="relu", name="c", **first)(image)
    classes = keras.layers.Conv2D(7, 1, **first)(hidden)
    last = keras.Model(image, keras.layers.Permute((2, 3, 1))(classes))
    x = np.random.default_rng(0).normal(size=(200, 3, 6, 5))
    loss = keras.losses.CategoricalCrossentropy
    expected = moments.measure(last, ["c"], x, loss(from_logits=True))["c"].Gamma
    found = moments.measure(keras.Model(image, classes), ["c"], x, loss(from_logits=True, axis=1))
    np.testing.assert_allclose(found["c"].Gamma, expected, rtol=1e-4)


@sixteen_bits
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_loss_of_sixteen_bits_is_summed_in_thirty_two(policy):
    """Of 800 outputs and 1,000 inputs: far beyond the largest number in 16 bits, 65,504."""

    def felt(dtype):
        keras.utils.set_random_seed(0)
        h, out = Dense(9, dtype=dtype, name="h"), Dense(800, dtype=dtype)
        model = keras.Sequential([keras.Input((8,)), h, out])
        return moments.measure(model, ["h"], images(1000), "mse")["h"].Gamma

    found, expected = felt(policy), felt("float32")
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.05


def test_a_layer_that_no_loss_feels_is_whitened():
    x = keras.Input((8,))
    model = keras.Model(x, [Dense(3)(Dense(6, name="d")(x)), Dense(4)(x)])
    losses = [None, LOGITS]
    assert not moments.measure(model, ["d"], images(), losses)["d"].Gamma.any()
    svds = (compress.observe(model, images(), loss).svds for loss in (losses, None))
    two_sided, whitened = (svd.truncate(factors["d"], 2) for factors in svds)
    np.testing.assert_allclose(two_sided, whitened, atol=1e-5)


WRONG = {
    "5 inputs are too few": {"inputs": images(5)},
    r"takes inputs of shape \[\(8,\)\], these are \[\(5,\)\]": {"inputs": images()[:, :5]},
    "gives no batch": {"inputs": iter([])},
    "labels can be drawn": {"loss": "hinge"},
    "no such loss": {"loss": "no such loss"},
    "out is no probability: logits need from_logits=True": {"loss": "categorical_crossentropy"},
    "cannot be compressed": {"layers": ["d7"]},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_measurement_is_one_sentence(message):
    with pytest.raises(ValueError, match=message):
        compress.observe(chain(), **{"inputs": images()} | WRONG[message])


def test_wrong_ranks_layer_by_layer_are_one_sentence():
    seen = compress.observe(chain(), images(), layers=["d12", "d9"])
    with pytest.raises(ValueError, match="D must be a whole number"):
        seen.layer_by_layer({"d9": 2.5})
    with pytest.raises(ValueError, match=r"\['d10'\] were not observed; these were: \['d12', 'd9"):
        seen.layer_by_layer({"d9": 2, "d10": 2})


def two_outputs():
    x = keras.Input((8,), name="x")
    h = Dense(9, "tanh", name="h")(x)
    return keras.Model(x, {"a": Dense(4, name="a")(h), "b": Dense(3, name="b")(h)})


def test_several_outputs_have_losses_as_compile_takes_them():
    model, x = two_outputs(), images()

    def felt(loss, weights=None):
        return moments.measure(model, ["h"], x, loss, weights=weights)["h"].Gamma

    a, b = (felt({name: loss}) for name, loss in (("a", LOGITS), ("b", "mse")))
    for both in ({"a": LOGITS, "b": "mse"}, [LOGITS, "mse"]):
        expected = a + b  # labels are drawn apart, so that products of both vanish in the mean
        np.testing.assert_allclose(felt(both), expected, atol=0.2 * np.abs(expected).max())
    np.testing.assert_allclose(felt([LOGITS, None]), a)
    np.testing.assert_allclose(felt([LOGITS, None], [2, 1]), 2 * a, rtol=1e-4)
    model.compile("sgd", {"a": LOGITS, "b": "mse"})
    np.testing.assert_allclose(felt(model.loss), felt({"a": LOGITS, "b": "mse"}))
    for wrong, said in [
        ({"c": "mse"}, r"losses for \['c'\]; the outputs are \['a', 'b'\]"),
        (["mse"], "1 losses for the outputs"),
        ([None, None], "none of the outputs"),
        ({"b": "binary_crossentropy"}, "output b is no probability"),
    ]:
        with pytest.raises(ValueError, match=said):
            felt(wrong)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, i):
        return images()[80 * i : 80 * (i + 1)], np.zeros(80)


def test_inputs_come_as_fit_takes_them():
    model, x, rows = two_outputs(), images(), tf.data.Dataset.from_tensor_slices
    expected = moments.measure(model, ["h"], x)["h"].C
    endless = rows((x, x[:, 0])).batch(400).repeat()
    for given in (rows(x).batch(64), endless, itertools.repeat(({"x": x}, x[:, 0])), Batches()):
        found = moments.measure(model, ["h"], given, samples=400)["h"].C
        np.testing.assert_allclose(found, expected, rtol=1e-5)
