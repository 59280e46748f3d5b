"""How many neurons and singular values does each layer get from one budget?"""

import math
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from .. import svd

NEVER = 1e9  # a price that no budget pays


class Part(NamedTuple):
    """A layer with a matrix W (n_in, n_out), as a budget sees it.

    What is kept of it keeps the loss from rising: ½ s² for each singular value (`svd.decompose`),
    half a gain for each neuron (`columns.choose`), in the order of the choice.
    """

    n_in: int
    n_out: int
    source: str | None  # the layer whose neurons its inputs are, if these can go
    values: np.ndarray  # (r,) ½ s²; empty: W stays one matrix
    neurons: np.ndarray  # (k,) half gains; empty: its neurons stay
    dense: float  # price of W, for each of its entries
    factors: tuple  # price of a singular value, for each input and for each output
    neuron: float  # price of a neuron beside W: its bias, and what follows for each neuron


def whole_price(parts):
    """The price of all parts as they are."""
    return sum(p.dense * p.n_in * p.n_out + p.neuron * len(p.neurons) for p in parts.values())


def _sides(parts, name, widths):
    """n_in and n_out of a matrix at these widths, numbers or arrays."""
    part = parts[name]
    n_in, n_out = part.n_in, part.n_out
    if part.source in widths:
        n_in = n_in * widths[part.source] // len(parts[part.source].neurons)
    if name in widths:
        n_out = n_out * widths[name] // len(part.neurons)
    return n_in, n_out


class Share(NamedTuple):
    """What each layer gets: all of what is not named."""

    widths: dict  # {layer name: neurons}
    ranks: dict  # {layer name: D}
    price: float  # of all layers
    rise: float  # of the loss, predicted


def priced(parts, widths, ranks):
    """The Share of these widths and ranks; a matrix stays one where its rank would not save."""
    price, rise, saving = 0.0, 0.0, {}
    for name, part in parts.items():
        n_in, n_out = _sides(parts, name, widths)
        costs = part.dense * n_in * n_out
        factored = ranks.get(name, math.inf) * (part.factors[0] * n_in + part.factors[1] * n_out)
        if factored < costs:
            saving[name], costs = ranks[name], factored
            rise += part.values[ranks[name] :].sum()
        price += costs
        if name in widths:
            price += part.neuron * widths[name]
            rise += part.neurons[widths[name] :].sum()
    return Share(widths, saving, price, float(rise))


def share(parts, budget, multiple=1):
    """Spend a budget on neurons and singular values of all layers, where the loss feels it most.

        minimise  rise(k, r) + λ price(k, r)

        rise(k, r) = Σ_l Σ_{j > k_l} ½ gain_{l,j} + Σ_{i > r_l} ½ s²_{l,i}
        price(k, r) = Σ_l min(k_{l−1} k_l, r_l (k_{l−1} + k_l)) + k_l

    A neuron or a singular value is kept while what it is worth exceeds λ times its price; λ is the
    least at which the price is within the budget. At one λ each width in turn takes its best value
    while the others stay, from whole layers on, and each matrix takes its best rank, or stays one.
    What is left of the budget buys what is worth most of all that still fits.

    Parts are {layer name: Part}, in the order of the layers. Widths and ranks are multiples of
    `multiple`, or whole. If even the smallest Share is over the budget, it is that one.
    """
    plan = _Plan(parts, multiple)
    widths = {name: levels.counts[-1] for name, levels in plan.neurons.items()}
    worth = sum(plan.worth) or 1.0
    found, over, rate = plan.at(0.0, widths), 0.0, 1e-9 * worth / max(budget, 1)
    if found.price <= budget:
        return found
    if (least := plan.at(1e9 * worth, widths)).price > budget:
        return least
    while (found := plan.at(rate, widths)).price > budget:
        over, rate, widths = rate, 1.5 * rate, found.widths
    for _ in range(40):
        tried = plan.at((over + rate) / 2, widths)
        if tried.price > budget:
            over, widths = (over + rate) / 2, tried.widths
        else:
            rate, found = (over + rate) / 2, max(found, tried, key=lambda share: share.price)
    return plan.filled(found, budget)


