"""Packing of weights that are computed while running, as those that train are: into panels for the
matrix kernels, through Winograd's transform, into rows of vectors."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Float, Floats, Int, i64
from nbconv.kernels.params import FilterStrides
from nbconv.kernels.winograd_points import AT_0, AT_FAR, AT_NEAR

from ._ir import VI, W, internal, load_part_ir, splat_ir, vector_pointer
from ._simd import at, get, inline, kernel, load, stack_floats, stack_ints, store
from ._tile import NR

HELD, HALF = 9 * W, 18 * W
"""Floats of a vector of 3×3 filters, and of these transformed one way."""
TURNED = W * W
LONGEST = 512
"""Most floats from the first tap of a filter to its last that are read as a piece."""
FIRST = AT_0[0]
NEAR_0, NEAR_1, NEAR_2 = AT_NEAR
FAR_0, FAR_1, FAR_2 = AT_FAR


@intrinsic
def turn(tc, x, pitch, rows, lanes, scale, y):
    """y[l·W + r] = scale·x[r·pitch + l] for l < ``lanes``, 0 from r = ``rows`` on; neither more than W."""
    sig = types.void(Floats, Int, Int, Int, Float, Floats)

    def gen(ctx, b, sig, args):
        kinds = [a.type for a in args]
        whole = b.and_(b.icmp_signed("==", args[2], i64(W)), b.icmp_signed("==", args[3], i64(W)))
        with b.if_else(whole) as (all_of_it, part_of_it):
            with all_of_it:
                b.call(_turn(b.module, True, kinds), args)
            with part_of_it:
                b.call(_turn(b.module, False, kinds), args)
        return ctx.get_dummy_value()

    return sig, gen


def _turn(module, whole: bool, kinds):
    """The function for W rows of W lanes, or fewer."""
    fn, new = internal(module, f"turn_{'whole' if whole else 'part'}", kinds)
    if new:
        b = ir.IRBuilder(fn.append_basic_block("entry"))
        x, pitch, rows, lanes, scale, y = fn.args
        factor, found = splat_ir(b, scale), []
        for r in range(W):
            p = vector_pointer(b, x, b.mul(pitch, i64(r)))
            if whole:
                row = b.load(p, align=4)
            else:
                row = load_part_ir(b, p, b.select(b.icmp_signed("<", i64(r), rows), lanes, i64(0)))
            found.append(b.fmul(row, factor))
        low = ir.Constant(VI, [lane // 2 + lane % 2 * W for lane in range(W)])
        high = ir.Constant(VI, [(lane + W) // 2 + lane % 2 * W for lane in range(W)])
        half, stages = W // 2, W.bit_length() - 1
        for _ in range(stages):  # each deals row r and row r + W/2 lane by lane
            pairs = list(zip(found[:half], found[half:]))
            found = [b.shuffle_vector(p, q, lanes) for p, q in pairs for lanes in (low, high)]
        for i, row in enumerate(found):
            b.store(row, vector_pointer(b, y, i64(i * W)), align=4)
        b.ret_void()
    return fn


@kernel
def panels(
    w: Floats,
    y: Floats,
    kh: Int,
    kw: Int,
    cg: Int,
    n: Int,
    strides: FilterStrides,
    padded: Int,
    scale: Float,
    first: Int,
    last: Int,
) -> None:
    """y[group][panel][ky][kx][ci][NR] = scale·w, element (g, y, x, i, o) of w at g·group + y·ky +
    x·kx + i·ci + o·co.

    A unit is a panel of a group: ``padded`` columns a group, zero past n.
    """
    group, ky, kx, ci, co = strides
    count = (n + NR - 1) // NR
    for unit in range(first, last):
        g = unit // count
        n0 = (unit - g * count) * NR
        source = at(w, g * group + n0 * co)
        _panel(source, at(y, g * kh * kw * cg * padded), (1, kh, kw, cg), (0, ky, kx, ci, co), n0, n - n0, padded, scale)


@kernel
def planes(
    w: Floats,
    y: Floats,
    count: Int,
    kh: Int,
    kw: Int,
    cg: Int,
    n: Int,
    strides: FilterStrides,
    padded: Int,
    scale: Float,
    first: Int,
    last: Int,
) -> None:
    """As `panels` of ``count`` groups. A unit is a panel of all of them, which are planes of the same
    filters: what lies side by side is read once."""
    for unit in range(first, last):
        n0 = unit * NR
        _panel(at(w, n0 * strides.co), y, (count, kh, kw, cg), strides, n0, n - n0, padded, scale)


@inline
def _panel(w, y, sizes, strides, n0, n, padded, scale):
    """A panel, of columns from n0 on, of each plane."""
    count, kh, kw, cg = sizes
    plane, ky, kx, ci, co = strides
    k = kh * kw * cg
    cols = min(NR, n)
    width = NR if cols > W else W
    target = at(y, n0 * k)
    span = (count - 1) * plane + (kh - 1) * ky + (kw - 1) * kx + 1
    if count * k == cg and co == 1:
        for i in range(cg):
            for j0 in range(0, width, W):
                store(target, i * width + j0, get(at(w, i * ci), j0, max(0, cols - j0)) * scale)
    else:
        near = 0 <= plane and (kh == 1 or 0 < ky) and (kw == 1 or 0 < kx) and span <= LONGEST
        near = near and (ci == 1 if span == 1 else ci >= span)
        for j0 in range(0, width, W):
            rows = max(0, min(W, cols - j0))
            if near:
                _turned(at(w, j0 * co), at(target, j0), sizes, strides, span, rows, width, k * padded, scale)
            else:
                _gathered(at(w, j0 * co), at(target, j0), sizes, strides, rows, width, k * padded, scale)


@inline
def _turned(w, y, sizes, strides, span, rows, width, apart, scale):
    """A vector of columns whose taps lie near each other: pieces of all these filters are turned."""
    count, kh, kw, cg = sizes
    plane, ky, kx, ci, co = strides
    held = stack_floats(TURNED)
    places = stack_ints(LONGEST)
    for p in range(span):
        places[p] = -1
    for z in range(count):
        for t in range(kh * kw):
            y0 = t // kw
            places[z * plane + y0 * ky + (t - y0 * kw) * kx] = z * apart + t * cg * width
    together = ci == span
    length = cg * span if together else span
    for run in range(1 if together else cg):
        i = run
        p = 0
        q = 0
        while q < length:
            lanes = min(W, length - q)
            turn(at(w, run * ci + q), co, rows, lanes, scale, held)
            for lane in range(lanes):
                place = places[p]
                if place >= 0:
                    store(y, place + i * width, load(held, lane * W))
                p += 1
                if p == span:
                    p = 0
                    i += 1
            q += W


@inline
def _gathered(w, y, sizes, strides, rows, width, apart, scale):
    """A vector of columns, element by element."""
    count, kh, kw, cg = sizes
    plane, ky, kx, ci, co = strides
    for z in range(count):
        for t in range(kh * kw):
            y0 = t // kw
            tap = at(w, z * plane + y0 * ky + (t - y0 * kw) * kx)
            for i in range(cg):
                target = at(y, z * apart + (t * cg + i) * width)
                for j in range(rows):
                    target[j] = tap[i * ci + j * co] * scale
                for j in range(rows, W):
                    target[j] = 0


@kernel
def rows(
    x: Floats,
    y: Floats,
    n: Int,
    row: Int,
    column: Int,
    padded: Int,
    scale: Float,
    first: Int,
    last: Int,
) -> None:
    """y[i, 0:n] = scale·x[i·row + j·column], 0 up to ``padded``; a unit is a row of y."""
    for unit in range(first, last):
        target = at(y, unit * padded)
        source = at(x, unit * row)
        for j in range(n):
            target[j] = source[j * column] * scale
        for j in range(n, padded):
            target[j] = 0


@kernel
def winograd_4(
    w: Floats,
    y: Floats,
    ci: Int,
    co: Int,
    cis: Int,
    cos: Int,
    turned: Int,
    padded: Int,
    first: Int,
    last: Int,
) -> None:
    """Transformed 3×3 filters for tiles of 4×4 results, packed [36 points][panel][ci][NR]; a unit
    is a panel.

    Filter (i, o) begins at w[i·cis + o·cos]; ``turned`` reads its taps from the last to the first.
    """
    _winograd(w, y, ci, co, cis, cos, turned, padded, first, last, 6, _into_4)


@kernel
def winograd_2(
    w: Floats,
    y: Floats,
    ci: Int,
    co: Int,
    cis: Int,
    cos: Int,
    turned: Int,
    padded: Int,
    first: Int,
    last: Int,
) -> None:
    """As `winograd_4`, for tiles of 2×2 results: 16 points."""
    _winograd(w, y, ci, co, cis, cos, turned, padded, first, last, 4, _into_2)


@inline
def _winograd(w, y, ci, co, cis, cos, turned, padded, first, last, side, into):
    """The filters ``into`` side × side points."""
    held = stack_floats(HELD)
    half = stack_floats(HALF)
    for unit in range(first, last):
        n0 = unit * NR
        width = NR if co - n0 > W else W
        for i in range(ci):
            for j0 in range(0, width, W):
                _filters(held, at(w, i * cis + (n0 + j0) * cos), min(W, co - n0 - j0), cos, turned)
                for x in range(3):
                    into(held, x * W, 3 * W, half, x * W, 3 * W)
                for p in range(side):
                    into(half, p * 3 * W, W, at(y, p * side * ci * padded + n0 * ci + i * width + j0), 0, ci * padded)


@inline
def _filters(held, w, cols, cos, turned):
    """The nine taps of up to W filters, a vector a tap, zero past ``cols``."""
    taps = stack_floats(TURNED)
    for t0 in range(0, 9, W):
        lanes = min(W, 9 - t0)
        turn(at(w, t0), cos, max(0, cols), lanes, 1.0, taps)
        for lane in range(lanes):
            t = t0 + lane
            store(held, (8 - t if turned == 1 else t) * W, load(taps, lane * W))


@inline
def _into_4(x, at_x, step, y, at_y, to):
    """Three vectors times G of F(4, 3), six vectors."""
    a = load(x, at_x)
    b = load(x, at_x + step)
    c = load(x, at_x + 2 * step)
    near = a * NEAR_0 + c * NEAR_2
    far = a * FAR_0 + c * FAR_2
    store(y, at_y, a * FIRST)
    store(y, at_y + to, near + b * NEAR_1)
    store(y, at_y + 2 * to, near - b * NEAR_1)
    store(y, at_y + 3 * to, far + b * FAR_1)
    store(y, at_y + 4 * to, far - b * FAR_1)
    store(y, at_y + 5 * to, c)


@inline
def _into_2(x, at_x, step, y, at_y, to):
    """Three vectors times G of F(2, 3), four vectors."""
    a = load(x, at_x)
    b = load(x, at_x + step)
    c = load(x, at_x + 2 * step)
    store(y, at_y, a)
    store(y, at_y + to, (a + c) * 0.5 + b * 0.5)
    store(y, at_y + 2 * to, (a + c) * 0.5 - b * 0.5)
    store(y, at_y + 3 * to, c)
