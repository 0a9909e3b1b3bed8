"""Moving data: `copy` between strided arrays of up to five dimensions, `fill`."""

from nbconv.kernels.params import Extents, Strides

from ._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    barrier,
    cuda,
    inline,
    kernel,
    put,
    shared_floats,
    splat,
    tiled,
)

THREADS = 256
SIDE = 32
"""Rows and columns of a tile that is turned.
In shared memory its rows are one longer: a column then meets all banks."""
HELD = SIDE * (SIDE + 1)  # floats: a constant of the module, as shared memory's size must be


@tiled(THREADS)
def copy(
    x: Floats,
    y: Floats,
    extents: Extents,
    x_strides: Strides,
    y_strides: Strides,
    first: Int,
    last: Int,
) -> None:
    """y[…] = x[…] over n0 × n1 × n2 × n3 × n4 elements, strides in elements; a unit is a tile of
    one (i0, i1, i2), of as many (i3, i4) as `Lowering.copy` says: 256×8 where n4 is at most 8,
    4×256 where n3 is at most 4, else 32×32."""
    n1, n2, n3, n4 = extents
    x0, x1, x2, x3, x4 = x_strides
    y0, y1, y2, y3, y4 = y_strides
    held = shared_floats(HELD)
    narrow, flat = n4 <= 8, n3 <= 4
    tall = 256 if narrow else 4 if flat else SIDE
    wide = 8 if narrow else 256 if flat else SIDE
    down = (n3 + tall - 1) // tall
    across = (n4 + wide - 1) // wide
    ijk = first // (down * across)
    tile = first - ijk * (down * across)
    ij = ijk // n2
    k = ijk - ij * n2
    i = ij // n1
    j = ij - i * n1
    r0 = tile // across * tall
    s0 = (tile - tile // across * across) * wide
    source = at(x, i * x0 + j * x1 + k * x2 + r0 * x3 + s0 * x4)
    target = at(y, i * y0 + j * y1 + k * y2 + r0 * y3 + s0 * y4)
    rows = min(tall, n3 - r0)
    columns = min(wide, n4 - s0)
    mine = Int(cuda.threadIdx.x)
    if narrow:
        if mine < rows:
            for s in range(columns):
                target[mine * y3 + s * y4] = source[mine * x3 + s * x4]
    elif flat:
        if mine < columns:
            for r in range(rows):
                target[r * y3 + mine * y4] = source[r * x3 + mine * x4]
    elif x3 == 1 and x4 != 1:
        _turned(source, target, held, rows, columns, x4, y3, y4, mine % W, mine // W)
    else:
        for r in range(mine // W, rows, THREADS // W):
            if mine % W < columns:
                target[r * y3 + mine % W * y4] = source[r * x3 + mine % W * x4]


@inline
def _turned(source, target, held, rows, columns, x4, y3, y4, lane, warp):
    """A tile whose columns are contiguous in x: what a warp reads is a column, what it writes a
    row."""
    for s in range(warp, columns, THREADS // W):
        if lane < rows:
            held[s * (SIDE + 1) + lane] = source[lane + s * x4]
    barrier()
    for r in range(warp, rows, THREADS // W):
        if lane < columns:
            target[r * y3 + lane * y4] = held[lane * (SIDE + 1) + r]
    barrier()


@kernel
def fill(y: Floats, n: Int, chunk: Int, value: Float, first: Int, last: Int) -> None:
    """y[0:n] = value; a unit is ``chunk`` elements."""
    for i in range(first * chunk, min(last * chunk, n), W):
        put(y, i, splat(value), n - i)
