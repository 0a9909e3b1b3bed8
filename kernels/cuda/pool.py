"""Pooling on channels-last data. A unit is an output pixel."""

from nbconv.kernels.params import Clamp, Divisor, Image, Window

from ._simd import (
    Floats,
    Int,
    W,
    at,
    get,
    kernel,
    maximum,
    minimum,
    put,
    quotient,
    splat,
    unordered,
    where,
)
from ._window import inside

INF, NAN = float("inf"), float("nan")


@kernel
def max_pool(
    x: Floats,
    y: Floats,
    image: Image,
    window: Window,
    clamp: Clamp,
    first: Int,
    last: Int,
) -> None:
    """Largest value of each window; NaN where the window holds one. Padding is never chosen."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    low, high = clamp
    for unit in range(first, last):
        line = quotient(unit, ow)
        n = quotient(line, oh)
        iy0 = (line - n * oh) * sh - ph
        ix0 = (unit - line * ow) * sw - pw
        ky0, ky1 = inside(iy0, kh, dh, h)
        kx0, kx1 = inside(ix0, kw, dw, width)
        for c0 in range(0, c, W):
            best = splat(-INF)
            nan = best != best
            for ky in range(ky0, ky1):
                row = at(x, ((n * h + iy0 + ky * dh) * width + ix0) * ldx + c0)
                for kx in range(kx0, kx1):
                    v = get(row, kx * dw * ldx, c - c0)
                    best = where(best > v, best, v)
                    nan = nan | unordered(v, v)
            put(y, unit * ldy + c0, where(nan, NAN, minimum(maximum(best, low), high)), c - c0)


@kernel
def average_pool(
    x: Floats,
    y: Floats,
    image: Image,
    window: Window,
    divisor: Divisor,
    clamp: Clamp,
    first: Int,
    last: Int,
) -> None:
    """Mean of each window."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    padded_h, padded_w, count_pad = divisor
    low, high = clamp
    for unit in range(first, last):
        line = quotient(unit, ow)
        n = quotient(line, oh)
        iy0 = (line - n * oh) * sh - ph
        ix0 = (unit - line * ow) * sw - pw
        ky0, ky1 = inside(iy0, kh, dh, h)
        kx0, kx1 = inside(ix0, kw, dw, width)
        count = (ky1 - ky0) * (kx1 - kx0)
        if count_pad == 1:
            qy0, qy1 = inside(iy0 + ph, kh, dh, padded_h + ph)
            qx0, qx1 = inside(ix0 + pw, kw, dw, padded_w + pw)
            count = (qy1 - qy0) * (qx1 - qx0)
        for c0 in range(0, c, W):
            total = splat(0.0)
            for ky in range(ky0, ky1):
                row = at(x, ((n * h + iy0 + ky * dh) * width + ix0) * ldx + c0)
                for kx in range(kx0, kx1):
                    total = total + get(row, kx * dw * ldx, c - c0)
            put(y, unit * ldy + c0, minimum(maximum(total / count, low), high), c - c0)
