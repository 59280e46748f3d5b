"""The answers to the exercises, a cell each: graders have them, the student's edition does not."""

import numpy as np

from helpers import svd
from helpers.backend import tf


# %% 1.E1
def rank_for_energy(s, share):
    kept = np.cumsum(s**2) / np.sum(s**2)
    return int(np.argmax(kept >= share)) + 1


# %% 1.E2
def truncate_for_inputs(W, x, D):
    # The best outputs of rank D are x W V Vᵀ, V the leading right singular vectors of x W.
    Vt = svd.decompose(x @ W).Vt[:D]
    return W @ Vt.T @ Vt


# %% 1.E3
# Our network, on whole MNIST: ranks 16, 9, 9, 10, 10 for a rise of 0.01. The first layer gets most;
# the later ones need about a direction for each class. Measured, the loss rises by 0.11: the
# prediction tells which value to buy next, and is no measurement, as layers are judged one by one.
def cheapest_ranks(spectra, shapes, rise):
    # One singular value at a time: always the one whose s² is the largest per parameter.
    ranks = [1] * len(spectra)
    lost = sum(np.sum(s[1:] ** 2) / 2 for s in spectra)
    while lost > rise:
        worth = [
            s[D] ** 2 / sum(shape) if D < len(s) else 0
            for s, D, shape in zip(spectra, ranks, shapes, strict=True)
        ]
        layer = int(np.argmax(worth))
        lost -= spectra[layer][ranks[layer]] ** 2 / 2
        ranks[layer] += 1
    return ranks


# %% 1.E4
# Of what hidden_4 makes of hidden_3, on whole MNIST, ten neurons chosen so leave 3 % unexplained,
# the ten that vary most 12 %, ten random ones 27 %. Two that vary together say the same thing
# twice; and what varies most may be what the next layer does not use.
def choose_neurons(h, T, k):
    # What is left of h and T after least squares on the chosen ones; first, on a constant.
    h, T, order = h - h.mean(0), T - T.mean(0), []
    least = 1e-9 * np.sum(h**2, axis=0) + 1e-30  # below, a neuron is spanned, or dead
    for _ in range(k):
        gains = np.sum((h.T @ T) ** 2, axis=1) / (np.sum(h**2, axis=0) + least)
        order.append(int(np.argmax(gains)))
        u = h[:, order[-1]] / np.linalg.norm(h[:, order[-1]])
        h, T = h - np.outer(u, u @ h), T - np.outer(u, u @ T)
    return order


# %% 1.E5
# Our network, on whole MNIST: 54, 34, 12, 10 and 10, where we counted 77, 51, 19, 13 and 11 beyond
# the edge itself. We ask for a tenth more than the edge, which only the clear ones
# have: ten in the last layers, as many as there are classes.
def learned_directions(W):
    # What stands beyond the edge inflates the standard deviation, and so the edge: take it out,
    # and measure what is left, until nothing more is found.
    s, (n_in, n_out) = svd.decompose(W).s, W.shape
    learned = 0
    while True:
        left = (n_in - learned) * (n_out - learned)
        std = np.sqrt(np.sum(s[learned:] ** 2) / left)
        beyond = int(np.sum(s > 1.1 * svd.noise_edge(W.shape, std)))
        if beyond <= learned:
            return learned
        learned = beyond


# %% 2.E1
# What was a good for? Nothing: a Vᵀ can always move into b. The other way round, only the part of b
# in the row space of Vᵀ can, D numbers of 1,024. So a pair has its bias behind the second factor.
def move_bias(a, Vt, b):
    more = np.linalg.lstsq(Vt.T, b, rcond=None)[0]
    return a + more, b - more @ Vt


# %% 2.E2
# With c U and Vᵀ / c, dU becomes dU / c, and dVᵀ becomes c dVᵀ. A step of SGD moves the product by
# -rate (dU Vᵀ / c² + c² U dVᵀ): the larger c, the more Vᵀ learns, and the less U. The outputs are
# the same, the training is not: how a product is shared between its factors matters to SGD.
def factor_gradients(x, dy, U, Vt):
    return x.T @ (dy @ Vt.T), (x @ U).T @ dy


