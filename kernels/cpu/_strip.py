"""Strips of a depthwise convolution's output: up to STRIP pixels of one channel vector, and the
same strip of the rows below.
Each input vector is loaded once for all the windows of a strip it lies in, and is still in L1 for
the next row's."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, f32, i64, target

from ._epilogue import scaled, short_activation
from ._ir import VT, by_size, call_intrinsic, internal, load_part_ir, store_part_ir
from ._simd import W, inline, vec

STRIP = 12 if target().registers >= 32 else 8
"""Most pixels of a strip: their sums stay in registers."""


@inline
def reach(kw):
    """Columns of padding to the left, and to the right, that strips can have at most."""
    return kw // 2


def _make_strips(kw: int, stride: int):
    """y[i, p, :] = epilogue(Σ_ky Σ_kx x[i·down + ky·line, p·stride + kx, :]·w[ky, kx, :] + bias)
    for p < ``pixels`` ≤ STRIP and i < ``count`` rows of y, ``below`` floats apart.

    x is at the first pixel of the first window, ldx floats a pixel.
    That pixel is column ``left`` of an image of ``width`` columns: those outside, at most `reach`
    to either side, are padding and are not read.
    """

    @intrinsic
    def strips(
        tc, pixels, count, x, down, ldx, line, w, ldw, rows, bias, y, below, low, high, cols, left, width, act, alpha, beta,
        scale, shift,
    ):  # fmt: skip
        sig = types.void(
            Int, Int, Floats, Int, Int, Int, Floats, Int, Int, vec, Floats, Int, Float, Float, Int, Int, Int, Int, Float,
            Float, Floats, Floats,
        )  # fmt: skip

        def gen(ctx, b, sig, args):
            pixels, *rest = args
            by_size(b, pixels, STRIP, lambda n: _function(b.module, n, kw, stride, [a.type for a in rest]), rest)
            return ctx.get_dummy_value()

        return sig, gen

    return strips


def _function(module, pixels: int, kw: int, stride: int, kinds):
    """The function for strips of so many pixels.
    A strip in the middle of the image loads whole vectors; one at its border, or of the last
    channels, masks what is not there."""
    fn, new = internal(module, f"strip_{pixels}_{kw}_{stride}", kinds)
    if new:
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        count, x, down, ldx, line, w, ldw, rows, bias, y, below, low, high, cols, left, width, *rest = fn.args
        end = b.add(left, i64((pixels - 1) * stride + kw))
        inside = b.and_(b.icmp_signed(">=", left, i64(0)), b.icmp_signed("<=", end, width))
        whole, part, done = (b.append_basic_block(n) for n in ("whole", "part", "done"))
        b.cbranch(b.and_(inside, b.icmp_signed(">=", cols, i64(W))), whole, part)
        for block, masked in ((whole, False), (part, True)):
            b.position_at_end(block)
            with cgutils.for_range(b, count) as loop:
                xp, yp = b.gep(x, [b.mul(loop.index, down)]), b.gep(y, [b.mul(loop.index, below)])
                _emit(
                    b, pixels, kw, stride, masked, xp, ldx, line, w, ldw, rows, bias, yp, low, high, cols, left, width, *rest
                )
            b.branch(done)
        b.position_at_end(done)
        b.ret_void()
    return fn


def _emit(
    b, pixels, kw, stride, masked, x, ldx, line, w, ldw, rows, bias, y, low, high, cols, left, width, act, alpha, beta,
    scale, shift,
) -> None:  # fmt: skip
    f32p, vp = f32.as_pointer(), VT.as_pointer()
    span = (pixels - 1) * stride + kw

    def lanes(column):
        """How many channels of a column there are: none outside the image."""
        if kw // 2 <= column < span - kw // 2:
            return cols
        at = b.add(left, i64(column))
        there = b.and_(b.icmp_signed(">=", at, i64(0)), b.icmp_signed("<", at, width))
        return b.select(there, cols, i64(0))

    present = [lanes(column) for column in range(span)] if masked else []

    def read(p, column):
        p = b.bitcast(p, vp)
        return load_part_ir(b, p, present[column]) if masked else b.load(p, align=4)

    entry, loop, done = b.block, b.append_basic_block("row"), b.append_basic_block("rows_done")
    b.cbranch(b.icmp_signed(">", rows, i64(0)), loop, done)
    b.position_at_end(loop)
    k, xp, wp = b.phi(i64), b.phi(f32p), b.phi(f32p)
    k.add_incoming(i64(0), entry)
    xp.add_incoming(x, entry)
    wp.add_incoming(w, entry)
    acc = [b.phi(VT) for _ in range(pixels)]
    for a in acc:
        a.add_incoming(bias, entry)
    weights = [b.load(b.bitcast(b.gep(wp, [b.mul(ldw, i64(j))]), vp), align=4) for j in range(kw)]
    new = list(acc)
    for column in range(span):
        used = [(p, column - p * stride) for p in range(pixels) if 0 <= column - p * stride < kw]
        if used:
            v = read(b.gep(xp, [b.mul(ldx, i64(column))]), column)
            for p, j in used:
                new[p] = call_intrinsic(b, f"fmuladd.v{W}f32", VT, v, weights[j], new[p])
    k1 = b.add(k, i64(1))
    k.add_incoming(k1, loop)
    xp.add_incoming(b.gep(xp, [line]), loop)
    wp.add_incoming(b.gep(wp, [b.mul(ldw, i64(kw))]), loop)
    for a, v in zip(acc, new):
        a.add_incoming(v, loop)
    b.cbranch(b.icmp_signed("<", k1, rows), loop, done)
    b.position_at_end(done)
    sums = []
    for p in range(pixels):
        total = b.phi(VT)
        total.add_incoming(bias, entry)
        total.add_incoming(new[p], loop)
        sums.append([total])
    sums = short_activation(b, sums, act, low, high, alpha, beta)
    sums = scaled(b, sums, scale, lambda: ([b.load(b.bitcast(p, vp), align=4)] for p in (scale, shift)))
    for p, (v,) in enumerate(sums):
        q = b.bitcast(b.gep(y, [b.mul(ldx, i64(p))]), vp)
        if masked:
            store_part_ir(b, v, q, cols)
        else:
            b.store(v, q, align=4)


strips_3_1, strips_3_2 = _make_strips(3, 1), _make_strips(3, 2)
strips_5_1, strips_5_2 = _make_strips(5, 1), _make_strips(5, 2)
