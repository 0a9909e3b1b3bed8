"""Arithmetic, comparisons and choices of integers, element by element; numbers wrap round where a type has too few bits.

Arrays are broadcast as in logic.py. A kernel is called by what it does and the type, or the bytes, of an element.
"""

from llvmlite import ir
from numba.extending import intrinsic

from nbconv.kernels.params import Rows, RowStrides

from ._map import called
from ._simd import Bytes, Int, Int32s, Ints, Shorts, inline, spread


@inline
def _row(unit, rows, strides):
    """Where row ``unit`` of an operand begins."""
    ij = unit // rows.d2
    i = ij // rows.d1
    return i * strides.s0 + (ij - i * rows.d1) * strides.s1 + (unit - ij * rows.d2) * strides.s2


def _pairs(of, to, formula, name):
    combine = inline(formula)

    def pairs(a: of, b: of, y: to, rows: Rows, a_strides: RowStrides, b_strides: RowStrides, first: Int, last: Int) -> None:
        """y = formula(a, b). A unit is a row."""
        ai, bi = a_strides.element, b_strides.element
        for unit in range(first, last):
            pa = _row(unit, rows, a_strides)
            pb = _row(unit, rows, b_strides)
            py = unit * rows.n
            end = min(rows.n, rows.total - py)
            if ai == 1 and bi == 1:
                for e in spread(end):
                    y[py + e] = combine(a[pa + e], b[pb + e])
            else:
                for e in spread(end):
                    y[py + e] = combine(a[pa + e * ai], b[pb + e * bi])

    return called(name, pairs, __name__)


def _where(of, name):
    def where(
        c: Bytes,
        a: of,
        b: of,
        y: of,
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

    return called(name, where, __name__)


def _division(build):
    """An intrinsic of a and b, of one type: ``build(builder, a, b, divisor)`` where b is neither 0 nor -1, by which
    processors trap; the divisor is 1 there."""

    @intrinsic
    def division(tc, a, b):
        def gen(ctx, builder, sig, args):
            zero, one, least = (ir.Constant(args[0].type, v) for v in (0, 1, -1))
            none, negative = builder.icmp_signed("==", args[1], zero), builder.icmp_signed("==", args[1], least)
            divisor = builder.select(builder.or_(none, negative), one, args[1])
            return builder.select(none, zero, build(builder, *args, divisor, negative))

        return a(a, b), gen

    return division


def _quotient_ir(b, x, y, divisor, negative):
    return b.select(negative, b.neg(x), b.sdiv(x, divisor))


def _remainder_ir(b, x, y, divisor, negative):
    return b.srem(x, divisor)


def _modulo_ir(b, x, y, divisor, negative):
    rest, zero = b.srem(x, divisor), ir.Constant(x.type, 0)
    other = b.and_(b.icmp_signed("!=", rest, zero), b.icmp_signed("<", b.xor(rest, y), zero))
    return b.select(b.and_(other, b.not_(negative)), b.add(rest, y), rest)


_div, _fmod, _mod = _division(_quotient_ir), _division(_remainder_ir), _division(_modulo_ir)


def _sum(a, b):
    return a + b


def _difference(a, b):
    return a - b


def _product(a, b):
    return a * b


def _quotient(a, b):
    return _div(a, b)


def _remainder(a, b):
    return _fmod(a, b)


def _modulo(a, b):
    return _mod(a, b)


def _greatest(a, b):
    return max(a, b)


def _least(a, b):
    return min(a, b)


def _equal(a, b):
    return a == b


def _greater(a, b):
    return a > b


def _greater_or_equal(a, b):
    return a >= b


def _less(a, b):
    return a < b


def _less_or_equal(a, b):
    return a <= b


add_int32, add_int64 = _pairs(Int32s, Int32s, _sum, "add_int32"), _pairs(Ints, Ints, _sum, "add_int64")
sub_int32, sub_int64 = _pairs(Int32s, Int32s, _difference, "sub_int32"), _pairs(Ints, Ints, _difference, "sub_int64")
mul_int32, mul_int64 = _pairs(Int32s, Int32s, _product, "mul_int32"), _pairs(Ints, Ints, _product, "mul_int64")
div_int32, div_int64 = _pairs(Int32s, Int32s, _quotient, "div_int32"), _pairs(Ints, Ints, _quotient, "div_int64")
mod_int32, mod_int64 = _pairs(Int32s, Int32s, _modulo, "mod_int32"), _pairs(Ints, Ints, _modulo, "mod_int64")
fmod_int32, fmod_int64 = _pairs(Int32s, Int32s, _remainder, "fmod_int32"), _pairs(Ints, Ints, _remainder, "fmod_int64")
max_int32, max_int64 = _pairs(Int32s, Int32s, _greatest, "max_int32"), _pairs(Ints, Ints, _greatest, "max_int64")
min_int32, min_int64 = _pairs(Int32s, Int32s, _least, "min_int32"), _pairs(Ints, Ints, _least, "min_int64")
equal_int32, equal_int64 = _pairs(Int32s, Bytes, _equal, "equal_int32"), _pairs(Ints, Bytes, _equal, "equal_int64")
greater_int32, greater_int64 = (
    _pairs(of, Bytes, _greater, f"greater_{n}") for of, n in ((Int32s, "int32"), (Ints, "int64"))
)
greater_or_equal_int32, greater_or_equal_int64 = (
    _pairs(of, Bytes, _greater_or_equal, f"greater_or_equal_{n}") for of, n in ((Int32s, "int32"), (Ints, "int64"))
)
less_int32, less_int64 = _pairs(Int32s, Bytes, _less, "less_int32"), _pairs(Ints, Bytes, _less, "less_int64")
less_or_equal_int32, less_or_equal_int64 = (
    _pairs(of, Bytes, _less_or_equal, f"less_or_equal_{n}") for of, n in ((Int32s, "int32"), (Ints, "int64"))
)
where_1, where_2, where_4, where_8 = (
    _where(of, f"where_{n}") for of, n in ((Bytes, 1), (Shorts, 2), (Int32s, 4), (Ints, 8))
)
