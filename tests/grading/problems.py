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

    `signature` is the function's name and arguments; `cases(rng)` gives what it is called with, a
    tuple a case. `verdict(found, *case)` raises Wrong unless what was found for a case is right.
    """

    id: str
    points: int
    signature: str
    cases: Callable
    verdict: Callable
    hidden: int = 0  # the last `hidden` parts of a case are not shown to the answer
    tensors: bool = False  # arrays are handed as TensorFlow's
    large: str = ""  # the matrix that takes too much memory

    @property
    def title(self):
        """What it is about: its verdict's docstring, within a sentence."""
        text = self.verdict.__doc__
        return text[0].lower() + text[1:-1]

    @property
    def name(self):
        """The name that the answer defines."""
        return self.signature.split("(")[0]

    @property
    def blank(self):
        """The answer cell before anything is written."""
        return f"def {self.signature}:\n    return None  # write here"


def problem(id, points, signature, cases, **options):
    """Make the function below the verdict of an exercise; the arguments are Problem's."""

    def register(verdict):
        PROBLEMS[id] = Problem(id, points, signature, cases, verdict, **options)
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
        return f"{len(found)} parts of different shapes"
    if len(shape) > 1 or np.prod(shape) > 10:
        return f"an array of shape {shape}"
    text = " ".join(repr(found).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _close(found, expected, tolerance=1e-6):
    """Do arrays agree, relative to the norm of the expected one?"""
    return np.linalg.norm(found - expected) <= tolerance * (np.linalg.norm(expected) + 1e-300)


def _same_slope(found, dy, change, tolerance, gradient):
    """The loss changes by ⟨dy, change⟩ along a direction, and so it does by what was found."""
    expected, largest = np.vdot(dy, change), np.linalg.norm(dy) * np.linalg.norm(change)
    sentence = f"{gradient} to give a change of the loss of {expected:.4g} along some direction"
    _expect(abs(expected - found) <= tolerance * largest, f"{sentence}, found {found:.4g}")


def _orthonormal(rng, n, D):
    return np.linalg.qr(rng.normal(size=(n, D)))[0]


def _inputs(rng, n, n_in):
    """Inputs (n, n_in) that vary a hundred times more in some directions than in others."""
    return rng.normal(size=(n, n_in)) * np.geomspace(3, 0.3, n_in) @ _orthonormal(rng, n_in, n_in)


# --- 1: truncated SVD


def _spectra(rng):
    spectra = [np.sort(rng.exponential(size=n))[::-1] for n in (10, 40, 200)]
    exactly = np.ones(4), 0.25  # the first value keeps neither more nor less
    return [exactly, *((s, share) for s in spectra for share in (0.5, 0.9, 0.99))]


@problem("1.E1", 1, "rank_for_energy(s, share)", _spectra)
def _rank_for_energy(found, s, share):
    """Rank for a share of the energy."""
    D = _whole(found, 1, len(s))
    kept = svd.energy(s, D)
    _expect(kept >= share, f"a share of {share} to be kept, found {kept:.4f}")
    if D > 1:
        fewer = svd.energy(s, D - 1)
        _expect(fewer < share, f"the smallest rank, but one less keeps {fewer:.4f} >= {share}")


def _layers_with_inputs(rng):
    sizes = [(200, 12, 8, 3), (500, 30, 40, 5)]
    return [
        (rng.normal(size=(n_in, n_out)), _inputs(rng, n, n_in), D) for n, n_in, n_out, D in sizes
    ]


@problem("1.E2", 2, "truncate_for_inputs(W, x, D)", _layers_with_inputs)
def _truncate_for_inputs(found, W, x, D):
    """Truncation for given inputs."""
    W_D = _array(found, *W.shape)
    s = svd.decompose(W_D).s
    _expect(s[D] <= 1e-9 * s[0], f"rank {D}, found rank {np.sum(s > 1e-9 * s[0])}")
    error = np.linalg.norm(x @ (W - W_D))
    least = np.linalg.norm(svd.decompose(x @ W).s[D:])
    _expect(error <= 1.001 * least, f"outputs that change by {least:.4g}, found {error:.4g}")


def _networks(rng):
    cases = []
    for allowed in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
        shapes = rng.permutation([(1000, 60), (300, 300), (60, 50)]).tolist()
        decays = rng.permutation([4.0, 12.0, 24.0])
        spectra = [rng.uniform(1, 3) * np.exp(-np.arange(50) / decay) for decay in decays]
        rise = allowed * sum(np.sum(s**2) for s in spectra) / 2
        cases.append((spectra, shapes, float(rise)))
    return cases


@problem("1.E3", 3, "cheapest_ranks(spectra, shapes, rise)", _networks)
def _cheapest_ranks(found, spectra, shapes, rise):
    """The smallest network for a rise of the loss."""
    found = _parts(found, *(f"rank {layer}" for layer in range(1, len(shapes) + 1)))
    ranks = [_whole(D, 1, len(s)) for D, s in zip(found, spectra, strict=True)]
    tails = [(np.sum(s**2) - np.cumsum(s**2)) / 2 for s in spectra]  # at D = 1, 2, …
    prices = [svd.factorized_parameters(shape, 1) for shape in shapes]
    predicted, size = (
        sum(np.meshgrid(*parts, indexing="ij"))
        for parts in (tails, [price * np.arange(1, 51) for price in prices])
    )
    mine = tuple(D - 1 for D in ranks)
    sentence = f"a predicted rise of the loss of {rise:.4g} or less, found {predicted[mine]:.4g}"
    _expect(predicted[mine] <= rise * (1 + 1e-9), sentence)
    most = size[predicted <= rise].min() + max(prices)
    _expect(size[mine] <= most, f"{most:,} parameters or fewer, found {size[mine]:,}")


def _neurons(rng):
    cases = []
    for n, n_in, m, t, k in [(200, 4, 9, 2, 4), (300, 8, 25, 5, 8)]:
        z = rng.normal(size=(n, n_in)) @ rng.normal(size=(n_in, m)) + rng.normal(size=m)
        h = np.maximum(z, 0) * rng.permutation(np.geomspace(0.1, 10, m))  # large is not important
        h += rng.uniform(0, 20, size=m)
        h[:, rng.integers(m)] = 0  # a dead neuron
        T = h @ (rng.normal(size=(m, t)) / (h.std(0)[:, None] + 1e-9)) + 3 * rng.normal(size=(n, t))
        cases.append((h, T, k))
    return cases


@problem("1.E4", 4, "choose_neurons(h, T, k)", _neurons)
def _choose_neurons(found, h, T, k):
    """Neurons that stand for the others."""
    found = _parts(found, *(f"neuron {place}" for place in range(1, k + 1)))
    order = [_whole(j, 0, h.shape[1] - 1) for j in found]
    _expect(len({*order}) == k, f"{k} different neurons, found {order}")

    def left(neurons):
        columns = np.column_stack([np.ones(len(h)), h[:, neurons]])
        return np.sum((T - columns @ np.linalg.lstsq(columns, T, rcond=None)[0]) ** 2)

    whole = left([])
    for place in range(k):
        offers = [left([*order[:place], j]) / whole for j in range(h.shape[1])]
        least, mine = min(offers), offers[order[place]]
        sentence = f"at place {place + 1} a neuron that leaves {least:.2%} of T unexplained"
        _expect(mine <= least + 1e-9, f"{sentence}, found neuron {order[place]}, {mine:.2%}")


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


@problem("1.E5", 5, "learned_directions(W)", _signals_in_noise, hidden=1)
def _learned_directions(found, W, learned):
    """How much was learned."""
    found = _whole(found, 0, min(W.shape))
    sentence = f"{learned} learned directions in a W of shape {W.shape}"
    _expect(found == learned, f"{sentence}, found {found}")


# --- 2: factorized network


def _biased_pairs(rng):
    sizes = [(7, 3), (60, 5)]
    return [tuple(rng.normal(size=s) for s in (D, (D, n_out), n_out)) for n_out, D in sizes]


@problem("2.E1", 1, "move_bias(a, Vt, b)", _biased_pairs)
def _move_bias(found, a, Vt, b):
    """The two biases of a pair."""
    inner, outer = _parts(found, "a", "b")
    inner, outer = _array(inner, len(a)), _array(outer, len(b))
    _expect(_close(inner @ Vt + outer, a @ Vt + b), "the pair's outputs for any x, found others")
    spare = np.linalg.norm(Vt @ outer) <= 1e-8 * np.linalg.norm(b)
    _expect(spare, "b as short as can be, found one of which the inner bias can take over more")


def _upstream(rng):
    sizes = [(6, 9, 7, 3), (4, TOO_LARGE, TOO_LARGE, 3)]
    return [
        tuple(rng.normal(size=s) for s in ((n, n_in), (n, n_out), (n_in, D), (D, n_out)))
        for n, n_in, n_out, D in sizes
    ]


@problem("2.E2", 2, "factor_gradients(x, dy, U, Vt)", _upstream, large="n_in × n_out")
def _factor_gradients(found, x, dy, U, Vt):
    """The gradients of the factors."""
    dU, dVt = _parts(found, "dU", "dVt")
    dU, dVt = _array(dU, *U.shape), _array(dVt, *Vt.shape)
    rng = np.random.default_rng(1)
    for _ in range(5):
        E, F = rng.normal(size=U.shape), rng.normal(size=Vt.shape)
        # The outputs are linear in either factor: their change along E is exact.
        changes = [("dU", dU, E, (x @ E) @ Vt), ("dVt", dVt, F, (x @ U) @ F)]
        for name, gradient, along, change in changes:
            _same_slope(np.vdot(gradient, along), dy, change, 1e-8, name)


def _thin_pairs(rng):
    shapes = [(20, 3, 30), (50_000, 3, 60_000)]  # the second A B would be 24 GB
    return [(rng.normal(size=(n, D)), rng.normal(size=(D, m))) for n, D, m in shapes]


@problem("2.E3", 3, "svd_of_product(A, B)", _thin_pairs, large="n_in × n_out")
def _svd_of_product(found, A, B):
    """The SVD of a product, without the product."""
    U, s, Vt = _parts(found, "U", "s", "Vt")
    D = A.shape[1]
    U, s, Vt = _array(U, *A.shape), _array(s, D), _array(Vt, *B.shape)
    orthonormal = _close(U.T @ U, np.eye(D)) and _close(Vt @ Vt.T, np.eye(D))
    _expect(orthonormal, "orthonormal columns of U and rows of Vt, found others")
    falling = (np.diff(s) <= 0).all() and s[-1] >= 0
    _expect(falling, f"s >= 0 in descending order, found {s.round(3).tolist()}")
    same = _close(U[:50] * s @ Vt[:, :50], A[:50] @ B[:, :50])
    _expect(same, "U diag(s) Vt to be A B, found another product")


def _targets(rng):
    cases = []
    for n, n_in, n_out, D in [(300, 20, 15, 4), (200, 12, 30, 3)]:
        x, W = _inputs(rng, n, n_in), rng.normal(size=(n_in, n_out))
        z = x @ W + 0.1 * rng.normal(size=(n, n_out))
        cases.append((x, z, *svd.factors(svd.decompose(W), D)))
    return cases


@problem("2.E4", 4, "fine_tune_layer(x, z, U, Vt)", _targets)
def _fine_tune_layer(found, x, z, U, Vt):
    """Fine-tuning one layer."""
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


def _networks_of_copies(rng):
    cases = []
    for n_in, once, m, n_out in [(6, 5, 30, 4), (10, 8, 60, 3)]:
        # Each neuron is nearly a multiple of one of a few, and the largest are copies of one.
        which = np.r_[np.arange(once), rng.integers(0, once, m - 2 * once), [0] * once]
        scale = np.r_[rng.uniform(0.5, 1.5, m - once), np.full(once, 4.0)]
        both = rng.normal(size=(once, n_in + 1))[which] + 0.01 * rng.normal(size=(m, n_in + 1))
        both = (scale[:, None] * both)[rng.permutation(m)].T
        V, c = rng.normal(size=(m, n_out)), rng.normal(size=n_out)
        budget = once * (n_in + 1 + n_out) + n_out + int(rng.integers(0, n_in))
        x, fresh = rng.normal(size=(2, 2000, n_in))
        cases.append((x, both[:-1], both[-1], V, c, budget, fresh))
    return cases


@problem("2.E5", 5, "cut_network(x, W, b, V, c, budget)", _networks_of_copies, hidden=1)
def _cut_network(found, x, W, b, V, c, budget, fresh):
    """A network of one's own, cut to a budget."""
    found = _parts(found, "W", "b", "V", "c")
    n_in, n_out = W.shape[0], len(c)
    k = len(found[1]) if isinstance(found[1], list) else 0
    shapes = (n_in, k), (k,), (k, n_out), (n_out,)
    small = [_array(part, *shape) for part, shape in zip(found, shapes, strict=True)]
    size = sum(part.size for part in small)
    _expect(size <= budget, f"{budget} parameters or fewer, found {size}, of {k} neurons")

    def outputs(W, b, V, c):
        return np.maximum(fresh @ W + b, 0) @ V + c

    y = outputs(W, b, V, c)
    lost = np.sum((y - outputs(*small)) ** 2) / np.sum((y - y.mean(0)) ** 2)
    sentence = "outputs for new inputs that differ by at most 1% of their variance"
    _expect(lost <= 0.01, f"{sentence}, found {lost:.2%}")


# --- 3: dynamic SVD


def _shapes_and_ranks(rng):
    shapes = rng.integers(3, 12, size=(6, 2)).tolist()
    return [(n_in, n_out, int(rng.integers(1, min(n_in, n_out)))) for n_in, n_out in shapes]


@problem("3.E1", 1, "tangent_dimensions(n_in, n_out, D)", _shapes_and_ranks)
def _tangent_dimensions(found, n_in, n_out, D):
    """Dimensions of the tangent space."""
    _, U, Vt = _matrix_and_bases(np.random.default_rng(1), n_in, n_out, D)
    # How U Vᵀ can change: one row for each entry of dU, in dU Vᵀ, and of dVᵀ, in U dVᵀ.
    changes = np.vstack([np.kron(np.eye(n_in), Vt), np.kron(U, np.eye(n_out)).T])
    free, found = np.linalg.matrix_rank(changes), _whole(found, 1, 2 * n_in * n_out)
    sentence = f"{free} independent ways for U Vᵀ to change, {n_in} × {n_out} at rank {D}"
    _expect(found == free, f"{sentence}, found {found}")


def _matrix_and_bases(rng, n_in, n_out, D):
    U, V = _orthonormal(rng, n_in, D), _orthonormal(rng, n_out, D)
    return rng.normal(size=(n_in, n_out)), U, V.T


def _matrices_and_bases(rng):
    return [_matrix_and_bases(rng, *n) for n in [(12, 9, 4), (7, 11, 1), (TOO_LARGE, 20, 4)]]


def _outside(A, U, Vt):
    """aᵀ A b for random a orthogonal to U and b orthogonal to V, twenty of each: (20, 20)."""
    rng = np.random.default_rng(1)
    sides = []
    for basis in (U, Vt.T):
        probes = rng.normal(size=(len(basis), 20))
        probes -= basis @ (basis.T @ probes)
        sides.append(probes / np.linalg.norm(probes, axis=0))
    return sides[0].T @ A @ sides[1]


@problem("3.E2", 2, "project(X, U, Vt)", _matrices_and_bases, large="n_in × n_in")
def _project(found, X, U, Vt):
    """The tangent projection."""
    P = _array(found, *X.shape)
    left = max(np.linalg.norm(U.T @ (X - P)), np.linalg.norm((X - P) @ Vt.T)) / np.linalg.norm(X)
    _expect(left <= 1e-8, f"all of X within U or V to be kept, found {left:.1%} missing")
    inside = np.abs(_outside(P, U, Vt)).max() <= 1e-8 * np.linalg.norm(X)
    _expect(inside, "nothing outside of the tangent space, found directions orthogonal to U and V")


def _batches(rng):
    cases = []
    for n, n_in, n_out, D in [(5, 12, 9, 4), (8, 7, 11, 2)]:
        W = rng.normal(size=(n_in, n_out))
        U, s, Vt = svd.decompose(W)
        x, dy = rng.normal(size=(n, n_in)), rng.normal(size=(n, n_out))
        cases.append((x, dy, W, U[:, :D], s[:D], Vt[:D]))
    return cases


@problem("3.E3", 3, "values_alone(x, dy, W, U, s, Vt)", _batches, tensors=True)
def _values_alone(found, x, dy, W, U, s, Vt):
    """A derivative of your own."""
    P = _array(found, *W.shape)
    slopes = np.diag(U.T @ P @ Vt.T)
    beside = np.linalg.norm(P) ** 2 - np.sum(slopes**2)
    inside = abs(beside) <= 1e-6 * np.linalg.norm(P) ** 2
    _expect(inside, "multiples of the u_i v_iᵀ alone, found more, which turns u_i or v_i")
    for i, slope in enumerate(slopes):
        change = np.outer(x @ U[:, i], Vt[i])
        _same_slope(slope, dy, change, 1e-6, f"a multiple of u_{i + 1} v_{i + 1}ᵀ")


def _steps(rng):
    cases = []
    for n_in, n_out, D in [(30, 20, 3), (25, 40, 6)]:
        G, U, Vt = _matrix_and_bases(rng, n_in, n_out, D)
        earlier = [np.linalg.qr(B + 0.05 * rng.normal(size=B.shape))[0] for B in (U, Vt.T)]
        T, M = (X - _beyond(X, *bases) for X, *bases in ((G, U, Vt.T), (G.copy(), *earlier)))
        cases.append((T, M, U, Vt))
    return cases


def _beyond(X, U, V):
    """What is orthogonal to both bases, completed: no projection is needed to measure by."""
    left, right = (np.linalg.qr(B, mode="complete")[0][:, B.shape[1] :] for B in (U, V))
    return left @ (left.T @ X @ right) @ right.T


@problem("3.E4", 4, "steps_outside(T, M, U, Vt)", _steps)
def _steps_outside(found, T, M, U, Vt):
    """Which steps leave the tangent space."""
    steps = {"SGD": T, "momentum": 0.9 * M + T, "Adam": np.sign(T)}
    for part, (name, step) in zip(_parts(found, *steps), steps.items(), strict=True):
        share = np.linalg.norm(_beyond(step, U, Vt.T)) / np.linalg.norm(step)
        mine = float(_array(part))
        _expect(abs(mine - share) < 1e-6, f"a share of {share:.3f} by {name}, found {mine:.3f}")


def _trainings(rng):
    x = rng.normal(size=(100, 16))
    strengths = np.geomspace(6, 0.5, 12)  # more directions to learn than the last rank has
    z = x @ (_orthonormal(rng, 16, 12) * strengths) @ _orthonormal(rng, 12, 12)
    z += 0.1 * rng.normal(size=z.shape)
    W, ranks = rng.normal(size=(16, 12)) / 4, [8] * 20 + [5] * 20 + [3] * 40
    return [(x, z, W, ranks, 0.1, kind) for kind in ("tangent", "straight_through")]


@problem("3.E5", 5, "train_truncated(x, z, W, ranks, rate, derivative)", _trainings)
def _train(found, x, z, W, ranks, rate, derivative):
    """Training with the SVD inside, at falling rank."""
    matrices, gaps = _parts(found, "matrices", "gaps")
    matrices = _array(matrices, len(ranks) + 1, *W.shape)
    gaps = _array(gaps, len(ranks))
    _expect(_close(matrices[0], W), "the first matrix to be W, found another")
    rng = np.random.default_rng(1)
    for t, D in enumerate(ranks):
        at, factors = f"step {t + 1}, of rank {D}", svd.decompose(matrices[t])
        moved = (matrices[t] - matrices[t + 1]) / rate
        U, Vt = factors.U[:, :D], factors.Vt[:D]
        dy = (x @ svd.truncate(factors, D) - z) / len(x)
        for _ in range(5):
            E = rng.normal(size=W.shape)
            if derivative == "tangent":  # a direction in which the truncation can move
                E = U @ rng.normal(size=(D, W.shape[1])) + rng.normal(size=(len(W), D)) @ Vt
            _same_slope(np.vdot(moved, E), dy, x @ E, 1e-6, f"G of {at},")
        if derivative == "tangent":
            outside = np.abs(_outside(moved, U, Vt)).max()
            inside = outside <= 1e-8 * np.linalg.norm(moved)
            _expect(inside, f"{at} to stay in the tangent space, found that it leaves it")
        s = svd.decompose(matrices[t + 1]).s
        gap = svd.gap(s, D) / s[D - 1]
        sentence = f"a relative gap of {gap:.4f} after {at}, found {gaps[t]:.4f}"
        _expect(abs(gaps[t] - gap) < 1e-6, sentence)
