"""Packing of weights that are computed while running, into panels for the tiles and into rows of vectors. A warp does a
unit: its lanes are neighbouring columns."""

from ._simd import Float, Floats, Int, W, at, kernel, spread

NR = 2 * W
"""Columns of a full panel."""


@kernel
def panels(
    w: Floats, y: Floats, kh: Int, kw: Int, cg: Int, n: Int, group: Int, ky: Int, kx: Int, ci: Int, co: Int, padded: Int,
    scale: Float, first: Int, last: Int,
) -> None:  # fmt: skip
    """y[group][panel][ky][kx][ci][NR] = scale·w, element (g, y, x, i, o) of w at g·group + y·ky + x·kx + i·ci + o·co.

    A unit is a panel of a group: ``padded`` columns a group, zero past n.
    """
    count = (n + NR - 1) // NR
    k = kh * kw * cg
    for unit in range(first, last):
        g = unit // count
        n0 = (unit - g * count) * NR
        cols = min(NR, n - n0)
        width = NR if cols > W else W
        source = at(w, g * group + n0 * co)
        target = at(y, g * k * padded + n0 * k)
        row = 0
        for y0 in range(kh):
            for x0 in range(kw):
                tap = at(source, y0 * ky + x0 * kx)
                for i in range(cg):
                    for j in spread(width):
                        target[row * width + j] = tap[i * ci + j * co] * scale if j < cols else Float(0)
                    row += 1


@kernel
def rows(x: Floats, y: Floats, n: Int, row: Int, column: Int, padded: Int, scale: Float, first: Int, last: Int) -> None:
    """y[i, 0:n] = scale·x[i·row + j·column], 0 up to ``padded``; a unit is a row of y."""
    for unit in range(first, last):
        target = at(y, unit * padded)
        source = at(x, unit * row)
        for j in spread(padded):
            target[j] = source[j * column] * scale if j < n else Float(0)
