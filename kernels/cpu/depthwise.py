"""Depthwise convolution on channels-last data."""

from nbconv.kernels.params import DenseImage, Epilogue, Window

from ._epilogue import activate, epilogue_from, in_registers, short_only
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
    store,
    store_part,
)
from ._strip import STRIP, reach, strips_3_1, strips_3_2, strips_5_1, strips_5_2
from ._window import inside


@kernel
def depthwise(
    x: Floats,
    w: Floats,
    b: Floats,
    y: Floats,
    image: DenseImage,
    window: Window,
    padded: Int,
    band: Int,
    piece: Int,
    epilogue: Epilogue,
    first: Int,
    last: Int,
) -> None:
    """One filter a channel: y[n, oy, ox, c] = act(clamp(Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw,
    c]·w[ky, kx, c] + b[c])).

    w (kh, kw, padded), b, scale and shift (padded) are zero past c.
    A unit is ``band`` rows of ``piece`` channels of y.
    Strips follow each other downwards where there are rows enough (what they read is then still in
    L1), else to the right.
    """
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    over = (ow - 1) * sw - pw + kw - width
    fast = dw == 1 and sw <= 2 and (kw == 3 or kw == 5) and pw <= reach(kw) and over <= reach(kw)
    count = (ow + STRIP - 1) // STRIP if fast else ow
    small = ow // count
    extra = ow - small * count
    line = dh * width * c
    full = (h + ph - (kh - 1) * dh - 1) // sh + 1  # rows of y from here on reach below the image
    bands = (oh + band - 1) // band
    pieces = (c + piece - 1) // piece
    for unit in range(first, last):
        part = unit // pieces
        n = part // bands
        oy0 = (part - n * bands) * band
        oy1 = min(oh, oy0 + band)
        c1 = (unit - part * pieces) * piece
        for c0 in range(c1, min(c, c1 + piece), W):
            cols = min(W, c - c0)
            bias = load(b, c0)
            done = epilogue_from(epilogue, c0)
            tall = min(oy1, full) - oy0 > 3
            s = 0
            ox = 0
            oy = oy0
            while s < count and oy < oy1:
                pixels = 1 if not fast else small + 1 if s < extra else small
                left = ox * sw - pw
                ky0, ky1 = inside(oy * sh - ph, kh, dh, h)
                xp = at(x, ((n * h + oy * sh - ph + ky0 * dh) * width + left) * c + c0)
                yp = at(y, ((n * oh + oy) * ow + ox) * c + c0)
                wp = at(w, ky0 * kw * padded + c0)
                rows = 1
                strips = 1
                if fast and tall:
                    rows = max(1, min(oy1, full) - oy) if ky0 == 0 else 1
                    _strips(
                        pixels, rows, xp, sh * width * c, wp, bias, yp, ow * c, c, cols, kw, sw, left, width, line, padded,
                        ky1 - ky0, done,
                    )  # fmt: skip
                elif fast:
                    if left >= 0:  # all of this size, but for the last of a row that ends in the padding
                        end = extra if s < extra else count
                        strips = max(1, end - s - (1 if end == count and over > 0 else 0))
                    _strips(
                        pixels, strips, xp, pixels * sw * c, wp, bias, yp, pixels * c, c, cols, kw, sw, left, width, line,
                        padded, ky1 - ky0, done,
                    )  # fmt: skip
                else:
                    _pixel(xp, wp, bias, yp, left, width, c, cols, kw, dw, line, padded, ky1 - ky0, done)
                if not (fast and in_registers(epilogue.act)):
                    for i in range(rows):
                        for p in range(strips * pixels):
                            activate(done, at(yp, (i * ow + p) * c), cols)
                if tall:
                    oy += rows
                    if oy >= oy1:
                        oy = oy0
                        s += 1
                        ox += pixels
                else:
                    s += strips
                    ox += strips * pixels
                    if s >= count:
                        oy += 1
                        s = 0
                        ox = 0


@inline
def _strips(pixels, count, x, down, w, bias, y, below, c, cols, kw, sw, left, width, line, padded, kys, epilogue):
    low, high, act, alpha, beta, _, shift = epilogue
    scale = short_only(epilogue)
    sums = pixels, count, x, down, c, line, w, padded, kys, bias, y, below
    rest = low, high, cols, left, width, act, alpha, beta, scale, shift
    if kw == 3 and sw == 1:
        strips_3_1(*sums, *rest)
    elif kw == 3:
        strips_3_2(*sums, *rest)
    elif sw == 1:
        strips_5_1(*sums, *rest)
    else:
        strips_5_2(*sums, *rest)


@inline
def _pixel(x, w, bias, y, ix0, width, c, cols, kw, dw, line, padded, kys, epilogue):
    """One output pixel of any window; x is where its first column would be, which may lie outside
    the image."""
    kx0, kx1 = inside(ix0, kw, dw, width)
    total = bias
    for ky in range(kys):
        for kx in range(kx0, kx1):
            i = ky * line + kx * dw * c
            v = load(x, i) if cols == W else load_part(x, i, cols)
            total = total + v * load(w, (ky * kw + kx) * padded)
    total = minimum(maximum(total, epilogue.low), epilogue.high)
    if cols == W:
        store(y, 0, total)
    else:
        store_part(y, 0, total, cols)
