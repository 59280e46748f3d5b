"""Which ranks reach a goal: a size, a share of energy, multiply-adds, or a score?"""

import math
import numbers
from typing import NamedTuple

import numpy as np

from .. import callbacks, compress, moments, svd
from ..backend import keras
from ..progress import Line
from ..ranks import DISCOUNT
from . import watch

EVALUATIONS = 20  # at most, of which the first is the model's own
FRACTIONS = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]  # of the parameters, tried for a score
CLOSE = 1.02  # a network this near in size to one that missed the score is small enough
GOALS = ("parameters", "fraction", "energy", "multiply_adds", "score")


class Point(NamedTuple):
    """A network that was measured."""

    parameters: int
    score: float


class Found(NamedTuple):
    """What `find_ranks` returns."""

    ranks: dict  # {layer name: D} of the layers to cut; all others stay as they are
    network: keras.Model  # the factorized network of these ranks
    score: float  # of the network, None without `evaluate`
    met: bool  # is the goal reached?
    curve: list  # Points measured, by size

    def __str__(self):
        size = f"{self.network.count_params():,} parameters"
        score = "" if self.score is None else f", score {self.score:.4g}"
        failed = "" if self.met else "the goal cannot be met; the nearest to it: "
        return f"{failed}{size}{score}, ranks {self.ranks}"


def find_ranks(
    model,
    *,
    parameters=None,
    fraction=None,
    energy=None,
    multiply_adds=None,
    score=None,
    evaluate=None,
    layers=None,
    inputs=None,
    loss=None,
    samples=moments.SAMPLES,
    multiple=1,
):
    """The ranks, and the factorized network, that reach one goal.

    Budgets are spent where the loss feels it most, per parameter, as `helpers.ranks.shared_ranks`
    does. A layer whose rank would pass its break-even stays as it is. For a score, networks of a
    few sizes are measured, from small to large, until one reaches it; then a bisection looks
    for the smallest. What is returned was measured itself.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        parameters: at most so many numbers in the whole model.
        fraction: at most this share of the model's parameters.
        energy: each layer keeps at least this share of the energy of its SVD.
        multiply_adds: at most so many for one input.
        score: `evaluate` shall give at least this much.
        evaluate: a function from a network to a number, the higher the better, on data that
            are not the test set: the test set would choose the network it is to judge.
        layers, inputs, loss, samples: as for `helpers.compress.decompose`. With inputs, networks
            are cut layer after layer; without, by the plain SVD.
        multiple: ranks are multiples of it, which some hardware likes (8).

    Returns:
        Found. If no ranks reach the goal, those nearest to it, and `met` says so.

    Raises:
        ValueError: not one goal, or one that no network of the model could have; or the model
            itself misses the score; or `evaluate` returns no finite number.
    """
    goals = dict(zip(GOALS, (parameters, fraction, energy, multiply_adds, score), strict=True))
    adds = None if multiply_adds is None else watch.multiply_adds(model)
    name, goal = _checked(goals, evaluate, model, adds)
    if dynamic := [*callbacks.dynamic_layers(model)]:
        raise ValueError(f"the layers {dynamic} are dynamic: factorize the model first.")
    if not isinstance(multiple, numbers.Integral) or isinstance(multiple, bool) or multiple < 1:
        raise ValueError(f"multiple must be a whole number, at least 1, not {multiple!r}.")
    svds, cut = compress.cutter(model, layers, inputs, loss, samples)
    path = _Path(model, svds, multiple, adds)
    measure = _measure(evaluate)
    if name == "score":
        return _reach(model, goal, measure, path, cut)
    if name == "energy":
        ranks, met = path.of_energy(svds, goal), True
    else:
        budget = goal * model.count_params() if name == "fraction" else goal
        step = int(np.searchsorted(path.costs, budget, side="right")) - 1
        ranks, met = path.ranks(max(step, 0)), step >= 0
    network = cut(ranks)
    reached = measure(network) if evaluate else None
    curve = [Point(network.count_params(), reached)] if evaluate else []
    return Found(ranks, network, reached, met, curve)


