from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize

from helpers import compress, moments, svd
from helpers.backend import keras, tf
from helpers.compress import drawn, feed, watch

Dense = keras.layers.Dense
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


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


@keras.saving.register_keras_serializable(package="tests")
class Stopped(keras.layers.Layer):
    """Lets values through, but no gradients."""

    def call(self, x):
        return tf.stop_gradient(x)


def images(n=400, seed=0):
    mixed = np.random.default_rng(7).normal(size=(8, 8))
    x = np.random.default_rng(seed).normal(size=(n, 8))
    return (x @ mixed + 0.5).astype("float32")


def test_what_is_watched_computes_in_the_precision_of_its_layers():
    ends = [Dense(n, "tanh", dtype="float64", name=f"d{n}") for n in (6, 3)]
    model = keras.Sequential([keras.Input((8,), dtype="float64"), *ends])
    x = tf.constant(images(5), tf.float64)
    (found,), _, _ = watch.watched(model, ["d6", "d3"]).run([x])
    np.testing.assert_allclose(found, model(x), atol=1e-13)


def test_after_a_run_nothing_is_noted_any_more():
    probe = watch.watched(chain(), ["d12", "d9"])
    probe.run([tf.constant(images(5))])
    assert all(part.note is None for ends in probe.parts.values() for part in ends[::2])


def spd(n, rng, rank=None):
    A = rng.normal(size=(rank or 2 * n, n))
    return A.T @ A / len(A)


@pytest.mark.parametrize("D", [1, 2, 3])
def test_two_sided_truncation_is_the_best_that_descent_finds(D):
    rng = np.random.default_rng(D)
    W, C, Gamma = rng.normal(size=(5, 4)), spd(5, rng), spd(4, rng)

    def rise(W_D):
        return np.trace(Gamma @ (W - W_D).T @ C @ (W - W_D))

    def of_factors(flat):
        return rise(flat[: 5 * D].reshape(5, D) @ flat[5 * D :].reshape(D, 4))

    found = min(minimize(of_factors, rng.normal(size=9 * D)).fun for _ in range(8))
    factors = svd.decompose(W, C, Gamma)
    ours = rise(svd.truncate(factors, D))
    assert ours == pytest.approx(np.sum(factors.s[D:] ** 2), rel=1e-9)
    assert ours <= found * (1 + 1e-9)
    assert ours == pytest.approx(found, rel=1e-3)
    for other in (svd.decompose(W), svd.decompose(W, C), svd.decompose(W, Gamma=Gamma)):
        assert rise(svd.truncate(other, D)) > ours


@pytest.mark.parametrize("zero", ["W", "C", "Gamma", "C Gamma"])
def test_whatever_vanishes_the_factors_are_finite_and_give_the_matrix_back(zero):
    rng = np.random.default_rng(0)
    parts = {"W": rng.normal(size=(5, 4)), "C": spd(5, rng, rank=2), "Gamma": spd(4, rng, rank=1)}
    parts |= {name: 0 * parts[name] for name in zero.split()}
    factors = svd.decompose(**parts)
    assert all(np.isfinite(part).all() for part in factors)
    np.testing.assert_allclose(svd.truncate(factors, 4), parts["W"], atol=1e-6)


@pytest.mark.parametrize(
    ("C", "Gamma", "message"),
    [
        (np.eye(3), None, "C must be"),
        (None, np.eye(5), "Γ must be"),
        (np.full((5, 5), np.nan), None, "finite"),
    ],
)
def test_moments_that_do_not_fit_are_one_sentence(C, Gamma, message):
    with pytest.raises(ValueError, match=message):
        svd.decompose(np.ones((5, 4)), C, Gamma)


@pytest.mark.parametrize("D", [1, 3, 4, 9])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (5, 5)])
def test_leading_terms_alone_are_those_of_the_whole(shape, D):
    rng = np.random.default_rng(0)
    W, C, Gamma = rng.normal(size=shape), spd(shape[0], rng), spd(shape[1], rng)
    for weights in ((), (C,), (C, Gamma), (None, Gamma)):
        whole, leading = svd.decompose(W, *weights), svd.decompose(W, *weights, D=D)
        np.testing.assert_allclose(leading.s, whole.s[:D], atol=1e-10)
        np.testing.assert_allclose(svd.truncate(leading, D), svd.truncate(whole, D), atol=1e-9)


