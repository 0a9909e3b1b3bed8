"""Matrix products on packed B (see packing.py for one that is computed while running).

Where ``k_chunk``, a multiple of `DEPTH`, is less than k, a product is made in parts: each stores
its sums, with no epilogue, m rows of y further, and a step of `finish` adds them.
"""

from nbconv.kernels.params import (
    Activation,
    Addends,
    Batch,
    Epilogue,
    Matrices,
    MatrixBlocking,
    Scatter,
    Sums,
    SumsBatch,
)

from ._math import activated
from ._products import Tile
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
from ._tile import DEPTH, NOTHING, by_tile, fetch, is_scattered, pixel_of_result, working

PLAIN = Scatter(1, 1)


def product(tile: Tile, tensor: bool):
    """The kernel `gemm` for one shape of tile."""
    work = working(tile, tensor)
    size, both, sums = work.size, work.both, work.sums
    two, carried, at_b = work.a_quads == 2, work.carried, 4 * work.a_quads
    begin, a_row, a_k, b_place, shared_places = work.begin, work.a_row, work.a_k, work.b_place, work.shared_places
    put_down, multiply, results = work.put_down, work.multiply, work.results

    @inline
    def products(vector, shared, acc, a, a2, b, n0, n, k, k0, count):
        """Sums over ``count`` of k from k0 on.
        The thread's quads of A begin at a and a2; ``vector``: they can be read as 16 bytes."""
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
        a: Floats,
        b: Floats,
        addends: Addends,
        y: Floats,
        matrices: Matrices,
        batch: Batch,
        blocking: MatrixBlocking,
        epilogue: Epilogue,
        first: Int,
        last: Int,
    ) -> None:
        m, n, k, lda, ldy = matrices
        k_chunk = blocking.k_chunk
        shared = shared_floats(both)
        acc = cuda.local.array(sums, Float)
        i, part, m0, n0 = begin(first, m, n, k, k_chunk)
        k0 = part * k_chunk
        count = min(k_chunk, k - k0)
        ai = at(a, i * batch.a)
        bi = at(b, i * batch.b)
        a0 = at(ai, min(m0 + a_row(0), m - 1) * lda + k0 + a_k())
        a1 = at(ai, min(m0 + a_row(1), m - 1) * lda + k0 + a_k())
        for j in range(sums):
            acc[j] = Float(0)
        if (k | lda) & 3 == 0 and aligned(ai):
            products(True, shared, acc, a0, a1, bi, n0, n, k, k0, count)
        else:
            products(False, shared, acc, a0, a1, bi, n0, n, k, k0, count)
        i, part, m0, n0 = begin(unseen(first), m, n, k, k_chunk)  # again, which leaves registers to the products
        yi = at(y, i * batch.y + part * m * ldy)
        results(shared, acc, m0, m, n0, n, False, 1, 1, PLAIN, yi, ldy, addends, epilogue)

    return gemm


gemm = by_tile(product)
gemm_tf32 = by_tile(product, True)


@kernel
def finish(
    sums: Floats,
    addends: Addends,
    y: Floats,
    parts: Sums,
    batch: SumsBatch,
    oh: Int,
    ow: Int,
    scatter: Scatter,
    epilogue: Epilogue,
    first: Int,
    last: Int,
) -> None:
    """y = act(clamp(Σ sums + bias + residual)) · scale + shift for each matrix of a batch, or group
    of a convolution.

    Sums are added in the order of their parts; row r goes to row r of y, or to the pixel that a
    convolution's geometry says.
    Bias, scale and shift are zero-filled to whole vectors.
    A unit is a row of a matrix, `W` columns.
    """
    m, n, count, lds, ldy = parts
    bias, res, ldres = addends
    low, high, act, alpha, beta, scale, shift = epilogue
    placed = is_scattered(scatter, oh, ow)
    across = blocks(n)
    for unit in range(first, last):
        line = quotient(unit, across)
        c0 = (unit - line * across) * W
        i = quotient(line, m)
        row = line - i * m
        cols = n - c0
        mine = at(sums, i * batch.sums + row * lds + c0)
        v = get(mine, 0, cols)
        for part in range(1, count):
            v = v + get(mine, part * m * lds, cols)
        channel = i * batch.channels + c0
        v = v + get(bias, channel, cols)
        pixel = pixel_of_result(row, oh, ow, scatter) if placed else row
        if given(res):
            v = v + get(res, i * batch.y + pixel * ldres + c0, cols)
        if act == Activation.NONE:
            v = minimum(maximum(v, low), high)
        else:
            v = activated(act, v, alpha, beta)
        if given(scale):
            v = v * get(scale, channel, cols) + get(shift, channel, cols)
        put(y, i * batch.y + pixel * ldy + c0, v, cols)
