"""Resizing of channels-last images by tables that say which rows and columns each output pixel
reads.
A unit is an output pixel."""

from nbconv.kernels.params import Image

from ._simd import Floats, Int, Ints, W, get, kernel, put, quotient, splat


@kernel
def nearest(
    x: Floats,
    y: Floats,
    rows: Ints,
    columns: Ints,
    image: Image,
    first: Int,
    last: Int,
) -> None:
    """y[n, i, j, :] = x[n, rows[i], columns[j], :]."""
    h, width, ldx, c, ldy, oh, ow = image
    for unit in range(first, last):
        line = quotient(unit, ow)
        n = quotient(line, oh)
        source = ((n * h + rows[line - n * oh]) * width + columns[unit - line * ow]) * ldx
        for c0 in range(0, c, W):
            put(y, unit * ldy + c0, get(x, source + c0, c - c0), c - c0)


@kernel
def linear(
    x: Floats,
    y: Floats,
    rows: Ints,
    row_weights: Floats,
    columns: Ints,
    column_weights: Floats,
    image: Image,
    first: Int,
    last: Int,
) -> None:
    """Bilinear: output row i mixes input rows rows[2i] and rows[2i+1] with row_weights[2i] and
    [2i+1]; columns likewise."""
    h, width, ldx, c, ldy, oh, ow = image
    for unit in range(first, last):
        line = quotient(unit, ow)
        n = quotient(line, oh)
        i = line - n * oh
        j = unit - line * ow
        upper = (n * h + rows[2 * i]) * width * ldx
        lower = (n * h + rows[2 * i + 1]) * width * ldx
        left = columns[2 * j] * ldx
        right = columns[2 * j + 1] * ldx
        wu, wl = splat(row_weights[2 * i]), splat(row_weights[2 * i + 1])
        cl, cr = splat(column_weights[2 * j]), splat(column_weights[2 * j + 1])
        for c0 in range(0, c, W):
            cols = c - c0
            above = get(x, upper + left + c0, cols) * cl + get(x, upper + right + c0, cols) * cr
            below = get(x, lower + left + c0, cols) * cl + get(x, lower + right + c0, cols) * cr
            put(y, unit * ldy + c0, above * wu + below * wl, cols)
