"""Controls: networks that a finding is compared with."""

import numpy as np

from .. import model
from ..backend import keras


def anew(network, seed):
    """The network's shape from random weights; biases are 0.

    Kernels are normal with variance 2 / n_in, as a ReLU halves what it passes on; a first factor,
    which none follows, has 1 / n_in.
    """
    network, rng = keras.models.clone_model(network), np.random.default_rng(seed)
    for layer in network.layers:
        if layer.weights:
            gain = 1 if layer.name.endswith("_U") else 2
            scale = np.sqrt(gain / np.prod(layer.kernel.shape[:-1]))
            layer.kernel.assign(rng.normal(scale=scale, size=layer.kernel.shape))
    return network


def biases_and_output(network, data, epochs, seed):
    """As `model.fine_tune`, but all kernels stay as they are, except that of the output layer."""
    tuned = model.without_dropout(network)
    *hidden, _ = (layer for layer in tuned.layers if layer.weights)
    for layer in hidden:
        layer.kernel.trainable = False
    recipe = {"optimizer": "AdamW", "learning_rate": 2e-3, "weight_decay": 0.1}
    return tuned, model.train(tuned, data, epochs, seed, **recipe)
