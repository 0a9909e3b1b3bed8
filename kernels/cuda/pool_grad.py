"""Gradients of pooling on channels-last data.
A unit is a strip of a row of dx, a vector of channels wide: each of its cells asks the windows that
it lies in, in their order, so that nothing is added to memory that others write."""

from nbconv.kernels.params import DenseImage, Divisor, Window

from ._simd import Float, Floats, Int, W, at, below, get, inline, kernel, lane, put, quotient, splat
from ._window import inside

STRIP = 8
"""Cells of a strip (nbconv/lowering/window.py counts by it)."""


@inline
def strip(unit, width, h, c):
    """(row of all images, image, row in it, first cell, first channel) of a unit."""
    vectors = quotient(c + W - 1, W)
    strips = quotient(width + STRIP - 1, STRIP)
    piece = quotient(unit, vectors)
    line = quotient(piece, strips)
    n = quotient(line, h)
    return line, n, line - n * h, (piece - line * strips) * STRIP, (unit - piece * vectors) * W


@inline
def _window(i, p, k, s, d, out):
    """The window whose tap k, of those d apart, meets cell i, or -1."""
    start = i + p - k * d
    o = quotient(max(start, 0), s)
    return o if o * s == start and o < out else -1


@kernel
def max_pool_grad(
    dy: Floats,
    x: Floats,
    dx: Floats,
    image: DenseImage,
    window: Window,
    first: Int,
    last: Int,
) -> None:
    """Each dy is added to dx where its window of x has its maximum: the first of equals, or the
    first NaN."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    for unit in range(first, last):
        line, n, iy, ix0, c0 = strip(unit, width, h, c)
        cols = c - c0
        mine = min(c0 + lane(), c - 1)  # threads past the last channel read what it reads
        plane = at(x, n * h * width * c + mine)
        for ix in range(ix0, min(ix0 + STRIP, width)):
            v = plane[(iy * width + ix) * c]
            total = Float(0)
            for ky in range(kh - 1, -1, -1):
                oy = _window(iy, ph, ky, sh, dh, oh)
                if oy >= 0:
                    for kx in range(kw - 1, -1, -1):
                        ox = _window(ix, pw, kx, sw, dw, ow)
                        if ox >= 0:
                            tap = ky * kw + kx
                            d = dy[((n * oh + oy) * ow + ox) * c + mine]
                            has = _has(plane, v, tap, oy * sh - ph, ox * sw - pw, kh, kw, dh, dw, h, width, c)
                            total += d if has else Float(0)
            put(dx, (line * width + ix) * c + c0, splat(total), cols)


@inline
def _has(x, v, tap, iy, ix, kh, kw, dh, dw, h, width, c):
    """Whether v, which a tap of the window from (iy, ix) on meets, is its maximum."""
    has = True
    for ky in range(kh):
        y = iy + ky * dh
        row = (y if below(y, h) else 0) * width
        for kx in range(0, kw, 3):
            a = _yields(x, v, tap, row, ky * kw + kx, ix + kx * dw, below(y, h), width, c)
            more = below(y, h) & (kx + 1 < kw)
            b = _yields(x, v, tap, row, ky * kw + kx + 1, ix + (kx + 1) * dw, more, width, c)
            more = below(y, h) & (kx + 2 < kw)
            has = has & a & b & _yields(x, v, tap, row, ky * kw + kx + 2, ix + (kx + 2) * dw, more, width, c)
    return has


@inline
def _yields(x, v, tap, row, other, ix, there, width, c):
    """Whether another tap does not take the maximum from v: it is less, or equal and comes later; a
    NaN is more than all else, the first of them most.
    Nothing branches, so that one read does not wait for another."""
    there = there & below(ix, width)
    u = x[(row + (ix if there else 0)) * c]
    later = other >= tap
    return (not there) | (u < v) | (later & ((u == v) | (v != v))) | ((v != v) & (u == u))


@kernel
def average_pool_grad(
    dy: Floats,
    dx: Floats,
    image: DenseImage,
    window: Window,
    divisor: Divisor,
    divided: Int,
    first: Int,
    last: Int,
) -> None:
    """Each dy, divided as `pool.average_pool` divides where ``divided`` is 1, is added to all cells
    of its window."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    padded_h, padded_w, count_pad = divisor
    for unit in range(first, last):
        line, n, iy, ix0, c0 = strip(unit, width, h, c)
        cols = c - c0
        for ix in range(ix0, min(ix0 + STRIP, width)):
            total = splat(0.0)
            for ky in range(kh - 1, -1, -1):
                oy = _window(iy, ph, ky, sh, dh, oh)
                if oy >= 0:
                    for kx in range(kw - 1, -1, -1):
                        ox = _window(ix, pw, kx, sw, dw, ow)
                        if ox >= 0:
                            count = 1
                            if divided == 1:
                                count = _count(oy * sh - ph, kh, dh, h, ph, padded_h, count_pad)
                                count *= _count(ox * sw - pw, kw, dw, width, pw, padded_w, count_pad)
                            total = total + get(dy, ((n * oh + oy) * ow + ox) * c + c0, cols) / count
            put(dx, (line * width + ix) * c + c0, total, cols)


@inline
def _count(i, k, d, size, p, padded, count_pad):
    """How many of a window's taps along an axis the mean counts."""
    k0, k1 = inside(i + p, k, d, padded + p) if count_pad == 1 else inside(i, k, d, size)
    return k1 - k0
