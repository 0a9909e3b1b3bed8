"""Gradients of convolutions on channels-last data: of the weights, and of what depthwise ones read.

Sums over pixels are split into parts that depend on shapes alone; `merge` adds them in order.
Units are smaller than the CPU's (`Lowering.gpu_split`): a tile of the product, a vector of
channels.
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
    inline,
    kernel,
    lane,
    load4,
    on_tensor_cores,
    put,
    quotient,
    shared_floats,
    splat,
    store4,
    tiled,
)
from ._tile import DEPTH, SMALL, working
from .pool_grad import STRIP, strip

ROWS, COLUMNS, THREADS = SMALL.rows, SMALL.columns, SMALL.threads
QUADS = ROWS // 4
OUTSIDE, LOW = 1 << 30, 0xFFFFFFFF
"""How far below an image a tap lies that there is not."""
DOWN = 8
"""Rows (i, t) of a unit of `merge` (nbconv/lowering/conv/weight_grad.py counts by it)."""
PITCH = W + 4  # so that no two threads meet in a bank, whichever way they go through the tile
HELD = DOWN * PITCH
MERGERS = DOWN * W
"""Threads of `merge`."""
WARPS = 16
SUMMERS = WARPS * W
"""Threads of what sums over pixels."""


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


def grad_weight(tensor: bool):
    """The kernel `conv_grad_weight`; ``tensor``: on tensor cores."""
    work = working(SMALL, tensor)
    half_size, both, sums, rows_held, columns_held = work.size, work.both, work.sums, work.high, work.wide
    place, reads, multiply, put_turned = work.place, work.reads, work.multiply, work.put_turned
    row_of, turned_row = work.row_of, work.turned_row

    @inline
    def products(whole, shared, acc, x, dy, r0, n0, p0, p1, image, window):
        """Sums over pixels [p0, p1).
        A thread reads four rows (ky, kx, ci) and four columns of every 8th pixel; ``whole``: 16
        bytes at a time.
        Where a pixel's window lies is carried from one to the next: divisions take longer than
        reading.
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
        """y[part, group, ky, kx, ci, co] = Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, ci]·dy[n, oy, ox,
        co] over the ``pixels`` of the part.
        A unit is (part, group, a tile of ROWS (ky, kx, ci) and COLUMNS co).
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
    """y[g·group + t·tap + i·ci + o·co] = Σ_part x[part·step + ((g·taps + t)·cg + i)·padded + o]; a
    unit is a tile of 32 outputs o of a group and 8 (i, t), which lie as near in y as the outputs do
    in x."""
    tap, ci, co, group = strides
    held = shared_floats(HELD)
    rows = taps * cg
    across = quotient(og + W - 1, W)
    down = quotient(rows + DOWN - 1, DOWN)
    strip = quotient(first, across)
    o0 = (first - strip * across) * W
    g = quotient(strip, down)
    q0 = (strip - g * down) * DOWN
    outputs = min(W, og - o0)
    rows = min(DOWN, rows - q0)
    t = Int(cuda.threadIdx.x)
    q = t // W
    if q < rows:
        i = quotient(q0 + q, taps)
        source = at(x, ((g * taps + q0 + q - i * taps) * cg + i) * padded + o0 + t % W)
        total = source[0]
        for part in range(1, parts):
            total += source[part * step]
        held[q * PITCH + t % W] = total
    barrier()
    o = quotient(t, rows)
    q = t - o * rows
    if o < outputs:
        i = quotient(q0 + q, taps)
        y[g * group + (q0 + q - i * taps) * tap + i * ci + (o0 + o) * co] = held[q * PITCH + o]
    barrier()


@inline
def _whole(held, v):
    """The sum of the warps' v, on each of them."""
    t = Int(cuda.threadIdx.x)
    held[t] = v
    barrier()
    total = held[t % W]
    for warp in range(1, WARPS):
        total += held[warp * W + t % W]
    barrier()
    return total


@inline
def _tap(x, row, ix, there, width, c, d):
    """d times what a tap at ix meets in a row of x, 0 where that is no part of the image.
    Nothing branches, so that one read does not wait for another."""
    there = there & below(ix, width)
    v = x[row + (ix if there else 0) * c] * d
    return v if there else Float(0)


