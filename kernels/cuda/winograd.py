"""3×3 convolution at stride 1 by Winograd's minimal filtering, on channels-last data: the
transforms of x's tiles and of the products.
Between them `gemm` multiplies with the transformed weights, a matrix at each of the (size+2)²
points, which are those of kernels/cpu/_winograd.py.

A thread has a channel of a tile, all points of it in registers.
Threads past the last channel read what it reads.
"""

from nbconv.kernels.params import Activation, Addends, Epilogue, Tiles
from nbconv.kernels.winograd_points import FAR, NEAR

from ._math import activated
from ._simd import (
    Float,
    Floats,
    Int,
    W,
    at,
    below,
    cuda,
    given,
    inline,
    kernel,
    lane,
    maximum,
    minimum,
    product,
    quotient,
    scalar,
    splat,
    unseen,
    where,
)

NEAR_2, NEAR_3, FAR_2, FAR_3 = NEAR**2, NEAR**3, FAR**2, FAR**3
SUM_2, BOTH_2 = NEAR_2 + FAR_2, NEAR_2 * FAR_2


@inline
def into_4(d, i, step):
    """d = Bᵀ d for the six values of d from i on, ``step`` apart."""
    d0, d1, d2 = splat(d[i]), splat(d[i + step]), splat(d[i + 2 * step])
    d3, d4, d5 = splat(d[i + 3 * step]), splat(d[i + 4 * step]), splat(d[i + 5 * step])
    p, q = d4 - d2 * FAR_2, d3 - d1 * FAR_2
    r, s = d4 - d2 * NEAR_2, d3 - d1 * NEAR_2
    d[i] = scalar(d0 * BOTH_2 + (d4 - d2 * SUM_2))
    d[i + step] = scalar(p + q * NEAR)
    d[i + 2 * step] = scalar(p - q * NEAR)
    d[i + 3 * step] = scalar(r + s * FAR)
    d[i + 4 * step] = scalar(r - s * FAR)
    d[i + 5 * step] = scalar(d1 * BOTH_2 + (d5 - d3 * SUM_2))


@inline
def into_2(d, i, step):
    """As `into_4`, for four values."""
    d0, d1, d2, d3 = d[i], d[i + step], d[i + 2 * step], d[i + 3 * step]
    d[i], d[i + step], d[i + 2 * step], d[i + 3 * step] = d0 - d2, d1 + d2, d2 - d1, d1 - d3


@inline
def out_of_4(m, y):
    """y[0:4] = Aᵀ m for the six values of m."""
    m0, m1, m2, m3, m4, m5 = splat(m[0]), splat(m[1]), splat(m[2]), splat(m[3]), splat(m[4]), splat(m[5])
    s1, s2, s3, s4 = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    y[0] = scalar(m0 + s1 + s3)
    y[1] = scalar(s2 * NEAR + s4 * FAR)
    y[2] = scalar(s1 * NEAR_2 + s3 * FAR_2)
    y[3] = scalar(s2 * NEAR_3 + m5 + s4 * FAR_3)


@inline
def out_of_2(m, y):
    """As `out_of_4`: two of four."""
    y[0], y[1] = m[0] + m[1] + m[2], m[1] - m[2] - m[3]


@inline
def place(unit, c, down, across):
    """(image, row of tiles, column of tiles, tile, channel) of a unit and a thread."""
    vectors = quotient(c + W - 1, W)
    tile = quotient(unit, vectors)
    line = quotient(tile, across)
    image = quotient(line, down)
    return image, line - image * down, tile - line * across, tile, (unit - tile * vectors) * W + lane()


