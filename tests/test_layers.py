import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import callbacks, compress, layers, model
from helpers.backend import keras, tf

Dense, DynamicDense = keras.layers.Dense, layers.DynamicDense
DERIVATIVES = list(layers.DERIVATIVES)


def truncate(W, D):
    """An independent rank-D truncation in float64."""
    U, s, Vt = np.linalg.svd(np.asarray(W, dtype=float), full_matrices=False)
    return U[:, :D] @ np.diag(s[:D]) @ Vt[:D]


def with_spectrum(shape, s, rng):
    """A matrix with these singular values and random singular vectors."""
    U = np.linalg.qr(rng.normal(size=(shape[0], len(s))))[0]
    V = np.linalg.qr(rng.normal(size=(shape[1], len(s))))[0]
    return U @ np.diag(s) @ V.T


def float64_layer(W, D, derivative="tangent", **kwargs):
    layer = DynamicDense(W.shape[1], D, derivative, dtype="float64", **kwargs)
    layer.build((None, W.shape[0]))
    layer.kernel.assign(W)
    layer.refresh()
    return layer


def gradients(layer, x, dy, training=False):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
    return tape.gradient(y, [x, layer.kernel], output_gradients=tf.constant(dy))


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


@settings(max_examples=25)
@given(cases())
def test_exact_derivative_is_that_of_the_truncation(case):
    W, D, x, dy, rng = case
    dx, dW = gradients(float64_layer(W, D, "exact"), x, dy)
    X, h = rng.normal(size=W.shape), 1e-6
    finite_difference = (truncate(W + h * X, D) - truncate(W - h * X, D)) / (2 * h)
    scale = np.linalg.norm(x.T @ dy) * np.linalg.norm(finite_difference)
    assert abs(np.vdot(x.T @ dy, finite_difference) - np.vdot(dW, X)) < 1e-6 * scale
    np.testing.assert_allclose(dx, dy @ truncate(W, D).T, atol=1e-10)


@settings(max_examples=25)
@given(cases())
def test_tangent_derivative_is_the_projection(case):
    """At a matrix of rank D the truncation itself is, to first order, that projection."""
    W, D, x, dy, rng = case
    _, dW = gradients(float64_layer(W, D, "tangent"), x, dy)
    W_D, X, h = truncate(W, D), rng.normal(size=W.shape), 1e-6
    projected = (truncate(W_D + h * X, D) - truncate(W_D - h * X, D)) / (2 * h)
    scale = np.linalg.norm(x.T @ dy) * np.linalg.norm(projected)
    assert abs(np.vdot(x.T @ dy, projected) - np.vdot(dW, X)) < 1e-6 * scale


@settings(max_examples=15)
@given(cases())
def test_straight_through_derivative_is_the_identity(case):
    W, D, x, dy, _ = case
    _, dW = gradients(float64_layer(W, D, "straight_through"), x, dy)
    np.testing.assert_allclose(dW, x.T @ dy, atol=1e-10)


