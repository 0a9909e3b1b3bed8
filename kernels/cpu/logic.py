"""Comparisons, logic, choices and changes of type, on booleans of one byte.

Arrays are broadcast as by `_map.binary`: y is `Rows`, the operands have `RowStrides`. A unit is a row.
"""

from nbconv.kernels.params import Rows, RowStrides

from ._map import named
from ._simd import Bytes, Float, Floats, Int, Ints, inline, kernel, spread


@inline
def _row(unit, rows, strides):
    """Where row ``unit`` of an operand begins."""
    ij = unit // rows.d2
    i = ij // rows.d1
    return i * strides.s0 + (ij - i * rows.d1) * strides.s1 + (unit - ij * rows.d2) * strides.s2


def _pairs(of):
    """Makes the kernel y = formula(a, b) of arrays of this type, y booleans."""

    def made(formula):
        def pairs(
            a: of, b: of, y: Bytes, rows: Rows, a_strides: RowStrides, b_strides: RowStrides, first: Int, last: Int
        ) -> None:
            ai, bi = a_strides.element, b_strides.element
            for unit in range(first, last):
                pa = _row(unit, rows, a_strides)
                pb = _row(unit, rows, b_strides)
                py = unit * rows.n
                end = min(rows.n, rows.total - py)
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
def logical_and(a, b):
    return a & b


@_pairs(Bytes)
@inline
def logical_or(a, b):
    return a | b


@_pairs(Bytes)
@inline
def logical_xor(a, b):
    return a ^ b


@kernel
def where(
    c: Bytes,
    a: Floats,
    b: Floats,
    y: Floats,
    rows: Rows,
    c_strides: RowStrides,
    a_strides: RowStrides,
    b_strides: RowStrides,
    first: Int,
    last: Int,
) -> None:
    """y = a where c, else b."""
    ci, ai, bi = c_strides.element, a_strides.element, b_strides.element
    for unit in range(first, last):
        pc = _row(unit, rows, c_strides)
        pa = _row(unit, rows, a_strides)
        pb = _row(unit, rows, b_strides)
        py = unit * rows.n
        end = min(rows.n, rows.total - py)
        for e in spread(end):
            va = a[pa + e * ai]
            vb = b[pb + e * bi]
            y[py + e] = va if c[pc + e * ci] != 0 else vb


@kernel
def logical_not(x: Bytes, y: Bytes, n: Int, chunk: Int, first: Int, last: Int) -> None:
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
