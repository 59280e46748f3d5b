"""The dense layer whose forward pass is the rank-D SVD of its kernel (tf.custom_gradient)."""

import numpy as np
from scipy.linalg import eigh

from . import svd
from .backend import keras, tf

NOT_FINITE = "the kernel of {} is no longer finite: train it at a lower learning rate."
TRACKING = ("subspace", "svd", "none")
# Of `exact`, relative to the gradient: in float32 far below the noise of a batch.
TOLERANCE = {"float32": 2e-2, "float64": 1e-9}


@keras.saving.register_keras_serializable(package="helpers")
class DynamicDense(keras.layers.Dense):
    """A dense layer that multiplies by the rank-D SVD of its kernel W, and trains all of W.

        y = act(((x U) diag(s)) Vt + b),     f(W) = U diag(s) Vt = W_D

    x (…, n_in), W (n_in, units), U (n_in, D), s (D,), Vt (D, units), b (units,). U, s and Vt are
    kept beside W. Training renews them at every step; inference uses them as they are, W being
    touched by neither x nor dy. A new layer begins with those of three block power steps, or,
    where D is large, of an exact SVD; that comes from `refresh` and helpers.compress.dynamic, too.
    Of the D, the first `rank` are used: D at first, and by `set_rank` any of 1 to D, at any time.
    At the rank min(n_in, units) the layer is keras.layers.Dense, and keeps no factors.

    Args:
        units: outputs.
        D: singular values kept, from 1 to min(n_in, units).
        derivative: of f, "tangent" (`tangent`), "straight_through" or "exact".
        tracking: how a training step renews the factors. "subspace": one block power step from
            the last ones (`subspace_step`); "svd": an exact SVD, the expensive reference; "none":
            not at all, which leaves it to `refresh`.
        **kwargs: those of keras.layers.Dense.

    Raises:
        ValueError: D, derivative, tracking or the precision is not allowed.
    """

    def __init__(self, units, D, derivative="tangent", tracking="subspace", **kwargs):
        super().__init__(units, **kwargs)
        self.D = svd.check_rank(D)
        if derivative not in DERIVATIVES:
            raise ValueError(f"derivative must be one of {[*DERIVATIVES]}, not {derivative!r}.")
        if tracking not in TRACKING:
            raise ValueError(f"tracking must be one of {[*TRACKING]}, not {tracking!r}.")
        if self.variable_dtype not in TOLERANCE or self.compute_dtype != self.variable_dtype:
            raise ValueError(f"dtype must be float32 or float64, not {self.dtype_policy.name!r}.")
        self.derivative, self.tracking = derivative, tracking
        self.supports_jit = False  # XLA needs ranks that are constant

    def build(self, input_shape):
        shape = input_shape[-1], self.units
        if self.D > min(shape):
            raise ValueError(f"D must be at most {min(shape)} for W {shape}, not {self.D}.")
        super().build(input_shape)
        self.kernel.project = self.project  # for helpers.optimizers
        self.U = self._state("U", (shape[0], self.D))
        self.s = self._state("s", (self.D,), np.nan)  # until there are factors
        self.Vt = self._state("Vt", (self.D, self.units))
        self.rank = self._state("rank", (), self.D, "int32")
        with tf.init_scope():
            self.Vt.assign(self.kernel[: self.D])
        if self.D < min(shape):
            self.tracked(steps=3)

    def _state(self, name, shape, value=0, dtype=None):
        start = keras.initializers.Constant(value)
        return self.add_weight(shape, start, dtype, trainable=False, name=name)

    def set_rank(self, rank):
        """Compute with the `rank` leading singular values from now on; more than D are D."""
        rank = min(svd.check_rank(rank), self.D)
        if rank < self.rank == min(self.kernel.shape):
            self._decompose()
        self.rank.assign(rank)

    def refresh(self, values=None):
        """Set the factors to the exact SVD of W; return its leading singular values.

        V comes from the eigenvectors of WᵀW, in less time than an SVD of W takes: in float64, or,
        where a number of values is asked for, in the layer's precision. The subspace step that
        follows makes U, s and V as accurate as that precision allows. Where D is more than a
        quarter of the rank of W, an SVD takes less time. At full rank, where the layer keeps no
        factors, only the values are found.

        Args:
            values: how many singular values to return; D if fewer, all by default.

        Returns:
            array (values,), descending.

        Raises:
            ValueError: W is not finite.
        """
        with tf.init_scope():
            W = self._finite_kernel()
            A = W if values and self.rank < min(W.shape) else W.astype(float)
            values = min(max(values or self.units, self.D), *W.shape)
            if self.rank == min(W.shape):
                squares = np.linalg.eigvalsh(A.T @ A)[-values:]
            elif svd.is_large(W.shape, self.D):
                return self._decompose()[:values]
            else:
                squares, V = eigh(A.T @ A, subset_by_index=[self.units - values, self.units - 1])
                Vt = V[:, ::-1][:, : self.D].T.astype(W.dtype)
                self._keep(*subspace_step(tf.constant(W), tf.constant(Vt)))
        return np.sqrt(np.maximum(squares[::-1], 0))

    def svd(self):
        """The SVD that the layer computes with: helpers.svd.SVD, of the rank that it has now."""
        U, s, Vt = self.tracked()
        rank = int(self.rank)
        return svd.SVD(U[:, :rank], s[:rank], Vt[:rank])

    def tracked(self, steps=0):
        """The D leading singular values and vectors, of which the layer computes with the first.

        Args:
            steps: of block power iteration, which renew them first. Where D is more than a quarter
                of the rank of W, an exact SVD takes less time, and stands for any number; at full
                rank, where no factors are kept, there always is one.

        Returns:
            helpers.svd.SVD.

        Raises:
            ValueError, tf.errors.InvalidArgumentError: W is not finite.
        """
        shape, kept = self.kernel.shape, (self.U, self.s, self.Vt)
        with tf.init_scope():
            if self.rank == min(shape) or (steps and svd.is_large(shape, self.D)):
                self._decompose()
            else:
                W, U, s, Vt = map(tf.convert_to_tensor, (self.kernel, *kept))
                for _ in range(steps):
                    U, s, Vt = subspace_step(W, Vt, self.name)
                self._keep(U, s, Vt)
            return svd.SVD(*(part.numpy() for part in kept))

    def _finite_kernel(self):
        W = self.kernel.numpy()
        if not np.isfinite(W).all():
            raise ValueError(NOT_FINITE.format(self.name))
        return W

    def _decompose(self):
        """Set the factors to the exact SVD of W; return all singular values."""
        (U, s, Vt), D = np.linalg.svd(self._finite_kernel(), full_matrices=False), self.D
        self._keep(U[:, :D], s[:D], Vt[:D])
        return s

    def _keep(self, U, s, Vt):
        """Set the leading factors, as many as there are; those behind them stay."""
        rank = tf.shape(s)[0]
        self.U.value[:, :rank].assign(U)
        self.s.value[:rank].assign(s)
        self.Vt.value[:rank].assign(Vt)

    def call(self, inputs, training=False):
        W = tf.convert_to_tensor(self.kernel)
        rows = inputs if inputs.shape.rank == 2 else tf.reshape(inputs, (-1, W.shape[0]))
        y = self._unless_full(lambda: rows @ W, lambda: self._truncated_product(rows, W, training))
        y = y if self.bias is None else tf.nn.bias_add(y, self.bias)
        if inputs.shape.rank != 2:
            y = tf.reshape(y, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))
        return y if self.activation is None else self.activation(y)

    def project(self, X):
        """The projection of X (n_in, units) onto the tangent space that the gradient lies in.

        X itself for straight-through, whose gradient lies anywhere, and at full rank.
        """
        if self.derivative == "straight_through":
            return X

        def in_tangent_space():
            U, _, Vt = self._leading()
            UtX = tf.matmul(U, X, transpose_a=True)
            return _in_tangent_space(UtX, tf.matmul(X, Vt, transpose_b=True), U, Vt)

        return self._unless_full(lambda: X, in_tangent_space)

    def _unless_full(self, full, truncated):
        """What one of two functions returns: `full` at the rank of W, `truncated` below."""
        if self.D < min(self.kernel.shape):
            return truncated()
        return tf.cond(tf.convert_to_tensor(self.rank) == self.D, full, truncated)

    def _leading(self):
        rank = tf.convert_to_tensor(self.rank)
        U, s, Vt = (tf.convert_to_tensor(part) for part in (self.U, self.s, self.Vt))
        return U[:, :rank], s[:rank], Vt[:rank]

    def _truncated_product(self, x, W, training):
        if training and self.tracking == "subspace":
            self._keep(*subspace_step(W, self._leading()[2], self.name))
        elif training and self.tracking == "svd":
            s, U, V = tf.linalg.svd(W)
            self._keep(U[:, : self.D], s[: self.D], tf.transpose(V[:, : self.D]))
        return product(x, W, *self._leading(), DERIVATIVES[self.derivative])

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for name in ("U", "s", "Vt", "rank"):
            store[name] = getattr(self, name)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self._keep(store["U"], store["s"], store["Vt"])
        self.rank.assign(store["rank"])

    def get_config(self):
        own = {"D": self.D, "derivative": self.derivative, "tracking": self.tracking}
        return super().get_config() | own


