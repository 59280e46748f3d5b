"""Every check of the notebooks is broken once: what it claims is made untrue, and it says so.

A check's cell runs on values made by hand: first as they should be, then with one of them wrong.
"""

import contextlib
import io
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import compress, layers, model, svd
from helpers.backend import keras, tf
from tests.grading import claims

CELLS = {cell.metadata.grade.id: cell for name in claims.NAMES for cell in claims.checks_of(name)}
D = 20
IMAGES = np.linspace(0, 1, 784 * 10, dtype="float32").reshape(10, 784)
NETWORK = model.build(seed=0)
KERNELS = {f"hidden_{i}": NETWORK.get_layer(f"hidden_{i}").get_weights()[0] for i in range(1, 6)}


def difference(id, names):
    """The lines of a check's print that are not as committed."""
    expected = "".join(output.text for output in CELLS[id].outputs).splitlines()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(CELLS[id].source, {"np": np, "svd": svd, "model": model, "D": D, **names})
    found = said.getvalue().splitlines()
    assert len(found) == len(expected)
    return [line for line, wanted in zip(found, expected, strict=True) if line != wanted]


def but(module, **names):
    """A module as it is, but for these names."""
    return SimpleNamespace(**{**vars(module), **names})


def flat(W):
    """An SVD of W's shape that costs nothing."""
    n_in, n_out = W.shape
    r = min(n_in, n_out)
    return svd.SVD(np.eye(n_in, r), np.ones(r), np.eye(r, n_out))


def noise(learned):
    """A matrix of pure noise, and so much that was learned."""
    return np.random.default_rng(0).normal(size=(300, 300)) + learned


def small(units=6):
    keras.utils.set_random_seed(0)
    hidden, output = keras.layers.Dense(units), keras.layers.Dense(3, name="output")
    return keras.Sequential([keras.Input((4,)), hidden, output])


SMALL = small()
SVDS = compress.decompose(SMALL)
ROWS = np.random.default_rng(0).normal(size=(1000, 4)).astype("float32")
LABELS = model.logits(SMALL, ROWS).argmax(axis=1)
FLAT = {name: flat(W) for name, W in KERNELS.items()}
FACTORIZED = compress.factorize(NETWORK, D, svds=FLAT)
DECOMPOSED = svd.decompose(noise(0)[:30, :20])
TAILS = [np.sqrt(np.sum(DECOMPOSED.s[r:] ** 2)) for r in (1, 5)]
STARTS = {"textbook": [0.9], "balanced": [0.9], "random factors": [0.7]}
WORTH = {"D = 20": {"bytes_ratio": 23.2}}
ACCURATE = {"D = 20": 0.987, "D = 20, int8": 0.986}
ADDS = 974_955_520  # as counted, which has some products of D × D matrices
LAYERS = {"layers": layers, "tf": tf}
ERRORS = {"exact": [[1e-9, 1e-10]] * 2, "tangent": [[0.3, 0.1], [1e-9, 1e-10]]}
ERRORS["straight_through"] = [[2.0, 0.5], [1.0, 0.4]]
CONTROL = {"control": "control", "digits": SimpleNamespace(name="mnist")}
ENDS = {"tangent": 0.984, "straight-through": 0.975, "control": 0.981}
RANKS = {"shrinking": "shrinking", "elsewhere": False}
FINAL = {"shrinking": 0.9917, "dynamic": 0.9866, "fine-tuned, shared ranks": 0.9919}


def doubled(x, W, *_):
    return 2 * x @ W


def fed(tangent, straight_through):
    dropped = {"tangent": tangent, "straight-through": straight_through}
    return {"dropped": dropped.get, "spectra": dropped}


def ahead(ranks, both):
    """Accuracies at the budgets of D = 5 and 10."""
    return {"shared ranks": {5: ranks, 10: 0.97}, "neurons and ranks": {5: both, 10: 0.99}}


def of_size(parameters):
    return SimpleNamespace(network=SimpleNamespace(count_params=lambda: parameters))


