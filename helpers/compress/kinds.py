"""Which layers multiply by a matrix, and which two layers are its factors? A class per kind.

The next kind is a subclass of Dense that says what differs, and an entry in KINDS.
"""

import functools
import itertools
import math
from typing import ClassVar

import numpy as np

from .. import svd
from ..backend import keras
from ..layers import DynamicDense

L = keras.layers
WINDOW = "kernel_size", "strides", "dilation_rate"  # options of a convolution


def every(n):
    """All of n rows."""
    return slice(n)


class Dense:
    """A layer seen as z = x W + b, with rows x (n, n_in), W (n_in, n_out), and rows z (n, n_out).

    Here for a built keras.layers.Dense, whose rows lie along the last axis. Chains are lists of
    (new layer, its weights), as `helpers.compress.graph.copy` takes them; a bias is [b] or [].
    """

    bare: ClassVar = {"activation": None, "activity_regularizer": None}  # z as it is
    linear: ClassVar = bare | {"use_bias": False}
    width = "units"  # the option that says how many outputs there are
    entries = "kernel"  # what options on W's entries begin with
    axis = -1  # of inputs and outputs, along which the neurons lie
    in_axis, out_axis = -2, -1  # of the kernel
    stays = ""  # why none of its neurons can go
    takes_means = True  # can its bias hold a mean of each column of x W?

    def __init__(self, layer):
        self.layer = layer

    @property
    def refusal(self):
        """Why this layer cannot be compressed, "" if it can."""
        if len(self.layer.weights) != 1 + len(self.bias):
            return "more than a matrix and a bias, as if quantized or with LoRA"
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
    def centred(self):
        """Are means left to its bias?"""
        return self.takes_means and bool(self.bias)

    @property
    def shape(self):
        """(n_in, n_out)."""
        shape = self.kernel.shape
        return math.prod(shape[:-1]), shape[-1]

    def matrix(self):
        """W (n_in, n_out)."""
        return np.reshape(self.kernel, self.shape)

    def decompose(self, D=None):
        """The SVD of W, or its D leading terms."""
        return svd.decompose(self.matrix(), D=D)

    def rows(self, x, some=every):
        """The rows (n, n_in) that W multiplies, of inputs x of the layer.

        `some` is a function from how many rows there are to those that are wanted.
        """
        return _some(_array(x).reshape(-1, self.shape[0]), some)

    def rows_out(self, z):
        """The rows (n, n_out) of its outputs z."""
        return _array(z).reshape(-1, self.shape[1])

    def second_moment(self, x, some=every):
        """Σ xᵀx (n_in, n_in) over the rows, its diagonal if they are unit vectors; Σ x; count."""
        rows = self.rows(x, some)
        return rows.T @ rows, rows.sum(0), len(rows)

    def spread(self, Gamma):
        """Γ (n_out, n_out) of the columns of W, from that of the outputs z."""
        return Gamma

    def moved_bias(self, lost):
        """[b] with what the products x W (n_out,) have lost in the mean, or []."""
        return [np.ravel(b) + lost for b in self.bias]

    def count(self, z, x):
        """Multiply-adds of a call that gave z of x: of the layer; of a singular value, for each
        input of the first factor, and for each output of the second.
        """
        rows = len(self.rows(x))
        return rows * math.prod(self.shape), rows, rows

    def like(self, **changes):
        """A layer of Keras' own, not built, configured as this one but for the changes."""
        plain = type(self.layer)
        return plain.from_config(plain.get_config(self.layer) | changes)

    def same_form(self, layer):
        """A layer of other size, as a matrix of the same form."""
        return type(self)(layer)

    def fold(self, W):
        """W in the shape of the layer's kernel."""
        return np.reshape(W, self.kernel.shape)

    def resized(self, kernel, bias):
        """The layer with a kernel of other inputs or outputs, and its weights."""
        size = {self.width: kernel.shape[self.out_axis]}
        return self.like(**self.free, **size), [kernel, *bias]

    def watched(self):
        """The chain of one that gives z = x W + b, and the chain that goes on from there."""
        activation = getattr(self.layer, "activation", None)
        options = {"dtype": self.layer.dtype_policy, "name": f"{self.layer.name}_activation"}
        rest = L.Activation(activation, **options)
        return self.one(self.matrix(), self.bias, **self.bare), [(rest, [])]

    def one(self, W, bias, **changes):
        """The chain of this layer alone, with another matrix."""
        return [(self.like(**changes), [self.fold(W), *bias])]

    def pair(self, U, Vt, bias):
        """The chain of two layers, n_in → D, linear, and D → n_out, which ends as this layer does.

        U is (n_in, D), Vt (D, n_out).
        """
        first, second = self.factors(U.shape[1])
        return [(first, [U]), (second, [Vt, *bias])]

    def factors(self, D):
        """The two layers of `pair`, not built."""
        first = self.like(**self.named("U"), **{self.width: D}, **self.linear)
        return first, self.like(**self.named("Vt"))

    def beside(self, kind, *size, **options):
        """A linear layer of another type and without bias, for a factor."""
        options |= {"dtype": self.layer.dtype_policy, "trainable": self.layer.trainable}
        return kind(*size, use_bias=False, **options)

    def merged(self, second):
        """The one layer, and its weights, of this factor and the second: `pair` undone."""
        return second.after(self, self.layer.name.removesuffix("_U"))

    def after(self, first, name):
        """The layer of this name, and its weights, that gives what this one does after `first`."""
        kernel = np.matmul(first.kernel, self.kernel)
        return self.like(name=name, **self.window(first.layer)), [kernel, *self.bias]

    def window(self, first):
        """Options that this layer shares with the one before it."""
        return {}

    @property
    def free(self):
        """Options of a layer with another matrix: nothing of what is said of the entries of W.

        Initial values would not have its shape, and what constrains W does not constrain it.
        """
        return {f"{self.entries}_initializer": "glorot_uniform", f"{self.entries}_constraint": None}

    def named(self, factor):
        """Options of a factor."""
        return self.free | {"name": f"{self.layer.name}_{factor}"}


