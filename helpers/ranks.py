"""How many singular values does each layer get?"""

from . import svd

# Chosen on validation data of the 784-1024×5-10 network: three seeds, and one where it is trained.
DISCOUNT, TRAINED = 0.7, 0.35


def shared_ranks(svds, D, trained=False):
    """A rank for each layer: the parameters of D in every one, spent where the loss feels it most.

        maximise  Σ_l wˡ Σ_{i ≤ D_l} s²_{l,i}   while   Σ_l (n_in + n_out)_l (D_l − D) ≤ 0

    The s² of SVDs weighted on both sides (`helpers.compress.observe` with a loss) are in units of
    the loss, the same for every layer, l = 0, 1, …. So each layer keeps its first singular value,
    and the others are bought in the order of wˡ s² per parameter, until the next one does not fit.
    w = 0.7: an error in an early layer passes through all later ones, so it counts more than its
    s². A network that is trained after the cut makes more of its early layers, and mends the late
    ones: then w = 0.35, and each layer keeps at least D / 2 values, rounded up.

    Args:
        svds: {layer name: helpers.svd.SVD}, in the order of the layers.
        D: singular values kept per layer if all kept the same.
        trained: are the ranks for a network that is trained after the cut?

    Returns:
        {layer name: rank}, in the order of svds.

    Raises:
        ValueError: D is not a whole number of at least 1.

    >>> import numpy as np
    >>> shared_ranks({"a": svd.decompose(np.eye(9)), "b": svd.decompose(np.ones((9, 9)))}, D=3)
    {'a': 5, 'b': 1}
    """
    D = svd.check_rank(D)
    discount, least = (TRAINED, (D + 1) // 2) if trained else (DISCOUNT, 1)
    prices = {name: len(U) + Vt.shape[1] for name, (U, _, Vt) in svds.items()}
    ranks = {name: min(least, len(factors.s)) for name, factors in svds.items()}
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
    return ranks
