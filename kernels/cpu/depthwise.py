"""Depthwise convolution on channels-last data."""

from nbconv.kernels.params import DenseImage, Epilogue, Window

from ._epilogue import activate, epilogue_from, in_registers, short_only
from ._simd import Floats, Int, W, at, inline, kernel
from ._strip import (
    STRIP,
    STRIP_7,
    STRIP_ANY,
    reach,
    strips_3_1,
    strips_3_2,
    strips_5_1,
    strips_5_2,
    strips_7_1,
    strips_7_2,
    strips_any,
    strips_any_1,
)
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
    A unit is ``band`` rows of ``piece`` channels of y: a row after the other, in strips.
    At stride 1 and dilation dw, a row is dw rows of every dw-th pixel, which are not dilated.
    """
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    over = (ow - 1) * sw - pw + (kw - 1) * dw + 1 - width
    apart = dw if sw == 1 else 1
    shares = dw == apart and (kw == 3 or kw == 5 or kw == 7) and sw <= 2
    unrolled = shares and max(pw, over) <= reach(kw) * apart
    most = STRIP_ANY if not unrolled else STRIP_7 if kw == 7 else STRIP
    bands = (oh + band - 1) // band
    pieces = (c + piece - 1) // piece
    for unit in range(first, last):
        part = unit // pieces
        n = part // bands
        oy0 = (part - n * bands) * band
        c0 = (unit - part * pieces) * piece
        channels = min(c - c0, piece)
        done = epilogue_from(epilogue, c0)
        for oy in range(oy0, min(oh, oy0 + band)):
            iy = oy * sh - ph
            ky0, ky1 = inside(iy, kh, dh, h)
            row = (n * h + iy + ky0 * dh) * width
            wp = at(w, ky0 * kw * padded + c0)
            for rest in range(min(apart, ow)):
                there = (ow - rest + apart - 1) // apart
                count = (there + most - 1) // most
                small = there // count
                extra = there - small * count
                ox = rest
                for s in range(count):
                    pixels = small + 1 if s < extra else small
                    ix = ox * sw - pw
                    left = ix // apart
                    columns = (width - (ix - left * apart) + apart - 1) // apart
                    xp = at(x, (row + ix) * c + c0)
                    yp = at(y, ((n * oh + oy) * ow + ox) * c + c0)
                    size = pixels, apart * c, dh * width * c, padded, ky1 - ky0, kw, sw, dw // apart
                    _strip(unrolled, size, xp, wp, at(b, c0), yp, left, columns, channels, done)
                    if not in_registers(epilogue.act):
                        for p in range(pixels):
                            for i in range(0, channels, W):
                                activate(epilogue_from(done, i), at(yp, p * apart * c + i), min(W, channels - i))
                    ox += pixels * apart


@inline
def _strip(unrolled, size, x, w, bias, y, left, columns, channels, epilogue):
    """A strip's vectors of channels, and what is less than a vector."""
    pixels, ldx, line, ldw, kys, kw, sw, gap = size
    i = 0
    while i < channels:
        count, cols = max(1, (channels - i) // W), min(W, channels - i)
        here = epilogue_from(epilogue, i)
        low, high, act, alpha, beta = here.low, here.high, here.act, here.alpha, here.beta
        sums = pixels, count, at(x, i), ldx, line, at(w, i), ldw, kys, kw, sw, gap, at(bias, i), at(y, i)
        rest = low, high, cols, left, columns, act, alpha, beta, short_only(here), here.shift
        if not unrolled and sw == 1:
            strips_any_1(*sums, *rest)
        elif not unrolled:
            strips_any(*sums, *rest)
        elif kw == 3 and sw == 1:
            strips_3_1(*sums, *rest)
        elif kw == 3:
            strips_3_2(*sums, *rest)
        elif kw == 5 and sw == 1:
            strips_5_1(*sums, *rest)
        elif kw == 5:
            strips_5_2(*sums, *rest)
        elif sw == 1:
            strips_7_1(*sums, *rest)
        else:
            strips_7_2(*sums, *rest)
        i += count * W
