"""Matrix products on packed B (see packing.py for one that is computed while running)."""

from nbconv.kernels.params import Addends, Batch, Epilogue, Matrices, MatrixBlocking

from ._simd import Floats, Int, address, at, kernel, stack_ints
from ._tile import NR, block

MAX_ROWS = 256


@kernel
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
    """y = act(clamp(a·b + bias + residual)) for each matrix of a batch, b packed [panel][k][NR].
    A unit is (matrix, block of panels, block of rows)."""
    m, n, k, lda, ldy = matrices
    rows, panels, k_chunk = blocking
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
        base = address(a, i * batch.a)
        for r in range(count):
            table[r] = base + (m0 + r) * lda * 4
            out[r] = m0 + r
        k0 = 0  # Numba's range with a step that is no literal can raise, and kernels cannot
        while k0 < k:
            kc = min(k_chunk, k - k0)
            bi = at(b, i * batch.b)
            yi = at(y, i * batch.y)
            block(table, count, 1, kc, k0, bi, k0, k, out, yi, ldy, k0 == 0, k0 + kc == k, addends, n0, n1, n, epilogue)
            k0 += k_chunk
