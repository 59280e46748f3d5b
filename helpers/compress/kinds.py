"""Which layers multiply by a matrix, and which two layers are its factors? A class per kind.

The next kind is a subclass of Dense that says what differs, and an entry in KINDS. Kinds that
cannot be compressed say why, and count their multiply-adds.
"""

import functools
import math
import string
from typing import ClassVar

import numpy as np

from .. import svd
from ..backend import keras
from ..layers import DynamicDense


class Dense:
    """A layer seen as z = x W + b, with rows x (n, n_in), W (n_in, n_out), and rows z (n, n_out).

    Here for keras.layers.Dense, whose rows lie along the last axis. Chains are lists of
    (new layer, its weights), as `helpers.networks.graph.copy` takes them.

    Args:
        layer: built, of a type in KINDS.
    """

    bare: ClassVar = {"activation": None, "activity_regularizer": None}  # z as it is
    linear: ClassVar = bare | {"use_bias": False}
    width = "units"  # the option that says how many outputs there are
    entries = "kernel"  # what options on W's entries begin with

    def __init__(self, layer):
        self.layer = layer

    @property
    def refusal(self):
        """Why this layer cannot be compressed, "" if it can."""
        if len(self.layer.weights) != 1 + len(self.bias):
            return "quantized or with LoRA: more than a matrix and a bias"
        return ""

    @property
    def kernel(self):
        """The variable that holds W."""
        return self.layer.kernel

    @property
    def bias(self):
        """[b], or [] if there is none."""
        return [] if getattr(self.layer, "bias", None) is None else [self.layer.bias]

    @property
    def shape(self):
        """(n_in, n_out)."""
        shape = self.kernel.shape
        return math.prod(shape[:-1]), shape[-1]

    def matrix(self):
        """W (n_in, n_out)."""
        return np.reshape(self.kernel, self.shape)

    def decompose(self):
        """The SVD of W."""
        return svd.decompose(self.matrix())

    def rows(self, x):
        """The rows (n, n_in) that W multiplies, of inputs x of the layer."""
        return _array(x).reshape(-1, self.shape[0])

    def rows_out(self, z):
        """The rows (n, n_out) of its outputs z."""
        return _array(z).reshape(-1, self.shape[1])

    def second_moment(self, x):
        """Σ xᵀx over the rows, or, if they are unit vectors, its diagonal; and how many there are.

        Returns:
            array (n_in, n_in) or (n_in,), int.
        """
        rows = self.rows(x)
        return rows.T @ rows, len(rows)

    def spread(self, Gamma):
        """Γ (n_out, n_out) of what the loss feels of z."""
        return Gamma

    def moved_bias(self, lost):
        """[b] with what the products x W (n_out,) have lost in the mean, or []."""
        return [np.ravel(b) + lost for b in self.bias]

    def multiply_adds(self, z):
        """Multiply-adds that the outputs z take."""
        return len(self.rows_out(z)) * math.prod(self.shape)

    def pair_multiply_adds(self, z):
        """Multiply-adds that the outputs z take of two factors, for each singular value."""
        return len(self.rows_out(z)) * sum(self.shape)

    def count(self, z, *inputs, **options):
        """Multiply-adds of one call: of the layer, and of two factors for each singular value.

        Args:
            z: what it gave.
            inputs, options: what it was called with.
        """
        return self.multiply_adds(z), 0 if self.refusal else self.pair_multiply_adds(z)

    def like(self, **changes):
        """A layer of Keras' own, not built, configured as this one but for the changes."""
        plain = type(self.layer)
        return plain.from_config(plain.get_config(self.layer) | changes)

    def fold(self, W):
        """W in the shape of the layer's kernel."""
        return np.reshape(W, self.kernel.shape)

    def one(self, W, bias, **changes):
        """The chain of this layer alone, with another matrix."""
        return [(self.like(**changes), [self.fold(W), *bias])]

    def pair(self, U, Vt, bias):
        """The chain of two layers, n_in → D, linear, and D → n_out, which ends as this layer does.

        Args:
            U: (n_in, D).
            Vt: (D, n_out).
            bias: [b] or [].
        """
        first, second = self.factors(U.shape[1])
        return [(first, [U]), (second, [Vt, *bias])]

    def factors(self, D):
        """The two layers of `pair`, not built."""
        first = self.like(**self.named("U"), **{self.width: D}, **self.linear)
        return first, self.like(**self.named("Vt"))

    def named(self, factor):
        """Options of a factor: its name, and nothing of what is said of the whole matrix's entries.

        Initial values would not have its shape, and what constrains W does not constrain factors.
        """
        free = {f"{self.entries}_initializer": "glorot_uniform", f"{self.entries}_constraint": None}
        return free | {"name": f"{self.layer.name}_{factor}"}


