"""The largest of many, NaN where one is NaN."""

from ._simd import W, hmax, inline, load, splat, where


@inline
def larger(best, v):
    """Lane by lane the larger; NaN where either is."""
    return where((best < v) | (v != v), v, best)


@inline
def row_max(x, n):
    """max x[0:n], n contiguous floats."""
    best = splat(x[0])
    a, b, c, d = best, best, best, best
    whole = n - n % (4 * W)
    for i in range(0, whole, 4 * W):
        a, b, c, d = (
            larger(a, load(x, i)),
            larger(b, load(x, i + W)),
            larger(c, load(x, i + 2 * W)),
            larger(d, load(x, i + 3 * W)),
        )
    for i in range(whole, n - W + 1, W):
        a = larger(a, load(x, i))
    top = hmax(larger(larger(a, b), larger(c, d)))
    for i in range(n - n % W, n):
        v = x[i]
        if v > top or v != v:
            top = v
    return top
