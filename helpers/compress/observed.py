"""What the layers of a model see, measured once, to cut many networks by."""

import functools

import numpy as np

from .. import columns, svd
from . import cut, feed, goal, graph, kinds, merged, moments, neurons, watch
from .share import Part


def observe(model, inputs, loss=None, layers=None, samples=moments.SAMPLES, loss_weights=None):
    """See what inputs make of a model's layers, in one pass, to cut it by.

    No labels are needed: those of the loss are drawn from the model's own answers.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        inputs: of the model, as for `model.fit`: an array, a list or a dict of arrays, or a
            dataset or generator of batches, with labels or without.
        loss: a cross-entropy or the mean squared error, as Keras has them, or its name; for several
            outputs a list, or a dict by their names, of which some may be None. What it feels of
            each layer's outputs weighs the layers' errors; without a loss all weigh alike.
        layers: names of layers; `hidden_layers` by default.
        samples: how many of the inputs are used: evenly spread, or the first of a dataset.
        loss_weights: of several losses, as `model.compile` takes them.

    Raises:
        ValueError: a layer cannot be compressed, inputs do not fit the model or are too few, the
            loss is not one that labels can be drawn for, or does not fit the outputs.

    >>> from helpers.backend import keras
    >>> layers = [keras.layers.Dense(50, "relu", name="hidden"), keras.layers.Dense(3)]
    >>> model = keras.Sequential([keras.Input((40,)), *layers])
    >>> seen = observe(model, keras.random.normal((500, 40), seed=0), "mse")
    >>> seen.cut(parameters=1000).network.count_params() <= 1000
    True
    """
    whole = merged.whole(model)
    chosen = cut.chosen(whole, layers)
    links, stay = neurons.links(whole, chosen)
    fed = [link.consumer for link in links.values()]
    every = cut.chosen(whole, [n for n in graph.compressible(whole) if n in {*chosen, *fed}])
    inputs = feed.chosen(model, inputs, samples)
    seen = moments.measure(whole, list(every), inputs, loss, samples, loss_weights)
    for name, link in [*links.items()]:
        if isinstance(C := seen[link.consumer].C, svd.Rows):
            too_few = f"{link.consumer} sees {len(C.x)} rows, too few for its inputs"
            stay[name] = f"its neurons stay: {too_few}"
            del links[name]
    return Observed(model, whole, [*chosen], every, links, stay, inputs, seen)


