"""Batch normalisation in training, and its gradient, on channels-last data; see `kernels/cpu/batch_norm.py`. What goes over
pixels has units a vector of channels wide."""

from nbconv.kernels.params import BatchNorm, Pixels

from ._numba import shared_source
from ._simd import Floats, Int, W, get, kernel, put, quotient, splat, sqrt, store, where

_shared = shared_source("batch_norm")
statistics, factors, grad_merge = _shared.statistics, _shared.factors, _shared.grad_merge


@kernel
def moments(x: Floats, y: Floats, split: Pixels, padded: Int, first: Int, last: Int) -> None:
    """y[part, 0, c] = the mean of x[p, c] over the part's pixels; y[part, 1, c] = Σ (x - mean)².
    ``padded`` floats a row of y. A unit is a part, W channels wide."""
    pixels, total, c = split
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        part = quotient(unit, vectors)
        c0 = (unit - part * vectors) * W
        cols = c - c0
        p0 = part * pixels
        p1 = min(total, p0 + pixels)
        a = splat(0.0)
        for p in range(p0, p1):
            a = a + get(x, p * c + c0, cols)
        a = a / (p1 - p0)
        aa = splat(0.0)
        for p in range(p0, p1):
            v = get(x, p * c + c0, cols) - a
            aa = aa + v * v
        store(y, 2 * part * padded + c0, a)
        store(y, (2 * part + 1) * padded + c0, aa)


@kernel
def grad_sums(
    dy: Floats,
    y: Floats,
    x: Floats,
    mean: Floats,
    parts: Floats,
    split: Pixels,
    padded: Int,
    rectified: Int,
    first: Int,
    last: Int,
) -> None:
    """parts[part, 0, c] = Σ dy, parts[part, 1, c] = Σ dy·(x - mean) over the part's pixels; where ``rectified`` dy counts
    for nothing where y is not positive. A unit is a part, W channels wide."""
    pixels, total, c = split
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        part = quotient(unit, vectors)
        c0 = (unit - part * vectors) * W
        cols = c - c0
        m = get(mean, c0, cols)
        a = splat(0.0)
        b = splat(0.0)
        for p in range(part * pixels, min(total, (part + 1) * pixels)):
            d = get(dy, p * c + c0, cols)
            if rectified == 1:
                d = where(get(y, p * c + c0, cols) <= 0, 0.0, d)
            a = a + d
            b = b + d * (get(x, p * c + c0, cols) - m)
        store(parts, 2 * part * padded + c0, a)
        store(parts, (2 * part + 1) * padded + c0, b)


@kernel
def grad_input(
    dy: Floats,
    y: Floats,
    x: Floats,
    dx: Floats,
    norm: BatchNorm,
    dscale: Floats,
    db: Floats,
    split: Pixels,
    count: Int,
    rectified: Int,
    first: Int,
    last: Int,
) -> None:
    """dx = scale·r·(dy - db/N - (x - mean)·r·dscale/N), r = 1 / sqrt(var + epsilon), N = ``count``; dy as in
    `grad_sums`. A unit is a part of the pixels, W channels wide."""
    pixels, total, c = split
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        part = quotient(unit, vectors)
        c0 = (unit - part * vectors) * W
        cols = c - c0
        m = get(norm.mean, c0, cols)
        r = splat(1.0) / sqrt(get(norm.var, c0, cols) + norm.epsilon)
        k = get(norm.scale, c0, cols) * r
        a = get(db, c0, cols) / count
        b = get(dscale, c0, cols) * r / count
        for p in range(part * pixels, min(total, (part + 1) * pixels)):
            d = get(dy, p * c + c0, cols)
            if rectified == 1:
                d = where(get(y, p * c + c0, cols) <= 0, 0.0, d)
            put(dx, p * c + c0, k * (d - a - (get(x, p * c + c0, cols) - m) * b), cols)