def test_rank_one_regression_is_the_best_of_all_directions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) * [2, 1, 0.5]
    z = x @ rng.normal(size=(3, 2)) + rng.normal(size=(60, 2))
    C, X = x.T @ x / 60, x.T @ z / 60
    W = svd.truncate(svd.regress(C, X, np.zeros((3, 2))), D=1)
    ours = np.sum((z - x @ W) ** 2)

    def error(angle):  # of the best rank-1 matrix u vᵀ with v in this direction
        v = np.array([np.cos(angle), np.sin(angle)])
        u = np.linalg.lstsq(x, z @ v)[0]
        return np.sum((z - np.outer(x @ u, v)) ** 2)

    best = min(error(angle) for angle in np.linspace(0, np.pi, 2000))
    assert ours == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("make", [chain, branches])
def test_moments_are_those_of_single_examples(make):
    """C from the layers' inputs; Γ from each example's gradient at each label, by its chance."""
    model, few = make(), images(6)
    names = compress.hidden_layers(model)
    seen = moments.observe(model, names, np.tile(few, (1500, 1)), LOGITS)
    watched, parts, _ = watch.watched(model, names)
    tensors = [[parts[name][1].input, parts[name][1].output] for name in names]
    probe = keras.Model(watched.inputs, [*watched.outputs, tensors])
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
    """Cross-entropy: diag(p) − ppᵀ; squared error: the identity."""
    model, x = chain(), np.tile(images(1), (20_000, 1))
    p = tf.nn.softmax(model(x[:1]))[0].numpy()
    Gamma = moments.observe(model, ["out"], x, LOGITS, 20_000)["out"].Gamma
    np.testing.assert_allclose(Gamma, np.diag(p) - np.outer(p, p), atol=0.01)
    Gamma = moments.observe(model, ["out"], x, "mean_squared_error", 20_000)["out"].Gamma
    np.testing.assert_allclose(Gamma, np.eye(4), atol=0.05)
    p = tf.sigmoid(model(x[:1]))[0].numpy()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    Gamma = moments.observe(model, ["out"], x, loss, 20_000)["out"].Gamma
    np.testing.assert_allclose(Gamma, np.diag(p * (1 - p)), atol=0.02)


def test_probabilities_are_felt_as_their_logits_are():
    model = chain()
    soft = keras.Sequential([keras.Input((8,)), *model.layers, keras.layers.Softmax()])
    x = images()
    ours = moments.observe(soft, ["d9"], x, "sparse_categorical_crossentropy")["d9"].Gamma
    logits = moments.observe(model, ["d9"], x, LOGITS)["d9"].Gamma
    np.testing.assert_allclose(ours, logits, rtol=1e-2, atol=1e-4 * np.abs(logits).max())


