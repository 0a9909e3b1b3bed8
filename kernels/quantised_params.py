"""Parameters of kernels on 8-bit integers, as those of params.py."""

from typing import NamedTuple

from nbconv.kernels.params import Floats


class DotBlocking(NamedTuple):
    """How a product of integers is cut: a unit has ``panels`` panels of ``rows`` pixels; a row of
    A, ``depth`` words of 32 bits, lies in ``lda`` bytes; ``padded``: packed columns a group;
    ``area``: bytes of scratch memory a thread, 0 where rows are read where they are."""

    rows: int
    panels: int
    padded: int
    depth: int
    lda: int
    area: int


class Requantise(NamedTuple):
    """What becomes of integers: those of x, with ``flip`` turned to unsigned ones, whose zero point
    is ``x_zero`` then; sums, to be multiplied by ``scale`` a channel, limited to low … high,
    rounded and moved by ``zero_point``; results of ``size`` bytes, of 4 the sums as they are."""

    scale: Floats
    low: float
    high: float
    zero_point: int
    flip: int
    x_zero: int
    size: int = 1


class Line(NamedTuple):
    """n elements, of which a unit has ``chunk``."""

    n: int
    chunk: int


class Combination(NamedTuple):
    """Of the integers a and b: their zero points and scales, and the scale and zero point of what
    comes of them, limited to low … high."""

    a_zero: float
    a_scale: float
    b_zero: float
    b_scale: float
    scale: float
    zero_point: float
    low: float
    high: float
