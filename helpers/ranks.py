"""How many singular values does each layer get?"""

import numbers

import numpy as np

from . import svd


def shared_ranks(svds, D, discount=1.0):
    """A rank for each layer: the parameters of D in every one, spent where the loss feels it most.

        maximise  Σ_l γˡ Σ_{i ≤ D_l} s²_{l,i}   while   Σ_l (n_in + n_out)_l (D_l − D) ≤ 0

    The s² of SVDs weighted on both sides (`helpers.compress.decompose` with a loss) are in units
    of the loss, the same for every layer. So each layer keeps its first singular value, and of all
    others those are taken whose s² is the largest per parameter, until one finds no room.

    Args:
        svds: {layer name: helpers.svd.SVD}, in the order of the layers.
        D: singular values kept per layer if all kept the same.
        discount: γ, of a layer's s² to those of the layer before, above 0.

    Returns:
        list of int, one rank a layer, in the order of svds.

    Raises:
        ValueError: D is not a whole number of at least 1, or the discount not above 0.

    >>> shared_ranks({"a": svd.decompose(np.eye(9)), "b": svd.decompose(np.ones((9, 9)))}, D=3)
    [5, 1]
    """
    if not discount > 0:
        raise ValueError(f"the discount must be above 0, not {discount!r}.")
    prices = _prices(svds)
    worth = {
        name: discount**layer * factors.s[1:] ** 2 / prices[name]
        for layer, (name, factors) in enumerate(svds.items())
    }
    return _spend(svds, D, worth)


def tapered_ranks(svds, D, ratio=0.7):
    """Ranks that fall from layer to layer, at no more parameters than rank D in every layer.

        D_l = max(1, ⌊c · ratioˡ⌋),   l = 0, 1, …, for the largest c that can be paid

    For networks to be trained after the cut: the later a layer, the fewer directions it needs,
    once those before it have learned to sort the classes. Of the singular values it asks none.

    Args:
        svds: from `decompose`, {layer name: helpers.svd.SVD}, in the order of the layers.
        D: singular values kept per layer if all kept the same.
        ratio: of a layer's rank to that of the layer before, above 0.

    Returns:
        list of int, one rank a layer, in the order of svds.

    Raises:
        ValueError: D is not a whole number of at least 1, or the ratio not above 0.

    >>> tapered_ranks({name: svd.decompose(np.eye(9)) for name in "abc"}, D=4, ratio=0.6)
    [6, 4, 2]
    """
    if not ratio > 0:
        raise ValueError(f"the ratio must be above 0, not {ratio!r}.")
    # The rank r of layer l is due when c reaches r / ratioˡ: the lower that is, the sooner.
    worth = {
        name: ratio**layer / np.arange(2, len(factors.s) + 1)
        for layer, (name, factors) in enumerate(svds.items())
    }
    return _spend(svds, D, worth)


def _spend(svds, D, worth):
    """Ranks bought with what rank D in every layer costs, the first of each layer, then by worth.

    Args:
        worth: {layer name: of its second, third, … singular value, falling}.
    """
    prices = _prices(svds)
    ranks, left = dict.fromkeys(svds, 1), (svd.check_rank(D) - 1) * sum(prices.values())
    offers = [(value, name) for name, values in worth.items() for value in values]
    for _, name in sorted(offers, reverse=True):
        if prices[name] > left:
            break
        ranks[name] += 1
        left -= prices[name]
    return list(ranks.values())


def _prices(svds):
    """{layer name: parameters of one more singular value}."""
    shapes = {name: (len(U), Vt.shape[1]) for name, (U, _, Vt) in svds.items()}
    return {name: svd.factorized_parameters(shape, D=1) for name, shape in shapes.items()}


def per_layer(names, D):
    """{name: rank} for D an int for all names or a sequence of one int per name.

    >>> per_layer(["a", "b"], D=[20, 10])
    {'a': 20, 'b': 10}
    """
    if isinstance(D, (numbers.Number, str)) or not np.iterable(D):
        D = [D] * len(names)
    if len(D) != len(names):
        raise ValueError(f"D has {len(D)} ranks for {len(names)} layers: {names}.")
    return {name: svd.check_rank(rank) for name, rank in zip(names, D, strict=True)}
