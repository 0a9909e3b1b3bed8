"""Normalisation by rows of contiguous data, and gradients of normalisations."""

from . import _math
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
    load,
    put,
    splat,
    sqrt,
    stack_floats,
    store,
    store_part,
)

MAX_CHANNELS, MAX_REACH = 4096, 64
"""Most channels that `lrn_grad` takes, and most that a window reaches to either side."""
SQUARES = MAX_CHANNELS + 2 * MAX_REACH + 64
RUN = 64
"""Vectors that are summed at a time, so that the error grows with n/64."""


@kernel
def moments(x: Floats, mean: Floats, inverse: Floats, n: Int, epsilon: Float, first: Int, last: Int) -> None:
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
    x: Floats, mean: Floats, inverse: Floats, scale: Floats, shift: Floats, y: Floats, n: Int, groups: Int, run: Int,
    scaled: Int, shifted: Int, first: Int, last: Int,
) -> None:  # fmt: skip
    """y = (x - mean)·inverse·scale + shift in rows of n. Row r has the n/run scales of group r % groups, one for each
    ``run`` elements (or one for each element where run is 1); a unit is a row."""
    for unit in range(first, last):
        row = at(x, unit * n)
        target = at(y, unit * n)
        m = splat(mean[unit])
        r = splat(inverse[unit])
        base = (unit % groups) * (n // run)
        if run == 1:
            for i in range(0, n, W):
                v = (get(row, i, n - i) - m) * r * get(at(scale, base), i, n - i)
                if shifted == 1:
                    v = v + get(at(shift, base), i, n - i)
                put(target, i, v, n - i)
        else:
            for k in range(n // run):
                a = splat(1.0)
                b = splat(0.0)
                if scaled == 1:
                    a = splat(scale[base + k])
                if shifted == 1:
                    b = splat(shift[base + k])
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


@kernel
def lrn_grad(
    dy: Floats, x: Floats, dx: Floats, c: Int, before: Int, after: Int, alpha: Float, beta: Float, bias: Float,
    first: Int, last: Int,
) -> None:  # fmt: skip
    """dx = dy·s^-beta - 2·alpha·beta·x·Σ dy·x·s^(-beta-1), the sum over channels [i-after, i+before]; s as in `norm.lrn`. A
    unit is a pixel, c ≤ 4096."""
    squares = stack_floats(SQUARES)
    parts = stack_floats(SQUARES)
    for i in range(before):
        squares[i] = 0
    for i in range(after):
        parts[i] = 0
    for i in range(after + 64):
        squares[before + c + i] = 0
    for unit in range(first, last):
        xp = at(x, unit * c)
        dp = at(dy, unit * c)
        target = at(dx, unit * c)
        for i in range(c):
            squares[before + i] = xp[i] * xp[i]
        for c0 in range(0, c, W):
            total = splat(0.0)
            for j in range(before + after + 1):
                total = total + load(squares, c0 + j)
            s = total * alpha + bias
            factor = _math.exp(_math.log(s) * -beta)
            d = get(dp, c0, c - c0)
            put(target, c0, d * factor, c - c0)
            store(parts, after + c0, d * get(xp, c0, c - c0) * factor / s)
        for i in range(before + 64):
            parts[after + c + i] = 0
        for c0 in range(0, c, W):
            total = splat(0.0)
            for j in range(before + after + 1):
                total = total + load(parts, c0 + j)
            put(target, c0, get(target, c0, c - c0) - get(xp, c0, c - c0) * total * (alpha * beta * 2.0), c - c0)
