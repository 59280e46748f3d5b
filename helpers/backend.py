"""TensorFlow and Keras, imported without their start-up noise.

Its import has side effects. Import it (or any helper that does) before `tensorflow` or `keras` is
imported by name.
"""

import os

from .quiet import stderr_muted

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever else is set: tf.custom_gradient needs it

# TensorFlow's first lines come before it reads its log level.
with stderr_muted():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()  # says, where there is no GPU, that there is none

tf.get_logger().setLevel("WARNING")  # exporting a model logs at INFO

__all__ = ["keras", "tf"]
