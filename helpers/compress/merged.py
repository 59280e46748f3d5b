"""Which two layers are the factors of one matrix, and how do they become one layer again?"""

from . import graph, kinds
from .flow import flow


def merge(model):
    """A copy of the model in which pairs from `factorize` are one layer again, W = U Vt.

    X_U and X_Vt become X. The copy gives the same outputs, whether the pairs were trained since or
    not, and can be cut again: the result is as if it had been cut only once.

    Raises:
        ValueError: the model cannot be copied.
    """
    return _merged(model, _pairs(model))


def whole(model):
    """The model, merged if any of its layers was factorized."""
    pairs = _pairs(model)
    return _merged(model, pairs) if pairs else model


def _merged(model, pairs):
    layers, chains = graph.leaves(model), {}
    for first, second in pairs:
        chains[first] = []
        chains[second] = [kinds.of(layers[first]).merged(kinds.of(layers[second]))]
    return graph.copy(model, chains)


def _pairs(model):
    """[(path of U, path of Vt)] of the layers that were factorized."""
    layers, calls, found = graph.compressible(model), flow(model), []
    for first in layers:
        second = f"{first.removesuffix('_U')}_Vt"
        if not first.endswith("_U") or second not in layers:
            continue
        ends = {other for call in calls.calls(first) for other, _ in calls.after(call)}
        fed = [calls.fed_by[call][0] for call in calls.calls(second)]  # then come masks, states
        starts = {call and call[0] for call in fed}
        alone = ends == {second} and starts == {first} and first not in dict(calls.outputs)
        if alone and _is_linear(layers[first]):
            found.append((first, second))
    return found


def _is_linear(layer):
    activation = getattr(layer, "activation", None)
    return not kinds.of(layer).bias and getattr(activation, "__name__", "linear") == "linear"
