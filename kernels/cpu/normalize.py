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
    kept,
    kernel,
    put,
    splat,
    sqrt,
    store_part,
)

RUN = 64
"""Vectors that are summed at a time, so that the error grows with n/64."""


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
        row = at(x, unit * n)
        total = splat(0.0)
        for i0 in range(0, n, RUN * W):
            part = splat(0.0)
            for i in range(i0, min(i0 + RUN * W, n), W):
                part = part + get(row, i, n - i)
            total = total + part
        middle = splat(hsum(total)) / n
        total = splat(0.0)
        for i0 in range(0, n, RUN * W):
            part = splat(0.0)
            for i in range(i0, min(i0 + RUN * W, n), W):
                d = kept(get(row, i, n - i) - middle, n - i)
                part = part + d * d
            total = total + part
        deviation = sqrt(splat(hsum(total)) / n + epsilon)
        store_part(mean, unit, middle, 1)
        store_part(inverse, unit, splat(1.0) / deviation, 1)


@kernel
def normalize(
    x: Floats,
    mean: Floats,
    inverse: Floats,
    y: Floats,
    affine: RowAffine,
    n: Int,
    first: Int,
    last: Int,
) -> None:
    """y = (x - mean)·inverse·scale + shift in rows of n. A unit is a row."""
    run, scaled, shifted = affine.run, affine.scaled, affine.shifted
    for unit in range(first, last):
        row = at(x, unit * n)
        target = at(y, unit * n)
        m = splat(mean[unit])
        r = splat(inverse[unit])
        base = (unit % affine.groups) * (n // run)
        if run == 1:
            for i in range(0, n, W):
                v = (get(row, i, n - i) - m) * r * get(at(affine.scale, base), i, n - i)
                if shifted == 1:
                    v = v + get(at(affine.shift, base), i, n - i)
                put(target, i, v, n - i)
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