class Dynamic(Dense):
    """DynamicDense: what it computes with is the truncated matrix, and comes out as Dense."""

    refusal = ""

    def matrix(self):
        return svd.truncate(self.decompose(), int(self.layer.rank))

    def decompose(self):
        return self.layer.svd()

    def like(self, **changes):
        plain = keras.layers.Dense
        return plain.from_config(plain.get_config(self.layer) | changes)


class Conv(Dense):
    """Convolutions: rows are patches (height · width · channels), one for each output position.

    The factors are a convolution with D filters and a pointwise one, 1 × 1.
    """

    width = "filters"

    @property
    def refusal(self):
        groups = self.layer.groups
        return f"grouped: {groups} matrices, not one" if groups > 1 else super().refusal

    @functools.cached_property
    def patches(self):
        """The layer itself with W = 1: a convolution that gives what this one multiplies."""
        return self.factors(self.shape[0])[0]

    def rows(self, x):
        if not self.patches.built:
            self.patches.build(x.shape)
            self.patches.kernel.assign(np.eye(self.shape[0]).reshape(self.patches.kernel.shape))
        return self._channels_last(self.patches(x)).reshape(-1, self.shape[0])

    def rows_out(self, z):
        return self._channels_last(z).reshape(-1, self.kernel.shape[-1])

    def _channels_last(self, z):
        first = self.layer.data_format == "channels_first"
        return np.moveaxis(_array(z), 1, -1) if first else _array(z)

    def factors(self, D):
        first, _ = super().factors(D)
        pointwise = {"kernel_size": 1, "strides": 1, "padding": "valid", "dilation_rate": 1}
        return first, self.like(**self.named("Vt"), **pointwise)


class Crossed(Conv):
    """Conv2D as products of vertical patches with a matrix, and a sum over the kernel's columns j.

        u = v W,    z[p, q] = Σ_j u[p, q + j, j] + b

    Rows v (height · channels) are vertical patches, W (height · channels, width · filters). The
    factors are a vertical convolution with D filters and a horizontal one: each vertical filter
    serves all columns, while a whole one, (height · width · channels), serves one.

    Source: Tai, Xiao, Zhang, Wang and E, Convolutional neural networks with low-rank
    regularization, ICLR 2016.
    """

    @property
    def shape(self):
        height, width, channels, filters = self.kernel.shape
        return height * channels, width * filters

    def matrix(self):
        return np.swapaxes(self.kernel, 1, 2).reshape(self.shape)

    def fold(self, W):
        height, width, channels, filters = self.kernel.shape
        return np.swapaxes(np.reshape(W, (height, channels, width, filters)), 1, 2)

    @functools.cached_property
    def patches(self):
        return self.factors(self.shape[0])[0]

    def spread(self, Gamma):
        # As if errors of different columns were independent: each is felt as z is.
        return np.kron(np.eye(self.kernel.shape[1]), Gamma)

    def moved_bias(self, lost):
        return super().moved_bias(np.reshape(lost, (-1, self.kernel.shape[-1])).sum(0))

    def count(self, z, inputs, **options):
        out, (rows, columns) = len(self.rows_out(z)), self.shape
        before, behind = (self._channels_last(a).shape[2] for a in (inputs, z))
        each = 0 if self.refusal else out // behind * before * rows + out * columns
        return self.multiply_adds(z), each

    def pair(self, U, Vt, bias):
        (first, _), (second, _) = super().pair(U, Vt, bias)
        Vt = np.reshape(Vt, (len(Vt), -1, self.kernel.shape[-1]))
        return [(first, [U]), (second, [np.swapaxes(Vt, 0, 1), *bias])]

    def factors(self, D):
        names = "kernel_size", "strides", "dilation_rate"
        sides = [getattr(self.layer, name) for name in names]
        vertical = {name: (side[0], 1) for name, side in zip(names, sides, strict=True)}
        horizontal = {name: (1, side[1]) for name, side in zip(names, sides, strict=True)}
        first = self.like(**self.named("U"), filters=D, **vertical, **self.linear)
        return first, self.like(**self.named("Vt"), **horizontal)


