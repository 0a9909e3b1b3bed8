"""Sampling of channels-last volumes at places that a grid names (an image is a volume of depth 1).

A pixel's taps are found first, a cell and a weight each, those outside of the volume left out; then all channels are summed.
"""

from nbconv.kernels.params import Extents
from nbconv.kernels.sampling_params import Sampler, Volumes

from ._simd import Float, Floats, Int, W, at, get, hsum, inline, kernel, put, splat, stack_floats, stack_ints

FAR = 16777216.0
"""Cells from x beyond which a place is moved to there, so that it is an integer; NaN, too."""
NEAREST, LINEAR = 0, 1
BORDER, REFLECTION = 1, 2


@inline
def _floor(v):
    """As an integer, of |v| ≤ FAR."""
    i = Int(v)
    return i - 1 if Float(i) > v else i


@inline
def _nearest(v):
    """The nearest integer, ties to even, of |v| ≤ FAR."""
    i = _floor(v)
    part = v - Float(i)
    if part > Float(0.5) or (part == Float(0.5) and i % 2 != 0):
        i += 1
    return i


@inline
def _near(v):
    """v, moved to within FAR of 0."""
    v = v if v > Float(-FAR) else Float(-FAR)
    return v if v < Float(FAR) else Float(FAR)


@inline
def _mirrored(v, low, span):
    """A place outside of [low, low + span] as reflections bring it inside, and the sign of its slope."""
    below = v < low
    away = low - v if below else v - low - span
    times = Int(away / span) if span > Float(0.0) else 0
    rest = away - Float(times) * span
    rest = rest if span > Float(0.0) else Float(0.0)
    begins = below == (times % 2 == 0)
    place = low + rest if begins else low + span - rest
    sign = Float(-1.0) if times % 2 == 0 else Float(1.0)
    return place, sign


@inline
def _mirrored_cell(i, size, aligned):
    """A cell outside of [0, size) as reflections bring it inside."""
    span = size - aligned
    away = i - size + 1 - (1 - aligned)
    if i < 0:
        away = -i - (1 - aligned)
    times = away // span if span > 0 else 0
    rest = away - times * span if span > 0 else 0
    begins = (i < 0) == (times % 2 == 0)
    return rest if begins else size - 1 - rest


@inline
def _cubic(p, t):
    """Weights of four cells around a place t behind the second of them (a = -0.75)."""
    a = Float(-0.75)
    u, v, w = t + Float(1), Float(1) - t, Float(2) - t
    p[0] = ((a * u - Float(5) * a) * u + Float(8) * a) * u - Float(4) * a
    p[1] = ((a + Float(2)) * t - (a + Float(3))) * t * t + Float(1)
    p[2] = ((a + Float(2)) * v - (a + Float(3))) * v * v + Float(1)
    p[3] = ((a * w - Float(5) * a) * w + Float(8) * a) * w - Float(4) * a


@inline
def _cubic_slopes(p, t):
    a = Float(-0.75)
    u, v, w = t + Float(1), Float(1) - t, Float(2) - t
    p[0] = (Float(3) * a * u - Float(10) * a) * u + Float(8) * a
    p[1] = (Float(3) * (a + Float(2)) * t - Float(2) * (a + Float(3))) * t
    p[2] = -(Float(3) * (a + Float(2)) * v - Float(2) * (a + Float(3))) * v
    p[3] = -((Float(3) * a * w - Float(10) * a) * w + Float(8) * a)


