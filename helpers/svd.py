"""Linear algebra alone: truncation, weighted or not, energy, sizes of factors, edge of the noise.

W (n_in, n_out) = U (n_in, r) · diag(s) (r,) · Vt (r, n_out), with r = min(n_in, n_out).
D is how many singular values are kept, a whole number of at least 1, else ValueError
(`check_rank`); more than there are keeps all. A shape is (n_in, n_out).
Everything is computed in float64, by LAPACK or, for a few terms of many, by ARPACK.
"""

import contextlib
import numbers
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular
from scipy.sparse.linalg import svds
from threadpoolctl import ThreadpoolController

LARGE = 2000  # if the shorter side is as long, many leading terms are found by squaring the matrix
# For many small products: on a busy machine, threads that wait for threads take ten times as long.
# BLAS is looked for once, here, and not at every call.
on_one_thread = ThreadpoolController().wrap(limits=1, user_api="blas")
RIDGE = {"C": 1e-4, "Gamma": 1e-2}  # of the mean eigenvalue, added to each of them


class SVD(NamedTuple):
    """The factors of W = (U * s) @ Vt, singular values in descending order."""

    U: np.ndarray  # (n_in, r)
    s: np.ndarray  # (r,)
    Vt: np.ndarray  # (r, n_out)


class Rows(NamedTuple):
    """C = xᵀx / n, by its rows x (n, n_in): smaller than C where n < n_in."""

    x: np.ndarray


def check_rank(D):
    """Return D if it is a whole number of at least 1, else raise ValueError and say so."""
    if isinstance(D, bool) or not isinstance(D, numbers.Integral) or D < 1:
        raise ValueError(f"D must be a whole number of singular values, at least 1, not {D!r}.")
    return int(D)


@on_one_thread
def decompose(W, C=None, Gamma=None, D=None):
    """The singular value decomposition of W, weighted on both sides.

        C = L Lᵀ,    Γ = R Rᵀ,    Lᵀ W R = Q diag(s) Pᵀ,    U = L⁻ᵀ Q,    Vt = Pᵀ R⁻¹

    W = U diag(s) Vt, and its D leading terms minimise tr(Γ ΔWᵀ C ΔW), ΔW = W − W_D, over all
    matrices W_D of rank D; what is left is the sum of the dropped s². With C = E[xᵀx] over a
    layer's inputs (rows x) and Γ = E[gᵀg] over the gradients g of the loss in its outputs, that is
    twice the rise of the loss, to second order. Γ = I is whitening: the outputs x W change least.
    C = Γ = I is the plain SVD: W itself changes least. Weighted, U and Vt are not orthonormal.

    To each eigenvalue of C 1e-4 of their mean is added, and 1e-2 to those of Γ: directions that
    the inputs never took, or the loss never felt, still count a little.

    Args:
        W: matrix (n_in, n_out), finite.
        C: symmetric positive semidefinite (n_in, n_in), or its diagonal (n_in,) if all else is 0,
            or Rows; the identity by default. With Rows, only the terms that they determine are
            computed, and W is kept on what they span.
        Gamma: Γ, as C, (n_out, n_out) or (n_out,); the identity by default.
        D: compute the D leading terms alone, which takes less time; all by default.

    Raises:
        ValueError: W, C or Γ is not a finite matrix, or C or Γ does not fit W or has a negative
            eigenvalue.

    Source: Golub and Van Loan, Matrix Computations, section 2.4; for Γ = I, Chen et al., DRONE,
    NeurIPS 2021; for the measure, Martens and Grosse, K-FAC, ICML 2015.

    >>> decompose([[3.0, 0.0], [0.0, -4.0]]).s
    array([4., 3.])
    >>> decompose([[3.0, 0.0], [0.0, -4.0]], C=[[4.0, 0.0], [0.0, 1.0]]).s.round(2)
    array([6., 4.])
    """
    W = _finite_matrix(W)
    if C is None and Gamma is None and D is None:
        return SVD(*np.linalg.svd(W, full_matrices=False))
    if isinstance(C, Rows):
        return _decompose_by_rows(W, C.x, root("Gamma", Gamma, W.shape[1]), D)
    L, R = root("C", C, W.shape[0]), root("Gamma", Gamma, W.shape[1])
    U, s, Pt = _leading(_weighted(_weighted(W.T, L).T, R), D)
    return SVD(_unweighted(U.T, L).T, s, _unweighted(Pt, R))


def _decompose_by_rows(W, x, R, D):
    """`decompose` of few rows: U diag(s) Vt R = W R P Pᵀ, with P of the outputs x W R."""
    W = _weighted(W, R)
    _, s, Pt = _leading(x @ W / np.sqrt(len(x)), D)
    s, Pt = (a[: max(1, np.sum(s > 1e-7 * s[0]))] for a in (s, Pt))
    return SVD(W @ Pt.T / np.where(s > 0, s, 1), s, _unweighted(Pt, R))