# %% 2.E3
def svd_of_product(A, B):
    Q, R = np.linalg.qr(A)
    P, T = np.linalg.qr(B.T)
    U, s, Vt = np.linalg.svd(R @ T.T)
    return Q @ U, s, Vt @ P.T


# %% 2.E4
# It turns because the plain truncation does not know x. It keeps what is largest in W; the error
# wants what is largest in x W, and x varies ten times as much in some directions as in others.
def fine_tune_layer(x, z, U, Vt):
    # Each factor in turn is the least squares solution for the other.
    old = np.linalg.qr(U)[0]
    for _ in range(500):
        Vt = np.linalg.lstsq(x @ U, z, rcond=None)[0]
        U = np.linalg.lstsq(x, z @ np.linalg.pinv(Vt), rcond=None)[0]
    kept = np.linalg.norm(old.T @ np.linalg.qr(U)[0]) ** 2 / U.shape[1]
    return U, Vt, kept


# %% 2.E5
# The tool's cut weighs the outputs by what the loss feels, spends one budget on the neurons and the
# ranks of all layers, and fits each layer to what those before it have become.
def cut_network(x, W, b, V, c, budget):
    from scipy.linalg import qr

    # Pivoted QR takes the column of which most is left; here, of what each neuron does to y.
    k = (budget - len(c)) // (len(W) + 1 + len(c))
    h = np.maximum(x @ W + b, 0)
    weighted = (h - h.mean(0)) * np.linalg.norm(V, axis=1)
    kept = qr(weighted, mode="r", pivoting=True)[1][:k]
    columns = np.column_stack([h[:, kept], np.ones(len(x))])
    fitted = np.linalg.lstsq(columns, h @ V + c, rcond=None)[0]
    return W[:, kept], b[kept], fitted[:-1], fitted[-1]


# %% 3.E1
# U M and M⁻¹ Vᵀ are the same product, for each of the D² numbers in M: so many are wasted. Without
# them every D below full rank saves: n_in n_out - D (n_in + n_out - D) = (n_in - D) (n_out - D).
def tangent_dimensions(n_in, n_out, D):
    return D * (n_in + n_out - D)


# %% 3.E2
def project(X, U, Vt):
    UtX, XV = U.T @ X, X @ Vt.T
    return U @ (UtX - (UtX @ Vt.T) @ Vt) + XV @ Vt


# %% 3.E3
# Both spaces stay where they are: W + U diag(δ) Vᵀ has the same singular vectors, and each layer
# learns D numbers. Only when a kept value falls below a dropped one do they trade places.
def values_alone(x, dy, W, U, s, Vt):
    slopes = tf.reduce_sum((x @ U) * tf.matmul(dy, Vt, transpose_b=True), axis=0)  # u_iᵀ G v_i
    return (U * slopes) @ Vt


# %% 3.E4
def steps_outside(T, M, U, Vt):
    def outside(step):
        left = step - U @ (U.T @ step)
        return np.linalg.norm(left - left @ Vt.T @ Vt) / np.linalg.norm(step)

    return outside(T), outside(0.9 * M + T), outside(np.sign(T))  # Adam: T / √T²


# %% 3.E5
# By the tangent, the gap opens and the error falls; when the rank falls, it jumps, and settles.
# Straight-through also feeds what f(W) drops. These values grow until they reach the kept ones, the
# gap closes, and the truncation takes now these, now those: at rank 3 the error grows step by step.
def train_truncated(x, z, W, ranks, rate, derivative):
    matrices, gaps = [W], []
    for D in ranks:
        U, _, Vt = factors = svd.decompose(W)
        step = x.T @ (x @ svd.truncate(factors, D) - z) / len(x)
        if derivative == "tangent":
            left = step - U[:, :D] @ (U[:, :D].T @ step)
            step = step - (left - left @ Vt[:D].T @ Vt[:D])
        W = W - rate * step
        s = svd.decompose(W).s
        matrices.append(W)
        gaps.append(svd.gap(s, D) / s[D - 1])
    return np.array(matrices), np.array(gaps)
