"""3×3 convolution at stride 1 by Winograd's minimal filtering, on channels-last data.

A block of tiles is transformed, multiplied with the transformed weights at each of the 36 (16)
points by the matrix kernel, and transformed back, all within one thread's scratch memory.

Transforms mix all cells of a tile: what a large one rounds to would reach results that do not see
it, and one that is not finite would make NaN of them all.
So the results of a tile are done by the definition, from filters that are got back from their
transforms, where

- a cell is not finite, or so large that its square is not, or
- the squares of those cells that one of the results sees add up to less than 1/`UNEVEN` of those
  that another one sees.

That is looked at where the measures of `into_4` are large, more than `LARGE` a channel, or uneven:
a cell, row or column that is larger than others is in one or two of the four.
Where they are not large, results that see zeros alone do not count: sparse data are no exception.
It depends on the tile alone.
"""

from nbconv.kernels.params import Addends, ConvImage, Epilogue, Filtering

from ._epilogue import activate, addends_from, epilogue_from, in_registers, short_only
from ._math import activated
from ._simd import (
    Float,
    Floats,
    Int,
    W,
    address,
    at,
    floats_at,
    hsum,
    inline,
    kernel,
    load,
    load_part,
    maximum,
    minimum,
    splat,
    stack_floats,
    stack_ints,
    store,
    store_part,
)
from ._tile import NR, block
from ._winograd import direct_2, direct_4, into_2, into_4, out_of_2, out_of_4, whole_2, whole_4
from ._winograd_pixels import tile_pixels

MAX_TILES = 256
"""Most tiles of a block."""
PIXELS = 16 * W
CELLS = 36 * W
LARGE = 2.0**12
UNEVEN = 2.0**10
HUGE = 2.0**126
SKEW = 16
"""Floats between the points' matrices: else the points of a tile may all lie in one set of the
cache."""


