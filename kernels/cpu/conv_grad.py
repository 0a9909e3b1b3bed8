"""Gradients of convolutions on channels-last data: of the weights, and of what depthwise ones read.

Sums over pixels are split into parts that depend on shapes alone; `merge` and `merge_depthwise` add
them in order.
"""

from nbconv.kernels.params import ConvImage, DenseImage, GradBlocking, Pixels, TapStrides, Window

from ._outer import MR, NR, outer_narrow, outer_narrow_part, outer_wide, outer_wide_part
from ._simd import (
    Floats,
    Int,
    W,
    address,
    at,
    floats_at,
    inline,
    kernel,
    load,
    load_part,
    splat,
    stack_floats,
    stack_ints,
    store,
    store_part,
)

MAX_PIXELS = 256
"""Most pixels of a chunk."""
PANELS = 4
"""Most panels of dy, NR columns each, that are held beside each other."""
LINE = 32
"""Elements that are written side by side."""
ROOM = (MR + W - 1) // W * W
"""Floats of a pixel's channels that a tile reads, held in whole vectors."""


HELD, BESIDE, LINES = MAX_PIXELS * ROOM, MAX_PIXELS * PANELS * NR, LINE * W


@kernel
def conv_grad_weight(
    x: Floats,
    dy: Floats,
    y: Floats,
    zeros: Floats,
    image: ConvImage,
    window: Window,
    blocking: GradBlocking,
    first: Int,
    last: Int,
) -> None:
    """y[part, group, ky, kx, ci, co] = Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, ci]·dy[n, oy, ox, co]
    over the ``pixels`` of the part.

    zeros holds cg of them.
    A unit is (part, group, ``columns`` of y); pixels go ``chunk`` at a time, so that both sides
    stay in cache while all taps meet them.
    """
    m, cg, ldy, og = image.m, image.cg, image.ldy, image.og
    kh, kw, sh, sw, dh, dw, ph, pw = window
    groups, _, pixels, columns, chunk, padded = blocking
    table = stack_ints(MAX_PIXELS)
    rows = stack_ints(MAX_PIXELS)
    held = stack_floats(HELD)
    panels = stack_floats(BESIDE)
    for i in range(MAX_PIXELS):
        rows[i] = address(held, i * ROOM)
    blocks = (og + columns - 1) // columns
    taps = kh * kw
    nothing = address(zeros, 0)
    for unit in range(first, last):
        pair = unit // blocks
        n0 = (unit - pair * blocks) * columns
        n1 = min(og, n0 + columns)
        part = pair // groups
        g = pair - part * groups
        yg = at(y, pair * taps * cg * padded)
        p0 = part * pixels
        p1 = min(m, p0 + pixels)
        begins = True
        while p0 < p1:
            count = min(chunk, p1 - p0)
            col = n0
            while col < n1:
                cols = min(n1 - col, PANELS * NR)
                _hold(at(dy, p0 * ldy + g * og + col), ldy, count, cols, panels)
                for t in range(taps):
                    ky = t // kw
                    _addresses(table, x, g * cg, nothing, p0, count, ky * dh - ph, (t - ky * kw) * dw - pw, image, sh, sw)
                    _tap(table, rows, held, count, panels, at(yg, t * cg * padded + col), padded, cg, cols, begins)
                col += cols
            begins = False
            p0 += chunk


@inline
def _hold(dy, ldy, count, cols, panels):
    """Columns of dy as panels, each pixel's NR beside those of the next."""
    c = 0
    while c < cols:
        target = at(panels, c * count)
        some = min(NR, cols - c)
        for p in range(count):
            line = at(dy, p * ldy + c)
            for v in range(0, some, W):
                if v + W <= some:
                    store(target, p * NR + v, load(line, v))
                else:
                    store(target, p * NR + v, load_part(line, v, some - v))
        c += NR


@inline
def _addresses(table, x, c0, nothing, p0, count, dy, dx, image, sh, sw):
    """Where the tap that lies (dy, dx) from the stride's corner finds each pixel's channels."""
    h, width, ldx, oh, ow = image.h, image.width, image.ldx, image.oh, image.ow
    base = address(x, c0)
    line = p0 // ow
    ox = p0 - line * ow
    n = line // oh
    oy = line - n * oh
    i = 0
    while i < count:
        iy = oy * sh + dy
        row = base + (n * h + iy) * width * ldx * 4
        end = min(count, i + ow - ox)
        if 0 <= iy and iy < h:
            ix = ox * sw + dx
            while i < end:
                table[i] = row + ix * ldx * 4 if 0 <= ix and ix < width else nothing
                ix += sw
                i += 1
        else:
            while i < end:
                table[i] = nothing
                i += 1
        ox = 0
        oy += 1
        if oy == oh:
            oy = 0
            n += 1


