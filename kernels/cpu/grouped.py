"""Convolution of few inputs a group: of groups with as many results, on channels-last data, or of one
group, on data in any layout."""

from nbconv.kernels.params import Addends, Epilogue, Window
from nbconv.kernels.strip_params import Strips

from ._epilogue import activate, addends_from, epilogue_from, in_registers, short_only
from ._group import STRIP, permuted_3_1, permuted_3_2, permuted_any, spread_3_1, spread_3_2, spread_any
from ._simd import Floats, Int, W, at, inline, kernel
from ._window import inside


@kernel
def grouped(
    x: Floats,
    w: Floats,
    addends: Addends,
    y: Floats,
    zeros: Floats,
    strips: Strips,
    window: Window,
    epilogue: Epilogue,
    first: Int,
    last: Int,
) -> None:
    """y[n, oy, ox, c] = act(clamp(Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, g, i]·w[c, ky, kx, i] +
    bias + residual)), g being c's group and i one of its cg inputs.

    Of several groups cg divides W, and c. w is packed [vector of channels][ky][kx][i][W], zero past
    the channels; bias, scale and shift fill a vector; zeros is one float.
    A unit does a row after the other, in strips.
    At stride 1 and dilation dw, a row is dw rows of every dw-th pixel, which are not dilated.
    """
    h, width, oh, ow, cg, c, ldy, xn, xh, xw, xc, xv, band, piece = strips
    kh, kw, sh, sw, dh, dw, ph, pw = window
    over = (ow - 1) * sw - pw + (kw - 1) * dw + 1 - width
    apart = dw if sw == 1 else 1
    unrolled = dw == apart and kw == 3 and sw <= 2 and max(pw, over) <= apart
    spread = xv == 0 or cg == W
    bands = (oh + band - 1) // band
    pieces = (c + piece - 1) // piece
    size = kh * kw * cg
    for unit in range(first, last):
        part = unit // bands
        n = part // pieces
        oy0 = (unit - part * bands) * band
        c0 = (part - n * pieces) * piece
        channels = min(c - c0, piece)
        done = epilogue_from(epilogue, c0)
        for oy in range(oy0, min(oh, oy0 + band)):
            iy = oy * sh - ph
            ky0, ky1 = inside(iy, kh, dh, h)
            row = n * xn + (iy + ky0 * dh) * xh + c0 // W * xv
            wp = at(w, c0 * size + ky0 * kw * cg * W)
            for rest in range(min(apart, ow)):
                there = (ow - rest + apart - 1) // apart
                count = (there + STRIP - 1) // STRIP
                small = there // count
                extra = there - small * count
                ox = rest
                for s in range(count):
                    pixels = small + 1 if s < extra else small
                    ix = ox * sw - pw
                    left = ix // apart
                    columns = (width - (ix - left * apart) + apart - 1) // apart
                    xp = at(x, row + ix * xw)
                    place = (n * oh + oy) * ow + ox
                    yp = at(y, place * ldy + c0)
                    added = addends_from(addends, c0, place * addends.ldres + c0)
                    steps = apart * xw, dh * xh, xc, xv, size * W, apart * ldy
                    taps = ky1 - ky0, cg, kw, sw, dw // apart
                    kind = spread, unrolled, sw
                    _strip(kind, pixels, steps, taps, xp, wp, yp, zeros, added, apart, left, columns, channels, done)
                    if not in_registers(epilogue.act):
                        for p in range(pixels):
                            for i in range(0, channels, W):
                                activate(epilogue_from(done, i), at(yp, p * apart * ldy + i), min(W, channels - i))
                    ox += pixels * apart


@inline
def _strip(kind, pixels, steps, taps, x, w, y, zeros, addends, apart, left, columns, channels, epilogue):
    """A strip's vectors of channels, and what is less than a vector."""
    spread, unrolled, sw = kind
    ldx, line, ldi, xv, size, ldy = steps
    i = 0
    while i < channels:
        count, cols = max(1, (channels - i) // W), min(W, channels - i)
        here = epilogue_from(epilogue, i)
        bias, res, ldres = addends_from(addends, i, i)
        low, high, act, alpha, beta = here.low, here.high, here.act, here.alpha, here.beta
        inputs = at(x, i // W * xv), ldx, line, ldi, xv, at(w, i // W * size), size
        sums = pixels, count, *inputs, *taps, bias, at(y, i), ldy, res, apart * ldres
        rest = zeros, low, high, cols, left, columns, act, alpha, beta, short_only(here), here.shift
        if spread and unrolled and sw == 1:
            spread_3_1(*sums, *rest)
        elif spread and unrolled:
            spread_3_2(*sums, *rest)
        elif spread:
            spread_any(*sums, *rest)
        elif unrolled and sw == 1:
            permuted_3_1(*sums, *rest)
        elif unrolled:
            permuted_3_2(*sums, *rest)
        else:
            permuted_any(*sums, *rest)
        i += count * W
