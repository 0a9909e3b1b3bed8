"""Depthwise convolutions of 8-bit integers, channels last, of at least W channels."""

from nbconv.kernels.params import DenseImage, Window
from nbconv.kernels.quantised_params import Requantise

from ._dot import VNNI
from ._map import called
from ._simd import Bytes, Int, Int32s, W, address, at, stack_ints
from ._slide import make_slide


def _depthwise(kh_, kw_, stride, size):
    slide = make_slide(kh_, kw_, stride, size)

    def depthwise(
        x: Bytes,
        w: Int32s,
        bias: Int32s,
        y: Bytes,
        padding: Bytes,
        image: DenseImage,
        window: Window,
        padded: Int,
        to8: Requantise,
        first: Int,
        last: Int,
    ) -> None:
        """y[n, oy, ox, :] = Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx, :]·w + bias, quantised.

        w is [kx][word][padded]; padding holds W zero points of x. A unit is a row of an image.
        """
        h, width, c, oh, ow = image
        _, _, sh, _, dh, _, ph, pw = window
        scale, low, high, zero_point, flip, x_zero, _ = to8
        rows = stack_ints(8)
        steps = stack_ints(8)
        for unit in range(first, last):
            n = unit // oh
            oy = unit - n * oh
            c0 = 0
            while c0 < c:
                at_c = min(c0, c - W)
                for r in range(kh_):
                    iy = oy * sh - ph + r * dh
                    if 0 <= iy and iy < h:
                        rows[r] = address(x, (n * h + iy) * width * c + at_c)
                        steps[r] = c
                    else:
                        rows[r] = address(padding, 0)
                        steps[r] = 0
                slide(
                    rows, steps, -pw, width, ow, at(w, at_c), padded, at(bias, at_c), at(scale, at_c), low, high,
                    zero_point, x_zero, flip, at(y, unit * ow * c + at_c), c,
                )  # fmt: skip
                c0 += W

    kind = "bytes" if size == 1 else "shorts"
    return called(f"{kind}_{kh_}x{kw_}_{stride}", depthwise, __name__)


shorts_3x3_1, shorts_3x3_2 = _depthwise(3, 3, 1, 2), _depthwise(3, 3, 2, 2)
shorts_5x5_1, shorts_5x5_2 = _depthwise(5, 5, 1, 2), _depthwise(5, 5, 2, 2)
shorts_1x3_1, shorts_1x3_2 = _depthwise(1, 3, 1, 2), _depthwise(1, 3, 2, 2)
if VNNI:
    bytes_3x3_1, bytes_3x3_2 = _depthwise(3, 3, 1, 1), _depthwise(3, 3, 2, 1)
    bytes_5x5_1, bytes_5x5_2 = _depthwise(5, 5, 1, 1), _depthwise(5, 5, 2, 1)
    bytes_1x3_1, bytes_1x3_2 = _depthwise(1, 3, 1, 1), _depthwise(1, 3, 2, 1)
