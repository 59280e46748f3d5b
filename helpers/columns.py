"""Which columns of a matrix can stand for all of them? Column subset selection."""

from typing import NamedTuple

import numpy as np

from . import svd

RIDGE = svd.RIDGE["C"]  # of the mean variance, added to each; as least squares on the chosen does
SPANNED = 1e-12  # of the first gain: what explains less is rounding


class Chosen(NamedTuple):
    """Columns, or blocks of them, in the order in which they were chosen."""

    order: np.ndarray  # (k,) int: numbers of the columns, or of the blocks
    gains: np.ndarray  # (k,): what each explains, in units of T²


@svd.on_one_thread
def choose(A, B, size=1, ridge=RIDGE):
    """Choose columns of h one after the other, each the one that explains most of T.

        minimise E‖T − h_P M‖² over M, the columns P of h being chosen:   A = cov(h), B = cov(h, T)

        gain_j = tr(B_jᵀ A_jj⁻¹ B_j)                 what h_j adds to least squares on the chosen
        A ← A − A_j A_jj⁻¹ A_jᵀ,   B ← B − A_j A_jj⁻¹ B_j      what h_j does not explain is left

    A pivoted Cholesky factorization with a right-hand side, in one pass. It ends where no column
    explains anything more: the rest is constant, or spanned by the chosen. Of equal gains the
    first is taken.

    Args:
        A: covariance (n, n) of h.
        B: covariance (n, t) of h with the targets T (t,).
        size: of the blocks of neighbouring columns which are chosen whole.
        ridge: added to each variance, in units of their mean.

    Returns:
        Chosen; the sum of the gains is what least squares on all columns explains of T.

    Raises:
        ValueError: A or B is not finite, or their sizes do not fit.

    Source: Gu and Eisenstat, Efficient algorithms for computing a strong rank-revealing QR
    factorization, 1996; Chee, Flynn, Damle and De Sa, Model preserving compression for neural
    networks, NeurIPS 2022; for the right-hand side, orthogonal matching pursuit, Pati, Rezaiifar
    and Krishnaprasad, 1993.

    >>> h = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]) - 0.5
    >>> choose(h.T @ h / 4, h.T @ h / 4).order  # the second column copies the first
    array([0, 2, 1])
    """
    A, B = np.array(A, dtype=float), np.asarray(B, dtype=float)
    n = len(A)
    if A.shape != (n, n) or B.ndim != 2 or len(B) != n or n == 0 or n % size:
        raise ValueError(f"A {A.shape} and B {B.shape} must have n rows, in blocks of {size}.")
    if not (np.isfinite(A).all() and np.isfinite(B).all()):
        raise ValueError("A and B must be finite.")
    A[np.diag_indices(n)] += max(ridge * np.diagonal(A).mean(), 1e-30)
    blocks = np.arange(n).reshape(-1, size)
    # What the chosen leave unexplained: A − LLᵀ, and K − LHᵀ − HLᵀ of K = BBᵀ; of these the blocks
    # on the diagonal are kept up to date.
    K, L, H = B @ B.T, np.empty((n, n)), np.empty((n, n))
    left, felt = (M[blocks[:, :, None], blocks[:, None, :]] for M in (A, K))
    order, gains = [], []
    for k in range(0, n, size):
        gain = np.trace(np.linalg.solve(left, felt), axis1=1, axis2=2)
        best = int(np.argmax(gain >= (1 - 1e-9) * gain.max()))
        if gain[best] <= SPANNED * (gains or gain)[0] or gain[best] <= 0:
            break
        order.append(best)
        gains.append(gain[best])
        J, old, new = blocks[best], slice(k), slice(k, k + size)
        explained = L[:, old] @ np.concatenate([L[J, old], H[J, old]]).T
        columns = A[:, J] - explained[:, :size]
        seen = K[:, J] - explained[:, size:] - H[:, old] @ L[J, old].T
        root = np.linalg.cholesky(left[best])
        columns, seen = (np.linalg.solve(root, M.T).T for M in (columns, seen))
        L[:, new], H[:, new] = columns, seen - columns @ np.linalg.solve(root, seen[J]) / 2
        a, b = (M[:, new].reshape(-1, size, size) for M in (L, H))
        left = left - a @ a.transpose(0, 2, 1)
        felt = felt - a @ b.transpose(0, 2, 1) - b @ a.transpose(0, 2, 1)
        left[order], felt[order] = np.eye(size), 0
    return Chosen(np.array(order, dtype=int), np.array(gains))
