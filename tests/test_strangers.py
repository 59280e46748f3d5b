"""A stranger's model, as its script makes it: a loss of its own, a dataset, several outputs."""

import subprocess
import sys

import numpy as np
import pytest

from helpers import PROJECT, compress
from helpers.backend import keras, tf

L = keras.layers


def own_loss(labels, logits):
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True) + 0.1


def batches(images, labels):
    pair = {"digit": labels, "even": (labels % 2 == 0).astype("float32")[:, None]}
    rows = tf.data.Dataset.from_tensor_slices((images.reshape(-1, 28, 28, 1), pair))
    return rows.shuffle(4000, seed=0).batch(64)


@pytest.mark.slow
def test_a_strangers_model_is_cut_to_a_tenth(few):
    keras.utils.set_random_seed(0)
    x = image = keras.Input((28, 28, 1))
    for filters in (16, 32):
        x = L.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = L.MaxPooling2D()(L.ReLU()(L.BatchNormalization(momentum=0.8)(x)))
    x = L.Dense(256, "relu")(L.Flatten()(x))
    ends = {"digit": L.Dense(10, name="digit")(x), "even": L.Dense(1, "sigmoid", name="even")(x)}
    model = keras.Model(image, ends)
    losses = {"digit": own_loss, "even": "binary_crossentropy"}
    model.compile("adam", losses, metrics={"digit": "accuracy"})
    training = batches(few.x_train, few.y_train)
    model.fit(training, epochs=4, verbose=0)

    def accuracy(network):
        digits = network.predict(few.x_val.reshape(-1, 28, 28, 1), verbose=0)["digit"]
        return np.mean(digits.argmax(1) == few.y_val)

    def fine_tuned(network):
        network.fit(training, epochs=2, verbose=0)
        return network

    felt = {"digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    seen = compress.observe(model, training, felt | {"even": "binary_crossentropy"}, samples=2000)
    goal = accuracy(model) - 0.02
    found = seen.cut(score=goal, evaluate=accuracy, tune=fine_tuned)
    assert found.met
    assert found.score >= goal
    assert found.network.count_params() < 0.1 * model.count_params()


VGG = """
from resource import RUSAGE_SELF, getrusage
from helpers import compress
from helpers.backend import keras

model = keras.applications.VGG16(weights=None)
before = getrusage(RUSAGE_SELF).ru_maxrss
small = compress.factorize(model, {"fc1": 1024, "fc2": 256})
print(small.count_params(), (getrusage(RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


@pytest.mark.slow
def test_a_large_model_is_cut_in_a_few_gigabytes():
    pytest.importorskip("resource")
    command = [sys.executable, "-c", VGG]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    parameters, gigabytes = done.stdout.split()
    assert int(parameters) == 138_357_544 - 25088 * 4096 - 4096**2 + 1024 * 29184 + 256 * 8192
    assert float(gigabytes) < 4
