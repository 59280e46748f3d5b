"""The exercises of the notebooks: what each answer is handed, and what makes it right.

Cases are small matrices made from a seed, so a verdict depends on no data set, no training and no
machine. A verdict asks for what defines the right answer and knows no recipe for it: who reads it
still has the exercise to do.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from helpers import svd

PROBLEMS = {}  # {id: Problem}, in the order of the notebooks
TOO_LARGE = 17_000  # a square matrix of this size exceeds the memory that an answer may use


class Wrong(Exception):
    """An answer is not right; the message says what was expected and what was found."""


class Problem(NamedTuple):
    """One exercise.

    `signature` is the name of the value that it asks for, or the function's name and arguments.
    `cases(rng)` gives the arguments that a function is called with, a tuple a case; it is None
    where the answer is a value. `verdict(found, *case)` raises Wrong unless what was found for a
    case is right.
    """

    id: str
    points: int
    title: str
    signature: str
    cases: Callable | None
    verdict: Callable
    hidden: int = 0  # the last `hidden` parts of a case are not shown to the answer
    tensors: bool = False  # arrays are handed as TensorFlow's

    @property
    def name(self):
        """The name that the answer defines."""
        return self.signature.split("(")[0]

    @property
    def blank(self):
        """The answer cell before anything is written."""
        if self.cases:
            return f"def {self.signature}:\n    return None  # write here"
        return f"{self.signature} = None  # write here"


def problem(id, points, title, signature, cases=None, **options):
    """Make the function below the verdict of an exercise; the arguments are Problem's."""

    def register(verdict):
        PROBLEMS[id] = Problem(id, points, title, signature, cases, verdict, **options)
        return verdict

    return register


def _expect(condition, sentence):
    if not condition:
        raise Wrong(f"expected {sentence}")


def _whole(found, lowest, highest):
    """A whole number in this range, as an int; 10.0 is one, too."""
    whole = isinstance(found, (int, float)) and not isinstance(found, bool) and found % 1 == 0
    right = whole and lowest <= found <= highest
    _expect(right, f"a whole number from {lowest} to {highest}, found {_in_short(found)}")
    return int(found)


def _array(found, *shape):
    """An array of finite numbers, of this shape."""
    expected = f"finite numbers of shape {shape}, found"
    try:
        array = np.asarray(found, dtype=float)
    except (ValueError, TypeError, OverflowError):
        array = None
    _expect(array is not None and array.shape == shape, f"{expected} {_in_short(found)}")
    _expect(np.isfinite(array).all(), f"{expected} some that are not finite")
    return array


def _parts(found, *names):
    """Several values."""
    right = isinstance(found, list) and len(found) == len(names)
    _expect(right, f"{len(names)} values, {', '.join(names)}, found {_in_short(found)}")
    return found