def _reach(model, score, measure, path, cut):
    """Found, for a score."""
    line, curve = Line(), []
    smallest = Found({}, model, measure(model), True, curve)
    curve.append(Point(model.count_params(), smallest.score))
    if smallest.score < score:
        raise ValueError(f"the model itself scores {smallest.score:.4g}, below {score:.4g}.")
    low, high = -1, len(path.costs) - 1  # a step that misses the score, or none; one that has it

    def attempt(step):
        """Measure the network of a step; is it good enough?"""
        nonlocal smallest
        ranks = path.ranks(step)
        network = cut(ranks)
        reached = measure(network)
        curve.append(Point(network.count_params(), reached))
        line.say(f"{network.count_params():,} parameters: score {reached:.4g}")
        if reached >= score:
            smallest = Found(ranks, network, reached, True, curve)
        return reached >= score

    for fraction in FRACTIONS:
        step = int(np.searchsorted(path.costs, fraction * path.costs[-1], side="right")) - 1
        if low < step < high:
            if attempt(step):
                high = step
                break
            low = step
    while high - low > 1 and len(curve) < EVALUATIONS:
        bottom = path.costs[max(low, 0)]
        if low >= 0 and path.costs[high] <= CLOSE * bottom:
            break
        middle = np.searchsorted(path.costs, math.sqrt(bottom * path.costs[high]))
        step = int(np.clip(middle, low + 1, high - 1))
        low, high = (low, step) if attempt(step) else (step, high)
    curve.sort()
    return smallest


class _Path:
    """The way from the least rank in every layer to the whole model, a purchase at each step.

    Args:
        model, svds, multiple: as for `find_ranks`.
        adds: Counts from `watch.multiply_adds`, if these are to be paid; None: parameters.

    Attributes:
        costs: array (steps,), rising: parameters or multiply-adds of the model at each step.
    """

    def __init__(self, model, svds, multiple, adds):
        self.names, self.multiple = [*svds], multiple
        shapes = {name: (len(f.U), f.Vt.shape[1]) for name, f in svds.items()}
        self.edges = {name: svd.break_even_rank(shape) for name, shape in shapes.items()}
        dense = {name: math.prod(shape) for name, shape in shapes.items()}
        price = {name: sum(shape) for name, shape in shapes.items()}
        total = model.count_params()
        if adds is not None:
            dense, price = ({name: adds[name][i] for name in svds} for i in (0, 1))
            total = sum(count.whole for count in adds.values())
            for name in svds:
                self.edges[name] = min(self.edges[name], (dense[name] - 1) // price[name])
        self.levels, offers = {}, []
        for index, (name, factors) in enumerate(svds.items()):
            ends = [*range(multiple, self.edges[name] + 1, multiple)]
            self.levels[name] = [*ends, None]  # the last is the layer as it is
            costs = [D * price[name] for D in ends] + [dense[name]]
            kept = np.cumsum(factors.s**2)
            gains = np.diff([kept[D - 1] for D in ends] + [kept[-1]])
            worth = DISCOUNT**index * np.minimum.accumulate(gains / np.diff(costs))
            offers += [(-w, index, c) for w, c in zip(worth, np.diff(costs), strict=True)]
            total += costs[0] - dense[name]
        offers.sort(key=lambda offer: offer[:2])
        self.bought = np.array([index for _, index, _ in offers], int)
        self.costs = total + np.cumsum([0, *(cost for *_, cost in offers)])

    def ranks(self, step):
        """{layer name: D} after so many purchases, without the layers that stay as they are."""
        counts = np.bincount(self.bought[:step], minlength=len(self.names))
        levels = {n: self.levels[n][k] for n, k in zip(self.names, counts, strict=True)}
        return {name: D for name, D in levels.items() if D is not None}

    def of_energy(self, svds, share):
        """{layer name: D}, the least that keep the share in every layer, but for break-even."""
        ranks = {}
        for name, factors in svds.items():
            kept = np.cumsum(factors.s**2)
            least = int(np.searchsorted(kept, (share - 1e-12) * kept[-1])) + 1
            D = self.multiple * -(-least // self.multiple)
            if D <= self.edges[name]:
                ranks[name] = D
        return ranks


def _checked(goals, evaluate, model, adds):
    """The one goal given, its name and value, if it can be one of this model."""
    given = {name: goal for name, goal in goals.items() if goal is not None}
    if len(given) != 1:
        names = ", ".join(given) or "none"
        raise ValueError(f"give one goal of {', '.join(GOALS)}; given: {names}.")
    ((name, goal),) = given.items()
    if name == "score" and evaluate is None:
        raise ValueError("a score needs `evaluate`, a function from a network to a number.")
    if evaluate is not None and not callable(evaluate):
        raise ValueError(f"evaluate must be a function, not {evaluate!r}.")
    whole = {"fraction": 1, "energy": 1}
    if name == "parameters":
        whole[name] = model.count_params()
    elif name == "multiply_adds":
        whole[name] = sum(count.whole for count in adds.values())
    if not _is_number(goal) or (name in whole and not 0 < goal <= whole[name]):
        allowed = f"above 0, at most {whole[name]:,}" if name in whole else "a finite number"
        raise ValueError(f"{name} must be {allowed}, not {goal!r}.")
    return name, goal


def _measure(evaluate):
    """`evaluate`, which must return a finite number."""

    def measure(network):
        score = evaluate(network)
        if not _is_number(score):
            raise ValueError(f"evaluate must return a finite number, not {score!r}.")
        return float(score)

    return measure


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
