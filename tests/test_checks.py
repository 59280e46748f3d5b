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
KINDS = ["float32", "int8"]
ADDS = 974_955_520  # as counted, which has some products of D × D matrices
LAYERS = {"layers": layers, "tf": tf}
ERRORS = {"exact": [[1e-9, 1e-10]] * 2, "tangent": [[0.3, 0.1], [1e-9, 1e-10]]}
ERRORS["straight_through"] = [[2.0, 0.5], [1.0, 0.4]]
CONTROL = {"control": "control", "digits": SimpleNamespace(name="mnist")}
ENDS = {"tangent": 0.984, "straight-through": 0.975, "control": 0.981}
RANKS = {"shrinking": "shrinking", "shared": "shared", "elsewhere": False}
FINAL = {"shrinking": 0.9917, "dynamic": 0.9866, "shared": 0.9919}


def doubled(x, W, *_):
    return 2 * x @ W


def fed(tangent, straight_through):
    dropped = {"tangent": tangent, "straight-through": straight_through}
    return {"dropped": dropped.get, "spectra": dropped}


def apart(*distances):
    """Pairs of arrays so far from one another."""
    return {str(i): (np.zeros(2), np.array([0, d])) for i, d in enumerate(distances)}


def worth(*ratios):
    """Of float32 and of int8."""
    return {("D = 5", q): {"bytes_ratio": r} for q, r in zip(KINDS, ratios, strict=True)}


def exported(int8):
    return {("D = 5", "float32"): 0.987, ("D = 5", "int8"): int8}


def of_size(parameters):
    return SimpleNamespace(network=SimpleNamespace(count_params=lambda: parameters))


def best(neurons, ranks, dense):
    """Accuracies at the budget of D = 5."""
    by_svd = {name: {5: 0.5} for name in ("plain", "whitened", "two_sided", "layer_by_layer")}
    names = {"by_ranks": {5: ranks}, "by_both": {5: neurons}, "small_dense": dense}
    return by_svd | names | {"baseline": 0.991, "cut": {5: of_size(65_370)}, "size": {5: 65_370}}