def subspace_step(W, Vt, name="W"):
    """One step of block power iteration towards the D leading singular vectors, from the last V.

        W V = Q R,     QᵀW = O diag(s') V'ᵀ,     U' = Q O        (Q, O orthonormal columns)

    U' diag(s') V'ᵀ is the best approximation of W whose columns lie in the span of W V. The error
    of the subspace shrinks by (σ_{D+1} / σ_D)² a step, while W moves little from step to step.

    Args:
        W: tensor (n_in, n_out).
        Vt: tensor (D, n_out), the last right singular vectors.
        name: of the layer, for the error.

    Returns:
        U (n_in, D), s (D,), Vt (D, n_out), tensors.

    Raises:
        tf.errors.InvalidArgumentError: W is not finite.

    Source: Golub and Van Loan, Matrix Computations, section 8.2; Halko, Martinsson and Tropp,
    SIAM Review 2011.
    """
    WV = tf.debugging.check_numerics(tf.matmul(W, Vt, transpose_b=True), NOT_FINITE.format(name))
    Q = _orthonormal(WV)
    turn, s, Vt = _wide_svd(tf.matmul(Q, W, transpose_a=True))
    return Q @ turn, s, Vt


def _orthonormal(A):
    """Orthonormal columns (n, D) with the span of A (n, D)."""
    s, turn, safe = _gram_svd(A, transpose_a=True)
    return tf.cond(safe, lambda: A @ (turn / s), lambda: tf.linalg.qr(A)[0])


