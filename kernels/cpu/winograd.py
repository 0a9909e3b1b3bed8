"""3×3 convolution at stride 1 by Winograd's minimal filtering, on channels-last data.

A block of tiles is transformed, multiplied with the transformed weights at each of the 36 (16) points by the matrix kernel,
and transformed back, all within one thread's scratch memory.
"""

from ._epilogue import activate, in_registers, short_only
from ._math import activated
from ._simd import (
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
    stack_floats,
    stack_ints,
    store,
    store_part,
)
from ._tile import block
from ._winograd import into_2, into_4, out_of_2, out_of_4, whole_2, whole_4

MAX_TILES = 256
"""Most tiles of a block."""
PIXELS = 16 * W
SKEW = 16
"""Floats between the points' matrices: else the points of a tile may all lie in one set of the cache."""


@kernel
def winograd(
    x: Floats, w: Floats, b: Floats, res: Floats, y: Floats, zeros: Floats, scratch: Floats,
    n: Int, h: Int, width: Int, ldx: Int, ci: Int, oh: Int, ow: Int, co: Int, ldy: Int, ldres: Int, ph: Int, pw: Int,
    size: Int, tiles: Int, columns: Int, group: Int, inner: Int, padded: Int, area: Int,
    low: Float, high: Float, act: Int, alpha: Float, beta: Float, scale: Floats, shift: Floats, first: Int, last: Int,
    slot: Int,
) -> None:  # fmt: skip
    """y = act(clamp(conv(x, w) + b + res)), size × size results a tile (4 or 2), ``tiles`` tiles a unit.

    A unit is (block of tiles, ``group`` channels of y). w is packed [(size+2)² points][panel][ci][NR], ``padded`` columns;
    results go ``columns`` channels at a time. ``inner``
    is ci rounded up to vectors. ``area`` floats of scratch a thread hold V (points, tiles, inner) and M (points, tiles,
    columns), `SKEW` floats behind each point.
    """
    table = stack_ints(MAX_TILES)
    order = stack_ints(MAX_TILES)
    pixels = stack_floats(PIXELS)
    edge = size + 2
    points = edge * edge
    down = (oh + size - 1) // size
    across = (ow + size - 1) // size
    total = n * down * across
    v_step = tiles * inner + SKEW
    m_step = tiles * columns + SKEW
    v = at(scratch, slot * area)
    m = at(v, points * v_step)
    for i in range(tiles):
        order[i] = i
    groups = (co + group - 1) // group
    for unit in range(first, last):
        part = unit // groups
        t0 = part * tiles
        col = (unit - part * groups) * group
        end = min(co, col + group)
        count = min(tiles, total - t0)
        for i in range(count):
            _input(table, x, zeros, t0 + i, down, across, size, h, width, ldx, ci, ph, pw, at(v, i * inner), v_step)
        while col < end:
            cols = min(columns, end - col)
            for p in range(points):
                for i in range(count):
                    table[i] = address(v, p * v_step + i * inner)
                block(
                    table, count, 1, ci, 0, at(w, p * ci * padded), 0, ci, order, at(m, p * m_step - col), columns,
                    True, False, b, res, 0, low, high, col, col + cols, co, 0, alpha, beta, scale, shift,
                )  # fmt: skip
            for i in range(count):
                t = t0 + i
                line = t // across
                image = line // down
                oy = (line - image * down) * size
                ox = (t - line * across) * size
                place = (image * oh + oy) * ow + ox
                begin = 0
                if oy + size <= oh and ox + size <= ow and cols >= W:
                    begin = cols // W * W
                    q = at(y, place * ldy + col)
                    r = at(res, place * ldres + col) if ldres > 0 else res
                    f = at(scale, col) if address(scale, 0) != 0 else scale
                    s = at(shift, col) if address(scale, 0) != 0 else scale
                    if size == 4:
                        whole_4(
                            at(m, i * columns), m_step, begin, at(b, col), r, ow * ldres, ldres, q, ow * ldy, ldy, low, high,
                            act, alpha, beta, short_only(act, f), s,
                        )  # fmt: skip
                    else:
                        whole_2(
                            at(m, i * columns), m_step, begin, at(b, col), r, ow * ldres, ldres, q, ow * ldy, ldy, low, high,
                            act, alpha, beta, short_only(act, f), s,
                        )  # fmt: skip
                    if not in_registers(act):
                        _activate_tile(q, size, ow * ldy, ldy, begin, act, alpha, beta, f, s)
                for j in range(begin, cols, W):
                    if size == 4:
                        out_of_4(at(m, i * columns + j), m_step, pixels)
                    else:
                        out_of_2(at(m, i * columns + j), m_step, pixels)
                    _output(
                        pixels, size, min(size, oh - oy), min(size, ow - ox), ow, ldy, ldres, at(b, col + j), res, y,
                        place, col + j,
                        min(W, cols - j), low, high, act, alpha, beta, scale, shift,
                    )  # fmt: skip
            col += columns


@inline
def _input(table, x, zeros, t, down, across, size, h, width, ldx, ci, ph, pw, v, step):
    """Gather one tile's pixels and transform them, all channels."""
    line = t // across
    image = line // down
    iy0 = (line - image * down) * size - ph
    ix0 = (t - line * across) * size - pw
    edge = size + 2
    base = address(x, 0)
    nothing = address(zeros, 0)
    k = 0
    for i in range(edge):
        iy = iy0 + i
        for j in range(edge):
            ix = ix0 + j
            a = nothing
            if 0 <= iy and iy < h and 0 <= ix and ix < width:
                a = base + ((image * h + iy) * width + ix) * ldx * 4
            table[k] = a
            k += 1
    if size == 4:
        into_4(table, ci, v, step)
    else:
        into_2(table, ci, v, step)


@inline
def _activate_tile(y, size, row, ldy, channels, act, alpha, beta, scale, shift):
    affine = address(scale, 0) != 0
    for i in range(size):
        for j in range(size):
            for c in range(0, channels, W):
                f = at(scale, c) if affine else scale
                s = at(shift, c) if affine else scale
                activate(act, alpha, beta, f, s, at(y, i * row + j * ldy + c), W)


@inline
def _output(
    pixels, size, rows, columns, ow, ldy, ldres, b, res, y, place, channel, cols, low, high, act, alpha, beta, scale, shift
):
    """Bias, residual, clamp and activation of one tile's results for a vector of channels, stored where the image has
    them."""
    bias = load(b, 0)
    given = address(scale, 0) != 0
    for i in range(rows):
        for j in range(columns):
            v = load(pixels, (i * size + j) * W) + bias
            q = place + i * ow + j
            if cols == W:
                if ldres > 0:
                    v = v + load(res, q * ldres + channel)
            elif ldres > 0:
                v = v + load_part(res, q * ldres + channel, cols)
            v = activated(act, minimum(maximum(v, low), high), alpha, beta)
            if given:
                v = v * load(scale, channel) + load(shift, channel)
            if cols == W:
                store(y, q * ldy + channel, v)
            else:
                store_part(y, q * ldy + channel, v, cols)
