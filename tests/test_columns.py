import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.columns import choose


def moments(seed, n=60, columns=8, targets=5):
    """Centred samples h and T, and their covariances A and B."""
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, columns)) @ rng.normal(size=(columns, columns))
    T = h @ rng.normal(size=(columns, targets)) + rng.normal(size=(n, targets))
    h, T = h - h.mean(0), T - T.mean(0)
    return h, T, h.T @ h / n, h.T @ T / n


def explained(h, T, columns):
    """What least squares on these columns explains of T."""
    some = h[:, columns]
    return np.sum((some @ np.linalg.lstsq(some, T, rcond=None)[0]) ** 2) / len(h)


@given(st.integers(0, 99), st.sampled_from([1, 2, 4]))
def test_gains_add_up_to_what_least_squares_explains(seed, size):
    h, T, A, B = moments(seed)
    order, gains = choose(A, B, size, ridge=1e-13)
    assert sorted(order) == list(range(8 // size))
    for k in range(1, len(order) + 1):
        chosen = np.concatenate([np.arange(j * size, (j + 1) * size) for j in order[:k]])
        assert gains[:k].sum() == pytest.approx(explained(h, T, chosen), rel=1e-7)


@given(st.integers(0, 99), st.integers(1, 3))
def test_the_choice_is_near_the_best_of_all_subsets(seed, k):
    h, T, A, B = moments(seed)
    _order, gains = choose(A, B, ridge=1e-13)
    every = [explained(h, T, list(subset)) for subset in itertools.combinations(range(8), k)]
    assert gains[:k].sum() <= max(every) * (1 + 1e-7)
    first = [explained(h, T, [j]) for j in range(8)]
    assert gains[0] == pytest.approx(max(first), rel=1e-7)


def test_a_copy_of_a_column_and_a_constant_one_explain_nothing():
    h, _, _, _ = moments(0)
    h = np.column_stack([h, h[:, 3], np.zeros(len(h))])
    A = h.T @ h / len(h)
    order, gains = choose(A, A)
    assert 9 not in order  # constant
    assert {*order[8:]} <= {3, 8}
    assert gains[8:].sum() < 1e-4 * gains.sum()
    twice = np.kron(np.eye(3), np.ones((2, 2)))
    assert list(choose(twice, twice)[0][:3]) == [0, 2, 4]
    assert [*map(len, choose(np.zeros((4, 4)), np.zeros((4, 2))))] == [0, 0]


def test_moments_that_do_not_fit_are_one_sentence():
    for A, B, size, message in (
        ([[np.nan]], [[1.0]], 1, "finite"),
        (np.eye(3), np.eye(2), 1, r"A \(3, 3\) and B \(2, 2\) must have n rows"),
        (np.eye(3), np.eye(3), 2, "in blocks of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            choose(A, B, size)
