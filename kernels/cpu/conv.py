"""Convolution on channels-last data: any kernel, stride, dilation, padding and groups, and its
transpose."""

from nbconv.kernels.params import Addends, ConvBlocking, ConvImage, Epilogue, Scatter, Window

from ._epilogue import addends_from, epilogue_from
from ._simd import Floats, Int, Ints, address, at, inline, kernel, stack_ints
from ._tile import NR, block

MAX_ROWS = 256
"""Most output pixels of a block."""
MAX_TABLE = 4096
"""Most entries (pixels × taps) of the address table."""
PART = 10
"""Numbers of a part of `conv_parts`."""


@kernel
def conv(
    x: Floats,
    w: Floats,
    addends: Addends,
    y: Floats,
    zeros: Floats,
    image: ConvImage,
    window: Window,
    scatter: Scatter,
    blocking: ConvBlocking,
    epilogue: Epilogue,
    first: Int,
    last: Int,
) -> None:
    """y[n, oy·osh+oy0, ox·osw+ox0, :] = act(clamp(Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, :]·w +
    bias + residual)).

    w is packed [group][panel][ky][kx][cg][NR], ``padded`` columns a group; zeros holds cg zeros,
    what a tap in the padding reads.
    A unit is (group, block of panels, block of pixels).
    """
    m, cg, og, ldy = image.m, image.cg, image.og, image.ldy
    rows, panels, tap_chunk, channel_chunk, padded = blocking
    table = stack_ints(MAX_TABLE)
    out = stack_ints(MAX_ROWS)
    taps = window.kh * window.kw
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
        added = addends_from(addends, g * padded, g * og)
        done = epilogue_from(epilogue, g * padded)
        _output_pixels(out, m0, count, image.oh, image.ow, scatter)
        t0 = 0  # Numba's range with a step that is no literal can raise, and kernels cannot
        while t0 < taps:
            t1 = min(t0 + tap_chunk, taps)
            _addresses(table, x, g * cg, nothing, m0, count, t0, t1, image, image.oh, image.ow, window)
            c0 = 0
            while c0 < cg:
                kc = min(channel_chunk, cg - c0)
                begins = t0 == 0 and c0 == 0
                ends = t1 == taps and c0 + kc == cg
                k0 = t0 * cg + c0
                block(table, count, t1 - t0, kc, c0, wg, k0, k, out, yg, ldy, begins, ends, added, n0, n1, og, done)
                c0 += channel_chunk
            t0 = t1


@kernel
def conv_parts(
    x: Floats,
    w: Floats,
    addends: Addends,
    y: Floats,
    zeros: Floats,
    parts: Ints,
    image: ConvImage,
    window: Window,
    blocking: ConvBlocking,
    epilogue: Epilogue,
    first: Int,
    last: Int,
) -> None:
    """As `conv`, for a result in rectangles: each is summed over the taps that see x there.

    A row of ``parts``, `PART` numbers, is such a rectangle: how many blocks there are up to its
    end, its pixels a block, its place (y, x) and size, and of its taps the place (ky, kx) and size.
    blocking.rows counts all blocks, image.m the images. A unit is (group, block of panels, block).
    """
    cg, og, ldy = image.cg, image.og, image.ldy
    blocks, panels, tap_chunk, channel_chunk, padded = blocking
    kh, kw, sh, sw, dh, dw, ph, pw = window
    table = stack_ints(MAX_TABLE)
    out = stack_ints(MAX_ROWS)
    k = kh * kw * cg
    column_blocks = ((og + NR - 1) // NR + panels - 1) // panels
    nothing = address(zeros, 0)
    for unit in range(first, last):
        panel = unit // blocks
        inside = unit - panel * blocks
        part = parts
        before = 0
        while inside >= part[0]:
            before = part[0]
            part = at(part, PART)
        rows = part[1]
        oy, ox, oh, ow = part[2], part[3], part[4], part[5]
        m0 = (inside - before) * rows
        count = min(rows, image.m * oh * ow - m0)
        g = panel // column_blocks
        p0 = (panel - g * column_blocks) * panels
        n0 = p0 * NR
        n1 = min(og, (p0 + panels) * NR)
        wg = at(w, g * k * padded)
        yg = at(y, g * og)
        added = addends_from(addends, g * padded, g * og)
        done = epilogue_from(epilogue, g * padded)
        _output_pixels(out, m0, count, oh, ow, (image.oh, image.ow, 1, 1, oy, ox))
        seen = (kh, kw, sh, sw, dh, dw, ph - oy * sh, pw - ox * sw)
        run = part[9]
        runs = part[8]
        if run == kw:  # taps of all rows follow each other
            run *= runs
            runs = 1
        for r in range(runs):
            begin = (part[6] + r) * kw + part[7]
            end = begin + run
            t0 = begin
            while t0 < end:
                t1 = min(t0 + tap_chunk, end)
                _addresses(table, x, g * cg, nothing, m0, count, t0, t1, image, oh, ow, seen)
                c0 = 0
                while c0 < cg:
                    kc = min(channel_chunk, cg - c0)
                    begins = r == 0 and t0 == begin and c0 == 0
                    ends = r == runs - 1 and t1 == end and c0 + kc == cg
                    k0 = t0 * cg + c0
                    block(table, count, t1 - t0, kc, c0, wg, k0, k, out, yg, ldy, begins, ends, added, n0, n1, og, done)
                    c0 += channel_chunk
                t0 = t1


@inline
def _output_pixels(out, m0, count, oh, ow, scatter):
    """Pixel index in y of each of the block's pixels, a row of the (oh, ow) image after the other."""
    full_h, full_w, osh, osw, oy0, ox0 = scatter
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
def _addresses(table, x, c0, nothing, m0, count, t0, t1, image, oh, ow, window):
    """Where each (tap, pixel) of the block finds its input row: a row of the (oh, ow) image after
    the other, of which a tap sees the columns from ``begin`` to ``end``."""
    h, width, ldx = image.h, image.width, image.ldx
    _, kw, sh, sw, dh, dw, ph, pw = window
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
