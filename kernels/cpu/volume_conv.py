"""Depthwise convolutions over channels-last volumes, and transposed ones by their phases."""

from nbconv.kernels.params import Epilogue, Extents, Strides
from nbconv.kernels.sampling_params import Taps

from ._epilogue import activate, epilogue_from
from ._simd import Floats, Int, W, address, at, get, inline, kernel, load, maximum, minimum, put

STRIP = 8
"""Pixels of a row whose sums are held in registers together."""


@kernel
def depthwise(
    x: Floats,
    w: Floats,
    b: Floats,
    y: Floats,
    extents: Extents,
    x_strides: Strides,
    y_strides: Strides,
    taps: Taps,
    padded: Int,
    epilogue: Epilogue,
    first: Int,
    last: Int,
) -> None:
    """y[n, z, i, j, k] = act(clamp(Σ x[n, z, i, j, tap, k]·w[tap, k] + b[k])) for (z, i, j, k) of ``extents``: each pixel's
    taps, which all lie inside of x, are ``taps.z``, ``.y`` and ``.x`` floats apart.

    w (kd, kh, kw, padded), b, scale and shift (padded) are zero past the channels. A unit is a row of y. A strip at its end
    begins earlier, and makes some pixels again.
    """
    od, oh, ow, c = extents
    xn, xz, xy, xx, _ = x_strides
    yn, yz, yy, yx, _ = y_strides
    for unit in range(first, last):
        plane = unit // oh
        n = plane // od
        i = unit - plane * oh
        z = plane - n * od
        source = at(x, n * xn + z * xz + i * xy)
        target = at(y, n * yn + z * yz + i * yy)
        for c0 in range(0, c, W):
            done = epilogue_from(epilogue, c0)
            cols = min(W, c - c0)
            if ow < STRIP:
                for j in range(ow):
                    _pixel(
                        at(source, j * xx + c0), at(w, c0), load(b, c0), at(target, j * yx + c0), taps, padded, done, cols
                    )
            else:
                j = 0
                while j < ow:
                    j = min(j, ow - STRIP)
                    here = at(source, j * xx + c0)
                    there = at(target, j * yx + c0)
                    if cols == W:
                        _strip(here, at(w, c0), load(b, c0), there, xx, yx, taps, padded, done, W)
                    else:
                        _strip(here, at(w, c0), load(b, c0), there, xx, yx, taps, padded, done, cols)
                    j += STRIP
            if epilogue.act != 0 or address(epilogue.scale, 0) != 0:
                for j in range(ow):
                    activate(done, at(target, j * yx + c0), cols)


@inline
def _clamped(y, i, total, epilogue, cols):
    put(y, i, minimum(maximum(total, epilogue.low), epilogue.high), cols)


@inline
def _pixel(x, w, bias, y, taps, padded, epilogue, cols):
    kd, kh, kw, tz, ty, tx = taps
    total = bias
    for kz in range(kd):
        for ky in range(kh):
            row = at(x, kz * tz + ky * ty)
            filters = at(w, (kz * kh + ky) * kw * padded)
            for kx in range(kw):
                total = total + get(row, kx * tx, cols) * load(filters, kx * padded)
    _clamped(y, 0, total, epilogue, cols)


@inline
def _strip(x, w, bias, y, xx, yx, taps, padded, epilogue, cols):
    kd, kh, kw, tz, ty, tx = taps
    s0 = bias
    s1 = bias
    s2 = bias
    s3 = bias
    s4 = bias
    s5 = bias
    s6 = bias
    s7 = bias
    for kz in range(kd):
        for ky in range(kh):
            row = at(x, kz * tz + ky * ty)
            filters = at(w, (kz * kh + ky) * kw * padded)
            for kx in range(kw):
                v = load(filters, kx * padded)
                tap = at(row, kx * tx)
                s0 = s0 + get(tap, 0, cols) * v
                s1 = s1 + get(tap, xx, cols) * v
                s2 = s2 + get(tap, 2 * xx, cols) * v
                s3 = s3 + get(tap, 3 * xx, cols) * v
                s4 = s4 + get(tap, 4 * xx, cols) * v
                s5 = s5 + get(tap, 5 * xx, cols) * v
                s6 = s6 + get(tap, 6 * xx, cols) * v
                s7 = s7 + get(tap, 7 * xx, cols) * v
    _clamped(y, 0, s0, epilogue, cols)
    _clamped(y, yx, s1, epilogue, cols)
    _clamped(y, 2 * yx, s2, epilogue, cols)
    _clamped(y, 3 * yx, s3, epilogue, cols)
    _clamped(y, 4 * yx, s4, epilogue, cols)
    _clamped(y, 5 * yx, s5, epilogue, cols)
    _clamped(y, 6 * yx, s6, epilogue, cols)
    _clamped(y, 7 * yx, s7, epilogue, cols)
