"""Bytes replaced by those of a table of 256, TABLED at a time where the target shuffles them in
registers: 16-bit integers from four vectors (AVX-512BW), or bytes from sixteen (AVX2)."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Bytes, Int, i32, target

from ._bytes import i8, i16
from ._ir import W, call_intrinsic

TABLED = 32 if target().triple.startswith("x86") and W > 4 else 0
"""Bytes of a call of `look_up_part`; 0 where there is none."""
V8 = ir.VectorType(i8, 32)
V16 = ir.VectorType(i16, 32)
ROW = ir.VectorType(i8, 16)


def _all(kind, value):
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)


def _part(bd, table, kind, i):
    """Vector i of the table."""
    place = bd.gep(table, [ir.Constant(ir.IntType(64), i * kind.count * kind.element.width // 8)])
    return bd.load(bd.bitcast(place, kind.as_pointer()), align=1)


def _by_words(bd, x, table):
    """Of pairs of bytes, the one that the lowest bit says; the highest bit chooses among halves of
    the table."""
    x = bd.zext(x, V16)
    pair = bd.lshr(x, _all(V16, 1))
    halves = [
        call_intrinsic(bd, "x86.avx512.vpermi2var.hi.512", V16, _part(bd, table, V16, i), pair, _part(bd, table, V16, i + 1))
        for i in (0, 2)
    ]
    found = bd.select(bd.icmp_unsigned(">", x, _all(V16, 127)), halves[1], halves[0])
    return bd.trunc(bd.lshr(found, bd.shl(bd.and_(x, _all(V16, 1)), _all(V16, 3))), V8)


def _by_rows(bd, x, table):
    """Of each 16 bytes of the table those that x asks of them, else 0: added up."""
    found = _all(V8, 0)
    twice = ir.Constant(ir.VectorType(i32, 32), [i % 16 for i in range(32)])
    for i in range(16):
        row = bd.shuffle_vector(_part(bd, table, ROW, i), ir.Constant(ROW, ir.Undefined), twice)
        place = call_intrinsic(bd, "uadd.sat.v32i8", V8, bd.xor(x, _all(V8, i << 4)), _all(V8, 0x70))
        found = bd.or_(found, call_intrinsic(bd, "x86.avx2.pshuf.b", V8, row, place))
    return found


@intrinsic
def look_up_part(tc, x, y, i, table):
    """y[i:i+TABLED] = table[x[i:i+TABLED]]."""

    def gen(ctx, bd, sig, args):
        x, y, i, table = args
        value = bd.load(bd.bitcast(bd.gep(x, [i]), V8.as_pointer()), align=1)
        found = (_by_words if W == 16 else _by_rows)(bd, value, table)
        bd.store(found, bd.bitcast(bd.gep(y, [i]), V8.as_pointer()), align=1)
        return ctx.get_dummy_value()

    return types.void(Bytes, Bytes, Int, Bytes), gen
