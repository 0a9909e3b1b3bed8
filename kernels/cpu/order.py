"""What needs an order and no arithmetic, of element types that are no float32: Relu, Clip and
max-pooling.

Integers are their own order.
A float16 is compared by `_rank`, an integer that rises with it: -0 and 0 have one, and every NaN
has the greatest, so that NaN stays.
What is stored is an element that was read, its bits unchanged.
"""

from nbconv.kernels.params import Image, Window

from ._map import called
from ._simd import Bytes, Int, Int8s, Int32s, Ints, Shorts, at, inline, spread
from ._window import inside


@inline
def _rank(bits):
    """An integer that rises with the float16 of these bits."""
    size = Int(bits) & 0x7FFF
    if size > 0x7C00:
        return 0x7FFF
    return -size if Int(bits) & 0x8000 else size


@inline
def _itself(value):
    return Int(value)


def _relu(of, rank, name):
    def relu(x: of, y: of, n: Int, chunk: Int, first: Int, last: Int) -> None:
        """y = max(x, 0); a unit is ``chunk`` elements."""
        i0 = first * chunk
        for e in spread(min(last * chunk, n) - i0):
            v = x[i0 + e]
            y[i0 + e] = 0 if rank(v) < 0 else v

    return called(f"relu_{name}", relu, __name__)


def _clip(of, name):
    element = of.dtype

    def clip(x: of, y: of, n: Int, chunk: Int, low: Int, high: Int, first: Int, last: Int) -> None:
        """y = min(max(x, low), high), for limits that the element type has; a unit is ``chunk``
        elements."""
        i0, lowest, highest = first * chunk, element(low), element(high)
        for e in spread(min(last * chunk, n) - i0):
            y[i0 + e] = min(max(x[i0 + e], lowest), highest)

    return called(f"clip_{name}", clip, __name__)


def _max_pool(of, rank, name):
    def max_pool(
        x: of,
        y: of,
        image: Image,
        window: Window,
        lowest: Int,
        first: Int,
        last: Int,
    ) -> None:
        """Largest value of each window of a channels-last image, the first of equals; ``lowest``
        (its bits) where a window holds none.
        A unit is an output row."""
        h, width, ldx, c, ldy, oh, ow = image
        kh, kw, sh, sw, dh, dw, ph, pw = window
        for unit in range(first, last):
            n = unit // oh
            iy0 = (unit - n * oh) * sh - ph
            ky0, ky1 = inside(iy0, kh, dh, h)
            for ox in range(ow):
                ix0 = ox * sw - pw
                kx0, kx1 = inside(ix0, kw, dw, width)
                target = at(y, (unit * ow + ox) * ldy)
                for i in spread(c):
                    target[i] = lowest
                for ky in range(ky0, ky1):
                    for kx in range(kx0, kx1):
                        pixel = at(x, ((n * h + iy0 + ky * dh) * width + ix0 + kx * dw) * ldx)
                        begins = ky == ky0 and kx == kx0
                        for i in spread(c):
                            v, best = pixel[i], target[i]
                            target[i] = v if begins or rank(v) > rank(best) else best

    return called(f"max_pool_{name}", max_pool, __name__)


relu_float16, relu_int8 = _relu(Shorts, _rank, "float16"), _relu(Int8s, _itself, "int8")
relu_int32, relu_int64 = _relu(Int32s, _itself, "int32"), _relu(Ints, _itself, "int64")
clip_int8, clip_uint8 = _clip(Int8s, "int8"), _clip(Bytes, "uint8")
clip_int32, clip_int64 = _clip(Int32s, "int32"), _clip(Ints, "int64")
max_pool_float16 = _max_pool(Shorts, _rank, "float16")
max_pool_int8, max_pool_uint8 = _max_pool(Int8s, _itself, "int8"), _max_pool(Bytes, _itself, "uint8")
