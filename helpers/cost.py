"""What a network costs: parameters to store, multiply-adds to run.

A dense kernel W (n_in, n_out) holds n_in · n_out numbers. One multiply-add per number and image
is what its product with an input costs, so both are counted by the same functions.
"""


def svd_parameters(shape, D):
    """Numbers in U (n_in, D), s (D,) and Vt (D, n_out) as textbooks count: D · (n_in + n_out + 1).

    >>> svd_parameters((784, 1024), D=20)
    36180
    """
    n_in, n_out = shape
    return D * (n_in + n_out + 1)


def factorized_parameters(shape, D):
    """Numbers in the two factors, s multiplied into one of them: D · (n_in + n_out).

    >>> factorized_parameters((784, 1024), D=20)
    36160
    """
    n_in, n_out = shape
    return D * (n_in + n_out)


def break_even_rank(shape):
    """The largest D at which two factors save numbers: D · (n_in + n_out) < n_in · n_out.

    >>> break_even_rank((784, 1024))
    444
    """
    n_in, n_out = shape
    return (n_in * n_out - 1) // (n_in + n_out)


def kept_parameters(model, ranks):
    """Parameters of `model` when each named layer is stored at its rank, in its smaller form.

    A layer beyond its break-even rank stays dense; biases and all other layers count whole.

    Args:
        model: a built Keras model.
        ranks: {layer name: D}.

    Returns:
        int, numbers to store.
    """
    total = model.count_params()
    for name, D in ranks.items():
        shape = model.get_layer(name).kernel.shape
        dense = shape[0] * shape[1]
        total -= dense - min(dense, factorized_parameters(shape, D))
    return total
