import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import compress, layers, model
from helpers.backend import keras, tf

from .conftest import dynamic_layer, gradients, with_spectrum

Dense, DynamicDense = keras.layers.Dense, layers.DynamicDense
DERIVATIVES = list(layers.DERIVATIVES)


def truncate(W, D):
    """An independent rank-D truncation in float64."""
    U, s, Vt = np.linalg.svd(np.asarray(W, dtype=float), full_matrices=False)
    return U[:, :D] @ np.diag(s[:D]) @ Vt[:D]


def product_of(svd):
    U, s, Vt = svd
    return (U * s) @ Vt


# The forward pass and its derivatives


@st.composite
def cases(draw):
    """W with a clear spectral gap at D, x and dy; wide and tall."""
    n_in, n_out = draw(st.integers(2, 25)), draw(st.integers(2, 25))
    D = draw(st.integers(1, min(n_in, n_out) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    s = np.sort(rng.uniform(0.1, 1, min(n_in, n_out)))[::-1]
    s[:D] += 0.3
    x, dy = rng.normal(size=(7, n_in)), rng.normal(size=(7, n_out))
    return with_spectrum((n_in, n_out), s, rng), D, x, dy, rng


@settings(max_examples=15)
@given(cases())
def test_derivatives_match_finite_differences(case):
    W, D, x, dy, rng = case
    layer, G = dynamic_layer(W, D), x.T @ dy
    X, h = rng.normal(size=W.shape), 1e-6

    def finite_difference(at):
        return (truncate(at + h * X, D) - truncate(at - h * X, D)) / (2 * h)

    # At a matrix of rank D the truncation itself is, to first order, the tangent projection.
    for derivative, at in (("exact", W), ("tangent", truncate(W, D))):
        layer.derivative = derivative
        y, dx, dW = gradients(layer, x, dy)
        moved = finite_difference(at)
        scale = np.linalg.norm(G) * np.linalg.norm(moved)
        assert abs(np.vdot(G, moved) - np.vdot(dW, X)) < 1e-6 * scale
        np.testing.assert_allclose(y, x @ truncate(W, D), atol=1e-10)
        np.testing.assert_allclose(dx, dy @ truncate(W, D).T, atol=1e-10)
    layer.derivative = "straight_through"
    np.testing.assert_allclose(gradients(layer, x, dy)[2], G, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "activation", "use_bias"), [((5, 8), "relu", True), ((8, 5), None, False)]
)
def test_forward_is_the_dense_layer_of_W_D(shape, activation, use_bias):
    rng = np.random.default_rng(0)
    W = rng.normal(size=shape)
    options = {"activation": activation, "use_bias": use_bias, "bias_initializer": "normal"}
    layer = dynamic_layer(W, 3, **options)
    dense = Dense(shape[1], dtype="float64", **options)
    dense.build((None, shape[0]))
    dense.set_weights([truncate(W, 3), *layer.get_weights()[1 : 1 + use_bias]])
    for x in rng.normal(size=(4, shape[0])), rng.normal(size=(2, 3, shape[0])):
        np.testing.assert_allclose(layer(x), dense(x), atol=1e-9)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_gradients_of_sequences_are_those_of_their_rows(derivative):
    rng = np.random.default_rng(0)
    layer = dynamic_layer(with_spectrum((6, 9), [4, 3, 2, 0.5, 0.3, 0.1]), 3, derivative)
    x, dy = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 5, 9))
    _, dx, dW = gradients(layer, x, dy)
    _, rows, of_rows = gradients(layer, x.reshape(10, 6), dy.reshape(10, 9))
    np.testing.assert_allclose(dx, tf.reshape(rows, (2, 5, 6)), atol=1e-10)
    np.testing.assert_allclose(dW, of_rows, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "s", [np.zeros(6), np.ones(6), [2, 2, 2, 2, 1, 1], [3, 1, 0, 0, 0, 0]], ids=str
)
def test_equal_or_zero_singular_values_give_no_nan(s, dtype):
    rng = np.random.default_rng(0)
    W, x, dy = (a.astype(dtype) for a in (with_spectrum((8, 6), s), *rng.normal(size=(2, 4, 8))))
    layer = dynamic_layer(W, 3, dtype=dtype)
    for layer.derivative in DERIVATIVES:
        for layer.tracking in layers.TRACKING:
            layer.kernel.assign(W)
            layer.refresh()
            for _ in range(3):
                y, dx, dW = gradients(layer, x, dy[:, :6], training=True)
                assert all(np.isfinite(part).all() for part in (y, dx, dW))
                assert np.abs(dW).max() < 1e4
                layer.kernel.assign_sub(0.01 * dW)


