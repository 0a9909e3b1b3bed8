"""What deformable convolutions read, a column of samples a pixel, which a product with the weights
follows; and its gradients."""

from nbconv.kernels.params import Image, Window
from nbconv.kernels.sampling_params import Offsets

from ._simd import Float, Floats, Int, W, at, get, hsum, inline, kernel, put, splat, stack_floats, stack_ints

FAR = 16777216.0
"""Cells from x beyond which a place is moved to there, so that it is an integer; NaN, too."""


@inline
def _corners(py, px, h, width, ldx, places, parts, which):
    """The cells around a place that lie inside: how many, the floats before each, its weight, and which of the four it is;
    how far the place is from the first."""
    py = py if py > Float(-FAR) else Float(-FAR)
    py = py if py < Float(FAR) else Float(FAR)
    px = px if px > Float(-FAR) else Float(-FAR)
    px = px if px < Float(FAR) else Float(FAR)
    y0, x0 = Int(py), Int(px)  # pyright: ignore[reportArgumentType] - Numba casts
    y0 = y0 - 1 if Float(y0) > py else y0
    x0 = x0 - 1 if Float(x0) > px else x0
    ty, tx = py - Float(y0), px - Float(x0)
    count = 0
    for k in range(4):
        y, x = y0 + k // 2, x0 + k % 2
        if y >= 0 and y < h and x >= 0 and x < width:
            places[count] = (y * width + x) * ldx
            parts[count] = (ty if k >= 2 else Float(1.0) - ty) * (tx if k % 2 == 1 else Float(1.0) - tx)
            which[count] = k
            count += 1
    return count, ty, tx


@kernel
def columns(
    x: Floats,
    offset: Floats,
    mask: Floats,
    y: Floats,
    image: Image,
    window: Window,
    offsets: Offsets,
    first: Int,
    last: Int,
) -> None:
    """y[n, oy, ox, g, t, :] = mask · x[n, place of tap t + offset, channels of g], ``ldy`` floats a
    pixel; offset (n, group, t, 2, oh, ow) and mask (n, group, t, oh, ow) are those of an offset
    group of channels. A unit is a row of pixels."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    groups, offset_groups, masked = offsets
    places, parts, which = stack_ints(4), stack_floats(4), stack_ints(4)
    taps = kh * kw
    per_group, per_offset = c // groups, c // offset_groups
    for unit in range(first, last):
        n = unit // oh
        oy = unit - n * oh
        for ox in range(ow):
            for ot in range(offset_groups * taps):
                o = ot // taps
                t = ot - o * taps
                ky = t // kw
                kx = t - ky * kw
                plane = (n * offset_groups * taps + ot) * oh * ow
                here = oy * ow + ox
                py = Float(oy * sh - ph + ky * dh) + offset[2 * plane + here]
                px = Float(ox * sw - pw + kx * dw) + offset[2 * plane + oh * ow + here]
                count, _, _ = _corners(py, px, h, width, ldx, places, parts, which)
                factor = mask[plane + here] if masked == 1 else Float(1.0)
                c0 = o * per_offset
                end = c0 + per_offset
                while c0 < end:
                    g = c0 // per_group
                    cols = min(W, min(end, (g + 1) * per_group) - c0)
                    total = splat(0.0)
                    for k in range(count):
                        total = total + get(x, n * h * width * ldx + places[k] + c0, cols) * splat(parts[k])
                    target = (unit * ow + ox) * ldy + (g * taps + t) * per_group + c0 - g * per_group
                    put(y, target, total * splat(factor), cols)
                    c0 += cols


@kernel
def columns_grad(
    dy: Floats,
    offset: Floats,
    mask: Floats,
    dx: Floats,
    image: Image,
    window: Window,
    offsets: Offsets,
    first: Int,
    last: Int,
) -> None:
    """dy, which lies as y of `columns`, to the cells of dx that were read, by their weights. A unit is a plane of one image,
    a vector of channels wide."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    groups, offset_groups, masked = offsets
    places, parts, which = stack_ints(4), stack_floats(4), stack_ints(4)
    taps = kh * kw
    per_group, per_offset = c // groups, c // offset_groups
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        end = min(c, c0 + W)
        plane = at(dx, n * h * width * ldx)
        for i in range(h * width):
            put(plane, i * ldx + c0, splat(0.0), end - c0)
        while c0 < end:
            o = c0 // per_offset
            g = c0 // per_group
            cols = min(end, (g + 1) * per_group, (o + 1) * per_offset) - c0
            for t in range(taps):
                ky = t // kw
                kx = t - ky * kw
                here = (n * offset_groups * taps + o * taps + t) * oh * ow
                column = at(dy, n * oh * ow * ldy + (g * taps + t) * per_group + c0 - g * per_group)
                for p in range(oh * ow):
                    oy = p // ow
                    py = Float(oy * sh - ph + ky * dh) + offset[2 * here + p]
                    px = Float((p - oy * ow) * sw - pw + kx * dw) + offset[2 * here + oh * ow + p]
                    count, _, _ = _corners(py, px, h, width, ldx, places, parts, which)
                    slope = get(column, p * ldy, cols) * splat(mask[here + p] if masked == 1 else Float(1.0))
                    for k in range(count):
                        i = places[k] + c0
                        put(plane, i, get(plane, i, cols) + slope * splat(parts[k]), cols)
            c0 += cols


