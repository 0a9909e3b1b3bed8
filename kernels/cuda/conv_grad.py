"""Gradients of convolutions on channels-last data: of the weights, and of what depthwise ones read.

Sums over pixels are split into parts that depend on shapes alone; `merge` adds them in order. Units are smaller than the
CPU's (`Lowering.finer`): a tile of the product, a vector of channels.
"""

from nbconv.kernels.params import ConvImage, DenseImage, GradBlocking, Pixels, TapStrides, Window

from ._simd import (
    Float,
    Floats,
    Int,
    W,
    aligned,
    at,
    barrier,
    below,
    cuda,
    get,
    inline,
    kernel,
    load,
    load4,
    on_tensor_cores,
    put,
    quotient,
    shared_floats,
    splat,
    store,
    store4,
    tiled,
)
from ._tile import DEPTH, SMALL, working

ROWS, COLUMNS, THREADS = SMALL.rows, SMALL.columns, SMALL.threads
QUADS = ROWS // 4
OUTSIDE, LOW = 1 << 30, 0xFFFFFFFF
"""How far below an image a tap lies that there is not."""
SIDE = 32
HELD = SIDE * (SIDE + 1)
MERGERS = 256
"""Threads of `merge`."""


@inline
def _read(whole, held, x, dy, p, p1, end, iy, ix, corner, columns, taps, shift, h, width):
    """A thread's quads of both sides for pixel p, zeros from p1 on and outside the image."""
    for j in range(8):
        held[j] = Float(0)
    if whole:
        if below(p, p1) and _meets(iy, ix, taps[0], h, width):
            v = load4(x, corner + shift[0])
            held[0], held[1], held[2], held[3] = v[0], v[1], v[2], v[3]
        if below(p, end):
            v = load4(dy, 0)
            held[4], held[5], held[6], held[7] = v[0], v[1], v[2], v[3]
    else:
        for j in range(4):
            if below(p, p1) and _meets(iy, ix, taps[j], h, width):
                held[j] = x[corner + shift[j]]
            if below(p, p1) and j < columns:
                held[4 + j] = dy[j]


@inline
def _meets(iy, ix, tap, h, width):
    """Whether a tap meets the image: what is negative is large as a number without sign."""
    return below(iy + (tap >> 32), h) and below(ix + tap, width)


@inline
def _inside(i, n):
    return i >= 0 and i < n


