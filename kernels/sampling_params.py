"""Parameters of kernels that sample images where values say, or slide windows over volumes, as
those of params.py."""

from typing import NamedTuple


class Volumes(NamedTuple):
    """Volumes (d, h, width) of c channels, without gaps, of which each gives ``rows`` × ``columns``
    pixels."""

    d: int
    h: int
    width: int
    c: int
    rows: int
    columns: int


class Sampler(NamedTuple):
    """How GridSample reads between cells: the spatial ``axes``, ``mode`` (0 nearest, 1 linear, 2
    cubic), ``padding`` (0 zeros, 1 border, 2 reflection), and whether corners are ``aligned``."""

    axes: int
    mode: int
    padding: int
    aligned: int


class Depth(NamedTuple):
    """The third axis of a window that slides over volumes: ``size`` planes, of which ``out`` are
    made by k taps, by stride, dilation and padding."""

    size: int
    out: int
    k: int
    stride: int
    dilation: int
    pad: int


class Taps(NamedTuple):
    """kd × kh × kw taps of a window over volumes, ``z``, ``y`` and ``x`` floats from one to the
    next."""

    kd: int
    kh: int
    kw: int
    z: int
    y: int
    x: int


class Offsets(NamedTuple):
    """Channels of a deformable convolution: in ``groups`` of the product, in ``offset_groups`` that
    have their offsets in common; and whether a mask weighs the samples."""

    groups: int
    offset_groups: int
    masked: int
