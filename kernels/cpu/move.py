"""Moving data: `copy` between strided arrays of up to five dimensions, `fill`."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import i32, i64
from nbconv.kernels.params import Extents, Strides

from ._ir import load_part_ir, store_part_ir, vector_pointer
from ._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    inline,
    kernel,
    load,
    load_part,
    splat,
    store,
    store_part,
)


@kernel
def copy(
    x: Floats,
    y: Floats,
    extents: Extents,
    x_strides: Strides,
    y_strides: Strides,
    first: Int,
    last: Int,
) -> None:
    """y[…] = x[…] over n0 × n1 × n2 × n3 × n4 elements, strides in elements; a unit is one (i0, i1,
    i2).

    Serves transposes, slices, concatenations, padding, repeats and changes of layout.
    """
    n1, n2, n3, n4 = extents
    x0, x1, x2, x3, x4 = x_strides
    y0, y1, y2, y3, y4 = y_strides
    for unit in range(first, last):
        ij = unit // n2
        k = unit - ij * n2
        i = ij // n1
        j = ij - i * n1
        source = at(x, i * x0 + j * x1 + k * x2)
        target = at(y, i * y0 + j * y1 + k * y2)
        if x4 == 1 and y4 == 1 and n4 == W:
            for r in range(n3):
                store(target, r * y3, load(source, r * x3))
        elif x4 == 1 and y4 == 1:
            for r in range(n3):
                _line(at(source, r * x3), at(target, r * y3), n4)
        elif y4 == 1 and x3 == 1 and y3 == n4 and 2 <= n4 and n4 <= 4:
            _interleave(source, target, n3, n4, x4)
        elif x3 == 1 and y4 == 1 and x4 == n3 and 2 <= n3 and n3 <= 4:
            _deal(source, target, n4, n3, y3)
        elif x3 == 1 and y4 == 1 and n3 > 1 and n4 > 1:
            _transpose(source, target, n3, n4, x4, y3)
        elif n4 <= 4:
            for r in range(n3):
                for s in range(n4):
                    target[r * y3 + s * y4] = source[r * x3 + s * x4]
        else:
            for r0 in range(0, n3, 16):
                for s0 in range(0, n4, 16):
                    for r in range(r0, min(r0 + 16, n3)):
                        for s in range(s0, min(s0 + 16, n4)):
                            target[r * y3 + s * y4] = source[r * x3 + s * x4]


@inline
def _interleave(source, target, n, parts, apart):
    """target[r, s] = source[s·apart + r] for 2 to 4 parts: loops that the compiler turns into
    shuffles of vectors."""
    a = source
    b = at(source, apart)
    c = at(source, 2 * apart)
    d = at(source, 3 * apart)
    if parts == 2:
        for r in range(n):
            target[2 * r] = a[r]
            target[2 * r + 1] = b[r]
    elif parts == 3:
        for r in range(n):
            target[3 * r] = a[r]
            target[3 * r + 1] = b[r]
            target[3 * r + 2] = c[r]
    else:
        for r in range(n):
            target[4 * r] = a[r]
            target[4 * r + 1] = b[r]
            target[4 * r + 2] = c[r]
            target[4 * r + 3] = d[r]


@inline
def _deal(source, target, n, parts, apart):
    """target[s·apart + r] = source[r, s] for 2 to 4 parts, as `_interleave`."""
    a = target
    b = at(target, apart)
    c = at(target, 2 * apart)
    d = at(target, 3 * apart)
    if parts == 2:
        for r in range(n):
            a[r] = source[2 * r]
            b[r] = source[2 * r + 1]
    elif parts == 3:
        for r in range(n):
            a[r] = source[3 * r]
            b[r] = source[3 * r + 1]
            c[r] = source[3 * r + 2]
    else:
        for r in range(n):
            a[r] = source[4 * r]
            b[r] = source[4 * r + 1]
            c[r] = source[4 * r + 2]
            d[r] = source[4 * r + 3]


@inline
def _transpose(source, target, rows, columns, apart, row):
    """target[r·row + s] = source[s·apart + r], W × W at a time; the last squares lie over those
    before.
    On the side that has its lines further apart W lines are gone along: others are other pages.
    """
    if rows >= W and columns >= W:
        along = row > apart
        outer, inner = (rows, columns) if along else (columns, rows)
        for i0 in range(0, outer, W):
            i = min(i0, outer - W)
            for j0 in range(0, inner, W):
                j = min(j0, inner - W)
                r, s = (i, j) if along else (j, i)
                _transpose_square(at(source, s * apart + r), apart, at(target, r * row + s), row)
    else:
        for s in range(0, columns, W):
            for r in range(0, rows, W):
                x, y = at(source, s * apart + r), at(target, r * row + s)
                _transpose_part(x, apart, y, row, min(W, rows - r), min(W, columns - s))


def _transposed(b, rows):
    """The columns of W vectors: at each distance 1, 2, 4 … pairs of rows exchange every other
    element."""
    distance = 1
    while distance < W:
        swapped = list(rows)
        for i in range(W):
            if not i & distance:
                upper = [j if not j & distance else W + j - distance for j in range(W)]
                lower = [j + distance if not j & distance else W + j for j in range(W)]
                for k, mask in ((i, upper), (i + distance, lower)):
                    index = ir.Constant(ir.VectorType(i32, W), mask)
                    swapped[k] = b.shuffle_vector(rows[i], rows[i + distance], index)
        rows = swapped
        distance *= 2
    return rows


def _place(b, p, i, ld):
    return vector_pointer(b, p, b.mul(ld, i64(i)))


@intrinsic
def _transpose_square(tc, x, ldx, y, ldy):
    """y[i·ldy + j] = x[j·ldx + i] for W × W floats."""

    def gen(ctx, b, sig, args):
        x, ldx, y, ldy = args
        rows = [b.load(_place(b, x, i, ldx), align=4) for i in range(W)]
        for i, row in enumerate(_transposed(b, rows)):
            b.store(row, _place(b, y, i, ldy), align=4)
        return ctx.get_dummy_value()

    return types.void(Floats, Int, Floats, Int), gen


@intrinsic
def _transpose_part(tc, x, ldx, y, ldy, rows, columns):
    """y[i·ldy + j] = x[j·ldx + i] for i below ``rows`` and j below ``columns``, W at most."""

    def gen(ctx, b, sig, args):
        x, ldx, y, ldy, rows, columns = args
        held = []
        for j in range(W):  # what is beyond the columns is the first of them once more
            there = b.select(b.icmp_signed("<", i64(j), columns), b.mul(ldx, i64(j)), i64(0))
            held.append(load_part_ir(b, vector_pointer(b, x, there), rows))
        for i, row in enumerate(_transposed(b, held)):
            with b.if_then(b.icmp_signed("<", i64(i), rows)):
                store_part_ir(b, row, _place(b, y, i, ldy), columns)
        return ctx.get_dummy_value()

    return types.void(Floats, Int, Floats, Int, Int, Int), gen


@inline
def _line(source, target, n):
    for s in range(0, n - W + 1, W):
        store(target, s, load(source, s))
    rest = n % W
    if rest > 0:
        store_part(target, n - rest, load_part(source, n - rest, rest), rest)


@kernel
def fill(y: Floats, n: Int, chunk: Int, value: Float, first: Int, last: Int) -> None:
    """y[0:n] = value; a unit is ``chunk`` elements."""
    for i in range(first * chunk, min(last * chunk, n), W):
        if i + W <= n:
            store(y, i, splat(value))
        else:
            store_part(y, i, splat(value), n - i)
