"""The network, 784-1024×5-10: build, train, fine-tune, evaluate.

A network gives logits (n, 10) of images (n, 784); data are helpers.data.Data.
"""

import functools

import numpy as np

from .backend import keras, tf
from .optimizers import TangentSGD
from .progress import Line

BATCH_SIZE = 256
LEARNING_RATE = 0.2
WEIGHT_DECAY = 0.005
DYNAMIC_DECAY = 0.0005
CROSS_ENTROPY = keras.losses.CategoricalCrossentropy(from_logits=True)
OPTIMIZERS = {
    "SGD": functools.partial(
        keras.optimizers.SGD, momentum=0.9, nesterov=True, global_clipnorm=3.0
    ),
    "TangentSGD": functools.partial(TangentSGD, momentum=0.9, global_clipnorm=3.0),
    "AdamW": keras.optimizers.AdamW,
}


def build(seed, width=1024):
    """The untrained network: five hidden layers of 1024 ReLU units, ten logits.

        h₀ = x,   hᵢ = max(0, hᵢ₋₁ Wᵢ + bᵢ),   logits = h₅ W₆ + b₆

    x (n, 784), W₁ (784, 1024), W₂…W₅ (1024, 1024), W₆ (1024, 10): 5,012,490 parameters. Hidden
    kernels start normal with variance 2 / n_in (He et al., ICCV 2015); dropout stands before
    each hidden layer (Srivastava et al., JMLR 2014).

    Args:
        seed: of initialisation and dropout; sets Python's, NumPy's and TensorFlow's seeds.
        width: units of each hidden layer.

    Returns:
        keras.Sequential, layers hidden_1 … hidden_5 and output, not compiled.
    """
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((784,))]
    for i in range(1, 6):
        layers.append(keras.layers.Dropout(0.1))
        layers.append(
            keras.layers.Dense(
                width,
                activation="relu",
                kernel_initializer=keras.initializers.RandomNormal(
                    stddev=initial_std(784 if i == 1 else width)
                ),
                name=f"hidden_{i}",
            )
        )
    return keras.Sequential([*layers, keras.layers.Dense(10, name="output")], name="baseline")


def width_for(parameters):
    """The largest width at which `build` has no more parameters, 4 h² + 799 h + 10.

    >>> width_for(215_370), build(seed=0, width=152).count_params()
    (152, 213874)
    """
    return max(1, int((np.sqrt(799**2 + 16 * (parameters - 10)) - 799) / 8))


def initial_std(n_in):
    """Standard deviation of a hidden kernel's entries before training, √(2 / n_in)."""
    return (2 / n_in) ** 0.5


def train(
    network,
    data,
    epochs,
    seed,
    *,
    targets=None,
    optimizer="SGD",
    learning_rate=LEARNING_RATE,
    weight_decay=WEIGHT_DECAY,
    callbacks=(),
):
    """Train in place, the learning rate falling to 0 along a cosine.

    SGD, with Nesterov's momentum 0.9, follows the gradient, which lies in the span of the layer's
    inputs; AdamW gives each entry of the kernel a step of similar size, however small its gradient.
    SGD's gradients longer than 3 are cut to 3, without which training on images of a larger mean
    diverges (Pascanu, Mikolov and Bengio, ICML 2013). By either, each step shrinks the kernels by
    the factor 1 − learning rate · weight decay, whatever the gradient (decoupled weight decay,
    Loshchilov and Hutter, ICLR 2019); biases do not decay. The loss is the cross-entropy to the
    smoothed labels (`smoothed`), or to the targets as they are.

    Args:
        data: its validation accuracy is recorded after each epoch.
        epochs: passes over the training part.
        seed: of the order of the batches.
        targets: (n, 10), probabilities to learn in place of the training labels.
        optimizer: a key of OPTIMIZERS.
        learning_rate: of the first step.
        weight_decay: per step, in units of the learning rate.
        callbacks: keras.callbacks.Callback instances, besides the line of progress.

    Returns:
        {"loss", "accuracy", "val_loss", "val_accuracy"}, each a list of one float an epoch.
    """
    _compile(network, optimizer, learning_rate, weight_decay, steps(data, epochs))
    return _fit(network, data, epochs, seed, targets, callbacks)


def fine_tune(network, data, epochs, seed, *, targets=None, learning_rate=2e-3, callbacks=()):
    """Train a copy of a network of low rank, by the recipe that suits it.

    AdamW, as the pace of SGD would depend on how a product is shared between its factors; light
    weight decay, 0.1, as there is no noise left to shrink; no dropout, as a low rank hinders the
    network enough. The arguments are those of `train`; the network itself does not change.

    Returns:
        the trained copy, and its history as from `train`.
    """
    tuned = without_dropout(network)
    # Starts of one architecture share one compiled network: tracing takes longer than an epoch.
    compiled = _compiled(tuned.to_json(), learning_rate, 0.1, steps(data, epochs))
    for variable in compiled.optimizer.variables:
        variable.assign(tf.zeros_like(variable))
    compiled.set_weights(tuned.get_weights())
    history = _fit(compiled, data, epochs, seed, targets, callbacks)
    tuned.set_weights(compiled.get_weights())
    return tuned, history


def train_dynamic(network, data, epochs, seed, *, callbacks=()):
    """Train a copy of a network with dynamic layers, by the recipe that suits it.

    TangentSGD, whose steps stay in the space that the gradient is projected to; little weight
    decay, as it would shrink what is dropped for good; no dropout, as a low rank hinders the
    network enough. The rate, `dynamic_rate`, and the decay were chosen on validation data.
    Arguments, and what it returns, are as for `fine_tune`.
    """
    trained = without_dropout(network)
    rate = dynamic_rate(steps(data, epochs))
    options = {"learning_rate": rate, "weight_decay": DYNAMIC_DECAY, "callbacks": callbacks}
    return trained, train(trained, data, epochs, seed, optimizer="TangentSGD", **options)


