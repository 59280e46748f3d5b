"""What happens to dynamic layers between epochs: fresh SVDs, and ranks that shrink."""

import numbers

import numpy as np
from scipy.optimize import isotonic_regression

from . import compress, model, svd
from .backend import keras
from .compress import moments


class Refresh(keras.callbacks.Callback):
    """Sets the factors of every dynamic layer to a fresh SVD, before training and after each epoch.

    Args:
        values: how many leading singular values to record of each layer; all by default.
        validation: (x, y), to measure the accuracy on with the fresh factors.

    Attributes:
        spectra: {layer name: list of singular values (values,), before training and after each
            epoch}.
        accuracies: list of float, likewise; empty without validation.
    """

    def __init__(self, values=None, validation=None):
        super().__init__()
        self.values, self.validation = values, validation

    def on_train_begin(self, logs=None):
        self.layers = compress.dynamic_layers(self.model)
        self.spectra, self.accuracies = {name: [] for name in self.layers}, []
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch, logs=None):
        for name, layer in self.layers.items():
            # One SVD for both: of a large layer it takes as long as some training steps.
            fresh = layer.fresh_svd(self.values and max(self.values, layer.D))
            layer.refresh(fresh)
            self.spectra[name].append(fresh.s[: self.values])
        if self.validation:
            self.accuracies.append(model.accuracy(self.model, *self.validation))


class Shrink(keras.callbacks.Callback):
    """Sets the ranks of all dynamic layers before training, and after epochs until they are final.

    After epoch e of E the budget is the parameters of rank D_e in every layer,

        D_e = D (D₀ / D)^(1 − t)^1.5,   t = min(1, e / (share · E)),

    D₀ the mean rank that the layers are built for, or D if that is more. `shared_ranks` spends it
    by `worth`. W keeps what a layer drops, so that a rank can rise again, up to the layer's D.
    Training ends with a fresh SVD. Where D is the largest rank built, ranks stay as built; a
    network without dynamic layers has none.

    Args:
        D: singular values kept per layer at the end, if all kept the same.
        inputs, loss, samples: to measure `worth` by, as for `helpers.compress.observe`.
        share: of the epochs after which the ranks are final, 0 to 1.

    Attributes:
        ranks: [{layer name: rank}, …], before training and after each epoch.

    Raises:
        ValueError: D or share is not allowed, or D is above the largest rank built.
    """

    def __init__(self, D, inputs, loss, samples=2000, share=0.4):
        super().__init__()
        if not (isinstance(share, numbers.Real) and 0 <= share <= 1):
            raise ValueError(f"share must be from 0 to 1, not {share!r}.")
        self.D, self.share = svd.check_rank(D), share
        self.measured_by = inputs, loss, samples

    def on_train_begin(self, logs=None):
        self.layers = compress.dynamic_layers(self.model)
        built = {name: layer.D for name, layer in self.layers.items()}
        largest = max(built.values(), default=self.D)
        if self.D > largest:
            raise ValueError(f"D must be at most {largest}, the layers' largest rank as built.")
        self.ranks = []
        if self.D < largest:
            self.start = max(self.D, np.mean([*built.values()]))
            self.ends = self.share * self.params["epochs"]
            self._shrink(0)
        else:
            self.ends = 0
            self._set(built)

    def on_epoch_end(self, epoch, logs=None):
        if epoch < self.ends:
            self._shrink(epoch + 1)
        else:
            self.ranks.append(self.ranks[-1])

    def on_train_end(self, logs=None):
        for layer in self.layers.values():
            layer.refresh()

    def _shrink(self, epoch):
        left = max(0, 1 - epoch / self.ends) if self.ends else 0
        budget = round(self.D * (self.start / self.D) ** left**1.5)
        self._set(compress.shared_ranks(self.worth(), budget))

    def _set(self, ranks):
        for name, rank in ranks.items():
            self.layers[name].set_rank(rank)
        self.ranks.append(ranks)

    def worth(self):
        """What the loss would feel if each singular value went, {layer name: SVD}, by s².

        See `weigh`; C and Γ are those of the network as it is now, at its ranks of now.
        """
        seen = moments.measure(self.model, [*self.layers], *self.measured_by)
        return {n: weigh(layer.track(steps=2), *seen[n][:2]) for n, layer in self.layers.items()}


def weigh(factors, C, Gamma):
    """The SVD whose s² say what the loss would feel if each of these singular values went.

        worthᵢ = σᵢ² (uᵢᵀ C uᵢ) (vᵢᵀ Γ vᵢ)

    is twice the second-order change of the loss, ½ tr(Γ ΔWᵀ C ΔW), for ΔW = −σᵢ uᵢ vᵢᵀ: what the
    two-sided SVD measures, in the layer's own singular directions. Values are dropped from the end
    alone: where a later one is worth more than an earlier one, both get their mean.

    Args:
        factors: helpers.svd.SVD, of rank D; the vectors stay the same.
        C, Gamma: of the layer, as in helpers.compress.moments.Moments.

    Source of the means: isotonic regression, Barlow et al., Statistical Inference under Order
    Restrictions, 1972.
    """
    U, s, Vt = factors
    rows = isinstance(C, svd.Rows)
    seen = np.mean((C.x @ U) ** 2, axis=0) if rows else np.sum(U * (C @ U), axis=0)
    felt = s**2 * seen * np.sum(Vt * (Vt @ Gamma), axis=1)
    return svd.SVD(U, np.sqrt(isotonic_regression(felt, increasing=False).x), Vt)