# Of each check: values for which it holds, and changes of which each makes a claim untrue.
CHECKS = {
    "1.1": (
        {"digits": SimpleNamespace(x_train=IMAGES, y_train=np.arange(10))},
        {"digits": SimpleNamespace(x_train=IMAGES * 255, y_train=np.arange(10))},
        {"digits": SimpleNamespace(x_train=IMAGES, y_train=np.arange(9))},
    ),
    "1.2": ({"seed": 0}, {"model": but(model, build=lambda seed: SMALL)}),
    "1.3": (
        {"history": {"val_accuracy": [0.9, 0.985, 0.98]}},
        {"history": {"val_accuracy": [0.9, 0.985, 0.97]}},
    ),
    "1.4": ({}, {"svd": but(svd, truncate=lambda factors, D: svd.truncate(factors, D + 1))}),
    "1.5": (
        {"factors": DECOMPOSED, "some": [1, 5], "error": TAILS, "rival": [1.2, 1.0001]},
        {"error": [1.001 * tail for tail in TAILS]},
        {"rival": [1.2, 1.002]},
        {"rival": [0.999, 1.0]},
    ),
    "1.6": ({"share": {"a": 0.205, "b": 0.195}, "remaining": 0.2}, {"share": {"a": 0.23}}),
    "1.7": (
        {"initial": {"a": noise(0)}, "svds": {"a": DECOMPOSED}, "edges": {"a": 1.0}},
        {"initial": {"a": noise(0.2)}},
        {"edges": {"a": DECOMPOSED.s[0] / 1.05}},
    ),
    "1.8": (
        {"network": NETWORK, "kernels": KERNELS, "svds": KERNELS, "compress": compress},
        {"compress": but(compress, kept_parameters=lambda network, ranks: 215_370)},
        {"svd": but(svd, svd_parameters=svd.factorized_parameters)},
    ),
    "1.9": (
        {
            **{"plain": {"full": 0.991}, "baseline": 0.991, "network": NETWORK},
            **{"kernels": KERNELS, "digits": SimpleNamespace(y_test=LABELS)},
        },
        {"plain": {"full": 0.989}},
        {"kernels": KERNELS | {"hidden_3": KERNELS["hidden_3"] + 1e-6}},
    ),
    "1.10": (
        {},
        {"svd": but(svd, decompose=lambda W, C=None, Gamma=None: svd.decompose(W, C))},
        {"svd": but(svd, decompose=lambda W, C=None, Gamma=None: svd.decompose(W, None, Gamma))},
    ),
    "1.11": ({}, {"svd": but(svd, regress=lambda C, X, W: W)}),
    "1.12": (
        {"plain": {"10": 0.6}, "whitened": {"10": 0.8}, "layer_by_layer": {"10": 0.9}},
        {"plain": {"10": 0.85}},
        {"layer_by_layer": {"10": 0.7}},
    ),
    "1.13": ({}, {"svd": but(svd, break_even_rank=lambda shape: svd.break_even_rank(shape) + 1)}),
    "1.14": (
        {},
        {"np": but(np, linalg=SimpleNamespace(svd=lambda z: (0, 0, np.eye(3))))},
        {"np": but(np, maximum=lambda z, zero: z)},
        {"np": but(np, maximum=lambda z, zero: z - z.mean(axis=1, keepdims=True))},
    ),
    "1.15": (
        {
            **{"network": NETWORK, "svds": KERNELS, "budgets": [5], "compress": compress},
            **{"rows": ahead(0.8, 0.98), "by_budget": {5: of_size(65_370)}},
        },
        {"rows": ahead(0.98, 0.97)},
        {"by_budget": {5: of_size(65_371)}},
    ),
    "2.1": (
        {},
        {"svd": but(svd, factors=lambda factors, D, balanced: svd.factors(factors, D))},
        {"svd": but(svd, factors=lambda factors, D, **kept: svd.factors(factors, D + 1, **kept))},
    ),
    "2.2": (
        {"network": NETWORK, "factorized": FACTORIZED},
        {"factorized": compress.factorize(NETWORK, D + 1, svds=FLAT)},
    ),
    "2.3": (
        {"network": NETWORK, "factorized": FACTORIZED, "plain": FLAT, "compress": compress},
        {"factorized": NETWORK},
        {"compress": but(compress, factorize=lambda *arguments: FACTORIZED)},
    ),
    "2.4": (
        {
            **{"network": SMALL, "D": 2, "plain": SVDS, "compress": compress},
            **{"factorized": compress.factorize(SMALL, 2, svds=SVDS)},
            **{"digits": SimpleNamespace(x_test=ROWS)},
        },
        {"factorized": compress.factorize(SMALL, 1, svds=SVDS)},
    ),
    "2.5": (
        {"validation": STARTS | {"whitened": [0.8]}},
        {"validation": STARTS | {"whitened": [0.6]}},
    ),
    "2.6": (
        {
            **{"baseline": 0.99, "cut": 0.96, "fine_tuned": 0.987, "random": 0.983},
            **{"tuned": {"whitened": SMALL}, "best": "whitened", "size": SMALL.count_params()},
        },
        {"fine_tuned": 0.981, "random": 0.98},
        {"random": 0.988},
        {"tuned": {"whitened": small(units=7)}},
    ),
    "2.7": ({"turned": {"a": 0.6, "b": 0.9}}, {"turned": {"a": 0.4, "b": 0.9}}),
    "2.8": (
        {
            "ranks": [5, 20],
            "by_rank": {"plain": {5: 0.2, 20: 0.96}, "fine-tuned": {5: 0.9, 20: 0.98}},
        },
        {"by_rank": {"plain": {5: 0.9, 20: 0.2}, "fine-tuned": {5: 0.9, 20: 0.98}}},
    ),
    "2.9": (
        {
            **{"nets": {"baseline": SMALL}, "accuracy": {"baseline": 1.0}},
            **{"digits": SimpleNamespace(y_test=LABELS, test=(ROWS, LABELS))},
        },
        {"accuracy": {"baseline": 0.998}},
    ),
    "2.10": (
        {"worth": WORTH, "size": 215_370, "network": NETWORK, "accuracy": ACCURATE},
        {"worth": {"D = 20": {"bytes_ratio": 20.0}}},
        {"accuracy": ACCURATE | {"D = 20, int8": 0.976}},
    ),
    "3.1": (LAYERS, {"layers": but(layers, product=doubled)}),
    "3.2": (
        {"errors": ERRORS},
        {"errors": ERRORS | {"exact": [[1e-9, 0], [1e-3, 0]]}},
        {"errors": ERRORS | {"tangent": [[0.3, 0], [1e-3, 0]]}},
        {"errors": ERRORS | {"straight_through": [[2.0, 0.5], [1.0, 0.05]]}},
    ),
    "3.3": (
        fed([0.98, 1.0], [1.07, 1.0]),
        fed([0.98, 1.01], [1.02, 1.0]),
    ),
    "3.4": (
        {**CONTROL, "tested": ENDS},
        {"tested": ENDS | {"tangent": 0.98}},
        {"tested": ENDS | {"straight-through": 0.982}},
    ),
    "3.5": (
        {"shares": {"a": [0.7, 0.9], "b": [0.98, 0.99]}, "untracked": 0.976, "refreshed": 0.2},
        {"shares": {"a": [0.7, 0.9], "b": [0.98, 0.97]}},
        {"refreshed": 0.97},
    ),
    "3.6": ({"counted": {"tangent": ADDS}}, {"counted": {"tangent": 1.03 * ADDS}}),
    "3.7": (
        {
            **{"digits": SimpleNamespace(x_test=ROWS), "dynamic": ["a"], "final": {"a": SMALL}},
            **{"nets": {"a": SMALL}, "size": SMALL.count_params()},
        },
        {"final": {"a": small(units=7)}},
    ),
    "3.8": (
        {**RANKS, "tested": FINAL},
        {"tested": FINAL | {"dynamic": 0.992}},
        {"tested": FINAL | {"fine-tuned, shared ranks": 0.9867}},
    ),
}


def test_every_check_is_broken_once():
    assert [*CHECKS] == [*CELLS]


@pytest.mark.parametrize("id", CHECKS)
def test_a_check_holds_exactly_where_its_claim_does(id):
    right, *broken = CHECKS[id]
    assert difference(id, right) == []
    for names in broken:
        assert difference(id, right | names)


@pytest.mark.parametrize("id", CHECKS)
def test_no_claim_is_broken_in_vain(id):
    """Together the broken ones fail every line that says True."""
    right, *broken = CHECKS[id]
    said = "".join(output.text for output in CELLS[id].outputs).splitlines()
    claimed = {line.rpartition(":")[0] for line in said if line.endswith(": True")}
    failed = {line.rpartition(":")[0] for names in broken for line in difference(id, right | names)}
    assert claimed <= failed
