import numpy as np
import pytest

from helpers import callbacks, compress, layers, model, optimizers, svd
from helpers.backend import keras, tf

LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)
SHAPES = {"h60": (784, 60), "h90": (60, 90)}


def fit(network, digits, callbacks, epochs=1, rate=0.05, optimizer=None):
    network.compile(optimizer or keras.optimizers.SGD(rate), LOSS)
    x, y = digits.x_train[:600], model.smoothed(digits.y_train[:600])
    network.fit(x, y, 100, epochs, verbose=0, callbacks=callbacks)
    return network


def shrinking(digits, D=4, share=0.6, **options):
    return callbacks.Shrink(D, digits.x_train, LOSS, samples=300, share=share, **options)


def begun(network, callback, epochs):
    """The callback, as it is before training."""
    callback.set_model(network)
    callback.set_params({"epochs": epochs})
    callback.on_train_begin()
    return callback


def spent(ranks):
    return sum(svd.factorized_parameters(SHAPES[name], rank) for name, rank in ranks.items())


def with_spectrum(shape, s):
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(n, len(s))))[0] for n in shape)
    return U @ np.diag(s) @ V.T


def ranked(W, D, rank, **options):
    layer = layers.DynamicDense(W.shape[1], D, dtype="float64", **options)
    layer.build((None, W.shape[0]))
    layer.kernel.assign(W)
    layer.set_rank(rank)
    layer.refresh()
    return layer


def gradients(layer, x, dy, training):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
    return y, *tape.gradient(y, [x, layer.kernel], output_gradients=tf.constant(dy))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("derivative", list(layers.DERIVATIVES))
@pytest.mark.parametrize(("D", "rank"), [(5, 2), (5, 4), (5, 5), (7, 3), (7, 7)])
def test_a_layer_of_lower_rank_is_the_layer_built_for_it(D, rank, derivative, training):
    rng = np.random.default_rng(0)
    W = with_spectrum((9, 7), [6, 5, 4, 3, 2, 1, 0.5])
    x, dy = rng.normal(size=(4, 9)), rng.normal(size=(4, 7))
    large, small = (ranked(W, n, rank, derivative=derivative) for n in (D, rank))
    found, expected = (gradients(layer, x, dy, training) for layer in (large, small))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)
    assert [len(part) for part in large.svd()][1] == rank


def test_a_step_at_a_lower_rank_leaves_what_lies_behind_it():
    W = with_spectrum((9, 7), [6, 5, 4, 3, 2, 1, 0.5])
    layer = ranked(W, 5, 2)
    before = layer.tracked()
    layer.kernel.assign(2 * W)
    layer(np.ones((4, 9)), training=True)
    now = layer.tracked()
    np.testing.assert_allclose(now.s[:2], 2 * before.s[:2])
    for ours, theirs in zip(
        (now.U.T, now.s, now.Vt), (before.U.T, before.s, before.Vt), strict=True
    ):
        np.testing.assert_array_equal(ours[2:], theirs[2:])


def test_factorized_at_its_ranks_it_has_its_outputs(small, digits):
    network = fit(compress.dynamic(small, 30), digits, [])
    for name, rank in (("h60", 9), ("h90", 3)):
        network.get_layer(name).set_rank(rank)
    x = digits.x_test
    plain = compress.factorize(network, 30)
    assert plain.count_params() == spent({"h60": 9, "h90": 3}) + 60 + 90 + 910
    np.testing.assert_allclose(plain(x), network(x), atol=1e-4)
    np.testing.assert_allclose(compress.truncate(network, 30)(x), network(x), atol=1e-4)


def pooled(values):
    """Each value as it is, or the mean of its block where they would rise (pool adjacent ones)."""
    blocks = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) < np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return [np.mean(block) for block in blocks for _ in block]


def test_the_worth_is_the_second_order_change_of_the_loss():
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(50, 8)) * np.arange(1, 9), rng.normal(size=(50, 6)) * np.arange(1, 7)
    C, Gamma = x.T @ x / 50, g.T @ g / 50
    U, s, Vt = svd.decompose(rng.normal(size=(8, 6)))
    expected = []
    for i in range(6):
        dW = s[i] * np.outer(U[:, i], Vt[i])
        expected.append(np.trace(Gamma @ dW.T @ C @ dW))
    found = callbacks.weigh(svd.SVD(U, s, Vt), C, Gamma)
    np.testing.assert_allclose(found.s**2, pooled(expected), rtol=1e-9)
    assert (np.diff(expected) > 0).any()  # there is something to pool


