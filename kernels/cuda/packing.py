"""Packing of weights that are computed while running, as those that train are: into panels for the
matrix kernels, through Winograd's transform, into rows."""

from nbconv.kernels.params import FilterStrides
from nbconv.kernels.winograd_points import AT_0, AT_FAR, AT_NEAR

from ._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    barrier,
    cuda,
    inline,
    kernel,
    quotient,
    scalar,
    shared_floats,
    splat,
    spread,
    tiled,
)
from ._tile import NR

THREADS = 256
LONG = 32
"""Elements of a column that a block holds at a time."""
PIECE = 32
"""Rows of a panel that a block packs (nbconv/lowering/repack.py counts by it)."""
PITCH = LONG + 1
HELD = NR * PITCH
FILTERS = 8
"""Input channels whose 3×3 filters a block transforms (nbconv/lowering/repack.py counts by it)."""
RUN = 9 * FILTERS
FILTER_PITCH = RUN + 1  # 9 more than a multiple of 32: neighbours in w meet no bank twice, whichever way they lie
FILTERS_HELD = NR * FILTER_PITCH
FIRST = AT_0[0]
NEAR_0, NEAR_1, NEAR_2 = AT_NEAR
FAR_0, FAR_1, FAR_2 = AT_FAR


@inline
def place_of(unit, k, n):
    """(matrix, first column, piece of the panel) of a unit."""
    pieces = quotient(k + PIECE - 1, PIECE)
    panel = quotient(unit, pieces)
    count = quotient(n + NR - 1, NR)
    g = quotient(panel, count)
    return g, (panel - g * count) * NR, unit - panel * pieces


