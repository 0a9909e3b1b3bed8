"""LogSoftmax, and the gradients of it and of Softmax, along the middle axis of (outer, n, inner) arrays. A unit is a vector
of columns of one o, or one o where inner is 1, as in `reduce.py`."""

from nbconv.kernels.cpu import _math
from nbconv.kernels.cpu._simd import (
    Floats,
    Int,
    W,
    at,
    get,
    hsum,
    inline,
    kernel,
    load,
    load_part,
    put,
    splat,
    store,
    store_part,
    where,
)


@kernel
def log_softmax(x: Floats, y: Floats, n: Int, inner: Int, first: Int, last: Int) -> None:
    """y = x - max - ln Σ e^(x - max)."""
    if inner == 1:
        for unit in range(first, last):
            _log_softmax_row(at(x, unit * n), at(y, unit * n), n)
    else:
        blocks = (inner + W - 1) // W
        for unit in range(first, last):
            o = unit // blocks
            c0 = (unit - o * blocks) * W
            _log_softmax_columns(at(x, o * n * inner + c0), at(y, o * n * inner + c0), n, inner, min(W, inner - c0))


@inline
def _log_softmax_row(x, y, n):
    top = x[0]
    for i in range(n):
        if x[i] > top or x[i] != x[i]:
            top = x[i]
    total = splat(0.0)
    for i in range(0, n, W):
        if i + W <= n:
            total = total + _math.exp(load(x, i) - splat(top))
        else:
            e = _math.exp(load_part(x, i, n - i) - splat(top))
            store_part(y, i, e, n - i)
            total = total + load_part(y, i, n - i)
    shift = _math.log(splat(hsum(total)))
    for i in range(0, n, W):
        if i + W <= n:
            store(y, i, load(x, i) - splat(top) - shift)
        else:
            store_part(y, i, load_part(x, i, n - i) - splat(top) - shift, n - i)


@inline
def _log_softmax_columns(x, y, n, inner, cols):
    top = splat(-float("inf"))
    for j in range(n):
        v = load(x, j * inner) if cols == W else load_part(x, j * inner, cols)
        top = where((top < v) | (v != v), v, top)
    total = splat(0.0)
    for j in range(n):
        total = total + _math.exp((load(x, j * inner) if cols == W else load_part(x, j * inner, cols)) - top)
    shift = _math.log(total)
    for j in range(n):
        if cols == W:
            store(y, j * inner, load(x, j * inner) - top - shift)
        else:
            store_part(y, j * inner, load_part(x, j * inner, cols) - top - shift, cols)


@kernel
def softmax_grad(x: Floats, dy: Floats, y: Floats, n: Int, inner: Int, first: Int, last: Int) -> None:
    """y = x·(dy - Σ dy·x), where x is what softmax gave."""
    if inner == 1:
        for unit in range(first, last):
            p = at(x, unit * n)
            d = at(dy, unit * n)
            target = at(y, unit * n)
            total = splat(0.0)
            for i in range(0, n, W):
                if i + W <= n:
                    total = total + load(p, i) * load(d, i)
                else:
                    total = total + load_part(p, i, n - i) * load_part(d, i, n - i)
            mean = splat(hsum(total))
            for i in range(0, n, W):
                if i + W <= n:
                    store(target, i, load(p, i) * (load(d, i) - mean))
                else:
                    store_part(target, i, load_part(p, i, n - i) * (load_part(d, i, n - i) - mean), n - i)
    else:
        blocks = (inner + W - 1) // W
        for unit in range(first, last):
            o = unit // blocks
            c0 = (unit - o * blocks) * W
            at0 = o * n * inner + c0
            cols = min(W, inner - c0)
            total = splat(0.0)
            for j in range(n):
                total = total + get(x, at0 + j * inner, cols) * get(dy, at0 + j * inner, cols)
            for j in range(n):
                put(y, at0 + j * inner, get(x, at0 + j * inner, cols) * (get(dy, at0 + j * inner, cols) - total), cols)


@kernel
def log_softmax_grad(x: Floats, dy: Floats, y: Floats, n: Int, inner: Int, first: Int, last: Int) -> None:
    """y = dy - e^x·Σ dy, where x is what log_softmax gave."""
    if inner == 1:
        for unit in range(first, last):
            p = at(x, unit * n)
            d = at(dy, unit * n)
            target = at(y, unit * n)
            total = splat(0.0)
            for i in range(0, n, W):
                total = total + (load(d, i) if i + W <= n else load_part(d, i, n - i))
            whole = splat(hsum(total))
            for i in range(0, n, W):
                if i + W <= n:
                    store(target, i, load(d, i) - _math.exp(load(p, i)) * whole)
                else:
                    store_part(target, i, load_part(d, i, n - i) - _math.exp(load_part(p, i, n - i)) * whole, n - i)
    else:
        blocks = (inner + W - 1) // W
        for unit in range(first, last):
            o = unit // blocks
            c0 = (unit - o * blocks) * W
            at0 = o * n * inner + c0
            cols = min(W, inner - c0)
            total = splat(0.0)
            for j in range(n):
                total = total + get(dy, at0 + j * inner, cols)
            for j in range(n):
                e = _math.exp(get(x, at0 + j * inner, cols))
                put(y, at0 + j * inner, get(dy, at0 + j * inner, cols) - e * total, cols)
