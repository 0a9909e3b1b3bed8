"""Elements of 1, 2 and 8 bytes, moved as they are; those of 4 bytes go through move.py, gather.py and resize.py.

A kernel is called by what it does and the bytes of an element: `copy_2` moves float16 and int16 alike.
"""

from nbconv.kernels.params import Extents, Image, Strides

from ._map import called
from ._simd import Bytes, Float, Floats, Int, Int32s, Ints, Shorts, at, kernel, spread


def _copy(of, size):
    def copy(x: of, y: of, extents: Extents, x_strides: Strides, y_strides: Strides, first: Int, last: Int) -> None:
        """y[…] = x[…] over n0 × n1 × n2 × n3 × n4 elements, strides in elements; a unit is one (i0, i1, i2)."""
        n1, n2, n3, n4 = extents
        x0, x1, x2, x3, x4 = x_strides
        y0, y1, y2, y3, y4 = y_strides
        for unit in range(first, last):
            ij = unit // n2
            k = unit - ij * n2
            i = ij // n1
            j = ij - i * n1
            source = at(x, i * x0 + j * x1 + k * x2)
            target = at(y, i * y0 + j * y1 + k * y2)
            if x4 == 1 and y4 == 1:
                for r in range(n3):
                    for s in spread(n4):
                        target[r * y3 + s] = source[r * x3 + s]
            else:
                for r0 in range(0, n3, 16):
                    for s0 in range(0, n4, 16):
                        for r in range(r0, min(r0 + 16, n3)):
                            for s in range(s0, min(s0 + 16, n4)):
                                target[r * y3 + s * y4] = source[r * x3 + s * x4]

    return called(f"copy_{size}", copy, __name__)


def _fill(of, size):
    def fill(y: of, n: Int, chunk: Int, value: Int, first: Int, last: Int) -> None:
        """y[0:n] = value, whose low bytes are an element's; a unit is ``chunk`` elements."""
        i0 = first * chunk
        for e in spread(min(last * chunk, n) - i0):
            y[i0 + e] = value

    return called(f"fill_{size}", fill, __name__)


def _gather(of, size):
    def gather(x: of, y: of, places: Ints, count: Int, size: Int, inner: Int, first: Int, last: Int) -> None:
        """y[o, t, :] = x[o, places[t], :], x is (outer, size, inner); a unit is one (o, t)."""
        for unit in range(first, last):
            o = unit // count
            source = at(x, (o * size + places[unit - o * count]) * inner)
            target = at(y, unit * inner)
            for i in spread(inner):
                target[i] = source[i]

    return called(f"gather_{size}", gather, __name__)


def _nearest(of, size):
    def nearest(x: of, y: of, rows: Ints, columns: Ints, image: Image, first: Int, last: Int) -> None:
        """y[n, i, j, :] = x[n, rows[i], columns[j], :] of channels-last images; a unit is an output row."""
        h, width, ldx, c, ldy, oh, ow = image
        for unit in range(first, last):
            n = unit // oh
            source = at(x, (n * h + rows[unit - n * oh]) * width * ldx)
            for j in range(ow):
                pixel = at(source, columns[j] * ldx)
                target = at(y, (unit * ow + j) * ldy)
                for i in spread(c):
                    target[i] = pixel[i]

    return called(f"nearest_{size}", nearest, __name__)


copy_1, copy_2, copy_8 = _copy(Bytes, 1), _copy(Shorts, 2), _copy(Ints, 8)
fill_1, fill_2, fill_4, fill_8 = _fill(Bytes, 1), _fill(Shorts, 2), _fill(Int32s, 4), _fill(Ints, 8)
gather_1, gather_2, gather_8 = _gather(Bytes, 1), _gather(Shorts, 2), _gather(Ints, 8)
nearest_1, nearest_2, nearest_8 = _nearest(Bytes, 1), _nearest(Shorts, 2), _nearest(Ints, 8)


@kernel
def pick(x: Floats, y: Floats, places: Ints, count: Int, size: Int, pixels: Int, total: Int, first: Int, last: Int) -> None:
    """y[p, t] = x[p, places[t]], x is (total, size), y (total, count); a unit is ``pixels`` of p."""
    for p in range(first * pixels, min(last * pixels, total)):
        for t in range(count):
            y[p * count + t] = x[p * size + places[t]]


@kernel
def grad_mask(x: Floats, y: Bytes, n: Int, chunk: Int, low: Float, high: Float, first: Int, last: Int) -> None:
    """y = 1 where x ≤ low or x ≥ high, else 0; a unit is ``chunk`` elements."""
    i0 = first * chunk
    for e in spread(min(last * chunk, n) - i0):
        y[i0 + e] = (x[i0 + e] <= low) | (x[i0 + e] >= high)


@kernel
def masked_grad(dy: Floats, mask: Bytes, y: Floats, n: Int, chunk: Int, first: Int, last: Int) -> None:
    """y = dy, 0 where the mask is not 0; a unit is ``chunk`` elements."""
    i0 = first * chunk
    for e in spread(min(last * chunk, n) - i0):
        y[i0 + e] = dy[i0 + e] if mask[i0 + e] == 0 else Float(0)
