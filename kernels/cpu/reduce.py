"""Reductions over the middle axis of (outer, n, inner) arrays."""

from ._max import larger, row_max
from ._simd import Float, Floats, Int, W, at, get, inline, kernel, put, splat
from ._sum import RUN, row_sum


@inline
def _column_sum(x, n, inner, cols):
    """Σ_i x[i, 0:cols] for a vector of columns."""
    total = splat(0.0)
    for i0 in range(0, n, RUN):
        part = splat(0.0)
        for i in range(i0, min(i0 + RUN, n)):
            part = part + get(x, i * inner, cols)
        total = total + part
    return total


@kernel
def sum_scaled(
    x: Floats,
    y: Floats,
    n: Int,
    inner: Int,
    scale: Float,
    first: Int,
    last: Int,
) -> None:
    """y[o, i] = scale·Σ_j x[o, j, i].
    A unit is a vector of columns of one o, or one o where inner is 1."""
    if inner == 1:
        for unit in range(first, last):
            y[unit] = row_sum(at(x, unit * n), n) * scale
    else:
        blocks = (inner + W - 1) // W
        for unit in range(first, last):
            o = unit // blocks
            c0 = (unit - o * blocks) * W
            cols = min(W, inner - c0)
            total = _column_sum(at(x, o * n * inner + c0), n, inner, cols) * scale
            put(y, o * inner + c0, total, cols)


@kernel
def max(x: Floats, y: Floats, n: Int, inner: Int, first: Int, last: Int) -> None:
    """y[o, i] = max_j x[o, j, i], NaN where one is NaN. Units as in `sum_scaled`."""
    blocks = (inner + W - 1) // W
    for unit in range(first, last):
        o = unit // blocks
        c0 = (unit - o * blocks) * W
        cols = min(W, inner - c0)
        best = splat(-float("inf"))
        if inner == 1:
            y[unit] = row_max(at(x, unit * n), n)
        else:
            for j in range(n):
                p = at(x, (o * n + j) * inner + c0)
                best = larger(best, get(p, 0, cols))
            put(y, o * inner + c0, best, cols)