@kernel
def offset_grad(
    dy: Floats,
    x: Floats,
    offset: Floats,
    mask: Floats,
    doffset: Floats,
    dmask: Floats,
    image: Image,
    window: Window,
    offsets: Offsets,
    first: Int,
    last: Int,
) -> None:
    """The gradients of `columns` by offset and mask, from dy, which lies as its y. A unit is a row of pixels."""
    h, width, ldx, c, ldy, oh, ow = image
    kh, kw, sh, sw, dh, dw, ph, pw = window
    groups, offset_groups, masked = offsets
    places, parts, which = stack_ints(4), stack_floats(4), stack_ints(4)
    taps = kh * kw
    per_group, per_offset = c // groups, c // offset_groups
    for unit in range(first, last):
        n = unit // oh
        oy = unit - n * oh
        for ot in range(offset_groups * taps):
            o = ot // taps
            t = ot - o * taps
            ky = t // kw
            kx = t - ky * kw
            plane = (n * offset_groups * taps + ot) * oh * ow
            for ox in range(ow):
                here = oy * ow + ox
                py = Float(oy * sh - ph + ky * dh) + offset[2 * plane + here]
                px = Float(ox * sw - pw + kx * dw) + offset[2 * plane + oh * ow + here]
                count, ty, tx = _corners(py, px, h, width, ldx, places, parts, which)
                down = Float(0.0)
                across = Float(0.0)
                weight = Float(0.0)
                for k in range(count):
                    total = splat(0.0)
                    c0 = o * per_offset
                    end = c0 + per_offset
                    while c0 < end:
                        g = c0 // per_group
                        cols = min(W, min(end, (g + 1) * per_group) - c0)
                        place = (unit * ow + ox) * ldy + (g * taps + t) * per_group + c0 - g * per_group
                        total = total + get(x, n * h * width * ldx + places[k] + c0, cols) * get(dy, place, cols)
                        c0 += cols
                    seen = hsum(total)
                    low = which[k] < 2
                    left = which[k] % 2 == 0
                    down += seen * ((tx - Float(1.0) if left else -tx) if low else (Float(1.0) - tx if left else tx))
                    across += seen * ((ty - Float(1.0) if low else -ty) if left else (Float(1.0) - ty if low else ty))
                    weight += seen * parts[k]
                factor = mask[plane + here] if masked == 1 else Float(1.0)
                doffset[2 * plane + here] = down * factor
                doffset[2 * plane + oh * ow + here] = across * factor
                dmask[plane + here] = weight
