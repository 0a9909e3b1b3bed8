"""Softmax, LogSoftmax and their gradients, along the middle axis of (outer, n, inner) arrays.
A unit is a vector of columns of one o, or one o where inner is 1, as in `reduce.py`."""

from . import _math
from ._max import larger, row_max
from ._simd import (
    Floats,
    Int,
    W,
    at,
    blocks,
    get,
    hsum,
    inline,
    kernel,
    load,
    load_part,
    put,
    splat,
    store_part,
)


@kernel
def softmax(x: Floats, y: Floats, n: Int, inner: Int, first: Int, last: Int) -> None:
    """y = e^(x - max) / Σ e^(x - max)."""
    for unit in range(first, last):
        if inner == 1:
            _softmax_row(at(x, unit * n), at(y, unit * n), n)
        else:
            start, cols = _columns(unit, n, inner)
            _softmax_columns(at(x, start), at(y, start), n, inner, cols)


@kernel
def log_softmax(x: Floats, y: Floats, n: Int, inner: Int, first: Int, last: Int) -> None:
    """y = x - max - ln Σ e^(x - max)."""
    for unit in range(first, last):
        if inner == 1:
            _log_softmax_row(at(x, unit * n), at(y, unit * n), n)
        else:
            start, cols = _columns(unit, n, inner)
            _log_softmax_columns(at(x, start), at(y, start), n, inner, cols)


@kernel
def softmax_grad(
    x: Floats,
    dy: Floats,
    y: Floats,
    n: Int,
    inner: Int,
    first: Int,
    last: Int,
) -> None:
    """y = x·(dy - Σ dy·x), where x is what softmax gave."""
    for unit in range(first, last):
        if inner == 1:
            _softmax_grad_row(at(x, unit * n), at(dy, unit * n), at(y, unit * n), n)
        else:
            start, cols = _columns(unit, n, inner)
            _softmax_grad_columns(at(x, start), at(dy, start), at(y, start), n, inner, cols)


@kernel
def log_softmax_grad(
    x: Floats,
    dy: Floats,
    y: Floats,
    n: Int,
    inner: Int,
    first: Int,
    last: Int,
) -> None:
    """y = dy - e^x·Σ dy, where x is what log_softmax gave."""
    for unit in range(first, last):
        if inner == 1:
            _log_softmax_grad_row(at(x, unit * n), at(dy, unit * n), at(y, unit * n), n)
        else:
            start, cols = _columns(unit, n, inner)
            _log_softmax_grad_columns(at(x, start), at(dy, start), at(y, start), n, inner, cols)


@inline
def _columns(unit, n, inner):
    """(where a unit's columns begin, how many they are)."""
    o = unit // blocks(inner)
    c0 = (unit - o * blocks(inner)) * W
    return o * n * inner + c0, min(W, inner - c0)


@inline
def _softmax_row(x, y, n):
    top = row_max(x, n)
    total = splat(0.0)
    for i in range(0, n, W):
        put(y, i, _math.exp(get(x, i, n - i) - top), n - i)
        total = total + get(y, i, n - i)
    scale = splat(1.0) / splat(hsum(total))
    for i in range(0, n, W):
        put(y, i, get(y, i, n - i) * scale, n - i)


@inline
def _softmax_columns(x, y, n, inner, cols):
    top = _column_max(x, n, inner, cols)
    total = splat(0.0)
    for j in range(n):
        e = _math.exp(get(x, j * inner, cols) - top)
        total = total + e
        put(y, j * inner, e, cols)
    scale = splat(1.0) / total
    for j in range(n):
        put(y, j * inner, get(y, j * inner, cols) * scale, cols)


@inline
def _column_max(x, n, inner, cols):
    top = splat(-float("inf"))
    for j in range(n):
        top = larger(top, get(x, j * inner, cols))
    return top


@inline
def _log_softmax_row(x, y, n):
    top = row_max(x, n)
    total = splat(0.0)
    for i in range(0, n, W):
        if i + W <= n:
            total = total + _math.exp(load(x, i) - top)
        else:
            store_part(y, i, _math.exp(load_part(x, i, n - i) - top), n - i)
            total = total + load_part(y, i, n - i)
    shift = _math.log(splat(hsum(total)))
    for i in range(0, n, W):
        put(y, i, get(x, i, n - i) - top - shift, n - i)


@inline
def _log_softmax_columns(x, y, n, inner, cols):
    top = _column_max(x, n, inner, cols)
    total = splat(0.0)
    for j in range(n):
        total = total + _math.exp(get(x, j * inner, cols) - top)
    shift = _math.log(total)
    for j in range(n):
        put(y, j * inner, get(x, j * inner, cols) - top - shift, cols)


@inline
def _softmax_grad_row(x, dy, y, n):
    total = splat(0.0)
    for i in range(0, n, W):
        total = total + get(x, i, n - i) * get(dy, i, n - i)
    mean = splat(hsum(total))
    for i in range(0, n, W):
        put(y, i, get(x, i, n - i) * (get(dy, i, n - i) - mean), n - i)


@inline
def _softmax_grad_columns(x, dy, y, n, inner, cols):
    total = splat(0.0)
    for j in range(n):
        total = total + get(x, j * inner, cols) * get(dy, j * inner, cols)
    for j in range(n):
        put(y, j * inner, get(x, j * inner, cols) * (get(dy, j * inner, cols) - total), cols)


@inline
def _log_softmax_grad_row(x, dy, y, n):
    total = splat(0.0)
    for i in range(0, n, W):
        total = total + get(dy, i, n - i)
    whole = splat(hsum(total))
    for i in range(0, n, W):
        put(y, i, get(dy, i, n - i) - _math.exp(get(x, i, n - i)) * whole, n - i)


@inline
def _log_softmax_grad_columns(x, dy, y, n, inner, cols):
    total = splat(0.0)
    for j in range(n):
        total = total + get(dy, j * inner, cols)
    for j in range(n):
        e = _math.exp(get(x, j * inner, cols))
        put(y, j * inner, get(dy, j * inner, cols) - e * total, cols)
