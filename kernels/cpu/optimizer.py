"""Optimizer steps, as `nbconv/ops/optimizer.py` says them: element by element, n of them; a unit is ``chunk`` elements.

The new values may lie where the old ones do. ``factor`` and the like are read where they lie, as they change every step.
"""

from ._simd import (
    Float,
    Floats,
    Int,
    W,
    inline,
    kernel,
    load,
    load_part,
    splat,
    sqrt,
    store,
    store_part,
    where,
)


@inline
def get(p, i, n):
    return load(p, i) if i + W <= n else load_part(p, i, n - i)


@inline
def put(p, i, v, n):
    if i + W <= n:
        store(p, i, v)
    else:
        store_part(p, i, v, n - i)


@inline
def decayed(w, d, decay, l1):
    """The gradient with what the decays add."""
    if decay != 0:
        d = d + decay * w
    if l1 != 0:
        d = d + l1 * where(w > 0.0, splat(1.0), where(w < 0.0, splat(-1.0), splat(0.0)))
    return d


@kernel
def sgd(
    p: Floats, g: Floats, lr: Floats, new_p: Floats, n: Int, chunk: Int, rate: Float, decay: Float, l1: Float, first: Int,
    last: Int,
) -> None:  # fmt: skip
    size = lr[0] * rate
    for i in range(first * chunk, min(last * chunk, n), W):
        w = get(p, i, n)
        put(new_p, i, w - size * decayed(w, get(g, i, n), decay, l1), n)


@kernel
def momentum(
    p: Floats, g: Floats, v: Floats, lr: Floats, new_p: Floats, new_v: Floats, n: Int, chunk: Int, rate: Float, decay: Float,
    l1: Float, momentum: Float, nesterov: Int, first: Int, last: Int,
) -> None:  # fmt: skip
    size = lr[0] * rate
    for i in range(first * chunk, min(last * chunk, n), W):
        w = get(p, i, n)
        d = decayed(w, get(g, i, n), decay, l1)
        s = momentum * get(v, i, n) + d
        put(new_v, i, s, n)
        if nesterov != 0:
            s = d + momentum * s
        put(new_p, i, w - size * s, n)


@kernel
def adagrad(
    p: Floats, g: Floats, s: Floats, lr: Floats, new_p: Floats, new_s: Floats, n: Int, chunk: Int, rate: Float, decay: Float,
    l1: Float, epsilon: Float, first: Int, last: Int,
) -> None:  # fmt: skip
    size = lr[0] * rate
    for i in range(first * chunk, min(last * chunk, n), W):
        w = get(p, i, n)
        d = decayed(w, get(g, i, n), decay, l1)
        total = get(s, i, n) + d * d
        put(new_s, i, total, n)
        put(new_p, i, w - size * d / (sqrt(total) + splat(epsilon)), n)


@kernel
def adadelta(
    p: Floats, g: Floats, s: Floats, u: Floats, lr: Floats, new_p: Floats, new_s: Floats, new_u: Floats, n: Int, chunk: Int,
    rate: Float, decay: Float, l1: Float, rho: Float, rest: Float, epsilon: Float, first: Int, last: Int,
) -> None:  # fmt: skip
    size = lr[0] * rate
    for i in range(first * chunk, min(last * chunk, n), W):
        w = get(p, i, n)
        d = decayed(w, get(g, i, n), decay, l1)
        square = rho * get(s, i, n) + rest * (d * d)
        moved = get(u, i, n)
        d = sqrt(moved + splat(epsilon)) / sqrt(square + splat(epsilon)) * d
        put(new_s, i, square, n)
        put(new_u, i, rho * moved + rest * (d * d), n)
        put(new_p, i, w - size * d, n)


@kernel
def rmsprop(
    p: Floats, g: Floats, s: Floats, v: Floats, lr: Floats, new_p: Floats, new_s: Floats, new_v: Floats, n: Int, chunk: Int,
    rate: Float, decay: Float, l1: Float, alpha: Float, rest: Float, epsilon: Float, momentum: Float, first: Int, last: Int,
) -> None:  # fmt: skip
    size = lr[0] * rate
    for i in range(first * chunk, min(last * chunk, n), W):
        w = get(p, i, n)
        d = decayed(w, get(g, i, n), decay, l1)
        square = alpha * get(s, i, n) + rest * (d * d)
        step = momentum * get(v, i, n) + d / (sqrt(square) + splat(epsilon))
        put(new_s, i, square, n)
        put(new_v, i, step, n)
        put(new_p, i, w - size * step, n)


@kernel
def adam(
    p: Floats, g: Floats, m: Floats, v: Floats, lr: Floats, c1: Floats, root: Floats, new_p: Floats, new_m: Floats,
    new_v: Floats, n: Int, chunk: Int, rate: Float, decay: Float, l1: Float, rest1: Float, beta2: Float, rest2: Float,
    epsilon: Float, decoupled: Int, first: Int, last: Int,
) -> None:  # fmt: skip
    size = lr[0] * rate
    step, deviation = size / c1[0], splat(root[0])
    inside, outside = decay, Float(0)
    if decoupled != 0:
        inside, outside = outside, inside
    for i in range(first * chunk, min(last * chunk, n), W):
        w = get(p, i, n)
        d = decayed(w, get(g, i, n), inside, l1)
        if outside != 0:
            w = w - size * outside * w
        mean = get(m, i, n)
        mean = mean + rest1 * (d - mean)
        square = beta2 * get(v, i, n) + rest2 * (d * d)
        put(new_m, i, mean, n)
        put(new_v, i, square, n)
        put(new_p, i, w - step * mean / (sqrt(square) / deviation + splat(epsilon)), n)