def _wide_svd(B):
    """The SVD B = O diag(s) Vt of B (D, n): O (D, D), s (D,), Vt (D, n)."""

    def by_svd():
        s, V, turn = tf.linalg.svd(tf.transpose(B))
        return turn, s, tf.transpose(V)

    s, turn, safe = _gram_svd(B, transpose_b=True)
    return tf.cond(safe, lambda: (turn, s, tf.matmul(turn / s, B, transpose_a=True)), by_svd)


def _gram_svd(A, **transposed):
    """Singular values s (D,) and vectors O (D, D) of a thin A, from AᵀA (or AAᵀ) = O diag(s²) Oᵀ.

    A product and the eigenvectors of a D × D matrix take a fraction of the time of a QR or an SVD
    of A. But AᵀA squares the condition σ₁ / σ_D. Formed in float64 it is safe for a float32 A
    while σ_D > 1e-3 σ₁; in float64, and for NaN, it never is.

    Returns:
        s, O of A's type, and whether they are safe to divide A by.
    """
    A64 = tf.cast(A, tf.float64)
    squares, turn = tf.linalg.eigh(tf.matmul(A64, A64, **transposed))
    squares, turn = squares[::-1], turn[:, ::-1]
    safe = squares[-1] > 1e-6 * squares[0] if A.dtype != tf.float64 else tf.constant(False)
    return tf.cast(tf.sqrt(tf.maximum(squares, 0)), A.dtype), tf.cast(turn, A.dtype), safe


def product(x, W, U, s, Vt, derivative):
    """x f(W) = ((x U) diag(s)) Vt, whose gradient reaches W by the derivative given.

    Args:
        x: tensor (n, n_in).
        W: tensor (n_in, n_out).
        U, s, Vt: tensors, the rank-D SVD of W, taken for constants.
        derivative: one of `DERIVATIVES`, a function (x, dy, W, U, s, Vt) → f'(W)[xᵀdy].

    Returns:
        tensor (n, n_out). Gradients: dx = dy f(W)ᵀ, dW = f'(W)[xᵀ dy]; f' is self-adjoint.
    """

    @tf.custom_gradient
    def forward(x, W):
        def backward(dy):
            dx = tf.matmul(tf.matmul(dy, Vt, transpose_b=True) * s, U, transpose_b=True)
            return dx, derivative(x, dy, W, U, s, Vt)

        return (x @ U * s) @ Vt, backward

    return forward(x, W)


def straight_through(x, dy, W, U, s, Vt):
    """f'(W)[G] = G = xᵀdy: the simplest derivative, as if f changed nothing."""
    return tf.matmul(x, dy, transpose_a=True)


