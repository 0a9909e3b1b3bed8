"""Matrix products on packed B (see packing.py for one that is computed while running)."""

from ._simd import Float, Floats, Int, address, at, kernel, stack_ints
from ._tile import NR, block

MAX_ROWS = 256


@kernel
def gemm(
    a: Floats, b: Floats, bias: Floats, res: Floats, y: Floats,
    m: Int, n: Int, k: Int, lda: Int, ldy: Int, ldres: Int, batch_a: Int, batch_b: Int, batch_y: Int,
    rows: Int, panels: Int, k_chunk: Int, low: Float, high: Float, act: Int, alpha: Float, beta: Float, scale: Floats,
    shift: Floats, first: Int, last: Int,
) -> None:  # fmt: skip
    """y = act(clamp(a·b + bias + res)) for each matrix of a batch: a (m, lda), b packed [panel][k][NR], y (m, ldy).

    batch_a, batch_b and batch_y are floats from one matrix of the batch to the next. A unit is (matrix, block of panels,
    block of rows).
    """
    table = stack_ints(MAX_ROWS)
    out = stack_ints(MAX_ROWS)
    row_blocks = (m + rows - 1) // rows
    column_blocks = ((n + NR - 1) // NR + panels - 1) // panels
    for unit in range(first, last):
        part = unit // row_blocks
        m0 = (unit - part * row_blocks) * rows
        i = part // column_blocks
        n0 = (part - i * column_blocks) * panels * NR
        n1 = min(n, n0 + panels * NR)
        count = min(rows, m - m0)
        base = address(a, i * batch_a)
        for r in range(count):
            table[r] = base + (m0 + r) * lda * 4
            out[r] = m0 + r
        k0 = 0  # Numba's range with a step that is no literal can raise, and kernels cannot
        while k0 < k:
            kc = min(k_chunk, k - k0)
            bi = at(b, i * batch_b)
            block(
                table, count, 1, kc, k0, bi, k0, k, out, at(y, i * batch_y), ldy, k0 == 0, k0 + kc == k, bias, res,
                ldres, low,
                high, n0, n1, n, act, alpha, beta, scale, shift,
            )  # fmt: skip
            k0 += k_chunk