@inline
def _tap(table, rows, held, count, panels, y, padded, cg, n, begins):
    """All register tiles of one tap, rows in tiles of equal height. A tile's part of x is held for all panels, where there
    are several."""
    tiles = (cg + MR - 1) // MR
    small = cg // tiles
    extra = cg - small * tiles
    c0 = 0
    for t in range(tiles):
        height = small + 1 if t < extra else small
        if n > NR:
            for p in range(count):
                source = table[p] + c0 * 4
                for v in range(0, height, W):
                    store(held, p * ROOM + v, load_part(floats_at(source), v, min(W, height - v)))
        where = rows if n > NR else table
        k0 = 0 if n > NR else c0
        col = 0
        while col < n:
            cols = n - col
            c = at(y, c0 * padded + col)
            b = at(panels, col * count)
            if cols >= NR:
                outer_wide(height, where, k0, count, b, NR, c, padded, begins, cols)
            elif cols > W:
                outer_wide_part(height, where, k0, count, b, NR, c, padded, begins, cols)
            elif cols == W:
                outer_narrow(height, where, k0, count, b, NR, c, padded, begins, cols)
            else:
                outer_narrow_part(height, where, k0, count, b, NR, c, padded, begins, cols)
            col += NR
        c0 += height


@kernel
def merge(
    x: Floats,
    y: Floats,
    parts: Int,
    taps: Int,
    cg: Int,
    og: Int,
    padded: Int,
    step: Int,
    strides: TapStrides,
    first: Int,
    last: Int,
) -> None:
    """y[g·group + t·tap + i·ci + o·co] = Σ_part x[part·step + ((g·taps + t)·cg + i)·padded + o]; a
    unit is a vector of outputs o of a group."""
    tap, ci, co, group = strides
    held = stack_floats(LINES)
    blocks = (og + W - 1) // W
    for unit in range(first, last):
        g = unit // blocks
        o0 = (unit - g * blocks) * W
        count = min(W, og - o0)
        i0 = 0
        t0 = 0
        while i0 < cg:  # some elements of all W lines, then more: the lines' pitch may be a power of 2
            i = i0
            t = t0
            n = 0
            while n < LINE and i < cg:
                source = at(x, ((g * taps + t) * cg + i) * padded + o0)
                total = load(source, 0)
                for part in range(1, parts):
                    total = total + load(source, part * step)
                store(held, n * W, total)
                n += 1
                t += 1
                if t == taps:
                    t = 0
                    i += 1
            for o in range(count):
                target = at(y, g * group + (o0 + o) * co + i0 * ci + t0 * tap)
                if ci == taps * tap:
                    for r in range(n):
                        target[r * tap] = held[r * W + o]
                else:
                    place = 0
                    u = t0
                    for r in range(n):
                        target[place] = held[r * W + o]
                        place += tap
                        u += 1
                        if u == taps:
                            u = 0
                            place += ci - taps * tap
            i0 = i
            t0 = t


@kernel
def depthwise_grad_weight(
    x: Floats,
    dy: Floats,
    y: Floats,
    n: Int,
    image: DenseImage,
    window: Window,
    rows: Int,
    padded: Int,
    first: Int,
    last: Int,
) -> None:
    """y[part, ky, kx, c] = Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, c]·dy[n, oy, ox, c] over the
    part's ``rows`` of dy.

    y has ``padded`` floats a tap. A unit is a part.
    """
    h, width, c, oh, ow = image
    kh, kw, sh, dh, ph = window.kh, window.kw, window.sh, window.dh, window.ph
    for unit in range(first, last):
        mine = at(y, unit * kh * kw * padded)
        for i in range(0, kh * kw * padded, W):
            store(mine, i, splat(0.0))
        for line in range(unit * rows, min((unit + 1) * rows, n * oh)):
            sample = line // oh
            iy0 = (line - sample * oh) * sh - ph
            for ky in range(kh):
                iy = iy0 + ky * dh
                if 0 <= iy and iy < h:
                    xr = at(x, (sample * h + iy) * width * c)
                    dr = at(dy, line * ow * c)
                    for c0 in range(0, c, W):
                        _filter_row(
                            at(xr, c0), at(dr, c0), at(mine, ky * kw * padded + c0), min(W, c - c0), image, window, padded
                        )