@pytest.mark.parametrize("D", [1, 3, 9])
@pytest.mark.parametrize("shape", [(10, 16), (16, 10)])
def test_float32_derivatives_are_right_to_a_few_percent(shape, D):
    rng = np.random.default_rng(0)
    W = with_spectrum(shape, [*np.linspace(2, 1, D), *np.linspace(0.7, 0.07, 10 - D)], rng)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    x, dy = rng.normal(size=(7, shape[0])), rng.normal(size=(7, shape[1]))
    case = x, dy, W, U[:, :D], s[:D], Vt[:D]
    for derivative, slack in ((layers.tangent, 1e-5), (layers.exact, 0.03)):
        # Confirmed above by finite differences.
        expected = derivative(*map(tf.constant, case)).numpy()
        found = derivative(*(tf.constant(part, tf.float32) for part in case))
        assert found.dtype == tf.float32
        assert np.linalg.norm(found - expected) < slack * np.linalg.norm(expected)


# The subspace step


def tracked_case(shape, s, dtype):
    """W with singular values s, and the right vectors of the first D, turned and a little off."""
    rng, D = np.random.default_rng(0), len(s)
    rest = 0.5 * s[-1] * np.linspace(1, 0.2, min(shape) - D)
    U, V = (np.linalg.qr(rng.normal(size=(n, min(shape))))[0] for n in shape)
    W = U * np.concatenate([s, rest]) @ V.T
    off = 0.01 * rng.normal(size=(shape[1], D)) * (s[-1] / s[0] if s[0] else 1)
    Vt = (np.linalg.qr(rng.normal(size=(D, D)))[0] @ (V[:, :D] + off).T).astype(dtype)
    return W.astype(dtype), Vt


def reference_step(W, Vt):
    """The block power step in float64, by LAPACK."""
    Q = np.linalg.qr(W.astype(float) @ Vt.T.astype(float))[0]
    turn, s, Vt = np.linalg.svd(Q.T @ W.astype(float), full_matrices=False)
    return Q @ turn, s, Vt


def assert_orthonormal(U, Vt, slack):
    for columns in (U, tf.transpose(Vt)):
        gram = np.asarray(tf.matmul(columns, columns, transpose_a=True), dtype=float)
        assert np.abs(gram - np.eye(len(gram))).max() < slack


SHAPES = [(40, 60), (60, 40), (30, 30), (25, 300)]


# Divided by its singular values, the product by way of the Gram matrix loses orthonormality like
# the precision times σ₁ / σ_D; an SVD, by which a step goes beyond 1e3, does not lose any.
@pytest.mark.parametrize(
    ("D", "last"), [(1, 3), (9, 0.3), (25, 0.3), (8, 2e-3), (8, 5e-4), (8, 1e-5), (8, 1e-8)]
)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "slack"), [("float32", 1e-5), ("float64", 1e-13)])
def test_a_step_is_LAPACKs_in_float64(shape, D, last, dtype, slack):
    W, Vt = tracked_case(shape, np.geomspace(3, last, D), dtype)
    U, s, now = layers.subspace_step(tf.constant(W), tf.constant(Vt))
    assert ({part.dtype for part in (U, s, now)}, s.shape) == ({tf.as_dtype(dtype)}, (D,))
    assert_orthonormal(U, now, 2 * slack)
    assert (np.diff(s) <= 0).all()
    expected = reference_step(W, Vt)
    np.testing.assert_allclose(s, expected[1], atol=slack)
    np.testing.assert_allclose((U * s) @ now, product_of(expected), atol=2 * slack)
    compiled = tf.function(layers.subspace_step)(tf.constant(W), tf.constant(Vt))
    np.testing.assert_allclose(compiled[1], s, atol=slack)


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_gives_back_a_matrix_of_lower_rank(shape, rank, dtype):
    rng = np.random.default_rng(0)
    W = with_spectrum(shape, np.ones(rank), rng).astype(dtype)
    Vt = np.linalg.qr(rng.normal(size=(shape[1], 5)))[0].T.astype(dtype)
    U, s, now = layers.subspace_step(tf.constant(W), tf.constant(Vt))
    assert_orthonormal(U, now, 3e-6)
    np.testing.assert_allclose(s, [1] * rank + [0] * (5 - rank), atol=3e-6)
    np.testing.assert_allclose((U * s) @ now, W, atol=3e-6)


# What a training step renews


def test_training_renews_the_factors_and_inference_nothing():
    W, x = with_spectrum((9, 7), [4, 3, 2, 1, 0.5, 0.4, 0.3]), np.eye(9)
    for tracking in layers.TRACKING:
        layer = dynamic_layer(W, 3, tracking=tracking)
        layer.kernel.assign(moved := W + 0.1)
        before = layer.get_weights()
        layer(x)
        assert all(map(np.array_equal, before, layer.get_weights()))
        layer(x, training=True)
        np.testing.assert_array_equal(layer.kernel, moved)
        error = np.linalg.norm(product_of(layer.svd()) - truncate(moved, 3))
        low, high = {"svd": (0, 1e-12), "subspace": (1e-4, 0.2), "none": (0.5, 1)}[tracking]
        assert low <= error < high


