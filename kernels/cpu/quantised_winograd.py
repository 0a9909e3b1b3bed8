"""3×3 convolution of 8-bit integers at stride 1 by Winograd's F(2×2, 3×3), on channels-last data.

Transforms of integers only add, and 4 times the filters' transforms are integers: sums modulo 2³²
are 4 times those of the definition, which fit an int32 (the plan looks at that).
So results have the definition's bits, with 16 products in the place of 36.

A block of tiles is transformed, multiplied with the transformed weights at each of the 16 points,
and transformed back, all within one thread's scratch memory.
"""

from nbconv.kernels.params import ConvImage, Filtering
from nbconv.kernels.quantised_params import Requantise

from ._dot import MR, NR, short_sums
from ._simd import Bytes, Int, Int32s, W, address, at, kernel, stack_ints
from ._winograd_pixels import tile_pixels
from ._winograd_shorts import EDGE, into_shorts, out_of_shorts, words_at

MAX_TILES = 256
"""Most tiles of a block."""
POINTS = 16
WORD = 4
SKEW = 16
"""Words between the points' matrices: else the points of a tile may all lie in one set of the
cache."""


@kernel
def winograd(
    x: Bytes,
    w: Int32s,
    bias: Int32s,
    y: Bytes,
    padding: Bytes,
    area: Bytes,
    image: ConvImage,
    filtering: Filtering,
    to8: Requantise,
    first: Int,
    last: Int,
    slot: Int,
) -> None:
    """y = Σ x·w + bias, as ``to8`` says, 2 × 2 results a tile.

    A unit is (block of tiles, ``group`` channels of y). w is packed [panel][16 points][word][NR].
    A thread's memory holds V (points, tiles, inner 16-bit integers) and M (points, tiles, NR
    words), `SKEW` words behind each point. ``padding`` holds a pixel of zero points.
    """
    ci, oh, ow, co, ldy = image.cg, image.oh, image.ow, image.og, image.ldy
    _, _, _, tiles, columns, group, inner, _, room = filtering
    scale, low, high, zero_point, flip, _, size = to8
    table = stack_ints(POINTS)
    places = stack_ints(MAX_TILES)
    heights = stack_ints(MAX_TILES)
    widths = stack_ints(MAX_TILES)
    down = (oh + 1) // 2
    across = (ow + 1) // 2
    total = image.m // (oh * ow) * down * across
    depth = inner // 2
    lda = depth * WORD
    v_step = (tiles * depth + SKEW) * WORD
    m_step = tiles * columns + SKEW
    v = at(area, slot * room * WORD)
    m = words_at(at(v, POINTS * v_step))
    groups = (co + group - 1) // group
    base, outside = address(x, 0), address(padding, 0)
    for unit in range(first, last):
        part = unit // groups
        t0 = part * tiles
        col = (unit - part * groups) * group
        end = min(co, col + group)
        count = min(tiles, total - t0)
        line = t0 // across
        tx = t0 - line * across
        n = line // down
        ty = line - n * down
        for i in range(count):
            tile_pixels(table, base, outside, n, 2 * ty, 2 * tx, EDGE, 1, image, filtering)
            into_shorts(table, ci, at(v, i * lda), v_step, flip)
            places[i] = address(y, ((n * oh + 2 * ty) * ow + 2 * tx) * ldy * size)
            heights[i] = oh - 2 * ty
            widths[i] = ow - 2 * tx
            tx += 1
            if tx == across:
                tx = 0
                ty += 1
                if ty == down:
                    ty = 0
                    n += 1
        blocks = (count + MR - 1) // MR
        height = count // blocks
        taller = count - height * blocks
        while col < end:
            cols = min(NR, end - col)
            wide = W if co - col <= W else NR
            for p in range(POINTS):
                wp = at(w, (col * POINTS + p * wide) * depth)
                i = 0
                for block in range(blocks):
                    rows = height + 1 if block < taller else height
                    short_sums(rows, wide, at(v, p * v_step + i * lda), lda, depth, wp, at(m, p * m_step + i * wide))
                    i += rows
            for j in range(0, cols, W):
                out_of_shorts(
                    at(m, j), m_step, wide, count, heights, widths, col + j, cols - j, bias, scale, low, high, zero_point,
                    size, places, ow * ldy * size, ldy * size,
                )  # fmt: skip
            col += NR
