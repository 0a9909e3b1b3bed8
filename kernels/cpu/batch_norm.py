"""Batch normalisation in training, and its gradient, on channels-last data.

Sums over pixels are split into parts that depend on shapes alone, and added in order.
"""

from nbconv.kernels.params import BatchNorm, ChannelAffine, Moments, Pixels, Running

from ._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    get,
    kernel,
    load,
    load_part,
    put,
    splat,
    sqrt,
    store,
    store_part,
    where,
)


@kernel
def moments(x: Floats, y: Floats, split: Pixels, padded: Int, first: Int, last: Int) -> None:
    """y[part, 0, c] = the mean of x[p, c] over the part's pixels; y[part, 1, c] = Σ (x - mean)².
    ``padded`` floats a row of y. A unit is a part."""
    pixels, total, c = split
    for unit in range(first, last):
        p0 = unit * pixels
        p1 = min(total, p0 + pixels)
        n = p1 - p0
        mean = at(y, 2 * unit * padded)
        squares = at(y, (2 * unit + 1) * padded)
        for c0 in range(0, c, W):
            store(mean, c0, splat(0.0))
            store(squares, c0, splat(0.0))
        for c0 in range(0, c, 2 * W):
            if c0 + 2 * W <= c:
                a = splat(0.0)
                b = splat(0.0)
                for p in range(p0, p1):
                    a = a + load(x, p * c + c0)
                    b = b + load(x, p * c + c0 + W)
                a = a / n
                b = b / n
                aa = splat(0.0)
                bb = splat(0.0)
                for p in range(p0, p1):
                    v = load(x, p * c + c0) - a
                    w = load(x, p * c + c0 + W) - b
                    aa = aa + v * v
                    bb = bb + w * w
                store(mean, c0, a)
                store(mean, c0 + W, b)
                store(squares, c0, aa)
                store(squares, c0 + W, bb)
            else:
                for c1 in range(c0, c, W):
                    cols = c - c1
                    a = splat(0.0)
                    for p in range(p0, p1):
                        a = a + get(x, p * c + c1, cols)
                    a = a / n
                    aa = splat(0.0)
                    for p in range(p0, p1):
                        v = get(x, p * c + c1, cols) - a
                        aa = aa + v * v
                    store(mean, c1, a)
                    store(squares, c1, aa)


@kernel
def statistics(
    parts: Floats,
    scale: Floats,
    b: Floats,
    running: Running,
    moments: Moments,
    affine: ChannelAffine,
    count: Int,
    split: Pixels,
    padded: Int,
    epsilon: Float,
    first: Int,
    last: Int,
) -> None:
    """Mean and variance of ``count`` parts of `moments` (Chan, Golub and LeVeque 1983, pairwise, in
    order); what x is multiplied with and what is added; the running statistics.
    A unit is a vector of channels."""
    pixels, total, c = split
    momentum = running.momentum
    for unit in range(first, last):
        c0 = unit * W
        cols = c - c0
        m = load(parts, c0)
        s = load(parts, padded + c0)
        n = min(pixels, total)
        for part in range(1, count):
            more = min(pixels, total - part * pixels)
            d = load(parts, 2 * part * padded + c0) - m
            s = s + load(parts, (2 * part + 1) * padded + c0) + d * d * (Float(n) * Float(more) / Float(n + more))
            m = m + d * (Float(more) / Float(n + more))
            n += more
        v = s / total
        f = get(scale, c0, cols) / sqrt(v + epsilon)
        put(moments.mean, c0, m, cols)
        put(moments.var, c0, v, cols)
        put(running.new_mean, c0, get(running.old_mean, c0, cols) * momentum + m * (Float(1) - momentum), cols)
        put(running.new_var, c0, get(running.old_var, c0, cols) * momentum + v * (Float(1) - momentum), cols)
        put(affine.factor, c0, f, cols)
        put(affine.shift, c0, get(b, c0, cols) - m * f, cols)