class Dynamic(Dense):
    """DynamicDense: what it computes with is the truncated matrix, and comes out as Dense."""

    refusal = ""

    def matrix(self):
        return svd.truncate(self.decompose(), int(self.layer.rank))

    def decompose(self, D=None):
        return self.layer.svd()

    def same_form(self, layer):
        return Dense(layer)

    def like(self, **changes):
        return L.Dense.from_config(L.Dense.get_config(self.layer) | changes)


class Conv(Dense):
    """Convolutions: rows are patches (height · width · channels), one for each output position.

    The factors are a convolution with D filters and a pointwise one, 1 × 1.
    """

    width = "filters"

    @property
    def refusal(self):
        groups = self.layer.groups
        return f"grouped: {groups} matrices, not one" if groups > 1 else super().refusal

    @property
    def axis(self):
        return 1 if self.layer.data_format == "channels_first" else -1

    def rows(self, x, some=every):
        x = self._channels_last(x)
        n, *space, channels = x.shape
        places = self._places(tuple(space))
        image, position = np.divmod(_some(np.arange(n * len(places)), some), len(places))
        padded = np.pad(x.reshape(n, -1, channels), ((0, 0), (1, 0), (0, 0)))
        return padded[image[:, None], places[position]].reshape(-1, self.shape[0])

    @functools.cached_property
    def _places(self):
        """A function from the shape of an image to the places (positions, window) that are seen.

        Places count from 1, 0 is padding. The layer itself finds them, where it takes one channel
        and W = 1.
        """
        first = self.factors(1)[0]
        window = {"filters": math.prod(first.kernel_size), "data_format": "channels_last"}
        config = first.get_config() | window | {"dtype": "float64"}

        def places(space):
            looks, numbers = type(first).from_config(config), np.arange(1.0, 1 + math.prod(space))
            looks.build((None, *space, 1))
            looks.kernel.assign(np.eye(looks.filters).reshape(looks.kernel.shape))
            seen = looks(numbers.reshape(1, *space, 1))
            return _array(seen).reshape(-1, looks.filters).astype(int)

        return functools.cache(places)

    def rows_out(self, z):
        return self._channels_last(z).reshape(-1, self.kernel.shape[self.out_axis])

    def count(self, z, x):
        rows = len(self.rows_out(z))
        return rows * math.prod(self.shape), rows, rows

    def _channels_last(self, z):
        first = self.layer.data_format == "channels_first"
        return np.moveaxis(_array(z), 1, -1) if first else _array(z)

    def window(self, first):
        sides = {n: map(max, getattr(first, n), getattr(self.layer, n)) for n in WINDOW}
        return {n: tuple(both) for n, both in sides.items()} | {"padding": first.padding}

    def factors(self, D):
        first, _ = super().factors(D)
        pointwise = dict.fromkeys(WINDOW, 1) | {"padding": "valid"}
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

    def spread(self, Gamma):
        # As if errors of different columns were independent: each is felt as z is.
        return np.kron(np.eye(self.kernel.shape[1]), Gamma)

    def moved_bias(self, lost):
        return super().moved_bias(np.reshape(lost, (-1, self.kernel.shape[-1])).sum(0))

    def count(self, z, x):
        whole, rows, _ = super().count(z, x)
        before, behind = (self._channels_last(a).shape[2] for a in (x, z))
        return whole, rows // behind * before, rows

    def pair(self, U, Vt, bias):
        (first, _), (second, _) = super().pair(U, Vt, bias)
        Vt = np.reshape(Vt, (len(Vt), -1, self.kernel.shape[-1]))
        return [(first, [U]), (second, [np.swapaxes(Vt, 0, 1), *bias])]

    def factors(self, D):
        vertical = {name: (getattr(self.layer, name)[0], 1) for name in WINDOW}
        horizontal = {name: (1, getattr(self.layer, name)[1]) for name in WINDOW}
        first = self.like(**self.named("U"), filters=D, **vertical, **self.linear)
        return first, self.like(**self.named("Vt"), **horizontal)