def tangent(x, dy, W, U, s, Vt):
    """f'(W)[G] = UUᵀG + GVVᵀ − UUᵀGVVᵀ, the projection onto the tangent space.

    The tangent space of the rank-D matrices at f(W): the directions in which f(W) can move and
    keep its rank. G = xᵀdy is not formed, only UᵀG and GV; with M = UᵀGV

        f'(W)[G] = U (UᵀG − M Vᵀ) + (GV) Vᵀ,   one product of 2D columns.
    """
    return _in_tangent_space(*_projections(x, dy, U, Vt), U, Vt)


def _in_tangent_space(UtG, GV, U, Vt):
    M = tf.matmul(U, GV, transpose_a=True)
    return tf.concat([U, GV], axis=1) @ tf.concat([UtG - M @ Vt, Vt], axis=0)


def _projections(x, dy, U, Vt):
    """UᵀG = (xU)ᵀ dy (D, n_out) and GV = xᵀ (dy V) (n_in, D) of G = xᵀdy."""
    UtG = tf.matmul(x @ U, dy, transpose_a=True)
    GV = tf.matmul(x, tf.matmul(dy, Vt, transpose_b=True), transpose_a=True)
    return UtG, GV


def exact(x, dy, W, U, s, Vt):
    """f'(W)[G], the derivative of the truncation: the tangent space and what crosses the gap.

    With R = W − f(W), M = UᵀGV, A = GV − UM, B = UᵀG − MVᵀ, and P (n_in, D), Q (D, n_out) solving

        P diag(s) = A diag(s) + R Qᵀ,    diag(s) Q = diag(s) B + Pᵀ R,
        f'(W)[G] = U M Vᵀ + P Vᵀ + U Q.

    P = A and Q = B would be `tangent`. Eliminating Q leaves (σᵢ² − RRᵀ) pᵢ = σᵢ² aᵢ + σᵢ R bᵢ
    for each column, positive definite while σ_D > σ_{D+1}: conjugate gradients from P = A. The
    derivative grows like σ_D / (σ_D − σ_{D+1}); where the gap closes it does not exist. To stay
    finite a column stops before a direction in which σᵢ² − σⱼ² < 1e-3 σᵢ², and singular values
    below the square root of the precision, relative to σ₁, count as 0.
    """
    UtG, GV = _projections(x, dy, U, Vt)
    M = tf.matmul(U, GV, transpose_a=True)
    A, B = GV - U @ M, UtG - M @ Vt

    def R(Qt):  # R Qᵀ (n_in, D)
        WQ = W @ tf.transpose(Qt)
        return WQ - U @ tf.matmul(U, WQ, transpose_a=True)

    def Rt(P):  # Pᵀ R (D, n_out); P is orthogonal to U, as A is
        return tf.matmul(P, W, transpose_a=True)

    residual = R(B * s[:, None] + Rt(A))
    scale = tf.sqrt(tf.reduce_sum(A**2) + tf.reduce_sum(B**2))
    P = _conjugate_gradients(lambda P: P * s**2 - R(Rt(P)), A, residual, s, scale)
    nonzero = s > np.sqrt(np.finfo(s.dtype.as_numpy_dtype).eps) * s[0]
    Q = B + tf.math.divide_no_nan(Rt(P), tf.where(nonzero, s, 0.0)[:, None])
    return tf.concat([U, U @ M + P], axis=1) @ tf.concat([Q, Vt], axis=0)


DERIVATIVES = {"tangent": tangent, "straight_through": straight_through, "exact": exact}


def _conjugate_gradients(operator, X, residual, s, scale):
    """Solve operator(X) = rhs for each column from X, where rhs − operator(X) is `residual`.

    Stops when the residuals, each divided by its σᵢ², are small against `scale` (`TOLERANCE`),
    after 50 steps, and, column by column, before a direction of a curvature below 1e-3 σᵢ².
    """

    def dots(a, b):
        return tf.reduce_sum(a * b, axis=0)

    squares = tf.maximum(s**2, np.finfo(s.dtype.as_numpy_dtype).tiny)
    enough = (TOLERANCE[s.dtype.name] * scale) ** 2

    def unsolved(X, residual, direction, length):
        return tf.reduce_sum(length / squares**2) > enough

    def step(X, residual, direction, before):
        image = operator(direction)
        curvature = dots(direction, image)
        stopped = curvature < 1e-3 * squares * dots(direction, direction)
        alpha = tf.where(stopped, 0.0, tf.math.divide_no_nan(before, curvature))
        residual = tf.where(stopped, 0.0, residual - alpha * image)
        length = dots(residual, residual)
        beta = tf.math.divide_no_nan(length, before)
        return X + alpha * direction, residual, residual + beta * direction, length

    start = (X, residual, residual, dots(residual, residual))
    return tf.while_loop(unsolved, step, start, maximum_iterations=50)[0]
