"""The dense layer whose forward pass is the rank-D SVD of its kernel (tf.custom_gradient)."""

import numpy as np

from .backend import keras, tf
from .svd import SVD, check_rank, decompose

NOT_FINITE = "the kernel of {} is no longer finite: train it at a lower learning rate."
TRACKING = ("subspace", "svd", "none")
# Of `exact`, relative to the gradient: in float32 far below the noise of a batch.
TOLERANCE = {"float32": 2e-2, "float64": 1e-9}


@keras.saving.register_keras_serializable(package="helpers")
class DynamicDense(keras.layers.Dense):
    """A dense layer that multiplies by the rank-D SVD of its kernel W, and trains all of W.

        y = act(((x U) diag(s)) Vt + b),     f(W) = U diag(s) Vt = W_D

    x (…, n_in), W (n_in, units), U (n_in, D), s (D,), Vt (D, units), b (units,). The layer keeps
    U, s and Vt beside W. A training step renews them; inference does not read W. A new layer
    starts with three block power steps; `refresh` and helpers.compress.dynamic set a fresh SVD.
    The layer computes with the first `rank` of its D singular values: all of them, until
    `set_rank` says otherwise.

    Args:
        units: outputs.
        D: singular values kept, from 1 to min(n_in, units) - 1. At full rank use Dense.
        derivative: of f, "tangent" (`tangent`), "straight_through" or "exact".
        tracking: how a training step renews the factors. "subspace": one block power step from
            the last ones (`subspace_step`); "svd": a fresh SVD, the expensive reference; "none":
            not at all, only `refresh` does.
        **kwargs: those of keras.layers.Dense.

    Raises:
        ValueError: D, derivative, tracking or the precision is not allowed.
    """

    def __init__(self, units, D, derivative="tangent", tracking="subspace", **kwargs):
        super().__init__(units, **kwargs)
        self.D = check_rank(D)
        if derivative not in DERIVATIVES:
            raise ValueError(f"derivative must be one of {[*DERIVATIVES]}, not {derivative!r}.")
        if tracking not in TRACKING:
            raise ValueError(f"tracking must be one of {[*TRACKING]}, not {tracking!r}.")
        if self.variable_dtype not in TOLERANCE or self.compute_dtype != self.variable_dtype:
            raise ValueError(f"dtype must be float32 or float64, not {self.dtype_policy.name!r}.")
        self.derivative, self.tracking = derivative, tracking
        self.supports_jit = False  # XLA needs ranks that are constant

    def build(self, input_shape):
        n_in = input_shape[-1]
        if self.D >= min(n_in, self.units):
            below = f"below {min(n_in, self.units)} for W {(n_in, self.units)}, not {self.D}"
            raise ValueError(f"D must be {below}: at full rank use keras.layers.Dense.")
        super().build(input_shape)
        # Keras gives an optimizer the variables of a layer, never the layer. So the kernel carries
        # its projection, for helpers.optimizers: an attribute that Keras knows nothing of.
        self.kernel.project = self.project
        self.U = self._state("U", (n_in, self.D))
        self.s = self._state("s", (self.D,))
        self.Vt = self._state("Vt", (self.D, self.units))
        self.rank = self._state("rank", (), self.D, "int32")
        with tf.init_scope():
            self.Vt.assign(self.kernel[: self.D])
        self.track(steps=3)

    def _state(self, name, shape, value=0, dtype=None):
        start = keras.initializers.Constant(value)
        return self.add_weight(shape, start, dtype, trainable=False, name=name)

    def set_rank(self, rank):
        """Compute with the `rank` leading singular values from now on; more than D means D."""
        self.rank.assign(min(check_rank(rank), self.D))

    def svd(self):
        """The factors that the layer computes with now: helpers.svd.SVD, `rank` singular values."""
        return SVD(*(part.numpy() for part in self._leading()))

    def fresh_svd(self, D=None):
        """The helpers.svd.SVD of W as it is now, in float64. The layer stays as it is.

        Args:
            D: compute the D leading terms alone, which takes less time; all by default.

        Raises:
            ValueError: W is not finite.
        """
        W = self.kernel.numpy()
        if not np.isfinite(W).all():
            raise ValueError(NOT_FINITE.format(self.name))
        return decompose(W, D=D)

    def refresh(self, fresh=None):
        """Set the factors to a fresh SVD of W.

        Args:
            fresh: from `fresh_svd`, to reuse, D terms or more; computed if missing.
        """
        fresh = fresh or self.fresh_svd(self.D)
        # This step makes orthonormal what `fresh_svd` divides by singular values near 0.
        self._follow(tf.cast(fresh.Vt[: self.D], self.dtype))

    def track(self, steps):
        """Renew all D factors by so many steps of `subspace_step`; return them, helpers.svd.SVD."""
        with tf.init_scope():
            for _ in range(steps):
                self._follow(self.Vt)
            return SVD(self.U.numpy(), self.s.numpy(), self.Vt.numpy())

    def _follow(self, Vt):
        """Renew the leading factors, as many as Vt has rows, by one subspace step from Vt."""
        W = tf.convert_to_tensor(self.kernel)
        self._keep(*subspace_step(W, tf.convert_to_tensor(Vt), self.name))

    def _keep(self, U, s, Vt):
        """Set the leading factors, as many as there are; those behind them stay."""
        rank = tf.shape(s)[0]
        self.U.assign(tf.concat([U, self.U[:, rank:]], axis=1))
        self.s.assign(tf.concat([s, self.s[rank:]], axis=0))
        self.Vt.assign(tf.concat([Vt, self.Vt[rank:]], axis=0))

    def _leading(self):
        rank = tf.convert_to_tensor(self.rank)
        return self.U[:, :rank], self.s[:rank], self.Vt[:rank]

    def call(self, inputs, training=False):
        W = tf.convert_to_tensor(self.kernel)
        if training and self.tracking == "subspace":
            self._follow(self._leading()[2])
        elif training and self.tracking == "svd":
            s, U, V = tf.linalg.svd(W)
            self._keep(U[:, : self.D], s[: self.D], tf.transpose(V[:, : self.D]))
        x = tf.reshape(inputs, (-1, W.shape[0]))
        y = product(x, W, *self._leading(), DERIVATIVES[self.derivative])
        y = tf.reshape(y, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))
        y = y if self.bias is None else tf.nn.bias_add(y, self.bias)
        return y if self.activation is None else self.activation(y)

    def project(self, X):
        """X (n_in, units) in the tangent space of the gradient; X itself for straight-through."""
        if self.derivative == "straight_through":
            return X
        U, _, Vt = self._leading()
        UtX, XV = tf.matmul(U, X, transpose_a=True), tf.matmul(X, Vt, transpose_b=True)
        return in_tangent_space(UtX, XV, U, Vt)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for name in ("U", "s", "Vt", "rank"):
            store[name] = getattr(self, name)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        for name in ("U", "s", "Vt", "rank"):
            getattr(self, name).assign(store[name])

    def get_config(self):
        own = {"D": self.D, "derivative": self.derivative, "tracking": self.tracking}
        return super().get_config() | own