def conv2d(layer):
    """Of the two forms of a Conv2D, the one whose singular values take fewer parameters.

    That is Crossed where height · channels > filters; measured on trained networks, it needs less
    than the other there at the same error in the norm that the loss feels, too.
    """
    return min(Conv(layer), Crossed(layer), key=lambda kind: sum(kind.shape))


class Transposed(Conv):
    """Transposed convolutions: each input position x (channels) gives a window of outputs, x W;
    overlapping windows are added.

    W (channels, height · width · filters). The factors are a pointwise convolution with D filters
    and the transposed convolution of these.
    """

    in_axis, out_axis = -1, -2
    takes_means = False  # a bias has one number for all places of the window
    refusal = Dense.refusal  # it knows no groups
    count = Dense.count  # rows are inputs

    @property
    def shape(self):
        *window, filters, channels = self.kernel.shape
        return channels, math.prod(window) * filters

    def matrix(self):
        return np.moveaxis(self.kernel, -1, 0).reshape(self.shape)

    def fold(self, W):
        return np.moveaxis(np.reshape(W, (-1, *self.kernel.shape[:-1])), 0, -1)

    def rows(self, x, some=every):
        return _some(self._channels_last(x).reshape(-1, self.shape[0]), some)

    def spread(self, Gamma):
        # As if errors at different places of the window were independent; each place reaches one in
        # so many outputs as the strides skip.
        each = Gamma / math.prod(self.layer.strides)
        return np.kron(np.eye(math.prod(self.kernel.shape[:-2])), each)

    def moved_bias(self, lost):
        return super(Conv, self).moved_bias(0)  # nothing is lost in the mean that it could hold

    def pair(self, U, Vt, bias):
        first, second = self.factors(U.shape[1])
        return [(first, [U]), (second, [self.fold(Vt), *bias])]

    def factors(self, D):
        options = {"data_format": self.layer.data_format, "name": f"{self.layer.name}_U"}
        pointwise = self.beside(CONVS[type(self.layer)], D, 1, **options)
        return pointwise, self.like(**self.named("Vt"))

    def after(self, first, name):
        kernel = np.matmul(self.kernel, np.swapaxes(first.kernel, -1, -2))
        return self.like(name=name), [kernel, *self.bias]


