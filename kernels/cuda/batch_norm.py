"""Batch normalisation in training, and its gradient, on channels-last data; see
`kernels/cpu/batch_norm.py`.

What goes over pixels, or over their parts, is done by blocks: a thread has one channel, a warp
every 16th pixel or part.
Then the warps' sums are added in their order."""

from nbconv.kernels.params import BatchNorm, ChannelAffine, Moments, Pixels, Running

from ._numba import shared_source
from ._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    barrier,
    cuda,
    inline,
    quotient,
    scalar,
    shared_floats,
    splat,
    sqrt,
    tiled,
)

_shared = shared_source("batch_norm")
factors = _shared.factors

WARPS = 16
THREADS = WARPS * W


@inline
def _place(unit, pixels, total, c):
    """(part, channel, first pixel of this thread, pixels that it has) of a unit: a part, W channels
    wide.
    Threads past the last channel read what it reads."""
    vectors = quotient(c + W - 1, W)
    part = quotient(unit, vectors)
    t = Int(cuda.threadIdx.x)
    mine = min(pixels, total - part * pixels) - t // W
    channel = (unit - part * vectors) * W + t % W
    return part, channel, part * pixels + t // W, quotient(max(mine + WARPS - 1, 0), WARPS)


@inline
def _whole(held, v):
    """The sum of the warps' v, on each of them."""
    t = Int(cuda.threadIdx.x)
    held[t] = v
    barrier()
    total = held[t % W]
    for warp in range(1, WARPS):
        total += held[warp * W + t % W]
    barrier()
    return total


@inline
def _sum(x, n, step):
    """Σ of n values ``step`` apart. Four are read before the first is used."""
    total = Float(0)
    for _ in range(n >> 2):
        a, b, c, d = x[0], x[step], x[2 * step], x[3 * step]
        total += (a + b) + (c + d)
        x = at(x, 4 * step)
    for i in range(n & 3):
        total += x[i * step]
    return total


@inline
def _squares(x, n, step, m):
    """Σ (x - m)², as `_sum`."""
    total = Float(0)
    for _ in range(n >> 2):
        a, b, c, d = x[0] - m, x[step] - m, x[2 * step] - m, x[3 * step] - m
        total += (a * a + b * b) + (c * c + d * d)
        x = at(x, 4 * step)
    for i in range(n & 3):
        a = x[i * step] - m
        total += a * a
    return total


@tiled(THREADS)
def moments(x: Floats, y: Floats, split: Pixels, padded: Int, first: Int, last: Int) -> None:
    """y[part, 0, c] = the mean of x[p, c] over the part's pixels; y[part, 1, c] = Σ (x - mean)².
    ``padded`` floats a row of y. A unit is a part, W channels wide."""
    pixels, total, c = split
    held = shared_floats(THREADS)
    part, channel, p, n = _place(first, pixels, total, c)
    source = at(x, p * c + min(channel, c - 1))
    m = _whole(held, _sum(source, n, WARPS * c)) / Float(min(pixels, total - part * pixels))
    s = _whole(held, _squares(source, n, WARPS * c, m))
    if Int(cuda.threadIdx.x) < W:
        y[2 * part * padded + channel] = m
        y[(2 * part + 1) * padded + channel] = s


