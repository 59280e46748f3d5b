"""Which widths and ranks reach a goal: a size, multiply-adds, a share of energy, or a score?"""

import math
import numbers
from typing import NamedTuple

import numpy as np

from ..backend import keras
from ..progress import Line
from . import graph, kinds, watch
from .flow import output_layers
from .share import priced, share, whole_price

EVALUATIONS = 20  # at most, of which the first is the model's own
FRACTIONS = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]  # of the parameters, tried for a score
CLOSE = 1.02  # the search ends if a network with the score is so much larger than one without


class Point(NamedTuple):
    """A network that was measured."""

    parameters: int
    score: float


class Found(NamedTuple):
    """A network that was cut to a goal."""

    widths: dict  # {layer name: neurons} of the layers whose neurons could go
    ranks: dict  # {layer name: D} of the layers that became two
    network: keras.Model
    score: float  # of the network, None without `evaluate`
    met: bool  # is the goal reached?
    curve: list  # Points measured, by size
    rise: float  # of the loss, as predicted

    def __str__(self):
        size = f"{self.network.count_params():,} parameters"
        score = "" if self.score is None else f", score {self.score:.4g}"
        failed = "" if self.met else "the goal cannot be met; the nearest to it: "
        return f"{failed}{size}{score}, widths {self.widths}, ranks {self.ranks}"


def reach(seen, goals, evaluate, tune, what, multiple):
    """Found, for the one goal that is not None; see `helpers.compress.observed.Observed.cut`."""
    model = seen.model
    counted = goals["multiply_adds"] is not None
    name, goal = _checked(goals, evaluate, model)
    if dynamic := [*graph.dynamic_layers(model)]:
        raise ValueError(f"the layers {dynamic} are dynamic: factorize the model first.")
    if not isinstance(multiple, numbers.Integral) or isinstance(multiple, bool) or multiple < 1:
        raise ValueError(f"multiple must be a whole number, at least 1, not {multiple!r}.")
    search = _Search(seen, what, multiple, counted, evaluate, tune or (lambda net: net))
    if name == "score":
        return search.smallest(goal)
    if name == "energy":
        return search.made(_of_energy(search.parts, goal, multiple))
    return search.within(goal * model.count_params() if name == "fraction" else goal)


class _Search:
    """Networks of one model, cut to one budget after another."""

    def __init__(self, seen, what, multiple, counted, evaluate, tune):
        self.seen, self.multiple = seen, multiple
        self.evaluate, self.tune = evaluate, tune
        self.size = watch.total if counted else (lambda network: network.count_params())
        adds = watch.multiply_adds(seen.whole) if counted else None
        self.parts = seen.parts(**what, adds=adds)
        if not any(len(part.values) + len(part.neurons) for part in self.parts.values()):
            raise ValueError(f"nothing can be cut: {_reasons(seen)}.")
        self.rest = self.size(seen.whole) - whole_price(self.parts)  # that no cut changes
        self.curve = []

    def shared(self, budget):
        """The Share of a budget for the whole model."""
        return share(self.parts, budget - self.rest, self.multiple)

    def measure(self, network):
        """The network's score, which goes on the curve; None without `evaluate`."""
        if self.evaluate is None:
            return None
        score = self.evaluate(network)
        if not _is_number(score):
            raise ValueError(f"evaluate must return a finite number, not {score!r}.")
        self.curve.append(Point(network.count_params(), float(score)))
        return float(score)

    def within(self, budget):
        """Found, of a budget."""
        made = self.made(self.shared(budget))
        return made._replace(met=self.size(made.network) <= budget)

    def made(self, shared):
        """Found, of a Share."""
        widths, ranks, _, rise = shared
        some = {n: k for n, k in widths.items() if k < len(self.parts[n].neurons)}
        network = self.tune(self.seen.network(self.seen.kept(some), ranks))
        if not isinstance(network, keras.Model):
            raise ValueError(f"tune must return a network, not {network!r}.")
        score = self.measure(network)
        return Found(widths, ranks, network, score, True, sorted(self.curve), rise)

    def smallest(self, score):
        """Found, the smallest network with this score."""
        line, model = Line(), self.seen.model
        found = Found({}, {}, model, self.measure(model), True, [], 0.0)
        if found.score < score:
            raise ValueError(f"the model itself scores {found.score:.4g}, below {score:.4g}.")
        whole = self.size(model)
        low, high, tried = 0, whole, []  # a size that misses the score; one that has it
        first = [fraction * whole for fraction in FRACTIONS]
        while high > CLOSE * max(low, 1) and len(self.curve) < EVALUATIONS:
            middle = math.sqrt(max(low, high / 64) * high)
            budget = next((size for size in first if low < size < high), middle)
            shared = self.shared(budget)
            if shared in tried:  # it missed; or nothing is smaller
                low = budget
                continue
            tried.append(shared)
            made = self.made(shared)
            line.say(f"{made.network.count_params():,} parameters: score {made.score:.4g}")
            if made.score >= score:
                found, high = made, self.rest + shared.price
            else:
                low = max(low, self.rest + shared.price)
        return found._replace(curve=sorted(self.curve))


def _reasons(seen):
    """Why each layer with weights stays as it is."""
    layers = graph.leaves(seen.whole).items()
    found = {path: kinds.refusal(layer) for path, layer in layers if layer.weights}
    outputs = output_layers(seen.whole)
    found |= {path: "it gives the outputs" for path in outputs if not found.get(path)}
    found |= {path: "not chosen" for path, why in found.items() if not why}
    return "; ".join(f"{path}: {why}" for path, why in found.items())


def _of_energy(parts, goal, multiple):
    """The Share of the least widths and ranks that keep a share of each sum."""

    def least(worth):
        kept = np.cumsum(worth)
        enough = int(np.searchsorted(kept, (goal - 1e-12) * kept[-1])) + 1
        return min(multiple * -(-enough // multiple), len(worth))

    widths = {name: least(part.neurons) for name, part in parts.items() if len(part.neurons)}
    ranks = {name: least(part.values) for name, part in parts.items() if len(part.values)}
    return priced(parts, widths, ranks)


def _checked(goals, evaluate, model):
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
    sizes = {"parameters": keras.Model.count_params, "multiply_adds": watch.total}
    most = math.inf if name == "score" else sizes.get(name, lambda model: 1)(model)
    if not _is_number(goal) or (name != "score" and not 0 < goal <= most):
        allowed = "a finite number" if name == "score" else f"above 0, at most {most:,}"
        raise ValueError(f"{name} must be {allowed}, not {goal!r}.")
    return name, goal


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
