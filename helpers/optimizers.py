"""Which optimizer stays in the space that the derivative has projected the gradient to?"""

import numpy as np

from .backend import keras, tf


@keras.saving.register_keras_serializable(package="helpers")
class TangentSGD(keras.optimizers.Optimizer):
    """SGD with Nesterov's momentum, which moves a dynamic layer's kernel in its tangent space only.

        m ← μ P(m) − η g,     W ← W + μ m − η g

    g is the gradient in W, which the layer has projected. P is the projection onto the tangent
    space at the factors of now (`DynamicDense.project`): the sum of past gradients, each of its own
    tangent space, is carried over to that of today. With any other variable P is the identity, and
    the optimizer keras.optimizers.SGD.

    Args:
        learning_rate: η, a number or a keras.optimizers.schedules.LearningRateSchedule.
        momentum: μ.
        **kwargs: those of keras.optimizers.Optimizer.
    """

    def __init__(self, learning_rate=0.1, momentum=0.9, name="tangent_sgd", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)
        self.momentum = momentum

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.moments = [self.add_variable_from_reference(v, "moment") for v in variables]
        # What is updated is the tensor behind a variable, which knows no projection.
        references = [v.value.ref() for v in variables]
        self.moment_of = dict(zip(references, self.moments, strict=True))
        self.projection_of = {v.value.ref(): v.project for v in variables if hasattr(v, "project")}

    def update_step(self, gradient, variable, learning_rate):
        key, m = variable.ref(), self.moment_of[variable.ref()].value
        if key in self.projection_of:
            m.assign(self.projection_of[key](m))
        # In one pass over W and m: with large layers that is what takes the time.
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=m.handle,
            lr=tf.cast(learning_rate, m.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, m.dtype),
            use_nesterov=True,
        )

    def get_config(self):
        return super().get_config() | {"momentum": self.momentum}


def outside(step, factors):
    """The share of a step ΔW (n_in, n_out) that lies outside of the tangent space at U, V.

        ‖(I − UUᵀ) ΔW (I − VVᵀ)‖ / ‖ΔW‖

    Args:
        step: array (n_in, n_out).
        factors: helpers.svd.SVD; of it U (n_in, D) and Vt (D, n_out).
    """
    U, _, Vt = factors
    rest = step - U @ (U.T @ step)
    return float(np.linalg.norm(rest - rest @ Vt.T @ Vt) / np.linalg.norm(step))
