"""Who feeds whom in a network? Every call of every layer, nested models opened."""

from collections import Counter
from graphlib import TopologicalSorter
from typing import NamedTuple

import numpy as np

from ..backend import keras
from . import graph


class Flow(NamedTuple):
    """Calls are (path of the layer, number of the call, from 0); of x + y, (its name, 0)."""

    fed_by: dict  # {call: [calls that feed it, None for an input of the model]}
    outputs: list  # the calls that give the model's outputs

    def calls(self, path):
        """The calls of a layer."""
        return [call for call in self.fed_by if call[0] == path]

    def after(self, call):
        """The calls that a call feeds."""
        return [other for other, fed in self.fed_by.items() if call in fed]

    def back_to(self, calls, known):
        """{known calls, None for inputs} from which these calls follow: on each way, the last."""
        found, seen, todo = set(), set(), {*calls}
        while todo := todo - seen:
            seen |= todo
            found |= {call for call in todo if call is None or call in known}
            todo = {fed for call in todo - found for fed in self.fed_by[call]}
        return found


def flow(model):
    """The Flow of a built model, Sequential or functional, nested to any depth."""
    paths = {id(layer): path for path, layer in graph.leaves(model).items()}
    fed_by, counted = {}, Counter()

    def call(layer, name, fed):
        """A function from the number of an output to the call that gives it."""
        if layer is not None and graph.is_network(layer):
            return through(layer, f"{name}/", fed).__getitem__
        path = paths.get(id(layer), name)
        here = path, counted[path]
        counted[path] += 1
        fed_by[here] = fed
        return lambda output: here

    def through(model, prefix, fed):
        """The calls that give the outputs of a model, whose inputs are fed by these."""
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                fed = [call(layer, prefix + layer.name, fed)(0)]
            return fed
        nodes, inputs, outputs = _nodes(model)
        layers = {layer.name: layer for layer in model.layers}  # no sums and products: x + y
        given = {node[:2]: source for node, source in zip(inputs, fed, strict=True)}
        found = {node: (lambda output, source=source: source) for node, source in given.items()}
        order = {node: {history[:2] for history in fed} for node, fed in nodes.items()}
        for node in TopologicalSorter(order).static_order():
            if node not in found:
                sources = [found[history[:2]](history[2]) for history in nodes[node]]
                found[node] = call(layers.get(node[0]), prefix + node[0], sources)
        return [found[history[:2]](history[2]) for history in outputs]

    outputs = through(model, "", [None] * len(model.inputs))
    return Flow(fed_by, outputs)


def output_layers(model):
    """Paths of the layers that give the model's outputs, at most through layers without weights."""
    layers, calls = graph.leaves(model), flow(model)
    weighing = {call for call in calls.fed_by if call[0] in layers and layers[call[0]].weights}
    return {path for path, _ in calls.back_to(calls.outputs, weighing) - {None}}


def _nodes(model):
    """A functional model's {(layer name, which call): what feeds it}, its inputs and outputs, each
    as (layer name, which call, which of its outputs).
    """
    # A subclass with a constructor of its own has a configuration without a graph.
    config = keras.Model(model.input, model.output).get_config()
    nodes = {
        (layer["name"], i): [*_histories(node)]
        for layer in config["layers"]
        for i, node in enumerate(layer["inbound_nodes"])
    }
    inputs, outputs = (map(tuple, _entries(config[f"{end}_layers"])) for end in ("input", "output"))
    # Keras counts the calls of a nested functional model from 1 here, from 0 everywhere else.
    nested = {layer.name for layer in model.layers if isinstance(layer, graph.FUNCTIONAL)}
    return nodes, [*inputs], [(name, i - (name in nested), output) for name, i, output in outputs]


def _entries(ends):
    """[[layer name, …], …] of a config's inputs or outputs: one entry, or any structure of them."""
    if isinstance(ends, dict):
        ends = [ends[name] for name in sorted(ends)]  # as Keras flattens them
    return [ends] if isinstance(ends[0], str) else [e for end in ends for e in _entries(end)]


def _histories(nodes):
    """(layer name, which call, which of its outputs) of what stands in inbound nodes."""
    if isinstance(nodes, dict):
        if "keras_history" in nodes:
            yield tuple(nodes["keras_history"])
        nodes = [nodes[name] for name in sorted(nodes)]
    if not isinstance(nodes, (str, bytes)) and np.iterable(nodes):
        for node in nodes:
            yield from _histories(node)