def test_gradients_are_those_of_the_renewed_factors():
    rng = np.random.default_rng(0)
    W = with_spectrum((9, 7), [4, 3, 2, 0.5, 0.4, 0.3, 0.2], rng)
    x, dy = rng.normal(size=(4, 9)), rng.normal(size=(4, 7))
    for tracking, steps in (("svd", 1), ("subspace", 20)):
        layer = dynamic_layer(rng.normal(size=(9, 7)), 3, tracking=tracking)
        layer.kernel.assign(W)
        for _ in range(steps):
            _, dx, dW = gradients(layer, x, dy, training=True)
        np.testing.assert_allclose(dx, dy @ truncate(W, 3).T, atol=1e-6)
        U, _, Vt = np.linalg.svd(W)
        outside = U[:, 3:] @ U[:, 3:].T @ dW @ Vt[3:].T @ Vt[3:]
        np.testing.assert_allclose(outside, 0, atol=1e-6)


def trained(network, digits, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(rate), loss)
    network.fit(digits.x_train, digits.y_train, 64, verbose=0)
    return network


def test_tracked_factors_are_fresh_after_training(small, digits):
    x, y = digits.x_test, digits.y_test
    dense = trained(small, digits, 1e-3)
    # Straight-through closes the gap: the last directions become hard to tell apart.
    for derivative, cosine, slack in (("tangent", 0.99, 0.02), ("straight_through", 0.8, 0.15)):
        network = trained(compress.dynamic(dense, 8, derivative=derivative), digits, 1e-4)
        by_tracked = model.accuracy(network, x, y)
        for layer in compress.dynamic_layers(network).values():
            tracked, fresh = layer.svd(), layer.fresh_svd()
            assert np.linalg.svd(tracked.U.T @ fresh.U[:, :8])[1].min() > cosine
            np.testing.assert_allclose(tracked.s, fresh.s[:8], rtol=0.01)
            layer.refresh()
        assert abs(model.accuracy(network, x, y) - by_tracked) < slack
        assert by_tracked > model.accuracy(compress.truncate(dense, 8), x, y)


# Factors, spectra, ranks


def test_a_new_layer_starts_near_the_leading_directions():
    layer = DynamicDense(40, 5, kernel_initializer="glorot_normal")
    layer.build((None, 60))
    W = layer.kernel.numpy()
    lost = np.linalg.norm(W - product_of(layer.svd()))
    assert lost < 1.03 * np.linalg.norm(W - truncate(W, 5))
    assert [v.name for v in layer.trainable_variables] == ["kernel", "bias"]


@pytest.mark.parametrize("D", [2, 7])
@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_refresh_sets_the_SVD_of_the_kernel_now(shape, D):
    W = with_spectrum(shape, np.geomspace(4, 0.01, 12)).astype("float32")
    layer = dynamic_layer(W, D, dtype="float32")
    for fresh in (None, layer.fresh_svd(D + 3), layer.fresh_svd()):
        layer.kernel.assign(np.zeros(shape))
        layer.refresh()
        layer.kernel.assign(W)
        layer.refresh(fresh)
        np.testing.assert_allclose(layer.s, np.linalg.svd(W, compute_uv=False)[:D], rtol=1e-5)
        np.testing.assert_allclose(product_of(layer.svd()), truncate(W, D), atol=1e-5)
        assert_orthonormal(layer.U, layer.Vt, 3e-6)


def test_a_fresh_svd_leaves_the_layer_as_it_is():
    layer = dynamic_layer(with_spectrum((18, 40), [3, 2, 1]), 4, dtype="float32")
    layer.kernel.assign(with_spectrum((18, 40), np.geomspace(1, 1e-5, 18)))
    before = layer.get_weights()
    s = np.linalg.svd(layer.kernel.numpy().astype(float), compute_uv=False)
    for values in (None, 1, 6, 1000):
        np.testing.assert_allclose(layer.fresh_svd(values).s, s[:values], rtol=1e-8)
    assert all(map(np.array_equal, before, layer.get_weights()))


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("rank", [2, 5])
def test_at_a_lower_rank_a_layer_is_the_one_built_for_it(rank, derivative):
    rng = np.random.default_rng(0)
    W = with_spectrum((9, 7), [6, 5, 4, 3, 2, 1, 0.5])
    x, dy = rng.normal(size=(4, 9)), rng.normal(size=(4, 7))
    large, small = (dynamic_layer(W, D, derivative) for D in (6, rank))
    large.set_rank(rank)
    assert [len(large.svd().s), len(small.svd().s)] == [rank, rank]
    for training in (False, True):
        found, expected = (gradients(layer, x, dy, training) for layer in (large, small))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_a_step_at_a_lower_rank_leaves_what_lies_behind_it():
    W = with_spectrum((9, 7), [6, 5, 4, 3, 2, 1, 0.5])
    layer = dynamic_layer(W, 5)
    layer.set_rank(2)
    before = layer.get_weights()
    layer.kernel.assign(2 * W)
    layer(np.ones((4, 9)), training=True)
    _, _, U, s, Vt, _ = layer.get_weights()
    np.testing.assert_allclose(s[:2], [12, 10])
    for ours, theirs in zip((U.T, s, Vt), (before[2].T, *before[3:5]), strict=True):
        np.testing.assert_array_equal(ours[2:], theirs[2:])


