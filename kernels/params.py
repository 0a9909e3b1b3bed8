"""Parameters of kernels that belong together, as NamedTuples: CPU kernels, CUDA kernels and
lowering share them.

A kernel takes ``window: Window``; in its table of arguments each field is one word, ``window.kh``
by name, in the fields' order.
An ``int`` is an int64 there, a ``float`` a float32, `Floats` an address of float32, or null.
"""

from collections.abc import Mapping
from enum import IntEnum
from math import inf
from typing import Annotated, Any, NamedTuple

Floats = Annotated[Any, "float32*"]


class Activation(IntEnum):
    """The activations that an `Epilogue` can name; a clamp is none of them."""

    NONE = 0
    SIGMOID = 1
    SILU = 2
    HARD_SIGMOID = 3
    """max(0, min(1, alpha·x + beta))"""
    HARD_SWISH = 4
    """x · HARD_SIGMOID"""
    TANH = 5
    GELU = 6
    LEAKY_RELU = 7
    """alpha·x below 0"""


KINDS: dict[Any, str] = {int: "int64", Activation: "int64", float: "float32", Floats: "float32*"}
"""What a field may be, and what manifests call it."""


class Clamp(NamedTuple):
    """Limits of each result."""

    low: float
    high: float


class Epilogue(NamedTuple):
    """What is done to each result before it is stored: the clamp, or the activation; then, where
    ``scale`` is given, a factor and a term a channel."""

    low: float = -inf
    high: float = inf
    act: Activation = Activation.NONE
    alpha: float = 0.0
    beta: float = 0.0
    scale: Floats = None
    shift: Floats = None

    def clamp(self) -> Clamp:
        """What it is to a kernel that can only clamp."""
        return Clamp(self.low, self.high)


class Addends(NamedTuple):
    """What is added to sums before the epilogue: a bias a channel, and, where ``ldres`` is not 0,
    an array of y's shape, ``ldres`` floats a pixel."""

    bias: Floats
    residual: Floats = None
    ldres: int = 0


class Rows(NamedTuple):
    """d0 × d1 × d2 rows of n elements, ``total`` in all; the units say d0."""

    d1: int
    d2: int
    n: int
    total: int


class RowStrides(NamedTuple):
    """Row (i, j, k) of an operand begins at i·s0 + j·s1 + k·s2, its elements are ``element``
    apart."""

    s0: int
    s1: int
    s2: int
    element: int


class Extents(NamedTuple):
    """Sizes of an array of five axes; the units say the first."""

    n1: int
    n2: int
    n3: int
    n4: int


class Strides(NamedTuple):
    """Strides of an array of five axes, in elements."""

    s0: int
    s1: int
    s2: int
    s3: int
    s4: int


class Window(NamedTuple):
    """A window that slides over an image: taps, strides, dilations, and the padding before the
    first row and column."""

    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    ph: int
    pw: int


class Image(NamedTuple):
    """Images (h, width) of c channels, ``ldx`` floats a pixel, from which (oh, ow) are made,
    ``ldy`` floats a pixel."""

    h: int
    width: int
    ldx: int
    c: int
    ldy: int
    oh: int
    ow: int


class DenseImage(NamedTuple):
    """Images (h, width, c) and (oh, ow, c), without gaps."""

    h: int
    width: int
    c: int
    oh: int
    ow: int


class ConvImage(NamedTuple):
    """Images (h, width), ``ldx`` floats a pixel and cg channels a group, from which (oh, ow) are
    made, m pixels in all of them, ``ldy`` floats a pixel and og channels a group."""

    m: int
    h: int
    width: int
    ldx: int
    cg: int
    oh: int
    ow: int
    ldy: int
    og: int


class Scatter(NamedTuple):
    """Where results (oy, ox) go in images of (full_h, full_w): to (oy·osh + oy0, ox·osw + ox0)."""

    full_h: int
    full_w: int
    osh: int = 1
    osw: int = 1
    oy0: int = 0
    ox0: int = 0


class ConvBlocking(NamedTuple):
    """How a convolution is cut: a unit has ``panels`` panels of ``rows`` pixels, k goes in chunks
    of taps × channels; ``padded``: packed columns a group."""

    rows: int
    panels: int
    tap_chunk: int
    channel_chunk: int
    padded: int


class GradBlocking(NamedTuple):
    """How the sums of a weight gradient are cut: ``parts`` of ``pixels``, which go ``chunk`` at a
    time, and units of ``columns``; ``padded``: floats a row of a group's sums."""

    groups: int
    parts: int
    pixels: int
    columns: int
    chunk: int
    padded: int


