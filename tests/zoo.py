"""Models that are not ours: a LeNet, a ResNet of nested blocks, a text classifier, attention."""

import os

import numpy as np
import pytest

from helpers.backend import keras

L = keras.layers
sixteen_bits = pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ, reason="TensorFlow crashes in 16 bits under this limit"
)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def lenet(data_format="channels_last"):
    shape = (28, 28, 1) if data_format == "channels_last" else (1, 28, 28)
    options = {"activation": "relu", "data_format": data_format}
    return keras.Sequential(
        [
            keras.Input(shape),
            L.Conv2D(6, 5, name="conv_1", **options),
            L.MaxPooling2D(data_format=data_format),
            L.Conv2D(8, 5, name="conv_2", **options),
            L.MaxPooling2D(data_format=data_format),
            L.Flatten(),
            L.Dense(30, "relu", name="fc"),
            L.Dense(10, name="out"),
        ],
        name="lenet",
    )


def columns():
    """Of 4 columns 2 are left: two factors of rank 2 take 2 · 6 · (4 + 2) = 2 · 36 a row."""
    start = keras.Input((5, 4, 2))
    x = L.Conv2D(2, 3, name="conv")(start)
    return keras.Model(start, L.Dense(3, name="out")(L.Flatten()(x)))


def block(channels, width, name):
    """Two convolutions around which the input is led."""
    x = keras.Input((14, 14, channels))
    y = L.Conv2D(width, 3, padding="same", use_bias=False, name="conv_1")(x)
    y = L.ReLU()(L.BatchNormalization(name="norm")(y))
    y = L.Conv2D(width, 3, padding="same", name="conv_2")(y)
    around = L.Conv2D(width, 1, name="around")(x)
    return keras.Model(x, L.ReLU()(L.Add()([y, around])), name=name)


def resnet():
    """Blocks in a backbone in a model: two levels deep."""
    image = keras.Input((28, 28, 1), name="image")
    stem = L.Conv2D(6, 3, strides=2, padding="same", name="stem")(image)
    features = block(8, 8, "block_2")(block(6, 8, "block_1")(stem))
    backbone = keras.Model(image, L.GlobalAveragePooling2D()(features), name="backbone")
    head = [L.Dropout(0.1), L.Dense(20, "relu", name="fc"), L.Dense(10, name="out")]
    return keras.Sequential([keras.Input((28, 28, 1)), backbone, *head], name="resnet")


def text():
    tokens = keras.Input((12,), dtype="int32")
    x = L.Embedding(40, 10, mask_zero=True, name="words")(tokens)
    x = L.Dense(9, "tanh", name="tagged")(x)
    x = L.Dense(8, "relu", name="fc")(L.GlobalAveragePooling1D()(x))  # masked
    return keras.Model(tokens, L.Dense(10, name="out")(x), name="text")


def transformer():
    tokens = keras.Input((12,), dtype="int32")
    x = L.Embedding(40, 10, name="words")(tokens)
    y = L.MultiHeadAttention(2, 5, name="attention")(x, x)
    x = L.LayerNormalization(name="norm")(x + y)
    y = L.Dense(10, name="narrow")(L.Dense(24, "gelu", name="wide")(x))
    x = L.GlobalAveragePooling1D()(L.Add()([x, y]))
    return keras.Model(tokens, L.Dense(10, name="out")(x), name="transformer")


MODELS = {"lenet": lenet, "resnet": resnet, "text": text, "transformer": transformer}
BLOCK = ["conv_1", "around", "conv_2"]
NAMES = {
    "lenet": {"conv_1", "conv_2", "fc"},
    "resnet": {"backbone/stem", "fc"}
    | {f"backbone/block_{i}/{name}" for i in (1, 2) for name in BLOCK},
    "text": {"words", "tagged", "fc"},
    "transformer": {"words", "wide", "narrow"},
}


def inputs(model, n=120):
    """Random images with structure, or tokens, of which few are common."""
    rng = np.random.default_rng(0)
    if model.inputs[0].dtype == "int32":
        return np.minimum(rng.geometric(0.1, (n, 12)) - 1, 39).astype("int32")
    shape = tuple(model.inputs[0].shape[1:])
    mixed = rng.normal(size=(n, 20)) @ rng.normal(size=(20, np.prod(shape)))
    return mixed.reshape(n, *shape).astype("float32")


def matches(ours, theirs, tolerance=1e-4):
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))
