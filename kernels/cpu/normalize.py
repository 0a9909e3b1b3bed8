"""Normalisation by rows of contiguous data, and its gradient."""

from nbconv.kernels.params import RowAffine

from ._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    get,
    hsum,
    inline,
    kept,
    kernel,
    put,
    splat,
    sqrt,
    store_part,
)
from ._sum import RUN, row_sum


@inline
def _moments(row, n, epsilon) -> tuple:
    """(the mean, 1 / sqrt(variance + epsilon)) of a row of n, in all lanes."""
    middle = splat(row_sum(row, n)) / n
    total = splat(0.0)
    for i0 in range(0, n, RUN * W):
        part = splat(0.0)
        for i in range(i0, min(i0 + RUN * W, n), W):
            d = kept(get(row, i, n - i) - middle, n - i)
            part = part + d * d
        total = total + part
    return middle, splat(1.0) / sqrt(splat(hsum(total)) / n + epsilon)


@inline
def _scaled(row, target, m, r, scale, shift, shifted, n):
    """(x - m)·r·scale + shift of a row, a scale and a shift an element."""
    for i in range(0, n, W):
        v = (get(row, i, n - i) - m) * r * get(scale, i, n - i)
        if shifted == 1:
            v = v + get(shift, i, n - i)
        put(target, i, v, n - i)


@kernel
def moments(
    x: Floats,
    mean: Floats,
    inverse: Floats,
    n: Int,
    epsilon: Float,
    first: Int,
    last: Int,
) -> None:
    """The mean of each row of n, and 1 / sqrt(variance + epsilon); a unit is a row."""
    for unit in range(first, last):
        m, r = _moments(at(x, unit * n), n, epsilon)
        store_part(mean, unit, m, 1)
        store_part(inverse, unit, r, 1)


@kernel
def layer(
    x: Floats,
    y: Floats,
    affine: RowAffine,
    n: Int,
    epsilon: Float,
    first: Int,
    last: Int,
) -> None:
    """What `moments` and `normalize` give of rows that all have one scale and one shift an element,
    while a row is in L1. A unit is a row."""
    for unit in range(first, last):
        row = at(x, unit * n)
        m, r = _moments(row, n, epsilon)
        _scaled(row, at(y, unit * n), m, r, affine.scale, affine.shift, affine.shifted, n)


@kernel
def normalize(
    x: Floats,
    mean: Floats,
    inverse: Floats,
    y: Floats,
    affine: RowAffine,
    n: Int,
    sharing: Int,
    first: Int,
    last: Int,
) -> None:
    """y = (x - mean)·inverse·scale + shift in rows of n, of which ``sharing`` have one mean. A unit
    is a row."""
    run, scaled, shifted = affine.run, affine.scaled, affine.shifted
    for unit in range(first, last):
        row = at(x, unit * n)
        target = at(y, unit * n)
        m = splat(mean[unit // sharing])
        r = splat(inverse[unit // sharing])
        base = (unit % affine.groups) * (n // run)
        if run == 1:
            _scaled(row, target, m, r, at(affine.scale, base), at(affine.shift, base), shifted, n)
        else:
            for k in range(n // run):
                a = splat(1.0)
                b = splat(0.0)
                if scaled == 1:
                    a = splat(affine.scale[base + k])
                if shifted == 1:
                    b = splat(affine.shift[base + k])
                for i in range(0, run, W):
                    put(at(target, k * run), i, (get(at(row, k * run), i, run - i) - m) * r * a + b, run - i)


@kernel
def standardize_grad(
    dy: Floats, x: Floats, mean: Floats, inverse: Floats, dx: Floats, n: Int, first: Int, last: Int
) -> None:
    """dx = inverse·(dy - Σdy/n - s·Σ(dy·s)/n) with s = (x - mean)·inverse; a unit is a row of n."""
    for unit in range(first, last):
        row = at(x, unit * n)
        slope = at(dy, unit * n)
        target = at(dx, unit * n)
        m = splat(mean[unit])
        r = splat(inverse[unit])
        total = splat(0.0)
        along = splat(0.0)
        for i0 in range(0, n, RUN * W):
            part = splat(0.0)
            part_along = splat(0.0)
            for i in range(i0, min(i0 + RUN * W, n), W):
                d = get(slope, i, n - i)
                part = part + d
                part_along = part_along + d * ((get(row, i, n - i) - m) * r)
            total = total + part
            along = along + part_along
        a = splat(hsum(total)) / n
        b = splat(hsum(along)) / n
        for i in range(0, n, W):
            s = (get(row, i, n - i) - m) * r
            put(target, i, r * (get(slope, i, n - i) - a - s * b), n - i)
