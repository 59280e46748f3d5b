"""The exercises of the notebooks: what each answer is handed, and what makes it right.

Cases are small matrices made from a seed, so a verdict depends on no data set, no training and no
machine. A verdict asks for what defines the right answer and knows no recipe for it: who reads it
still has the exercise to do.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from helpers import svd

TOO_LARGE = 17_000  # a square matrix of this size exceeds the memory that an answer may use


class Wrong(Exception):
    """An answer that is not right; the message says what was expected and what was found."""


class Problem(NamedTuple):
    """One exercise.

    `blank` is the answer cell before anything is written. `cases(rng)` gives the arguments that a
    function is called with, a tuple a case; it is None where the answer is a value. `verdict(found,
    *case)` raises Wrong unless what was found for a case is right.
    """

    id: str
    title: str
    points: int
    blank: str
    cases: Callable | None
    verdict: Callable
    hidden: int = 0  # so many last parts of a case are for the verdict alone
    tensors: bool = False  # arrays are handed as TensorFlow's

    @property
    def name(self):
        """The name that the answer defines."""
        return re.match(r"(?:def )?(\w+)", self.blank)[1]


def _must(condition, sentence):
    if not condition:
        raise Wrong(sentence)


def _whole(found, lowest, highest):
    """A whole number in this range."""
    right = isinstance(found, int) and not isinstance(found, bool) and lowest <= found <= highest
    _must(right, f"expected a whole number from {lowest} to {highest}, found {_brief(found)}")
    return found


def _array(found, *shape):
    """An array of finite numbers, of this shape."""
    expected = f"expected finite numbers of shape {shape}, found "
    try:
        array = np.asarray(found, dtype=float)
    except (ValueError, TypeError, OverflowError):
        raise Wrong(expected + _brief(found)) from None
    _must(array.shape == shape, expected + _brief(found))
    _must(np.isfinite(array).all(), expected + "some that are not finite")
    return array


def _parts(found, *names):
    """Several values, as a tuple or a list."""
    right = isinstance(found, list) and len(found) == len(names)
    _must(right, f"expected {len(names)} values, {', '.join(names)}, found {_brief(found)}")
    return found


def _brief(found):
    if isinstance(found, np.ndarray):
        return f"an array of shape {found.shape}"
    text = " ".join(repr(found).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _close(found, expected, tolerance=1e-6):
    """Whether arrays agree, relative to the norm of the expected one."""
    return np.linalg.norm(found - expected) <= tolerance * (np.linalg.norm(expected) + 1e-300)


def _orthonormal(rng, n, D):
    return np.linalg.qr(rng.normal(size=(n, D)))[0]


def _inputs(rng, n, n_in):
    """Inputs (n, n_in) that vary a hundred times more in some directions than in others."""
    return rng.normal(size=(n, n_in)) * np.geomspace(3, 0.3, n_in) @ _orthonormal(rng, n_in, n_in)


# --- 1: truncated SVD


def _spectra(rng):
    lengths = [10, 40, 200]
    spectra = [np.sort(rng.exponential(size=n))[::-1] for n in lengths]
    return [(s, share) for s in spectra for share in (0.5, 0.9, 0.99)]


def _rank_for_energy(found, s, share):
    D = _whole(found, 1, len(s))
    kept = svd.energy(s, D)
    _must(kept >= share, f"expected a share of {share} to be kept, found {kept:.4f}")
    if D > 1:
        fewer = svd.energy(s, D - 1)
        _must(
            fewer < share, f"expected the smallest rank, but one less keeps {fewer:.4f} >= {share}"
        )


def _harmless_rank(found):
    D = _whole(found, 1, 1024)
    W = np.random.default_rng(0).normal(size=(1024, 10))
    factors = svd.decompose(W)

    def change(D):
        return np.linalg.norm(W - svd.truncate(factors, D)) / np.linalg.norm(W)

    _must(
        change(D) < 1e-9,
        f"expected that no W ever changes, found one that does, by {change(D):.0%}",
    )
    earlier = D > 1 and change(D - 1) < 1e-9
    _must(not earlier, "expected the first such rank, but one less never changes anything, either")


def _layers_with_inputs(rng):
    shapes = [(200, 12, 8, 3), (500, 30, 40, 5)]
    return [
        (rng.normal(size=(n_in, n_out)), _inputs(rng, n, n_in), D) for n, n_in, n_out, D in shapes
    ]


def _truncate_for_inputs(found, W, x, D):
    W_D = _array(found, *W.shape)
    s = svd.decompose(W_D).s
    _must(s[D] <= 1e-9 * s[0], f"expected rank {D}, found rank {np.sum(s > 1e-9 * s[0])}")
    error = np.linalg.norm(x @ (W - W_D))
    least = np.linalg.norm(svd.decompose(x @ W).s[D:])
    _must(error <= 1.001 * least, f"expected outputs that change by {least:.4g}, found {error:.4g}")


def _networks(rng):
    shapes = [(784, 400), (400, 400), (400, 300), (300, 200), (200, 50)]
    cases = []
    for allowed in (0.02, 0.2):
        decays = rng.permutation([8.0, 16.0, 32.0, 48.0, 64.0])
        spectra = [
            rng.uniform(1, 3) * np.exp(-np.arange(min(shape)) / decay)
            for shape, decay in zip(shapes, decays, strict=True)
        ]
        rise = allowed * sum(np.sum(s**2) for s in spectra) / 2
        cases.append((spectra, shapes, float(rise)))
    return cases


def _cheapest_ranks(found, spectra, shapes, rise):
    found = _parts(found, *(f"rank {layer}" for layer in range(1, len(shapes) + 1)))
    ranks = [_whole(D, 1, len(s)) for D, s in zip(found, spectra, strict=True)]
    tails = [(np.sum(s**2) - np.cumsum(s**2)) / 2 for s in spectra]  # at D = 1, 2, …
    predicted = sum(tail[D - 1] for tail, D in zip(tails, ranks, strict=True))
    _must(
        predicted <= rise * (1 + 1e-9),
        f"expected a predicted rise of the loss of {rise:.4g} or less, found {predicted:.4g}",
    )
    prices = [svd.factorized_parameters(shape, 1) for shape in shapes]
    size = sum(price * D for price, D in zip(prices, ranks, strict=True))
    most = _dual_bound(tails, prices, rise) + max(prices)
    _must(size <= most, f"expected {most:,.0f} parameters or fewer, found {size:,}")


def _dual_bound(tails, prices, rise):
    """No ranks with this rise cost less: the largest value of the Lagrangian's dual function.

    max_λ  Σ_l min_D (price_l D + λ tail_l(D)) − λ rise,    at one of the λ where a D changes
    """
    changes = [p / np.maximum(-np.diff(t), 1e-12) for t, p in zip(tails, prices, strict=True)]
    multipliers = np.concatenate(changes)
    least = -multipliers * rise
    for tail, price in zip(tails, prices, strict=True):
        sizes = price * np.arange(1, len(tail) + 1)
        least += np.min(sizes + multipliers[:, None] * tail, axis=1)
    return float(max(least.max(), sum(prices)))


def _signals_in_noise(rng):
    cases = []
    shapes = rng.permutation([(300, 200), (200, 300), (300, 300), (200, 300), (400, 150)])
    counts = (rng.integers(2, 6), 0, 1, rng.integers(9, 14), rng.integers(6, 10))
    for shape, learned, strongest in zip(shapes, map(int, counts), (20, 1, 2, 6, 40), strict=True):
        std = rng.uniform(0.01, 1)
        strengths = np.geomspace(1.4, strongest, learned) * svd.noise_edge(shape, std)
        U, V = (_orthonormal(rng, n, learned) for n in shape)
        cases.append(((U * strengths) @ V.T + std * rng.normal(size=shape), learned))
    return cases


def _learned_directions(found, W, learned):
    found = _whole(found, 0, min(W.shape))
    sentence = f"expected {learned} learned directions in a W of shape {W.shape}, found {found}"
    _must(found == learned, sentence)


# --- 2: factorized network


def _largest_D(found):
    D, dense = _whole(found, 1, 1024), 1024 * 10
    held, more = (svd.factorized_parameters((1024, 10), r) for r in (D, D + 1))
    _must(held < dense, f"expected fewer than W's {dense:,} parameters, found {held:,}")
    _must(more >= dense, f"expected the largest such D, but one more has {more:,}, fewer, too")


def _biased_pairs(rng):
    sizes = [(9, 7, 3), (40, 60, 5)]
    return [
        tuple(rng.normal(size=s) for s in ((n_in, D), D, (D, n_out), n_out))
        for n_in, n_out, D in sizes
    ]


def _merged(found, U, a, Vt, b):
    kernel, bias = _parts(found, "kernel", "bias")
    kernel, bias = _array(kernel, len(U), len(b)), _array(bias, len(b))
    expected = (np.eye(len(U)) @ U + a) @ Vt + b  # the outputs for each unit vector, and for 0
    at_zero = (np.zeros(len(U)) @ U + a) @ Vt + b
    _must(_close(bias, at_zero), "expected the pair's outputs for the input 0, found others")
    _must(_close(kernel + bias, expected), "expected the pair's outputs for any x, found others")


def _thin_pairs(rng):
    shapes = [(20, 3, 30), (50_000, 3, 60_000)]  # the second A B would be 24 GB
    return [(rng.normal(size=(n, D)), rng.normal(size=(D, m))) for n, D, m in shapes]


def _svd_of_product(found, A, B):
    U, s, Vt = _parts(found, "U", "s", "Vt")
    D = A.shape[1]
    U, s, Vt = _array(U, *A.shape), _array(s, D), _array(Vt, *B.shape)
    orthonormal = _close(U.T @ U, np.eye(D)) and _close(Vt @ Vt.T, np.eye(D))
    _must(orthonormal, "expected orthonormal columns of U and rows of Vt, found others")
    falling = (np.diff(s) <= 0).all() and s[-1] >= 0
    _must(falling, f"expected s >= 0 in descending order, found {s.round(3).tolist()}")
    same = _close(U[:50] * s @ Vt[:, :50], A[:50] @ B[:, :50])
    _must(same, "expected U diag(s) Vt to be A B, found another product")


def _upstream(rng):
    sizes = [(6, 9, 7, 3), (4, TOO_LARGE, TOO_LARGE, 3)]
    return [
        tuple(rng.normal(size=s) for s in ((n, n_in), (n, n_out), (n_in, D), (D, n_out)))
        for n, n_in, n_out, D in sizes
    ]


def _factor_gradients(found, x, dy, U, Vt):
    dU, dVt = _parts(found, "dU", "dVt")
    dU, dVt = _array(dU, *U.shape), _array(dVt, *Vt.shape)
    rng = np.random.default_rng(1)
    for _ in range(5):
        E, F = rng.normal(size=U.shape), rng.normal(size=Vt.shape)
        # The outputs are linear in either factor: their change along E is exact.
        for name, gradient, along, change in (
            ("dU", dU, E, (x @ E) @ Vt),
            ("dVt", dVt, F, (x @ U) @ F),
        ):
            expected, had = np.vdot(dy, change), np.vdot(gradient, along)
            near = abs(expected - had) <= 1e-8 * np.linalg.norm(dy) * np.linalg.norm(change)
            _must(
                near,
                f"expected the loss to change by {expected:.4g} along a direction of "
                f"{name[1:]}, found {had:.4g} by {name}",
            )


def _targets(rng):
    cases = []
    for n, n_in, n_out, D in [(300, 20, 15, 4), (200, 12, 30, 3)]:
        x, W = _inputs(rng, n, n_in), rng.normal(size=(n_in, n_out))
        z = x @ W + 0.1 * rng.normal(size=(n, n_out))
        cases.append((x, z, *svd.factors(svd.decompose(W), D)))
    return cases


def _fine_tune_layer(found, x, z, U, Vt):
    new_U, new_Vt, kept = _parts(found, "U", "Vt", "kept")
    new_U, new_Vt = _array(new_U, *U.shape), _array(new_Vt, *Vt.shape)
    D = U.shape[1]
    fitted = x @ np.linalg.lstsq(x, z, rcond=None)[0]
    dropped = np.linalg.svd(fitted, compute_uv=False)[D:]
    least = np.sum((z - fitted) ** 2) + np.sum(dropped**2)
    error = np.sum((z - x @ new_U @ new_Vt) ** 2)
    _must(
        error <= 1.01 * least,
        f"expected a squared error at most 1 % above {least:.5g}, found {error:.5g}",
    )
    bases = [np.linalg.qr(factor)[0] for factor in (U, new_U)]
    share = np.linalg.norm(bases[0].T @ bases[1]) ** 2 / D
    near = abs(float(_array(kept)) - share) < 0.01
    _must(near, f"expected kept to be {share:.3f} for your factors, found {_brief(kept)}")


# --- 3: dynamic SVD


def _largest_cheaper_D(found):
    def adds(D, n=256, n_in=1024, n_out=1024):
        squares = D**2 * (3 * n_in + 2 * n_out)
        return 3 * n * D * (n_in + n_out) + 4 * D * n_in * n_out + squares

    D, dense = _whole(found, 1, 1024), 3 * 256 * 1024 * 1024
    _must(adds(D) < dense, f"expected fewer multiply-adds than {dense:,}, found {adds(D):,}")
    _must(adds(D + 1) >= dense, f"expected the largest such D, but one more takes {adds(D + 1):,}")


def _matrices_and_bases(rng):
    sizes = [(12, 9, 4), (7, 11, 1), (TOO_LARGE, 20, 4)]
    return [
        (rng.normal(size=(n_in, n_out)), _orthonormal(rng, n_in, D), _orthonormal(rng, n_out, D).T)
        for n_in, n_out, D in sizes
    ]


def _outside(A, U, Vt):
    """aᵀ A b for random a orthogonal to U and b orthogonal to V, twenty of each: (20, 20)."""
    rng = np.random.default_rng(1)
    sides = []
    for basis in (U, Vt.T):
        probes = rng.normal(size=(len(basis), 20))
        probes -= basis @ (basis.T @ probes)
        sides.append(probes / np.linalg.norm(probes, axis=0))
    return sides[0].T @ A @ sides[1]


def _project(found, X, U, Vt):
    P = _array(found, *X.shape)
    scale = np.linalg.norm(X)
    left = max(np.linalg.norm(U.T @ (X - P)), np.linalg.norm((X - P) @ Vt.T))
    _must(
        left <= 1e-8 * scale,
        f"expected all of X within U or V to be kept, found {left / scale:.1%} missing",
    )
    outside = np.abs(_outside(P, U, Vt)).max()
    _must(
        outside <= 1e-8 * scale,
        "expected nothing outside of the tangent space, found directions orthogonal to U and V",
    )


def _batches(rng):
    cases = []
    for n, n_in, n_out, D in [(5, 12, 9, 4), (8, 7, 11, 2)]:
        W = rng.normal(size=(n_in, n_out))
        U, s, Vt = svd.decompose(W)
        x, dy = rng.normal(size=(n, n_in)), rng.normal(size=(n, n_out))
        cases.append((x, dy, W, U[:, :D], s[:D], Vt[:D]))
    return cases


def _right_projection(found, x, dy, W, U, s, Vt):
    P = _array(found, *W.shape)
    within = x.T @ (dy @ Vt.T)
    _must(_close(P @ Vt.T, within), "expected G V to be kept, found another product with V")
    rows = np.linalg.norm(P) ** 2 - np.linalg.norm(P @ Vt.T) ** 2
    _must(
        abs(rows) <= 1e-6 * np.linalg.norm(P) ** 2,
        "expected rows in the row space of Vt, found parts of them outside",
    )


def _gradients(rng):
    sizes = [(30, 20, 3), (25, 40, 6)]
    return [
        (rng.normal(size=(n_in, n_out)), _orthonormal(rng, n_in, D), _orthonormal(rng, n_out, D).T)
        for n_in, n_out, D in sizes
    ]


def _steps_outside(found, G, U, Vt):
    by_sgd, by_adam = (float(_array(part)) for part in _parts(found, "by SGD", "by Adam"))
    _must(abs(by_sgd) < 1e-6, f"expected a share of 0.000 by SGD, found {by_sgd:.3f}")
    # What is orthogonal to both bases, completed: no projection is needed to measure by.
    beyond_U, beyond_V = (np.linalg.qr(B, mode="complete")[0][:, B.shape[1] :] for B in (U, Vt.T))
    step = np.sign(G - beyond_U @ (beyond_U.T @ G @ beyond_V) @ beyond_V.T)
    share = np.linalg.norm(beyond_U.T @ step @ beyond_V) / np.linalg.norm(step)
    near = abs(by_adam - share) < 1e-3
    _must(near, f"expected a share of {share:.3f} by Adam, found {by_adam:.3f}")


def _trainings(rng):
    x = rng.normal(size=(100, 16))
    strengths = np.geomspace(6, 0.5, 12)  # more directions to learn than the last rank has
    z = x @ (_orthonormal(rng, 16, 12) * strengths) @ _orthonormal(rng, 12, 12)
    z += 0.1 * rng.normal(size=z.shape)
    W, ranks = rng.normal(size=(16, 12)) / 4, [8] * 20 + [5] * 20 + [3] * 40
    return [(x, z, W, ranks, 0.1, kind) for kind in ("tangent", "straight_through")]


def _train(found, x, z, W, ranks, rate, derivative):
    matrices, gaps = _parts(found, "matrices", "gaps")
    matrices = _array(matrices, len(ranks) + 1, *W.shape)
    gaps = _array(gaps, len(ranks))
    _must(_close(matrices[0], W), "expected the first matrix to be W, found another")
    rng = np.random.default_rng(1)
    for t, D in enumerate(ranks):
        at, factors = f"step {t + 1}, at rank {D}", svd.decompose(matrices[t])
        moved = (matrices[t] - matrices[t + 1]) / rate
        U, Vt = factors.U[:, :D], factors.Vt[:D]
        dy = (x @ svd.truncate(factors, D) - z) / len(x)
        for _ in range(5):
            E = rng.normal(size=W.shape)
            if derivative == "tangent":  # a direction in which the truncation can move
                E = U @ rng.normal(size=(D, W.shape[1])) + rng.normal(size=(len(W), D)) @ Vt
            expected, had = np.vdot(dy, x @ E), np.vdot(moved, E)
            near = abs(expected - had) <= 1e-6 * np.linalg.norm(dy) * np.linalg.norm(x @ E)
            _must(near, f"expected a slope of {expected:.4g} at {at}, found {had:.4g}")
        if derivative == "tangent":
            outside = np.abs(_outside(moved, U, Vt)).max()
            inside = outside <= 1e-8 * np.linalg.norm(moved)
            _must(inside, f"expected {at} to stay in the tangent space, found that it leaves it")
        s = svd.decompose(matrices[t + 1]).s
        gap = svd.gap(s, D) / s[D - 1]
        near = abs(gaps[t] - gap) < 1e-6
        _must(near, f"expected a relative gap of {gap:.4f} after {at}, found {gaps[t]:.4f}")


def _function(signature):
    return f"def {signature}:\n    return None  # write here"


def _value(name):
    return f"{name} = None  # write here"


_ALL = [
    Problem(
        "1.E1",
        "rank for a share of the energy",
        1,
        _function("rank_for_energy(s, share)"),
        _spectra,
        _rank_for_energy,
    ),
    Problem(
        "1.E2", "the rank of the output layer", 2, _value("harmless_rank"), None, _harmless_rank
    ),
    Problem(
        "1.E3",
        "truncation for given inputs",
        3,
        _function("truncate_for_inputs(W, x, D)"),
        _layers_with_inputs,
        _truncate_for_inputs,
    ),
    Problem(
        "1.E4",
        "the smallest network for a rise of the loss",
        4,
        _function("cheapest_ranks(spectra, shapes, rise)"),
        _networks,
        _cheapest_ranks,
    ),
    Problem(
        "1.E5",
        "how much was learned",
        5,
        _function("learned_directions(W)"),
        _signals_in_noise,
        _learned_directions,
        hidden=1,
    ),
    Problem("2.E1", "break-even of the output layer", 1, _value("largest_D"), None, _largest_D),
    Problem("2.E2", "merging a pair", 2, _function("merged(U, a, Vt, b)"), _biased_pairs, _merged),
    Problem(
        "2.E3",
        "the SVD of a product, without the product",
        3,
        _function("svd_of_product(A, B)"),
        _thin_pairs,
        _svd_of_product,
    ),
    Problem(
        "2.E4",
        "the gradients of the factors",
        4,
        _function("factor_gradients(x, dy, U, Vt)"),
        _upstream,
        _factor_gradients,
    ),
    Problem(
        "2.E5",
        "fine-tuning one layer",
        5,
        _function("fine_tune_layer(x, z, U, Vt)"),
        _targets,
        _fine_tune_layer,
    ),
    Problem(
        "3.E1",
        "from where on the dynamic layer costs more",
        1,
        _value("largest_cheaper_D"),
        None,
        _largest_cheaper_D,
    ),
    Problem(
        "3.E2",
        "the tangent projection",
        2,
        _function("project(X, U, Vt)"),
        _matrices_and_bases,
        _project,
    ),
    Problem(
        "3.E3",
        "a derivative of your own",
        3,
        _function("right_projection(x, dy, W, U, s, Vt)"),
        _batches,
        _right_projection,
        tensors=True,
    ),
    Problem(
        "3.E4",
        "which optimizer leaves the tangent space",
        4,
        _function("steps_outside(G, U, Vt)"),
        _gradients,
        _steps_outside,
    ),
    Problem(
        "3.E5",
        "training with the SVD inside, at falling rank",
        5,
        _function("train_truncated(x, z, W, ranks, rate, derivative)"),
        _trainings,
        _train,
    ),
]
PROBLEMS = {problem.id: problem for problem in _ALL}