@inline
def turn(source, target, piece, k, taps, kw, cg, cols, ky, kx, ci, co, scale):
    """A piece of a panel: target[tap][i][column] = scale·source, in the source's order.
    What lies together is read together: a row of columns, or a piece of a column, which then passes
    through shared memory."""
    held = shared_floats(HELD)
    wide = NR if cols > W else W
    t = Int(cuda.threadIdx.x)
    lane, warp = t & 31, t >> 5
    begin = piece * PIECE
    end = min(begin + PIECE, k)
    if co == 1:
        for s in range(begin * wide + t, end * wide, THREADS):
            r = s // wide if wide == W else s // NR
            j = s - r * wide
            tap = quotient(r, cg)
            y0 = quotient(tap, kw)
            at_row = y0 * ky + (tap - y0 * kw) * kx + (r - tap * cg) * ci
            target[s] = source[at_row + j] * scale if j < cols else Float(0)
    else:
        by_filter = taps > 1 and abs(ci) > abs(kx)  # a filter's taps lie side by side
        for s0 in range(begin, end, LONG):
            s = s0 + lane
            outer = quotient(s, taps if by_filter else cg)
            inner = s - outer * (taps if by_filter else cg)
            tap = inner if by_filter else outer
            i = outer if by_filter else inner
            y0 = quotient(tap, kw)
            place = y0 * ky + (tap - y0 * kw) * kx + i * ci
            for j in range(warp, wide, THREADS // 32):
                held[j * PITCH + lane] = source[place + j * co] * scale if j < cols and s < end else Float(0)
            barrier()
            for e in range(t, LONG * wide, THREADS):
                d = e // W if wide == W else e // NR
                s = s0 + d
                if s < end:
                    outer = quotient(s, taps if by_filter else cg)
                    inner = s - outer * (taps if by_filter else cg)
                    r = inner * cg + outer if by_filter else s
                    target[r * wide + e - d * wide] = held[(e - d * wide) * PITCH + d]
            barrier()


@tiled(THREADS)
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
    """y[group][panel][ky][kx][ci][NR] = scale·w; a unit is `PIECE` rows of a panel of a group, a
    block's work."""
    group, ky, kx, ci, co = strides
    k = kh * kw * cg
    g, n0, piece = place_of(first, k, n)
    turn(
        at(w, g * group + n0 * co),
        at(y, g * k * padded + n0 * k),
        piece,
        k,
        kh * kw,
        kw,
        cg,
        n - n0,
        ky,
        kx,
        ci,
        co,
        scale,
    )


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
        for j in spread(padded):
            target[j] = source[j * column] * scale if j < n else Float(0)


@inline
def into_4(f, i, step, y):
    """y[0:6] = G f for the three values of f from i on, ``step`` apart: tiles of 4×4 results."""
    a, b, c = splat(f[i]), splat(f[i + step]), splat(f[i + 2 * step])
    near = a * NEAR_0 + c * NEAR_2
    far = a * FAR_0 + c * FAR_2
    y[0] = scalar(a * FIRST)
    y[1] = scalar(near + b * NEAR_1)
    y[2] = scalar(near - b * NEAR_1)
    y[3] = scalar(far + b * FAR_1)
    y[4] = scalar(far - b * FAR_1)
    y[5] = scalar(c)


@inline
def into_2(f, i, step, y):
    """As `into_4`, y[0:4] for tiles of 2×2 results."""
    a, b, c = splat(f[i]), splat(f[i + step]), splat(f[i + 2 * step])
    y[0] = scalar(a)
    y[1] = scalar((a + c) * 0.5 + b * 0.5)
    y[2] = scalar((a + c) * 0.5 - b * 0.5)
    y[3] = scalar(c)


@inline
def hold_filters(held, w, rows, cols, cis, cos):
    """The filters of a block, in w's order: held[column][row][tap], zeros for columns from ``cols``
    on."""
    for e in range(Int(cuda.threadIdx.x), NR * RUN, THREADS):
        number = quotient(e, 9)
        tap = e - number * 9
        if cis < cos:  # the filters of a column lie side by side
            j = number // FILTERS
            i = number - j * FILTERS
        else:
            i = number // NR
            j = number - i * NR
        if i < rows:
            held[j * FILTER_PITCH + i * 9 + tap] = w[i * cis + j * cos + tap] if j < cols else Float(0)


def filter_transform(edge, into):
    """The work of the kernels below for edge × edge points."""
    thirds = 3 * edge

    @inline
    def transform(w, y, ci, co, cis, cos, turned, padded, unit):
        held = shared_floats(FILTERS_HELD)
        g = cuda.local.array(9, Float)
        half = cuda.local.array(thirds, Float)
        made = cuda.local.array(edge, Float)
        pieces = quotient(ci + FILTERS - 1, FILTERS)
        panel = quotient(unit, pieces)
        i0, n0 = (unit - panel * pieces) * FILTERS, panel * NR
        rows, cols = min(FILTERS, ci - i0), co - n0
        wide = NR if cols > W else W
        hold_filters(held, at(w, i0 * cis + n0 * cos), rows, cols, cis, cos)
        barrier()
        for e in range(Int(cuda.threadIdx.x), rows * wide, THREADS):
            i = e // W if wide == W else e // NR
            j = e - i * wide
            for tap in range(9):
                g[tap] = held[j * FILTER_PITCH + i * 9 + (8 - tap if turned == 1 else tap)]
            for x in range(3):
                into(g, x, 3, made)
                for p in range(edge):
                    half[3 * p + x] = made[p]
            target = at(y, n0 * ci + i0 * wide + e)
            for p in range(edge):
                into(half, 3 * p, 1, made)
                for q in range(edge):
                    target[0] = made[q]
                    target = at(target, ci * padded)
        barrier()

    return transform


transform_4, transform_2 = filter_transform(6, into_4), filter_transform(4, into_2)


@tiled(THREADS)
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
    """y[36 points][panel][ci][NR] = G g Gᵀ for 3×3 filters g and tiles of 4×4 results; filter (i,
    o) begins at w[i·cis + o·cos], ``turned`` reads its taps from the last to the first.
    A unit is `FILTERS` rows of a panel, a block's work."""
    transform_4(w, y, ci, co, cis, cos, turned, padded, first)


@tiled(THREADS)
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
    transform_2(w, y, ci, co, cis, cos, turned, padded, first)
