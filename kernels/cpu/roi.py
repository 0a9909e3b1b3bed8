"""Regions of channels-last images as images of one size: RoiAlign, which samples linearly between cells, and MaxRoiPool."""

from nbconv.kernels.params import DenseImage, Image

from ._simd import Float, Floats, Int, Ints, W, at, get, inline, kernel, maximum, put, splat, where

LARGE = 1048576.0
"""Cells: a region that begins or ends beyond them is none."""
INF, NAN = float("inf"), float("nan")


@inline
def _bins(begin, end, scale, half, out, sampling):
    """A region along one axis: where it begins, cells of a bin, samples of a bin, and whether it is one."""
    shift = Float(0.5) if half == 1 else Float(0.0)
    first = begin * scale - shift
    last = end * scale - shift
    good = first > Float(-LARGE) and first < Float(LARGE) and last > Float(-LARGE) and last < Float(LARGE)
    first = first if good else Float(0.0)
    size = last - first if good else Float(0.0)
    if half == 0 and size < Float(1.0):
        size = Float(1.0)
    step = size / Float(out)
    samples = sampling
    if sampling <= 0:
        samples = Int(step)
        if Float(samples) < step:
            samples += 1
    return first, step, max(samples, 0), good


@inline
def _between(v, size):
    """A sample along one axis: whether it counts, the cells around it, and how far it is from the first."""
    inside = v >= Float(-1.0) and v <= Float(size)
    v = v if inside and v > Float(0.0) else Float(0.0)
    low = min(Int(v), size - 1)  # pyright: ignore[reportArgumentType] - Numba casts
    high = min(low + 1, size - 1)
    part = v - Float(low) if high > low else Float(0.0)
    return inside, low, high, part


@kernel
def roi_align(
    x: Floats,
    rois: Floats,
    batches: Ints,
    y: Floats,
    image: Image,
    n: Int,
    scale: Float,
    half: Int,
    sampling: Int,
    greatest: Int,
    first: Int,
    last: Int,
) -> None:
    """y[r, oy, ox, :] is the mean, or the ``greatest`` of the four weighed cells, of the samples of a
    bin of region r; NaN for no region. A unit is a row of bins."""
    h, width, ldx, c, ldy, oh, ow = image
    for unit in range(first, last):
        r = unit // oh
        oy = unit - r * oh
        b = batches[r]
        left, across, gw, good = _bins(rois[4 * r], rois[4 * r + 2], scale, half, ow, sampling)
        top, down, gh, well = _bins(rois[4 * r + 1], rois[4 * r + 3], scale, half, oh, sampling)
        good = good and well and b >= 0 and b < n
        count = Float(max(gh * gw, 1))
        for ox in range(ow):
            bin = at(y, (unit * ow + ox) * ldy)
            for c0 in range(0, c, W):
                put(bin, c0, splat(0.0) if good else splat(NAN), c - c0)
            if good:
                for iy in range(gh):
                    py = top + Float(oy) * down + (Float(iy) + Float(0.5)) * down / Float(gh)
                    counts, y0, y1, ty = _between(py, h)
                    for ix in range(gw):
                        px = left + Float(ox) * across + (Float(ix) + Float(0.5)) * across / Float(gw)
                        inside, x0, x1, tx = _between(px, width)
                        whole = Float(1.0) if counts and inside else Float(0.0)
                        upper, lower = (b * h + y0) * width, (b * h + y1) * width
                        wu, wl = (Float(1.0) - ty) * whole, ty * whole
                        for c0 in range(0, c, W):
                            p = get(x, (upper + x0) * ldx + c0, c - c0) * splat(wu * (Float(1.0) - tx))
                            q = get(x, (upper + x1) * ldx + c0, c - c0) * splat(wu * tx)
                            s = get(x, (lower + x0) * ldx + c0, c - c0) * splat(wl * (Float(1.0) - tx))
                            t = get(x, (lower + x1) * ldx + c0, c - c0) * splat(wl * tx)
                            before = get(bin, c0, c - c0)
                            if greatest == 1:
                                most = maximum(maximum(p, q), maximum(s, t))
                                put(bin, c0, most if iy + ix == 0 else maximum(before, most), c - c0)
                            elif counts and inside:
                                put(bin, c0, before + (p + q + (s + t)), c - c0)
                if greatest == 0:
                    for c0 in range(0, c, W):
                        put(bin, c0, get(bin, c0, c - c0) / splat(count), c - c0)


