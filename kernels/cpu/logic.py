"""Comparisons, logic, choices and changes of type, on booleans of one byte.

Arrays are broadcast as by `_map.binary`: y is d0 × d1 × d2 rows of n elements, ``total`` in all; an operand's row (i, j, k)
begins at i·a0 + j·a1 + k·a2, its elements are ``ai`` apart (1 or 0). A unit is a row.
"""

from ._map import named
from ._simd import Bytes, Float, Floats, Int, Ints, inline, kernel, spread


@inline
def _row(unit, d1, d2, s0, s1, s2):
    """Where row ``unit`` of an operand begins."""
    ij = unit // d2
    i = ij // d1
    return i * s0 + (ij - i * d1) * s1 + (unit - ij * d2) * s2


def _pairs(of):
    """Makes the kernel y = formula(a, b) of arrays of this type, y booleans."""

    def made(formula):
        def pairs(
            a: of, b: of, y: Bytes, d1: Int, d2: Int, n: Int, total: Int,
            a0: Int, a1: Int, a2: Int, ai: Int, b0: Int, b1: Int, b2: Int, bi: Int, first: Int, last: Int,
        ) -> None:  # fmt: skip
            for unit in range(first, last):
                pa = _row(unit, d1, d2, a0, a1, a2)
                pb = _row(unit, d1, d2, b0, b1, b2)
                py = unit * n
                end = min(n, total - py)
                if ai == 1 and bi == 1:
                    for e in spread(end):
                        y[py + e] = formula(a[pa + e], b[pb + e])
                else:
                    for e in spread(end):
                        y[py + e] = formula(a[pa + e * ai], b[pb + e * bi])

        return named(pairs, formula)

    return made


@_pairs(Floats)
@inline
def equal(a, b):
    return a == b


@_pairs(Floats)
@inline
def greater(a, b):
    return a > b


@_pairs(Floats)
@inline
def greater_or_equal(a, b):
    return a >= b


@_pairs(Floats)
@inline
def less(a, b):
    return a < b


@_pairs(Floats)
@inline
def less_or_equal(a, b):
    return a <= b


@_pairs(Bytes)
@inline
def both(a, b):
    return a & b


@_pairs(Bytes)
@inline
def either(a, b):
    return a | b


@_pairs(Bytes)
@inline
def different(a, b):
    return a ^ b


@kernel
def choose(
    c: Bytes, a: Floats, b: Floats, y: Floats, d1: Int, d2: Int, n: Int, total: Int,
    c0: Int, c1: Int, c2: Int, ci: Int, a0: Int, a1: Int, a2: Int, ai: Int, b0: Int, b1: Int, b2: Int, bi: Int,
    first: Int, last: Int,
) -> None:  # fmt: skip
    """y = a where c, else b."""
    for unit in range(first, last):
        pc = _row(unit, d1, d2, c0, c1, c2)
        pa = _row(unit, d1, d2, a0, a1, a2)
        pb = _row(unit, d1, d2, b0, b1, b2)
        py = unit * n
        end = min(n, total - py)
        for e in spread(end):
            va = a[pa + e * ai]
            vb = b[pb + e * bi]
            y[py + e] = va if c[pc + e * ci] != 0 else vb


@kernel
def opposite(x: Bytes, y: Bytes, n: Int, chunk: Int, first: Int, last: Int) -> None:
    """y = not x; a unit is ``chunk`` elements, here and below."""
    i0 = first * chunk
    for e in spread(min(last * chunk, n) - i0):
        y[i0 + e] = x[i0 + e] ^ 1


@kernel
def from_bytes(x: Bytes, y: Floats, n: Int, chunk: Int, first: Int, last: Int) -> None:
    """y = x, of booleans or unsigned bytes."""
    i0 = first * chunk
    for e in spread(min(last * chunk, n) - i0):
        y[i0 + e] = Float(x[i0 + e])


@kernel
def from_ints(x: Ints, y: Floats, n: Int, chunk: Int, first: Int, last: Int) -> None:
    """y = x."""
    i0 = first * chunk
    for e in spread(min(last * chunk, n) - i0):
        y[i0 + e] = Float(x[i0 + e])


@kernel
def to_booleans(x: Floats, y: Bytes, n: Int, chunk: Int, first: Int, last: Int) -> None:
    """y = x ≠ 0; so is NaN."""
    i0 = first * chunk
    for e in spread(min(last * chunk, n) - i0):
        y[i0 + e] = 1 if x[i0 + e] != 0.0 else 0
