"""Which two factors of a convolution are smaller? `python -m tests.measure_forms`.

Run by hand. D whole filters and a pointwise convolution, or D vertical filters and a horizontal
convolution: parameters of each form, "1,050 / 700", at which the relative error of the kernel is
no more than 5, 10, 20 and 40 %, in the plain norm and in that which the loss feels, C^½ ΔW Γ^½, C
and Γ over whole patches for both. For a LeNet-5 on whole MNIST ($SVD_DATASET) and a small ResNet on
the bundled digits.
"""

import argparse
import sys
from unittest import mock

import numpy as np

from helpers import data, model, moments, svd
from helpers.lab.backend import keras
from helpers.networks import graph, kinds

from .measure_tool import LOSS, lenet
from .zoo import resnet

ERRORS = (0.05, 0.1, 0.2, 0.4)
SAMPLES = 1500


def of_lenet(epochs):
    digits = data.load()
    network = lenet(0)
    model.train(network, digits, epochs, 0)
    return network, digits.x_train


def of_resnet(epochs):
    digits = data.load("subset")
    images = digits.x_train.reshape(-1, 28, 28, 1)
    keras.utils.set_random_seed(0)
    network = resnet()
    rate = keras.optimizers.schedules.CosineDecay(5e-3, epochs * -(-len(images) // 64))
    network.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    network.fit(images, digits.y_train, 64, epochs, verbose=0)
    scores = network.evaluate(digits.x_val.reshape(-1, 28, 28, 1), digits.y_val, verbose=0)
    print(f"\nResNet: validation accuracy {scores[1]:.1%}\n")
    return network, images


def smallest(whole, crossed, C, Gamma, error):
    """Parameters of the two forms at this error in the norm of C and Γ, all if none is smaller."""
    found = []
    for kind, weights in ((whole, (C, Gamma)), (crossed, of_columns(crossed, C, Gamma))):
        W, dense = kind.matrix(), np.prod(kind.shape)
        factors = svd.decompose(W, *weights)
        for D in range(1, len(factors.s) + 1):
            lost = [whole.matrix(), whole.kernel - kind.fold(svd.truncate(factors, D))]
            norms = [norm(np.reshape(each, whole.shape), C, Gamma) for each in lost]
            if norms[1] <= error * norms[0] or D * sum(kind.shape) >= dense:
                break
        found.append(min(D * sum(kind.shape), dense))
    return found


def norm(W, C, Gamma):
    return np.sqrt(np.sum((C @ W) * (W @ Gamma)))


def of_columns(crossed, C, Gamma):
    """C of vertical patches, the mean over the columns of whole ones, and Γ of each column."""
    height, width, channels, _ = crossed.kernel.shape
    C = C.reshape(height, width, channels, height, width, channels)
    C = np.einsum("ajibjk->aibk", C).reshape(height * channels, -1) / width
    return C, crossed.spread(Gamma)


def print_forms(network, images):
    convolutions = {
        path: layer
        for path, layer in graph.compressible(network).items()
        if isinstance(layer, keras.layers.Conv2D) and min(layer.kernel_size) > 1
    }
    with mock.patch.dict(kinds.KINDS, {keras.layers.Conv2D: kinds.Conv}):
        seen = moments.observe(network, list(convolutions), images, LOSS, SAMPLES)
    for path, layer in convolutions.items():
        forms = kinds.Conv(layer), kinds.Crossed(layer)
        plain = [np.eye(n) for n in forms[0].shape]
        for name, weights in (("plain", plain), ("felt", seen[path])):
            pairs = [smallest(*forms, *weights, error) for error in ERRORS]
            cells = [f"{ours:,} / {crossed:,}" for ours, crossed in pairs]
            shape = " × ".join(map(str, layer.kernel.shape))
            print(f"| {path} | {shape} | {name} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    epochs = parser.parse_args().epochs
    print("| layer | kernel | norm | 5 % | 10 % | 20 % | 40 % |\n| --- " + "| --- " * 6 + "|")
    print_forms(*of_lenet(epochs))
    print_forms(*of_resnet(2 * epochs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