@settings(max_examples=15)
@given(cases(), st.sampled_from(["relu", "tanh", None]), st.booleans())
def test_forward_is_the_dense_layer_of_the_truncated_kernel(case, activation, use_bias):
    W, D, x, _, rng = case
    options = {"activation": activation, "use_bias": use_bias, "bias_initializer": "normal"}
    layer = float64_layer(W, D, **options)
    dense = Dense(W.shape[1], dtype="float64", **options)
    dense.build((None, W.shape[0]))
    dense.set_weights([truncate(W, D), *layer.get_weights()[1 : 1 + use_bias]])
    np.testing.assert_allclose(layer(x), dense(x), atol=1e-9)
    sequence = rng.normal(size=(2, 3, W.shape[0]))
    np.testing.assert_allclose(layer(sequence), dense(sequence), atol=1e-9)


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5)])
def test_full_rank_is_the_dense_layer(shape, derivative):
    rng = np.random.default_rng(0)
    layer = float64_layer(rng.normal(size=shape), min(shape), derivative, activation="tanh")
    dense = Dense(shape[1], activation="tanh", dtype="float64")
    dense.build((None, shape[0]))
    dense.set_weights(layer.get_weights()[:2])
    x, dy = rng.normal(size=(4, shape[0])), rng.normal(size=(4, shape[1]))
    np.testing.assert_allclose(layer(x, training=True), dense(x), atol=1e-12)
    for ours, theirs in zip(gradients(layer, x, dy, True), gradients(dense, x, dy), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("tracking", layers.TRACKING)
@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize(
    "s", [np.zeros(6), np.ones(6), [2, 2, 2, 2, 1, 1], [3, 1, 0, 0, 0, 0]], ids=str
)
def test_no_nan_where_singular_values_repeat_or_vanish(s, derivative, tracking):
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        W = with_spectrum((8, 6), np.array(s, dtype=float), rng)
        layer = DynamicDense(6, 3, derivative, tracking, dtype=dtype)
        layer.build((None, 8))
        layer.kernel.assign(W)
        layer.refresh()
        x, dy = rng.normal(size=(4, 8)).astype(dtype), rng.normal(size=(4, 6)).astype(dtype)
        for _ in range(3):
            dx, dW = gradients(layer, x, dy, training=True)
            assert np.isfinite(dx).all()
            assert np.isfinite(dW).all()
            assert np.abs(dW).max() < 1e4
            layer.kernel.assign_sub(0.01 * dW)
        assert np.isfinite(layer(x)).all()


def trained(network, digits, rate=1e-3, epochs=1, callbacks=()):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(rate), loss)
    network.fit(digits.x_train, digits.y_train, 64, epochs, verbose=0, callbacks=[*callbacks])
    return network


# Straight-through closes the gap: the last directions become hard to tell apart.
@pytest.mark.parametrize(
    ("derivative", "cosine", "slack"),
    [("tangent", 0.99, 0.02), ("exact", 0.99, 0.02), ("straight_through", 0.8, 0.15)],
)
def test_tracked_subspace_is_the_exact_one_after_training(small, digits, derivative, cosine, slack):
    dense = trained(small, digits)
    network = trained(compress.dynamic(dense, 8, derivative=derivative), digits, 1e-4)
    for name in ("h60", "h90"):
        layer = network.get_layer(name)
        U, s, _ = np.linalg.svd(layer.kernel.numpy(), full_matrices=False)
        cosines = np.linalg.svd(layer.U.numpy().T @ U[:, :8])[1]
        assert cosines.min() > cosine
        np.testing.assert_allclose(layer.s.numpy(), s[:8], rtol=0.01)
    tracked = model.accuracy(network, digits.x_test, digits.y_test)
    for name in ("h60", "h90"):
        network.get_layer(name).refresh()
    assert abs(model.accuracy(network, digits.x_test, digits.y_test) - tracked) < slack
    assert tracked > model.accuracy(compress.truncate(dense, 8), digits.x_test, digits.y_test)