def dynamic_rate(steps):
    """The first learning rate of `train_dynamic`: 0.3, and less where steps are few.

        0.3 min(1, steps / 2000)^⅕

    A high rate undoes what a trained network knows, and wins it back with time.
    """
    return 0.3 * min(1, steps / 2000) ** (1 / 5)


@functools.lru_cache(maxsize=4)
def _compiled(architecture, learning_rate, weight_decay, steps):
    network = keras.models.model_from_json(architecture)
    _compile(network, "AdamW", learning_rate, weight_decay, steps)
    return network


def _compile(network, optimizer, learning_rate, weight_decay, steps):
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = OPTIMIZERS[optimizer](schedule, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    network.compile(optimizer, CROSS_ENTROPY, metrics=["accuracy"])
    # What `fit` would else make on its first step, and trace the step a second time for.
    optimizer.build(network.trainable_variables)
    network.compute_metrics(None, tf.zeros((1, 10)), tf.zeros((1, 10)))


def _fit(network, data, epochs, seed, targets, callbacks):
    keras.utils.set_random_seed(seed)  # with it the order of the batches is that of their seed
    targets = smoothed(data.y_train) if targets is None else targets
    history = network.fit(
        batches(data.x_train, targets, seed),
        epochs=epochs,
        verbose=0,
        shuffle=False,  # the data set shuffles itself
        callbacks=[Validation(data), *callbacks, Progress()],
    )
    return {name: [float(value) for value in curve] for name, curve in history.history.items()}


def smoothed(labels):
    """Labels as probabilities (n, 10): 0.91 for the class, 0.01 for each other.

    Source: label smoothing by 0.1, Szegedy et al., CVPR 2016.
    """
    return 0.9 * tf.one_hot(labels, 10) + 0.01


def without_dropout(network):
    """A copy of a built Keras model whose dropout layers drop nothing, for training at low rank."""

    def clone(layer):
        rate = {"rate": 0.0} if isinstance(layer, keras.layers.Dropout) else {}
        return type(layer).from_config(layer.get_config() | rate)

    copy = keras.models.clone_model(network, clone_function=clone, recursive=True)
    copy.set_weights(network.get_weights())
    return copy


def steps(data, epochs):
    """Steps of `train`: batches in so many passes over the training part."""
    return epochs * -(-len(data.x_train) // BATCH_SIZE)


def batches(x, y, seed):
    """A tf.data.Dataset of batches (x, y) as training sees them.

    They come in a new order each epoch, each image moved anew by at most a pixel (`shift`), which
    stands for more images (Simard, Steinkraus and Platt, ICDAR 2003).
    """
    # Autotuning looks for work in naps that double from 10 ms, and an epoch ends with a nap: it
    # would round 13 seconds up to 20.
    options = tf.data.Options()
    options.autotune.enabled = False
    indices, x, y = tf.data.Dataset.range(len(x)), tf.constant(x), tf.constant(y)
    order = indices.shuffle(len(x), seed=seed).batch(BATCH_SIZE)
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
    moved = tf.data.Dataset.zip(order, seeds).map(
        lambda i, seed: (shift(tf.gather(x, i), seed), tf.gather(y, i))
    )
    return moved.with_options(options).prefetch(1)


def shift(images, seed):
    """Each image (n, 784) moved to one of nine places, −1 to 1 pixel in each direction, at random.

    The border is filled with 0; the same seed, two integers, moves the same. It does what
    keras.layers.RandomTranslation would, which takes twenty times as long, about as long as the
    training step itself.
    """
    places = tf.random.stateless_uniform(tf.shape(images)[:1], seed, 0, 9, tf.int32)
    framed = tf.pad(tf.reshape(images, (-1, 28, 28)), [[0, 0], [1, 1], [1, 1]])
    rows = tf.gather(framed, places[:, None] // 3 + tf.range(28), batch_dims=1)
    moved = tf.stack([rows[:, :, j : j + 28] for j in range(3)], axis=1)
    return tf.reshape(tf.gather(moved, places % 3, batch_dims=1), (-1, 784))


def logits(network, x):
    """The network's outputs for x, (n, 10), without dropout."""
    # Called directly: `predict` would compile anew for each of many networks.
    return np.concatenate(
        [network(x[i : i + 1000], training=False) for i in range(0, len(x), 1000)]
    )


def accuracy(network, x, y):
    """The share of images whose largest logit is that of their label, 0 to 1."""
    return float(np.mean(logits(network, x).argmax(axis=1) == y))


class Validation(keras.callbacks.Callback):
    """Adds loss and accuracy on the validation part to what an epoch reports.

    Keras' own validation compiles a second function, and on few digits takes as long as a third of
    the epoch.
    """

    def __init__(self, data):
        super().__init__()
        self.x, self.y, self.targets = data.x_val, data.y_val, smoothed(data.y_val)

    def on_epoch_end(self, epoch, logs=None):
        found = logits(self.model, self.x)
        logs["val_loss"] = float(CROSS_ENTROPY(self.targets, found))
        logs["val_accuracy"] = float(np.mean(found.argmax(axis=1) == self.y))


class Progress(keras.callbacks.Callback):
    """One line that follows the training, rewritten after each epoch."""

    def on_train_begin(self, logs=None):
        self.line = Line()
        self.line.say("training …")

    def on_epoch_end(self, epoch, logs=None):
        self.line.say(
            f"epoch {epoch + 1} of {self.params['epochs']}: loss {logs['loss']:.3f}, "
            f"validation accuracy {logs['val_accuracy']:.2%}"
        )
