"""Windows of volumes (an image is one of depth 1) as columns, and columns added into volumes. Both lie as ONNX has them."""

from nbconv.kernels.params import DenseImage, Window
from nbconv.kernels.sampling_params import Depth

from ._simd import Float, Floats, Int, W, at, get, inline, kernel, put, splat


@inline
def _met(k, shift, stride, size, out):
    """[first, end) of the windows along an axis whose cell at k, ``shift`` from where they begin, lies inside."""
    i = k + shift
    begin = 0 if i >= 0 else (stride - 1 - i) // stride
    end = 0 if i >= size else (size - 1 - i) // stride + 1
    return min(begin, out), max(min(begin, out), min(end, out))


@kernel
def col2im(x: Floats, y: Floats, image: DenseImage, window: Window, depth: Depth, first: Int, last: Int) -> None:
    """y (n, c, d, h, width) adds up the cells of x (n, c, kd, kh, kw, od, oh, ow) that lie in it. A unit is a volume."""
    h, width, _, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    d, od, kd, sd, dd, pd = depth
    size = d * h * width
    for unit in range(first, last):
        volume = at(y, unit * size)
        for i in range(0, size, W):
            put(volume, i, splat(0.0), size - i)
        for kz in range(kd):
            z0, z1 = _met(kz * dd, -pd, sd, d, od)
            for ky in range(kh):
                y0, y1 = _met(ky * dh, -ph, sh, h, oh)
                for kx in range(kw):
                    x0, x1 = _met(kx * dw, -pw, sw, width, ow)
                    cells = at(x, (((unit * kd + kz) * kh + ky) * kw + kx) * od * oh * ow)
                    for oz in range(z0, z1):
                        for oy in range(y0, y1):
                            row = at(cells, (oz * oh + oy) * ow)
                            line = (oz * sd + kz * dd - pd) * h + oy * sh + ky * dh - ph
                            target = at(volume, line * width + kx * dw - pw)
                            if sw == 1:
                                for ox in range(x0, x1, W):
                                    put(target, ox, get(target, ox, x1 - ox) + get(row, ox, x1 - ox), x1 - ox)
                            else:
                                for ox in range(x0, x1):
                                    target[ox * sw] = target[ox * sw] + row[ox]


@kernel
def im2col(x: Floats, y: Floats, image: DenseImage, window: Window, depth: Depth, first: Int, last: Int) -> None:
    """y (n, c, kd, kh, kw, od, oh, ow) has the cells of x (n, c, d, h, width) that each window sees, 0 outside of it. A unit
    is a volume."""
    h, width, _, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    d, od, kd, sd, dd, pd = depth
    for unit in range(first, last):
        volume = at(x, unit * d * h * width)
        for tap in range(kd * kh * kw):
            plane = tap // kw
            kx = tap - plane * kw
            kz = plane // kh
            ky = plane - kz * kh
            x0, x1 = _met(kx * dw, -pw, sw, width, ow)
            for line in range(od * oh):
                oz = line // oh
                iz = oz * sd + kz * dd - pd
                iy = (line - oz * oh) * sh + ky * dh - ph
                there = 0 <= iz and iz < d and 0 <= iy and iy < h
                row = at(y, ((unit * kd * kh * kw + tap) * od * oh + line) * ow)
                source = at(volume, (iz * h + iy) * width + kx * dw - pw)
                for ox in range(ow):
                    row[ox] = source[ox * sw] if there and x0 <= ox and ox < x1 else Float(0.0)
