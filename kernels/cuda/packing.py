"""Packing of weights that are computed while running, as those that train are: into panels for the matrix kernels, into
rows. There is no Winograd here: no GPU target plans it."""

from ._simd import Float, Floats, Int, W, at, barrier, cuda, inline, kernel, quotient, shared_floats, spread, tiled
from ._tile import NR

THREADS = 256
LONG = 32
"""Elements of a column that a block holds at a time."""
PIECE = 256
"""Rows of a panel that a block packs (nbconv/ops/repack.py counts by it)."""
PITCH = LONG + 1
HELD = NR * PITCH


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
    """A piece of a panel: target[tap][i][column] = scale·source, in the source's order. What lies together is read
    together: a row of columns, or a piece of a column, which then passes through shared memory."""
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
    w: Floats, y: Floats, kh: Int, kw: Int, cg: Int, n: Int, group: Int, ky: Int, kx: Int, ci: Int, co: Int, padded: Int,
    scale: Float, first: Int, last: Int,
) -> None:  # fmt: skip
    """y[group][panel][ky][kx][ci][NR] = scale·w; a unit is `PIECE` rows of a panel of a group, a block's work."""
    k = kh * kw * cg
    g, n0, piece = place_of(first, k, n)
    turn(
        at(w, g * group + n0 * co), at(y, g * k * padded + n0 * k), piece, k, kh * kw, kw, cg, n - n0, ky, kx,
        ci, co, scale,
    )  # fmt: skip


@kernel
def rows(x: Floats, y: Floats, n: Int, row: Int, column: Int, padded: Int, scale: Float, first: Int, last: Int) -> None:
    """y[i, 0:n] = scale·x[i·row + j·column], 0 up to ``padded``; a unit is a row of y."""
    for unit in range(first, last):
        target = at(y, unit * padded)
        source = at(x, unit * row)
        for j in spread(padded):
            target[j] = source[j * column] * scale if j < n else Float(0)
