"""Sums along the middle axis of (outer, n, inner) arrays as they grow."""

from ._simd import Float, Floats, Int, W, at, get, kernel, put, splat


@kernel
def cumulative_sum(
    x: Floats,
    y: Floats,
    n: Int,
    inner: Int,
    exclusive: Int,
    backwards: Int,
    first: Int,
    last: Int,
) -> None:
    """y[o, j, i] = Σ x[o, 0 … j, i], without x[o, j, i] where ``exclusive``, from the end where
    ``backwards``.
    A unit is a vector of columns of one o, or one o where inner is 1."""
    columns = (inner + W - 1) // W
    for unit in range(first, last):
        o = unit // columns
        c0 = (unit - o * columns) * W
        p = o * n * inner + c0
        step = inner
        if backwards:
            p += (n - 1) * inner
            step = -inner
        if inner == 1:
            total = Float(0.0)
            for _ in range(n):
                before = total
                total += x[p]
                y[p] = before if exclusive else total
                p += step
        else:
            cols = min(W, inner - c0)
            sums = splat(0.0)
            for _ in range(n):
                v = get(at(x, p), 0, cols)
                if exclusive:
                    put(y, p, sums, cols)
                sums = sums + v
                if not exclusive:
                    put(y, p, sums, cols)
                p += step