def grad_weight(tensor: bool):
    """The kernel `conv_grad_weight`; ``tensor``: on tensor cores."""
    work = working(SMALL, tensor)
    half_size, both, sums, rows_held, columns_held = work.size, work.both, work.sums, work.high, work.wide
    place, reads, multiply, put_turned = work.place, work.reads, work.multiply, work.put_turned
    row_of, turned_row = work.row_of, work.turned_row

    @inline
    def products(whole, shared, acc, x, dy, r0, n0, p0, p1, image, window):
        """Sums over pixels [p0, p1). A thread reads four rows (ky, kx, ci) and four columns of every 8th pixel; ``whole``:
        16 bytes at a time. Where a pixel's window lies is carried from one to the next: divisions take longer than reading.
        """
        _, h, width, ldx, cg, oh, ow, ldy, og = image
        kh, kw, sh, sw, dh, dw, ph, pw = window
        t = Int(cuda.threadIdx.x)
        mine = t // QUADS
        quad = t % QUADS * 4
        held = cuda.local.array(8, Float)
        taps = cuda.local.array(4, Int)  # a row's tap from the stride's corner: down in the high half, across in the low
        shift = cuda.local.array(4, Int)
        for j in range(4):
            if j == 0 or not whole:
                r = r0 + quad + j
                tap = quotient(r, cg)
                ky = quotient(tap, kw)
                down = ky * dh - ph
                across = (tap - ky * kw) * dw - pw
                shift[j] = (down * width + across) * ldx + r - tap * cg
                taps[j] = ((down if below(tap, kh * kw) else OUTSIDE) << 32) + (across & LOW)
        p = p0 + mine
        line = quotient(p, ow)
        ix = (p - line * ow) * sw
        n = quotient(line, oh)
        iy = (line - n * oh) * sh
        corner = ((n * h + iy) * width + ix) * ldx
        skip_y = quotient(DEPTH, ow)
        skip_x = (DEPTH - skip_y * ow) * sw
        skip_n = quotient(skip_y, oh)
        skip_y = (skip_y - skip_n * oh) * sh
        skip = ((skip_n * h + skip_y) * width + skip_x) * ldx
        wide, high = ow * sw, oh * sh
        skip_line = (sh * width - wide) * ldx
        skip_image = (h - high) * width * ldx
        dy = at(dy, p * ldy + n0 + quad)
        columns = og - n0 - quad
        end = p1 if columns > 0 else 0
        _read(whole, held, x, dy, p, p1, end, iy, ix, corner, columns, taps, shift, h, width)
        put_turned(shared, 0, t % QUADS, mine, held)
        barrier()
        half = 0
        reads_a, reads_b = reads()
        done = p0
        while below(done, p1):
            done += DEPTH
            p += DEPTH
            dy = at(dy, DEPTH * ldy)
            corner += skip
            ix += skip_x
            iy += skip_y
            if not below(ix, wide):
                ix -= wide
                iy += sh
                corner += skip_line
            if not below(iy, high):
                iy -= high
                corner += skip_image
            if whole:  # on its way while the other half is multiplied; what is read singly needs too many registers for that
                _read(True, held, x, dy, p, p1, end, iy, ix, corner, columns, taps, shift, h, width)
            multiply(shared, half + reads_a, half + reads_b, acc)
            if not whole:
                _read(False, held, x, dy, p, p1, end, iy, ix, corner, columns, taps, shift, h, width)
            half = half_size - half
            put_turned(shared, half, t % QUADS, mine, held)
            barrier()

    @tiled(THREADS, SMALL.blocks)
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
        """y[part, group, ky, kx, ci, co] = Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, ci]·dy[n, oy, ox, co] over the ``pixels``
        of the part. A unit is (part, group, a tile of ROWS (ky, kx, ci) and COLUMNS co).
        """
        m, ldx, cg, ldy, og = image.m, image.ldx, image.cg, image.ldy, image.og
        kh, kw = window.kh, window.kw
        groups, pixels, padded = blocking.groups, blocking.pixels, blocking.padded
        shared = shared_floats(both)
        acc = cuda.local.array(sums, Float)
        for i in range(sums):
            acc[i] = Float(0)
        down = quotient(kh * kw * cg + ROWS - 1, ROWS)
        across = quotient(og + COLUMNS - 1, COLUMNS)
        pair = quotient(first, down * across)
        tile = first - pair * down * across
        r0 = quotient(tile, across) * ROWS
        n0 = tile * COLUMNS - quotient(tile, across) * across * COLUMNS
        part = quotient(pair, groups)
        g = pair - part * groups
        p0 = part * pixels
        p1 = min(m, p0 + pixels)
        xg = at(x, g * cg)
        dyg = at(dy, g * og)
        whole = cg % 4 == 0 and ldx % 4 == 0 and og % 4 == 0 and ldy % 4 == 0 and aligned(x) and aligned(dy)
        if whole:
            products(True, shared, acc, xg, dyg, r0, n0, p0, p1, image, window)
        else:
            products(False, shared, acc, xg, dyg, r0, n0, p0, p1, image, window)
        ty, tx = place()
        target = at(y, pair * kh * kw * cg * padded + n0 + tx * 4)
        for i in range(rows_held):
            r = r0 + turned_row(row_of(ty, i))
            if below(r, kh * kw * cg):
                for j in range(0, columns_held, 4):
                    s = i * columns_held + j
                    store4(target, r * padded + j, acc[s], acc[s + 1], acc[s + 2], acc[s + 3])

    return conv_grad_weight


conv_grad_weight = grad_weight(False)
conv_grad_weight_tf32 = on_tensor_cores(grad_weight(True))


