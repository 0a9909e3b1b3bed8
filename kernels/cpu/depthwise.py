"""Depthwise convolution on channels-last data."""

from nbconv.kernels.cpu._math import activated
from nbconv.kernels.cpu._simd import (
    Float,
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
)
from nbconv.kernels.cpu._strip import STRIP, strip_3_1, strip_3_2, strip_5_1, strip_5_2


@kernel
def depthwise(
    x: Floats, w: Floats, b: Floats, y: Floats,
    h: Int, width: Int, c: Int, oh: Int, ow: Int, kh: Int, kw: Int, sh: Int, sw: Int, dh: Int, dw: Int, ph: Int, pw: Int,
    padded: Int, low: Float, high: Float, act: Int, alpha: Float, beta: Float,
    first: Int, last: Int,
) -> None:  # fmt: skip
    """One filter a channel: y[n, oy, ox, c] = act(clamp(Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, c]·w[ky, kx, c] + b[c])).

    w (kh, kw, padded) and b (padded) are zero past c.  A unit is a row of y.
    """
    fast = dw == 1 and sw <= 2 and (kw == 3 or kw == 5)
    for unit in range(first, last):
        n = unit // oh
        oy = unit - n * oh
        iy0 = oy * sh - ph
        ky0 = 0
        while ky0 < kh and iy0 + ky0 * dh < 0:
            ky0 += 1
        ky1 = kh
        while ky1 > ky0 and iy0 + (ky1 - 1) * dh >= h:
            ky1 -= 1
        xr = at(x, (n * h + iy0 + ky0 * dh) * width * c)
        yr = at(y, unit * ow * c)
        for c0 in range(0, c, W):
            cols = min(W, c - c0)
            wc = at(w, ky0 * kw * padded + c0)
            bias = load(b, c0)
            ox = 0
            while ox < ow:
                yp = at(yr, ox * c + c0)
                left = ox * sw - pw
                if fast:
                    count = min(STRIP, ow - ox)
                    xp = at(xr, left * c + c0)
                    line = dh * width * c
                    kys = ky1 - ky0
                    if kw == 3 and sw == 1:
                        strip_3_1(count, xp, c, line, wc, padded, kys, bias, yp, low, high, cols, left, width)
                    elif kw == 3:
                        strip_3_2(count, xp, c, line, wc, padded, kys, bias, yp, low, high, cols, left, width)
                    elif sw == 1:
                        strip_5_1(count, xp, c, line, wc, padded, kys, bias, yp, low, high, cols, left, width)
                    else:
                        strip_5_2(count, xp, c, line, wc, padded, kys, bias, yp, low, high, cols, left, width)
                    ox += count
                else:
                    _pixel(xr, wc, bias, yp, left, width, c, c0, cols, kw, dw, dh * width * c, padded, ky1 - ky0, low, high)
                    ox += 1
            if act != 0:
                for i in range(ow):
                    if cols == W:
                        store(yr, i * c + c0, activated(act, load(yr, i * c + c0), alpha, beta))
                    else:
                        store_part(yr, i * c + c0, activated(act, load_part(yr, i * c + c0, cols), alpha, beta), cols)


@inline
def _pixel(xr, wc, bias, yp, ix0, width, c, c0, cols, kw, dw, line, padded, kys, low, high):
    """One output pixel whose window may reach into the padding left or right."""
    kx0 = 0
    while kx0 < kw and ix0 + kx0 * dw < 0:
        kx0 += 1
    kx1 = kw
    while kx1 > kx0 and ix0 + (kx1 - 1) * dw >= width:
        kx1 -= 1
    total = splat(0.0)
    for ky in range(kys):
        for kx in range(kx0, kx1):
            i = ky * line + (ix0 + kx * dw) * c + c0
            v = load(xr, i) if cols == W else load_part(xr, i, cols)
            total = total + v * load(wc, (ky * kw + kx) * padded)
    total = minimum(maximum(total + bias, low), high)
    if cols == W:
        store(yp, 0, total)
    else:
        store_part(yp, 0, total, cols)
