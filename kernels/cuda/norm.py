"""Normalisations on channels-last data."""

from nbconv.kernels.params import Clamp

from . import _math
from ._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    barrier,
    cuda,
    get,
    inline,
    kernel,
    lane,
    maximum,
    minimum,
    put,
    quotient,
    scalar,
    shared_floats,
    splat,
    sqrt,
    tiled,
)

MAX_CHANNELS = 4096
"""Most channels `lrn_grad` takes."""
THREADS = 128
SPAN = 128
"""Channels of a unit of `affine` (nbconv/ops/batch_norm.py counts by it)."""


@kernel
def affine(
    x: Floats,
    scale: Floats,
    shift: Floats,
    y: Floats,
    ldx: Int,
    c: Int,
    ldy: Int,
    clamp: Clamp,
    first: Int,
    last: Int,
) -> None:
    """y[p, :] = clamp(x[p, :]·scale + shift), a unit is `SPAN` channels of a pixel: batch
    normalisation at inference."""
    low, high = clamp
    spans = quotient(c + SPAN - 1, SPAN)
    for unit in range(first, last):
        p = quotient(unit, spans)
        begin = (unit - p * spans) * SPAN
        for c0 in range(begin, min(begin + SPAN, c), W):
            cols = c - c0
            v = get(x, p * ldx + c0, cols) * get(scale, c0, cols) + get(shift, c0, cols)
            put(y, p * ldy + c0, minimum(maximum(v, low), high), cols)


@kernel
def lrn(
    x: Floats,
    y: Floats,
    c: Int,
    before: Int,
    after: Int,
    alpha: Float,
    beta: Float,
    bias: Float,
    first: Int,
    last: Int,
) -> None:
    """y = x / (bias + alpha·Σ x²)^beta, the sum over channels [i-before, i+after]; a unit is a
    pixel."""
    for unit in range(first, last):
        xp = at(x, unit * c)
        yp = at(y, unit * c)
        for c0 in range(0, c, W):
            total = splat(_squares(xp, c0 + lane(), c, before, after)) * alpha + bias
            if beta == 0.75:
                root = sqrt(total)
                factor = splat(1.0) / (root * sqrt(root))
            else:
                factor = _math.exp(_math.log(total) * -beta)
            put(yp, c0, get(xp, c0, c - c0) * factor, c - c0)


@inline
def _squares(x, i, c, before, after):
    """Σ x² over channels [i-before, i+after] of c."""
    total = Float(0.0)
    for k in range(max(0, i - before), min(c, i + after + 1)):
        total += x[k] * x[k]
    return total


@tiled(THREADS)
def lrn_grad(
    dy: Floats,
    x: Floats,
    dx: Floats,
    c: Int,
    before: Int,
    after: Int,
    alpha: Float,
    beta: Float,
    bias: Float,
    first: Int,
    last: Int,
) -> None:
    """dx = dy·s^-beta - 2·alpha·beta·x·Σ dy·x·s^(-beta-1), the sum over channels [i-after,
    i+before]; s as in `lrn`.
    A unit is a pixel, c ≤ 4096."""
    parts = shared_floats(MAX_CHANNELS)
    xp = at(x, first * c)
    dp = at(dy, first * c)
    target = at(dx, first * c)
    mine = Int(cuda.threadIdx.x)
    for i in range(mine, c, THREADS):
        s = splat(_squares(xp, i, c, before, after)) * alpha + bias
        v = splat(dp[i]) * _math.exp(_math.log(s) * -beta)
        target[i] = scalar(v)
        parts[i] = scalar(v * splat(xp[i]) / s)
    barrier()
    for i in range(mine, c, THREADS):
        total = Float(0.0)
        for k in range(max(0, i - after), min(c, i + before + 1)):
            total += parts[k]
        target[i] = target[i] - xp[i] * total * (alpha * beta * Float(2.0))
    barrier()