@pytest.mark.parametrize("tracking", layers.TRACKING)
def test_a_step_moves_kernel_and_factors_inference_nothing(small, digits, tracking):
    network = compress.dynamic(small, 4, tracking=tracking)
    state = network.get_weights()
    network(digits.x_test, training=False)
    for old, new in zip(state, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    trained(network, digits)
    layer, before = network.get_layer("h90"), compress.dynamic(small, 4).get_layer("h90")
    assert np.abs(layer.kernel - before.kernel).max() > 1e-3
    assert (np.abs(layer.U - before.U).max() > 1e-4) == (tracking != "none")


def test_the_reference_factors_are_never_stale(small, digits):
    network = compress.dynamic(small, 4, tracking="svd")
    network(digits.x_test[:9], training=True)
    layer = network.get_layer("h60")
    W_D = (layer.U.numpy() * layer.s.numpy()) @ layer.Vt.numpy()
    np.testing.assert_allclose(W_D, truncate(layer.kernel.numpy(), 4), atol=1e-5)


def test_refresh_keeps_spectra(small, digits):
    refresh = callbacks.Refresh()
    network = trained(compress.dynamic(small, 4), digits, epochs=2, callbacks=[refresh])
    s = np.linalg.svd(network.get_layer("h60").kernel.numpy(), compute_uv=False)
    assert [len(spectra) for spectra in refresh.spectra.values()] == [3, 3]
    np.testing.assert_allclose(refresh.spectra["h60"][-1], s, rtol=1e-4)
    assert refresh.spectra["h60"][0].shape == (60,)


def test_saved_loaded_cloned(small, digits, tmp_path):
    network = trained(compress.dynamic(small, 4, derivative="exact", tracking="svd"), digits)
    network.save(tmp_path / "dynamic.keras")
    loaded = keras.saving.load_model(tmp_path / "dynamic.keras")
    clone = keras.models.clone_model(network)
    clone.set_weights(network.get_weights())
    x = digits.x_test[:20]
    for copy in (loaded, clone):
        layer = copy.get_layer("h60")
        assert (layer.D, layer.derivative, layer.tracking) == (4, "exact", "svd")
        np.testing.assert_array_equal(copy(x), network(x))


def test_factorized_dynamic_network_has_its_outputs(small, digits):
    network = trained(compress.dynamic(small, [4, 7]), digits)
    x = digits.x_test
    plain = compress.factorize(network, 100)
    assert {type(layer) for layer in plain.layers} == {Dense}
    assert plain.count_params() == 4 * (784 + 60) + 60 + 7 * (60 + 90) + 90 + 910
    np.testing.assert_allclose(plain(x), network(x), atol=1e-4)
    np.testing.assert_allclose(compress.truncate(network, 100)(x), network(x), atol=1e-4)
    smaller = compress.factorize(network, 3)
    np.testing.assert_allclose(smaller(x), compress.truncate(network, 3)(x), atol=1e-4)
    whitened = compress.decompose(network, inputs=x)
    np.testing.assert_allclose(
        compress.factorize(network, 7, svds=whitened)(x), network(x), atol=1e-3
    )


def test_before_training_a_dynamic_network_is_the_truncated_one(small, digits):
    x = digits.x_test[:50]
    expected = compress.truncate(small, 5)(x)
    np.testing.assert_allclose(compress.dynamic(small, 5)(x), expected, atol=1e-5)
    svds = compress.decompose(small)
    np.testing.assert_allclose(compress.dynamic(small, 5, svds=svds)(x), expected, atol=1e-5)
    np.testing.assert_allclose(compress.dynamic(small, 1000)(x), small(x), atol=1e-6)


def test_any_batch_size_compiled_or_not(small, digits):
    network = compress.dynamic(small, 5)
    compiled = tf.function(network, input_signature=[tf.TensorSpec((None, 784))])
    for n in (1, 3, 50):
        np.testing.assert_allclose(
            compiled(digits.x_test[:n]), network(digits.x_test[:n]), atol=1e-5
        )


@pytest.mark.parametrize("D", [0, -1, 2.0, "abc", True, None, 7, 100])
def test_D_out_of_range_is_one_clear_error(D):
    with pytest.raises(ValueError, match="D must be"):
        DynamicDense(6, D).build((None, 8))


def test_unknown_names_are_clear_errors(small):
    with pytest.raises(ValueError, match=r"derivative must be one of .*'exact'.* not 'magic'"):
        DynamicDense(6, 2, "magic")
    with pytest.raises(ValueError, match=r"tracking must be one of .* not 'magic'"):
        compress.dynamic(small, 2, tracking="magic")
    with pytest.raises(ValueError, match="D must be"):
        compress.dynamic(small, 0)
    for dtype in ("mixed_bfloat16", "float16"):
        with pytest.raises(ValueError, match=f"dtype must be float32 or float64, not '{dtype}'"):
            DynamicDense(6, 2, dtype=dtype)


def tracked_case(shape, s, dtype, seed=0):
    """W with singular values s, and the right vectors of the first D, turned and a little off."""
    rng = np.random.default_rng(seed)
    D = len(s)
    rest = 0.5 * s[-1] * np.linspace(1, 0.2, min(shape) - D)
    U = np.linalg.qr(rng.normal(size=(shape[0], min(shape))))[0]
    V = np.linalg.qr(rng.normal(size=(shape[1], min(shape))))[0]
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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("D", [1, 2, 9, 25])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_that_of_lapack_in_float64(shape, D, compiled):
    step = tf.function(layers.subspace_step) if compiled else layers.subspace_step
    W, Vt = tracked_case(shape, np.geomspace(3, 0.3, D), "float32")
    U, s, now = step(tf.constant(W), tf.constant(Vt))
    assert (U.shape, s.shape, now.shape) == ((shape[0], D), (D,), (D, shape[1]))
    assert {part.dtype for part in (U, s, now)} == {tf.float32}
    expected = reference_step(W, Vt)
    assert_orthonormal(U, now, 2e-5)
    np.testing.assert_allclose(s, expected[1], rtol=2e-5)
    assert (np.diff(s) <= 0).all()
    W_D, W_now = ((U * s) @ Vt for U, s, Vt in (expected, (U.numpy(), s.numpy(), now.numpy())))
    np.testing.assert_allclose(W_now, W_D, atol=2e-5)


# Divided by its singular values, the product by way of the Gram matrix loses orthonormality like
# the precision times σ₁ / σ_D; QR and SVD, by which a step goes beyond 1e3, do not lose any.
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("last", [5e-4, 1e-5, 1e-7])
def test_where_the_gram_matrix_is_not_safe_a_step_is_orthonormal_all_the_same(
    shape, last, compiled
):
    step = tf.function(layers.subspace_step) if compiled else layers.subspace_step
    W, Vt = tracked_case(shape, np.geomspace(1, last, 8), "float32")
    U, s, now = step(tf.constant(W), tf.constant(Vt))
    assert_orthonormal(U, now, 3e-6)
    np.testing.assert_allclose(s, reference_step(W, Vt)[1], atol=2e-6)


def test_only_where_it_is_safe_a_step_goes_by_the_gram_matrix():
    for last, dtype, safe in [
        (1.1e-3, "float32", True),
        (0.9e-3, "float32", False),
        (0.0, "float32", False),
        (1.0, "float64", False),
    ]:
        for shape, transposed in (((9, 4), "transpose_a"), ((4, 9), "transpose_b")):
            values = np.sort([1, 0.8, 0.5, last])[::-1]
            A = with_spectrum(shape, values, np.random.default_rng(0))
            s, _, found = layers._gram_svd(tf.constant(A, dtype), **{transposed: True})
            assert bool(found) == safe
            np.testing.assert_allclose(s, values, atol=2e-6 if last else 1e-3)


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("last", [1.0, 2e-3, 1e-8])
def test_in_float64_a_step_is_as_precise_as_float64(shape, last):
    W, Vt = tracked_case(shape, np.geomspace(1, last, 8), "float64")
    U, s, now = layers.subspace_step(tf.constant(W), tf.constant(Vt))
    assert_orthonormal(U, now, 1e-13)
    np.testing.assert_allclose(s, reference_step(W, Vt)[1], atol=1e-13)


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_matrix_of_lower_rank_is_given_back_by_orthonormal_factors(shape, rank, dtype):
    rng = np.random.default_rng(0)
    W = with_spectrum(shape, np.ones(rank), rng).astype(dtype)
    Vt = np.linalg.qr(rng.normal(size=(shape[1], 5)))[0].T.astype(dtype)
    U, s, now = layers.subspace_step(tf.constant(W), tf.constant(Vt))
    assert_orthonormal(U, now, 3e-6)
    np.testing.assert_allclose(s, [1] * rank + [0] * (5 - rank), atol=3e-6)
    np.testing.assert_allclose((U * s) @ now, W, atol=3e-6)


def test_steps_find_the_leading_directions_from_anywhere():
    rng = np.random.default_rng(0)
    W = with_spectrum((50, 70), [5, 4, 3, *[0.5] * 20], rng).astype("float32")
    Vt = tf.constant(rng.normal(size=(3, 70)).astype("float32"))
    for _ in range(6):
        U, s, Vt = layers.subspace_step(tf.constant(W), Vt)
    np.testing.assert_allclose(s, [5, 4, 3], rtol=1e-4)
    np.testing.assert_allclose((U * s) @ Vt, truncate(W, 3), atol=1e-3)


def derivative_case(shape, D, closest, dtype="float64", seed=0):
    """x, dy, W, U, s, Vt, whose singular value D + 1 is `closest` times its D-th."""
    rng = np.random.default_rng(seed)
    s = np.concatenate([np.linspace(2, 1, D), closest * np.linspace(1, 0.1, min(shape) - D)])
    W = with_spectrum(shape, s, rng)
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    x, dy = rng.normal(size=(7, shape[0])), rng.normal(size=(7, shape[1]))
    return [part.astype(dtype) for part in (x, dy, W, U[:, :D], s[:D], Vt[:D])]


def derivative_by_all_vectors(G, W, D):
    """f'(W)[G] by divided differences of all eigenvalues of the symmetric (0 W; Wᵀ 0)."""
    n, m = W.shape
    symmetric, moved = np.zeros((2, n + m, n + m))
    symmetric[:n, n:], symmetric[n:, :n] = W, W.T
    moved[:n, n:], moved[n:, :n] = G, G.T
    values, Z = np.linalg.eigh(symmetric)
    kept = np.where(np.abs(values) >= np.sort(values)[-D] - 1e-9, values, 0)
    differences = values[:, None] - values
    same = np.abs(differences) < 1e-9
    ratio = (kept[:, None] - kept) / np.where(same, 1, differences)
    ratio = np.where(same, (kept != 0)[:, None], ratio)
    return (Z @ (ratio * (Z.T @ moved @ Z)) @ Z.T)[:n, n:]


@pytest.mark.parametrize("D", [1, 3, 9])
@pytest.mark.parametrize("shape", [(10, 16), (16, 10), (12, 12)])
def test_the_derivatives_are_those_by_all_singular_vectors(shape, D):
    x, dy, W, U, s, Vt = derivative_case(shape, D, closest=0.98)
    case = [tf.constant(part) for part in (x, dy, W, U, s, Vt)]
    G = x.T @ dy
    size = np.abs(G).max()
    onto_U, onto_V = U @ U.T, Vt.T @ Vt
    projection = onto_U @ G + G @ onto_V - onto_U @ G @ onto_V
    np.testing.assert_allclose(layers.tangent(*case), projection, atol=1e-12 * size)
    exact = derivative_by_all_vectors(G, W, D)
    assert np.linalg.norm(exact - projection) > 0.1 * np.linalg.norm(projection)
    np.testing.assert_allclose(layers.exact(*case), exact, atol=1e-5 * size)
    np.testing.assert_allclose(layers.straight_through(*case), G, atol=1e-12 * size)


@pytest.mark.parametrize("D", [1, 3, 9])
@pytest.mark.parametrize("shape", [(10, 16), (16, 10)])
def test_in_float32_the_derivatives_are_right_to_a_few_percent(shape, D):
    x, dy, W, U, s, Vt = derivative_case(shape, D, closest=0.7)
    projection = np.asarray(layers.tangent(*map(tf.constant, (x, dy, W, U, s, Vt))))
    exact = derivative_by_all_vectors(x.T @ dy, W, D)
    case = [tf.constant(part, tf.float32) for part in (x, dy, W, U, s, Vt)]
    for found, expected, slack in [
        (layers.tangent(*case), projection, 1e-5),
        (layers.exact(*case), exact, 0.03),
    ]:
        assert found.dtype == tf.float32
        assert np.linalg.norm(found - expected) < slack * np.linalg.norm(expected)


def test_at_a_closing_gap_the_exact_derivative_stays_finite():
    for closest in (1 - 1e-3, 1 - 1e-6, 1.0):
        case = derivative_case((10, 16), 3, closest)
        G = case[0].T @ case[1]
        found = layers.exact(*map(tf.constant, case))
        assert np.linalg.norm(found) < 1e3 * np.linalg.norm(G)


@pytest.mark.parametrize("values", [2, 4, 7, 1000, None])
@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (20, 20)])
def test_refresh_gives_the_leading_values_and_exact_factors(shape, values):
    rng = np.random.default_rng(0)
    layer = DynamicDense(shape[1], 4)
    layer.build((None, shape[0]))
    layer.kernel.assign(with_spectrum(shape, np.linspace(4, 0.5, min(shape)), rng))
    found = layer.refresh(values)
    W = layer.kernel.numpy()
    s = np.linalg.svd(W.astype(float), compute_uv=False)[: values and max(values, 4)]
    assert found.shape == s.shape
    np.testing.assert_allclose(found, s, rtol=1e-4)
    np.testing.assert_allclose(layer.s, s[:4], rtol=1e-5)
    np.testing.assert_allclose((layer.U * layer.s) @ layer.Vt, truncate(W, 4), atol=2e-5)
    assert_orthonormal(layer.U, layer.Vt, 1e-5)
    np.testing.assert_array_equal(layer.kernel, W)


