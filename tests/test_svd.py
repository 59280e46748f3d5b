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


def raised(M, share):
    """M with this share of its mean eigenvalue added to each of them."""
    return M + share * np.trace(M) / len(M) * np.eye(len(M))


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


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (12, 90)])
def test_the_leading_terms_alone_are_those_of_all(shape, monkeypatch):
    rng = np.random.default_rng(0)
    C, Gamma = (second_moment(n, 2 * n, seed=n) for n in shape)
    same = np.outer(*map(np.ones, shape)) + 1e-9 * rng.normal(size=shape)
    for large in (svd.LARGE, 30):
        monkeypatch.setattr(svd, "LARGE", large)
        for W, *weights in ((rng.normal(size=shape), C, Gamma), (rng.normal(size=shape),), (same,)):
            every, some = svd.decompose(W, *weights), svd.decompose(W, *weights, D=9)
            np.testing.assert_allclose(some.s, every.s[:9], rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(svd.truncate(some, 9), svd.truncate(every, 9), atol=1e-7)
            np.testing.assert_array_equal(svd.decompose(W, *weights, D=9).s, some.s)


def test_whitening_of_zero_matrices_is_finite():
    for W, C in [(np.zeros((4, 3)), np.eye(4)), (np.ones((4, 3)), np.zeros((4, 4)))]:
        assert all(np.isfinite(part).all() for part in svd.decompose(W, C))
    assert not svd.decompose(np.zeros((9, 9)), D=1).s.any()


@given(matrices(), st.integers(1, 15))
def test_energy_is_the_share_of_the_squared_norm(W, D):
    factors = svd.decompose(W)
    norm = np.linalg.norm(W) ** 2
    expected = np.linalg.norm(svd.truncate(factors, D)) ** 2 / norm if norm else 1.0
    assert svd.energy(factors.s, D) == pytest.approx(expected, abs=1e-10)
    assert svd.energy(factors.s, 99) == 1


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
    outside = [1.1 * edge] if shape[0] == shape[1] else [0.9 * s[-1], 1.1 * edge]
    assert not svd.noise_density(outside, shape, 0.1).any()


@pytest.mark.parametrize("D", [0, -1, 2.0, "abc", "20", None, True])
def test_a_wrong_rank_is_one_clear_error(D):
    s = np.array([7.0, 4.0, 2.0])
    functions = [lambda: svd.truncate(svd.decompose(np.eye(3)), D), lambda: svd.gap(s, D)]
    functions.append(lambda: svd.energy(s, D))
    if D is not None:  # which are all terms
        functions.append(lambda: svd.decompose(np.eye(4), D=D))
    for function in functions:
        with pytest.raises(ValueError, match="D must be a whole number"):
            function()


REFUSED = [({"W": W}, "finite matrix") for W in (np.ones(3), np.ones((0, 3)), [[np.nan]])]
REFUSED += [({"C": np.eye(2)}, r"C must be \(3, 3\)")]
REFUSED += [({"C": np.full((3, 3), np.nan)}, "finite matrix C")]
REFUSED += [({"C": np.diag([1.0, -1.0, 1.0])}, "C has a negative eigenvalue")]
REFUSED += [({"Gamma": np.eye(3)}, r"Gamma must be \(2, 2\) .*, not \(3, 3\)")]


@pytest.mark.parametrize(("matrices", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_matrix_that_cannot_be_is_refused(matrices, message):
    with pytest.raises(ValueError, match=message):
        svd.decompose(**{"W": np.ones((3, 2))} | matrices)


def test_a_diagonal_weight_is_that_of_its_matrix():
    rng = np.random.default_rng(0)
    W, counts, felt = rng.normal(size=(5, 4)), np.array([3.0, 0, 1, 7, 2]), np.array([1.0, 9, 4, 0])
    short = svd.decompose(W, counts, felt)
    whole = svd.decompose(W, np.diag(counts), np.diag(felt))
    np.testing.assert_allclose(short.s, whole.s, rtol=1e-12)
    for D in (1, 2):
        np.testing.assert_allclose(svd.truncate(short, D), svd.truncate(whole, D), atol=1e-10)


@given(matrices(), st.integers(1, 15))
def test_factors_multiply_to_the_truncation(W, D):
    decomposed = svd.decompose(W)
    expected = svd.truncate(decomposed, D)
    rank = min(D, *W.shape)
    U, Vt = svd.factors(decomposed, D)
    assert (U.shape, Vt.shape) == ((len(W), rank), (rank, W.shape[1]))
    np.testing.assert_allclose(U @ Vt, expected, atol=1e-12 * max(1, np.abs(W).max()))
    s = decomposed.s[:D]
    np.testing.assert_allclose(np.linalg.norm(Vt, axis=1), s, atol=1e-9 * max(1, s[0]))


def test_the_gap_is_between_what_is_kept_and_what_is_dropped():
    assert [svd.gap(np.array([7.0, 4.0, 2.0]), D) for D in (1, 2, 3, 4)] == [3, 2, 2, 2]


@pytest.mark.parametrize("shape", [(784, 1024), (1024, 1024), (7, 5), (3, 1000)])
def test_break_even_is_the_last_rank_that_saves(shape):
    (n_in, n_out), D = shape, svd.break_even_rank(shape)
    assert svd.svd_parameters(shape, 3) == 3 * n_in + 3 + 3 * n_out
    assert svd.factorized_parameters(shape, D) == D * (n_in + n_out) < n_in * n_out
    assert svd.factorized_parameters(shape, D + 1) >= n_in * n_out


@given(matrices(), st.integers(0, 20), st.integers(0, 20), st.integers(0, 99))
def test_weighted_truncation_is_the_best_of_its_rank(W, inputs, felt, seed):
    n_in, n_out = W.shape
    C, Gamma = second_moment(n_in, inputs, seed), second_moment(n_out, felt, seed + 1)
    factors, top = svd.decompose(W, C, Gamma), max(1, np.abs(W).max())
    np.testing.assert_allclose((factors.U * factors.s) @ factors.Vt, W, atol=1e-9 * top)
    C, Gamma = raised(C, 1e-4), raised(Gamma, 1e-2)
    roots = [np.real(scipy.linalg.sqrtm(M)) for M in (C, Gamma)]
    s = np.linalg.svd(roots[0] @ W @ roots[1], compute_uv=False)
    np.testing.assert_allclose(factors.s, s, atol=1e-6 * max(1e-3, s[0]))
    dW = W - svd.truncate(factors, 1)
    loss = np.trace(Gamma @ dW.T @ C @ dW)
    np.testing.assert_allclose(loss, np.sum(s[1:] ** 2), atol=1e-6 * max(1e-3, s[0] ** 2))


def test_regression_is_ridge_regression_towards_the_kernel():
    rng = np.random.default_rng(0)
    x, z, W = rng.normal(size=(50, 6)), rng.normal(size=(50, 4)), rng.normal(size=(6, 4))
    x[:, 2] = 0
    ridge = 1e-4 * np.sum(x**2) / 6  # least squares with rows that pull it to W
    rows, targets = np.sqrt(ridge) * np.eye(6), np.sqrt(ridge) * W
    expected = np.linalg.lstsq(np.vstack([x, rows]), np.vstack([z, targets]), rcond=None)[0]
    found = svd.regress(x.T @ x, x.T @ z, W)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(found[2], W[2], atol=1e-10)
    plain = np.linalg.lstsq(x, z, rcond=None)[0]
    np.testing.assert_allclose(np.delete(found, 2, 0), np.delete(plain, 2, 0), atol=1e-3)
    for C, X, message in ((np.eye(6), np.eye(6), "X must be"), (np.eye(4), W, "C must be")):
        with pytest.raises(ValueError, match=message):
            svd.regress(C, X, W)


def test_rounding_of_float32_is_no_negative_eigenvalue():
    C = np.diag([1.0, *[0.0] * 998, -3e-7])
    found = svd.regress(C, C[:, :1], np.zeros((1000, 1)))
    assert found[0, 0] == pytest.approx(1, abs=1e-5)
    C[-1, -1] = -1e-4
    with pytest.raises(ValueError, match="negative eigenvalue"):
        svd.regress(C, C[:, :1], np.zeros((1000, 1)))


def test_few_rows_stand_for_their_second_moment():
    rng = np.random.default_rng(0)
    x, W, g = rng.normal(size=(12, 40)), rng.normal(size=(40, 9)), rng.normal(size=(60, 9))
    C, Gamma, rows = x.T @ x / 12, g.T @ g / 60, svd.Rows(x)
    for felt in (None, Gamma, np.diagonal(Gamma)):
        for D in (3, 9):
            expected, found = svd.decompose(W, C, felt, D), svd.decompose(W, rows, felt, D)
            np.testing.assert_allclose(found.s, expected.s, rtol=1e-3)
            pair = [x @ svd.truncate(factors, D) for factors in (expected, found)]
            np.testing.assert_allclose(*pair, atol=1e-2)
    np.testing.assert_allclose(svd.truncate(svd.decompose(W, rows), 9), W, atol=1e-9)
    z = rng.normal(size=(12, 9))
    expected = svd.regress(C, x.T @ z / 12, W)
    np.testing.assert_allclose(svd.regress(rows, z, W), expected, atol=1e-7)
