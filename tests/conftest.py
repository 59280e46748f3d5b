import sys

import numpy as np
import pytest
from hypothesis import settings

from helpers import data

# On a busy machine any time limit fails.
settings.register_profile("busy", deadline=None, max_examples=25)
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def seeded():
    """No test's random numbers depend on the tests before it."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session")
def digits():
    """The bundled digits, read once a process: no test can change them."""
    digits = data.load("subset")
    for part in (*digits.train, *digits.validation, *digits.test):
        part.flags.writeable = False
    return digits


@pytest.fixture(scope="session")
def few(digits):
    """A tenth of the subset."""
    parts = {k: getattr(digits, k)[:350] for k in ("x_train", "y_train", "x_val", "y_val")}
    return data.Data("few", **parts, x_test=digits.x_test, y_test=digits.y_test)


@pytest.fixture
def small():
    """A network for digits whose hidden layers are tall and wide."""
    from helpers.backend import keras  # TensorFlow only where it is needed

    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(n, activation="relu", name=f"h{n}") for n in (60, 90)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10, name="out")])


def with_spectrum(shape, s, rng=0):
    """A matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(rng)
    U, V = (np.linalg.qr(rng.normal(size=(n, len(s))))[0] for n in shape)
    return U * np.asarray(s) @ V.T


def dynamic_layer(W, D, derivative="tangent", dtype="float64", **options):
    """A dynamic layer with the kernel W and a fresh SVD of it."""
    from helpers import layers

    layer = layers.DynamicDense(W.shape[1], D, derivative, dtype=dtype, **options)
    layer.build((None, W.shape[0]))
    layer.kernel.assign(W)
    layer.refresh()
    return layer


def gradients(layer, x, dy, training=False):
    """A layer's outputs y, and the gradients dx, dW that dy gives."""
    from helpers.backend import tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
    return y, *tape.gradient(y, [x, layer.kernel], output_gradients=tf.constant(dy))
