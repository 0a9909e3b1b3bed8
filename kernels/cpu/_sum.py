"""Sums in runs of 64, so that their error grows with n/64."""

from ._simd import W, get, hsum, inline, splat

RUN = 64


@inline
def row_sum(x, n):
    """Σ x[0:n], n contiguous floats."""
    total = splat(0.0)
    for i0 in range(0, n, RUN * W):
        part = splat(0.0)
        for i in range(i0, min(i0 + RUN * W, n), W):
            part = part + get(x, i, n - i)
        total = total + part
    return hsum(total)
