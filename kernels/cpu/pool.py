"""Pooling on channels-last data. A unit is an output row."""

from nbconv.kernels.params import Clamp, Divisor, Image, Window

from ._simd import (
    Floats,
    Int,
    W,
    at,
    inline,
    kernel,
    load,
    load_part,
    maximum,
    minimum,
    splat,
    store,
    store_part,
    unordered,
    where,
)
from ._window import inside

INF, NAN = float("inf"), float("nan")


@inline
def _either(v, best):
    return where(best > v, best, v)


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
        n = unit // oh
        iy0 = (unit - n * oh) * sh - ph
        ky0, ky1 = inside(iy0, kh, dh, h)
        for ox in range(ow):
            ix0 = ox * sw - pw
            kx0, kx1 = inside(ix0, kw, dw, width)
            for c0 in range(0, c, W):
                cols = min(W, c - c0)
                best = splat(-INF)
                nan = best != best
                for ky in range(ky0, ky1):
                    row = at(x, ((n * h + iy0 + ky * dh) * width + ix0) * ldx + c0)
                    if cols == W and kx1 - kx0 == 3:
                        row = at(row, kx0 * dw * ldx)
                        u, v, w = load(row, 0), load(row, dw * ldx), load(row, 2 * dw * ldx)
                        best = _either(_either(u, v), _either(w, best))
                        nan = nan | unordered(u, v) | unordered(w, w)
                    elif cols == W and kx1 - kx0 == 2:
                        row = at(row, kx0 * dw * ldx)
                        u, v = load(row, 0), load(row, dw * ldx)
                        best = _either(_either(u, v), best)
                        nan = nan | unordered(u, v)
                    else:
                        for kx in range(kx0, kx1):
                            v = load(row, kx * dw * ldx) if cols == W else load_part(row, kx * dw * ldx, cols)
                            best = _either(v, best)
                            nan = nan | unordered(v, v)
                best = where(nan, NAN, minimum(maximum(best, low), high))
                if cols == W:
                    store(y, (unit * ow + ox) * ldy + c0, best)
                else:
                    store_part(y, (unit * ow + ox) * ldy + c0, best, cols)


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
        n = unit // oh
        iy0 = (unit - n * oh) * sh - ph
        ky0, ky1 = inside(iy0, kh, dh, h)
        for ox in range(ow):
            ix0 = ox * sw - pw
            kx0, kx1 = inside(ix0, kw, dw, width)
            count = (ky1 - ky0) * (kx1 - kx0)
            if count_pad == 1:
                qy0, qy1 = inside(iy0 + ph, kh, dh, padded_h + ph)
                qx0, qx1 = inside(ix0 + pw, kw, dw, padded_w + pw)
                count = (qy1 - qy0) * (qx1 - qx0)
            for c0 in range(0, c, W):
                cols = min(W, c - c0)
                total = splat(0.0)
                for ky in range(ky0, ky1):
                    row = at(x, ((n * h + iy0 + ky * dh) * width + ix0) * ldx + c0)
                    for kx in range(kx0, kx1):
                        total = total + (load(row, kx * dw * ldx) if cols == W else load_part(row, kx * dw * ldx, cols))
                total = minimum(maximum(total / count, low), high)
                if cols == W:
                    store(y, (unit * ow + ox) * ldy + c0, total)
                else:
                    store_part(y, (unit * ow + ox) * ldy + c0, total, cols)
