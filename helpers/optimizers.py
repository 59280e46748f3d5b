"""An optimizer whose steps stay in the tangent space of the rank-D matrices."""

from types import MappingProxyType

from .backend import keras, tf


@keras.saving.register_keras_serializable(package="helpers")
class TangentSGD(keras.optimizers.Optimizer):
    """SGD with Nesterov's momentum, which moves a dynamic layer's kernel in its tangent space only.

        m ← μ P(m) − η g,     W ← W + μ m − η g

    The layer has projected its gradient g. P projects onto the tangent space at the factors of now
    (`DynamicDense.project`): past gradients lie in tangent spaces of the past, and P moves their
    sum to that of now. For any other variable P is the identity, and this is keras.optimizers.SGD.

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
        momentums = [self.add_variable_from_reference(v, "momentum") for v in variables]
        # Fragile: Keras updates the tf.Variable behind its own, which carries no projection. So
        # what belongs to it is looked up by TensorFlow's reference to it. A dict would be tracked,
        # and could not be exported.
        state_of = {
            v.value.ref(): (m.value, getattr(v, "project", None))
            for v, m in zip(variables, momentums, strict=True)
        }
        self.state_of = MappingProxyType(state_of)

    def update_step(self, gradient, variable, learning_rate):
        m, project = self.state_of[variable.ref()]
        if project is not None:
            m.assign(project(m))
        # Fragile: an op that TensorFlow does not document for users. It passes over W and m once:
        # with large layers that is what takes the time.
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
