"""The dense layer whose forward pass is the rank-D SVD of its kernel (tf.custom_gradient)."""

import numpy as np

from . import svd
from .backend import keras, tf

TRACKING = ("subspace", "svd", "none")
STARTING_STEPS = 3


@keras.saving.register_keras_serializable(package="helpers")
class DynamicDense(keras.layers.Dense):
    """A dense layer that multiplies by the rank-D SVD of its kernel W, and trains all of W.

        y = act(((x U) diag(s)) Vt + b),     f(W) = U diag(s) Vt = W_D

    x (…, n_in), W (n_in, units), U (n_in, D), s (D,), Vt (D, units), b (units,). U, s and Vt are
    kept beside W. Training renews them at every step; inference uses them as they are, W being
    touched by neither x nor dy. A new layer begins with those of three block power steps; those
    of an exact SVD come from `refresh`, `Refresh` or helpers.compress.dynamic. At
    D = min(n_in, units) the layer is keras.layers.Dense.

    Args:
        units: outputs.
        D: singular values kept, from 1 to min(n_in, units).
        derivative: of f, "tangent" (`tangent`), "straight_through" or "exact".
        tracking: how a training step renews the factors. "subspace": one block power step from
            the last ones (`subspace_step`); "svd": an exact SVD, the dear reference; "none": not
            at all, which leaves it to `refresh`.
        **kwargs: those of keras.layers.Dense.

    Raises:
        ValueError: D, derivative or tracking is none of these.
    """

    def __init__(self, units, D, derivative="tangent", tracking="subspace", **kwargs):
        super().__init__(units, **kwargs)
        self.D = svd.check_rank(D)
        if derivative not in DERIVATIVES:
            raise ValueError(f"derivative must be one of {[*DERIVATIVES]}, not {derivative!r}.")
        if tracking not in TRACKING:
            raise ValueError(f"tracking must be one of {[*TRACKING]}, not {tracking!r}.")
        self.derivative, self.tracking = derivative, tracking

    def build(self, input_shape):
        n_in = input_shape[-1]
        if self.D > min(n_in, self.units):
            raise ValueError(
                f"D must be at most {min(n_in, self.units)}, the rank of a kernel of shape "
                f"{(n_in, self.units)}, not {self.D}."
            )
        super().build(input_shape)
        self.U = self._state("U", (n_in, self.D))
        self.s = self._state("s", (self.D,))
        self.Vt = self._state("Vt", (self.D, self.units))
        with tf.init_scope():
            W = tf.convert_to_tensor(self.kernel)
            Vt = W[: self.D]
            for _ in range(STARTING_STEPS):
                U, s, Vt = subspace_step(W, Vt)
            self._keep(U, s, Vt)

    def _state(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)

    def refresh(self):
        """Set the factors to the exact SVD of W; return all its singular values (r,).

        V comes from the eigenvectors of WᵀW in float64, in half the time of an SVD of W; the
        subspace step that follows makes U and s as accurate as the layer's precision allows.
        """
        with tf.init_scope():
            W = self.kernel.numpy()
            squares, V = np.linalg.eigh(W.T.astype(float) @ W)
            Vt = V[:, ::-1][:, : self.D].T.astype(W.dtype)
            self._keep(*subspace_step(tf.constant(W), tf.constant(Vt)))
        return np.sqrt(np.maximum(squares[::-1][: min(W.shape)], 0))

    def svd(self):
        """The SVD that the layer computes with: helpers.svd.SVD, rank D, without a copy of W."""
        if self.D == min(self.kernel.shape):
            self.refresh()
        return svd.SVD(*(part.numpy() for part in (self.U, self.s, self.Vt)))

    def _keep(self, U, s, Vt):
        self.U.assign(U)
        self.s.assign(s)
        self.Vt.assign(Vt)

    def call(self, inputs, training=False):
        if self.D == min(self.kernel.shape):
            return super().call(inputs)
        W = tf.convert_to_tensor(self.kernel)
        if training and self.tracking == "subspace":
            self._keep(*subspace_step(W, tf.convert_to_tensor(self.Vt)))
        elif training and self.tracking == "svd":
            s, U, V = tf.linalg.svd(W)
            self._keep(U[:, : self.D], s[: self.D], tf.transpose(V[:, : self.D]))
        rows = tf.reshape(inputs, (-1, W.shape[0]))
        factors = [tf.convert_to_tensor(part) for part in (self.U, self.s, self.Vt)]
        y = product(rows, W, *factors, DERIVATIVES[self.derivative])
        y = tf.reshape(y, tf.concat([tf.shape(inputs)[:-1], [self.units]], axis=0))
        y = y if self.bias is None else y + self.bias
        return y if self.activation is None else self.activation(y)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for name in ("U", "s", "Vt"):
            store[name] = getattr(self, name)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self._keep(store["U"], store["s"], store["Vt"])

    def get_config(self):
        own = {"D": self.D, "derivative": self.derivative, "tracking": self.tracking}
        return super().get_config() | own


class Refresh(keras.callbacks.Callback):
    """Renews the factors of every dynamic layer by an exact SVD after each epoch.

    Attributes:
        spectra: {layer name: list of all singular values (r,), before training and after each
            epoch}.
    """

    def on_train_begin(self, logs=None):
        dynamic = [layer for layer in self.model.layers if isinstance(layer, DynamicDense)]
        self.spectra = {layer.name: [layer.refresh()] for layer in dynamic}

    def on_epoch_end(self, epoch, logs=None):
        for name, spectra in self.spectra.items():
            spectra.append(self.model.get_layer(name).refresh())