def test_a_value_of_no_worth_does_not_hide_those_behind_it():
    identity = np.eye(5)
    C = np.diag([1, 1e-6, 1, 1, 1.0])  # the second direction is never seen
    found = callbacks.weigh(svd.SVD(identity, np.array([3, 2, 1.5, 1, 0.5]), identity), C, identity)
    expected = [9, (4e-6 + 1.5**2) / 2, (4e-6 + 1.5**2) / 2, 1, 0.25]
    np.testing.assert_allclose(found.s**2, expected)


def test_ranks_go_where_the_worth_is_and_rise_again(small, digits):
    network = compress.dynamic(small, 20)
    callback = shrinking(digits, D=5, share=0.0)
    callback.set_model(network)
    callback.set_params({"epochs": 3})
    flat = {name: [1.0] * 20 for name in SHAPES}
    seen = []
    for strong in ("h60", "h90", "h60"):
        for name, shape in SHAPES.items():
            s = flat[name] if name == strong else [1.0] + [1e-3] * 19
            network.get_layer(name).kernel.assign(with_spectrum(shape, s))
        if seen:
            callback._shrink(len(seen))
        else:
            callback.on_train_begin()
        seen.append(callback.ranks[-1])
    assert seen[1]["h90"] > seen[0]["h90"]
    assert seen[2]["h90"] == seen[0]["h90"] == 3  # half of D
    assert seen[2]["h60"] == seen[0]["h60"] > seen[1]["h60"]
    assert network.get_layer("h60").rank.numpy() == seen[2]["h60"]


def test_the_budget_shrinks_and_is_kept(small, digits):
    callback = shrinking(digits, D=3, share=0.5)
    network = fit(compress.dynamic(small, 16), digits, [callback], epochs=4)
    sizes = [spent(ranks) for ranks in callback.ranks]
    assert len(sizes) == 5
    assert sizes[0] == spent({"h60": 16, "h90": 16})
    assert max(sizes[2:]) <= spent({"h60": 3, "h90": 3}) < sizes[1] < sizes[0]
    assert {name: int(network.get_layer(name).rank) for name in SHAPES} == callback.ranks[-1]


def test_the_budget_is_that_of_its_formula(small, digits):
    callback = begun(compress.dynamic(small, 16), shrinking(digits, D=2, share=1), epochs=4)
    for epoch in range(4):
        callback.on_epoch_end(epoch)
    for epoch, ranks in enumerate(callback.ranks):
        budget = spent(dict.fromkeys(SHAPES, round(2 * 8 ** (1 - epoch / 4) ** 1.5)))
        assert budget - sum(SHAPES["h60"]) < spent(ranks) <= budget  # until one finds no room


def test_layers_built_for_different_ranks_begin_with_their_mean(small, digits):
    callback = begun(compress.dynamic(small, [12, 4]), shrinking(digits, D=8), epochs=2)
    assert spent(callback.ranks[0]) <= spent({"h60": 8, "h90": 8})


def test_as_many_samples_are_measured_as_asked_for(small, digits):
    few = callbacks.Shrink(2, digits.x_train, LOSS, samples=50)
    with pytest.raises(ValueError, match=r"^50 inputs are too few"):
        begun(compress.dynamic(small, 8), few, epochs=1)


def test_final_ranks_are_not_measured_again(small, digits, monkeypatch):
    callback, measured = shrinking(digits, D=3, share=0.5), []
    observe = callbacks.moments.observe
    monkeypatch.setattr(callbacks.moments, "observe", lambda *a: measured.append(a) or observe(*a))
    fit(compress.dynamic(small, 16), digits, [callback], epochs=4)
    assert len(measured) == 3  # before training, after the first epoch and after the second
    assert callback.ranks[2] == callback.ranks[3] == callback.ranks[4]


def test_shrunk_a_layer_ends_with_its_exact_svd(small, digits):
    network = fit(compress.dynamic(small, 16), digits, [shrinking(digits, D=3)], epochs=2)
    for name in SHAPES:
        layer = network.get_layer(name)
        U, s, Vt = np.linalg.svd(layer.kernel, full_matrices=False)
        np.testing.assert_allclose(layer.s, s[:16], rtol=1e-3)
        off = (layer.U * layer.s) @ layer.Vt - (U[:, :16] * s[:16]) @ Vt[:16]
        assert np.linalg.norm(off) < 1e-4 * np.linalg.norm(s)


