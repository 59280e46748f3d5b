import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from helpers import callbacks, compress, model, optimizers, svd
from helpers.backend import keras, tf

from .conftest import with_spectrum

LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)
SHAPES = {"h60": (784, 60), "h90": (60, 90)}


def fit(network, digits, callbacks, epochs, optimizer):
    network.compile(optimizer, LOSS)
    x, y = digits.x_train[:600], model.smoothed(digits.y_train[:600])
    network.fit(x, y, 100, epochs, verbose=0, callbacks=callbacks)
    return network


def shrinking(digits, D=4, share=0.6, samples=300):
    return callbacks.Shrink(D, digits.x_train, LOSS, samples=samples, share=share)


def begun(network, callback, epochs=1):
    """The callback, as it is before training."""
    callback.set_model(network)
    callback.set_params({"epochs": epochs})
    callback.on_train_begin()
    return callback


def spent(ranks):
    """Parameters of ranks by layer, or of one rank in every layer."""
    ranks = ranks if isinstance(ranks, dict) else dict.fromkeys(SHAPES, ranks)
    shapes = {name: SHAPES[name.split("/")[-1]] for name in ranks}
    return sum(svd.factorized_parameters(shapes[name], rank) for name, rank in ranks.items())


@pytest.fixture
def measured(monkeypatch):
    """The calls that measure what the layers see and feel."""
    calls, measure = [], callbacks.moments.measure
    monkeypatch.setattr(callbacks.moments, "measure", lambda *a: calls.append(a) or measure(*a))
    return calls


def test_worth_is_the_second_order_change_of_the_loss():
    """Where a value of no worth would hide those behind it, each has the mean worth."""
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(50, 8)) * np.arange(1, 9), rng.normal(size=(50, 6)) * np.arange(1, 7)
    C, Gamma = x.T @ x / 50, g.T @ g / 50
    U, s, Vt = svd.decompose(rng.normal(size=(8, 6)))
    worth = []
    for i in range(6):
        dW = s[i] * np.outer(U[:, i], Vt[i])
        worth.append(np.trace(Gamma @ dW.T @ C @ dW))
    assert (np.diff(worth) > 0).any()  # there is something to pool
    expected = isotonic_regression(worth, increasing=False).x
    found = callbacks.weigh(svd.SVD(U, s, Vt), C, Gamma)
    np.testing.assert_allclose(found.s**2, expected, rtol=1e-9)


def test_ranks_go_where_the_worth_is_and_rise_again(small, digits):
    network, seen = compress.dynamic(small, 20), []
    callback = shrinking(digits, D=5, share=0.0)
    for strong in ("h60", "h90", "h60"):
        for name, shape in SHAPES.items():
            s = np.ones(20) if name == strong else [1.0] + [1e-3] * 19
            network.get_layer(name).kernel.assign(with_spectrum(shape, s))
        seen.append(begun(network, callback, epochs=3).ranks[-1])
    assert seen[1]["h90"] > seen[0]["h90"]
    assert seen[2] == seen[0] == {"h60": 5, "h90": 5}  # a sixth of h60 would not fit
    assert seen[0]["h60"] > seen[1]["h60"]
    assert int(network.get_layer("h60").rank) == seen[2]["h60"]


def test_layers_shrink_in_training_and_end_fresh(small, digits, measured):
    """Nested, they go by their path; ranks that are final are not measured again."""
    traced, seen = [], []
    noting = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(len(traced)))

    class Tracing(optimizers.TangentSGD):
        def update_step(self, *about):
            traced.append(about)
            super().update_step(*about)

    nested = keras.Sequential([keras.Input((784,)), small, keras.layers.Dense(10, name="last")])
    names = [f"{small.name}/{name}" for name in SHAPES]
    network = compress.dynamic(nested, dict.fromkeys(names, 16))
    shrink = shrinking(digits, D=3, share=0.5)
    fit(network, digits, [noting, shrink], 4, Tracing(0.05))
    sizes = [spent(ranks) for ranks in shrink.ranks]
    assert [*shrink.ranks[-1]] == names
    assert sizes[0] == spent(16)
    assert max(sizes[2:]) <= spent(3) < sizes[1] < sizes[0]
    assert shrink.ranks[2] == shrink.ranks[3] == shrink.ranks[4]
    found = compress.dynamic_layers(network)
    assert {name: int(layer.rank) for name, layer in found.items()} == shrink.ranks[-1]
    assert len(measured) == 3  # before training and after two epochs
    assert seen[0] == len(traced) > 0  # other ranks, the same graph
    for layer in found.values():
        fresh = layer.fresh_svd()
        np.testing.assert_allclose(layer.s, fresh.s[:16], rtol=1e-3)
        off = (layer.U * layer.s) @ layer.Vt - svd.truncate(fresh, 16)
        assert np.linalg.norm(off) < 1e-4 * np.linalg.norm(fresh.s)


