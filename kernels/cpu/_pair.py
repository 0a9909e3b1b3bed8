"""Kernels made from formulas of two arrays of one shape: `pair`, beside `unary` and `binary` of
`_map`."""

import inspect

from ._simd import Float, Floats, Int, W, inline, kernel, load, load_part, store, store_part


def pair(function):
    """The kernel y[i] = function(dy[i], v[i], …) for n elements; a unit is ``chunk`` of them.
    What the formula takes beside the two are Float arguments of the kernel."""
    names = list(inspect.signature(function).parameters)[2:]
    formula = inline(function)

    def plain(dy: Floats, v: Floats, y: Floats, n: Int, chunk: Int, first: Int, last: Int) -> None:
        for i in range(first * chunk, min(last * chunk, n), W):
            if i + W <= n:
                store(y, i, formula(load(dy, i), load(v, i)))
            else:
                store_part(y, i, formula(load_part(dy, i, n - i), load_part(v, i, n - i)), n - i)

    def with_one(
        dy: Floats,
        v: Floats,
        y: Floats,
        n: Int,
        chunk: Int,
        p: Float,
        first: Int,
        last: Int,
    ) -> None:
        for i in range(first * chunk, min(last * chunk, n), W):
            if i + W <= n:
                store(y, i, formula(load(dy, i), load(v, i), p))
            else:
                store_part(y, i, formula(load_part(dy, i, n - i), load_part(v, i, n - i), p), n - i)

    def with_two(
        dy: Floats,
        v: Floats,
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
                store(y, i, formula(load(dy, i), load(v, i), p, q))
            else:
                store_part(y, i, formula(load_part(dy, i, n - i), load_part(v, i, n - i), p, q), n - i)

    made = (plain, with_one, with_two)[len(names)]
    kinds = made.__annotations__
    made.__annotations__ = {
        **{k: kinds[k] for k in ("dy", "v", "y", "n", "chunk")},
        **dict.fromkeys(names, Float),
        **{k: kinds[k] for k in ("first", "last", "return")},
    }
    made.__name__ = made.__qualname__ = function.__name__
    made.__module__, made.__doc__ = function.__module__, function.__doc__
    return kernel(made)