def subspace_step(W, Vt, name="W"):
    """One step of block power iteration towards the D leading singular vectors, from the last V.

        W V = Q R,     WᵀQ = V' diag(s') Oᵀ,     U' = Q O        (Q, V', O orthonormal columns)

    U' diag(s') V'ᵀ is the best approximation of W whose columns lie in the span of W V. The error
    of the subspace shrinks by (σ_{D+1} / σ_D)² a step, while W moves little from step to step.

    Args:
        W, Vt: tensors (n_in, n_out), (D, n_out).
        name: of the layer, for the error.

    Returns:
        U (n_in, D), s (D,), Vt (D, n_out), tensors.

    Raises:
        tf.errors.InvalidArgumentError: W is not finite.

    Source: Golub and Van Loan, Matrix Computations, section 8.2; Halko, Martinsson and Tropp,
    SIAM Review 2011.
    """
    WV = tf.debugging.check_numerics(tf.matmul(W, Vt, transpose_b=True), NOT_FINITE.format(name))
    Q, _, _ = _thin_svd(WV)
    V, s, turn = _thin_svd(tf.matmul(W, Q, transpose_a=True))
    return Q @ turn, s, tf.transpose(V)


def _thin_svd(A):
    """The SVD of a thin A (n, D): U (n, D), s (D,), V (D, D).

    The eigenvectors V of AᵀA, a D × D matrix, take a fraction of the time of an SVD of A. But AᵀA
    squares the condition σ₁ / σ_D: formed in float64 it serves a float32 A while σ_D > 1e-3 σ₁.
    """

    def by_svd():
        s, U, V = tf.linalg.svd(A)
        return U, s, V

    if A.dtype == tf.float64:
        return by_svd()
    A64 = tf.cast(A, tf.float64)
    squares, V = tf.linalg.eigh(tf.matmul(A64, A64, transpose_a=True))
    safe = squares[0] > 1e-6 * squares[-1]
    s, V = tf.cast(tf.sqrt(squares[::-1]), A.dtype), tf.cast(V[:, ::-1], A.dtype)
    return tf.cond(safe, lambda: (A @ (V / s), s, V), by_svd)


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
    keep its rank. G = xᵀdy is not formed.
    """
    return in_tangent_space(*projections(x, dy, U, Vt), U, Vt)


def in_tangent_space(UtG, GV, U, Vt):
    """UUᵀG + GVVᵀ − UUᵀGVVᵀ = U (UᵀG − M Vᵀ) + (GV) Vᵀ with M = UᵀGV: one product of 2D columns."""
    M = tf.matmul(U, GV, transpose_a=True)
    return tf.concat([U, GV], axis=1) @ tf.concat([UtG - M @ Vt, Vt], axis=0)


def projections(x, dy, U, Vt):
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
    UtG, GV = projections(x, dy, U, Vt)
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