def test_refresh_of_a_matrix_of_lower_rank_has_no_negative_or_missing_values():
    layer = DynamicDense(9, 2)
    layer.build((None, 8))
    layer.kernel.assign(with_spectrum((8, 9), [3.0], np.random.default_rng(0)))
    for values in (None, 5):
        np.testing.assert_allclose(
            layer.refresh(values), [3] + [0] * ((values or 8) - 1), atol=3e-3
        )


def test_refresh_gives_all_values_in_float64():
    layer = DynamicDense(9, 2)
    layer.build((None, 8))
    layer.kernel.assign(with_spectrum((8, 9), np.geomspace(1, 1e-5, 8), np.random.default_rng(0)))
    s = np.linalg.svd(layer.kernel.numpy().astype(float), compute_uv=False)
    np.testing.assert_allclose(layer.refresh(), s, rtol=1e-3)


def test_the_callback_keeps_as_many_values_as_asked_for(small, few):
    refresh = callbacks.Refresh(values=6)
    network = trained(compress.dynamic(small, 4), few, epochs=2, callbacks=[refresh])
    for name, spectra in refresh.spectra.items():
        assert [len(s) for s in spectra] == [6, 6, 6]
        s = np.linalg.svd(network.get_layer(name).kernel.numpy(), compute_uv=False)
        np.testing.assert_allclose(spectra[-1], s[:6], rtol=1e-3)
        assert np.abs(spectra[0] - spectra[-1]).max() > 1e-4
        factors = network.get_layer(name).svd()
        W_D = truncate(network.get_layer(name).kernel.numpy(), 4)
        np.testing.assert_allclose((factors.U * factors.s) @ factors.Vt, W_D, atol=1e-4)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_the_svd_of_a_full_rank_layer_is_that_of_its_kernel_now(shape):
    layer = DynamicDense(shape[1], min(shape))
    layer.build((None, shape[0]))
    W = np.random.default_rng(0).normal(size=shape)
    layer.kernel.assign(W)
    np.testing.assert_allclose(layer(np.eye(shape[0], dtype="float32")), W, rtol=1e-6)
    U, s, Vt = layer.svd()
    np.testing.assert_allclose((U * s) @ Vt, W, atol=1e-5)
    np.testing.assert_allclose(s, np.linalg.svd(W, compute_uv=False), rtol=1e-4)
    layer.kernel.assign(np.diag(np.arange(9.0))[: shape[0], : shape[1]])
    layer.set_rank(2)
    np.testing.assert_allclose(layer.svd().s, [min(shape) - 1, min(shape) - 2], rtol=1e-4)


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_a_full_rank_layer_takes_no_svd_until_one_is_asked_for(shape, monkeypatch):
    taken, decompose = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **o: taken.append(a) or decompose(*a, **o))
    layer, x = DynamicDense(shape[1], 6), np.eye(shape[0], dtype="float32")
    layer.build((None, shape[0]))
    layer(x, training=True)
    W = layer.kernel.numpy().astype(float)
    s = np.sqrt(np.linalg.eigvalsh(W.T @ W)[:-7:-1])
    np.testing.assert_allclose(layer.refresh(), s, rtol=1e-6)
    np.testing.assert_allclose(layer.refresh(3), s, rtol=1e-3)  # as many as D at least
    assert not taken
    layer.svd()
    assert len(taken) == 1


