"""8-bit integers of one scale and zero point: to and from float32, and element by element."""

from nbconv.kernels.params import Image, Rows, RowStrides, Window
from nbconv.kernels.quantised_params import Combination, Line, Requantise

from ._bytes import (
    load_bytes,
    load_bytes_part,
    store_bytes,
    store_pixels_3,
    store_pixels_4,
    times,
)
from ._map import called
from ._simd import (
    Bytes,
    Float,
    Floats,
    Int,
    W,
    at,
    get,
    inline,
    kernel,
    put,
    splat,
    spread,
)
from ._table import TABLED, look_up_part
from ._window import inside


@inline
def _bytes(x, i, flip, n):
    """The first n, W at most, of the integers at x[i:]."""
    return load_bytes(x, i, flip) if n >= W else load_bytes_part(x, i, flip, n)


@kernel
def quantize(
    x: Floats, y: Bytes, line: Line, scale: Float, low: Float, high: Float, zero_point: Int, first: Int, last: Int
) -> None:
    """y = x / scale, limited to low … high, rounded, plus zero_point. A unit is ``chunk``
    elements."""
    for i in range(first * line.chunk, min(last * line.chunk, line.n), W):
        left = line.n - i
        store_bytes(y, i, get(x, i, left) / splat(scale), low, high, zero_point, left)


@kernel
def quantize_pixels(
    x: Floats,
    y: Bytes,
    line: Line,
    channels: Int,
    scale: Float,
    low: Float,
    high: Float,
    zero_point: Int,
    first: Int,
    last: Int,
) -> None:
    """That of images of ``line.n`` pixels, 3 or 4 ``channels``, which x has first and y last. A
    unit is ``chunk`` pixels of an image."""
    n, chunk = line
    blocks = (n + chunk - 1) // chunk
    for unit in range(first, last):
        image = unit // blocks
        begin = (unit - image * blocks) * chunk
        a = at(x, image * channels * n)
        b, c, d = at(a, n), at(a, 2 * n), at(a, (channels - 1) * n)
        to = at(y, image * channels * n)
        for i in range(begin, min(begin + chunk, n), W):
            left = n - i
            va, vb = get(a, i, left) / splat(scale), get(b, i, left) / splat(scale)
            vc = get(c, i, left) / splat(scale)
            if channels == 3:
                store_pixels_3(to, i, va, vb, vc, low, high, zero_point, left)
            else:
                vd = get(d, i, left) / splat(scale)
                store_pixels_4(to, i, va, vb, vc, vd, low, high, zero_point, left)


@kernel
def dequantize(x: Bytes, y: Floats, line: Line, scale: Float, zero_point: Float, flip: Int, first: Int, last: Int) -> None:
    """y = (x - zero_point) · scale, where ``flip`` makes x unsigned, the zero point being of that.
    A unit is ``chunk`` elements."""
    for i in range(first * line.chunk, min(last * line.chunk, line.n), W):
        left = line.n - i
        put(y, i, (_bytes(x, i, flip, left) - splat(zero_point)) * splat(scale), left)


@kernel
def look_up(x: Bytes, y: Bytes, table: Bytes, line: Line, first: Int, last: Int) -> None:
    """y = table[x]. A unit is ``chunk`` elements."""
    i0 = first * line.chunk
    end = min(last * line.chunk, line.n)
    if TABLED > 0:
        while i0 + TABLED <= end:
            look_up_part(x, y, i0, table)
            i0 += TABLED
    for e in spread(end - i0):
        y[i0 + e] = table[x[i0 + e]]


@inline
def _row(unit, rows, strides):
    """Where row ``unit`` of an operand begins."""
    ij = unit // rows.d2
    i = ij // rows.d1
    return i * strides.s0 + (ij - i * rows.d1) * strides.s1 + (unit - ij * rows.d2) * strides.s2


def _combination(formula, name):
    combine = inline(formula)

    def combination(
        a: Bytes,
        b: Bytes,
        y: Bytes,
        rows: Rows,
        a_strides: RowStrides,
        b_strides: RowStrides,
        numbers: Combination,
        flip: Int,
        zero_point: Int,
        first: Int,
        last: Int,
    ) -> None:
        """y = formula of what a and b stand for, quantised. A unit is a row, whose elements follow
        each other or are one."""
        az, sa, bz, sb, scale, _, low, high = numbers
        ai, bi = a_strides.element, b_strides.element
        for unit in range(first, last):
            pa = at(a, _row(unit, rows, a_strides))
            pb = at(b, _row(unit, rows, b_strides))
            py = unit * rows.n
            end = min(rows.n, rows.total - py)
            va = splat(Float(pa[0] ^ flip))
            vb = splat(Float(pb[0] ^ flip))
            for e in range(0, end, W):
                left = end - e
                if ai == 1:
                    va = _bytes(pa, e, flip, left)
                if bi == 1:
                    vb = _bytes(pb, e, flip, left)
                v = combine((va - splat(az)) * splat(sa), (vb - splat(bz)) * splat(sb))
                store_bytes(y, py + e, v / splat(scale), low, high, zero_point, left)

    return called(name, combination, __name__)


add, mul = _combination(lambda a, b: a + b, "add"), _combination(lambda a, b: a * b, "mul")


@kernel
def global_average(
    x: Bytes, y: Bytes, pixels: Int, c: Int, ldx: Int, to8: Requantise, scale: Float, first: Int, last: Int
) -> None:
    """y[n, :] = Σ (x[n, pixel, :] - x_zero) · scale, quantised. A unit is W channels of an
    image."""
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        left = c - c0
        total = splat(Float(0))
        for i in range(pixels):
            total = total + _bytes(at(x, (n * pixels + i) * ldx), c0, to8.flip, left)
        total = total - splat(Float(to8.x_zero * pixels))
        store_bytes(y, n * c + c0, total * splat(scale), to8.low, to8.high, to8.zero_point, left)


@kernel
def average_pool(
    x: Bytes,
    y: Bytes,
    image: Image,
    window: Window,
    cells: Int,
    x_scale: Float,
    scale: Float,
    to8: Requantise,
    first: Int,
    last: Int,
) -> None:
    """y = Σ (x - x_zero) · x_scale / ``cells``, of 0 the window's that are in the image, quantised
    as onnxruntime does: the zero point is added before what comes of it is rounded. A unit is a row
    of an image."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    for unit in range(first, last):
        n = unit // oh
        iy0 = (unit - n * oh) * sh - ph
        ky0, ky1 = inside(iy0, kh, dh, h)
        for ox in range(ow):
            ix0 = ox * sw - pw
            kx0, kx1 = inside(ix0, kw, dw, width)
            count = cells if cells > 0 else (ky1 - ky0) * (kx1 - kx0)
            for c0 in range(0, c, W):
                left = c - c0
                total = splat(Float(0))
                for ky in range(ky0, ky1):
                    row = at(x, ((n * h + iy0 + ky * dh) * width + ix0) * ldx)
                    for kx in range(kx0, kx1):
                        v = _bytes(at(row, kx * dw * ldx), c0, to8.flip, left) - splat(Float(to8.x_zero))
                        total = total + times(v, splat(x_scale))
                v = total / count / splat(scale) + splat(Float(to8.zero_point))
                store_bytes(y, (unit * ow + ox) * ldy + c0, v, to8.low, to8.high, 0, left)
