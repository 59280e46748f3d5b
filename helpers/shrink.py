"""How do the ranks of dynamic layers shrink while they train?"""

import numbers

import numpy as np

from . import moments, svd
from .layers import Refresh
from .ranks import shared_ranks


class Shrink(Refresh):
    """Sets the ranks of all dynamic layers before training and after each epoch, as Refresh does.

    The budget, of parameters, is that of rank D_e in every layer after epoch e of E,

        D_e = D (D₀ / D)^(1 − t)^1.5,   t = min(1, e / (share · E)),

    D₀ the mean rank that the layers are built for. It is spent by `worth`, as `shared_ranks`
    does. W keeps what a layer drops, so that a rank can rise again, up to the layer's D.

    Args:
        D: singular values kept per layer at the end, if all kept the same.
        inputs, loss, samples: what `worth` is measured by, as for `helpers.moments.observe`.
        share: of the epochs after which the ranks have shrunk to the budget of D, 0 to 1.

    Attributes:
        ranks: [{layer name: rank}, …], before training and after each epoch.

    Raises:
        ValueError: D or share is none of these, or D is above what the layers are built for.
    """

    def __init__(self, D, inputs, loss, samples=2000, share=0.4):
        super().__init__()
        if not (isinstance(share, numbers.Real) and 0 <= share <= 1):
            raise ValueError(f"share must be from 0 to 1, not {share!r}.")
        self.D, self.share = svd.check_rank(D), share
        self.measured_by = inputs, loss, samples

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.ranks = []
        if not self.spectra:
            raise ValueError("the network has no dynamic layers whose ranks could shrink.")
        self.largest = np.mean([self.model.get_layer(name).D for name in self.spectra])
        if self.D > self.largest:
            raise ValueError(f"D must be at most {self.largest:g}, as the layers are built.")
        self._shrink(0)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self._shrink(epoch + 1)

    def _shrink(self, epoch):
        ends = self.share * self.params["epochs"]
        left = max(0, 1 - epoch / ends) if ends else 0
        budget = round(self.D * (self.largest / self.D) ** left**1.5)
        by_worth = self.worth()
        ranks = shared_ranks(by_worth, budget)
        ranks = dict(zip(by_worth, ranks, strict=True))
        for name, rank in ranks.items():
            self.model.get_layer(name).rank.assign(rank)
        self.ranks.append(ranks)

    def worth(self):
        """What the loss would feel of the loss of each singular value, {layer name: SVD}, by s².

        See `weigh`; C and Γ are those of the network as it is now, of its ranks now.
        """
        seen = moments.observe(self.model, list(self.spectra), *self.measured_by)
        return {layer.name: weigh(layer.tracked(), *seen[layer.name]) for layer in self.dynamic()}


def weigh(factors, C, Gamma):
    """The SVD whose s² say what the loss would feel of dropping each of these singular values.

        worthᵢ = min_{j ≤ i} σⱼ² (uⱼᵀ C uⱼ) (vⱼᵀ Γ vⱼ)

    is twice the second-order change of the loss, ½ tr(Γ ΔWᵀ C ΔW), for ΔW = −σᵢ uᵢ vᵢᵀ: what the
    two-sided SVD measures, in the layer's own singular directions. The minimum makes it fall.

    Args:
        factors: helpers.svd.SVD, of rank D.
        C: array (n_in, n_in), E[xᵀx] over the layer's inputs.
        Gamma: array (n_out, n_out), E[gᵀg] over the loss's gradients in its outputs.

    Returns:
        helpers.svd.SVD, of the same vectors.
    """
    U, s, Vt = factors
    felt = s**2 * np.sum(U * (C @ U), axis=0) * np.sum(Vt * (Vt @ Gamma), axis=1)
    return svd.SVD(U, np.sqrt(np.minimum.accumulate(felt)), Vt)