def test_a_rank_set_is_a_whole_number_and_at_most_D():
    layer = dynamic_layer(with_spectrum((9, 6), [4, 3, 2, 1]), 3)
    layer.set_rank(10)
    assert int(layer.rank) == 3
    with pytest.raises(ValueError, match="at least 1, not 0"):
        layer.set_rank(0)


@pytest.mark.parametrize("D", [3, 9])
def test_track_follows_the_kernel_with_all_D_factors(D):
    W = with_spectrum((16, 20), np.geomspace(4, 1e-3, 16))
    layer = dynamic_layer(np.eye(16, 20), D, dtype="float32")
    layer.set_rank(2)
    layer.kernel.assign(W)
    found = layer.track(steps=9)
    np.testing.assert_allclose(product_of(found), truncate(W, D), atol=1e-3)
    assert all(map(np.array_equal, found, (layer.U, layer.s, layer.Vt)))


# In networks and files


def test_dynamic_networks_are_cut_at_their_ranks(small, digits):
    network, x = compress.dynamic(small, {"h60": 9, "h90": 7}), digits.x_test[:120]
    network.get_layer("h90").set_rank(3)
    plain, weighted = compress.factorize(network, 30), compress.observe(network, x).svds
    assert {type(layer) for layer in plain.layers} == {Dense}
    assert plain.count_params() == 9 * (784 + 60) + 60 + 3 * (60 + 90) + 90 + 910
    truncated, by_inputs = compress.truncate(network, 30), compress.factorize(network, 30, weighted)
    for cut in (plain, truncated, by_inputs):
        np.testing.assert_allclose(cut(x), network(x), atol=1e-4)
    smaller = compress.factorize(network, 2)(x)
    np.testing.assert_allclose(smaller, compress.truncate(network, 2)(x), atol=1e-4)


@pytest.mark.parametrize("way", ["keras", "weights"])
def test_dynamic_networks_are_saved_loaded_cloned(small, tmp_path, way):
    network = compress.dynamic(small, 12, derivative="exact", tracking="none")
    for layer in compress.dynamic_layers(network).values():
        layer.set_rank(5)
        layer.kernel.assign_add(0.1 * np.ones(layer.kernel.shape))  # which its factors miss
    if way == "keras":
        network.save(tmp_path / "dynamic.keras")
        other = keras.saving.load_model(tmp_path / "dynamic.keras")
    else:
        other = keras.models.clone_model(network)
        network.save_weights(tmp_path / "dynamic.weights.h5")
        other.load_weights(tmp_path / "dynamic.weights.h5")
    layer = other.get_layer("h60")
    assert (layer.D, layer.derivative, layer.tracking) == (12, "exact", "none")
    for ours, theirs in zip(network.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x = np.random.default_rng(0).normal(size=(5, 784))
    np.testing.assert_array_equal(other(x), network(x))


# What is refused


REFUSED = [({"D": D}, "D must be") for D in (0, -1, 2.0, "abc", True, None, 100)]
REFUSED += [({"D": 6}, "full rank use .*Dense"), ({"tracking": "magic"}, "must be .* not 'magic'")]
REFUSED += [({"derivative": "magic"}, "derivative must be one of .*'exact'.* not 'magic'")]
REFUSED += [({"dtype": "mixed_bfloat16"}, "dtype must be float32 or .* not 'mixed_bfloat16'")]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_a_layer_that_cannot_be_is_one_clear_error(options, message):
    for shape in ((6, 9), (9, 6)):
        DynamicDense(shape[1], 5).build((None, shape[0]))
        with pytest.raises(ValueError, match=message):
            DynamicDense(shape[1], **{"D": 2} | options).build((None, shape[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_kernel_that_is_not_finite_is_named(bad):
    layer = dynamic_layer(with_spectrum((9, 7), [2, 1]), 1)
    layer.kernel.assign(np.full((9, 7), bad))
    for method in (layer.refresh, layer.fresh_svd):
        with pytest.raises(ValueError, match=f"kernel of {layer.name} is no longer finite: train"):
            method()
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"kernel of {layer.name} is no"):
        layer.track(1)
