"""Strips of a depthwise convolution's output row: up to STRIP pixels of one channel vector, each input vector loaded
once."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, f32, i64
from nbconv.kernels.cpu._simd import (
    VT,
    W,
    call_intrinsic,
    clamp_high_ir,
    clamp_low_ir,
    constant,
    load_part_ir,
    splat_ir,
    store_part_ir,
    vec,
)

STRIP = 8


def _make_strip(kw: int, stride: int):
    """y[p, :] = clamp(Σ_ky Σ_kx x[ky, p·stride + kx, :]·w[ky, kx, :] + bias) for p < count ≤ STRIP.

    x is at the first pixel of the first window, ldx floats a pixel, line floats a row of the window. That pixel is column
    ``left`` of an image of ``width`` columns: those outside are padding, and are not read.
    """

    @intrinsic
    def strip(tc, count, x, ldx, line, w, ldw, rows, bias, y, low, high, cols, left, width):
        sig = types.void(Int, Floats, Int, Int, Floats, Int, Int, vec, Floats, Float, Float, Int, Int, Int)

        def gen(ctx, b, sig, args):
            count, *rest = args
            done = b.append_basic_block("stripped")
            switch = b.switch(count, done)
            for n in range(1, STRIP + 1):
                block = b.append_basic_block(f"pixels{n}")
                switch.add_case(ir.Constant(i64, n), block)
                b.position_at_end(block)
                b.call(_function(b.module, n, kw, stride, [a.type for a in rest]), rest)
                b.branch(done)
            b.position_at_end(done)
            return ctx.get_dummy_value()

        return sig, gen

    return strip


def _function(module, pixels: int, kw: int, stride: int, kinds):
    name = f"strip_{pixels}_{kw}_{stride}"
    if name not in module.globals:
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        fn.linkage = "internal"
        fn.attributes.add("noinline")
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        whole, part = b.append_basic_block("whole"), b.append_basic_block("part")
        cols, left, width = fn.args[-3:]
        end = b.add(left, ir.Constant(i64, (pixels - 1) * stride + kw))
        inside = b.and_(b.icmp_signed(">=", left, ir.Constant(i64, 0)), b.icmp_signed("<=", end, width))
        b.cbranch(b.and_(inside, b.icmp_signed(">=", cols, ir.Constant(i64, W))), whole, part)
        for block, masked in ((whole, False), (part, True)):
            b.position_at_end(block)
            _emit(b, pixels, kw, stride, masked, *fn.args)
            b.ret_void()
    return module.globals[name]


def _emit(b, pixels, kw, stride, masked, x, ldx, line, w, ldw, rows, bias, y, low, high, cols, left, width) -> None:
    n = lambda v: ir.Constant(i64, v)  # noqa: E731
    f32p, vp = f32.as_pointer(), VT.as_pointer()

    def read(p, column):
        p = b.bitcast(p, vp)
        if not masked:
            return b.load(p, align=4)
        at = b.add(left, n(column))
        there = b.and_(b.icmp_signed(">=", at, n(0)), b.icmp_signed("<", at, width))
        return load_part_ir(b, p, b.select(there, cols, n(0)))

    entry, loop, done = b.block, b.append_basic_block("row"), b.append_basic_block("rows_done")
    b.cbranch(b.icmp_signed(">", rows, n(0)), loop, done)
    b.position_at_end(loop)
    k, xp, wp = b.phi(i64), b.phi(f32p), b.phi(f32p)
    k.add_incoming(n(0), entry)
    xp.add_incoming(x, entry)
    wp.add_incoming(w, entry)
    acc = [b.phi(VT) for _ in range(pixels)]
    for a in acc:
        a.add_incoming(constant(0.0), entry)
    weights = [b.load(b.bitcast(b.gep(wp, [b.mul(ldw, n(j))]), vp), align=4) for j in range(kw)]
    new = list(acc)
    for column in range((pixels - 1) * stride + kw):
        used = [(p, column - p * stride) for p in range(pixels) if 0 <= column - p * stride < kw]
        if used:
            v = read(b.gep(xp, [b.mul(ldx, n(column))]), column)
            for p, j in used:
                new[p] = call_intrinsic(b, f"fmuladd.v{W}f32", VT, v, weights[j], new[p])
    k1 = b.add(k, n(1))
    k.add_incoming(k1, loop)
    xp.add_incoming(b.gep(xp, [line]), loop)
    wp.add_incoming(b.gep(wp, [b.mul(ldw, n(kw))]), loop)
    for a, v in zip(acc, new):
        a.add_incoming(v, loop)
    b.cbranch(b.icmp_signed("<", k1, rows), loop, done)
    b.position_at_end(done)
    for p in range(pixels):
        total = b.phi(VT)
        total.add_incoming(constant(0.0), entry)
        total.add_incoming(new[p], loop)
        acc[p] = total
    lo, hi = splat_ir(b, low), splat_ir(b, high)
    for p in range(pixels):
        v = clamp_high_ir(b, clamp_low_ir(b, b.fadd(acc[p], bias), lo), hi)
        q = b.bitcast(b.gep(y, [b.mul(ldx, n(p))]), vp)
        if masked:
            store_part_ir(b, v, q, cols)
        else:
            b.store(v, q, align=4)


strip_3_1, strip_3_2 = _make_strip(3, 1), _make_strip(3, 2)
strip_5_1, strip_5_2 = _make_strip(5, 1), _make_strip(5, 2)
