"""The transforms of Winograd's F(2×2, 3×3) for 8-bit integers, as straight vector code: exact, as
they only add (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015; the points
0, ±1, ∞)."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Bytes, Float, Floats, Int, Int32s, Ints, i32, i64

from ._bytes import i8, i16, rounded_ir, store_ir, zero_ir
from ._ir import VI, VT, W, internal, splat_ir

EDGE, SIZE = 4, 2
"""Pixels that a tile sees, and results that it has, in each direction."""
WIDE, NARROW = 2 * W, 8
"""Channels that are transformed at a time, where there are so many; a group has 8 at least."""


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _input(bd, d):
    """Bᵀ d for four values."""
    d0, d1, d2, d3 = d
    return [bd.sub(d0, d2), bd.add(d1, d2), bd.sub(d2, d1), bd.sub(d1, d3)]


def _output(bd, m):
    """Aᵀ m for four values."""
    m0, m1, m2, m3 = m
    return [bd.add(bd.add(m0, m1), m2), bd.sub(bd.sub(m1, m2), m3)]


@intrinsic
def words_at(tc, p):
    """The bytes at p as words of 32 bits."""

    def gen(ctx, bd, sig, args):
        return bd.bitcast(args[0], i32.as_pointer())

    return Int32s(Bytes), gen


@intrinsic
def into_shorts(tc, table, channels, v, step, flip):
    """(Bᵀ d B)[p, c] as 16-bit integers, those of point p at v[p·step:], of the pixels whose
    addresses stand in the table: of x ^ flip, which are signed, all of their channels (8 at
    least)."""
    sig = types.void(Ints, Int, Bytes, Int, Int)

    def gen(ctx, bd, sig, args):
        kinds = [a.type for a in args]
        with bd.if_else(bd.icmp_signed(">=", args[1], _n(WIDE))) as (wide, narrow):
            for branch, lanes in ((wide, WIDE), (narrow, NARROW)):
                with branch:
                    fn, new = internal(bd.module, f"into_shorts_{lanes}", kinds)
                    if new:
                        _input_body(ir.IRBuilder(fn.append_basic_block("entry")), lanes, *fn.args)
                    bd.call(fn, args)
        return ctx.get_dummy_value()

    return sig, gen


def _input_body(bd, lanes: int, table, channels, v, step, flip) -> None:
    """The last vector overlaps the one before."""
    narrow, wide = ir.VectorType(i8, lanes), ir.VectorType(i16, lanes)
    one = bd.insert_element(ir.Constant(narrow, ir.Undefined), bd.trunc(flip, i8), ir.Constant(i32, 0))
    mask = bd.shuffle_vector(one, ir.Constant(narrow, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), [0] * lanes))
    last = bd.sub(channels, _n(lanes))
    entry, loop, done = bd.block, bd.append_basic_block("vector"), bd.append_basic_block("done")
    bd.branch(loop)
    bd.position_at_end(loop)
    c = bd.phi(i64)
    c.add_incoming(_n(0), entry)

    def pixel(k: int):
        p = bd.inttoptr(bd.load(bd.gep(table, [_n(k)])), i8.as_pointer())
        value = bd.load(bd.bitcast(bd.gep(p, [c]), narrow.as_pointer()), align=1)
        return bd.sext(bd.xor(value, mask), wide)

    columns = [_input(bd, [pixel(i * EDGE + j) for i in range(EDGE)]) for j in range(EDGE)]
    for i in range(EDGE):
        for j, value in enumerate(_input(bd, [column[i] for column in columns])):
            place = bd.gep(v, [bd.add(bd.mul(step, _n(i * EDGE + j)), bd.mul(c, _n(2)))])
            bd.store(value, bd.bitcast(place, wide.as_pointer()), align=1)
    following = bd.add(c, _n(lanes))
    following = bd.select(bd.icmp_signed("<", following, last), following, last)
    c.add_incoming(following, loop)
    bd.cbranch(bd.icmp_signed("<", c, last), loop, done)
    bd.position_at_end(done)
    bd.ret_void()


@intrinsic
def out_of_shorts(tc, m, step, ld, tiles, rows, columns, c, left, bias, scale, low, high, zero, size, places, down, right):
    """The results for W channels from c on, of which ``left`` are wanted: (Aᵀ m A)/4 + bias, as they
    are where ``size`` is 4, else as bytes of another scale.

    Of each of the ``tiles``, ``ld`` words apart, there are rows[i] × columns[i], with channel 0 of
    the first at the address places[i]; pixels lie ``right`` bytes apart, rows ``down``."""
    sig = types.void(Int32s, Int, Int, Int, Ints, Ints, Int, Int, Int32s, Floats, Float, Float, Int, Int, Ints, Int, Int)

    def gen(ctx, bd, sig, args):
        fn, new = internal(bd.module, "out_of_shorts", [a.type for a in args])
        if new:
            _output_body(ir.IRBuilder(fn.append_basic_block("entry")), *fn.args)
        bd.call(fn, args)
        return ctx.get_dummy_value()

    return sig, gen


def _output_body(bd, m, step, ld, tiles, rows, columns, c, left, bias, scale, low, high, zero, size, places, down, right):
    low, high, zero = splat_ir(bd, low), splat_ir(bd, high), zero_ir(bd, zero)
    term = bd.load(bd.bitcast(bd.gep(bias, [c]), VI.as_pointer()), align=4)
    factor = bd.load(bd.bitcast(bd.gep(scale, [c]), VT.as_pointer()), align=4)
    whole = bd.icmp_signed(">=", left, _n(W))
    words, offset, quarter = bd.icmp_signed("==", size, _n(4)), bd.mul(c, size), ir.Constant(VI, [2] * W)
    entry, loop, done = bd.block, bd.append_basic_block("tile"), bd.append_basic_block("done")
    bd.branch(loop)
    bd.position_at_end(loop)
    t = bd.phi(i64)
    t.add_incoming(_n(0), entry)
    here = bd.gep(m, [bd.mul(t, ld)])

    def product(p: int):
        place = bd.gep(here, [bd.mul(step, _n(p))])
        return bd.load(bd.bitcast(place, VI.as_pointer()), align=4)

    halves = [_output(bd, [product(i * EDGE + j) for i in range(EDGE)]) for j in range(EDGE)]
    y = bd.gep(bd.inttoptr(bd.load(bd.gep(places, [t])), i8.as_pointer()), [offset])
    height, width = bd.load(bd.gep(rows, [t])), bd.load(bd.gep(columns, [t]))
    for i in range(SIZE):
        for j, total in enumerate(_output(bd, [half[i] for half in halves])):
            total = bd.add(bd.ashr(total, quarter), term)
            there = bd.and_(bd.icmp_signed(">", height, _n(i)), bd.icmp_signed(">", width, _n(j)))
            place = bd.gep(y, [bd.add(bd.mul(down, _n(i)), bd.mul(right, _n(j)))])
            with bd.if_then(there), bd.if_else(words) as (plain, scaled):
                with plain:
                    store_ir(bd, total, place, whole, left)
                with scaled:
                    value = rounded_ir(bd, bd.fmul(bd.sitofp(total, VT), factor), low, high, zero)
                    store_ir(bd, value, place, whole, left)
    following = bd.add(t, _n(1))
    t.add_incoming(following, bd.block)
    bd.cbranch(bd.icmp_signed("<", following, tiles), loop, done)
    bd.position_at_end(done)
    bd.ret_void()