def conv2d(layer):
    """Of the two forms of a Conv2D, the one whose singular values take fewer parameters.

    That is Crossed where height · channels > filters; there it needs less than the other at the
    same error in the norm that the loss feels, too (tests/measure_forms.py).
    """
    return min(Conv(layer), Crossed(layer), key=lambda kind: sum(kind.shape))


class Depthwise(Conv):
    """Convolutions of channel by channel: no one matrix, but all weights work at each position."""

    refusal = "depthwise: each channel has a small filter of its own"

    def multiply_adds(self, z):
        positions = math.prod(self._channels_last(z).shape[:-1])
        return positions * _in_kernels(self.layer)


class Separable(Depthwise):
    """The same, and then a pointwise convolution."""

    refusal = "separable: it is factorized already"


class Embedding(Dense):
    """Embedding: rows are unit vectors, one per token, and their product with W is a lookup.

    The factors are an embedding in D dimensions and a Dense layer without bias.
    """

    bare: ClassVar = {"activity_regularizer": None}
    linear = bare
    width = "output_dim"
    entries = "embeddings"

    @property
    def kernel(self):
        return self.layer.embeddings

    def rows(self, x):
        return np.eye(self.shape[0], dtype="float32")[self._tokens(x)]

    def second_moment(self, x):
        counts = np.bincount(self._tokens(x), minlength=self.shape[0])
        if self.layer.mask_zero:
            counts[0] = 0  # padding, which nobody sees
        return counts, max(int(counts.sum()), 1)

    def _tokens(self, x):
        return np.asarray(x).astype(int).ravel()

    def multiply_adds(self, z):
        return 0

    def pair_multiply_adds(self, z):
        return len(self.rows_out(z)) * self.shape[1]

    def factors(self, D):
        first = self.like(**self.named("U"), output_dim=D, **self.linear)
        name, options = f"{self.layer.name}_Vt", {"dtype": self.layer.dtype_policy}
        options |= {"activity_regularizer": self.layer.activity_regularizer, "name": name}
        options["trainable"] = self.layer.trainable
        return first, keras.layers.Dense(self.shape[1], use_bias=False, **options)


class Einsum(Dense):
    """EinsumDense whose equation is a matrix product: each axis of the kernel is summed or put out.

    "abc,cde->abde" has rows along c and, of the outputs, along d and e: W (c, d·e).
    """

    linear: ClassVar = Dense.bare | {"bias_axes": None}

    def __init__(self, layer):
        super().__init__(layer)
        self.x, rest = layer.equation.replace(" ", "").split(",")
        self.w, self.z = rest.split("->")
        self.summed = "".join(a for a in self.x if a in self.w and a not in self.z)
        self.put_out = "".join(a for a in self.z if a in self.w and a not in self.x)

    @property
    def refusal(self):
        summed, put_out = self.summed, self.put_out
        product = summed and put_out and sorted(self.w) == sorted(summed + put_out)
        kept = [[a for a in axes if a not in self.w] for axes in (self.x, self.z)]
        if not product or kept[0] != kept[1] or (self.z[0] != self.x[0]):
            return f"its equation, {self.layer.equation}, is no product with one matrix"
        if self.bias and set(self.layer.bias_axes) != set(put_out):
            return f"its bias, along {self.layer.bias_axes}, is not one number per output"
        return super().refusal

    @property
    def shape(self):
        sizes = dict(zip(self.w, self.kernel.shape, strict=True))
        return tuple(math.prod(sizes[a] for a in axes) for axes in (self.summed, self.put_out))

    def matrix(self):
        kernel = np.einsum(f"{self.w}->{self.summed}{self.put_out}", np.asarray(self.kernel))
        return kernel.reshape(self.shape)

    def fold(self, W):
        sizes = dict(zip(self.w, self.kernel.shape, strict=True))
        axes = self.summed + self.put_out
        return np.einsum(f"{axes}->{self.w}", np.reshape(W, [sizes[a] for a in axes]))

    def rows(self, x):
        return self._last(x, self.x, self.summed).reshape(-1, self.shape[0])

    def rows_out(self, z):
        return self._last(z, self.z, self.put_out).reshape(-1, self.shape[1])

    def multiply_adds(self, z):
        sizes = dict(zip(self.w, self.kernel.shape, strict=True))
        return np.size(z) * math.prod(sizes[a] for a in self.w if a not in self.z)

    def _last(self, x, axes, last):
        kept = "".join(a for a in axes if a not in last)
        return np.einsum(f"{axes}->{kept}{last}", _array(x))

    def factors(self, D):
        r = next(a for a in string.ascii_letters if a not in self.layer.equation)
        between = self.z.replace(self.put_out[0], r)
        between = "".join(a for a in between if a not in self.put_out)
        # Sizes are given without the batch, and without axes that dots stand for.
        named = [a for a in self.z if a != "."][not self.z.startswith(".") :]
        sizes = dict(zip(named, _listed(self.layer.partial_output_shape), strict=True)) | {r: D}
        between_shape = [sizes[a] for a in between if a in sizes]
        first = self.like(
            **self.named("U"),
            equation=f"{self.x},{self.summed}{r}->{between}",
            output_shape=between_shape,
            **self.linear,
        )
        equation = f"{between},{r}{self.put_out}->{self.z}"
        return first, self.like(**self.named("Vt"), equation=equation)


