"""Depthwise convolution on channels-last data."""

from nbconv.kernels.cpu._epilogue import activate, in_registers, short_only
from nbconv.kernels.cpu._simd import (
    Float,
    Floats,
    Int,
    W,
    address,
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
from nbconv.kernels.cpu._strip import STRIP, reach, strips_3_1, strips_3_2, strips_5_1, strips_5_2


@kernel
def depthwise(
    x: Floats, w: Floats, b: Floats, y: Floats,
    h: Int, width: Int, c: Int, oh: Int, ow: Int, kh: Int, kw: Int, sh: Int, sw: Int, dh: Int, dw: Int, ph: Int, pw: Int,
    padded: Int, low: Float, high: Float, act: Int, alpha: Float, beta: Float, scale: Floats, shift: Floats,
    first: Int, last: Int,
) -> None:  # fmt: skip
    """One filter a channel: y[n, oy, ox, c] = act(clamp(Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, c]·w[ky, kx, c] + b[c])).

    w (kh, kw, padded), b, scale and shift (padded) are zero past c.  A unit is a row of y.
    """
    over = (ow - 1) * sw - pw + kw - width
    fast = dw == 1 and sw <= 2 and (kw == 3 or kw == 5) and pw <= reach(kw) and over <= reach(kw)
    count = (ow + STRIP - 1) // STRIP
    small = ow // count
    extra = ow - small * count
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
        kys = ky1 - ky0
        line = dh * width * c
        for c0 in range(0, c, W):
            cols = min(W, c - c0)
            wc = at(w, ky0 * kw * padded + c0)
            bias = load(b, c0)
            f = at(scale, c0) if address(scale, 0) != 0 else scale
            t = at(shift, c0) if address(scale, 0) != 0 else scale
            if fast:
                _strips(
                    small + 1, extra, 0, xr, wc, bias, yr, c, c0, cols, kw, sw, pw, width, line, padded, kys, low, high, act,
                    alpha, beta, short_only(act, f), t,
                )  # fmt: skip
                _strips(
                    small, count - extra, extra * (small + 1), xr, wc, bias, yr, c, c0, cols, kw, sw, pw, width, line, padded,
                    kys, low, high, act, alpha, beta, short_only(act, f), t,
                )  # fmt: skip
            else:
                for ox in range(ow):
                    yp = at(yr, ox * c + c0)
                    _pixel(xr, wc, bias, yp, ox * sw - pw, width, c, c0, cols, kw, dw, line, padded, kys, low, high)
            if not (fast and in_registers(act)):
                for ox in range(ow):
                    activate(act, alpha, beta, f, t, at(yr, ox * c + c0), cols)


@inline
def _strips(
    pixels,
    count,
    ox,
    xr,
    wc,
    bias,
    yr,
    c,
    c0,
    cols,
    kw,
    sw,
    pw,
    width,
    line,
    padded,
    kys,
    low,
    high,
    act,
    alpha,
    beta,
    scale,
    shift,
):
    left = ox * sw - pw
    xp = at(xr, left * c + c0)
    yp = at(yr, ox * c + c0)
    if kw == 3 and sw == 1:
        strips_3_1(
            pixels,
            count,
            xp,
            c,
            line,
            wc,
            padded,
            kys,
            bias,
            yp,
            low,
            high,
            cols,
            left,
            width,
            act,
            alpha,
            beta,
            scale,
            shift,
        )
    elif kw == 3:
        strips_3_2(
            pixels,
            count,
            xp,
            c,
            line,
            wc,
            padded,
            kys,
            bias,
            yp,
            low,
            high,
            cols,
            left,
            width,
            act,
            alpha,
            beta,
            scale,
            shift,
        )
    elif sw == 1:
        strips_5_1(
            pixels,
            count,
            xp,
            c,
            line,
            wc,
            padded,
            kys,
            bias,
            yp,
            low,
            high,
            cols,
            left,
            width,
            act,
            alpha,
            beta,
            scale,
            shift,
        )
    else:
        strips_5_2(
            pixels,
            count,
            xp,
            c,
            line,
            wc,
            padded,
            kys,
            bias,
            yp,
            low,
            high,
            cols,
            left,
            width,
            act,
            alpha,
            beta,
            scale,
            shift,
        )


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
