"""Packing of weights that are computed while running, as those that train are: into panels for the
matrix kernels, through Winograd's transform, into rows of vectors."""

from nbconv.kernels.params import FilterStrides
from nbconv.kernels.winograd_points import AT_0, AT_FAR, AT_NEAR

from ._simd import Float, Floats, Int, W, at, inline, kernel, load, stack_floats, store
from ._tile import NR

HELD, HALF = 9 * W, 18 * W
"""Floats of a vector of 3×3 filters, and of these transformed one way."""
FIRST = AT_0[0]
NEAR_0, NEAR_1, NEAR_2 = AT_NEAR
FAR_0, FAR_1, FAR_2 = AT_FAR


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
    k = kh * kw * cg
    for unit in range(first, last):
        g = unit // count
        n0 = (unit - g * count) * NR
        cols = min(NR, n - n0)
        width = NR if cols > W else W
        source = at(w, g * group + n0 * co)
        target = at(y, g * k * padded + n0 * k)
        taps = kh * kw
        if abs(ci) > abs(kx) and taps > 1:  # a filter's taps lie side by side: they are read in that order
            for i in range(cg):
                for j in range(cols):
                    for t in range(taps):
                        y0 = t // kw
                        target[(t * cg + i) * width + j] = source[i * ci + j * co + y0 * ky + (t - y0 * kw) * kx] * scale
        else:
            for t in range(taps):
                y0 = t // kw
                tap = at(source, y0 * ky + (t - y0 * kw) * kx)
                for i in range(cg):
                    for j in range(cols):
                        target[(t * cg + i) * width + j] = tap[i * ci + j * co] * scale
        for i in range(k):
            for j in range(cols, width):
                target[i * width + j] = 0


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
    for j in range(W):
        for t in range(9):
            held[t * W + j] = w[j * cos + (8 - t if turned == 1 else t)] if j < cols else 0


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