@kernel
def winograd(
    x: Floats,
    w: Floats,
    addends: Addends,
    y: Floats,
    zeros: Floats,
    scratch: Floats,
    image: ConvImage,
    filtering: Filtering,
    epilogue: Epilogue,
    first: Int,
    last: Int,
    slot: Int,
) -> None:
    """y = act(clamp(conv(x, w) + bias + residual)), size × size results a tile (4 or 2).

    A unit is (block of tiles, ``group`` channels of y). w is packed [(size+2)²
    points][panel][ci][NR].
    A thread's scratch memory holds V (points, tiles, inner) and M (points, tiles, columns), `SKEW`
    floats behind each point.
    """
    ci, oh, ow, co, ldy = image.cg, image.oh, image.ow, image.og, image.ldy
    _, _, size, tiles, columns, group, inner, padded, area = filtering
    n = image.m // (oh * ow)
    table = stack_ints(MAX_TILES)
    order = stack_ints(MAX_TILES)
    apart = stack_ints(MAX_TILES)
    pixels = stack_floats(PIXELS)
    cells = stack_floats(CELLS)
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
    none = Addends(addends.bias, addends.residual, 0)
    bare = Epilogue(epilogue.low, epilogue.high, Int(0), epilogue.alpha, epilogue.beta, epilogue.scale, epilogue.shift)
    for unit in range(first, last):
        part = unit // groups
        t0 = part * tiles
        col = (unit - part * groups) * group
        end = min(co, col + group)
        count = min(tiles, total - t0)
        for i in range(count):
            rows, across_y = _gather(table, x, zeros, t0 + i, down, across, image, filtering)
            if size == 4:
                into_4(table, ci, at(v, i * inner), v_step, cells)
            else:
                into_2(table, ci, at(v, i * inner), v_step, cells)
            apart[i] = _apart(table, ci, edge, rows, across_y, cells)
        while col < end:
            cols = min(columns, end - col)
            for p in range(points):
                for i in range(count):
                    table[i] = address(v, p * v_step + i * inner)
                wp = at(w, p * ci * padded)
                mp = at(m, p * m_step - col)
                block(table, count, 1, ci, 0, wp, 0, ci, order, mp, columns, True, False, none, col, col + cols, co, bare)
            for i in range(count):
                t = t0 + i
                line = t // across
                oy = (line - line // down * down) * size
                ox = (t - line * across) * size
                place = (line // down * oh + oy) * ow + ox
                begin = 0
                if apart[i] == 1:
                    _gather(table, x, zeros, t, down, across, image, filtering)
                elif oy + size <= oh and ox + size <= ow and cols >= W:
                    begin = cols // W * W
                    q = at(y, place * ldy + col)
                    b, r, ldres = addends_from(addends, col, place * addends.ldres + col)
                    done = epilogue_from(epilogue, col)
                    low, high, act, alpha, beta, _, s = done
                    into = b, r, ow * ldres, ldres, q, ow * ldy, ldy
                    ending = low, high, act, alpha, beta
                    if size == 4:
                        whole_4(at(m, i * columns), m_step, begin, *into, *ending, short_only(done), s)
                    else:
                        whole_2(at(m, i * columns), m_step, begin, *into, *ending, short_only(done), s)
                    if not in_registers(epilogue.act):
                        _activate_tile(q, size, ow * ldy, ldy, begin, done)
                for j in range(begin, cols, W):
                    if apart[i] == 1:
                        n0 = (col + j) // NR * NR
                        wide = NR if co - n0 > W else W
                        filters = at(w, n0 * ci + col + j - n0)
                        if size == 4:
                            direct_4(table, ci, filters, ci * padded, wide, pixels)
                        else:
                            direct_2(table, ci, filters, ci * padded, wide, pixels)
                    elif size == 4:
                        out_of_4(at(m, i * columns + j), m_step, pixels)
                    else:
                        out_of_2(at(m, i * columns + j), m_step, pixels)
                    rows, across_y = min(size, oh - oy), min(size, ow - ox)
                    _output(pixels, size, rows, across_y, ow, ldy, addends, y, place, col + j, min(W, cols - j), epilogue)
            col += columns


@inline
def _gather(table, x, zeros, t, down, across, image, filtering):
    """The addresses of one tile's pixels, for the table; how many rows and columns of results y
    has of it."""
    size = filtering.size
    line = t // across
    n = line // down
    oy, ox = (line - n * down) * size, (t - line * across) * size
    tile_pixels(table, address(x, 0), address(zeros, 0), n, oy, ox, size + 2, 4, image, filtering)
    return min(size, image.oh - oy), min(size, image.ow - ox)


@inline
def _apart(table, ci, edge, rows, columns, measures):
    """1 where a tile of which y has rows × columns results is done by the definition, else 0."""
    a, b = hsum(load(measures, 0)), hsum(load(measures, W))
    c, d = hsum(load(measures, 2 * W)), hsum(load(measures, 3 * W))
    whole = (a + b) + (c + d)
    large = not whole <= LARGE * ci
    if not large and not min(min(a, b), min(c, d)) * Float(UNEVEN) < max(max(a, b), max(c, d)):
        return 0
    if not whole < HUGE:
        return 1
    return _uneven(table, ci, edge, rows, columns, measures, large)


@inline
def _uneven(table, ci, edge, rows, columns, cells, large):
    """1 where the cells that one of rows × columns results sees are much smaller than those that
    another one sees, else 0. All are finite; zeros count where they are ``large``."""
    whole = ci // W * W
    for p in range(0, edge * edge, 4):
        a, b, c, d = floats_at(table[p]), floats_at(table[p + 1]), floats_at(table[p + 2]), floats_at(table[p + 3])
        s = t = u = v = splat(0.0)
        for i in range(0, whole, W):
            s = load(a, i) * load(a, i) + s
            t = load(b, i) * load(b, i) + t
            u = load(c, i) * load(c, i) + u
            v = load(d, i) * load(d, i) + v
        if whole < ci:
            rest = ci - whole
            s = load_part(a, whole, rest) * load_part(a, whole, rest) + s
            t = load_part(b, whole, rest) * load_part(b, whole, rest) + t
            u = load_part(c, whole, rest) * load_part(c, whole, rest) + u
            v = load_part(d, whole, rest) * load_part(d, whole, rest) + v
        store(cells, p * W, s)
        store(cells, (p + 1) * W, t)
        store(cells, (p + 2) * W, u)
        store(cells, (p + 3) * W, v)
    most = Float(0.0)
    least = Float(HUGE)
    for i in range(rows):
        for j in range(columns):
            found = splat(0.0)
            for ky in range(3):
                at_row = ((i + ky) * edge + j) * W
                found = found + (load(cells, at_row) + (load(cells, at_row + W) + load(cells, at_row + 2 * W)))
            seen = hsum(found)
            most = max(most, seen)
            if large or seen > 0:
                least = min(least, seen)
    return 1 if least * Float(UNEVEN) < most else 0


@inline
def _activate_tile(y, size, row, ldy, channels, epilogue):
    for i in range(size):
        for j in range(size):
            for c in range(0, channels, W):
                activate(epilogue_from(epilogue, c), at(y, i * row + j * ldy + c), W)


@inline
def _output(pixels, size, rows, columns, ow, ldy, addends, y, place, channel, cols, epilogue):
    """Bias, residual, clamp and activation of one tile's results for a vector of channels, stored
    where the image has them."""
    b, res, ldres = addends
    low, high, act, alpha, beta, scale, shift = epilogue
    bias = load(b, channel)
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
