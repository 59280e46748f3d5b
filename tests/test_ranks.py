import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import svd
from helpers.ranks import per_layer, shared_ranks


@given(st.integers(0, 99), st.integers(1, 8))
def test_shared_ranks_cost_no_more_and_keep_no_less(seed, D):
    rng = np.random.default_rng(seed)
    shapes = {"a": (9, 12), "b": (12, 30), "c": (30, 8)}
    svds = {
        name: svd.decompose(rng.normal(size=shape) * np.geomspace(1, 1e-2, shape[1]))
        for name, shape in shapes.items()
    }
    ranks = shared_ranks(svds, D, discount=1)

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


def test_a_discount_takes_from_the_later_layers():
    same = {name: svd.decompose(np.diag(np.geomspace(1, 1e-3, 30))) for name in "abc"}
    assert shared_ranks(same, 8, discount=1) == [8, 8, 8]
    assert shared_ranks(same, 8) == shared_ranks(same, 8, discount=0.7) != [8, 8, 8]
    ranks = shared_ranks(same, 8, discount=0.3)
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] > ranks[2]
    assert sum(ranks) <= 24
    # Discounted by γ, layer l is what a layer of s² γˡ would be.
    scaled = {
        name: svd.SVD(f.U, f.s * 0.3 ** (layer / 2), f.Vt)
        for layer, (name, f) in enumerate(same.items())
    }
    assert shared_ranks(scaled, 8, discount=1) == ranks


@pytest.mark.parametrize("discount", [0, -1, float("nan"), float("inf"), "half"])
def test_a_discount_that_is_none_is_one_sentence(discount):
    with pytest.raises(ValueError, match=r"^the discount must be a number above 0, not .*\.$"):
        shared_ranks({}, 2, discount)


def test_of_equal_spectra_the_cheaper_layer_gets_the_rank():
    svds = {
        "a": svd.decompose(np.eye(3)),
        "b": svd.decompose(np.eye(30) * ([1] * 3 + [0] * 27)),
    }
    assert shared_ranks(svds, D=2) == [3, 1]


@pytest.mark.parametrize("D", [7, np.int64(7), [7, 7, 7], (7, 7, 7), np.array([7, 7, 7])], ids=repr)
def test_one_rank_is_for_all_layers_and_several_are_one_for_each(D):
    assert per_layer(["a", "b", "c"], D) == {"a": 7, "b": 7, "c": 7}


@pytest.mark.parametrize(
    ("D", "message"),
    [
        *[(D, r"^D must be a whole number") for D in ("77", "777", None, 0, [7, 0, 7], 2.0)],
        ([7, 7], r"^D has 2 ranks for 3 layers: \['a', 'b', 'c'\]\.$"),
    ],
    ids=repr,
)
def test_ranks_that_are_none_are_one_sentence(D, message):
    with pytest.raises(ValueError, match=message):
        per_layer(["a", "b", "c"], D)