def input_transform(side, transform):
    """The kernel `transform_input` for tiles of side × side results."""
    edge = side + 2
    points = edge * edge

    @kernel
    def transform_input(
        x: Floats,
        v: Floats,
        h: Int,
        width: Int,
        ldx: Int,
        c: Int,
        tiles: Tiles,
        ph: Int,
        pw: Int,
        first: Int,
        last: Int,
    ) -> None:
        """v[point][tile][c] = Bᵀ d B of the (size+2)² pixels of x that a tile's results see, zero
        outside the image.

        ldx floats a pixel of x. A unit is (tile, W channels)."""
        down, across, total, _ = tiles
        d = cuda.local.array(points, Float)
        image, row, column, tile, channel = place(first, c, down, across)
        pitch = width * ldx
        source = at(x, image * h * pitch + min(channel, c - 1))
        iy, ix = row * side - ph, column * side - pw
        for j in range(edge):
            near = product(min(max(ix + j, 0), width - 1), ldx)
            for i in range(edge):
                value = at(source, min(max(iy + i, 0), h - 1) * pitch)[near]
                d[i * edge + j] = scalar(where(below(iy + i, h) & below(ix + j, width), splat(value), 0.0))
            transform(d, j, edge)
        target = at(v, tile * c + channel)
        if channel < c:
            for i in range(edge):
                transform(d, i * edge, 1)
                for j in range(edge):
                    target[0] = d[i * edge + j]
                    target = at(target, total * c)

    return transform_input


def output_transform(side, transform):
    """The kernel `transform_output` for tiles of side × side results."""
    edge = side + 2
    held = side * edge

    @kernel
    def transform_output(
        m: Floats,
        addends: Addends,
        y: Floats,
        oh: Int,
        ow: Int,
        c: Int,
        ldy: Int,
        tiles: Tiles,
        epilogue: Epilogue,
        first: Int,
        last: Int,
    ) -> None:
        """y = act(clamp(Aᵀ m A + bias + residual))·scale + shift for m[point][tile][c], those
        results of a tile that y has.

        bias, scale and shift are filled up to vectors. Units and tiles as in `transform_input`."""
        down, across, total, _ = tiles
        d = cuda.local.array(edge, Float)
        s = cuda.local.array(held, Float)  # [row of results][column of points]
        o = cuda.local.array(side, Float)
        image, row, column, tile, channel = place(first, c, down, across)
        mine = min(channel, c - 1)
        for j in range(edge):
            source = at(m, (j * total + tile) * c + mine)
            for i in range(edge):
                d[i] = source[0]
                source = at(source, edge * total * c)
            transform(d, o)
            for i in range(side):
                s[i * edge + j] = o[i]
        oy, ox = row * side, column * side
        columns = min(side, ow - ox)
        pixel = (image * oh + oy) * ow + ox
        for _ in range(unseen(min(side, oh - oy))):
            transform(s, o)
            for k in range(held - edge):
                s[k] = s[k + edge]
            finish(o, side, columns, pixel, mine, channel, addends, epilogue)
            target = at(y, pixel * ldy + channel)
            for j in range(side):
                if j < columns and channel < c:
                    target[j * ldy] = o[j]
            pixel += ow

    return transform_output


@inline
def finish(o, count, columns, pixel, mine, channel, addends, epilogue):
    """What follows the products, for ``count`` neighbours of a channel, of which ``columns`` are
    y's."""
    b, res, ldres = addends
    low, high, act, alpha, beta, scale, shift = epilogue
    res = at(res, pixel * ldres + mine)
    for j in range(count):
        o[j] = o[j] + b[channel]
    if ldres > 0:
        for j in range(count):
            o[j] = o[j] + res[min(j, columns - 1) * ldres]
    if act == Activation.NONE:
        for j in range(count):
            o[j] = scalar(minimum(maximum(splat(o[j]), low), high))
    else:
        for _ in range(unseen(count)):  # the code is there once: each result comes first in turn
            done = scalar(activated(act, splat(o[0]), alpha, beta))
            for j in range(count - 1):
                o[j] = o[j + 1]
            o[count - 1] = done
    if given(scale):
        for j in range(count):
            o[j] = scalar(splat(o[j]) * scale[channel] + shift[channel])


def by_size(make, transforms):
    """The kernel that ``make`` makes for tiles of 4×4 results; ``tiles.size`` tells which tiles a
    step wants."""
    found = [(size, make(size, transform)) for size, transform in transforms]
    found[0][1].__variants__ = ("tiles.size", found)
    return found[0][1]


transform_input = by_size(input_transform, ((4, into_4), (2, into_2)))
transform_output = by_size(output_transform, ((4, out_of_4), (2, out_of_2)))
