import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from helpers import svd


@st.composite
def matrices(draw):
    """Wide, tall, square, rank-deficient and zero matrices."""
    n_in, n_out = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rank = draw(st.integers(0, min(n_in, n_out)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-3, 3))
    return scale * rng.normal(size=(n_in, rank)) @ rng.normal(size=(rank, n_out))


def second_moment(n, rank, seed):
    x = np.random.default_rng(seed).normal(size=(rank, n))
    return x.T @ x / max(rank, 1)


@given(matrices())
def test_factors_are_orthonormal_and_give_the_matrix_back(W):
    U, s, Vt = svd.decompose(W)
    r = min(W.shape)
    assert (U.shape, s.shape, Vt.shape) == ((len(W), r), (r,), (r, W.shape[1]))
    np.testing.assert_allclose(U.T @ U, np.eye(r), atol=1e-12)
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(r), atol=1e-12)
    np.testing.assert_allclose((U * s) @ Vt, W, atol=1e-12 * max(1, np.abs(W).max()))
    np.testing.assert_allclose(s, scipy.linalg.svdvals(W), atol=1e-12 * max(1, s[0]))


@given(matrices(), st.integers(1, 15))
def test_truncation_has_rank_D_and_the_error_of_the_tail(W, D):
    factors = svd.decompose(W)
    W_D = svd.truncate(factors, D)
    s = scipy.linalg.svdvals(W)
    slack = 1e-10 * max(1, s[0])
    assert np.sum(scipy.linalg.svdvals(W_D) > slack) == min(D, np.sum(s > slack))
    np.testing.assert_allclose(np.linalg.norm(W - W_D), np.linalg.norm(s[D:]), atol=slack)


@given(matrices(), st.integers(1, 15), st.integers(0, 20))
def test_whitened_truncation_is_that_of_the_whitened_matrix(W, D, inputs):
    n = len(W)
    C = second_moment(n, inputs, seed=n)
    factors = svd.decompose_whitened(W, C)
    top = max(1, np.abs(W).max())
    np.testing.assert_allclose((factors.U * factors.s) @ factors.Vt, W, atol=1e-10 * top)
    if inputs >= n and np.linalg.cond(C) < 1e3:  # nothing is lifted, L of Cholesky will do
        L = scipy.linalg.cholesky(C, lower=True)
        U, s, Vt = scipy.linalg.svd(L.T @ W, full_matrices=False)
        expected = scipy.linalg.solve_triangular(L.T, (U[:, :D] * s[:D]) @ Vt[:D])
        gap = s[D - 1] - s[D] if D < len(s) else s[-1]
        if gap > 1e-3 * s[0]:
            np.testing.assert_allclose(svd.truncate(factors, D), expected, atol=1e-7 * top)


def test_whitened_truncation_changes_the_outputs_least():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 30)) * np.geomspace(3, 0.1, 30)
    W = rng.normal(size=(30, 40))
    plain, whitened = svd.decompose(W), svd.decompose_whitened(W, x.T @ x / len(x))
    for D in (1, 5, 20):
        errors = [np.linalg.norm(x @ (W - svd.truncate(f, D))) for f in (plain, whitened)]
        tail = np.sqrt(len(x)) * np.linalg.norm(whitened.s[D:])
        np.testing.assert_allclose(errors[1], tail, rtol=1e-6)
        assert errors[1] < 0.9 * errors[0]


def test_whitening_of_zero_matrices_is_finite():
    for W, C in [(np.zeros((4, 3)), np.eye(4)), (np.ones((4, 3)), np.zeros((4, 4)))]:
        assert all(np.isfinite(part).all() for part in svd.decompose_whitened(W, C))


@given(matrices(), st.integers(1, 15))
def test_energy_is_the_share_of_the_squared_norm(W, D):
    factors = svd.decompose(W)
    norm = np.linalg.norm(W) ** 2
    expected = np.linalg.norm(svd.truncate(factors, D)) ** 2 / norm if norm else 1.0
    assert svd.energy(factors.s, D) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("shape", [(400, 600), (600, 400), (500, 500)])
def test_noise_follows_the_marchenko_pastur_law(shape):
    s = scipy.linalg.svdvals(np.random.default_rng(0).normal(0, 0.1, shape))
    edge = svd.noise_edge(shape, 0.1)
    assert s[0] == pytest.approx(edge, rel=0.03)
    sigma = np.linspace(edge / 10_000, edge, 20_000)
    density = svd.noise_density(sigma, shape, 0.1)
    mass = np.cumsum(density) * (sigma[1] - sigma[0])
    assert mass[-1] == pytest.approx(1, abs=0.01)
    share_below = np.searchsorted(np.sort(s), sigma) / len(s)
    assert np.abs(share_below - mass).max() < 0.02


@pytest.mark.parametrize("D", [0, -1, 2.0, "abc", "20", None, True])
def test_a_wrong_rank_is_one_clear_error(D):
    with pytest.raises(ValueError, match="D must be a whole number"):
        svd.truncate(svd.decompose(np.eye(3)), D)


@pytest.mark.parametrize("W", [np.ones(3), np.ones((0, 3)), [[np.nan]], [[np.inf]]])
def test_what_is_no_finite_matrix_is_refused(W):
    with pytest.raises(ValueError, match="finite matrix"):
        svd.decompose(W)
    with pytest.raises(ValueError, match="C must be"):
        svd.decompose_whitened(np.eye(3), np.eye(2))