@inline
def _along(g, size, sampler, cells, weights, slopes):
    """The taps along one axis: how many, and for each its cell (-1 outside), weight and slope by g."""
    _, mode, padding, aligned = sampler
    if aligned == 1:
        scale = Float(size - 1) * Float(0.5)
        place = _near((g + Float(1)) * scale)
    else:
        scale = Float(size) * Float(0.5)
        place = _near(((g + Float(1)) * Float(size) - Float(1)) * Float(0.5))
    if mode == NEAREST:
        place = Float(_nearest(place))
    low = Float(0.0) if aligned == 1 else Float(-0.5)
    span = Float(size - aligned)
    if place < low or place > low + span:
        if padding == BORDER and mode <= LINEAR:
            place = Float(0.0) if place < low else Float(size - 1)
            scale = Float(0.0)
        elif padding == REFLECTION:
            place, sign = _mirrored(place, low, span)
            scale = scale * sign
    i = _floor(place)
    t = place - Float(i)
    taps = 1
    if mode == NEAREST:
        weights[0] = Float(1.0)
        slopes[0] = Float(0.0)
    elif mode == LINEAR:
        taps = 2
        weights[0] = Float(1.0) - t
        weights[1] = t
        slopes[0] = -scale
        slopes[1] = scale
    else:
        taps = 4
        i -= 1
        _cubic(weights, t)
        _cubic_slopes(slopes, t)
        for k in range(4):
            slopes[k] = slopes[k] * scale
    for k in range(taps):
        cell = i + k
        if cell < 0 or cell >= size:
            if padding == BORDER:
                cell = 0 if cell < 0 else size - 1
            elif padding == REFLECTION:
                cell = _mirrored_cell(cell, size, aligned)
            else:
                cell = -1
        cells[k] = cell
    return taps


@inline
def _axes(g, volumes, sampler, cells, weights, slopes):
    """The taps along depth, height and width: how many each; four entries an axis."""
    axes = sampler.axes
    deep = 1
    if axes == 3:
        deep = _along(g[2], volumes.d, sampler, cells, weights, slopes)
    else:
        cells[0] = 0
        weights[0] = Float(1.0)
        slopes[0] = Float(0.0)
    down = _along(g[1], volumes.h, sampler, at(cells, 4), at(weights, 4), at(slopes, 4))
    across = _along(g[0], volumes.width, sampler, at(cells, 8), at(weights, 8), at(slopes, 8))
    return deep, down, across


@inline
def _taps(g, volumes, sampler, cells, weights, slopes, places, parts):
    """All taps of a pixel that lie inside: how many, the floats before each, its weight."""
    deep, down, across = _axes(g, volumes, sampler, cells, weights, slopes)
    _, h, width, c, _, _ = volumes
    count = 0
    for k in range(deep):
        for i in range(down):
            for j in range(across):
                z, y, x = cells[k], cells[4 + i], cells[8 + j]
                if z >= 0 and y >= 0 and x >= 0:
                    places[count] = ((z * h + y) * width + x) * c
                    parts[count] = weights[k] * weights[4 + i] * weights[8 + j]
                    count += 1
    return count