def subspace_step(W, Vt):
    """One step of block power iteration towards the D leading singular vectors, from the last V.

        Q = orth(W V),     (Wᵀ Q) = V' diag(s') Oᵀ,     U' = Q O

    U' diag(s') V'ᵀ is the best approximation of W whose columns lie in the span of W V. The error
    of the subspace shrinks by (σ_{D+1} / σ_D)² a step, while W moves little from step to step.

    Args:
        W: tensor (n_in, n_out).
        Vt: tensor (D, n_out), the last right singular vectors.

    Returns:
        U (n_in, D), s (D,), Vt (D, n_out), tensors.

    Source: Golub and Van Loan, Matrix Computations, section 8.2; Halko, Martinsson and Tropp,
    SIAM Review 2011.
    """
    Q, _ = tf.linalg.qr(tf.matmul(W, Vt, transpose_b=True))
    s, V, rotation = tf.linalg.svd(tf.matmul(W, Q, transpose_a=True))
    return Q @ rotation, s, tf.transpose(V)


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
    """f'(W)[G] = G = xᵀdy: the textbook's derivative, as if f changed nothing."""
    return tf.matmul(x, dy, transpose_a=True)


def tangent(x, dy, W, U, s, Vt):
    """f'(W)[G] = UUᵀG + GVVᵀ − UUᵀGVVᵀ, the projection onto the tangent space.

    The tangent space of the rank-D matrices at f(W): the directions in which f(W) can move and
    keep its rank. G = xᵀdy is not formed, only UᵀG = (xU)ᵀdy and GV = xᵀ(dy V).
    """
    return _assemble(*_tangent_parts(x, dy, U, Vt), U, Vt)


def exact(x, dy, W, U, s, Vt):
    """f'(W)[G], the derivative of the truncation: the tangent space and what crosses the gap.

    With R = W − f(W), M = UᵀGV, A = GV − UM, B = GᵀU − VMᵀ, and P, Q (n_in or n_out, D) solving

        P diag(s) = A diag(s) + R Q,    Q diag(s) = B diag(s) + Rᵀ P,
        f'(W)[G] = U M Vᵀ + P Vᵀ + U Qᵀ.

    P = A and Q = B would be `tangent`. Eliminating Q leaves (σᵢ² − RRᵀ) pᵢ = σᵢ² aᵢ + σᵢ R bᵢ
    for each column, positive definite while σ_D > σ_{D+1}: conjugate gradients from P = A. The
    derivative grows like σ_D / (σ_D − σ_{D+1}); where the gap closes it does not exist. To stay
    finite a column stops before a direction in which σᵢ² − σⱼ² < 1e-3 σᵢ², and singular values
    below the square root of the precision, relative to σ₁, count as 0.
    """
    M, A, B = _tangent_parts(x, dy, U, Vt)

    def R(Q):
        WQ = W @ Q
        return WQ - U @ tf.matmul(U, WQ, transpose_a=True)

    def Rt(P):  # P is orthogonal to U, as A is
        return tf.matmul(W, P, transpose_a=True)

    P = _conjugate_gradients(lambda P: P * s**2 - R(Rt(P)), A, R(B * s + Rt(A)), 1e-3 * s**2)
    nonzero = s > _root_of_precision(s) * s[0]
    Q = B + tf.math.divide_no_nan(Rt(P), tf.where(nonzero, s, 0.0))
    return _assemble(M, P, Q, U, Vt)


DERIVATIVES = {"tangent": tangent, "straight_through": straight_through, "exact": exact}


def _tangent_parts(x, dy, U, Vt):
    """M = UᵀGV (D, D), A = GV − UM (n_in, D), B = GᵀU − VMᵀ (n_out, D) of G = xᵀdy."""
    dyV = tf.matmul(dy, Vt, transpose_b=True)
    GV = tf.matmul(x, dyV, transpose_a=True)
    GtU = tf.matmul(dy, x @ U, transpose_a=True)
    M = tf.matmul(U, GV, transpose_a=True)
    return M, GV - U @ M, GtU - tf.matmul(Vt, M, transpose_a=True, transpose_b=True)


def _assemble(M, P, Q, U, Vt):
    """U M Vᵀ + P Vᵀ + U Qᵀ, as one product of 2D columns."""
    left = tf.concat([U @ M + P, U], axis=1)
    return left @ tf.concat([Vt, tf.transpose(Q)], axis=0)


def _conjugate_gradients(operator, X, residual, least_curvature):
    """Solve operator(X) = rhs for each column from X, where rhs − operator(X) is `residual`.

    Stops at the square root of the precision, after 50 steps, and, column by column, before a
    direction whose curvature is below `least_curvature` (D,).
    """

    def dots(a, b):
        return tf.reduce_sum(a * b, axis=0)

    tolerance = _root_of_precision(X) ** 2 * dots(residual, residual)

    def unsolved(X, residual, direction):
        return tf.reduce_any(dots(residual, residual) > tolerance)

    def step(X, residual, direction):
        image = operator(direction)
        curvature, length = dots(direction, image), dots(direction, direction)
        before = dots(residual, residual)
        stopped = curvature < least_curvature * length
        alpha = tf.where(stopped, 0.0, tf.math.divide_no_nan(before, curvature))
        residual = tf.where(stopped, 0.0, residual - alpha * image)
        beta = tf.math.divide_no_nan(dots(residual, residual), before)
        return X + alpha * direction, residual, residual + beta * direction

    X, _, _ = tf.while_loop(unsolved, step, (X, residual, residual), maximum_iterations=50)
    return X


def _root_of_precision(tensor):
    return float(np.sqrt(np.finfo(tensor.dtype.as_numpy_dtype).eps))