# Of each check: values for which it holds, and changes of which each makes a claim untrue.
CHECKS = {
    "1.1": ({"seed": 0}, {"model": but(model, build=lambda seed: SMALL)}),
    "1.2": (
        {"factors": DECOMPOSED, "some": [1, 5], "error": TAILS},
        {"error": [1.001 * tail for tail in TAILS]},
        {"svd": but(svd, truncate=lambda factors, D: svd.truncate(factors, D - 1))},
    ),
    "1.3": (
        {
            **{"share": {"a": 0.205, "b": 0.195}, "remaining": 0.2},
            **{"before": [2.84], "std": 2**-4.5, "W": KERNELS["hidden_5"]},
            **{"svds": {"a": DECOMPOSED}, "edges": {"a": 1.0}},
        },
        {"share": {"a": 0.215}},
        {"before": [2.6]},
        {"edges": {"a": DECOMPOSED.s[0] / 1.05}},
    ),
    "1.4": (
        {"network": NETWORK, "kernels": KERNELS, "svds": KERNELS, "compress": compress},
        {"compress": but(compress, kept_parameters=lambda network, ranks: 215_370)},
        {"svd": but(svd, svd_parameters=svd.factorized_parameters)},
    ),
    "1.5": ({}, {"svd": but(svd, break_even_rank=lambda shape: svd.break_even_rank(shape) + 1)}),
    "1.6": (
        {"plain": {10: 0.6}, "whitened": {10: 0.8}},
        {"plain": {10: 0.75}},
        {"svd": but(svd, decompose=lambda W, C=None, Gamma=None: svd.decompose(W))},
    ),
    "1.7": (
        {"whitened": {10: 0.8}, "two_sided": {10: 0.81}},
        {"two_sided": {10: 0.79}},
        {"svd": but(svd, decompose=lambda W, C=None, Gamma=None: svd.decompose(W, C))},
    ),
    "1.8": ({"two_sided": {5: 0.4}, "layer_by_layer": {5: 0.8}}, {"two_sided": {5: 0.75}}),
    "1.9": (
        {"pairs": apart(0, 0.5, 0)},
        {"pairs": apart(1e-3, 0.5, 0)},
        {"pairs": apart(0, 0.05, 0)},
        {"pairs": apart(0, 0.5, 1e-9)},
    ),
    "1.10": (
        best(neurons=0.988, ranks=0.8, dense=0.984),
        best(neurons=0.988, ranks=0.95, dense=0.984),
        best(neurons=0.988, ranks=0.8, dense=0.989),
        best(neurons=0.98, ranks=0.8, dense=0.97),
        {"cut": {5: of_size(65_371)}},
    ),
    "2.1": (
        {"network": NETWORK, "factorized": FACTORIZED},
        {"factorized": compress.factorize(NETWORK, D + 1, svds=FLAT)},
    ),
    "2.2": (
        {
            **{"network": SMALL, "D": 2, "plain": SVDS, "compress": compress},
            **{"factorized": compress.factorize(SMALL, 2, svds=SVDS)},
            **{"digits": SimpleNamespace(x_test=ROWS)},
        },
        {"factorized": compress.factorize(SMALL, 1, svds=SVDS)},
    ),
    "2.3": (
        {"validation": {"fine-tuned": [0.9, 0.95], "random factors": [0.7, 0.94]}},
        {"validation": {"fine-tuned": [0.705, 0.95], "random factors": [0.7, 0.94]}},
        {"validation": {"fine-tuned": [0.9, 0.93], "random factors": [0.7, 0.94]}},
    ),
    "2.4": ({"won": 0.8, "without": 0.6}, {"won": 0.45, "without": 0.3}, {"without": 0.9}),
    "2.5": ({"kept": {"a": 0.6, "b": 0.9}}, {"kept": {"a": 0.4, "b": 0.9}}),
    "2.6": (
        {"at_5": {"fine-tuned, neurons and ranks": 0.99, "small dense network": 0.98}},
        {"at_5": {"fine-tuned, neurons and ranks": 0.98, "small dense network": 0.98}},
    ),
    "2.7": (
        {
            **{"nets": {"baseline": SMALL}, "accuracy": {("baseline", "float32"): 1.0}},
            **{"digits": SimpleNamespace(y_test=LABELS, test=(ROWS, LABELS))},
        },
        {"accuracy": {("baseline", "float32"): 0.998}},
    ),
    "2.8": (
        {"worth": worth(75, 271), "inputs": KINDS, "nets": ["D = 5"], "accuracy": exported(0.986)},
        {"worth": worth(69, 271)},
        {"worth": worth(75, 249)},
        {"accuracy": exported(0.981)},
    ),
    "3.1": (LAYERS, {"layers": but(layers, product=doubled)}),
    "3.2": (
        {"errors": ERRORS},
        {"errors": ERRORS | {"exact": [[1e-9, 0], [1e-3, 0]]}},
        {"errors": ERRORS | {"tangent": [[0.3, 0], [1e-3, 0]]}},
        {"errors": ERRORS | {"straight_through": [[2.0, 0.5], [1.0, 0.05]]}},
    ),
    "3.3": (fed([0.98, 1.0], [1.07, 1.0]), fed([0.98, 1.01], [1.02, 1.0])),
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
        {"tested": FINAL | {"shared": 0.9867}},
    ),
}


def test_every_check_is_broken_once():
    assert [*CHECKS] == [*CELLS]


@pytest.mark.parametrize("id", CHECKS)
def test_a_check_holds_exactly_where_its_claim_does(id):
    """Each broken one fails a line, and together they fail every line that says True."""
    right, *broken = CHECKS[id]
    assert difference(id, right) == []
    failed = [difference(id, right | names) for names in broken]
    assert all(failed)
    said = "".join(output.text for output in CELLS[id].outputs).splitlines()
    claimed = {line.rpartition(":")[0] for line in said if line.endswith(": True")}
    assert claimed <= {line.rpartition(":")[0] for lines in failed for line in lines}