@inline
def _filter_row(x, dy, y, cols, image, window, padded):
    """One row of pixels, W channels: what each tap of one row of the filter adds."""
    width, c, ow = image.width, image.c, image.ow
    kw, sw, dw, pw = window.kw, window.sw, window.dw, window.pw
    kx = 0
    if kw == 3 and cols == W:
        low, high = _inside(0, sw, dw, pw, width, ow)
        low2, high2 = _inside(2, sw, dw, pw, width, ow)
        low, high = max(low, low2), min(high, high2)
        if low < high:
            a0 = load(y, 0)
            a1 = load(y, padded)
            a2 = load(y, 2 * padded)
            for ox in range(low, high):
                d = load(dy, ox * c)
                p = (ox * sw - pw) * c
                a0 = a0 + load(x, p) * d
                a1 = a1 + load(x, p + dw * c) * d
                a2 = a2 + load(x, p + 2 * dw * c) * d
            store(y, 0, a0)
            store(y, padded, a1)
            store(y, 2 * padded, a2)
            while kx < 3:
                begin, end = _inside(kx, sw, dw, pw, width, ow)
                total = load(y, kx * padded)
                for ox in range(begin, low):
                    total = total + load(x, (ox * sw - pw + kx * dw) * c) * load(dy, ox * c)
                for ox in range(high, end):
                    total = total + load(x, (ox * sw - pw + kx * dw) * c) * load(dy, ox * c)
                store(y, kx * padded, total)
                kx += 1
    while kx < kw:
        begin, end = _inside(kx, sw, dw, pw, width, ow)
        total = load(y, kx * padded)
        for ox in range(begin, end):
            p = (ox * sw - pw + kx * dw) * c
            if cols == W:
                total = total + load(x, p) * load(dy, ox * c)
            else:
                total = total + load_part(x, p, cols) * load_part(dy, ox * c, cols)
        store(y, kx * padded, total)
        kx += 1


@inline
def _inside(kx, sw, dw, pw, width, ow):
    """[first, end) of the outputs for which tap kx lies inside the row."""
    begin = 0
    while begin < ow and begin * sw - pw + kx * dw < 0:
        begin += 1
    end = ow
    while end > begin and (end - 1) * sw - pw + kx * dw >= width:
        end -= 1
    return begin, end


@kernel
def depthwise_transposed(
    dy: Floats,
    w: Floats,
    b: Floats,
    y: Floats,
    image: DenseImage,
    window: Window,
    padded: Int,
    first: Int,
    last: Int,
) -> None:
    """y[n, iy, ix, c] = b[c] + Σ dy[n, oy, ox, c]·w[ky, kx, c] where oy·sh + ky·dh - ph = iy, ox·sw
    + kx·dw - pw = ix: the transpose of a depthwise convolution. y (n, h, width, c), dy (n, oh, ow,
    c); w (kh, kw, padded).
    A unit is a row of y."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    for unit in range(first, last):
        n = unit // h
        iy = unit - n * h
        for c0 in range(0, c, W):
            cols = min(W, c - c0)
            for ix in range(width):
                target = at(y, (unit * width + ix) * c + c0)
                total = load(b, c0)
                for ky in range(kh):
                    down = iy + ph - ky * dh
                    oy = down // sh
                    if down >= 0 and oy * sh == down and oy < oh:
                        row = at(dy, (n * oh + oy) * ow * c + c0)
                        for kx in range(kw):
                            across = ix + pw - kx * dw
                            ox = across // sw
                            if across >= 0 and ox * sw == across and ox < ow:
                                v = load(row, ox * c) if cols == W else load_part(row, ox * c, cols)
                                total = total + v * load(w, (ky * kw + kx) * padded + c0)
                if cols == W:
                    store(target, 0, total)
                else:
                    store_part(target, 0, total, cols)


@kernel
def channel_sums(x: Floats, y: Floats, split: Pixels, padded: Int, first: Int, last: Int) -> None:
    """y[part, c] = Σ x[p, c] over the part's pixels; a unit is a part."""
    pixels, total, c = split
    for unit in range(first, last):
        mine = at(y, unit * padded)
        end = min(total, (unit + 1) * pixels)
        for c0 in range(0, c, 4 * W):
            a0 = splat(0.0)
            a1 = splat(0.0)
            a2 = splat(0.0)
            a3 = splat(0.0)
            if c0 + 4 * W <= c:
                for p in range(unit * pixels, end):
                    row = at(x, p * c + c0)
                    a0 = a0 + load(row, 0)
                    a1 = a1 + load(row, W)
                    a2 = a2 + load(row, 2 * W)
                    a3 = a3 + load(row, 3 * W)
                store(mine, c0, a0)
                store(mine, c0 + W, a1)
                store(mine, c0 + 2 * W, a2)
                store(mine, c0 + 3 * W, a3)
            else:
                for c1 in range(c0, c, W):
                    a0 = splat(0.0)
                    cols = min(W, c - c1)
                    for p in range(unit * pixels, end):
                        a0 = a0 + (load(x, p * c + c1) if cols == W else load_part(x, p * c + c1, cols))
                    store(mine, c1, a0)