@tiled(SUMMERS, 2)
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

    y has ``padded`` floats a tap.
    A unit is (part, vector of channels, ky); a warp has every 16th pixel.
    """
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    held = shared_floats(SUMMERS)
    vectors = quotient(c + W - 1, W)
    pair = quotient(first, kh)
    ky = first - pair * kh
    part = quotient(pair, vectors)
    t = Int(cuda.threadIdx.x)
    channel = (pair - part * vectors) * W + t % W
    mine = min(channel, c - 1)  # threads past the last channel read what it reads
    end = min((part + 1) * rows, n * oh) * ow
    for kx in range(0, kw, 3):
        a0, a1, a2 = Float(0), Float(0), Float(0)
        for p in range(part * rows * ow + t // W, end, WARPS):
            line = quotient(p, ow)
            sample = quotient(line, oh)
            iy = (line - sample * oh) * sh - ph + ky * dh
            ix = (p - line * ow) * sw - pw + kx * dw
            there = below(iy, h)
            row = (sample * h + (iy if there else 0)) * width * c + mine
            d = dy[p * c + mine]
            a0 += _tap(x, row, ix, there, width, c, d)
            a1 += _tap(x, row, ix + dw, there, width, c, d)
            a2 += _tap(x, row, ix + 2 * dw, there, width, c, d)
        a0, a1, a2 = _whole(held, a0), _whole(held, a1), _whole(held, a2)
        if t < W:
            target = at(y, ((part * kh + ky) * kw + kx) * padded + channel)
            target[0] = a0
            if kx + 1 < kw:
                target[padded] = a1
            if kx + 2 < kw:
                target[2 * padded] = a2


@inline
def _met(i, s, n):
    """Which of n cells, s apart, lies at i; -1 where none does."""
    o = i if s == 1 else quotient(max(i, 0), s)
    return o if o * s == i and below(o, n) else -1


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
    A unit is a strip of a row of y, W channels wide."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    for unit in range(first, last):
        line, n, iy, ix0, c0 = strip(unit, width, h, c)
        cols = c - c0
        mine = min(c0 + lane(), c - 1)  # threads past the last channel read what it reads
        for ix in range(ix0, min(ix0 + STRIP, width)):
            total = b[mine]
            for ky in range(kh):
                oy = _met(iy + ph - ky * dh, sh, oh)
                if oy >= 0:
                    row = (n * oh + oy) * ow
                    for kx in range(0, kw, 3):
                        across = ix + pw - kx * dw
                        v0 = _back(dy, w, row, ky * kw + kx, across, True, sw, ow, c, padded, mine)
                        v1 = _back(dy, w, row, ky * kw + kx + 1, across - dw, kx + 1 < kw, sw, ow, c, padded, mine)
                        v2 = _back(dy, w, row, ky * kw + kx + 2, across - 2 * dw, kx + 2 < kw, sw, ow, c, padded, mine)
                        total = total + v0 + v1 + v2
            put(y, (line * width + ix) * c + c0, splat(total), cols)


@inline
def _back(dy, w, row, tap, across, there, sw, ow, c, padded, channel):
    """What a tap brings from dy, as `_tap`."""
    ox = _met(across, sw, ow)
    there = there & (ox >= 0)
    v = dy[(row + (ox if there else 0)) * c + channel] * w[(tap if there else 0) * padded + channel]
    return v if there else Float(0)


@tiled(SUMMERS)
def channel_sums(x: Floats, y: Floats, split: Pixels, padded: Int, first: Int, last: Int) -> None:
    """y[part, c] = Σ x[p, c] over the part's pixels; a unit is a part, W channels wide, of which a
    warp has every 16th pixel."""
    pixels, total, c = split
    held = shared_floats(SUMMERS)
    vectors = quotient(c + W - 1, W)
    part = quotient(first, vectors)
    t = Int(cuda.threadIdx.x)
    channel = (first - part * vectors) * W + t % W
    a = Float(0)
    for p in range(part * pixels + t // W, min(total, (part + 1) * pixels), WARPS):
        a += x[p * c + min(channel, c - 1)]
    a = _whole(held, a)
    if t < W:
        y[part * padded + channel] = a
