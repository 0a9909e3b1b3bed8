"""The register tile of integer products: rows × (W or NR) columns of int32, summed over words of 32
bits in one pass.

A word of A is four unsigned bytes, and one of B as many signed ones, where the processor adds up
their products in an instruction ("vnni"); else each is two signed 16-bit integers.
B is packed in panels, a word of each column after the other.
Where the processor has AMX ("amx"), matrices of 16 rows of 16 words are multiplied, and the tile
has SQUARE rows.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbconv.kernels._numba import Bytes, Float, Floats, Int, Int32s, i32, i64, target

from ._bytes import i8, i16, rounded_ir, splat_word, store_ir, zero_ir
from ._ir import AHEAD, VI, VT, W, by_size, call_intrinsic, internal, prefetch, splat_ir

MR = target().tile().rows
NV = target().tile().vectors
NR = NV * W
VS = ir.VectorType(i16, 2 * W)
MADD = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[W]
X86 = target().triple.startswith("x86")
VNNI, AMX = X86 and W > 4, X86 and W == 16
"""Whether some processors of the target add up products of bytes, and multiply matrices of them."""


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def by_bytes_ir(bd, total, a, b):
    return call_intrinsic(bd, f"x86.avx512.vpdpbusd.{32 * W}", VI, total, a, b)


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
    long = bd.icmp_signed(">=", depth, _n(AHEAD // (V * W)))  # as in _tile.py
    ahead = bd.select(long, _n(AHEAD), _n(0))
    entry, loop, done = bd.block, bd.append_basic_block("loop"), bd.append_basic_block("done")
    bd.branch(loop)
    bd.position_at_end(loop)
    k = bd.phi(i64)
    k.add_incoming(_n(0), entry)
    totals = [[bd.phi(VI) for _ in range(V)] for _ in range(R)]
    panel = bd.gep(b, [bd.mul(k, _n(V * W))])
    if multiply is by_shorts_ir:
        prefetch(bd, bd.gep(panel, [ahead]), 0, V * W)
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


SQUARE = 32
"""Rows of a tile that AMX multiplies, of which it does 16 at a time."""
C_TILES, A_TILES, B_TILES = (0, 1, 2, 3), (4, 5), (6, 7)
"""AMX's registers."""


def _amx(bd, name, *args):
    args = [ir.Constant(i8, v) if isinstance(v, int) else v for v in args]
    kinds = [v.type for v in args]
    fn = cgutils.get_or_insert_function(bd.module, ir.FunctionType(ir.VoidType(), kinds), f"llvm.x86.{name}")
    bd.call(fn, args)


def _pointer(bd, p):
    return bd.bitcast(p, i8.as_pointer())


@intrinsic
def amx_begin(tc):
    """Give each of AMX's registers 16 rows of 64 bytes."""

    def gen(ctx, bd, sig, args):
        fn, new = internal(bd.module, "amx_begin", [])
        if new:
            inner = ir.IRBuilder(fn.append_basic_block("entry"))
            form = bytearray(64)
            form[0] = 1
            form[16:32] = bytes((64, 0)) * 8
            form[48:56] = bytes((16,)) * 8
            kind = ir.ArrayType(i8, 64)
            area = inner.alloca(kind)
            area.align = 64  # type: ignore[attr-defined]
            inner.store(ir.Constant(kind, form), area)
            _amx(inner, "ldtilecfg", _pointer(inner, area))
            inner.ret_void()
        bd.call(fn, [])
        return ctx.get_dummy_value()

    return types.void(), gen


@intrinsic
def amx_end(tc):
    """Let go of AMX's registers."""

    def gen(ctx, bd, sig, args):
        fn, new = internal(bd.module, "amx_end", [])
        if new:
            inner = ir.IRBuilder(fn.append_basic_block("entry"))
            _amx(inner, "tilerelease")
            inner.ret_void()
        bd.call(fn, [])
        return ctx.get_dummy_value()

    return types.void(), gen


@intrinsic
def square_sums(tc, rows, columns, a, lda, depth, b, c):
    """As those of `_make_sums`, for up to SQUARE rows and words in multiples of 16: a has rows in
    multiples of 16, whatever is in the last ones."""
    sig = types.void(Int, Int, Bytes, Int, Int, Int32s, Int32s)

    def gen(ctx, bd, sig, args):
        rows, columns, *args = args
        kinds = [v.type for v in args]
        with bd.if_else(bd.icmp_signed(">", columns, _n(W))) as (wide, narrow):
            for branch, V in ((wide, 2), (narrow, 1)):
                with branch, bd.if_else(bd.icmp_signed(">", rows, _n(16))) as (tall, low):
                    for side, R in ((tall, 2), (low, 1)):
                        with side:
                            bd.call(_square(bd.module, R, V, kinds), args)
        return ctx.get_dummy_value()

    return sig, gen


def _square(module, R, V, kinds):
    fn, new = internal(module, f"amx_{R}x{V}", kinds)
    if not new:
        return fn
    bd = ir.IRBuilder(fn.append_basic_block("entry"))
    a, lda, depth, b, c = fn.args
    beside = _n(64 * V)
    for r in range(R):
        for v in range(V):
            _amx(bd, "tilezero", C_TILES[2 * r + v])
    entry, loop, done = bd.block, bd.append_basic_block("loop"), bd.append_basic_block("done")
    bd.branch(loop)
    bd.position_at_end(loop)
    k = bd.phi(i64)
    k.add_incoming(_n(0), entry)
    for v in range(V):
        place = bd.gep(b, [bd.add(bd.mul(k, _n(V * W)), _n(v * W))])
        _amx(bd, "tileloadd64", B_TILES[v], _pointer(bd, place), beside)
    for r in range(R):
        place = bd.gep(a, [bd.add(bd.mul(lda, _n(16 * r)), bd.mul(k, _n(4)))])
        _amx(bd, "tileloadd64", A_TILES[r], place, lda)
        for v in range(V):
            _amx(bd, "tdpbusd", C_TILES[2 * r + v], A_TILES[r], B_TILES[v])
    k1 = bd.add(k, _n(16))
    k.add_incoming(k1, loop)
    bd.cbranch(bd.icmp_signed("<", k1, depth), loop, done)
    bd.position_at_end(done)
    for r in range(R):
        for v in range(V):
            place = bd.gep(c, [_n(16 * r * V * W + v * W)])
            _amx(bd, "tilestored64", C_TILES[2 * r + v], _pointer(bd, place), beside)
    bd.ret_void()
    return fn


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


def _make_move(lanes):
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


move_64, move_32, move_16, move_8, move_4, move_1 = map(_make_move, (64, 32, 16, 8, 4, 1))
widen_16, widen_8, widen_4, widen_1 = map(_make_widen, (16, 8, 4, 1))


@intrinsic
def tile_sums(tc):
    """Memory for the sums of a tile."""

    def gen(ctx, bd, sig, args):
        area = cgutils.alloca_once(bd, ir.ArrayType(i32, max(MR, SQUARE) * NR), name="sums")
        area.align = 64
        return bd.bitcast(area, i32.as_pointer())

    return Int32s(), gen
