import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.compress.share import Part, share, whole_price

NOTHING = np.empty(0)


def chain(seed, sizes=(5, 4, 4, 3), neurons=True, ranks=True):
    """Parts of dense layers, with worths that fall fast."""
    rng, parts = np.random.default_rng(seed), {}

    def worth(n):
        return np.sort(rng.exponential(size=n) ** 3)[::-1]

    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        hidden = i < len(sizes) - 2
        values = worth(min(n_in, n_out)) if ranks and hidden else NOTHING
        gains = worth(n_out) if neurons and hidden else NOTHING
        source = f"d{i - 1}" if neurons and i else None
        parts[f"d{i}"] = Part(n_in, n_out, source, values, gains, 1.0, (1.0, 1.0), 1.0 * hidden)
    return parts


def price_and_rise(parts, widths, ranks):
    """By hand."""
    price = rise = 0
    for name, part in parts.items():
        n_in = widths.get(part.source, part.n_in)
        n_out = widths.get(name, part.n_out)
        price += ranks[name] * (n_in + n_out) if name in ranks else n_in * n_out
        price += part.neuron * widths.get(name, 0)
        rise += part.values[ranks[name] :].sum() if name in ranks else 0
        rise += part.neurons[widths[name] :].sum() if name in widths else 0
    return price, rise


@settings(max_examples=25)
@given(st.integers(0, 999), st.floats(0.2, 1), st.booleans(), st.booleans())
def test_a_share_is_within_the_budget_and_near_the_best(seed, fraction, neurons, ranks):
    parts = chain(seed, neurons=neurons, ranks=ranks)
    budget = fraction * whole_price(parts)
    found = share(parts, budget)
    assert (found.price, found.rise) == pytest.approx(
        price_and_rise(parts, found.widths, found.ranks)
    )
    named = [n for n, part in parts.items() if len(part.neurons)]
    valued = [n for n, part in parts.items() if len(part.values)]
    every = []
    for widths in itertools.product(*(range(1, parts[n].n_out + 1) for n in named)):
        for D in itertools.product(*(range(len(parts[n].values) + 1) for n in valued)):
            chosen = {n: r for n, r in zip(valued, D, strict=True) if r}
            price, rise = price_and_rise(parts, dict(zip(named, widths, strict=True)), chosen)
            every.append((price > budget, rise))
    over, best = min(every)
    if over:  # nothing fits
        assert found.price > budget
    else:
        whole = sum(part.values.sum() + part.neurons.sum() for part in parts.values())
        assert found.price <= budget
        assert found.rise <= best + 0.05 * whole  # and exactly best in 19 of 20 cases


def test_more_budget_is_never_worse():
    parts = chain(1, sizes=(40, 30, 30, 10))
    rises = [share(parts, f * whole_price(parts)).rise for f in (0.05, 0.1, 0.2, 0.4, 0.8)]
    assert rises == sorted(rises, reverse=True)


def test_what_the_loss_does_not_feel_goes_first():
    parts = chain(3, sizes=(20, 20, 20, 5), ranks=False)
    parts["d0"] = parts["d0"]._replace(neurons=np.r_[np.ones(7), np.zeros(13)])
    assert share(parts, 0.99 * whole_price(parts)).widths["d0"] == 7