class Matrices(NamedTuple):
    """(m, k) × (k, n) → (m, n), rows of A ``lda`` floats apart, those of y ``ldy``."""

    m: int
    n: int
    k: int
    lda: int
    ldy: int


class Batch(NamedTuple):
    """Floats from one matrix of a batch to the next."""

    a: int
    b: int
    y: int


class MatrixBlocking(NamedTuple):
    """How a product is cut: a unit has ``panels`` panels of ``rows`` rows, k goes in chunks."""

    rows: int
    panels: int
    k_chunk: int


class Sums(NamedTuple):
    """``parts`` of sums (m, n), ``lds`` floats a row, which are added to results of ``ldy`` floats
    a row."""

    m: int
    n: int
    parts: int
    lds: int
    ldy: int


class SumsBatch(NamedTuple):
    """Floats from one matrix of a batch, or group, to the next: of the sums, of what is given a
    channel, of results."""

    sums: int
    channels: int
    y: int


class Filtering(NamedTuple):
    """How Winograd's filtering goes: padding, ``size`` × ``size`` results a tile, ``tiles`` tiles
    and ``group`` channels of y a unit, ``columns`` channels at a time; ``inner``: input channels in
    whole vectors, ``padded``: packed columns, ``area``: floats of scratch memory a thread."""

    ph: int
    pw: int
    size: int
    tiles: int
    columns: int
    group: int
    inner: int
    padded: int
    area: int


class Tiles(NamedTuple):
    """``down`` × ``across`` tiles an image, ``total`` in all, of size × size results."""

    down: int
    across: int
    total: int
    size: int


class FilterStrides(NamedTuple):
    """Where a weight lies: element (g, y, x, i, o) at g·group + y·ky + x·kx + i·ci + o·co."""

    group: int
    ky: int
    kx: int
    ci: int
    co: int


class TapStrides(NamedTuple):
    """Where a weight lies: element (g, t, i, o) at g·group + t·tap + i·ci + o·co."""

    tap: int
    ci: int
    co: int
    group: int


class Divisor(NamedTuple):
    """What a mean divides by: the taps inside the image, or, with ``count_pad``, those inside [-ph,
    padded_h) and [-pw, padded_w)."""

    padded_h: int
    padded_w: int
    count_pad: int


class Pixels(NamedTuple):
    """Pixels of c channels, ``total`` of them in all, of which a part has ``pixels``."""

    pixels: int
    total: int
    c: int


class Moments(NamedTuple):
    """Mean and variance a channel."""

    mean: Floats
    var: Floats


class Running(NamedTuple):
    """Running mean and variance a channel, which the new ones replace: old · momentum + new · (1 -
    momentum)."""

    old_mean: Floats
    old_var: Floats
    new_mean: Floats
    new_var: Floats
    momentum: float


class ChannelAffine(NamedTuple):
    """What each channel is multiplied with, and what is then added."""

    factor: Floats
    shift: Floats


class BatchNorm(NamedTuple):
    """What a batch normalisation did: (x - mean) / sqrt(var + epsilon) · scale."""

    scale: Floats
    mean: Floats
    var: Floats
    epsilon: float


class RowAffine(NamedTuple):
    """A scale and a shift, where there are such, for each ``run`` elements of a row; row r has
    those of r % ``groups``."""

    scale: Floats
    shift: Floats
    groups: int
    run: int
    scaled: int
    shifted: int


class Scores(NamedTuple):
    """Where the score of class j at position p lies: p // size · image + p % size · pixel + j ·
    apart."""

    classes: int
    size: int
    image: int
    pixel: int
    apart: int


class ClassWeights(NamedTuple):
    """What labels weigh: 1, or, where ``weighted``, a weight a class; where ``ignoring``, the label
    ``ignore`` weighs 0."""

    weights: Floats
    weighted: int
    ignoring: int
    ignore: int


MODULES = (
    __name__,
    *(
        f"{__package__}.{name}_params"
        for name in ("ctc", "index", "optimizer", "quantised", "recurrent", "sampling", "strip")
    ),
)
"""Where such NamedTuples are defined."""


def is_group(kind: Any) -> bool:
    """Whether a type is one of these NamedTuples."""
    return isinstance(kind, type) and issubclass(kind, tuple) and kind.__module__ in MODULES


def fields(name: str, kind: type) -> dict[str, str]:
    """Names and kinds of a parameter's words, where its type is one of the NamedTuples."""
    return {f"{name}.{field}": KINDS[k] for field, k in kind.__annotations__.items()}


def flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A kernel's arguments a word each: the fields of NamedTuples of parameters one by one, named
    ``argument.field``."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if is_group(type(value)):
            found.update((f"{name}.{field}", v) for field, v in value._asdict().items())
        else:
            found[name] = value
    return found