class Observed:
    """A model, its layers to cut, and what they have seen: from `observe`.

    Attributes:
        model: as it was given.
        whole: the model, merged if it was factorized before; it is cut anew.
        svds: {layer name: helpers.svd.SVD}, weighted by the C = E[xᵀx] of the layer's inputs and
            by the Γ that the loss feels (`helpers.compress.moments`). With a loss, ½ Σ s² over
            what is dropped is the predicted rise of the loss. `helpers.compress.truncate` and
            `factorize` take them to cut all layers at once.
        neurons: {layer name: helpers.columns.Chosen} of the layers whose neurons can go, in the
            order in which they are kept; half a gain is a predicted rise of the loss, too.
        stay: {layer name: why its neurons cannot go}.
    """

    def __init__(self, model, whole, names, views, links, stay, inputs, seen):
        self.model, self.whole, self.stay = model, whole, stay
        self._names, self._views, self._links = names, views, links
        self._inputs, self._seen = inputs, seen

    @functools.cached_property
    def svds(self):
        matrices = {name: self._views[name].matrix() for name in self._names}
        return {n: svd.decompose(W, *self._seen[n][:2]) for n, W in matrices.items()}

    @functools.cached_property
    def neurons(self):
        return {name: self._choose(link) for name, link in self._links.items()}

    @functools.cached_property
    def _uncut(self):
        return watch.watched(self.whole, self._views)

    def _choose(self, link):
        """A layer's neurons, by what the layer that they feed makes of them."""
        view, (C, Gamma, mean, _) = self._views[link.consumer], self._seen[link.consumer]
        A = C - np.outer(mean, mean) if view.centred else C  # a bias takes up a mean
        B, R = A @ view.matrix(), svd.root("Gamma", Gamma, view.shape[1])
        blocks = link.columns(len(A))
        order = blocks.ravel()
        B = B if R is None else B @ R
        return columns.choose(A[np.ix_(order, order)], B[order], blocks.shape[1])

    def parts(self, neurons=True, ranks=True, adds=None):
        """{layer name: Part}, priced in parameters, or by the Counts of multiply-adds."""
        sources = {link.consumer: name for name, link in self._links.items()} if neurons else {}
        found, layers = {}, graph.leaves(self.whole)
        for name, view in self._views.items():
            n_in, n_out = view.shape
            values = gains = np.empty(0)
            prices = 1.0, (1.0, 1.0), 0.0
            if ranks and name in self._names:
                values = self.svds[name].s ** 2 / 2
            if neurons and name in self._links:
                link, gains = self._links[name], self.neurons[name].gains / 2
                gains = np.pad(gains, (0, link.count - len(gains)))
                vectors = [len(e) * len(layers[p].weights) for p, e in link.vectors.items()]
                prices = 1.0, (1.0, 1.0), len(view.bias) + sum(vectors) / link.count
            if adds is not None:
                count = adds[name]
                prices = count.whole / (n_in * n_out), (count.first, count.second), 0.0
            found[name] = Part(n_in, n_out, sources.get(name), values, gains, *prices)
        return found

    def rise(self, name, width, rank):
        """The predicted rise of the loss by a layer's width, and its rank, None if whole."""
        dropped = self.svds[name].s[rank:] ** 2 if name in self.svds and rank else np.empty(0)
        gains = self.neurons[name].gains[width:] if name in self.neurons else np.empty(0)
        return float(dropped.sum() + gains.sum()) / 2

    def layer_by_layer(self, D):
        """The factorized network whose layers are cut in turn, each for what it gets by then.

        See `network`.

        Args:
            D: singular values kept, in every layer or as {layer name: D}; layers it does not name
                stay as they are.

        Raises:
            ValueError: D is not a valid rank, or names a layer that was not observed.
        """
        ranks = D if isinstance(D, dict) else dict.fromkeys(self._names, D)
        ranks = {name: svd.check_rank(rank) for name, rank in ranks.items()}
        if unknown := [name for name in ranks if name not in self._names]:
            raise ValueError(f"{unknown} were not observed; these were: {self._names}.")
        return self.network({}, ranks)

    def kept(self, widths):
        """{layer name: numbers of its neurons that stay} of {layer name: width}."""
        found = {}
        for name, width in widths.items():
            order = self.neurons[name].order
            rest = np.setdiff1d(np.arange(self._links[name].count), order)  # nobody needs these
            found[name] = np.sort([*order, *rest][:width])
        return found

    def network(self, kept, ranks):
        """The network of these neurons and ranks, cut layer by layer, compiled as the model is.

        The kernel of a layer that is cut, or whose inputs are, becomes the reduced-rank regression
        of its former outputs on the inputs that it gets by then (`helpers.svd.regress`), measured
        by Γ; its bias makes up for the rest in the mean.

        Args:
            kept: {layer name: numbers of the neurons that stay, ascending}.
            ranks: {layer name: D} of the layers that become two.
        """
        small = neurons.narrow(self.whole, self._links, kept)
        layers = graph.leaves(small)
        fed = {self._links[name].consumer for name in kept}
        views = {n: view for n, view in self._views.items() if n in {*ranks, *kept, *fed}}
        new = {n: view.same_form(layers[n]) for n, view in views.items()}
        becoming = watch.watched(small, new)
        self._uncut.kept.clear()  # from the network before
        chains = {}
        for name, view in new.items():
            C, Gamma, _, rows = self._seen[name]
            outputs = self._columns(name, kept)
            Gamma = Gamma if Gamma is None else Gamma[np.ix_(outputs, outputs)]
            W, bias, fit = view.matrix(), view.bias, None
            if not isinstance(view, kinds.Embedding):  # whose tokens no cut before it changes
                fit = moments.regression(self._uncut, becoming, name, self._inputs, rows)
                C, z = fit.C, fit.z[outputs]
                W = svd.regress(C, fit.X[:, outputs], W)
            factors = svd.decompose(W, C, Gamma, ranks[name]) if name in ranks else None
            W = W if factors is None else svd.truncate(factors, ranks[name])
            bias = bias if fit is None else view.moved_bias(z - fit.x @ W)
            graph.put(becoming.parts[name][1].layer, [view.fold(W), *bias])
            chains[name] = view.one(W, bias)
            if factors is not None:
                chains[name] = cut.pair(cut.Cut(view, factors, ranks[name], bias))
        found = graph.copy(small, chains, compiled=False)
        graph.compile_as(self.model, found)
        return found

    def _columns(self, name, kept):
        """The columns of a layer's matrix that its kept neurons give."""
        n_out = self._views[name].shape[1]
        if name not in kept:
            return np.arange(n_out)
        return np.arange(n_out).reshape(-1, self._links[name].count)[:, kept[name]].ravel()

    def cut(
        self,
        *,
        parameters=None,
        fraction=None,
        multiply_adds=None,
        energy=None,
        score=None,
        evaluate=None,
        tune=None,
        neurons=True,
        ranks=True,
        multiple=1,
    ):
        """The network that reaches one goal, neurons and ranks cut, layer by layer.

        A budget is spent where the loss feels it most (`helpers.compress.share`). For a score,
        networks of a few sizes are measured, from small to large, until one reaches it; then a
        bisection looks for the smallest.

        Args:
            parameters: at most so many numbers in the whole model.
            fraction: at most this share of the model's parameters.
            multiply_adds: at most so many for one input, of the layers that can be cut.
            energy: each layer keeps at least this share of what its neurons explain, and of the
                energy of its SVD.
            score: `evaluate` shall give at least this much.
            evaluate: a function from a network to a number, the higher the better, on data that
                are not the test set: the test set would choose the network it is to judge.
            tune: a function from a network to a trained one, which is measured in its place and
                returned.
            neurons: False keeps all neurons.
            ranks: False leaves every matrix whole.
            multiple: widths and ranks are multiples of it, which some hardware likes (8).

        Returns:
            Found: the network, its widths, ranks and score, and whether it meets the goal. If
            nothing meets the goal, the nearest to it.

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
        what = {"neurons": neurons, "ranks": ranks}
        return goal.reach(self, goals, evaluate, tune, what, multiple)
