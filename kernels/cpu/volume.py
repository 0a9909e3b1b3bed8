"""Pools over channels-last volumes (an image is a volume of depth 1), with the places of maxima, and what puts values back
to such places."""

from nbconv.kernels.params import Clamp, Divisor, Image, Window
from nbconv.kernels.sampling_params import Depth

from ._math import exp, log
from ._simd import (
    Float,
    Floats,
    Int,
    Ints,
    W,
    absolute,
    get,
    inline,
    kernel,
    maximum,
    minimum,
    put,
    splat,
    sqrt,
    stack_floats,
    where,
)
from ._window import inside

INF, NAN = float("inf"), float("nan")


@kernel
def max_pool(
    x: Floats,
    y: Floats,
    image: Image,
    window: Window,
    depth: Depth,
    clamp: Clamp,
    first: Int,
    last: Int,
) -> None:
    """Largest value of each window; NaN where the window holds one. A unit is an output row."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    d, od, kd, sd, dd, pd = depth
    low, high = clamp
    for unit in range(first, last):
        line = unit // oh
        n = line // od
        iz0 = (line - n * od) * sd - pd
        kz0, kz1 = inside(iz0, kd, dd, d)
        iy0 = (unit - line * oh) * sh - ph
        ky0, ky1 = inside(iy0, kh, dh, h)
        for ox in range(ow):
            ix0 = ox * sw - pw
            kx0, kx1 = inside(ix0, kw, dw, width)
            for c0 in range(0, c, W):
                best = splat(-INF)
                nan = best != best
                for kz in range(kz0, kz1):
                    for ky in range(ky0, ky1):
                        row = (((n * d + iz0 + kz * dd) * h + iy0 + ky * dh) * width + ix0) * ldx + c0
                        for kx in range(kx0, kx1):
                            v = get(x, row + kx * dw * ldx, c - c0)
                            best = where(best > v, best, v)
                            nan = nan | (v != v)
                best = where(nan, NAN, minimum(maximum(best, low), high))
                put(y, (unit * ow + ox) * ldy + c0, best, c - c0)


@kernel
def max_pool_places(
    x: Floats,
    y: Floats,
    places: Ints,
    image: Image,
    window: Window,
    depth: Depth,
    clamp: Clamp,
    nz: Int,
    ny: Int,
    nx: Int,
    first: Int,
    last: Int,
) -> None:
    """As `max_pool`, with the number in x, as ONNX has it, of the cell that holds each maximum: the
    first of equals, or the first NaN. A plane's cell (z, i, j) has the number z·nz + i·ny + j·nx."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    d, od, kd, sd, dd, pd = depth
    low, high = clamp
    found = stack_floats(W)
    for unit in range(first, last):
        line = unit // oh
        n = line // od
        iz0 = (line - n * od) * sd - pd
        kz0, kz1 = inside(iz0, kd, dd, d)
        iy0 = (unit - line * oh) * sh - ph
        ky0, ky1 = inside(iy0, kh, dh, h)
        for ox in range(ow):
            ix0 = ox * sw - pw
            kx0, kx1 = inside(ix0, kw, dw, width)
            corner = iz0 * nz + iy0 * ny + ix0 * nx
            for c0 in range(0, c, W):
                best = splat(-INF)
                place = splat(-1.0)
                for kz in range(kz0, kz1):
                    for ky in range(ky0, ky1):
                        row = (((n * d + iz0 + kz * dd) * h + iy0 + ky * dh) * width + ix0) * ldx + c0
                        for kx in range(kx0, kx1):
                            v = get(x, row + kx * dw * ldx, c - c0)
                            better = (v > best) | (place < 0) | ((v != v) & (best == best))
                            best = where(better, v, best)
                            place = where(better, splat(kz * dd * nz + ky * dh * ny + kx * dw * nx), place)
                pixel = unit * ow + ox
                put(y, pixel * ldy + c0, minimum(maximum(best, low), high), c - c0)
                put(found, 0, place, W)
                for i in range(min(W, c - c0)):
                    places[pixel * c + c0 + i] = (n * c + c0 + i) * d * h * width + corner + Int(found[i])


