"""The transforms of Winograd's minimal filtering F(m×m, 3×3), as straight vector code (Lavin and
Gray, "Fast Algorithms for Convolutional Neural Networks", 2015): m = 4 with the points 0, ±1, ±2,
∞, m = 2 with 0, ±1, ∞."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, Ints, f32, i64

from ._epilogue import given, merge, scaled, short_activation
from ._ir import VT, W, call_intrinsic, constant, internal, load_part_ir, over_vectors


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
        _fma(b, 4.0, d0, _fma(b, -5.0, d2, d4)),
        b.fadd(p, q),
        b.fsub(p, q),
        _fma(b, 2.0, s, r),
        _fma(b, -2.0, s, r),
        _fma(b, 4.0, d1, _fma(b, -5.0, d3, d5)),
    ]


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
    def into(tc, table, channels, v, step):
        """v[p·step + c] = (Bᵀ d B)[p, c] for the size² pixels whose addresses stand in the table,
        all of their channels; zeros up to whole vectors."""
        sig = types.void(Ints, Int, Floats, Int)

        def gen(ctx, b, sig, args):
            fn, new = internal(b.module, f"into_{size}", [a.type for a in args])
            if new:
                _input_body(fn, size, transform)
            b.call(fn, args)
            return ctx.get_dummy_value()

        return sig, gen

    return into


def _input_body(fn, size: int, transform) -> None:
    table, channels, v, step = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    whole = b.and_(channels, _n(-W))

    def one(read, c) -> None:
        d = []
        for k in range(size * size):
            pixel = b.inttoptr(b.load(b.gep(table, [_n(k)])), f32.as_pointer())
            d.append(read(b.bitcast(b.gep(pixel, [c]), VT.as_pointer())))
        rows = [transform(b, d[i * size : (i + 1) * size]) for i in range(size)]
        for j in range(size):
            for i, value in enumerate(transform(b, [rows[i][j] for i in range(size)])):
                place = b.gep(v, [b.add(c, b.mul(step, _n(i * size + j)))])
                b.store(value, b.bitcast(place, VT.as_pointer()), align=4)

    over_vectors(b, _n(0), whole, lambda c: one(lambda p: b.load(p, align=4), c))
    rest = b.sub(channels, whole)
    with b.if_then(b.icmp_signed(">", rest, _n(0))):
        one(lambda p: load_part_ir(b, p, rest), whole)
    b.ret_void()


def _transform_out(b, transform, size: int, m, step):
    """The results (rows of vectors) for the size² vectors at m[p·step]."""
    columns = []
    for j in range(size):
        at = [b.gep(m, [b.mul(step, _n(i * size + j))]) for i in range(size)]
        columns.append(transform(b, [b.load(b.bitcast(p, VT.as_pointer()), align=4) for p in at]))
    return [transform(b, [column[i] for column in columns]) for i in range(len(columns[0]))]


def _make_output(size: int, transform):
    @intrinsic
    def out_of(tc, m, step, y):
        """y[(i·n + j)·W :] = (Aᵀ m A)[i, j] for the size² vectors at m[p·step]."""

        def gen(ctx, b, sig, args):
            m, step, y = args
            for i, row in enumerate(_transform_out(b, transform, size, m, step)):
                for j, v in enumerate(row):
                    b.store(v, b.bitcast(b.gep(y, [_n((i * len(row) + j) * W)]), VT.as_pointer()), align=4)
            return ctx.get_dummy_value()

        return types.void(Floats, Int, Floats), gen

    return out_of


def _make_whole(size: int, transform):
    @intrinsic
    def whole(tc, m, step, channels, bias, res, resrow, ldres, y, row, ldy, low, high, act, alpha, beta, scale, shift):
        """A tile of results that the image has all of, for whole vectors of channels (at least
        one): Aᵀ m A + bias + res with the short activations and the scale of `_epilogue`.
        Pixels of y lie ldy apart, rows ``row``; those of res (if not null) ldres and ``resrow``."""
        sig = types.void(
            Floats, Int, Int, Floats, Floats, Int, Int, Floats, Int, Int, Float, Float, Int, Float, Float, Floats, Floats
        )

        def gen(ctx, b, sig, args):
            fn, new = internal(b.module, f"whole_{size}", [a.type for a in args])
            if new:
                _whole_body(fn, size, transform)
            b.call(fn, args)
            return ctx.get_dummy_value()

        return sig, gen

    return whole


def _whole_body(fn, size: int, transform) -> None:
    m, step, channels, bias, res, resrow, ldres, y, row, ldy, low, high, act, alpha, beta, scale, shift = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))

    def vector(p, *offsets):
        for offset in offsets:
            p = b.gep(p, [offset])
        return b.bitcast(p, VT.as_pointer())

    def at(p, c, i, j, down, ld):
        return vector(p, c, b.mul(down, _n(i)), b.mul(ld, _n(j)))

    def one(c) -> None:
        sums = _transform_out(b, transform, size, b.gep(m, [c]), step)
        term = b.load(vector(bias, c), align=4)
        sums = [[b.fadd(v, term) for v in line] for line in sums]
        before = b.block
        with b.if_then(given(b, res)):
            added = [
                [b.fadd(v, b.load(at(res, c, i, j, resrow, ldres), align=4)) for j, v in enumerate(line)]
                for i, line in enumerate(sums)
            ]
            inside = b.block
        sums = merge(b, [(before, sums), (inside, added)])
        sums = short_activation(b, sums, act, low, high, alpha, beta)

        def factors():
            return ([b.load(vector(p, c), align=4)] * len(sums) for p in (scale, shift))

        sums = scaled(b, sums, scale, factors)
        for i, line in enumerate(sums):
            for j, v in enumerate(line):
                b.store(v, at(y, c, i, j, row, ldy), align=4)

    over_vectors(b, _n(0), channels, one)
    b.ret_void()


into_4, out_of_4, whole_4 = _make_input(6, _input_4), _make_output(6, _output_4), _make_whole(6, _output_4)
into_2, out_of_2, whole_2 = _make_input(4, _input_2), _make_output(4, _output_2), _make_whole(4, _output_2)
