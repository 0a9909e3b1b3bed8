"""Packing of weights that are computed while running, as those that train are: into panels for the matrix kernels, into rows.
There is no Winograd here: no GPU target plans it."""

from ._simd import Float, Floats, Int, at, barrier, cuda, inline, kernel, load_part, quotient, shared_floats, splat, spread, store_part, tiled
from ._tile import NR, W

THREADS = 256
LONG = 32
"""Elements of a column that a block holds at a time."""
PITCH = LONG + 1
HELD = NR * PITCH


@inline
def columns_of(n0, n):
    """Columns of the panel at n0: NR, or W where that is enough."""
    return NR if n - n0 > W else W


@inline
def turn(source, target, k, taps, kw, cg, cols, wide, ky, kx, ci, co, scale):
    """A panel: target[tap][i][column] = scale·source. What lies together is read together: a row of columns, or a piece of a
    column, which then passes through shared memory."""
    held = shared_floats(HELD)
    t = Int(cuda.threadIdx.x)
    lane, warp = t & 31, t >> 5
    if co == 1:
        for s in range(t, k * wide, THREADS):
            r = s // wide if wide == W else s // NR
            j = s - r * wide
            tap = quotient(r, cg)
            y0 = quotient(tap, kw)
            at_row = y0 * ky + (tap - y0 * kw) * kx + (r - tap * cg) * ci
            target[s] = source[at_row + j] * scale if j < cols else Float(0)
    else:
        by_filter = taps > 1 and abs(ci) > abs(kx)  # a filter's taps lie side by side
        for s0 in range(0, k, LONG):
            s = s0 + lane
            outer = quotient(s, taps if by_filter else cg)
            inner = s - outer * (taps if by_filter else cg)
            tap = inner if by_filter else outer
            i = outer if by_filter else inner
            y0 = quotient(tap, kw)
            place = y0 * ky + (tap - y0 * kw) * kx + i * ci
            for j in range(warp, wide, THREADS // 32):
                held[j * PITCH + lane] = source[place + j * co] * scale if j < cols and s < k else Float(0)
            barrier()
            for e in range(t, LONG * wide, THREADS):
                d = e // W if wide == W else e // NR
                s = s0 + d
                if s < k:
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
    """y[group][panel][ky][kx][ci][NR] = scale·w; a unit is a panel of a group, a block's work."""
    count = quotient(n + NR - 1, NR)
    k = kh * kw * cg
    g = quotient(first, count)
    n0 = (first - g * count) * NR
    turn(
        at(w, g * group + n0 * co), at(y, g * k * padded + n0 * k), k, kh * kw, kw, cg, min(NR, n - n0), columns_of(n0, n), ky,
        kx, ci, co, scale,
    )  # fmt: skip


@kernel
def rows(x: Floats, y: Floats, n: Int, row: Int, column: Int, padded: Int, scale: Float, first: Int, last: Int) -> None:
    """y[i, 0:n] = scale·x[i·row + j·column], 0 up to ``padded``; a unit is a row of y."""
    for unit in range(first, last):
        target = at(y, unit * padded)
        source = at(x, unit * row)
        for j in spread(padded):
            target[j] = source[j * column] * scale if j < n else Float(0)
