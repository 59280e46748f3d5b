"""Which inputs does a network get to see, and in what batches?"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from ..backend import keras, tf
from ..progress import Line
from . import graph

BATCH_SIZE = 1000
NUMBERS = 2**27  # of all that is kept of a batch: what comes in and goes out, and a layer's rows
PASSING = 2**28  # of all outputs of all layers for a batch, while the network runs
QUIET = 5  # seconds before there is a line of progress


def chosen(model, inputs, samples):
    """So many of the inputs: a list of arrays, one for each input of the model.

    Of arrays (one, a list or a dict) some are taken, evenly spread; of a tf.data.Dataset, a
    keras.utils.PyDataset or a generator of batches, alone or with labels, the first. There are
    `samples` at most.

    Raises:
        ValueError: the inputs do not fit the model, or one another.
    """
    if isinstance(inputs, (tf.data.Dataset, keras.utils.PyDataset, Iterator)):
        inputs = _first(inputs, samples)
    takes_dict = not isinstance(model, keras.Sequential) and isinstance(model.input, dict)
    if isinstance(inputs, dict) and not takes_dict:
        names = [tensor.name for tensor in model.inputs]
        if missing := [name for name in names if name not in inputs]:
            raise ValueError(f"the model has inputs {names}, and {missing} are missing.")
        inputs = [inputs[name] for name in names]
    arrays = [np.asarray(array) for array in keras.tree.flatten(inputs)]
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    found = [array.shape[1:] for array in arrays]
    if len(found) != len(shapes) or any(
        len(a) != len(b) or any(n not in (None, m) for n, m in zip(a, b, strict=True))
        for a, b in zip(shapes, found, strict=True)
    ):
        raise ValueError(f"the model takes inputs of shape {shapes}, these are {found}.")
    n, *others = map(len, arrays)
    if any(other != n for other in others):
        raise ValueError(f"all inputs must be equally many, these are {[n, *others]}.")
    every = np.linspace(0, n, min(samples, n), endpoint=False).astype(int)
    return [array[every] for array in arrays]


def _first(dataset, samples):
    """The first inputs of a dataset, arrays in the structure of its batches, without labels."""
    found, n, batches = [], 0, dataset
    if isinstance(dataset, keras.utils.PyDataset):  # it may have no end
        count = dataset.num_batches
        batches = map(dataset.__getitem__, itertools.count() if count is None else range(count))
    for batch in batches:
        x, *_ = keras.utils.unpack_x_y_sample_weight(batch)
        found.append(keras.tree.map_structure(np.asarray, x))
        n += len(keras.tree.flatten(found[-1])[0])
        if n >= samples:
            break
    if not found:
        raise ValueError("the dataset gives no batch.")
    try:
        together = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *found)
    except ValueError as error:
        raise ValueError("the batches are of several lengths: pad them alike.") from error
    return keras.tree.map_structure(lambda array: array[:samples], together)


def batches(arrays, doing, probe):
    """Batches of the arrays, which fit in memory, with a line of progress if they take long.

    Args:
        arrays: from `chosen`, or others of their length behind those that the probe takes.
        doing: what the line of progress says.
        probe: helpers.compress.watch.Watched, all inputs and outputs of whose layers are kept;
            while its model runs, it holds the outputs of all its layers.
    """
    line, n = Line(after=QUIET), len(arrays[0])
    _, xs, _ = probe.run([tf.constant(array[:1]) for array in arrays[: len(probe.model.inputs)]])
    numbers = rows = 0
    for name, (_, view, _) in probe.parts.items():
        for x in xs[name]:
            z = view.layer(x)  # the probe may end before the layer
            numbers += np.size(z) + np.size(x)
            rows = max(rows, view.count(z, x)[1] * view.shape[0])
    outputs = [layer.output for layer in graph.leaves(probe.model).values()]
    shapes = [tensor.shape[1:] for tensor in keras.tree.flatten(outputs)]
    passing = sum(math.prod(size or 1 for size in shape) for shape in shapes)
    size = min(NUMBERS // max(numbers + rows, 1), PASSING // max(passing, 1))
    size = min(max(size, 1), BATCH_SIZE)
    for start in range(0, n, size):
        yield [tf.constant(array[start : start + size]) for array in arrays]
        line.say(f"{doing}: {min(start + size, n):,} of {n:,} inputs")
