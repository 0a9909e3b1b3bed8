"""Matrix products on packed B (see packing.py for one that is computed while running).

Where ``k_chunk``, a multiple of `DEPTH`, is less than k, a product is made in parts: each stores its sums, with no epilogue,
m rows of y further, and a step of `finish` adds them.
"""

from ._math import activated
from ._simd import (
    Float,
    Floats,
    Int,
    W,
    aligned,
    at,
    barrier,
    below,
    blocks,
    cuda,
    get,
    given,
    inline,
    kernel,
    maximum,
    minimum,
    put,
    quotient,
    shared_floats,
    short,
    tiled,
    unseen,
)
from ._tile import DEPTH, NOTHING, Tile, by_tile, fetch, pixel_of_result, working


def product(tile: Tile, tensor: bool):
    """The kernel `gemm` for one shape of tile."""
    work = working(tile, tensor)
    size, both, sums = work.size, work.both, work.sums
    two, carried, at_b = work.a_quads == 2, work.carried, 4 * work.a_quads
    begin, a_row, a_k, b_place, shared_places = work.begin, work.a_row, work.a_k, work.b_place, work.shared_places
    put_down, multiply, results = work.put_down, work.multiply, work.results

    @inline
    def products(vector, shared, acc, a, a2, b, n0, n, k, k0, count):
        """Sums over ``count`` of k from k0 on. The thread's quads of A begin at a and a2; ``vector``: they can be read as 16
        bytes."""
        held = cuda.local.array(carried, Float)
        reads_a, reads_b, stores_a, stores_b = shared_places()
        kb, skip, b_step = b_place(n0, n, k)
        ka = a_k()
        b = at(b, skip + k0 * b_step)
        step = short(NOTHING - count)  # counts up to a constant, which needs no register
        fetch(held, 0, a, vector, ka + step, NOTHING, True)
        if two:
            fetch(held, 4, a2, vector, ka + step, NOTHING, True)
        fetch(held, at_b, b, True, kb + step, NOTHING, True)
        put_down(shared, stores_a, stores_b, held)
        barrier()
        half = 0
        while below(step, NOTHING):
            step += DEPTH
            a = at(a, DEPTH)
            b = at(b, DEPTH * b_step)
            fetch(held, 0, a, vector, ka + step, NOTHING, True)
            if two:
                a2 = at(a2, DEPTH)
                fetch(held, 4, a2, vector, ka + step, NOTHING, True)
            fetch(held, at_b, b, True, kb + step, NOTHING, True)
            multiply(shared, half + reads_a, half + reads_b, acc)
            half = size - half
            put_down(shared, half + stores_a, half + stores_b, held)
            barrier()

    @tiled(tile.threads, tile.blocks)
    def gemm(
        a: Floats, b: Floats, bias: Floats, res: Floats, y: Floats,
        m: Int, n: Int, k: Int, lda: Int, ldy: Int, ldres: Int, batch_a: Int, batch_b: Int, batch_y: Int,
        rows: Int, panels: Int, k_chunk: Int, low: Float, high: Float, act: Int, alpha: Float, beta: Float, scale: Floats,
        shift: Floats, first: Int, last: Int,
    ) -> None:  # fmt: skip
        shared = shared_floats(both)
        acc = cuda.local.array(sums, Float)
        i, part, m0, n0 = begin(first, m, n, k, k_chunk)
        k0 = part * k_chunk
        count = min(k_chunk, k - k0)
        ai = at(a, i * batch_a)
        bi = at(b, i * batch_b)
        a0 = at(ai, min(m0 + a_row(0), m - 1) * lda + k0 + a_k())
        a1 = at(ai, min(m0 + a_row(1), m - 1) * lda + k0 + a_k())
        for j in range(sums):
            acc[j] = Float(0)
        if (k | lda) & 3 == 0 and aligned(ai):
            products(True, shared, acc, a0, a1, bi, n0, n, k, k0, count)
        else:
            products(False, shared, acc, a0, a1, bi, n0, n, k, k0, count)
        i, part, m0, n0 = begin(unseen(first), m, n, k, k_chunk)  # again, which leaves registers to the products
        results(
            shared, acc, m0, m, n0, n, False, 1, 1, 1, 1, 1, 1, 0, 0, at(y, i * batch_y + part * m * ldy), ldy, bias, res,
            ldres, low, high, act, alpha, beta, scale, shift,
        )  # fmt: skip

    return gemm


gemm = by_tile(product)
gemm_tf32 = by_tile(product, True)


@kernel
def finish(
    sums: Floats, bias: Floats, res: Floats, y: Floats, m: Int, n: Int, parts: Int, lds: Int, ldy: Int, ldres: Int,
    batch_sums: Int, batch_bias: Int, batch_y: Int, oh: Int, ow: Int, full_h: Int, full_w: Int, osh: Int, osw: Int,
    oy0: Int, ox0: Int, low: Float, high: Float, act: Int, alpha: Float, beta: Float, scale: Floats, shift: Floats,
    first: Int, last: Int,
) -> None:  # fmt: skip
    """y = act(clamp(Σ sums + bias + res)) · scale + shift for each matrix of a batch, or group of a convolution.

    sums (parts, m, lds), added in that order; row r goes to row r of y (·, ldy), or to the pixel that a convolution's
    geometry says (see conv.py). The batches' steps are floats from one matrix to the next: of y and res, and of bias, scale
    and shift, which are zero-filled to whole vectors. A unit is a row of a matrix, `W` columns.
    """
    placed = osh != 1 or osw != 1 or full_h != oh or full_w != ow
    across = blocks(n)
    for unit in range(first, last):
        line = quotient(unit, across)
        c0 = (unit - line * across) * W
        i = quotient(line, m)
        row = line - i * m
        cols = n - c0
        mine = at(sums, i * batch_sums + row * lds + c0)
        v = get(mine, 0, cols)
        for part in range(1, parts):
            v = v + get(mine, part * m * lds, cols)
        channel = i * batch_bias + c0
        v = v + get(bias, channel, cols)
        pixel = pixel_of_result(row, oh, ow, full_h, full_w, osh, osw, oy0, ox0) if placed else row
        if given(res):
            v = v + get(res, i * batch_y + pixel * ldres + c0, cols)
        if act == 0:
            v = minimum(maximum(v, low), high)
        else:
            v = activated(act, v, alpha, beta)
        if given(scale):
            v = v * get(scale, channel, cols) + get(shift, channel, cols)
        put(y, i * batch_y + pixel * ldy + c0, v, cols)
