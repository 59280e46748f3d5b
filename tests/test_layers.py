import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import compress, data, layers, model
from helpers.lab.backend import keras, tf

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


@settings(max_examples=25, deadline=None)
@given(cases())
def test_exact_derivative_is_that_of_the_truncation(case):
    W, D, x, dy, rng = case
    dx, dW = gradients(float64_layer(W, D, "exact"), x, dy)
    X, h = rng.normal(size=W.shape), 1e-6
    finite_difference = (truncate(W + h * X, D) - truncate(W - h * X, D)) / (2 * h)
    scale = np.linalg.norm(x.T @ dy) * np.linalg.norm(finite_difference)
    assert abs(np.vdot(x.T @ dy, finite_difference) - np.vdot(dW, X)) < 1e-6 * scale
    np.testing.assert_allclose(dx, dy @ truncate(W, D).T, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_tangent_derivative_is_the_projection(case):
    """At a matrix of rank D the truncation itself is, to first order, that projection."""
    W, D, x, dy, rng = case
    _, dW = gradients(float64_layer(W, D, "tangent"), x, dy)
    W_D, X, h = truncate(W, D), rng.normal(size=W.shape), 1e-6
    projected = (truncate(W_D + h * X, D) - truncate(W_D - h * X, D)) / (2 * h)
    scale = np.linalg.norm(x.T @ dy) * np.linalg.norm(projected)
    assert abs(np.vdot(x.T @ dy, projected) - np.vdot(dW, X)) < 1e-6 * scale


@settings(max_examples=15, deadline=None)
@given(cases())
def test_straight_through_derivative_is_the_identity(case):
    W, D, x, dy, _ = case
    _, dW = gradients(float64_layer(W, D, "straight_through"), x, dy)
    np.testing.assert_allclose(dW, x.T @ dy, atol=1e-10)


@settings(max_examples=15, deadline=None)
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


@pytest.fixture(scope="module")
def digits():
    return data.load("subset")


@pytest.fixture
def small():
    """A network for digits whose hidden layers are tall and wide."""
    keras.utils.set_random_seed(0)
    hidden = [Dense(n, activation="relu", name=f"h{n}") for n in (60, 90)]
    return keras.Sequential([keras.Input((784,)), *hidden, Dense(10, name="out")])


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
    refresh = layers.Refresh()
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