@pytest.mark.parametrize("tracking", layers.TRACKING)
def test_below_full_rank_a_layer_begins_with_the_svd_of_its_kernel_now(tracking):
    """Nothing that was found before, or never, is used in its place."""
    rng = np.random.default_rng(0)
    layer, x = DynamicDense(6, 6, tracking=tracking), np.eye(9, dtype="float32")
    layer.build((None, 9))
    for rank in (2, 5, 1):
        layer.set_rank(6)
        layer.kernel.assign(W := rng.normal(size=(9, 6)))
        layer(x, training=True)
        layer.set_rank(rank)
        np.testing.assert_allclose(layer(x), truncate(W, rank), atol=1e-5)


def test_a_rank_set_is_a_whole_number_and_at_most_D():
    layer = DynamicDense(6, 3)
    layer.build((None, 9))
    layer.set_rank(10)
    assert int(layer.rank) == 3
    for rank in (0, "two"):
        with pytest.raises(ValueError, match=f"at least 1, not {rank!r}"):
            layer.set_rank(rank)


@pytest.mark.parametrize("tracking", layers.TRACKING)
def test_asked_for_its_svd_a_layer_stays_as_it_is(tracking):
    """Built for full rank and now below it, its factors need not be those of the exact SVD."""
    layer, x = DynamicDense(6, 6, tracking=tracking), np.eye(9, dtype="float32")
    layer.build((None, 9))
    layer.set_rank(3)
    W = np.random.default_rng(0).normal(size=(9, 6))
    layer.kernel.assign_add(W)
    before = layer(x).numpy()
    U, s, Vt = layer.svd()
    np.testing.assert_array_equal(layer(x), before)
    np.testing.assert_allclose((U * s) @ Vt, before, atol=1e-5)


