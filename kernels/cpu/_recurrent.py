"""What kernels of recurrent networks share: sums over the state before, and where sequences begin and end."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Floats, Int, f32, i64, target

from . import _math
from ._ir import VT, by_size, call_intrinsic, internal, splat_ir
from ._simd import W, address, at, get, inline, maximum, put, splat

ROWS = 6 if target().registers >= 32 else 2
"""Most sequences of a unit: their sums are held in registers."""
CHAINS = 8
"""Sums that go on side by side, so that none waits for its own last addition."""
UNROLL = 4
SUMS = ROWS * 4 * W


def _make_sums(vectors: int):
    """An intrinsic: out[i, v] = bias[v] + Σ_k h[i·ldh + k]·r[k, v], for ``rows`` (1 to ROWS) rows of
    h and so many vectors a k: each height is a function of its own."""

    @intrinsic
    def sums(tc, rows, h, ldh, n, r, bias, out):
        def gen(ctx, bd, sig, args):
            rows, args = args[0], args[1:]
            by_size(bd, rows, ROWS, lambda m: _function(bd.module, m, vectors, [a.type for a in args]), args)
            return ctx.get_dummy_value()

        return types.void(Int, Floats, Int, Int, Floats, Floats, Floats), gen

    return sums


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _at(bd, p, offset):
    return bd.bitcast(bd.gep(p, [offset]), VT.as_pointer())


def _function(module, rows: int, vectors: int, kinds):
    """The function of one height."""
    fn, new = internal(module, f"sums_{rows}x{vectors}", kinds)
    if new:
        bd = ir.IRBuilder(fn.append_basic_block("entry"))
        h, ldh, n, r, bias, out = fn.args
        chains = max(1, CHAINS // (rows * vectors))
        acc = [[[bd.alloca(VT) for _ in range(vectors)] for _ in range(rows)] for _ in range(chains)]
        for c in range(chains):
            for row in acc[c]:
                for v, place in enumerate(row):
                    zero = ir.Constant(VT, [ir.Constant(f32, 0.0)] * W)
                    bd.store(zero if c else bd.load(_at(bd, bias, _n(v * W)), align=4), place)
        starts = [bd.gep(h, [bd.mul(ldh, _n(i))]) for i in range(rows)]

        def turn(k, count):
            for u in range(count):
                at_k = bd.add(k, _n(u))
                panel = bd.mul(at_k, _n(vectors * W))
                x = [splat_ir(bd, bd.load(bd.gep(row, [at_k]), align=4)) for row in starts]
                for v in range(vectors):
                    b = bd.load(_at(bd, r, bd.add(panel, _n(v * W))), align=4)
                    for i in range(rows):
                        place = acc[u % chains][i][v]
                        bd.store(call_intrinsic(bd, f"fmuladd.v{W}f32", VT, x[i], b, bd.load(place)), place)

        whole = max(UNROLL, chains)
        middle = bd.and_(n, _n(-whole))
        _loop(bd, _n(0), middle, whole, lambda k: turn(k, whole))
        _loop(bd, middle, n, 1, lambda k: turn(k, 1))
        for i in range(rows):
            for v in range(vectors):
                parts = [bd.load(acc[c][i][v]) for c in range(chains)]
                while len(parts) > 1:
                    parts = [bd.fadd(parts[j], parts[j + 1]) for j in range(0, len(parts), 2)]
                bd.store(parts[0], _at(bd, out, _n((i * vectors + v) * W)), align=4)
        bd.ret_void()
    return fn


def _loop(bd, begin, end, step: int, body) -> None:
    """``body(k)`` for k = begin, begin + step, … below ``end``."""
    entry, loop, done = bd.block, bd.append_basic_block("k"), bd.append_basic_block("k_done")
    bd.cbranch(bd.icmp_signed("<", begin, end), loop, done)
    bd.position_at_end(loop)
    k = bd.phi(i64)
    k.add_incoming(begin, entry)
    body(k)
    following = bd.add(k, _n(step))
    k.add_incoming(following, bd.block)
    bd.cbranch(bd.icmp_signed("<", following, end), loop, done)
    bd.position_at_end(done)


sums_1, sums_2, sums_3, sums_4 = (_make_sums(vectors) for vectors in (1, 2, 3, 4))


@inline
def length(lengths, b, steps):
    """Steps of sequence b; -1 where it has a length that cannot be."""
    if address(lengths, 0) == 0:
        return steps
    n = Int(lengths[b])
    return n if n >= 0 and n <= steps else -1


@inline
def rest(y, n, b, d, count, sizes):
    """Behind its end a sequence is 0; one that has no possible length is NaN."""
    v = splat(_math.NAN) if n < 0 else splat(0.0)
    for t in range(max(n, 0), sizes.steps):
        p = ((t * sizes.ways + d) * sizes.batch + b) * sizes.hidden
        for j in range(0, count * sizes.hidden, W):
            put(y, p + j, v, min(W, count * sizes.hidden - j))


@inline
def last_state(to, p, v, ld, n, count, hidden):
    """The last state, at v, where it is wanted; of an empty sequence 0, of one that has no possible
    length NaN."""
    if address(to, 0) != 0:
        none = splat(_math.NAN) if n < 0 else splat(0.0)
        for i in range(count):
            for j in range(0, hidden, W):
                cols = min(W, hidden - j)
                found = get(at(v, i * ld), j, cols) if n > 0 else none
                put(to, p + i * hidden + j, found, cols)


@inline
def gate(v, hard, alpha, beta):
    return _math.hard_sigmoid(v, alpha, beta) if hard else _math.sigmoid(v)


@inline
def unit_of(v, relu):
    return maximum(v, 0.0) if relu else _math.tanh(v)
