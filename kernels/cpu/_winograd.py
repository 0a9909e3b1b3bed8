"""The transforms of Winograd's minimal filtering F(m×m, 3×3), as straight vector code (Lavin and
Gray, "Fast Algorithms for Convolutional Neural Networks", 2015): m = 4 with the points 0, ±5/8,
±3/2, ∞, m = 2 with 0, ±1, ∞."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, Ints, f32, i64
from nbconv.kernels.winograd_points import AT_0, AT_FAR, FAR, NEAR

from ._epilogue import given, merge, scaled, short_activation
from ._ir import VT, W, call_intrinsic, constant, internal, load_part_ir, over_vectors, splat_ir

ROUNDED = 2.0**-20
"""What rounding leaves, at most, of the sum of four transformed weights that should be 0, in terms
of the sum of their magnitudes."""


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _fma(b, x: float, y, z):
    """x·y + z for a constant x."""
    return call_intrinsic(b, f"fmuladd.v{W}f32", VT, constant(x), y, z)


def _input_4(b, d):
    """Bᵀ d for six values."""
    d0, d1, d2, d3, d4, d5 = d
    p, q = _fma(b, -(FAR**2), d2, d4), _fma(b, -(FAR**2), d1, d3)
    r, s = _fma(b, -(NEAR**2), d2, d4), _fma(b, -(NEAR**2), d1, d3)
    return [
        _fma(b, NEAR**2 * FAR**2, d0, _fma(b, -(NEAR**2) - FAR**2, d2, d4)),
        _fma(b, NEAR, q, p),
        _fma(b, -NEAR, q, p),
        _fma(b, FAR, s, r),
        _fma(b, -FAR, s, r),
        _fma(b, NEAR**2 * FAR**2, d1, _fma(b, -(NEAR**2) - FAR**2, d3, d5)),
    ]


def _output_4(b, m):
    """Aᵀ m for six values."""
    m0, m1, m2, m3, m4, m5 = m
    s1, s2, s3, s4 = b.fadd(m1, m2), b.fsub(m1, m2), b.fadd(m3, m4), b.fsub(m3, m4)
    return [
        b.fadd(b.fadd(m0, s1), s3),
        _fma(b, FAR, s4, b.fmul(constant(NEAR), s2)),
        _fma(b, FAR**2, s3, b.fmul(constant(NEAR**2), s1)),
        _fma(b, FAR**3, s4, _fma(b, NEAR**3, s2, m5)),
    ]


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
    def into(tc, table, channels, v, step, squares):
        """v[p·step + c] = (Bᵀ d B)[p, c] for the size² pixels whose addresses stand in the table,
        all of their channels; zeros up to whole vectors.

        squares[:4W] become four measures of how large these are, by lane: of pixels in even and odd
        rows and columns. They are the sums of v² at the four points of 0 and ∞ (size 6), or of d²
        (size 4, where equal pixels cancel each other at those points)."""
        sig = types.void(Ints, Int, Floats, Int, Floats)

        def gen(ctx, b, sig, args):
            fn, new = internal(b.module, f"into_{size}", [a.type for a in args])
            if new:
                _input_body(fn, size, transform)
            b.call(fn, args)
            return ctx.get_dummy_value()

        return sig, gen

    return into


def _input_body(fn, size: int, transform) -> None:
    table, channels, v, step, squares = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    squares = [b.bitcast(b.gep(squares, [_n(k * W)]), VT.as_pointer()) for k in range(4)]
    for held in squares:
        b.store(constant(0.0), held, align=4)
    whole = b.and_(channels, _n(-W))

    def one(read, c) -> None:
        d = []
        for k in range(size * size):
            pixel = b.inttoptr(b.load(b.gep(table, [_n(k)])), f32.as_pointer())
            d.append(read(b.bitcast(b.gep(pixel, [c]), VT.as_pointer())))
        rows = [transform(b, d[i * size : (i + 1) * size]) for i in range(size)]
        measured: list[list] = [[], [], [], []]
        for j in range(size):
            for i, value in enumerate(transform(b, [rows[i][j] for i in range(size)])):
                if size == 4:
                    measured[i % 2 * 2 + j % 2].append(d[i * size + j])
                elif i in (0, 5) and j in (0, 5):
                    measured[i % 2 * 2 + j % 2].append(value)
                place = b.gep(v, [b.add(c, b.mul(step, _n(i * size + j)))])
                b.store(value, b.bitcast(place, VT.as_pointer()), align=4)
        for held, values in zip(squares, measured, strict=True):
            found = b.load(held, align=4)
            for value in values:
                found = call_intrinsic(b, f"fmuladd.v{W}f32", VT, value, value, found)
            b.store(found, held, align=4)

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


def _taps(b, u, factors):
    """Three values g of the four of G g that they follow from, that of ±a point as a difference."""
    first, middle, last = (constant(f) for f in factors)
    return [b.fmul(u[0], first), b.fmul(b.fsub(u[1], u[2]), middle), b.fmul(u[3], last)]


def _make_direct(size: int, points: tuple[int, ...], factors: tuple[float, ...]):
    @intrinsic
    def direct(tc, table, channels, w, step, width, y):
        """y[(i·n + j)·W :] = the n² results of a tile by the definition, for a vector of channels.

        The pixels' addresses stand in the table. The filters are those of which w[p·step +
        c·width :] has the transforms: they are got back from these, which rounds once or twice more
        than their transforms did."""
        sig = types.void(Ints, Int, Floats, Int, Int, Floats)

        def gen(ctx, b, sig, args):
            fn, new = internal(b.module, f"direct_{size}", [a.type for a in args])
            if new:
                _direct_body(fn, size, points, factors)
            b.call(fn, args)
            return ctx.get_dummy_value()

        return sig, gen

    return direct


def _direct_body(fn, size: int, points, factors) -> None:
    table, channels, w, step, width, y = fn.args
    b, edge = ir.IRBuilder(fn.append_basic_block("entry")), size + 2
    sums = [[b.alloca(VT) for _ in range(size)] for _ in range(size)]
    for line in sums:
        for held in line:
            b.store(constant(0.0), held)
    with cgutils.for_range(b, channels) as loop:
        c = loop.index
        place = b.gep(w, [b.mul(c, width)])
        g = _filters(b, place, step, edge, points, factors)
        for i in range(edge):
            for j in range(edge):
                pixel = b.inttoptr(b.load(b.gep(table, [_n(i * edge + j)])), f32.as_pointer())
                x = splat_ir(b, b.load(b.gep(pixel, [c])))
                for ky in range(max(0, i - size + 1), min(3, i + 1)):
                    for kx in range(max(0, j - size + 1), min(3, j + 1)):
                        held = sums[i - ky][j - kx]
                        b.store(call_intrinsic(b, f"fmuladd.v{W}f32", VT, x, g[ky][kx], b.load(held)), held)
    for i, line in enumerate(sums):
        for j, held in enumerate(line):
            b.store(b.load(held), b.bitcast(b.gep(y, [_n((i * size + j) * W)]), VT.as_pointer()), align=4)
    b.ret_void()


def _filters(b, w, step, edge: int, points, factors):
    """The 3×3 vectors whose transforms are w's. A tap in the middle that rounding alone may have left is 0, as
    infinity times 0 is NaN; of the others a 0 comes back as one."""
    u = [
        [b.load(b.bitcast(b.gep(w, [b.mul(step, _n(i * edge + j))]), VT.as_pointer()), align=4) for j in points]
        for i in points
    ]
    lines = [_taps(b, line, factors) for line in u]
    columns = [_taps(b, [line[k] for line in lines], factors) for k in range(3)]
    g = [[columns[kx][ky] for kx in range(3)] for ky in range(3)]

    def magnitude(v):
        return call_intrinsic(b, f"fabs.v{W}f32", VT, v)

    four = b.fadd(b.fadd(magnitude(u[1][1]), magnitude(u[1][2])), b.fadd(magnitude(u[2][1]), magnitude(u[2][2])))
    least = b.fmul(four, constant(ROUNDED * factors[1] ** 2))
    g[1][1] = b.select(b.fcmp_ordered("<=", magnitude(g[1][1]), least), constant(0.0), g[1][1])
    return g


into_4, out_of_4, whole_4 = _make_input(6, _input_4), _make_output(6, _output_4), _make_whole(6, _output_4)
into_2, out_of_2, whole_2 = _make_input(4, _input_2), _make_output(4, _output_2), _make_whole(4, _output_2)
direct_4 = _make_direct(4, (0, 3, 4, 5), (1 / AT_0[0], 0.5 / AT_FAR[1], 1.0))
direct_2 = _make_direct(2, (0, 1, 2, 3), (1.0, 1.0, 1.0))
