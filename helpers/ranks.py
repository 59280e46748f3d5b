"""How many singular values does each layer get?"""

import numbers

import numpy as np

from . import svd

# Chosen on validation data of the 784-1024×5-10 network: three seeds, and one where it is trained.
DISCOUNT, TRAINED = 0.7, 0.35


def shared_ranks(svds, D, trained=False):
    """A rank for each layer: the parameters of D in every one, spent where the loss feels it most.

        maximise  Σ_l γˡ Σ_{i ≤ D_l} s²_{l,i}   while   Σ_l (n_in + n_out)_l (D_l − D) ≤ 0

    The s² of SVDs weighted on both sides (`helpers.compress.decompose` with a loss) are in units
    of the loss, the same for every layer, l = 0, 1, …. So each layer keeps its first singular
    value, and of all others those are taken whose γˡ s² is the largest per parameter, until one
    finds no room. The discount γ = 0.7 says that an early error is worse than its s²: all layers
    that follow work with it. A network that is trained after the cut makes more of its early
    layers, and mends the late ones: γ = 0.35, and each layer keeps D / 2 values, rounded up.

    Args:
        svds: {layer name: helpers.svd.SVD}, in the order of the layers.
        D: singular values kept per layer if all kept the same.
        trained: are the ranks for a network that is trained after the cut?

    Returns:
        list of int, one rank a layer, in the order of svds.

    Raises:
        ValueError: D is not a whole number of at least 1.

    >>> shared_ranks({"a": svd.decompose(np.eye(9)), "b": svd.decompose(np.ones((9, 9)))}, D=3)
    [5, 1]
    """
    D = svd.check_rank(D)
    discount, least = (TRAINED, (D + 1) // 2) if trained else (DISCOUNT, 1)
    prices, ranks = _prices(svds), {name: min(least, len(f.s)) for name, f in svds.items()}
    left = sum(price * (D - ranks[name]) for name, price in prices.items())
    offers = [
        (discount**layer * s**2 / prices[name], name)
        for layer, (name, factors) in enumerate(svds.items())
        for s in factors.s[ranks[name] :]
    ]
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
