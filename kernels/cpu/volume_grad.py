"""Gradients of pools over channels-last volumes. A unit is the volume of one sample, a vector of channels wide: windows may
overlap, so a volume has one owner."""

from nbconv.kernels.params import DenseImage, Divisor, Window
from nbconv.kernels.sampling_params import Depth

from ._simd import Floats, Int, W, at, get, kernel, put, splat, where
from ._window import inside

INF = float("inf")


@kernel
def max_pool_grad(
    dy: Floats, x: Floats, dx: Floats, image: DenseImage, window: Window, depth: Depth, first: Int, last: Int
) -> None:
    """Each dy is added to dx where its window of x has its maximum: the first of equals, or the first NaN."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    d, od, kd, sd, dd, pd = depth
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        cols = min(W, c - c0)
        volume = at(x, n * d * h * width * c + c0)
        target = at(dx, n * d * h * width * c + c0)
        source = at(dy, n * od * oh * ow * c + c0)
        for i in range(d * h * width):
            put(target, i * c, splat(0.0), cols)
        for line in range(od * oh):
            oz = line // oh
            iz0 = oz * sd - pd
            iy0 = (line - oz * oh) * sh - ph
            kz0, kz1 = inside(iz0, kd, dd, d)
            ky0, ky1 = inside(iy0, kh, dh, h)
            for ox in range(ow):
                ix0 = ox * sw - pw
                kx0, kx1 = inside(ix0, kw, dw, width)
                corner = (iz0 * h + iy0) * width + ix0
                best = splat(-INF)
                place = splat(-1.0)
                for kz in range(kz0, kz1):
                    for ky in range(ky0, ky1):
                        row = corner + (kz * dd * h + ky * dh) * width
                        for kx in range(kx0, kx1):
                            v = get(volume, (row + kx * dw) * c, cols)
                            better = (v > best) | (place < 0) | ((v != v) & (best == best))
                            best = where(better, v, best)
                            place = where(better, splat((kz * kh + ky) * kw + kx), place)
                slope = get(source, (line * ow + ox) * c, cols)
                for kz in range(kz0, kz1):
                    for ky in range(ky0, ky1):
                        row = corner + (kz * dd * h + ky * dh) * width
                        for kx in range(kx0, kx1):
                            i = (row + kx * dw) * c
                            here = place == splat((kz * kh + ky) * kw + kx)
                            put(target, i, get(target, i, cols) + where(here, slope, 0.0), cols)


@kernel
def average_pool_grad(
    dy: Floats,
    dx: Floats,
    image: DenseImage,
    window: Window,
    depth: Depth,
    divisor: Divisor,
    padded_d: Int,
    divided: Int,
    first: Int,
    last: Int,
) -> None:
    """Each dy, divided as `volume.average_pool` divides where ``divided`` is 1, is added to all cells of its window."""
    h, width, c, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    d, od, kd, sd, dd, pd = depth
    padded_h, padded_w, count_pad = divisor
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        cols = min(W, c - c0)
        target = at(dx, n * d * h * width * c + c0)
        source = at(dy, n * od * oh * ow * c + c0)
        for i in range(d * h * width):
            put(target, i * c, splat(0.0), cols)
        for line in range(od * oh):
            oz = line // oh
            iz0 = oz * sd - pd
            iy0 = (line - oz * oh) * sh - ph
            kz0, kz1 = inside(iz0, kd, dd, d)
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
                if divided == 0:
                    count = 1
                slope = get(source, (line * ow + ox) * c, cols) / count
                for kz in range(kz0, kz1):
                    for ky in range(ky0, ky1):
                        row = ((iz0 + kz * dd) * h + iy0 + ky * dh) * width + ix0
                        for kx in range(kx0, kx1):
                            i = (row + kx * dw) * c
                            put(target, i, get(target, i, cols) + slope, cols)