@kernel
def grid_sample(
    x: Floats,
    grid: Floats,
    y: Floats,
    volumes: Volumes,
    sampler: Sampler,
    first: Int,
    last: Int,
) -> None:
    """y[n, p, :] = Σ weight · x[n, cell, :] over the taps of pixel p, which grid[n, p] names as (x,
    y, z) from -1 to 1. A unit is a row of pixels."""
    d, h, width, c, rows, columns = volumes
    cells, weights, slopes = stack_ints(12), stack_floats(12), stack_floats(16)
    places, parts = stack_ints(64), stack_floats(64)
    for unit in range(first, last):
        image = at(x, unit // rows * d * h * width * c)
        for j in range(columns):
            pixel = unit * columns + j
            count = _taps(at(grid, pixel * sampler.axes), volumes, sampler, cells, weights, slopes, places, parts)
            for c0 in range(0, c, W):
                total = splat(0.0)
                for t in range(count):
                    total = total + get(image, places[t] + c0, c - c0) * splat(parts[t])
                put(y, pixel * c + c0, total, c - c0)


@kernel
def grid_sample_grad(
    dy: Floats,
    grid: Floats,
    dx: Floats,
    volumes: Volumes,
    sampler: Sampler,
    first: Int,
    last: Int,
) -> None:
    """dx[n, cell, :] = Σ weight · dy[n, p, :] over the taps that read the cell. A unit is an image, a
    vector of channels wide: its cells have one owner."""
    d, h, width, c, rows, columns = volumes
    cells, weights, slopes = stack_ints(12), stack_floats(12), stack_floats(16)
    places, parts = stack_ints(64), stack_floats(64)
    vectors = (c + W - 1) // W
    for unit in range(first, last):
        n = unit // vectors
        c0 = (unit - n * vectors) * W
        image = at(dx, n * d * h * width * c + c0)
        for i in range(d * h * width):
            put(image, i * c, splat(0.0), c - c0)
        for p in range(rows * columns):
            pixel = n * rows * columns + p
            count = _taps(at(grid, pixel * sampler.axes), volumes, sampler, cells, weights, slopes, places, parts)
            slope = get(dy, pixel * c + c0, c - c0)
            for t in range(count):
                put(image, places[t], get(image, places[t], c - c0) + slope * splat(parts[t]), c - c0)


@kernel
def grid_sample_grad_grid(
    dy: Floats,
    x: Floats,
    grid: Floats,
    dgrid: Floats,
    volumes: Volumes,
    sampler: Sampler,
    first: Int,
    last: Int,
) -> None:
    """dgrid[n, p, a] = Σ over taps of the weight's slope by that coordinate, times dy[n, p] · x[n,
    cell]. A unit is a row of pixels."""
    d, h, width, c, rows, columns = volumes
    cells, weights, slopes = stack_ints(12), stack_floats(12), stack_floats(16)
    for unit in range(first, last):
        image = at(x, unit // rows * d * h * width * c)
        for j in range(columns):
            pixel = unit * columns + j
            deep, down, across = _axes(at(grid, pixel * sampler.axes), volumes, sampler, cells, weights, slopes)
            gx, gy, gz = Float(0.0), Float(0.0), Float(0.0)
            for kij in range(deep * down * across):
                k = kij // across // down
                i = kij // across - k * down
                j0 = kij - (k * down + i) * across
                z, y0, x0 = cells[k], cells[4 + i], cells[8 + j0]
                if z >= 0 and y0 >= 0 and x0 >= 0:
                    place = ((z * h + y0) * width + x0) * c
                    total = splat(0.0)
                    for c0 in range(0, c, W):
                        total = total + get(image, place + c0, c - c0) * get(dy, pixel * c + c0, c - c0)
                    dot = hsum(total)
                    wz, wy, wx = weights[k], weights[4 + i], weights[8 + j0]
                    gx += dot * wz * wy * slopes[8 + j0]
                    gy += dot * wz * slopes[4 + i] * wx
                    gz += dot * slopes[k] * wy * wx
            target = at(dgrid, pixel * sampler.axes)
            target[0] = gx
            target[1] = gy
            if sampler.axes == 3:
                target[2] = gz


@kernel
def affine_grid(theta: Floats, y: Floats, steps: Floats, extents: Extents, axes: Int, first: Int, last: Int) -> None:
    """y[n, z, i, j, a] = theta[n, a] · (x_j, y_i, z_z, 1), without z for two axes; ``steps`` holds the coordinates of width,
    height and depth, one after another. A unit is a row (n, z, i)."""
    n1, n2, n3, _ = extents  # depth, height, width
    for unit in range(first, last):
        line = unit // n2
        i = unit - line * n2
        n = line // n1
        k = line - n * n1
        v = steps[n3 + i]
        w = steps[n3 + n2 + k]
        for j in range(n3):
            u = steps[j]
            for a in range(axes):
                row = at(theta, (n * axes + a) * (axes + 1))
                value = row[0] * u + row[1] * v + row[axes]
                if axes == 3:
                    value += row[2] * w
                y[(unit * n3 + j) * axes + a] = value