def shared_ranks(svds, D):
    """A rank for each layer, within the parameters that rank D takes in every one.

    Args:
        svds: {layer name: helpers.svd.SVD}, weighted on both sides, so that their s² are in units
            of the loss (`helpers.compress.observe` with a loss).
        D: singular values kept per layer if all kept the same, a whole number of at least 1, else
            ValueError.

    Returns:
        {layer name: rank}, each at least 1.

    >>> flat, single = svd.decompose(np.eye(9)), svd.decompose(np.ones((9, 9)))
    >>> shared_ranks({"flat": flat, "single": single}, D=3)
    {'flat': 5, 'single': 1}
    """
    D, none = svd.check_rank(D), np.empty(0)
    parts = {
        name: Part(len(U), Vt.shape[1], None, s**2 / 2, none, NEVER, (1.0, 1.0), 0.0)
        for name, (U, s, Vt) in svds.items()
    }
    return share(parts, D * sum(part.n_in + part.n_out for part in parts.values())).ranks


class _Levels(NamedTuple):
    """How many can be kept (g,), and what the loss then feels of those dropped (g,)."""

    counts: np.ndarray
    left: np.ndarray

    def keep(self, price):
        """The level up to which each more is worth its price, for each of the prices."""
        worth = -np.diff(self.left) / np.diff(self.counts)
        return np.searchsorted(-worth, -np.asarray(price))


def _levels(worth, multiple):
    counts = np.unique([*range(multiple, len(worth), multiple), len(worth)])
    return _Levels(counts, np.append(np.cumsum(worth[::-1])[::-1], 0)[counts])


class _Plan:
    """The levels of all parts, and the price and the predicted rise at each."""

    def __init__(self, parts, multiple):
        self.parts = parts
        self.worth = [part.values.sum() + part.neurons.sum() for part in parts.values()]
        self.neurons, self.values = (
            {n: _levels(worth(p), multiple) for n, p in parts.items() if len(worth(p))}
            for worth in (attrgetter("neurons"), attrgetter("values"))
        )
        self.next = {part.source: name for name, part in parts.items() if part.source}

    def at(self, rate, widths):
        """The Share at λ = rate, found from these widths."""
        widths = dict(widths)
        for _ in range(20):
            before = dict(widths)
            for name, levels in self.neurons.items():
                own = {**widths, name: levels.counts}
                value = levels.left + rate * self.parts[name].neuron * levels.counts
                for matrix in (name, self.next[name]):
                    value = value + self._matrix(matrix, own, rate)[0]
                widths[name] = int(levels.counts[np.argmin(value)])
            if widths == before:
                break
        ranks = {name: int(self._matrix(name, widths, rate)[1]) for name in self.values}
        return priced(self.parts, widths, {name: D for name, D in ranks.items() if D})

    def _matrix(self, name, widths, rate):
        """What a matrix costs in λ price + rise, and its rank, 0 if it stays one matrix."""
        part, (n_in, n_out) = self.parts[name], _sides(self.parts, name, widths)
        whole = rate * part.dense * n_in * n_out
        if name not in self.values:
            return whole, 0
        counts, left = self.values[name]
        each = rate * (part.factors[0] * n_in + part.factors[1] * n_out)
        level = self.values[name].keep(each)
        factored = left[level] + each * counts[level]
        return np.minimum(whole, factored), np.where(factored < whole, counts[level], 0)

    def filled(self, found, budget):
        """The Share with all that still fits, the best for its price first."""

        def worth(tried):
            return (found.rise - tried.rise) / max(tried.price - found.price, 1e-9)

        while steps := [s for s in self._steps(found) if s.price <= budget and s.rise < found.rise]:
            found = max(steps, key=worth)
        return found

    def _steps(self, found):
        """The Shares with one level more somewhere."""
        for i, levels in enumerate((self.neurons, self.values)):
            for name, count in found[i].items():
                counts, kept = levels[name].counts, [found.widths, found.ranks]
                for more in counts[counts > count][:1]:
                    kept[i] = kept[i] | {name: int(more)}
                    yield priced(self.parts, *kept)