def _weighted(W, R):
    """W R, by a `root` R."""
    return W if R is None else W * R if R.ndim == 1 else W @ R


def _unweighted(Pt, R):
    """Pᵀ R⁻¹, by a `root` R."""
    if R is None:
        return Pt
    return Pt / R if R.ndim == 1 else solve_triangular(R, Pt.T, trans=1, lower=True).T


@on_one_thread
def regress(C, X, W):
    """The kernel that maps inputs x to outputs z with the least squared error.

        minimise E‖z − x (W + ΔW)‖²,    ΔW = C⁻¹ (X − C W),    C = cov(x),  X = cov(x, z)

    Its `decompose`, weighted by C and truncated, is the reduced-rank regression of z on x: of all
    matrices of rank D, the one with the least error. Directions in which x does not vary keep W:
    there ΔW is 0.

    Args:
        C: covariance (n_in, n_in) of the inputs, or Rows without their mean; its eigenvalues are
            raised as in `decompose`.
        X: covariance (n_in, n_out) of inputs and outputs, or, with Rows, outputs (n, n_out).
        W: matrix (n_in, n_out), the kernel so far.

    Returns:
        W + ΔW (n_in, n_out).

    Raises:
        ValueError: C, X or W is not a finite matrix, or their sizes do not fit.

    Source: Izenman, Reduced-rank regression for the multivariate linear model, 1975.
    """
    X, W = _finite_matrix(X), _finite_matrix(W)
    if isinstance(C, Rows):  # (C + ridge)⁻¹ xᵀ = xᵀ (x xᵀ / n + ridge)⁻¹
        x, n = _finite_matrix(C.x), len(X)
        L, _ = _root("C", x @ x.T / n, n, np.sum(x**2) / n / len(W))
        return W + x.T @ cho_solve((L, True), X - x @ W) / n
    if X.shape != W.shape:
        raise ValueError(f"X must be {W.shape}, as W is, not {X.shape}.")
    L, ridge = _root("C", C, len(W))
    return cho_solve((L, True), X + ridge * W)


def _leading(M, D):
    """The D leading terms of the SVD of M, or all."""
    D = None if D is None else check_rank(D)
    if D is not None and min(M.shape) >= LARGE and 20 * D > min(M.shape) >= 2 * D:
        U, s, Vt = _by_squares(M, D)
        if s[-1] > 1e-5 * s[0]:  # below, squares are lost in rounding
            return U, s, Vt
    if D is None or 4 * D > min(M.shape) or not M.any():  # then a full SVD takes less time
        U, s, Vt = np.linalg.svd(M, full_matrices=False)
        return U[:, :D], s[:D], Vt[:D]
    start = np.random.default_rng(0).normal(size=min(M.shape))  # the same for the same M
    U, s, Vt = svds(M, k=D, v0=start)
    return _backwards(U), s[::-1], _backwards(Vt.T).T


def _by_squares(M, D):
    """The D leading terms of the SVD of M, by the eigenvectors of MᵀM or of M Mᵀ, the smaller."""
    n = M.shape[1]
    if len(M) < n:
        V, s, Ut = _by_squares(M.T, D)
        return Ut.T, s, V.T
    squares, V = eigh(M.T @ M, subset_by_index=[n - D, n - 1])
    s = np.sqrt(np.maximum(squares, 0))[::-1]
    V = _backwards(V)
    return M @ V / np.maximum(s, 1e-30), s, V.T


def _backwards(V):
    """The columns in reverse, copied: products of a view that runs backwards bypass BLAS."""
    return np.ascontiguousarray(V[:, ::-1])


def root(side, M, n):
    """The root by which `decompose` weighs a side of W, M + ridge = L Lᵀ.

    Args:
        side: "C" or "Gamma", which are raised by different shares of their mean eigenvalue.
        M: C or Γ, and what is wrong with them, as for `decompose`.
        n: length of the side.

    Returns:
        L (n, n), lower triangular; (n,) of a diagonal; None for the identity.
    """
    return None if M is None else _root(side, M, n)[0]


def _root(side, M, n, mean=None):
    """`root` of a matrix or a diagonal, and the ridge, a share of the mean eigenvalue."""
    M = np.asarray(M, dtype=float)
    if M.shape not in ((n,), (n, n)):
        raise ValueError(f"{side} must be {(n, n)} for this W, not {M.shape}.")
    diagonal = M if M.ndim == 1 else np.diagonal(M)
    if not np.isfinite(M).all():
        raise ValueError(f"expected a finite matrix {side}, not an array of shape {M.shape}.")
    mean = diagonal.mean() if mean is None else mean
    ridge = max(RIDGE[side] * mean, 1e-30)  # whose root float32 can divide by
    if M.ndim == 1:
        return np.sqrt(M + ridge), ridge
    # Sums of products in float32 can be short of an eigenvalue by some 2e-7 of the largest.
    for more in (0, 1e-6 * np.linalg.norm(M)):
        with contextlib.suppress(np.linalg.LinAlgError):
            return cholesky(M + (ridge + more) * np.eye(n), lower=True), ridge + more
    raise ValueError(f"{side} has a negative eigenvalue.")


