"""Convolution on channels-last data: any kernel, stride, dilation, padding and groups, and its transpose."""

from ._simd import Float, Floats, Int, address, at, inline, kernel, stack_ints
from ._tile import NR, block

MAX_ROWS = 256
"""Most output pixels of a block."""
MAX_TABLE = 4096
"""Most entries (pixels × taps) of the address table."""


@kernel
def conv(
    x: Floats, w: Floats, b: Floats, res: Floats, y: Floats, zeros: Floats,
    m: Int, h: Int, width: Int, ldx: Int, cg: Int, oh: Int, ow: Int, ldy: Int, ldres: Int, og: Int,
    kh: Int, kw: Int, sh: Int, sw: Int, dh: Int, dw: Int, ph: Int, pw: Int,
    full_h: Int, full_w: Int, osh: Int, osw: Int, oy0: Int, ox0: Int,
    rows: Int, panels: Int, tap_chunk: Int, channel_chunk: Int, padded: Int,
    low: Float, high: Float, act: Int, alpha: Float, beta: Float, scale: Floats, shift: Floats, first: Int, last: Int,
) -> None:  # fmt: skip
    """y[n, oy·osh+oy0, ox·osw+ox0, :] = act(clamp(Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, :]·w + b + res)).

    x (n, h, width, ldx), cg channels a group; y (n, full_h, full_w, ldy), og channels a group; m = n·oh·ow pixels. w is
    packed [group][panel][ky][kx][cg][NR], ``padded`` columns a group; zeros holds cg zeros, what a tap in the padding reads.
    A unit is (group, block of ``panels`` panels, block of ``rows`` pixels); k goes in chunks of taps × channels.
    """
    table = stack_ints(MAX_TABLE)
    out = stack_ints(MAX_ROWS)
    taps = kh * kw
    k = taps * cg
    row_blocks = (m + rows - 1) // rows
    column_blocks = ((og + NR - 1) // NR + panels - 1) // panels
    nothing = address(zeros, 0)
    for unit in range(first, last):
        part = unit // row_blocks
        m0 = (unit - part * row_blocks) * rows
        g = part // column_blocks
        p0 = (part - g * column_blocks) * panels
        count = min(rows, m - m0)
        n0 = p0 * NR
        n1 = min(og, (p0 + panels) * NR)
        wg = at(w, g * k * padded)
        yg = at(y, g * og)
        resg = at(res, g * og) if ldres > 0 else res
        sg = at(scale, g * padded) if address(scale, 0) != 0 else scale
        tg = at(shift, g * padded) if address(scale, 0) != 0 else scale
        _output_pixels(out, m0, count, oh, ow, full_h, full_w, osh, osw, oy0, ox0)
        t0 = 0  # Numba's range with a step that is no literal can raise, and kernels cannot
        while t0 < taps:
            t1 = min(t0 + tap_chunk, taps)
            _addresses(table, x, g * cg, nothing, m0, count, t0, t1, oh, ow, h, width, ldx, kw, sh, sw, dh, dw, ph, pw)
            c0 = 0
            while c0 < cg:
                kc = min(channel_chunk, cg - c0)
                begins = t0 == 0 and c0 == 0
                ends = t1 == taps and c0 + kc == cg
                k0 = t0 * cg + c0
                block(
                    table, count, t1 - t0, kc, c0, wg, k0, k, out, yg, ldy, begins, ends, at(b, g * padded), resg, ldres,
                    low,
                    high, n0, n1, og, act, alpha, beta, sg, tg,
                )  # fmt: skip
                c0 += channel_chunk
            t0 = t1


@inline
def _output_pixels(out, m0, count, oh, ow, full_h, full_w, osh, osw, oy0, ox0):
    """Pixel index in y of each of the block's pixels, a row of the image after the other."""
    line = m0 // ow
    ox = m0 - line * ow
    n = line // oh
    oy = line - n * oh
    i = 0
    while i < count:
        run = min(count - i, ow - ox)
        _sequence(at(out, i), run, (n * full_h + oy * osh + oy0) * full_w + ox * osw + ox0, osw)
        i += run
        ox = 0
        oy += 1
        if oy == oh:
            oy = 0
            n += 1


@inline
def _sequence(p, n, begin, step):
    for i in range(n):
        p[i] = begin + i * step


@inline
def _addresses(table, x, c0, nothing, m0, count, t0, t1, oh, ow, h, width, ldx, kw, sh, sw, dh, dw, ph, pw):
    """Where each (tap, pixel) of the block finds its input row: a row of the image after the other, of which a tap sees the
    columns from ``begin`` to ``end``."""
    base = address(x, c0)
    for t in range(t0, t1):
        ky = t // kw
        kx = t - ky * kw
        shift = kx * dw - pw
        begin = 0 if shift >= 0 else (sw - 1 - shift) // sw
        end = 0 if shift >= width else (width - 1 - shift) // sw + 1
        line = m0 // ow
        ox = m0 - line * ow
        n = line // oh
        oy = line - n * oh
        i = (t - t0) * count
        stop = i + count
        while i < stop:
            run = min(stop - i, ow - ox)
            iy = oy * sh - ph + ky * dh
            left = 0
            right = 0
            if 0 <= iy and iy < h:
                left = min(run, max(0, begin - ox))
                right = min(run, max(left, end - ox))
                start = base + ((n * h + iy) * width + (ox + left) * sw + shift) * ldx * 4
                _sequence(at(table, i + left), right - left, start, sw * ldx * 4)
            _sequence(at(table, i), left, nothing, 0)
            _sequence(at(table, i + right), run - right, nothing, 0)
            i += run
            ox = 0
            oy += 1
            if oy == oh:
                oy = 0
                n += 1
