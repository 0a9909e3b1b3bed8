"""Gradients of pooling on channels-last data.
A unit is a plane of one image, a vector of channels wide: windows may overlap, so a plane has one
owner."""

from nbconv.kernels.params import DenseImage, Divisor, Window

from ._simd import Floats, Int, W, at, get, kernel, put, splat, where
from ._window import inside

INF = float("inf")


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
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        cols = min(W, c - c0)
        plane = at(x, n * h * width * c + c0)
        target = at(dx, n * h * width * c + c0)
        source = at(dy, n * oh * ow * c + c0)
        for i in range(h * width):
            put(target, i * c, splat(0.0), cols)
        for oy in range(oh):
            ky0, ky1 = inside(oy * sh - ph, kh, dh, h)
            for ox in range(ow):
                kx0, kx1 = inside(ox * sw - pw, kw, dw, width)
                corner = ((oy * sh - ph) * width + ox * sw - pw) * c
                best = splat(-INF)
                place = splat(-1.0)
                for ky in range(ky0, ky1):
                    for kx in range(kx0, kx1):
                        v = get(plane, corner + (ky * dh * width + kx * dw) * c, cols)
                        better = (v > best) | (place < 0) | ((v != v) & (best == best))
                        best = where(better, v, best)
                        place = where(better, splat(ky * kw + kx), place)
                d = get(source, (oy * ow + ox) * c, cols)
                for ky in range(ky0, ky1):
                    for kx in range(kx0, kx1):
                        i = corner + (ky * dh * width + kx * dw) * c
                        put(target, i, get(target, i, cols) + where(place == splat(ky * kw + kx), d, 0.0), cols)


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
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        cols = min(W, c - c0)
        target = at(dx, n * h * width * c + c0)
        source = at(dy, n * oh * ow * c + c0)
        for i in range(h * width):
            put(target, i * c, splat(0.0), cols)
        for oy in range(oh):
            iy0 = oy * sh - ph
            ky0, ky1 = inside(iy0, kh, dh, h)
            for ox in range(ow):
                ix0 = ox * sw - pw
                kx0, kx1 = inside(ix0, kw, dw, width)
                count = (ky1 - ky0) * (kx1 - kx0)
                if count_pad == 1:
                    qy0, qy1 = inside(iy0 + ph, kh, dh, padded_h + ph)
                    qx0, qx1 = inside(ix0 + pw, kw, dw, padded_w + pw)
                    count = (qy1 - qy0) * (qx1 - qx0)
                if divided == 0:
                    count = 1
                d = get(source, (oy * ow + ox) * c, cols) / count
                for ky in range(ky0, ky1):
                    for kx in range(kx0, kx1):
                        i = ((iy0 + ky * dh) * width + ix0 + kx * dw) * c
                        put(target, i, get(target, i, cols) + d, cols)