def test_budget_follows_its_formula(small, digits):
    callback = begun(compress.dynamic(small, 50), shrinking(digits, D=2, share=1), epochs=4)
    for epoch in range(4):
        callback.on_epoch_end(epoch)
    for epoch, ranks in enumerate(callback.ranks):
        budget = spent(round(2 * 25 ** (1 - epoch / 4) ** 1.5))
        assert budget - sum(SHAPES["h60"]) < spent(ranks) <= budget  # until one finds no room


def test_layers_built_for_other_ranks_start_with_their_mean(small, digits):
    network = compress.dynamic(small, {"h60": 12, "h90": 4})
    callback = begun(network, shrinking(digits, D=6), epochs=2)
    assert spent(7) < spent(callback.ranks[0]) <= spent(8)


@pytest.mark.parametrize("built", [{"h60": 6, "h90": 4}, {}])
def test_ranks_stay_where_nothing_can_shrink(small, digits, measured, built):
    network = compress.dynamic(small, built) if built else small
    for name in built:
        network.get_layer(name).set_rank(2)  # as an earlier training left it
    callback = begun(network, shrinking(digits, D=6, share=1), epochs=1)
    callback.on_epoch_end(0)
    callback.on_train_end()
    assert callback.ranks == [built, built]
    assert {n: int(layer.rank) for n, layer in compress.dynamic_layers(network).items()} == built
    assert not measured


@pytest.mark.parametrize("values", [None, 3, 6])
def test_refresh_records_spectra_and_sets_fresh_factors(small, values):
    digits = np.ones((5, 784), "float32"), np.arange(5)
    network, refresh = compress.dynamic(small, 4), callbacks.Refresh(values, digits)
    expected, accuracies = {name: [] for name in SHAPES}, []
    for epoch in (-1, 0):  # before training, and after the first epoch
        begun(network, refresh) if epoch < 0 else refresh.on_epoch_end(epoch)
        for name, layer in compress.dynamic_layers(network).items():
            fresh = svd.decompose(layer.kernel.numpy())
            expected[name].append(fresh.s[:values])
            W_D = (layer.U * layer.s) @ layer.Vt
            np.testing.assert_allclose(W_D, svd.truncate(fresh, 4), atol=1e-4)
            np.testing.assert_allclose(refresh.spectra[name], expected[name], rtol=1e-4)
            layer.kernel.assign(0.5 * layer.kernel + 0.01)
        accuracies.append(model.accuracy(network, *digits))  # the factors are those of before
    assert refresh.accuracies == accuracies


def test_training_stops_where_a_kernel_is_not_finite(small, digits):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"kernel of h.0 is no longer finite"):
        fit(compress.dynamic(small, 4), digits, [], 1, keras.optimizers.SGD(1e30))


WRONG = [({"share": share}, "share must be from 0 to 1") for share in (-0.1, 1.1, np.nan, "half")]
WRONG += [({"D": D}, "D must be a whole number") for D in (0, 2.5, "many")]
WRONG += [({"D": 9}, "D must be at most 8, the layers' largest")]
WRONG += [({"samples": 50}, "^50 inputs are too few")]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_what_is_out_of_range_fails_before_training(small, digits, options, message):
    with pytest.raises(ValueError, match=message):
        begun(compress.dynamic(small, {"h60": 8, "h90": 5}), shrinking(digits, **options))
