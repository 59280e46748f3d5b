import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import svd
from helpers.ranks import shared_ranks

SHAPES = {"a": (9, 12), "b": (12, 30), "c": (30, 8)}


def random_svds(seed):
    rng = np.random.default_rng(seed)
    return {
        name: svd.decompose(rng.normal(size=shape) * np.geomspace(1, 1e-2, shape[1]))
        for name, shape in SHAPES.items()
    }


def price(ranks):
    return sum(sum(shape) * r for shape, r in zip(SHAPES.values(), ranks, strict=True))


@given(st.integers(0, 99), st.integers(1, 8), st.booleans())
def test_shared_ranks_cost_no_more_and_keep_no_less(seed, D, trained):
    svds, least = random_svds(seed), -(-D // 2) if trained else 1
    ranks = shared_ranks(svds, D, trained)
    assert list(ranks) == list(SHAPES)
    ranks = list(ranks.values())

    def worth(ranks):
        discounts = (0.35 if trained else 0.7) ** np.arange(3)
        kept = [np.sum(svds[name].s[:r] ** 2) for name, r in zip(SHAPES, ranks, strict=True)]
        return discounts @ kept

    assert min(ranks) >= least
    assert price(ranks) <= price([D] * 3)
    # No triple of ranks of that price is worth more than greed's next, unaffordable, value adds.
    rivals = itertools.product(*(range(least, min(shape) + 1) for shape in SHAPES.values()))
    best = max(worth(r) for r in rivals if price(r) <= price([D] * 3))
    step = max(worth([*ranks[:i], r + 1, *ranks[i + 1 :]]) for i, r in enumerate(ranks))
    assert best <= step * (1 + 1e-9)


def test_later_layers_get_less_and_less_still_if_trained():
    same = {name: svd.decompose(np.diag(np.geomspace(1, 1e-3, 30))) for name in "abc"}
    cut, trained = ([*shared_ranks(same, 8, trained=t).values()] for t in (False, True))
    for ranks in (cut, trained):
        assert ranks == sorted(ranks, reverse=True)
        assert sum(ranks) <= 24
    assert trained[0] > cut[0] > 8 > cut[2] > trained[2] >= 4


def test_a_layer_has_no_more_than_its_rank():
    svds = {"a": svd.decompose(np.eye(3)), "b": svd.decompose(np.eye(30))}
    assert shared_ranks(svds, D=10, trained=True)["a"] == 3


@pytest.mark.parametrize("D", [0, 2.5, "all"])
def test_a_wrong_rank_is_one_sentence(D):
    with pytest.raises(ValueError, match=r"^D must be .*\.$"):
        shared_ranks({}, D, trained=True)
    with pytest.raises(ValueError, match=r"^D must be .*\.$"):
        shared_ranks({}, D)


def test_the_cheaper_of_two_equal_spectra_gets_the_rank():
    svds = {"a": svd.decompose(np.eye(30)[:, :3]), "b": svd.decompose(np.eye(3))}
    assert shared_ranks(svds, D=2) == {"a": 1, "b": 3}


def test_values_are_worth_their_squares():
    svds = {"a": svd.decompose(np.diag([1, 0.8, 0.8])), "b": svd.decompose(np.eye(3))}
    assert shared_ranks(svds, D=2) == {"a": 1, "b": 3}  # 0.7 · 1² > 0.8², but 0.7 · 1 < 0.8