def _in_short(found):
    try:
        shape = np.shape(found)
    except ValueError:  # rows of different lengths
        shape = ()
    if len(shape) > 1 or np.prod(shape) > 10:
        return f"an array of shape {shape}"
    text = " ".join(repr(found).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _close(found, expected, tolerance=1e-6):
    """Do arrays agree, relative to the norm of the expected one?"""
    return np.linalg.norm(found - expected) <= tolerance * (np.linalg.norm(expected) + 1e-300)


def _same_slope(found, dy, change, tolerance, name, by):
    """The loss changes by ⟨dy, change⟩ along a direction, and so it does by what was found."""
    expected, largest = np.vdot(dy, change), np.linalg.norm(dy) * np.linalg.norm(change)
    along = f"the loss to change by {expected:.4g} along a direction of {name}"
    near = abs(expected - found) <= tolerance * largest
    _expect(near, f"{along}, found {found:.4g} by {by}")


def _orthonormal(rng, n, D):
    return np.linalg.qr(rng.normal(size=(n, D)))[0]


def _inputs(rng, n, n_in):
    """Inputs (n, n_in) that vary a hundred times more in some directions than in others."""
    return rng.normal(size=(n, n_in)) * np.geomspace(3, 0.3, n_in) @ _orthonormal(rng, n_in, n_in)


# --- 1: truncated SVD


def _spectra(rng):
    lengths = [10, 40, 200]
    spectra = [np.sort(rng.exponential(size=n))[::-1] for n in lengths]
    exactly = np.ones(4), 0.25  # the first value keeps neither more nor less
    return [exactly, *((s, share) for s in spectra for share in (0.5, 0.9, 0.99))]


@problem("1.E1", 1, "rank for a share of the energy", "rank_for_energy(s, share)", _spectra)
def _rank_for_energy(found, s, share):
    D = _whole(found, 1, len(s))
    kept = svd.energy(s, D)
    _expect(kept >= share, f"a share of {share} to be kept, found {kept:.4f}")
    if D > 1:
        fewer = svd.energy(s, D - 1)
        _expect(fewer < share, f"the smallest rank, but one less keeps {fewer:.4f} >= {share}")


@problem("1.E2", 2, "the rank of the output layer", "harmless_rank")
def _harmless_rank(found):
    D = _whole(found, 1, 1024)
    W = np.random.default_rng(0).normal(size=(1024, 10))
    factors = svd.decompose(W)

    def change(D):
        return np.linalg.norm(W - svd.truncate(factors, D)) / np.linalg.norm(W)

    kept = change(D) < 1e-9
    _expect(kept, f"that no W ever changes, found one that does, by {change(D):.0%}")
    earlier = D > 1 and change(D - 1) < 1e-9
    _expect(not earlier, "the first such rank, but one less never changes anything, either")


def _layers_with_inputs(rng):
    shapes = [(200, 12, 8, 3), (500, 30, 40, 5)]
    return [
        (rng.normal(size=(n_in, n_out)), _inputs(rng, n, n_in), D) for n, n_in, n_out, D in shapes
    ]


@problem(
    "1.E3", 3, "truncation for given inputs", "truncate_for_inputs(W, x, D)", _layers_with_inputs
)
def _truncate_for_inputs(found, W, x, D):
    W_D = _array(found, *W.shape)
    s = svd.decompose(W_D).s
    _expect(s[D] <= 1e-9 * s[0], f"rank {D}, found rank {np.sum(s > 1e-9 * s[0])}")
    error = np.linalg.norm(x @ (W - W_D))
    least = np.linalg.norm(svd.decompose(x @ W).s[D:])
    _expect(error <= 1.001 * least, f"outputs that change by {least:.4g}, found {error:.4g}")


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


@problem(
    "1.E4",
    4,
    "the smallest network for a rise of the loss",
    "cheapest_ranks(spectra, shapes, rise)",
    _networks,
)
def _cheapest_ranks(found, spectra, shapes, rise):
    found = _parts(found, *(f"rank {layer}" for layer in range(1, len(shapes) + 1)))
    ranks = [_whole(D, 1, len(s)) for D, s in zip(found, spectra, strict=True)]
    tails = [(np.sum(s**2) - np.cumsum(s**2)) / 2 for s in spectra]  # at D = 1, 2, …
    predicted = sum(tail[D - 1] for tail, D in zip(tails, ranks, strict=True))
    sentence = f"a predicted rise of the loss of {rise:.4g} or less, found {predicted:.4g}"
    _expect(predicted <= rise * (1 + 1e-9), sentence)
    prices = [svd.factorized_parameters(shape, 1) for shape in shapes]
    size = sum(price * D for price, D in zip(prices, ranks, strict=True))
    most = _dual_bound(tails, prices, rise) + max(prices)
    _expect(size <= most, f"{most:,.0f} parameters or fewer, found {size:,}")


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


@problem("1.E5", 5, "how much was learned", "learned_directions(W)", _signals_in_noise, hidden=1)
def _learned_directions(found, W, learned):
    found = _whole(found, 0, min(W.shape))
    sentence = f"{learned} learned directions in a W of shape {W.shape}, found {found}"
    _expect(found == learned, sentence)


# --- 2: factorized network


@problem("2.E1", 1, "break-even of the output layer", "largest_D")
def _largest_D(found):
    D, dense = _whole(found, 1, 1024), 1024 * 10
    held, more = (svd.factorized_parameters((1024, 10), r) for r in (D, D + 1))
    _expect(held < dense, f"fewer than W's {dense:,} parameters, found {held:,}")
    _expect(more >= dense, f"the largest such D, but one more has {more:,}, fewer, too")


def _biased_pairs(rng):
    sizes = [(9, 7, 3), (40, 60, 5)]
    return [
        tuple(rng.normal(size=s) for s in ((n_in, D), D, (D, n_out), n_out))
        for n_in, n_out, D in sizes
    ]


@problem("2.E2", 2, "merging a pair", "merged(U, a, Vt, b)", _biased_pairs)
def _merged(found, U, a, Vt, b):
    kernel, bias = _parts(found, "kernel", "bias")
    kernel, bias = _array(kernel, len(U), len(b)), _array(bias, len(b))
    expected = (np.eye(len(U)) @ U + a) @ Vt + b  # the outputs for each unit vector, and for 0
    at_zero = (np.zeros(len(U)) @ U + a) @ Vt + b
    _expect(_close(bias, at_zero), "the pair's outputs for the input 0, found others")
    _expect(_close(kernel + bias, expected), "the pair's outputs for any x, found others")


def _thin_pairs(rng):
    shapes = [(20, 3, 30), (50_000, 3, 60_000)]  # the second A B would be 24 GB
    return [(rng.normal(size=(n, D)), rng.normal(size=(D, m))) for n, D, m in shapes]


@problem(
    "2.E3", 3, "the SVD of a product, without the product", "svd_of_product(A, B)", _thin_pairs
)
def _svd_of_product(found, A, B):
    U, s, Vt = _parts(found, "U", "s", "Vt")
    D = A.shape[1]
    U, s, Vt = _array(U, *A.shape), _array(s, D), _array(Vt, *B.shape)
    orthonormal = _close(U.T @ U, np.eye(D)) and _close(Vt @ Vt.T, np.eye(D))
    _expect(orthonormal, "orthonormal columns of U and rows of Vt, found others")
    falling = (np.diff(s) <= 0).all() and s[-1] >= 0
    _expect(falling, f"s >= 0 in descending order, found {s.round(3).tolist()}")
    same = _close(U[:50] * s @ Vt[:, :50], A[:50] @ B[:, :50])
    _expect(same, "U diag(s) Vt to be A B, found another product")


def _upstream(rng):
    sizes = [(6, 9, 7, 3), (4, TOO_LARGE, TOO_LARGE, 3)]
    return [
        tuple(rng.normal(size=s) for s in ((n, n_in), (n, n_out), (n_in, D), (D, n_out)))
        for n, n_in, n_out, D in sizes
    ]


@problem("2.E4", 4, "the gradients of the factors", "factor_gradients(x, dy, U, Vt)", _upstream)
def _factor_gradients(found, x, dy, U, Vt):
    dU, dVt = _parts(found, "dU", "dVt")
    dU, dVt = _array(dU, *U.shape), _array(dVt, *Vt.shape)
    rng = np.random.default_rng(1)
    for _ in range(5):
        E, F = rng.normal(size=U.shape), rng.normal(size=Vt.shape)
        # The outputs are linear in either factor: their change along E is exact.
        changes = [("U", dU, E, (x @ E) @ Vt), ("Vt", dVt, F, (x @ U) @ F)]
        for name, gradient, along, change in changes:
            _same_slope(np.vdot(gradient, along), dy, change, 1e-8, name, f"d{name}")


def _targets(rng):
    cases = []
    for n, n_in, n_out, D in [(300, 20, 15, 4), (200, 12, 30, 3)]:
        x, W = _inputs(rng, n, n_in), rng.normal(size=(n_in, n_out))
        z = x @ W + 0.1 * rng.normal(size=(n, n_out))
        cases.append((x, z, *svd.factors(svd.decompose(W), D)))
    return cases


@problem("2.E5", 5, "fine-tuning one layer", "fine_tune_layer(x, z, U, Vt)", _targets)
def _fine_tune_layer(found, x, z, U, Vt):
    new_U, new_Vt, kept = _parts(found, "U", "Vt", "kept")
    new_U, new_Vt = _array(new_U, *U.shape), _array(new_Vt, *Vt.shape)
    D = U.shape[1]
    fitted = x @ np.linalg.lstsq(x, z, rcond=None)[0]
    dropped = np.linalg.svd(fitted, compute_uv=False)[D:]
    least = np.sum((z - fitted) ** 2) + np.sum(dropped**2)
    error = np.sum((z - x @ new_U @ new_Vt) ** 2)
    sentence = f"a squared error at most 1 % above {least:.5g}, found {error:.5g}"
    _expect(error <= 1.01 * least, sentence)
    bases = [np.linalg.qr(factor)[0] for factor in (U, new_U)]
    share = np.linalg.norm(bases[0].T @ bases[1]) ** 2 / D
    near = abs(float(_array(kept)) - share) < 0.01
    _expect(near, f"kept to be {share:.3f} for your factors, found {_in_short(kept)}")


# --- 3: dynamic SVD


@problem("3.E1", 1, "from where on the dynamic layer costs more", "largest_cheaper_D")
def _largest_cheaper_D(found):
    def adds(D, n=256, n_in=1024, n_out=1024):
        squares = D**2 * (3 * n_in + 2 * n_out)
        return 3 * n * D * (n_in + n_out) + 4 * D * n_in * n_out + squares

    D, dense = _whole(found, 1, 1024), 3 * 256 * 1024 * 1024
    _expect(adds(D) < dense, f"fewer multiply-adds than {dense:,}, found {adds(D):,}")
    _expect(adds(D + 1) >= dense, f"the largest such D, but one more takes {adds(D + 1):,}")


def _matrix_and_bases(rng, n_in, n_out, D):
    U, V = _orthonormal(rng, n_in, D), _orthonormal(rng, n_out, D)
    return rng.normal(size=(n_in, n_out)), U, V.T


def _matrices_and_bases(rng):
    sizes = [(12, 9, 4), (7, 11, 1), (TOO_LARGE, 20, 4)]
    return [_matrix_and_bases(rng, *size) for size in sizes]


def _outside(A, U, Vt):
    """aᵀ A b for random a orthogonal to U and b orthogonal to V, twenty of each: (20, 20)."""
    rng = np.random.default_rng(1)
    sides = []
    for basis in (U, Vt.T):
        probes = rng.normal(size=(len(basis), 20))
        probes -= basis @ (basis.T @ probes)
        sides.append(probes / np.linalg.norm(probes, axis=0))
    return sides[0].T @ A @ sides[1]


@problem("3.E2", 2, "the tangent projection", "project(X, U, Vt)", _matrices_and_bases)
def _project(found, X, U, Vt):
    P = _array(found, *X.shape)
    left = max(np.linalg.norm(U.T @ (X - P)), np.linalg.norm((X - P) @ Vt.T)) / np.linalg.norm(X)
    _expect(left <= 1e-8, f"all of X within U or V to be kept, found {left:.1%} missing")
    inside = np.abs(_outside(P, U, Vt)).max() <= 1e-8 * np.linalg.norm(X)
    sentence = "nothing outside of the tangent space, found directions orthogonal to U and V"
    _expect(inside, sentence)


def _batches(rng):
    cases = []
    for n, n_in, n_out, D in [(5, 12, 9, 4), (8, 7, 11, 2)]:
        W = rng.normal(size=(n_in, n_out))
        U, s, Vt = svd.decompose(W)
        x, dy = rng.normal(size=(n, n_in)), rng.normal(size=(n, n_out))
        cases.append((x, dy, W, U[:, :D], s[:D], Vt[:D]))
    return cases


@problem(
    "3.E3",
    3,
    "a derivative of your own",
    "right_projection(x, dy, W, U, s, Vt)",
    _batches,
    tensors=True,
)
def _right_projection(found, x, dy, W, U, s, Vt):
    P = _array(found, *W.shape)
    within = x.T @ (dy @ Vt.T)
    _expect(_close(P @ Vt.T, within), "G V to be kept, found another product with V")
    rows = np.linalg.norm(P) ** 2 - np.linalg.norm(P @ Vt.T) ** 2
    inside = abs(rows) <= 1e-6 * np.linalg.norm(P) ** 2
    _expect(inside, "rows in the row space of Vt, found parts of them outside")


def _gradients(rng):
    return [_matrix_and_bases(rng, *sizes) for sizes in [(30, 20, 3), (25, 40, 6)]]


@problem(
    "3.E4", 4, "which optimizer leaves the tangent space", "steps_outside(G, U, Vt)", _gradients
)
def _steps_outside(found, G, U, Vt):
    by_sgd, by_adam = (float(_array(part)) for part in _parts(found, "by SGD", "by Adam"))
    _expect(abs(by_sgd) < 1e-6, f"a share of 0.000 by SGD, found {by_sgd:.3f}")
    # What is orthogonal to both bases, completed: no projection is needed to measure by.
    beyond_U, beyond_V = (np.linalg.qr(B, mode="complete")[0][:, B.shape[1] :] for B in (U, Vt.T))
    step = np.sign(G - beyond_U @ (beyond_U.T @ G @ beyond_V) @ beyond_V.T)
    share = np.linalg.norm(beyond_U.T @ step @ beyond_V) / np.linalg.norm(step)
    near = abs(by_adam - share) < 1e-3
    _expect(near, f"a share of {share:.3f} by Adam, found {by_adam:.3f}")


def _trainings(rng):
    x = rng.normal(size=(100, 16))
    strengths = np.geomspace(6, 0.5, 12)  # more directions to learn than the last rank has
    z = x @ (_orthonormal(rng, 16, 12) * strengths) @ _orthonormal(rng, 12, 12)
    z += 0.1 * rng.normal(size=z.shape)
    W, ranks = rng.normal(size=(16, 12)) / 4, [8] * 20 + [5] * 20 + [3] * 40
    return [(x, z, W, ranks, 0.1, kind) for kind in ("tangent", "straight_through")]


@problem(
    "3.E5",
    5,
    "training with the SVD inside, at falling rank",
    "train_truncated(x, z, W, ranks, rate, derivative)",
    _trainings,
)
def _train(found, x, z, W, ranks, rate, derivative):
    matrices, gaps = _parts(found, "matrices", "gaps")
    matrices = _array(matrices, len(ranks) + 1, *W.shape)
    gaps = _array(gaps, len(ranks))
    _expect(_close(matrices[0], W), "the first matrix to be W, found another")
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
            _same_slope(np.vdot(moved, E), dy, x @ E, 1e-6, "W", at)
        if derivative == "tangent":
            outside = np.abs(_outside(moved, U, Vt)).max()
            inside = outside <= 1e-8 * np.linalg.norm(moved)
            _expect(inside, f"{at} to stay in the tangent space, found that it leaves it")
        s = svd.decompose(matrices[t + 1]).s
        gap = svd.gap(s, D) / s[D - 1]
        near = abs(gaps[t] - gap) < 1e-6
        _expect(near, f"a relative gap of {gap:.4f} after {at}, found {gaps[t]:.4f}")