@pytest.mark.parametrize("D", [3, 5, 9])
def test_asked_for_steps_a_layer_has_followed_its_kernel(D):
    """From D of a quarter of the rank on by an exact SVD, below by steps."""
    W = with_spectrum((16, 20), np.geomspace(4, 1e-3, 16), np.random.default_rng(0))
    layer = DynamicDense(20, D)
    layer.build((None, 16))
    layer.kernel.assign(W)
    assert np.linalg.norm(layer.tracked().s - np.linalg.svd(W)[1][:D]) > 1  # those of before
    U, s, Vt = layer.tracked(steps=9)
    np.testing.assert_allclose((U * s) @ Vt, truncate(W, D), atol=1e-4)
    assert all(map(np.array_equal, layer.tracked(), (U, s, Vt)))


def test_the_svd_of_a_layer_of_lower_rank_is_what_it_computes_with():
    layer = DynamicDense(6, 2)
    layer.build((None, 8))
    before = layer.svd()
    layer.kernel.assign(2 * layer.kernel)
    assert all(map(np.array_equal, before, layer.svd()))
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    np.testing.assert_allclose(layer(x), x @ ((before.U * before.s) @ before.Vt), atol=1e-5)


def test_a_new_layer_begins_near_the_leading_directions():
    keras.utils.set_random_seed(0)
    layer = DynamicDense(40, 5, kernel_initializer="glorot_normal")
    layer.build((None, 60))
    W = layer.kernel.numpy()
    lost = np.linalg.norm(W - (layer.U * layer.s) @ layer.Vt)
    assert lost < 1.03 * np.linalg.norm(W - truncate(W, 5))
    assert [v.name for v in layer.trainable_variables] == ["kernel", "bias"]