@tiled(THREADS)
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
    """Mean and variance of ``count`` parts of `moments`: the mean of their means, then Σ (x -
    mean)² of each; what x is multiplied with and what is added; the running statistics.
    A unit is a vector of channels."""
    pixels, total, c = split
    momentum = running.momentum
    held = shared_floats(THREADS)
    t = Int(cuda.threadIdx.x)
    channel = first * W + t % W
    a = Float(0)
    for part in range(t // W, count, WARPS):
        a += parts[2 * part * padded + channel] * Float(min(pixels, total - part * pixels))
    m = _whole(held, a) / Float(total)
    s = Float(0)
    for part in range(t // W, count, WARPS):
        d = parts[2 * part * padded + channel] - m
        s += parts[(2 * part + 1) * padded + channel] + d * d * Float(min(pixels, total - part * pixels))
    v = _whole(held, s) / Float(total)
    if t < W and channel < c:
        f = scale[channel] / scalar(sqrt(splat(v + epsilon)))
        moments.mean[channel] = m
        moments.var[channel] = v
        running.new_mean[channel] = running.old_mean[channel] * momentum + m * (Float(1) - momentum)
        running.new_var[channel] = running.old_var[channel] * momentum + v * (Float(1) - momentum)
        affine.factor[channel] = f
        affine.shift[channel] = b[channel] - m * f


@inline
def _slope(dy, gate, i, rectified):
    """dy[i]; where ``rectified`` 0 unless gate[i] is positive (or NaN)."""
    d, g = dy[i], gate[i]
    return Float(0) if (rectified == 1) & (g <= Float(0)) else d


@tiled(THREADS)
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
    A unit is a part, W channels wide."""
    pixels, total, c = split
    held = shared_floats(THREADS)
    part, channel, p, n = _place(first, pixels, total, c)
    place, step = p * c + min(channel, c - 1), WARPS * c
    m = mean[min(channel, c - 1)]
    gate = y if rectified == 1 else dy
    a = Float(0)
    b = Float(0)
    for _ in range(n >> 2):
        d0, d1 = _slope(dy, gate, place, rectified), _slope(dy, gate, place + step, rectified)
        d2, d3 = _slope(dy, gate, place + 2 * step, rectified), _slope(dy, gate, place + 3 * step, rectified)
        a += (d0 + d1) + (d2 + d3)
        b += d0 * (x[place] - m) + d1 * (x[place + step] - m)
        b += d2 * (x[place + 2 * step] - m) + d3 * (x[place + 3 * step] - m)
        place += 4 * step
    for i in range(n & 3):
        d = _slope(dy, gate, place + i * step, rectified)
        a += d
        b += d * (x[place + i * step] - m)
    a = _whole(held, a)
    b = _whole(held, b)
    if Int(cuda.threadIdx.x) < W:
        parts[2 * part * padded + channel] = a
        parts[(2 * part + 1) * padded + channel] = b


@tiled(THREADS)
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
    held = shared_floats(THREADS)
    t = Int(cuda.threadIdx.x)
    channel = first * W + t % W
    n = quotient(max(count - t // W + WARPS - 1, 0), WARPS)
    source = at(parts, 2 * (t // W) * padded + channel)
    a = _whole(held, _sum(source, n, 2 * WARPS * padded))
    b = _whole(held, _sum(at(source, padded), n, 2 * WARPS * padded))
    if t < W and channel < c:
        db[channel] = a
        dscale[channel] = b / scalar(sqrt(splat(var[channel] + epsilon)))


@tiled(THREADS)
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
    A unit is a part of the pixels, W channels wide."""
    pixels, total, c = split
    _, channel, p, n = _place(first, pixels, total, c)
    if channel < c:
        place, step = p * c + channel, WARPS * c
        gate = y if rectified == 1 else dy
        m = norm.mean[channel]
        r = Float(1) / scalar(sqrt(splat(norm.var[channel] + norm.epsilon)))
        k = norm.scale[channel] * r
        a = db[channel] / Float(count)
        b = dscale[channel] * r / Float(count)
        for _ in range(n >> 2):
            d0, d1 = _slope(dy, gate, place, rectified), _slope(dy, gate, place + step, rectified)
            d2, d3 = _slope(dy, gate, place + 2 * step, rectified), _slope(dy, gate, place + 3 * step, rectified)
            x0, x1, x2, x3 = x[place], x[place + step], x[place + 2 * step], x[place + 3 * step]
            dx[place] = k * (d0 - a - (x0 - m) * b)
            dx[place + step] = k * (d1 - a - (x1 - m) * b)
            dx[place + 2 * step] = k * (d2 - a - (x2 - m) * b)
            dx[place + 3 * step] = k * (d3 - a - (x3 - m) * b)
            place += 4 * step
        for i in range(n & 3):
            d = _slope(dy, gate, place + i * step, rectified)
            dx[place + i * step] = k * (d - a - (x[place + i * step] - m) * b)
