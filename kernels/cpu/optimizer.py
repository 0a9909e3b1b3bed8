"""Optimizer steps, as `nbconv/ops/optimizer.py` says them: element by element, a unit is a `Span`'s
chunk.


The new values may lie where the old ones do. Numbers that change every step are read from memory.
"""

from nbconv.kernels.optimizer_params import AdaDelta, Adam, Learning, RMSProp, Span

from ._simd import Float, Floats, Int, W, get, inline, kernel, put, splat, sqrt, where


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
    p: Floats,
    g: Floats,
    new_p: Floats,
    span: Span,
    learning: Learning,
    first: Int,
    last: Int,
) -> None:
    size, n = learning.lr[0] * learning.rate, span.n
    for i in range(first * span.chunk, min(last * span.chunk, n), W):
        w = get(p, i, n - i)
        put(new_p, i, w - size * decayed(w, get(g, i, n - i), learning.decay, learning.l1), n - i)


@kernel
def momentum(
    p: Floats,
    g: Floats,
    v: Floats,
    new_p: Floats,
    new_v: Floats,
    span: Span,
    learning: Learning,
    momentum: Float,
    nesterov: Int,
    first: Int,
    last: Int,
) -> None:
    size, n = learning.lr[0] * learning.rate, span.n
    for i in range(first * span.chunk, min(last * span.chunk, n), W):
        w = get(p, i, n - i)
        d = decayed(w, get(g, i, n - i), learning.decay, learning.l1)
        s = momentum * get(v, i, n - i) + d
        put(new_v, i, s, n - i)
        if nesterov != 0:
            s = d + momentum * s
        put(new_p, i, w - size * s, n - i)


@kernel
def adagrad(
    p: Floats,
    g: Floats,
    s: Floats,
    new_p: Floats,
    new_s: Floats,
    span: Span,
    learning: Learning,
    epsilon: Float,
    first: Int,
    last: Int,
) -> None:
    size, n = learning.lr[0] * learning.rate, span.n
    for i in range(first * span.chunk, min(last * span.chunk, n), W):
        w = get(p, i, n - i)
        d = decayed(w, get(g, i, n - i), learning.decay, learning.l1)
        total = get(s, i, n - i) + d * d
        put(new_s, i, total, n - i)
        put(new_p, i, w - size * d / (sqrt(total) + splat(epsilon)), n - i)


@kernel
def adadelta(
    p: Floats,
    g: Floats,
    s: Floats,
    u: Floats,
    new_p: Floats,
    new_s: Floats,
    new_u: Floats,
    span: Span,
    learning: Learning,
    by: AdaDelta,
    first: Int,
    last: Int,
) -> None:
    rho, rest, epsilon = by
    size, n = learning.lr[0] * learning.rate, span.n
    for i in range(first * span.chunk, min(last * span.chunk, n), W):
        w = get(p, i, n - i)
        d = decayed(w, get(g, i, n - i), learning.decay, learning.l1)
        square = rho * get(s, i, n - i) + rest * (d * d)
        moved = get(u, i, n - i)
        d = sqrt(moved + splat(epsilon)) / sqrt(square + splat(epsilon)) * d
        put(new_s, i, square, n - i)
        put(new_u, i, rho * moved + rest * (d * d), n - i)
        put(new_p, i, w - size * d, n - i)


@kernel
def rmsprop(
    p: Floats,
    g: Floats,
    s: Floats,
    v: Floats,
    new_p: Floats,
    new_s: Floats,
    new_v: Floats,
    span: Span,
    learning: Learning,
    by: RMSProp,
    first: Int,
    last: Int,
) -> None:
    alpha, rest, epsilon, momentum = by
    size, n = learning.lr[0] * learning.rate, span.n
    for i in range(first * span.chunk, min(last * span.chunk, n), W):
        w = get(p, i, n - i)
        d = decayed(w, get(g, i, n - i), learning.decay, learning.l1)
        square = alpha * get(s, i, n - i) + rest * (d * d)
        step = momentum * get(v, i, n - i) + d / (sqrt(square) + splat(epsilon))
        put(new_s, i, square, n - i)
        put(new_v, i, step, n - i)
        put(new_p, i, w - size * step, n - i)


@kernel
def adam(
    p: Floats,
    g: Floats,
    m: Floats,
    v: Floats,
    new_p: Floats,
    new_m: Floats,
    new_v: Floats,
    span: Span,
    learning: Learning,
    by: Adam,
    first: Int,
    last: Int,
) -> None:
    c1, root, rest1, beta2, rest2, epsilon, decoupled = by
    size, n = learning.lr[0] * learning.rate, span.n
    step, deviation = size / c1[0], splat(root[0])
    inside, outside = learning.decay, Float(0)
    if decoupled != 0:
        inside, outside = outside, inside
    for i in range(first * span.chunk, min(last * span.chunk, n), W):
        w = get(p, i, n - i)
        d = decayed(w, get(g, i, n - i), inside, learning.l1)
        if outside != 0:
            w = w - size * outside * w
        mean = get(m, i, n - i)
        mean = mean + rest1 * (d - mean)
        square = beta2 * get(v, i, n - i) + rest2 * (d * d)
        put(new_m, i, mean, n - i)
        put(new_v, i, square, n - i)
        put(new_p, i, w - step * mean / (sqrt(square) / deviation + splat(epsilon)), n - i)
