"""Weighted sums along an axis by a table (a sparse matrix by rows)."""

from ._simd import (
    Float,
    Floats,
    Int,
    Ints,
    W,
    inline,
    kernel,
    load,
    load_part,
    splat,
    store,
    store_part,
)


@kernel
def mix(
    x: Floats,
    y: Floats,
    rows: Ints,
    cells: Ints,
    weights: Floats,
    size: Int,
    out: Int,
    inner: Int,
    width: Int,
    first: Int,
    last: Int,
) -> None:
    """y[o, j, :] = Σ weights[t]·x[o, cells[t], :] over rows[j] ≤ t < rows[j+1]; x is (outer, size,
    inner), y (outer, out, inner).
    A unit is ``width`` columns of one (o, j)."""
    parts = (inner + width - 1) // width
    for unit in range(first, last):
        oj = unit // parts
        c0 = (unit - oj * parts) * width
        o = oj // out
        j = oj - o * out
        begin = rows[j]
        end = rows[j + 1]
        if inner == 1:
            total = Float(0.0)
            for t in range(begin, end):
                total += weights[t] * x[o * size + cells[t]]
            y[oj] = total
        else:
            for c in range(c0, min(c0 + width, inner), W):
                _vector(x, y, cells, weights, o * size * inner + c, oj * inner + c, begin, end, inner, min(W, inner - c))


@inline
def _vector(x, y, cells, weights, source, target, begin, end, inner, cols):
    total = splat(0.0)
    for t in range(begin, end):
        p = source + cells[t] * inner
        total = total + (load(x, p) if cols == W else load_part(x, p, cols)) * splat(weights[t])
    if cols == W:
        store(y, target, total)
    else:
        store_part(y, target, total, cols)