def test_layers_of_nested_models_shrink_and_are_refreshed(small, digits):
    nested = keras.Sequential([keras.Input((784,)), small, keras.layers.Dense(10, name="last")])
    names = [f"{small.name}/{name}" for name in SHAPES]
    network = compress.dynamic(nested, 16, layers=names)
    inner, refresh = network.get_layer(small.name), callbacks.Refresh(4)
    shrink = shrinking(digits, D=3)
    fit(network, digits, [shrink, refresh], epochs=2)
    assert [*refresh.spectra] == [*shrink.ranks[-1]] == names
    assert int(inner.get_layer("h60").rank) == shrink.ranks[-1][names[0]] < 16


def test_changing_ranks_do_not_trace_the_step_again(small, digits):
    updates = []

    class Counting(optimizers.TangentSGD):
        def update_step(self, gradient, variable, learning_rate):  # runs when traced
            updates.append(variable)
            super().update_step(gradient, variable, learning_rate)

    traced = []
    changing = shrinking(digits, D=2)
    for callback, epochs in ((callbacks.Refresh(), 1), (changing, 4)):
        updates.clear()
        network = compress.dynamic(small, 12)
        fit(network, digits, [callback], epochs=epochs, optimizer=Counting(0.05))
        traced.append(len(updates))
    assert len({tuple(ranks.values()) for ranks in changing.ranks}) > 2
    assert traced[0] == traced[1] > 0


@pytest.mark.parametrize("way", ["keras", "weights", "clone"])
def test_half_trained_at_other_ranks_it_is_saved_loaded_cloned(small, digits, tmp_path, way):
    network = fit(compress.dynamic(small, 12), digits, [shrinking(digits)], epochs=2)
    if way == "keras":
        network.save(tmp_path / "half.keras")
        other = keras.saving.load_model(tmp_path / "half.keras")
    else:
        other = keras.models.clone_model(network)
        if way == "weights":
            network.save_weights(tmp_path / "half.weights.h5")
            other.load_weights(tmp_path / "half.weights.h5")
        else:
            other.set_weights(network.get_weights())
    for name in SHAPES:
        assert int(other.get_layer(name).rank) == int(network.get_layer(name).rank) < 12
    np.testing.assert_array_equal(other(digits.x_test), network(digits.x_test))
    fit(other, digits, [shrinking(digits)], epochs=1)  # and trains on


@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan, "half"])
def test_a_share_out_of_range_is_one_clear_error(digits, share):
    with pytest.raises(ValueError, match="share must be from 0 to 1"):
        shrinking(digits, share=share)


@pytest.mark.parametrize("D", [0, -3, 2.5, "many"])
def test_a_D_that_is_no_rank_is_one_clear_error(digits, D):
    with pytest.raises(ValueError, match="D must be"):
        shrinking(digits, D=D)


def test_a_D_above_what_the_layers_are_built_for_fails_before_training(small, digits):
    with pytest.raises(ValueError, match="D must be at most 8, the layers' largest"):
        fit(compress.dynamic(small, 8), digits, [shrinking(digits, D=9)])


def test_a_network_without_dynamic_layers_is_one_clear_error(small, digits):
    with pytest.raises(ValueError, match="no dynamic layers"):
        fit(small, digits, [shrinking(digits)])


def test_a_kernel_that_is_not_finite_stops_the_training_and_is_named(small, digits):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"kernel of h.0 is no longer finite"):
        fit(compress.dynamic(small, 4), digits, [], rate=1e30)
    layer = ranked(with_spectrum((9, 7), [2, 1]), 1, 1)
    layer.kernel.assign(np.full((9, 7), np.nan))
    with pytest.raises(ValueError, match=r"kernel of .* is no longer finite: train it at a lower"):
        layer.refresh()
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"kernel of {layer.name} is no"):
        layer.tracked(1)


def test_a_budget_of_full_rank_keeps_all(digits):
    """Of ranks 40, 40 and 60: a budget of 60 in each layer is all they have."""
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(n, "relu", name=f"h{n}") for n in (40, 60, 61)]
    network = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
    dynamic = compress.dynamic(network, 1000)
    callback = shrinking(digits, D=60)
    fit(dynamic, digits, [callback])
    assert callback.ranks[-1] == {"h40": 40, "h60": 40, "h61": 60}


def test_a_budget_of_all_ranks_is_not_measured_after_every_epoch(small, digits, monkeypatch):
    callback, measured = shrinking(digits, D=6), []
    observe = callbacks.moments.observe
    monkeypatch.setattr(callbacks.moments, "observe", lambda *a: measured.append(a) or observe(*a))
    fit(compress.dynamic(small, 6), digits, [callback], epochs=3)
    assert len(measured) == 1
    assert callback.ranks == 4 * [{"h60": 6, "h90": 6}]
