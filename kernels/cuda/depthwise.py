"""Depthwise convolution on channels-last data: a thread's channel, a warp's run of pixels."""

from nbconv.kernels.params import Activation, DenseImage, Epilogue, Window

from ._math import activated
from ._simd import (
    Floats,
    Int,
    W,
    at,
    cuda,
    given,
    inline,
    maximum,
    minimum,
    quotient,
    scalar,
    splat,
    tiled,
)
from ._strip import RUN, strip, taps

WARPS = 4
strip_3_1, strip_3_2, strip_5_1, strip_5_2 = strip(3, 1), strip(3, 2), strip(5, 1), strip(5, 2)


@tiled(WARPS * W, 4)
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
    A unit is ``band`` rows of ``piece`` channels of y; its warps take runs of pixels in turn.
    """
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    low, high, act, alpha, beta, scale, shift = epilogue
    square = kh == kw and dw == 1 and (sw == 1 or sw == 2) and (kh == 3 or kh == 5)
    bands = (oh + band - 1) // band
    pieces = (c + piece - 1) // piece
    part = first // pieces
    n = part // bands
    oy0 = (part - n * bands) * band
    runs = (ow + RUN - 1) // RUN
    items = min(band, oh - oy0) * runs
    c1 = (first - part * pieces) * piece
    lane = Int(cuda.threadIdx.x) % W
    for c0 in range(c1, min(c, c1 + piece), W):
        channel = min(c0 + lane, c - 1)  # threads past the last one read what it reads
        plane = at(x, n * h * width * c + channel)
        filters = at(w, c0 + lane)
        bias = b[c0 + lane]
        held = taps(filters, kh * kw if square else 0, padded)
        for item in range(Int(cuda.threadIdx.x) // W, items, WARPS):
            row = quotient(item, runs)
            oy = oy0 + row
            ox = (item - row * runs) * RUN
            iy = oy * sh - ph
            ix = ox * sw - pw
            a0, a1, a2, a3 = bias, bias, bias, bias
            if square and kh == 3 and sw == 1:
                a0, a1, a2, a3 = strip_3_1(plane, held, bias, iy, dh, h, ix, width, c)
            elif square and kh == 3:
                a0, a1, a2, a3 = strip_3_2(plane, held, bias, iy, dh, h, ix, width, c)
            elif square and sw == 1:
                a0, a1, a2, a3 = strip_5_1(plane, held, bias, iy, dh, h, ix, width, c)
            elif square:
                a0, a1, a2, a3 = strip_5_2(plane, held, bias, iy, dh, h, ix, width, c)
            else:
                for p in range(RUN):
                    a = _pixel(plane, filters, bias, iy, ix + p * sw, kh, kw, dh, dw, h, width, c, padded)
                    a0, a1, a2, a3 = a1, a2, a3, a
            target = (n * oh + oy) * ow * c + c0 + lane
            for p in range(ox, min(ox + RUN, ow)):
                v = minimum(maximum(splat(a0), low), high)
                a0, a1, a2 = a1, a2, a3
                if act != Activation.NONE:
                    v = activated(act, v, alpha, beta)
                if given(scale):
                    v = v * scale[c0 + lane] + shift[c0 + lane]
                if c0 + lane < c:
                    y[target + p * c] = scalar(v)


@inline
def _pixel(x, w, bias, iy, ix, kh, kw, dh, dw, h, width, c, padded):
    """One output pixel of any window, whose first tap meets (iy, ix)."""
    total = bias
    for ky in range(kh):
        r = iy + ky * dh
        if r >= 0 and r < h:
            for kx in range(kw):
                s = ix + kx * dw
                if s >= 0 and s < width:
                    total += x[(r * width + s) * c] * w[(ky * kw + kx) * padded]
    return total