@tiled(MERGERS)
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
    """y[g·group + t·tap + i·ci + o·co] = Σ_part x[part·step + ((g·taps + t)·cg + i)·padded + o]; a unit is a tile of 32
    outputs o of a group and 32 (i, t), which lie as near in y as the outputs do in x."""
    tap, ci, co, group = strides
    held = shared_floats(HELD)
    rows = taps * cg
    across = quotient(og + SIDE - 1, SIDE)
    down = quotient(rows + SIDE - 1, SIDE)
    strip = quotient(first, across)
    o0 = (first - strip * across) * SIDE
    g = quotient(strip, down)
    q0 = (strip - g * down) * SIDE
    outputs = min(SIDE, og - o0)
    rows = min(SIDE, rows - q0)
    t = Int(cuda.threadIdx.x)
    for q in range(t // W, rows, MERGERS // W):
        i = quotient(q0 + q, taps)
        source = at(x, ((g * taps + q0 + q - i * taps) * cg + i) * padded + o0 + t % W)
        total = source[0]
        for part in range(1, parts):
            total += source[part * step]
        held[q * (SIDE + 1) + t % W] = total
    barrier()
    for e in range(t, rows * outputs, MERGERS):
        o = quotient(e, rows)
        q = e - o * rows
        i = quotient(q0 + q, taps)
        y[g * group + (q0 + q - i * taps) * tap + i * ci + (o0 + o) * co] = held[q * (SIDE + 1) + o]
    barrier()


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
    """y[part, ky, kx, c] = Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, c]·dy[n, oy, ox, c] over the part's ``rows`` of dy.

    y has ``padded`` floats a tap. A unit is (part, vector of channels, ky).
    """
    c, oh, kh, kw = image.c, image.oh, window.kh, window.kw
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        pair = quotient(unit, kh)
        ky = unit - pair * kh
        part = quotient(pair, vectors)
        c0 = (pair - part * vectors) * W
        target = at(y, (part * kh + ky) * kw * padded + c0)
        line0 = part * rows
        line1 = min(line0 + rows, n * oh)
        for kx in range(0, kw, 3):
            _taps(x, dy, target, line0, line1, c0, ky, kx, min(3, kw - kx), image, window, padded)


@inline
def _taps(x, dy, y, line0, line1, c0, ky, kx, count, image, window, padded):
    """Up to three taps, kx and to the right, of W channels over some rows of dy."""
    h, width, c, oh, ow = image
    _, _, sh, sw, dh, dw, ph, pw = window
    cols = c - c0
    a0, a1, a2 = splat(0.0), splat(0.0), splat(0.0)
    for line in range(line0, line1):
        sample = quotient(line, oh)
        iy = (line - sample * oh) * sh - ph + ky * dh
        if _inside(iy, h):
            row = (sample * h + iy) * width * c + c0
            ix = kx * dw - pw
            for ox in range(ow):
                d = get(dy, (line * ow + ox) * c + c0, cols)
                if _inside(ix, width):
                    a0 = a0 + get(x, row + ix * c, cols) * d
                if count > 1 and _inside(ix + dw, width):
                    a1 = a1 + get(x, row + (ix + dw) * c, cols) * d
                if count > 2 and _inside(ix + 2 * dw, width):
                    a2 = a2 + get(x, row + (ix + 2 * dw) * c, cols) * d
                ix += sw
    store(y, kx * padded, a0)
    if count > 1:
        store(y, (kx + 1) * padded, a1)
    if count > 2:
        store(y, (kx + 2) * padded, a2)


@kernel
def depthwise_transposed(
    dy: Floats, w: Floats, b: Floats, y: Floats, image: DenseImage, window: Window, padded: Int, first: Int, last: Int
) -> None:
    """y[n, iy, ix, c] = b[c] + Σ dy[n, oy, ox, c]·w[ky, kx, c] where oy·sh + ky·dh - ph = iy, ox·sw + kx·dw - pw = ix: the
    transpose of a depthwise convolution. y (n, h, width, c), dy (n, oh, ow, c); w (kh, kw, padded). A unit is a row of y,
    W channels wide."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        line = quotient(unit, vectors)
        c0 = (unit - line * vectors) * W
        cols = c - c0
        n = quotient(line, h)
        iy = line - n * h
        bias = load(b, c0)
        for ix in range(width):
            total = bias
            for ky in range(kh):
                down = iy + ph - ky * dh
                oy = quotient(max(down, 0), sh)
                if oy * sh == down and oy < oh:
                    row = (n * oh + oy) * ow * c + c0
                    for kx in range(kw):
                        across = ix + pw - kx * dw
                        ox = quotient(max(across, 0), sw)
                        if ox * sw == across and ox < ow:
                            total = total + get(dy, row + ox * c, cols) * load(w, (ky * kw + kx) * padded + c0)
            put(y, (line * width + ix) * c + c0, total, cols)


@kernel
def channel_sums(x: Floats, y: Floats, split: Pixels, padded: Int, first: Int, last: Int) -> None:
    """y[part, c] = Σ x[p, c] over the part's pixels; a unit is a part, W channels wide."""
    pixels, total, c = split
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        part = quotient(unit, vectors)
        c0 = (unit - part * vectors) * W
        cols = c - c0
        a, b = splat(0.0), splat(0.0)
        p = part * pixels
        end = min(total, p + pixels)
        while p + 1 < end:
            a = a + get(x, p * c + c0, cols)
            b = b + get(x, (p + 1) * c + c0, cols)
            p += 2
        if p < end:
            a = a + get(x, p * c + c0, cols)
        store(y, part * padded + c0, a + b)
