"""The register tile of integer products: rows × (W or NR) columns of int32, summed over words of 32
bits in one pass.

A word of A is four unsigned bytes, and one of B as many signed ones, where the processor adds up
their products in an instruction ("vnni"); else each is two signed 16-bit integers.
B is packed in panels, a word of each column after the other.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbconv.kernels._numba import Bytes, Float, Floats, Int, Int32s, i32, i64, target

from ._bytes import i8, i16, rounded_ir, splat_word, store_ir, zero_ir
from ._ir import VI, VT, W, by_size, call_intrinsic, internal, splat_ir

MR = target().tile().rows
NV = target().tile().vectors
NR = NV * W
VS = ir.VectorType(i16, 2 * W)
MADD = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[W]
X86 = target().triple.startswith("x86")
VNNI = X86 and W == 16
"""Whether some processors of the target add up products of bytes."""


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def by_bytes_ir(bd, total, a, b):
    return call_intrinsic(bd, "x86.avx512.vpdpbusd.512", VI, total, a, b)


def by_shorts_ir(bd, total, a, b):
    a, b = bd.bitcast(a, VS), bd.bitcast(b, VS)
    if X86:
        return bd.add(total, call_intrinsic(bd, f"x86.{MADD}", VI, a, b))
    for half in (0, 1):
        lanes = ir.Constant(VI, [2 * i + half for i in range(W)])
        x, y = (bd.sext(bd.shuffle_vector(v, ir.Constant(VS, ir.Undefined), lanes), VI) for v in (a, b))
        total = bd.add(total, bd.mul(x, y))
    return total


def _make_sums(name, multiply):
    """An intrinsic for sums of ``rows`` (1 to MR) rows, ``lda`` bytes apart, and a panel of
    ``columns`` (W or NR), over ``depth`` words: c[rows, columns], int32."""

    @intrinsic
    def sums(tc, rows, columns, a, lda, depth, b, c):
        sig = types.void(Int, Int, Bytes, Int, Int, Int32s, Int32s)

        def gen(ctx, bd, sig, args):
            rows, columns, *args = args
            kinds = [v.type for v in args]
            with bd.if_else(bd.icmp_signed(">", columns, _n(W))) as (wide, narrow):
                with wide:
                    by_size(bd, rows, MR, lambda n: _function(bd.module, name, n, NV, kinds, multiply), args)
                with narrow:
                    by_size(bd, rows, MR, lambda n: _function(bd.module, name, n, 1, kinds, multiply), args)
            return ctx.get_dummy_value()

        return sig, gen

    return sums


def _function(module, name, R, V, kinds, multiply):
    fn, new = internal(module, f"{name}_{R}x{V}", kinds)
    if not new:
        return fn
    bd = ir.IRBuilder(fn.append_basic_block("entry"))
    a, lda, depth, b, c = fn.args
    word = i32.as_pointer()
    rows = [bd.gep(a, [bd.mul(lda, _n(i))]) for i in range(R)]
    entry, loop, done = bd.block, bd.append_basic_block("loop"), bd.append_basic_block("done")
    bd.branch(loop)
    bd.position_at_end(loop)
    k = bd.phi(i64)
    k.add_incoming(_n(0), entry)
    totals = [[bd.phi(VI) for _ in range(V)] for _ in range(R)]
    panel = bd.gep(b, [bd.mul(k, _n(V * W))])
    bv = [bd.load(bd.bitcast(bd.gep(panel, [_n(j * W)]), VI.as_pointer()), align=4) for j in range(V)]
    at_k = bd.mul(k, _n(4))
    for row, sums in zip(rows, totals):
        av = splat_word(bd, bd.load(bd.bitcast(bd.gep(row, [at_k]), word), align=1))
        for total, v in zip(sums, bv):
            total.add_incoming(ir.Constant(VI, [0] * W), entry)
            total.add_incoming(multiply(bd, total, av, v), loop)
    k1 = bd.add(k, _n(1))
    k.add_incoming(k1, loop)
    bd.cbranch(bd.icmp_signed("<", k1, depth), loop, done)
    bd.position_at_end(done)
    for i, sums in enumerate(totals):
        for j, total in enumerate(sums):
            value = next(v for v, block in total.incomings if block is loop)
            bd.store(value, bd.bitcast(bd.gep(c, [_n((i * V + j) * W)]), VI.as_pointer()), align=4)
    bd.ret_void()
    return fn


short_sums = _make_sums("shorts", by_shorts_ir)
byte_sums = _make_sums("vnni_bytes", by_bytes_ir) if VNNI else short_sums


def _vectors(bd, p, kind, offset):
    return bd.load(bd.bitcast(bd.gep(p, [offset]), kind.as_pointer()), align=1)


@intrinsic
def finish(tc, c, ldc, rows, cols, bias, scale, low, high, zero_point, size, y, ldy):
    """The first ``cols`` sums of each row of c, ``ldc`` apart, and the bias: stored at y, rows
    ``ldy`` bytes apart, as they are where ``size`` is 4, else as bytes of another scale."""
    sig = types.void(Int32s, Int, Int, Int, Int32s, Floats, Float, Float, Int, Int, Bytes, Int)

    def gen(ctx, bd, sig, args):
        fn, new = internal(bd.module, "finish", [v.type for v in args])
        if new:
            _finish(ir.IRBuilder(fn.append_basic_block("entry")), *fn.args)
        bd.call(fn, args)
        return ctx.get_dummy_value()

    return sig, gen


def _finish(bd, c, ldc, rows, cols, bias, scale, low, high, zero_point, size, y, ldy):
    low, high, zero = splat_ir(bd, low), splat_ir(bd, high), zero_ir(bd, zero_point)
    words = bd.icmp_signed("==", size, _n(4))
    with cgutils.for_range_slice(bd, _n(0), cols, _n(W), intp=i64) as (j, _):
        left = bd.sub(cols, j)
        whole = bd.icmp_signed(">=", left, _n(W))
        b = _vectors(bd, bias, VI, j)
        with bd.if_else(words) as (plain, scaled):
            with plain, cgutils.for_range(bd, rows, intp=i64) as row:
                value = bd.add(_vectors(bd, c, VI, bd.add(bd.mul(row.index, ldc), j)), b)
                place = bd.gep(y, [bd.add(bd.mul(row.index, ldy), bd.mul(j, _n(4)))])
                store_ir(bd, value, place, whole, left)
            with scaled:
                s = _vectors(bd, scale, VT, j)
                with cgutils.for_range(bd, rows, intp=i64) as row:
                    total = bd.add(_vectors(bd, c, VI, bd.add(bd.mul(row.index, ldc), j)), b)
                    value = rounded_ir(bd, bd.fmul(bd.sitofp(total, VT), s), low, high, zero)
                    place = bd.gep(y, [bd.add(bd.mul(row.index, ldy), j)])
                    store_ir(bd, value, place, whole, left)
    bd.ret_void()


def _make_move(lanes, name):
    """y[:lanes] = x[:lanes] ^ flip, bytes."""
    kind = ir.VectorType(i8, lanes) if lanes > 1 else i8

    @intrinsic
    def move(tc, y, x, flip):
        def gen(ctx, bd, sig, args):
            y, x, flip = args
            mask = _all(bd, bd.trunc(flip, i8), kind)
            value = bd.load(bd.bitcast(x, kind.as_pointer()), align=1)
            bd.store(bd.xor(value, mask), bd.bitcast(y, kind.as_pointer()), align=1)
            return ctx.get_dummy_value()

        return types.void(Bytes, Bytes, Int), gen

    return move


def _all(bd, value, kind):
    if not isinstance(kind, ir.VectorType):
        return value
    one = bd.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(i32, 0))
    lanes = ir.Constant(ir.VectorType(i32, kind.count), [0] * kind.count)
    return bd.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes)


def _make_widen(lanes):
    """y[:2·lanes] = (x[:lanes] ^ flip) - zero, as 16-bit integers."""
    kind = ir.VectorType(i8, lanes) if lanes > 1 else i8
    wide = ir.VectorType(i16, lanes) if lanes > 1 else i16

    @intrinsic
    def widen(tc, y, x, flip, zero):
        def gen(ctx, bd, sig, args):
            y, x, flip, zero = args
            value = bd.load(bd.bitcast(x, kind.as_pointer()), align=1)
            value = bd.zext(bd.xor(value, _all(bd, bd.trunc(flip, i8), kind)), wide)
            value = bd.sub(value, _all(bd, bd.trunc(zero, i16), wide))
            bd.store(value, bd.bitcast(y, wide.as_pointer()), align=1)
            return ctx.get_dummy_value()

        return types.void(Bytes, Bytes, Int, Int), gen

    return widen


move_64, move_16, move_4, move_1 = (_make_move(n, f"move_{n}") for n in (64, 16, 4, 1))
widen_16, widen_4, widen_1 = (_make_widen(n) for n in (16, 4, 1))


@intrinsic
def tile_sums(tc):
    """Memory for the sums of a tile."""

    def gen(ctx, bd, sig, args):
        area = cgutils.alloca_once(bd, ir.ArrayType(i32, MR * NR), name="sums")
        area.align = 64
        return bd.bitcast(area, i32.as_pointer())

    return Int32s(), gen
