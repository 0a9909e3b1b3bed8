"""Normalisations on channels-last data."""

from nbconv.kernels.params import Clamp

from . import _math
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
    maximum,
    minimum,
    put,
    splat,
    sqrt,
    stack_floats,
    store,
    store_part,
)

MAX_CHANNELS = 4096
"""Most channels `lrn` and `lrn_grad` take."""
MAX_REACH = 64
"""Most channels a window of `lrn` reaches to either side."""
SQUARES = MAX_CHANNELS + 2 * MAX_REACH + 64


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
    """y[p, :] = clamp(x[p, :]·scale + shift), a unit is a pixel: batch normalisation at
    inference."""
    low, high = clamp
    for unit in range(first, last):
        xp = at(x, unit * ldx)
        yp = at(y, unit * ldy)
        for c0 in range(0, c - W + 1, W):
            store(yp, c0, minimum(maximum(load(xp, c0) * load(scale, c0) + load(shift, c0), low), high))
        rest = c % W
        if rest > 0:
            c0 = c - rest
            v = load_part(xp, c0, rest) * load_part(scale, c0, rest) + load_part(shift, c0, rest)
            store_part(yp, c0, minimum(maximum(v, low), high), rest)


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
    pixel, c ≤ 4096.

    ``alpha`` is ONNX's alpha / size.
    The squares of some pixels are made before they are summed: loads that overlap two stores wait
    until these have left the core.
    ImageNet Classification with Deep CNNs (Krizhevsky 2012), section 3.3.
    """
    squares = stack_floats(SQUARES)
    line = before + (c + W - 1) // W * W + after
    many = min(16, SQUARES // line)
    for i in range(many * line):
        squares[i] = 0
    unit = first
    while unit < last:
        pixels = min(many, last - unit)
        for p in range(pixels):
            xp = at(x, (unit + p) * c)
            sp = at(squares, p * line + before)
            for i in range(c):
                sp[i] = xp[i] * xp[i]
        for p in range(pixels):
            xp = at(x, (unit + p) * c)
            yp = at(y, (unit + p) * c)
            for c0 in range(0, c, W):
                total = splat(0.0)
                for j in range(before + after + 1):
                    total = total + load(squares, p * line + c0 + j)
                total = total * alpha + bias
                if beta == 0.75:
                    root = sqrt(total)
                    factor = splat(1.0) / (root * sqrt(root))
                else:
                    factor = _math.exp(_math.log(total) * -beta)
                cols = c - c0
                if cols >= W:
                    store(yp, c0, load(xp, c0) * factor)
                else:
                    store_part(yp, c0, load_part(xp, c0, cols) * factor, cols)
        unit += pixels


@kernel
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
            slope = get(xp, c0, c - c0) * total * (alpha * beta * 2.0)
            put(target, c0, get(target, c0, c - c0) - slope, c - c0)
