"""Matrix products on packed B (see packing.py for one that is computed while running)."""

from ._simd import Float, Floats, Int, aligned, at, barrier, below, cuda, inline, quotient, shared_floats, tiled, unseen
from ._tile import DEPTH, Tile, by_tile, fetch, working


def product(tile: Tile, tensor: bool):
    """The kernel `gemm` for one shape of tile."""
    work = working(tile, tensor)
    tall, columns, size, both, sums = tile.rows, tile.columns, work.size, work.both, work.sums
    two, carried, at_b = work.a_quads == 2, work.carried, 4 * work.a_quads
    a_row, a_k, b_place, shared_places = work.a_row, work.a_k, work.b_place, work.shared_places
    put_down, multiply, results = work.put_down, work.multiply, work.results

    @inline
    def begin(unit, m, n):
        """(matrix, first row, first column) of a unit."""
        row_blocks = quotient(m + tall - 1, tall)
        part = quotient(unit, row_blocks)
        column_blocks = quotient(n + columns - 1, columns)
        i = quotient(part, column_blocks)
        return i, (unit - part * row_blocks) * tall, (part - i * column_blocks) * columns

    @inline
    def products(vector, shared, acc, a, a2, b, n0, n, k):
        """Sums over all of k. The thread's quads of A begin at a and a2; ``vector``: they can be read as 16 bytes."""
        held = cuda.local.array(carried, Float)
        reads_a, reads_b, stores_a, stores_b = shared_places()
        kb, skip, b_step = b_place(n0, n, k)
        ka = a_k()
        b = at(b, skip)
        fetch(held, 0, a, vector, ka, k, True)
        if two:
            fetch(held, 4, a2, vector, ka, k, True)
        fetch(held, at_b, b, True, kb, k, True)
        put_down(shared, stores_a, stores_b, held)
        barrier()
        half = 0
        done = 0
        while below(done, k):
            done += DEPTH
            a = at(a, DEPTH)
            b = at(b, DEPTH * b_step)
            fetch(held, 0, a, vector, ka + done, k, True)
            if two:
                a2 = at(a2, DEPTH)
                fetch(held, 4, a2, vector, ka + done, k, True)
            fetch(held, at_b, b, True, kb + done, k, True)
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
        i, m0, n0 = begin(first, m, n)
        ai = at(a, i * batch_a)
        bi = at(b, i * batch_b)
        a0 = at(ai, min(m0 + a_row(0), m - 1) * lda + a_k())
        a1 = at(ai, min(m0 + a_row(1), m - 1) * lda + a_k())
        for j in range(sums):
            acc[j] = Float(0)
        if (k | lda) & 3 == 0 and aligned(ai):
            products(True, shared, acc, a0, a1, bi, n0, n, k)
        else:
            products(False, shared, acc, a0, a1, bi, n0, n, k)
        i, m0, n0 = begin(unseen(first), m, n)  # again, which leaves registers to the products
        results(
            shared, acc, m0, m, n0, n, False, 1, 1, 1, 1, 1, 1, 0, 0, at(y, i * batch_y), ldy, bias, res, ldres, low, high,
            act, alpha, beta, scale, shift,
        )  # fmt: skip

    return gemm


gemm = by_tile(product)
gemm_tf32 = by_tile(product, True)
