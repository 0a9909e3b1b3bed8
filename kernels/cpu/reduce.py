"""Reductions over the middle axis of (outer, n, inner) arrays, and softmax. Sums go in runs of 64, so that their error
grows with n/64."""

from nbconv.kernels.cpu import _math
from nbconv.kernels.cpu._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    hmax,
    hsum,
    inline,
    kernel,
    load,
    load_part,
    splat,
    store,
    store_part,
    where,
)

RUN = 64


@inline
def _larger(best, v):
    return where((best < v) | (v != v), v, best)


@inline
def _column_sum(x, n, inner, cols):
    """Σ_i x[i, 0:cols] for a vector of columns."""
    total = splat(0.0)
    for i0 in range(0, n, RUN):
        part = splat(0.0)
        for i in range(i0, min(i0 + RUN, n)):
            part = part + (load(x, i * inner) if cols == W else load_part(x, i * inner, cols))
        total = total + part
    return total


@inline
def _row_sum(x, n):
    """Σ x[0:n], n contiguous floats."""
    total = splat(0.0)
    for i0 in range(0, n, RUN * W):
        part = splat(0.0)
        for i in range(i0, min(i0 + RUN * W, n), W):
            part = part + (load(x, i) if i + W <= n else load_part(x, i, n - i))
        total = total + part
    return hsum(total)


@kernel
def sum_scaled(x: Floats, y: Floats, n: Int, inner: Int, scale: Float, first: Int, last: Int) -> None:
    """y[o, i] = scale·Σ_j x[o, j, i]. A unit is a vector of columns of one o, or one o where inner is 1."""
    if inner == 1:
        for unit in range(first, last):
            y[unit] = _row_sum(at(x, unit * n), n) * scale
    else:
        blocks = (inner + W - 1) // W
        for unit in range(first, last):
            o = unit // blocks
            c0 = (unit - o * blocks) * W
            cols = min(W, inner - c0)
            total = _column_sum(at(x, o * n * inner + c0), n, inner, cols) * scale
            if cols == W:
                store(y, o * inner + c0, total)
            else:
                store_part(y, o * inner + c0, total, cols)


@kernel
def largest(x: Floats, y: Floats, n: Int, inner: Int, first: Int, last: Int) -> None:
    """y[o, i] = max_j x[o, j, i], NaN where one is NaN. Units as in `sum_scaled`."""
    blocks = (inner + W - 1) // W
    for unit in range(first, last):
        o = unit // blocks
        c0 = (unit - o * blocks) * W
        cols = min(W, inner - c0)
        best = splat(-float("inf"))
        if inner == 1:
            y[unit] = _row_max(at(x, unit * n), n)
        else:
            for j in range(n):
                p = at(x, (o * n + j) * inner + c0)
                v = load(p, 0) if cols == W else load_part(p, 0, cols)
                best = _larger(best, v)
            if cols == W:
                store(y, o * inner + c0, best)
            else:
                store_part(y, o * inner + c0, best, cols)


@inline
def _row_max(x, n):
    best = splat(x[0])
    a, b, c, d = best, best, best, best
    whole = n - n % (4 * W)
    for i in range(0, whole, 4 * W):
        a, b, c, d = (
            _larger(a, load(x, i)), _larger(b, load(x, i + W)), _larger(c, load(x, i + 2 * W)),
            _larger(d, load(x, i + 3 * W)),
        )  # fmt: skip
    for i in range(whole, n - W + 1, W):
        a = _larger(a, load(x, i))
    top = hmax(_larger(_larger(a, b), _larger(c, d)))
    for i in range(n - n % W, n):
        v = x[i]
        if v > top or v != v:
            top = v
    return top


@kernel
def softmax(x: Floats, y: Floats, n: Int, inner: Int, first: Int, last: Int) -> None:
    """y = e^(x - max) / Σ e^(x - max) along the middle axis; units as in `sum_scaled`."""
    if inner == 1:
        for unit in range(first, last):
            _softmax_row(at(x, unit * n), at(y, unit * n), n)
    else:
        blocks = (inner + W - 1) // W
        for unit in range(first, last):
            o = unit // blocks
            c0 = (unit - o * blocks) * W
            _softmax_columns(at(x, o * n * inner + c0), at(y, o * n * inner + c0), n, inner, min(W, inner - c0))


@inline
def _softmax_row(x, y, n):
    top = _row_max(x, n)
    total = splat(0.0)
    for i in range(0, n, W):
        if i + W <= n:
            e = _math.exp(load(x, i) - splat(top))
            store(y, i, e)
            total = total + e
        else:
            e = _math.exp(load_part(x, i, n - i) - splat(top))
            store_part(y, i, e, n - i)
            total = total + load_part(y, i, n - i)
    scale = splat(1.0) / splat(hsum(total))
    for i in range(0, n, W):
        if i + W <= n:
            store(y, i, load(y, i) * scale)
        else:
            store_part(y, i, load_part(y, i, n - i) * scale, n - i)


@inline
def _softmax_columns(x, y, n, inner, cols):
    top = splat(-float("inf"))
    for j in range(n):
        v = load(x, j * inner) if cols == W else load_part(x, j * inner, cols)
        top = _larger(top, v)
    total = splat(0.0)
    for j in range(n):
        e = _math.exp((load(x, j * inner) if cols == W else load_part(x, j * inner, cols)) - top)
        total = total + e
        if cols == W:
            store(y, j * inner, e)
        else:
            store_part(y, j * inner, e, cols)
    scale = splat(1.0) / total
    for j in range(n):
        if cols == W:
            store(y, j * inner, load(y, j * inner) * scale)
        else:
            store_part(y, j * inner, load_part(y, j * inner, cols) * scale, cols)
