"""What convolutions read beside packed weights: the image, padded where that is needed, and the bias."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbconv.lowering import repack
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.conv.problem import Geometry
from nbconv.lowering.packing import pad_bias
from nbconv.lowering.repack import varies


class Image(NamedTuple):
    """Where it is, rows, columns, floats from pixel to pixel, floats that one tap multiplies."""

    ref: Ref
    h: int
    w: int
    ldx: int
    cg: int


def image(to: Lowering, g: Geometry) -> Image:
    """x as it is."""
    return Image(to.input(0), g.h, g.w, to.ld(0), g.ci)


def padded_image(to: Lowering, g: Geometry) -> Image:
    """Steps that copy x into a zero-filled image with room for the padding, channels last: a row of the window is one tap
    of it."""
    c, (_, _, _, top, bottom), (kw, _, _, left, right) = g.groups * g.ci, g.down, g.across
    hp, wp = g.h + top + bottom, g.w + left + right
    size = g.n * hp * wp * c
    y = to.floats(size)
    _border(to, g, y, hp, wp * c)
    here = to.strides(0)
    here = here if g.axes == 2 else (*here[:2], 0, here[2])
    to.copy(to.input(0), y.at((top * wp + left) * c), (g.n, c, g.h, g.w), here, (hp * wp * c, 1, wp * c, c))
    return Image(y, hp, wp, c, kw * c)


def _border(to: Lowering, g: Geometry, y: Ref, rows: int, row: int) -> None:
    """Zeros round the images at y, of so many rows of so many floats. Unless there is one, with rows, they are written all
    over."""
    c, (_, _, _, top, bottom), (_, _, _, left, right) = g.groups * g.ci, g.down, g.across
    if to.target.gpu or g.n != 1 or not g.h:
        to.fill(y, g.n * rows * row)
        return
    before, after, beside = top * row + left * c, bottom * row + right * c, (left + right) * c
    if top or left:
        to.fill(y, before)
    if beside and g.h > 1:
        to.copy(to.zeros(beside), y.at(before + g.w * c), (g.h - 1, beside), (0, 1), (row, 1))
    if bottom or right:
        to.fill(y.at(rows * row - after), after)


def bias(to: Lowering, g: int, og: int, repeats: int = 1, part: slice | None = None, i: int = 2) -> Ref:
    """The bias, input i, of g groups of og channels as panels have it; y's channels, or this part of them, so many times
    over."""
    if varies(to, i):
        return repack.bias(to, to.input(i).at(part.start if part else 0), g, og // repeats, repeats)
    name = to.node.inputs[i] if to.has(i) else ""

    def make() -> np.ndarray:
        values = np.tile(to.value(i) if part is None else to.value(i)[part], repeats) if name else None
        return pad_bias(values, g, og, to.target.lanes, to.columns)

    return to.constant(f"{name}#{g}x{og}" + (f".{part.start}" if part and name else ""), make)