@kernel
def average_pool(
    x: Floats,
    y: Floats,
    image: Image,
    window: Window,
    depth: Depth,
    divisor: Divisor,
    padded_d: Int,
    clamp: Clamp,
    first: Int,
    last: Int,
) -> None:
    """Mean of each window. A unit is an output row."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    d, od, kd, sd, dd, pd = depth
    padded_h, padded_w, count_pad = divisor
    low, high = clamp
    for unit in range(first, last):
        line = unit // oh
        n = line // od
        iz0 = (line - n * od) * sd - pd
        kz0, kz1 = inside(iz0, kd, dd, d)
        iy0 = (unit - line * oh) * sh - ph
        ky0, ky1 = inside(iy0, kh, dh, h)
        for ox in range(ow):
            ix0 = ox * sw - pw
            kx0, kx1 = inside(ix0, kw, dw, width)
            count = (kz1 - kz0) * (ky1 - ky0) * (kx1 - kx0)
            if count_pad == 1:
                qz0, qz1 = inside(iz0 + pd, kd, dd, padded_d + pd)
                qy0, qy1 = inside(iy0 + ph, kh, dh, padded_h + ph)
                qx0, qx1 = inside(ix0 + pw, kw, dw, padded_w + pw)
                count = (qz1 - qz0) * (qy1 - qy0) * (qx1 - qx0)
            for c0 in range(0, c, W):
                total = splat(0.0)
                for kz in range(kz0, kz1):
                    for ky in range(ky0, ky1):
                        row = (((n * d + iz0 + kz * dd) * h + iy0 + ky * dh) * width + ix0) * ldx + c0
                        for kx in range(kx0, kx1):
                            total = total + get(x, row + kx * dw * ldx, c - c0)
                put(y, (unit * ow + ox) * ldy + c0, minimum(maximum(total / count, low), high), c - c0)


@kernel
def lp_pool(
    x: Floats, y: Floats, image: Image, window: Window, depth: Depth, clamp: Clamp, p: Int, first: Int, last: Int
) -> None:
    """The p-norm of each window. A unit is an output row."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    d, od, kd, sd, dd, pd = depth
    low, high = clamp
    for unit in range(first, last):
        line = unit // oh
        n = line // od
        iz0 = (line - n * od) * sd - pd
        kz0, kz1 = inside(iz0, kd, dd, d)
        iy0 = (unit - line * oh) * sh - ph
        ky0, ky1 = inside(iy0, kh, dh, h)
        for ox in range(ow):
            ix0 = ox * sw - pw
            kx0, kx1 = inside(ix0, kw, dw, width)
            for c0 in range(0, c, W):
                total = splat(0.0)
                for kz in range(kz0, kz1):
                    for ky in range(ky0, ky1):
                        row = (((n * d + iz0 + kz * dd) * h + iy0 + ky * dh) * width + ix0) * ldx + c0
                        for kx in range(kx0, kx1):
                            total = total + _power(absolute(get(x, row + kx * dw * ldx, c - c0)), p)
                if p == 2:
                    total = sqrt(total)
                elif p > 2:
                    root = exp(log(total) / p)
                    total = where((total > 0.0) & (total < INF), root, total)
                put(y, (unit * ow + ox) * ldy + c0, minimum(maximum(total, low), high), c - c0)


@inline
def _power(v, p):
    """v^p for p ≥ 1, by squaring."""
    square = v
    found = splat(1.0)
    rest = p
    while rest > 1:
        if rest % 2 == 1:
            found = found * square
        square = square * square
        rest = rest // 2
    return found * square


@kernel
def max_unpool(x: Floats, places: Ints, y: Floats, c: Int, size: Int, cells: Int, first: Int, last: Int) -> None:
    """Zeros, and x at its places, as far as they lie in the plane that x is of. A unit is a vector
    of planes (n, c) of ``size`` cells of x, ``cells`` of y."""
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        for i in range(cells):
            put(y, (n * cells + i) * c + c0, splat(0.0), c - c0)
        for p in range(size):
            for k in range(c0, min(c0 + W, c)):
                i = (n * size + p) * c + k
                cell = places[i] - (n * c + k) * cells
                if 0 <= cell and cell < cells:
                    y[(n * cells + cell) * c + k] = x[i]


@kernel
def max_unpool_strays(
    x: Floats, places: Ints, y: Floats, n: Int, c: Int, size: Int, cells: Int, first: Int, last: Int
) -> None:
    """What `max_unpool` left: x at places in other planes, and NaN, in the first cell of its own
    plane, for a place outside of y. There is one unit."""
    for unit in range(first, last):
        for p in range(n * size):
            own = p // size * c
            for k in range(c):
                place = places[p * c + k]
                cell = place - (own + k) * cells
                if cell < 0 or cell >= cells:
                    if place < 0 or place >= n * c * cells:
                        y[p // size * cells * c + k] = NAN
                    else:
                        plane = place // cells
                        image = plane // c
                        y[(image * cells + place - plane * cells) * c + plane - image * c] = x[p * c + k]


@kernel
def max_unpool_grad(dy: Floats, places: Ints, dx: Floats, c: Int, cells: Int, total: Int, first: Int, last: Int) -> None:
    """dx is dy at the places, 0 for one outside of it. A unit is a pixel of dx; dy has ``total``
    cells, ``cells`` a plane."""
    for unit in range(first, last):
        for k in range(c):
            place = places[unit * c + k]
            value = Float(0.0)
            if 0 <= place and place < total:
                plane = place // cells
                image = plane // c
                value = dy[(image * cells + place - plane * cells) * c + plane - image * c]
            dx[unit * c + k] = value