@kernel
def roi_align_grad(
    dy: Floats,
    rois: Floats,
    batches: Ints,
    dx: Floats,
    image: DenseImage,
    regions: Int,
    scale: Float,
    half: Int,
    sampling: Int,
    first: Int,
    last: Int,
) -> None:
    """Each dy, by the weights of the mean, to the cells that its bin read. A unit is a plane of one
    image, a vector of channels wide: its cells have one owner."""
    h, width, c, oh, ow = image
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        plane = at(dx, n * h * width * c + c0)
        for i in range(h * width):
            put(plane, i * c, splat(0.0), c - c0)
        for r in range(regions):
            left, across, gw, good = _bins(rois[4 * r], rois[4 * r + 2], scale, half, ow, sampling)
            top, down, gh, well = _bins(rois[4 * r + 1], rois[4 * r + 3], scale, half, oh, sampling)
            if batches[r] == n and good and well:
                for o in range(oh * ow):
                    oy = o // ow
                    ox = o - oy * ow
                    slope = get(dy, (r * oh * ow + o) * c + c0, c - c0) / splat(Float(max(gh * gw, 1)))
                    for i in range(gh * gw):
                        iy = i // gw
                        ix = i - iy * gw
                        py = top + Float(oy) * down + (Float(iy) + Float(0.5)) * down / Float(gh)
                        px = left + Float(ox) * across + (Float(ix) + Float(0.5)) * across / Float(gw)
                        counts, y0, y1, ty = _between(py, h)
                        inside, x0, x1, tx = _between(px, width)
                        if counts and inside:
                            for k in range(4):
                                cell = (y0 if k < 2 else y1) * width + (x0 if k % 2 == 0 else x1)
                                weight = (Float(1.0) - ty if k < 2 else ty) * (Float(1.0) - tx if k % 2 == 0 else tx)
                                put(plane, cell * c, get(plane, cell * c, c - c0) + slope * splat(weight), c - c0)


@inline
def _corner(v, scale):
    """A region's corner, rounded to a cell, half away from 0; and whether it is one."""
    place = v * scale
    good = place > Float(-LARGE) and place < Float(LARGE)
    place = place if good else Float(0.0)
    cell = Int(abs(place) + Float(0.5))
    return cell if place >= Float(0.0) else -cell, good


@inline
def _cells(begin, end, i, out, size):
    """[first, last) of the cells of bin i along an axis."""
    step = Float(max(end - begin + 1, 1)) / Float(out)
    low = Int(Float(i) * step)
    high = Float(i + 1) * step
    whole = Int(high)
    if Float(whole) < high:
        whole += 1
    first = min(max(low + begin, 0), size)
    return first, max(first, min(max(whole + begin, 0), size))


@kernel
def max_roi_pool(x: Floats, rois: Floats, y: Floats, image: Image, n: Int, scale: Float, first: Int, last: Int) -> None:
    """y[r, oy, ox, :] is the greatest of the cells of a bin of region r (image, x1, y1, x2, y2), NaN where one is, 0 of no
    cells; NaN for no region. A unit is a row of bins."""
    h, width, ldx, c, ldy, oh, ow = image
    for unit in range(first, last):
        r = unit // oh
        region = at(rois, 5 * r)
        x1, left = _corner(region[1], scale)
        y1, top = _corner(region[2], scale)
        x2, right = _corner(region[3], scale)
        y2, bottom = _corner(region[4], scale)
        there = region[0] >= Float(0.0) and region[0] < Float(n)
        good = left and top and right and bottom and there
        b = Int(region[0]) if there else 0
        iy0, iy1 = _cells(y1, y2, unit - r * oh, oh, h)
        for ox in range(ow):
            ix0, ix1 = _cells(x1, x2, ox, ow, width)
            for c0 in range(0, c, W):
                best = splat(-INF)
                nan = best != best
                for iy in range(iy0, iy1):
                    for ix in range(ix0, ix1):
                        v = get(x, ((b * h + iy) * width + ix) * ldx + c0, c - c0)
                        best = where(best > v, best, v)
                        nan = nan | (v != v)
                if iy0 == iy1 or ix0 == ix1:
                    best = splat(0.0)
                best = where(nan, NAN, best)
                put(y, (unit * ow + ox) * ldy + c0, best if good else splat(NAN), c - c0)


@kernel
def max_roi_pool_grad(
    dy: Floats,
    x: Floats,
    rois: Floats,
    dx: Floats,
    image: DenseImage,
    regions: Int,
    scale: Float,
    first: Int,
    last: Int,
) -> None:
    """Each dy to the cell that held its bin's maximum, the first of equals, or the first NaN. A unit is a plane of one
    image, a vector of channels wide."""
    h, width, c, oh, ow = image
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        plane = at(x, n * h * width * c + c0)
        target = at(dx, n * h * width * c + c0)
        for i in range(h * width):
            put(target, i * c, splat(0.0), c - c0)
        for r in range(regions):
            region = at(rois, 5 * r)
            x1, left = _corner(region[1], scale)
            y1, top = _corner(region[2], scale)
            x2, right = _corner(region[3], scale)
            y2, bottom = _corner(region[4], scale)
            here = region[0] >= Float(n) and region[0] < Float(n + 1)
            if left and top and right and bottom and here:
                for o in range(oh * ow):
                    oy = o // ow
                    iy0, iy1 = _cells(y1, y2, oy, oh, h)
                    ix0, ix1 = _cells(x1, x2, o - oy * ow, ow, width)
                    best = splat(-INF)
                    place = splat(-1.0)
                    for iy in range(iy0, iy1):
                        for ix in range(ix0, ix1):
                            v = get(plane, (iy * width + ix) * c, c - c0)
                            better = (v > best) | (place < 0) | ((v != v) & (best == best))
                            best = where(better, v, best)
                            place = where(better, splat(iy * width + ix), place)
                    slope = get(dy, (r * oh * ow + o) * c + c0, c - c0)
                    for iy in range(iy0, iy1):
                        for ix in range(ix0, ix1):
                            i = iy * width + ix
                            put(target, i * c, get(target, i * c, c - c0) + where(place == splat(i), slope, 0.0), c - c0)
