"""What happens to dynamic layers between epochs: exact SVDs, and ranks that shrink."""

import numbers

import numpy as np
from scipy.optimize import isotonic_regression

from . import moments, svd
from .backend import keras
from .layers import DynamicDense
from .networks import graph
from .ranks import shared_ranks


class Refresh(keras.callbacks.Callback):
    """Renews the factors of every dynamic layer by an exact SVD after each epoch.

    Args:
        values: how many leading singular values to keep of each layer; all by default.

    Attributes:
        spectra: {layer name: list of singular values (values,), before training and after each
            epoch}.
    """

    def __init__(self, values=None):
        super().__init__()
        self.values = values

    def on_train_begin(self, logs=None):
        self.spectra = {name: [] for name in dynamic_layers(self.model)}
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch, logs=None):
        for name, layer in dynamic_layers(self.model).items():
            self.spectra[name].append(layer.refresh(self.values))


class Shrink(keras.callbacks.Callback):
    """Sets the ranks of all dynamic layers before training, and after epochs until they are final.

    The budget, of parameters, is that of rank D_e in every layer after epoch e of E,

        D_e = D (D₀ / D)^(1 − t)^1.5,   t = min(1, e / (share · E)),

    D₀ the mean rank that the layers are built for, or D if that is more. It is spent by `worth`, as
    `shared_ranks` does. W keeps what a layer drops, so that a rank can rise again, up to the
    layer's D. When the budget is that of D, ranks stay; the training ends with an exact SVD.

    Args:
        D: singular values kept per layer at the end, if all kept the same.
        inputs, loss, samples: what `worth` is measured by, as for `helpers.moments.observe`.
        share: of the epochs after which the ranks are final, 0 to 1.

    Attributes:
        ranks: [{layer name: rank}, …], before training and after each epoch.

    Raises:
        ValueError: D or share is not allowed, or D is above all ranks that layers are built for.
    """

    def __init__(self, D, inputs, loss, samples=2000, share=0.4):
        super().__init__()
        if not (isinstance(share, numbers.Real) and 0 <= share <= 1):
            raise ValueError(f"share must be from 0 to 1, not {share!r}.")
        self.D, self.share = svd.check_rank(D), share
        self.measured_by = inputs, loss, samples

    def on_train_begin(self, logs=None):
        self.ranks, self.layers = [], dynamic_layers(self.model)
        if not self.layers:
            raise ValueError("the network has no dynamic layers whose ranks could shrink.")
        built = [layer.D for layer in self.layers.values()]
        if self.D > max(built):
            raise ValueError(f"D must be at most {max(built)}, the layers' largest rank as built.")
        self.start = max(self.D, np.mean(built))
        self.ends = self.share * self.params["epochs"] if self.D < max(built) else 0
        self._shrink(0)

    def on_epoch_end(self, epoch, logs=None):
        if epoch < self.ends:
            self._shrink(epoch + 1)
        else:
            self.ranks.append(self.ranks[-1])

    def on_train_end(self, logs=None):
        for layer in self.layers.values():
            layer.refresh(layer.D)

    def _shrink(self, epoch):
        left = max(0, 1 - epoch / self.ends) if self.ends else 0
        budget = round(self.D * (self.start / self.D) ** left**1.5)
        by_worth = self.worth()
        ranks = dict(zip(by_worth, shared_ranks(by_worth, budget, trained=True), strict=True))
        for name, rank in ranks.items():
            self.layers[name].set_rank(rank)
        self.ranks.append(ranks)

    def worth(self):
        """What the loss would feel if each singular value went, {layer name: SVD}, by s².

        See `weigh`; C and Γ are those of the network as it is now, of its ranks now.
        """
        seen = moments.observe(self.model, list(self.layers), *self.measured_by)
        return {n: weigh(layer.tracked(steps=2), *seen[n]) for n, layer in self.layers.items()}


def dynamic_layers(model):
    """{layer name: helpers.layers.DynamicDense} of a model, nested ones by their path."""
    layers = graph.leaves(model).items()
    return {name: layer for name, layer in layers if isinstance(layer, DynamicDense)}


def weigh(factors, C, Gamma):
    """The SVD whose s² say what the loss would feel of dropping each of these singular values.

        worthᵢ = σᵢ² (uᵢᵀ C uᵢ) (vᵢᵀ Γ vᵢ)

    is twice the second-order change of the loss, ½ tr(Γ ΔWᵀ C ΔW), for ΔW = −σᵢ uᵢ vᵢᵀ: what the
    two-sided SVD measures, in the layer's own singular directions. Where the worth rises from one
    value to the next, which is kept only with all before it, they share their mean.

    Args:
        factors: helpers.svd.SVD, of rank D.
        C: array (n_in, n_in), E[xᵀx] over the layer's inputs.
        Gamma: array (n_out, n_out), E[gᵀg] over the loss's gradients in its outputs.

    Returns:
        helpers.svd.SVD, of the same vectors.

    Source of the means: isotonic regression, Barlow et al., Statistical Inference under Order
    Restrictions, 1972.
    """
    U, s, Vt = factors
    felt = s**2 * np.sum(U * (C @ U), axis=0) * np.sum(Vt * (Vt @ Gamma), axis=1)
    return svd.SVD(U, np.sqrt(isotonic_regression(felt, increasing=False).x), Vt)
