import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import svd
from helpers.ranks import shared_ranks, tapered_ranks


@given(st.integers(0, 99), st.integers(1, 8))
def test_shared_ranks_cost_no_more_and_keep_no_less(seed, D):
    rng = np.random.default_rng(seed)
    shapes = {"a": (9, 12), "b": (12, 30), "c": (30, 8)}
    svds = {
        name: svd.decompose(rng.normal(size=shape) * np.geomspace(1, 1e-2, shape[1]))
        for name, shape in shapes.items()
    }
    ranks = shared_ranks(svds, D)

    def price(ranks):
        return sum(sum(shape) * r for shape, r in zip(shapes.values(), ranks, strict=True))

    def worth(ranks):
        return sum(np.sum(svds[name].s[:r] ** 2) for name, r in zip(shapes, ranks, strict=True))

    assert min(ranks) >= 1
    assert price(ranks) <= price([D] * 3)
    # No triple of ranks of that price is worth more than greed's next, unaffordable, value adds.
    rivals = itertools.product(*(range(1, min(shape) + 1) for shape in shapes.values()))
    best = max(worth(r) for r in rivals if price(r) <= price([D] * 3))
    step = max(worth([*ranks[:i], r + 1, *ranks[i + 1 :]]) for i, r in enumerate(ranks))
    assert best <= step * (1 + 1e-9)


@given(st.integers(1, 9), st.integers(-9, 4).filter(bool))
def test_tapered_ranks_are_those_of_the_largest_scale_that_finds_room(D, power):
    ratio = float(np.exp(power / 7))  # irrational: no two layers are due a rank at one scale
    shapes = {"a": (60, 70), "b": (70, 90), "c": (90, 65)}
    svds = {name: svd.decompose(np.ones(shape)) for name, shape in shapes.items()}

    def price(ranks):
        return sum(sum(shape) * r for shape, r in zip(shapes.values(), ranks, strict=True))

    scales = np.array([ratio**i for i in range(3)])
    tried = np.sort(np.concatenate([np.arange(1, 61) / scale for scale in scales])) * (1 + 1e-12)
    ranks = [np.clip(np.floor(c * scales), 1, 60).astype(int).tolist() for c in tried]
    assert tapered_ranks(svds, D, ratio) == [r for r in ranks if price(r) <= price([D] * 3)][-1]


@pytest.mark.parametrize("ratio", [0, -1, float("nan")])
def test_a_ratio_that_is_none_is_one_sentence(ratio):
    with pytest.raises(ValueError, match=r"^the ratio must be above 0, not .*\.$"):
        tapered_ranks({}, 2, ratio)


def test_of_equal_spectra_the_cheaper_layer_gets_the_rank():
    svds = {
        "a": svd.decompose(np.eye(3)),
        "b": svd.decompose(np.eye(30) * ([1] * 3 + [0] * 27)),
    }
    assert shared_ranks(svds, D=2) == [3, 1]
