"""The transforms of Winograd's minimal filtering F(m×m, 3×3), as straight vector code (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", 2015): m = 4 with the points 0, ±1, ±2, ∞, m = 2 with 0, ±1, ∞."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Floats, Int, Ints, f32, i64
from nbconv.kernels.cpu._simd import VT, W, call_intrinsic, constant, load_part_ir


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _fma(b, x: float, y, z):
    """x·y + z for a constant x."""
    return call_intrinsic(b, f"fmuladd.v{W}f32", VT, constant(x), y, z)


def _input_4(b, d):
    """Bᵀ d for six values."""
    d0, d1, d2, d3, d4, d5 = d
    p, q = _fma(b, -4.0, d2, d4), _fma(b, -4.0, d1, d3)
    r, s = b.fsub(d4, d2), b.fsub(d3, d1)
    return [
        _fma(b, 4.0, d0, _fma(b, -5.0, d2, d4)), b.fadd(p, q), b.fsub(p, q), _fma(b, 2.0, s, r), _fma(b, -2.0, s, r),
        _fma(b, 4.0, d1, _fma(b, -5.0, d3, d5)),
    ]  # fmt: skip


def _output_4(b, m):
    """Aᵀ m for six values."""
    m0, m1, m2, m3, m4, m5 = m
    s1, s2, s3, s4 = b.fadd(m1, m2), b.fsub(m1, m2), b.fadd(m3, m4), b.fsub(m3, m4)
    return [b.fadd(b.fadd(m0, s1), s3), _fma(b, 2.0, s4, s2), _fma(b, 4.0, s3, s1), b.fadd(_fma(b, 8.0, s4, s2), m5)]


def _input_2(b, d):
    """Bᵀ d for four values."""
    d0, d1, d2, d3 = d
    return [b.fsub(d0, d2), b.fadd(d1, d2), b.fsub(d2, d1), b.fsub(d1, d3)]


def _output_2(b, m):
    """Aᵀ m for four values."""
    m0, m1, m2, m3 = m
    return [b.fadd(b.fadd(m0, m1), m2), b.fsub(b.fsub(m1, m2), m3)]


def _make_input(size: int, transform):
    @intrinsic
    def into(tc, table, channel, cols, v, step):
        """v[p·step :] = (Bᵀ d B)[p] for the size² pixels whose addresses stand in the table, W channels from ``channel``
        on (of which the first ``cols`` are there)."""

        def gen(ctx, b, sig, args):
            table, channel, cols, v, step = args
            pointers = [
                b.bitcast(b.gep(b.inttoptr(b.load(b.gep(table, [_n(k)])), f32.as_pointer()), [channel]), VT.as_pointer())
                for k in range(size * size)
            ]
            out = [b.bitcast(b.gep(v, [b.mul(step, _n(k))]), VT.as_pointer()) for k in range(size * size)]
            with b.if_else(b.icmp_signed(">=", cols, _n(W))) as (whole, part):
                with whole:
                    _transform_in(b, size, transform, [b.load(p, align=4) for p in pointers], out)
                with part:
                    _transform_in(b, size, transform, [load_part_ir(b, p, cols) for p in pointers], out)
            return ctx.get_dummy_value()

        return types.void(Ints, Int, Int, Floats, Int), gen

    return into


def _transform_in(b, size, transform, d, out):
    rows = [transform(b, d[i * size : (i + 1) * size]) for i in range(size)]
    for j in range(size):
        column = transform(b, [rows[i][j] for i in range(size)])
        for i in range(size):
            b.store(column[i], out[i * size + j], align=4)


def _make_output(size: int, transform):
    @intrinsic
    def out_of(tc, m, step, y):
        """y[(i·n + j)·W :] = (Aᵀ m A)[i, j] for the size² vectors at m[p·step]."""

        def gen(ctx, b, sig, args):
            m, step, y = args
            columns = []
            for j in range(size):
                at = [b.gep(m, [b.mul(step, _n(i * size + j))]) for i in range(size)]
                columns.append(transform(b, [b.load(b.bitcast(p, VT.as_pointer()), align=4) for p in at]))
            n = len(columns[0])
            for i in range(n):
                for j, v in enumerate(transform(b, [columns[k][i] for k in range(size)])):
                    b.store(v, b.bitcast(b.gep(y, [_n((i * n + j) * W)]), VT.as_pointer()), align=4)
            return ctx.get_dummy_value()

        return types.void(Floats, Int, Floats), gen

    return out_of


into_4, out_of_4 = _make_input(6, _input_4), _make_output(6, _output_4)
into_2, out_of_2 = _make_input(4, _input_2), _make_output(4, _output_2)
