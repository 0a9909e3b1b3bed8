"""Resizing of channels-last images by tables that say which rows and columns each output pixel
reads.
A unit is an output row."""

from nbconv.kernels.params import Image

from ._simd import (
    Floats,
    Int,
    Ints,
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
        n = unit // oh
        source = at(x, (n * h + rows[unit - n * oh]) * width * ldx)
        for j in range(ow):
            _pixel(at(source, columns[j] * ldx), at(y, (unit * ow + j) * ldy), c)


@inline
def _pixel(source, target, c):
    for i in range(0, c - W + 1, W):
        store(target, i, load(source, i))
    rest = c % W
    if rest > 0:
        store_part(target, c - rest, load_part(source, c - rest, rest), rest)


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
        n = unit // oh
        i = unit - n * oh
        upper = at(x, (n * h + rows[2 * i]) * width * ldx)
        lower = at(x, (n * h + rows[2 * i + 1]) * width * ldx)
        wu = row_weights[2 * i]
        wl = row_weights[2 * i + 1]
        for j in range(ow):
            left = columns[2 * j] * ldx
            right = columns[2 * j + 1] * ldx
            cl = column_weights[2 * j]
            cr = column_weights[2 * j + 1]
            target = at(y, (unit * ow + j) * ldy)
            for c0 in range(0, c, W):
                cols = min(W, c - c0)
                if cols == W:
                    a, b = load(upper, left + c0), load(upper, right + c0)
                    d, e = load(lower, left + c0), load(lower, right + c0)
                else:
                    a, b = load_part(upper, left + c0, cols), load_part(upper, right + c0, cols)
                    d, e = load_part(lower, left + c0, cols), load_part(lower, right + c0, cols)
                v = (a * splat(cl) + b * splat(cr)) * splat(wu) + (d * splat(cl) + e * splat(cr)) * splat(wl)
                if cols == W:
                    store(target, c0, v)
                else:
                    store_part(target, c0, v, cols)
