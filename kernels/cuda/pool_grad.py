"""Gradients of pooling on channels-last data. A unit is a row of dx, a vector of channels wide: each of its cells asks the
windows that it lies in, in their order, so that nothing is added to memory that others write."""

from nbconv.kernels.params import DenseImage, Divisor, Window

from ._simd import Floats, Int, W, at, get, inline, kernel, put, quotient, splat, where
from ._window import inside

INF = float("inf")


@inline
def _window(i, p, k, s, d, out):
    """The window whose tap k, of those d apart, meets cell i, or -1."""
    start = i + p - k * d
    o = quotient(max(start, 0), s)
    return o if o * s == start and o < out else -1


@kernel
def max_pool_grad(dy: Floats, x: Floats, dx: Floats, image: DenseImage, window: Window, first: Int, last: Int) -> None:
    """Each dy is added to dx where its window of x has its maximum: the first of equals, or the first NaN."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        line = quotient(unit, vectors)
        c0 = (unit - line * vectors) * W
        cols = c - c0
        n = quotient(line, h)
        iy = line - n * h
        plane = at(x, n * h * width * c + c0)
        for ix in range(width):
            total = splat(0.0)
            for ky in range(kh - 1, -1, -1):
                oy = _window(iy, ph, ky, sh, dh, oh)
                if oy >= 0:
                    for kx in range(kw - 1, -1, -1):
                        ox = _window(ix, pw, kx, sw, dw, ow)
                        if ox >= 0:
                            place = _place(plane, oy * sh - ph, ox * sw - pw, kh, kw, dh, dw, h, width, c, cols)
                            d = get(dy, ((n * oh + oy) * ow + ox) * c + c0, cols)
                            total = total + where(place == splat(ky * kw + kx), d, 0.0)
            put(dx, (line * width + ix) * c + c0, total, cols)


@inline
def _place(x, iy, ix, kh, kw, dh, dw, h, width, c, cols):
    """Which tap of the window from (iy, ix) on has its maximum, of each lane."""
    ky0, ky1 = inside(iy, kh, dh, h)
    kx0, kx1 = inside(ix, kw, dw, width)
    best = splat(-INF)
    place = splat(-1.0)
    for ky in range(ky0, ky1):
        for kx in range(kx0, kx1):
            v = get(x, ((iy + ky * dh) * width + ix + kx * dw) * c, cols)
            better = (v > best) | (place < 0) | ((v != v) & (best == best))
            best = where(better, v, best)
            place = where(better, splat(ky * kw + kx), place)
    return place


@kernel
def average_pool_grad(
    dy: Floats, dx: Floats, image: DenseImage, window: Window, divisor: Divisor, divided: Int, first: Int, last: Int
) -> None:
    """Each dy, divided as `pool.average_pool` divides where ``divided`` is 1, is added to all cells of its window."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    padded_h, padded_w, count_pad = divisor
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        line = quotient(unit, vectors)
        c0 = (unit - line * vectors) * W
        cols = c - c0
        n = quotient(line, h)
        iy = line - n * h
        for ix in range(width):
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
