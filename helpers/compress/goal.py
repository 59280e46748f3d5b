"""Which ranks reach a goal: a size, multiply-adds, a share of energy, or a score?"""

import math
import numbers
from typing import NamedTuple

import numpy as np

from .. import svd
from ..backend import keras
from ..progress import Line
from ..ranks import DISCOUNT
from . import graph, watch

EVALUATIONS = 20  # at most, of which the first is the model's own
FRACTIONS = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]  # of the parameters, tried for a score
CLOSE = 1.02  # a network this near in size to one that missed the score is small enough


class Point(NamedTuple):
    """A network that was measured."""

    parameters: int
    score: float


class Found(NamedTuple):
    """A network that was cut to a goal."""

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


def reach(seen, goals, evaluate, multiple):
    """Found, for the one goal that is not None; see `helpers.compress.observed.Observed.cut`."""
    model = seen.model
    adds = None if goals["multiply_adds"] is None else watch.multiply_adds(model)
    name, goal = _checked(goals, evaluate, model, adds)
    if dynamic := [*graph.dynamic_layers(model)]:
        raise ValueError(f"the layers {dynamic} are dynamic: factorize the model first.")
    if not isinstance(multiple, numbers.Integral) or isinstance(multiple, bool) or multiple < 1:
        raise ValueError(f"multiple must be a whole number, at least 1, not {multiple!r}.")
    path = _Path(model, seen.svds, multiple, adds)
    measure = _measure(evaluate)
    if name == "score":
        return _reach_score(seen, goal, measure, path)
    if name == "energy":
        ranks, met = path.of_energy(seen.svds, goal), True
    else:
        budget = goal * model.count_params() if name == "fraction" else goal
        step = path.last_within(budget)
        ranks, met = path.ranks(max(step, 0)), step >= 0
    network = seen.layer_by_layer(ranks)
    reached = measure(network) if evaluate else None
    curve = [Point(network.count_params(), reached)] if evaluate else []
    return Found(ranks, network, reached, met, curve)


def _reach_score(seen, score, measure, path):
    """Found, for a score."""
    line, curve, model = Line(), [], seen.model
    smallest = Found({}, model, measure(model), True, curve)
    curve.append(Point(model.count_params(), smallest.score))
    if smallest.score < score:
        raise ValueError(f"the model itself scores {smallest.score:.4g}, below {score:.4g}.")
    low, high = -1, len(path.costs) - 1  # a step that misses the score, or none; one that has it

    def attempt(step):
        """Measure the network of a step; is it good enough?"""
        nonlocal smallest
        ranks = path.ranks(step)
        network = seen.layer_by_layer(ranks)
        reached = measure(network)
        curve.append(Point(network.count_params(), reached))
        line.say(f"{network.count_params():,} parameters: score {reached:.4g}")
        if reached >= score:
            smallest = Found(ranks, network, reached, True, curve)
        return reached >= score

    for fraction in FRACTIONS:
        step = path.last_within(fraction * path.costs[-1])
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
        model: to be cut.
        svds: {layer name: helpers.svd.SVD} of its layers.
        multiple: ranks are multiples of it.
        adds: Counts from `watch.multiply_adds`, if these are to be paid; None: parameters.

    Attributes:
        costs: array (steps,), rising: parameters or multiply-adds of the model at each step.
    """

    def __init__(self, model, svds, multiple, adds):
        self.names, self.multiple = [*svds], multiple
        self.edges, self.levels, offers = {}, {}, []
        total = model.count_params() if adds is None else sum(c.whole for c in adds.values())
        for layer, (name, (U, s, Vt)) in enumerate(svds.items()):
            shape = len(U), Vt.shape[1]
            whole, each = (math.prod(shape), sum(shape)) if adds is None else adds[name]
            self.edges[name] = min(svd.break_even_rank(shape), (whole - 1) // max(each, 1))
            ranks = [*range(multiple, self.edges[name] + 1, multiple)]
            self.levels[name] = [*ranks, None]  # the last is the layer as it is
            costs = np.array([*(each * D for D in ranks), whole])
            kept = np.cumsum(s**2)
            gains = np.diff([kept[D - 1] for D in ranks] + [kept[-1]])
            worth = DISCOUNT**layer * np.minimum.accumulate(gains / np.diff(costs))
            offers += [(-w, layer, c) for w, c in zip(worth, np.diff(costs), strict=True)]
            total += costs[0] - whole
        offers.sort(key=lambda offer: offer[:2])
        self.bought = np.array([layer for _, layer, _ in offers], int)
        self.costs = total + np.cumsum([0, *(cost for *_, cost in offers)])

    def last_within(self, budget):
        """The last step that costs no more than the budget; -1 if there is none."""
        return int(np.searchsorted(self.costs, budget, side="right")) - 1

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
        raise ValueError(f"give one goal of {', '.join(goals)}; given: {names}.")
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