class Attention(Dense):
    """MultiHeadAttention: four matrices, and products of what they give with one another.

    Each position of the query is compared with all n of the value that it may look at: h heads
    of width k, and as many sums of width v.
    """

    refusal = "attention: its matrices are inside, where no other layer can take their place"

    def count(self, z, query, value, *others, **options):
        layer, (asking, asked) = self.layer, (math.prod(x.shape[:-1]) for x in (query, value))
        n = math.prod(value.shape[axis] for axis in layer.attention_axes)
        widths = layer.num_heads * (layer.key_dim + (layer.value_dim or layer.key_dim))
        turned = sum(map(_in_kernels, (layer.query_dense, layer.output_dense)))
        looked_at = sum(map(_in_kernels, (layer.key_dense, layer.value_dense)))
        return asking * (turned + n * widths) + asked * looked_at, 0


KINDS = {
    keras.layers.Dense: Dense,
    DynamicDense: Dynamic,
    keras.layers.Conv1D: Conv,
    keras.layers.Conv2D: conv2d,
    keras.layers.DepthwiseConv1D: Depthwise,
    keras.layers.DepthwiseConv2D: Depthwise,
    keras.layers.SeparableConv1D: Separable,
    keras.layers.SeparableConv2D: Separable,
    keras.layers.Embedding: Embedding,
    keras.layers.EinsumDense: Einsum,
    keras.layers.MultiHeadAttention: Attention,
}

NO_MATRIX = "no matrix"
LEFT_ALONE = [
    ((keras.layers.GroupQueryAttention,), Attention.refusal),
    ((keras.layers.RNN,), "recurrent: its matrices are used step by step, inside"),
    ((keras.layers.Wrapper,), "a wrapper, which calls the layer inside"),
    ((keras.Model,), "a subclassed model: no graph says how its layers connect"),
    (tuple(KINDS), "a subclass, with a call of its own"),
]


def refusal(layer):
    """Why a built layer cannot be compressed, in words; "" if it can."""
    if type(layer) in KINDS:
        return KINDS[type(layer)](layer).refusal
    for types, reason in LEFT_ALONE:
        if isinstance(layer, types):
            return reason
    if all(len(weight.shape) < 2 for weight in layer.weights):
        return NO_MATRIX
    return f"{type(layer).__name__} is no kind of layer that is known"


def of(layer):
    """The layer as a matrix product: an instance of its kind."""
    return KINDS[type(layer)](layer)


def _array(x):
    x = np.asarray(x)
    return x.astype(np.promote_types(x.dtype, np.float32), copy=False)


def _in_kernels(layer):
    """How many weights a layer multiplies by: all but biases."""
    bias = getattr(layer, "bias", None)
    return sum(math.prod(weight.shape) for weight in layer.weights if weight is not bias)


def _listed(shape):
    return [shape] if isinstance(shape, int) else list(shape)