class Recurrent(Dense):
    """LSTM and GRU, also in both directions: z = x W is what each step takes from its input.

    W (n_in, 4 · units) of an LSTM, (n_in, 3 · units) of a GRU, those of two directions side by
    side. The factors are a Dense layer without bias and the recurrent layer, which gets D inputs.
    The recurrent kernel is neither cut nor counted.
    """

    bias = ()
    stays = "they feed their own next step"
    free: ClassVar = {}

    @property
    def refusal(self):
        plain = all(len(c.weights) == 2 + c.use_bias and type(c) in CELLS for c in self.directions)
        if any(direction.stateful for direction in self.directions):
            return "recurrent and stateful: what it sees depends on the order of the batches"
        return "" if plain else OTHER_CELLS

    @property
    def directions(self):
        both = isinstance(self.layer, L.Bidirectional)
        return [self.layer.forward_layer, self.layer.backward_layer] if both else [self.layer]

    @property
    def kernel(self):
        return np.concatenate([direction.weights[0] for direction in self.directions], axis=1)

    def same_form(self, layer):
        return of(layer)  # a Dense layer where it is watched

    def like(self, **changes):
        config = self.layer.get_config() | changes
        inside = [config[name] for name in ("layer", "backward_layer") if config.get(name)]
        for direction in inside:
            direction.pop("build_config", None)  # else it would be built, for n_in inputs
        for options in [direction["config"] for direction in inside] or [config]:
            options |= super().free
        return type(self.layer).from_config(config)

    def watched(self):
        n_out = self.shape[1]
        dense = self.beside(L.Dense, n_out, name=f"{self.layer.name}_kernel")
        return [(dense, [self.matrix()])], self.one(np.eye(n_out), ())

    def resized(self, kernel, bias):
        ((layer, weights),) = self.one(kernel, bias)
        return layer, weights

    def one(self, W, bias, **changes):
        ends = np.cumsum([direction.weights[0].shape[1] for direction in self.directions])
        parts = np.split(W, ends[:-1], axis=1)
        pairs = zip(parts, self.directions, strict=True)
        weights = [[part, *direction.get_weights()[1:]] for part, direction in pairs]
        return [(self.like(**changes), [*itertools.chain(*weights)])]

    def pair(self, U, Vt, bias):
        name = self.layer.name
        first = self.beside(L.Dense, U.shape[1], name=f"{name}_U")
        return [(first, [U]), *self.one(Vt, bias, name=f"{name}_Vt")]

    def after(self, first, name):
        return self.one(np.matmul(first.kernel, self.kernel), (), name=name)[0]


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

    def rows(self, x, some=every):
        return np.eye(self.shape[0], dtype="float32")[_some(self._tokens(x), some)]

    def second_moment(self, x, some=every):
        counts = np.bincount(self._tokens(x), minlength=self.shape[0])
        if self.layer.mask_zero:
            counts[0] = 0  # padding, which nobody sees
        return counts, counts, max(int(counts.sum()), 1)

    def _tokens(self, x):
        return np.asarray(x).astype(int).ravel()

    def count(self, z, x):
        return 0, 0, len(self.rows_out(z))

    def factors(self, D):
        first = self.like(**self.named("U"), output_dim=D, **self.linear)
        options = {"activity_regularizer": self.layer.activity_regularizer}
        options["name"] = f"{self.layer.name}_Vt"
        return first, self.beside(L.Dense, self.shape[1], **options)

    def merged(self, second):
        kernel, name = np.matmul(self.kernel, second.kernel), self.layer.name.removesuffix("_U")
        options = {"activity_regularizer": second.layer.activity_regularizer, "name": name}
        return self.like(output_dim=kernel.shape[1], **options), [kernel]


KINDS = {
    L.Dense: Dense,
    DynamicDense: Dynamic,
    L.Conv1D: Conv,
    L.Conv2D: conv2d,
    L.Conv3D: Conv,
    L.Conv1DTranspose: Transposed,
    L.Conv2DTranspose: Transposed,
    L.Conv3DTranspose: Transposed,
    L.LSTM: Recurrent,
    L.GRU: Recurrent,
    L.Bidirectional: Recurrent,
    L.Embedding: Embedding,
}
CELLS = L.LSTM, L.GRU
CONVS = {L.Conv1DTranspose: L.Conv1D, L.Conv2DTranspose: L.Conv2D, L.Conv3DTranspose: L.Conv3D}

NO_MATRIX = "no matrix"
ATTENTION = "attention: its matrices are inside, where no other layer can take their place"
DEPTHWISE = "depthwise: each channel has a small filter of its own"
OTHER_CELLS = "recurrent, but neither LSTM nor GRU as Keras makes them"
LEFT_ALONE = {
    (L.MultiHeadAttention, L.GroupQueryAttention): ATTENTION,
    (L.DepthwiseConv1D, L.DepthwiseConv2D): DEPTHWISE,
    (L.SeparableConv1D, L.SeparableConv2D): "separable: it is factorized already",
    L.RNN: OTHER_CELLS,
    L.Wrapper: "a wrapper, which calls the layer inside",
    keras.Model: "a subclassed model: no graph says how its layers connect",
    tuple(KINDS): "a subclass, with a call of its own",
}


def refusal(layer):
    """Why a built layer cannot be compressed, in words; "" if it can."""
    if type(layer) in KINDS:
        return KINDS[type(layer)](layer).refusal
    for types, reason in LEFT_ALONE.items():
        if isinstance(layer, types):
            return reason
    if all(len(weight.shape) < 2 for weight in layer.weights):
        return NO_MATRIX
    return f"unknown layer type {type(layer).__name__}"


def of(layer):
    """The layer as a matrix product: an instance of its kind."""
    return KINDS[type(layer)](layer)


def _some(rows, some):
    return rows[some(len(rows))]


def _array(x):
    x = np.asarray(x)
    return x.astype(np.promote_types(x.dtype, np.float32), copy=False)