@pytest.mark.parametrize("loss", [None, LOGITS])
@pytest.mark.parametrize("make", [chain, branches, lambda: chain(use_bias=False)])
def test_layer_after_layer_at_full_rank_returns_the_model(make, loss):
    model, x = make(), images()
    same = compress.truncate(model, 100, inputs=x, loss=loss)
    for ours, theirs in zip(same.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    np.testing.assert_allclose(same(x), model(x), atol=1e-3)


@pytest.mark.parametrize("use_bias", [True, False])
def test_each_layer_answers_no_worse_than_by_whitening_what_it_now_sees(use_bias):
    model, x, D = chain(use_bias), images(), 3
    cut = compress.truncate(model, D, inputs=x)
    whole, seen = x, x
    for name in ("d12", "d9", "d10"):
        before, after = model.get_layer(name), cut.get_layer(name)
        bias = before.bias.numpy() if use_bias else 0
        z = whole @ before.kernel.numpy() + bias
        ours = seen @ after.kernel.numpy() + (after.bias.numpy() if use_bias else 0)
        whitened = svd.decompose(before.kernel.numpy(), seen.T @ seen / len(seen))
        theirs = seen @ svd.truncate(whitened, D) + bias
        assert np.linalg.matrix_rank(after.kernel.numpy(), tol=1e-4) == D
        assert np.sum((ours - z) ** 2) <= np.sum((theirs - z) ** 2) * 1.001
        if use_bias:
            np.testing.assert_allclose(ours.mean(0), z.mean(0), atol=1e-3)
        whole, seen = np.tanh(z), np.tanh(ours)


@pytest.mark.parametrize("make", [chain, branches])
def test_factors_give_what_the_truncated_network_gives(make):
    model, x = make(), images()
    arguments = {"inputs": x, "loss": LOGITS}
    truncated = compress.truncate(model, 3, **arguments)
    factorized = compress.factorize(model, 3, **arguments)
    np.testing.assert_allclose(factorized(x), truncated(x), atol=1e-4)
    assert factorized.count_params() < model.count_params()


def test_layers_not_chosen_are_left_alone_and_order_does_not_matter():
    model, x = chain(), images()
    cut = compress.truncate(model, [2, 3], layers=["d10", "d12"], inputs=x)
    again = compress.truncate(model, [3, 2], layers=["d12", "d10"], inputs=x)
    for ours, theirs in zip(cut.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(cut.get_layer("d9").kernel, model.get_layer("d9").kernel)
    assert np.linalg.matrix_rank(cut.get_layer("d12").kernel, tol=1e-4) == 3


def test_inputs_are_taken_evenly_and_no_more_than_asked_for():
    model, x = chain(), images(1000)
    every_fifth = x[::5]
    C = moments.observe(model, ["d12"], x, samples=200)["d12"].C
    np.testing.assert_allclose(C, every_fifth.T @ every_fifth / 200, rtol=1e-4, atol=1e-4)


def test_a_batch_is_as_large_as_memory_allows_and_says_how_far_it_is(monkeypatch):
    said, x = [], images(7)
    probe = watch.watched(chain(), ["d12"])  # 8 numbers come in and 12 go out
    monkeypatch.setattr(feed, "Line", lambda after: SimpleNamespace(say=said.append))
    monkeypatch.setattr(feed, "BATCH_SIZE", 4)
    for numbers, sizes in [
        (1000, [4, 3]),
        (3 * 20, [3, 3, 1]),
        (3 * 20 - 1, [2, 2, 2, 1]),
        (1, [1] * 7),
    ]:
        monkeypatch.setattr(feed, "NUMBERS", numbers)
        batches = [batch for (batch,) in feed.batches([x], "seeing", probe, probe.model)]
        assert [len(batch) for batch in batches] == sizes
        np.testing.assert_array_equal(np.concatenate(batches), x)
    assert said[:2] == ["seeing: 4 of 7 inputs", "seeing: 7 of 7 inputs"]


def test_a_layer_used_twice_is_fitted_to_what_it_sees_in_both_places():
    keras.utils.set_random_seed(0)
    shared, start = Dense(8, "tanh", name="shared"), keras.Input((8,))
    model, x = keras.Model(start, Dense(4)(shared(shared(start)))), images()
    both = np.concatenate([x, shared(x)]).astype(float)
    C, W = np.cov(both.T, bias=True), shared.kernel.numpy()
    expected = svd.truncate(svd.regress(C, C @ W, W), 3)
    cut = compress.truncate(model, 3, layers=["shared"], inputs=x)
    np.testing.assert_allclose(cut.get_layer("shared").kernel, expected, atol=1e-4)


@pytest.mark.parametrize("offset", [0, 300])
def test_a_large_mean_costs_no_accuracy(offset):
    """In float32 the squares of 300 hide a variance of 1."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20,)), Dense(30, name="d30"), Dense(4, name="out")])
    x = (rng.normal(size=(3000, 20)) + offset).astype("float32")
    cut = compress.truncate(model, 8, layers=["d30"], inputs=x)
    W = model.get_layer("d30").kernel.numpy().astype(float)
    rows = x.astype(float)
    least = np.sum(svd.decompose(W, np.cov(rows.T, bias=True)).s[8:] ** 2)
    lost = rows @ W - rows @ cut.get_layer("d30").kernel.numpy() - cut.get_layer("d30").bias
    assert np.mean(np.sum(lost**2, axis=1)) < 1.02 * least


def test_what_sees_nothing_but_zeros_stays_finite_in_float32():
    model, x = chain(), np.zeros((200, 8), "float32")
    for balanced in (True, False):
        small = compress.factorize(model, 2, inputs=x, balanced=balanced)
        np.testing.assert_allclose(small(x), compress.truncate(model, 2, inputs=x)(x), atol=1e-4)
        assert np.isfinite(small(images())).all()


def test_a_network_with_many_outputs_inside_runs_on_small_batches(monkeypatch):
    probe = watch.watched(chain(), ["d12"])
    monkeypatch.setattr(feed, "PASSING", 1000)  # 8 in and through, 12 three times, 9, 10 and 4 out
    sizes = [len(b) for (b,) in feed.batches([images()], "seeing", probe, probe.model)]
    assert max(sizes) == 1000 // (8 + 8 + 3 * 12 + 9 + 10 + 4)


def test_each_output_draws_labels_of_its_own():
    """Two outputs of h and −h: were their labels drawn alike, nothing would be felt of h."""
    start = keras.Input((8,))
    h = Dense(5, name="h")(start)
    model = keras.Model(start, [Dense(5, name="plus")(h), Dense(5, name="minus")(h)])
    for name, sign in (("plus", 1), ("minus", -1)):
        model.get_layer(name).kernel.assign(sign * np.eye(5))
    Gamma = moments.observe(model, ["h"], images(4000), "mse")["h"].Gamma
    np.testing.assert_allclose(Gamma, 2 * np.eye(5), atol=0.2)


def test_inputs_are_told_apart_by_their_names():
    starts = [keras.Input((8,), name=name) for name in ("b", "a")]
    ends = [Dense(3, name=f"of_{x.name}")(x) for x in starts]
    inputs = {"a": images(seed=1), "b": images(seed=2)}
    for structure in (starts, dict(zip(("b", "a"), starts, strict=True))):
        seen = moments.observe(keras.Model(structure, ends), ["of_a", "of_b"], inputs)
        for name, x in inputs.items():
            np.testing.assert_allclose(seen[f"of_{name}"].C, x.T @ x / len(x), rtol=1e-4)
    model = keras.Model(starts, ends)
    with pytest.raises(ValueError, match=r"inputs \['b', 'a'\], and \['b'\] are missing"):
        moments.observe(model, ["of_a"], {"a": images()})
    with pytest.raises(ValueError, match=r"equally many, these are \[5, 400\]"):
        moments.observe(model, ["of_a"], [images(5), images()])


def test_a_sequential_takes_its_input_by_name_as_predict_does():
    model = keras.Sequential([keras.Input((8,), name="x"), Dense(5, name="d"), Dense(3)])
    named, plain = (moments.observe(model, ["d"], x) for x in ({"x": images()}, images()))
    np.testing.assert_array_equal(named["d"].C, plain["d"].C)


def test_classes_lie_along_the_axis_that_the_loss_says():
    image = keras.Input((3, 6, 5))
    first = {"data_format": "channels_first"}
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Conv2D(4, 3, activation="relu", name="c", **first)(image)
    classes = keras.layers.Conv2D(7, 1, **first)(hidden)
    last = keras.Model(image, keras.layers.Permute((2, 3, 1))(classes))
    x = np.random.default_rng(0).normal(size=(200, 3, 6, 5))
    loss = keras.losses.CategoricalCrossentropy
    expected = moments.observe(last, ["c"], x, loss(from_logits=True))["c"].Gamma
    found = moments.observe(keras.Model(image, classes), ["c"], x, loss(from_logits=True, axis=1))
    np.testing.assert_allclose(found["c"].Gamma, expected, rtol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_loss_of_sixteen_bits_is_summed_in_thirty_two(policy):
    """Of 800 outputs and 1,000 inputs: far beyond the largest number in 16 bits, 65,504."""

    def felt(dtype):
        keras.utils.set_random_seed(0)
        h, out = Dense(9, dtype=dtype, name="h"), Dense(800, dtype=dtype)
        model = keras.Sequential([keras.Input((8,)), h, out])
        return moments.observe(model, ["h"], images(1000), "mse")["h"].Gamma

    found, expected = felt(policy), felt("float32")
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.05


def test_of_sequences_every_position_counts():
    keras.utils.set_random_seed(0)
    sequence = keras.Input((5, 8))
    hidden = Dense(6, "relu", name="d")(sequence)
    model = keras.Model(sequence, Dense(4, name="out")(keras.layers.Flatten()(hidden)))
    x = images(2000).reshape(400, 5, 8)
    rows = x.reshape(-1, 8)
    seen = moments.observe(model, ["d"], x, LOGITS)["d"]
    np.testing.assert_allclose(seen.C, rows.T @ rows / 2000, rtol=1e-4, atol=1e-4)
    assert seen.Gamma.shape == (6, 6)
    cut = compress.truncate(model, 6, layers=["d"], inputs=x)
    np.testing.assert_allclose(cut(x), model(x), atol=1e-2)


def test_a_layer_that_the_loss_does_not_feel_is_cut_as_by_whitening():
    x = keras.Input((8,))
    stopped = Stopped()(Dense(6, name="d")(x))
    model = keras.Model(x, Dense(4, name="out")(stopped))
    assert not moments.observe(model, ["d"], images(), LOGITS)["d"].Gamma.any()
    svds = (compress.decompose(model, inputs=images(), loss=loss) for loss in (LOGITS, None))
    two_sided, whitened = (svd.truncate(factors["d"], 2) for factors in svds)
    np.testing.assert_allclose(two_sided, whitened, atol=1e-5)


def test_two_inputs_are_taken_as_predict_takes_them():
    a, b = keras.Input((3,)), keras.Input((5,))
    joined = keras.layers.Concatenate()([a, b])
    model = keras.Model([a, b], Dense(4, name="out")(Dense(6, name="d")(joined)))
    x = images()
    C = moments.observe(model, ["d"], [x[:, :3], x[:, 3:]])["d"].C
    np.testing.assert_allclose(C, x.T @ x / len(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": images()[:, :5]}, r"takes inputs of shape \[\(8,\)\], these are \[\(5,\)\]"),
        ({"inputs": images(5)}, "5 inputs are too few"),
        ({"inputs": images(), "loss": "hinge"}, "labels can be drawn"),
        ({"inputs": images(), "loss": "no such loss"}, "no such loss"),
        ({"loss": LOGITS}, "give both"),
        ({"inputs": images(), "svds": {}}, "not both"),
        ({"inputs": images(), "layers": ["d7"]}, "cannot be compressed"),
        (
            {"inputs": images(), "loss": "sparse_categorical_crossentropy"},
            "the loss is not finite: logits need from_logits=True",
        ),
    ],
    ids=["width", "few", "hinge", "name", "no inputs", "both", "layer", "logits"],
)
def test_what_cannot_be_measured_is_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        compress.truncate(chain(), 2, **arguments)


def test_what_a_network_sees_does_not_depend_on_how_it_is_compiled():
    class Own(keras.optimizers.SGD):
        """Not registered: Keras cannot make it anew."""

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    tensor = keras.Input((6,))
    outputs = keras.layers.Dense(3)(keras.layers.Dense(4, name="hidden")(tensor))
    functional = keras.Model(tensor, outputs)
    layers = [keras.Input((6,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(3)]
    sequential = keras.Sequential(layers)
    nested = keras.Sequential([keras.Input((6,)), keras.models.clone_model(functional)])
    inside = f"{nested.layers[0].name}/hidden"
    for network, name in ((functional, "hidden"), (sequential, "hidden"), (nested, inside)):
        before = moments.observe(network, [name], x, "mse")[name]
        for part in (network, *network.layers):
            if isinstance(part, keras.Model):
                part.compile(Own(), "mse")
        after = moments.observe(network, [name], x, "mse")[name]
        np.testing.assert_array_equal(before.C, after.C)
        np.testing.assert_array_equal(before.Gamma, after.Gamma)


def test_labels_are_drawn_as_often_as_the_network_says():
    p = np.array([0.6, 0.3, 0.1])
    rows = tf.constant(np.tile(np.log(p) + 2.0, (20_000, 1)))  # of logits a constant says nothing
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        found = drawn.surprise(loss)(rows, 0)
    drawn_at = p - tape.gradient(found, rows).numpy().mean(0)  # the gradient is p − label
    np.testing.assert_allclose(drawn_at, p, atol=0.012)  # three standard deviations and more
    assert float(found) / 20_000 == pytest.approx(-np.sum(p * np.log(p)), rel=0.03)
    assert drawn.surprise(loss)(rows, 1) != found
