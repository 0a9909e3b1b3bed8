"""Kernels made from formulas: `unary` and `binary` turn a function of vectors into a kernel over
arrays."""

import inspect

from nbconv.kernels.params import Clamp, Rows, RowStrides

from ._simd import (
    Float,
    Floats,
    Int,
    W,
    inline,
    kernel,
    load,
    load_part,
    maximum,
    minimum,
    splat,
    store,
    store_part,
)


def unary(function):
    """The kernel y[i] = function(x[i], …) for n elements; a unit is ``chunk`` of them.
    What the formula takes beside x are Float arguments of the kernel."""
    names = list(inspect.signature(function).parameters)[1:]
    formula = inline(function)

    def plain(x: Floats, y: Floats, n: Int, chunk: Int, first: Int, last: Int) -> None:
        for i in range(first * chunk, min(last * chunk, n), W):
            if i + W <= n:
                store(y, i, formula(load(x, i)))
            else:
                store_part(y, i, formula(load_part(x, i, n - i)), n - i)

    def with_one(x: Floats, y: Floats, n: Int, chunk: Int, p: Float, first: Int, last: Int) -> None:
        for i in range(first * chunk, min(last * chunk, n), W):
            if i + W <= n:
                store(y, i, formula(load(x, i), p))
            else:
                store_part(y, i, formula(load_part(x, i, n - i), p), n - i)

    def with_two(
        x: Floats,
        y: Floats,
        n: Int,
        chunk: Int,
        p: Float,
        q: Float,
        first: Int,
        last: Int,
    ) -> None:
        for i in range(first * chunk, min(last * chunk, n), W):
            if i + W <= n:
                store(y, i, formula(load(x, i), p, q))
            else:
                store_part(y, i, formula(load_part(x, i, n - i), p, q), n - i)

    made = (plain, with_one, with_two)[len(names)]
    kinds = made.__annotations__
    made.__annotations__ = {
        **{k: kinds[k] for k in ("x", "y", "n", "chunk")},
        **dict.fromkeys(names, Float),
        **{k: kinds[k] for k in ("first", "last", "return")},
    }
    return named(made, function)


def binary(function):
    """The kernel y = clamp(function(a, b)) over broadcast arrays.

    y is d0 × d1 × d2 rows; a's and b's elements are 1 or 0 apart. A unit is a row.
    """
    formula = inline(function)

    def broadcast(
        a: Floats,
        b: Floats,
        y: Floats,
        rows: Rows,
        a_strides: RowStrides,
        b_strides: RowStrides,
        clamp: Clamp,
        first: Int,
        last: Int,
    ) -> None:
        d1, d2, n, total = rows
        a0, a1, a2, ai = a_strides
        b0, b1, b2, bi = b_strides
        low, high = clamp
        i = first // d2 // d1
        j = first // d2 - i * d1
        k = first - (i * d1 + j) * d2
        for unit in range(first, last):
            pa = i * a0 + j * a1 + k * a2
            pb = i * b0 + j * b1 + k * b2
            py = unit * n
            end = min(n, total - py)
            for e in range(0, end - W + 1, W):
                va = load(a, pa + e) if ai == 1 else splat(a[pa])
                vb = load(b, pb + e) if bi == 1 else splat(b[pb])
                store(y, py + e, minimum(maximum(formula(va, vb), low), high))
            rest = end % W
            if rest > 0:
                e = end - rest
                va = load_part(a, pa + e, rest) if ai == 1 else splat(a[pa])
                vb = load_part(b, pb + e, rest) if bi == 1 else splat(b[pb])
                store_part(y, py + e, minimum(maximum(formula(va, vb), low), high), rest)
            k += 1
            if k == d2:
                k = 0
                j += 1
                if j == d1:
                    j = 0
                    i += 1

    return named(broadcast, function)


def called(name, made, module):
    """The kernel ``made`` under a name of its own: one of several that a function makes for types
    of elements."""
    made.__name__ = made.__qualname__ = name
    made.__module__ = module
    return kernel(made)


def named(made, function):
    """The kernel ``made``, called what the formula is called."""
    made.__name__ = made.__qualname__ = function.__name__
    made.__module__ = function.__module__
    made.__doc__ = function.__doc__
    return kernel(made)