@kernel
def factors(
    scale: Floats,
    b: Floats,
    moments: Moments,
    affine: ChannelAffine,
    c: Int,
    epsilon: Float,
    first: Int,
    last: Int,
) -> None:
    """factor = scale / sqrt(var + epsilon), shift = b - mean·factor; a unit is a vector of
    channels."""
    for unit in range(first, last):
        c0 = unit * W
        cols = c - c0
        f = get(scale, c0, cols) / sqrt(get(moments.var, c0, cols) + epsilon)
        put(affine.factor, c0, f, cols)
        put(affine.shift, c0, get(b, c0, cols) - get(moments.mean, c0, cols) * f, cols)


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
    """parts[part, 0, c] = Σ dy, parts[part, 1, c] = Σ dy·(x - mean) over the part's pixels; where
    ``rectified`` dy counts for nothing where y is not positive.
    A unit is a part."""
    pixels, total, c = split
    for unit in range(first, last):
        p0 = unit * pixels
        p1 = min(total, p0 + pixels)
        for c0 in range(0, c, W):
            cols = c - c0
            m = get(mean, c0, cols)
            a = splat(0.0)
            b = splat(0.0)
            if cols >= W and rectified == 1:
                for p in range(p0, p1):
                    d = load(dy, p * c + c0)
                    d = where(load(y, p * c + c0) <= 0, 0.0, d)
                    a = a + d
                    b = b + d * (load(x, p * c + c0) - m)
            elif cols >= W:
                for p in range(p0, p1):
                    d = load(dy, p * c + c0)
                    a = a + d
                    b = b + d * (load(x, p * c + c0) - m)
            else:
                for p in range(p0, p1):
                    d = load_part(dy, p * c + c0, cols)
                    if rectified == 1:
                        d = where(load_part(y, p * c + c0, cols) <= 0, 0.0, d)
                    a = a + d
                    b = b + d * (load_part(x, p * c + c0, cols) - m)
            store(parts, 2 * unit * padded + c0, a)
            store(parts, (2 * unit + 1) * padded + c0, b)


@kernel
def grad_merge(
    parts: Floats,
    var: Floats,
    dscale: Floats,
    db: Floats,
    count: Int,
    c: Int,
    padded: Int,
    epsilon: Float,
    first: Int,
    last: Int,
) -> None:
    """db = Σ dy and dscale = Σ dy·(x - mean) / sqrt(var + epsilon), of the parts; a unit is a
    vector of channels."""
    for unit in range(first, last):
        c0 = unit * W
        cols = c - c0
        a = load(parts, c0)
        b = load(parts, padded + c0)
        for part in range(1, count):
            a = a + load(parts, 2 * part * padded + c0)
            b = b + load(parts, (2 * part + 1) * padded + c0)
        put(db, c0, a, cols)
        put(dscale, c0, b / sqrt(get(var, c0, cols) + epsilon), cols)


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
    """dx = scale·r·(dy - db/N - (x - mean)·r·dscale/N), r = 1 / sqrt(var + epsilon), N = ``count``;
    dy as in `grad_sums`.
    A unit is a part of the pixels."""
    pixels, total, c = split
    for unit in range(first, last):
        p0 = unit * pixels
        p1 = min(total, p0 + pixels)
        for c0 in range(0, c, W):
            cols = c - c0
            m = get(norm.mean, c0, cols)
            r = splat(1.0) / sqrt(get(norm.var, c0, cols) + norm.epsilon)
            k = get(norm.scale, c0, cols) * r
            a = get(db, c0, cols) / count
            b = get(dscale, c0, cols) * r / count
            if cols >= W and rectified == 1:
                for p in range(p0, p1):
                    d = where(load(y, p * c + c0) <= 0, 0.0, load(dy, p * c + c0))
                    store(dx, p * c + c0, k * (d - a - (load(x, p * c + c0) - m) * b))
            elif cols >= W:
                for p in range(p0, p1):
                    store(dx, p * c + c0, k * (load(dy, p * c + c0) - a - (load(x, p * c + c0) - m) * b))
            else:
                for p in range(p0, p1):
                    d = load_part(dy, p * c + c0, cols)
                    if rectified == 1:
                        d = where(load_part(y, p * c + c0, cols) <= 0, 0.0, d)
                    store_part(dx, p * c + c0, k * (d - a - (load_part(x, p * c + c0, cols) - m) * b), cols)
