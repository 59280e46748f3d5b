"""What the layers of a model see, measured once, to cut many networks by."""

import functools

from .. import svd
from . import cut, feed, goal, graph, moments, watch


def observe(model, inputs, loss=None, layers=None, samples=moments.SAMPLES):
    """See what inputs make of a model's layers, in one pass, to cut it by.

    No labels are needed: those of the loss are drawn from the model's own answers.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        inputs: of the model, as for `model.predict`: an array, a list or a dict of arrays.
        loss: a cross-entropy or the mean squared error, as Keras has them, or its name: what it
            feels of each layer's outputs weighs the layers' errors; None weighs all alike.
        layers: names of layers; `hidden_layers` by default.
        samples: how many of the inputs are used, evenly spread.

    Returns:
        Observed.

    Raises:
        ValueError: a layer cannot be compressed, inputs do not fit the model or are too few, or
            the loss is not one that labels can be drawn for.

    >>> from helpers.backend import keras
    >>> layers = [keras.layers.Dense(50, "relu", name="hidden"), keras.layers.Dense(3)]
    >>> model = keras.Sequential([keras.Input((40,)), *layers])
    >>> seen = observe(model, keras.random.normal((500, 40), seed=0), "mse")
    >>> seen.cut(parameters=1000).network.count_params() <= 1000
    True
    """
    chosen = cut.chosen(model, layers)
    inputs = feed.chosen(model, inputs, samples)
    return Observed(model, chosen, inputs, moments.measure(model, list(chosen), inputs, loss))


class Observed:
    """A model, its layers to cut, and what they have seen: from `observe`.

    Attributes:
        svds: {layer name: helpers.svd.SVD}, weighted by the C = E[xᵀx] of the layer's inputs and
            by the Γ that the loss feels (`helpers.compress.moments`). With a loss, ½ Σ s² over
            what is dropped is the predicted rise of the loss. `helpers.compress.truncate` and
            `factorize` take them to cut all layers at once.
    """

    def __init__(self, model, chosen, inputs, seen):
        self.model = model
        self._chosen, self._inputs, self._seen = chosen, inputs, seen

    @functools.cached_property
    def svds(self):
        matrices = {name: kind.matrix() for name, kind in self._chosen.items()}
        return {name: svd.decompose(W, *self._seen[name]) for name, W in matrices.items()}

    def layer_by_layer(self, D):
        """The factorized network whose layers are cut in turn, each for what it gets by then.

        A layer's kernel becomes the reduced-rank regression of its former outputs on the inputs
        that the layers cut before it now give (`helpers.svd.regress`), measured by Γ; its bias
        makes up for the rest in the mean.

        Args:
            D: singular values kept, in every layer or as {layer name: D}; layers it does not name
                stay as they are.

        Returns:
            keras.Model, as from `helpers.compress.factorize`.

        Raises:
            ValueError: D is not a valid rank, or names a layer that was not observed.
        """
        ranks = D if isinstance(D, dict) else dict.fromkeys(self._chosen, D)
        ranks = {name: svd.check_rank(rank) for name, rank in ranks.items()}
        if unknown := [name for name in ranks if name not in self._chosen]:
            raise ValueError(f"{unknown} were not observed; these were: {list(self._chosen)}.")
        cuts = self._cuts(ranks)
        return graph.copy(self.model, {name: cut.pair(c) for name, c in cuts.items()})

    def _cuts(self, ranks):
        uncut, becoming = (watch.watched(self.model, ranks) for _ in range(2))
        cuts = {}
        for name in (name for name in graph.leaves(self.model) if name in ranks):
            kind, D, (C, Gamma) = self._chosen[name], ranks[name], self._seen[name]
            if C.ndim == 1:  # of an embedding: no cut before it changes the tokens
                factors, bias = svd.decompose(kind.matrix(), C, Gamma, D), kind.bias
            else:
                fit = moments.regression(uncut, becoming, name, self._inputs)
                factors = svd.regress(fit.C, fit.X, kind.matrix(), Gamma, D)
                bias = kind.moved_bias(fit.z - fit.x @ svd.truncate(factors, D))
            graph.put(becoming.parts[name][1], [kind.fold(svd.truncate(factors, D)), *bias])
            cuts[name] = cut.Cut(kind, factors, D, bias)
        return cuts

    def cut(
        self,
        *,
        parameters=None,
        fraction=None,
        multiply_adds=None,
        energy=None,
        score=None,
        evaluate=None,
        multiple=1,
    ):
        """The network that reaches one goal, cut layer by layer.

        A budget is spent where the loss feels it most, per parameter, as
        `helpers.ranks.shared_ranks` does. A layer whose rank would pass its break-even stays as it
        is. For a score, networks of a few sizes are measured, from small to large, until one
        reaches it; then a bisection looks for the smallest.

        Args:
            parameters: at most so many numbers in the whole model.
            fraction: at most this share of the model's parameters.
            multiply_adds: at most so many for one input.
            energy: each layer keeps at least this share of the energy of its SVD.
            score: `evaluate` shall give at least this much.
            evaluate: a function from a network to a number, the higher the better, on data that
                are not the test set: the test set would choose the network it is to judge.
            multiple: ranks are multiples of it, which some hardware likes (8).

        Returns:
            Found: the network, its ranks and score, and whether it meets the goal. If no ranks
            meet the goal, those nearest to it.

        Raises:
            ValueError: not one goal, or one that no network of the model could have; or the model
                itself misses the score; or `evaluate` returns no finite number.
        """
        goals = {
            "parameters": parameters,
            "fraction": fraction,
            "multiply_adds": multiply_adds,
            "energy": energy,
            "score": score,
        }
        return goal.reach(self, goals, evaluate, multiple)