def test_in_training_the_gradient_is_that_of_the_renewed_factors():
    """Of tracking "svd": the exact factors of W as it is, from which the layer's own were far."""
    rng = np.random.default_rng(0)
    W = with_spectrum((9, 7), [4, 3, 2, 0.5, 0.4, 0.3, 0.2], rng)
    for tracking in ("svd", "subspace"):
        layer = DynamicDense(7, 3, tracking=tracking, dtype="float64")
        layer.build((None, 9))
        layer.kernel.assign(W)
        x, dy = rng.normal(size=(4, 9)), rng.normal(size=(4, 7))
        for _ in range(1 if tracking == "svd" else 20):
            dx, dW = gradients(layer, x, dy, training=True)
        np.testing.assert_allclose(dx, dy @ truncate(W, 3).T, atol=1e-6)
        U, _, Vt = np.linalg.svd(W)
        outside = U[:, 3:] @ U[:, 3:].T @ dW @ Vt[3:].T @ Vt[3:]
        np.testing.assert_allclose(outside, 0, atol=1e-6)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_the_gradients_of_sequences_are_those_of_their_rows(derivative):
    rng = np.random.default_rng(0)
    layer = float64_layer(with_spectrum((6, 9), [4, 3, 2, 0.5, 0.3, 0.1], rng), 3, derivative)
    x, dy = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 5, 9))
    dx, dW = gradients(layer, x, dy)
    rows, of_rows = gradients(layer, x.reshape(10, 6), dy.reshape(10, 9))
    np.testing.assert_allclose(dx, tf.reshape(rows, (2, 5, 6)), atol=1e-10)
    np.testing.assert_allclose(dW, of_rows, atol=1e-8)