def truncate(svd, D):
    """The matrix W_D = U[:, :D] diag(s[:D]) Vt[:D] (n_in, n_out), of the factors' precision.

    Source: Eckart and Young, Psychometrika 1936: no matrix of rank D is nearer to W.

    >>> truncate(decompose([[3.0, 0.0], [0.0, -4.0]]), D=1)
    array([[ 0.,  0.],
           [ 0., -4.]])
    """
    D = check_rank(D)
    U, s, Vt = svd
    return (U[:, :D] * s[:D]) @ Vt[:D]


def factors(svd, D):
    """The two factors of the rank-D truncation, W_D = U_D Vt_D: U_D (n_in, D) and Vt_D (D, n_out).

        U_D = U[:, :D],             Vt_D = diag(s[:D]) Vt[:D]

    >>> factors(decompose([[9.0, 0.0], [0.0, 4.0]]), D=1)
    (array([[1.],
           [0.]]), array([[9., 0.]]))
    """
    D = check_rank(D)
    U, s, Vt = svd
    return U[:, :D], s[:D, None] * Vt[:D]


def energy(s, D):
    """The share of the energy in the D leading singular values s (r,), Σ_{i≤D} σᵢ² / Σᵢ σᵢ².

    It is 1 for the zero matrix, of which nothing is lost.

    >>> energy([4.0, 3.0], D=1)
    0.64
    """
    squares = np.square(np.asarray(s, dtype=float))
    kept = squares[: check_rank(D)].sum()
    return float(kept / squares.sum()) if squares.any() else 1.0


def gap(s, D):
    """The spectral gap σ_D − σ_{D+1} between what is kept and what is dropped, of s (r,).

    With all kept, the gap is to 0.

    >>> gap([4.0, 3.0, 1.0], D=2)
    2.0
    """
    kept, dropped = s[: check_rank(D)], s[D:]
    return float(kept[-1] - (dropped[0] if len(dropped) else 0))


def svd_parameters(shape, D):
    """Numbers in U (n_in, D), s (D,) and Vt (D, n_out) as textbooks count: D · (n_in + n_out + 1).

    >>> svd_parameters((784, 1024), D=20)
    36180
    """
    n_in, n_out = shape
    return D * (n_in + n_out + 1)


def factorized_parameters(shape, D):
    """Numbers in the two factors, s multiplied into one of them: D · (n_in + n_out).

    It is also what their product with one input costs, in multiply-adds.

    >>> factorized_parameters((784, 1024), D=20)
    36160
    """
    n_in, n_out = shape
    return D * (n_in + n_out)


def break_even_rank(shape):
    """The largest D at which two factors save numbers: D · (n_in + n_out) < n_in · n_out.

    >>> break_even_rank((784, 1024))
    444
    """
    n_in, n_out = shape
    return (n_in * n_out - 1) // (n_in + n_out)


def noise_edge(shape, std):
    """The largest singular value of pure noise, std · (√n_in + √n_out), for large matrices.

    Its entries are independent, of mean 0 and standard deviation std.

    Source: Marchenko and Pastur, 1967; Bai and Yin, Annals of Probability 1993.

    >>> noise_edge((900, 400), std=0.1)
    5.0
    """
    n_in, n_out = shape
    return float(std * (np.sqrt(n_in) + np.sqrt(n_out)))


def noise_density(sigma, shape, std):
    """The density of the singular values sigma of pure noise, as for `noise_edge`.

        p(σ) = √((σ₊² − σ²)(σ² − σ₋²)) / (π · std² · min(n_in, n_out) · σ),   σ₋ < σ < σ₊,
        σ± = std · |√n_in ± √n_out|, and 0 elsewhere.

    sigma may have any shape, the densities have the same.

    Source: the law of Marchenko and Pastur, Mathematics of the USSR-Sbornik 1967.
    """
    sigma = np.asarray(sigma, dtype=float)
    n_in, n_out = shape
    upper, lower = noise_edge(shape, std), std * abs(np.sqrt(n_in) - np.sqrt(n_out))
    under_root = np.maximum((upper**2 - sigma**2) * (sigma**2 - lower**2), 0)
    return np.sqrt(under_root) / (np.pi * std**2 * min(shape) * sigma)


def _finite_matrix(W):
    W = np.asarray(W, dtype=float)
    if W.ndim != 2 or 0 in W.shape or not np.isfinite(W).all():
        raise ValueError(f"expected a finite matrix, not an array of shape {W.shape}.")
    return W
