"""Gradients by the weights of convolutions of few channels a group, as many in as out, on channels-last
data."""

from llvmlite import ir
from numba.extending import intrinsic

from nbconv.kernels._numba import Floats, Int, i32, i64
from nbconv.kernels.params import DenseImage, Window

from ._group import PERMUTES
from ._ir import VI, VT, W, call_intrinsic, splat_ir, vector_pointer
from ._operators import vec
from ._simd import at, inline, kernel, load, splat, store


@intrinsic
def input_of(tc, x, place, cg, i):
    """Input i of each lane's group, of the W channels at x[place:]; where no instruction permutes lanes
    they are of one group."""

    def gen(ctx, b, sig, args):
        x, place, cg, i = args
        if W not in PERMUTES:
            return splat_ir(b, b.load(b.gep(x, [b.add(place, i)]), align=4))
        lanes = ir.Constant(VI, list(range(W)))
        index = b.add(b.and_(lanes, _everywhere(b, b.sub(i64(0), cg))), _everywhere(b, i))
        return call_intrinsic(b, PERMUTES[W], VT, b.load(vector_pointer(b, x, place), align=4), index)

    return vec(Floats, Int, Int, Int), gen


def _everywhere(b, value):
    undefined = ir.Constant(VI, ir.Undefined)
    one = b.insert_element(undefined, b.trunc(value, i32), ir.Constant(i32, 0))
    return b.shuffle_vector(one, undefined, ir.Constant(VI, [0] * W))


@kernel
def grouped_grad_weight(
    x: Floats,
    dy: Floats,
    y: Floats,
    n: Int,
    cg: Int,
    image: DenseImage,
    window: Window,
    rows: Int,
    first: Int,
    last: Int,
) -> None:
    """y[part, vector, ky, kx, i, c] = Σ x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, input i of c's
    group]·dy[n, oy, ox, c] over the part's ``rows`` of dy, for the W channels c of a vector.

    cg, a multiple of 4, divides W, and that the channels. A unit is (part, vector).
    """
    h, width, c, oh, ow = image
    kh, kw, sh, dh, ph = window.kh, window.kw, window.sh, window.dh, window.ph
    vectors = c // W
    size = kh * kw * cg * W
    for unit in range(first, last):
        part = unit // vectors
        c0 = (unit - part * vectors) * W
        mine = at(y, unit * size)
        for i in range(0, size, W):
            store(mine, i, splat(0.0))
        for line in range(part * rows, min((part + 1) * rows, n * oh)):
            sample = line // oh
            iy0 = (line - sample * oh) * sh - ph
            for ky in range(kh):
                iy = iy0 + ky * dh
                if 0 <= iy and iy < h:
                    xr = at(x, (sample * h + iy) * width * c + c0)
                    for i in range(0, cg, 4):
                        _row(xr, at(dy, line * ow * c + c0), at(mine, (ky * kw * cg + i) * W), cg, i, image, window)


@inline
def _row(x, dy, y, cg, i, image, window):
    """A row of pixels: what each tap of a row of the filter adds, of four inputs."""
    width, c, ow = image.width, image.c, image.ow
    kw, sw, dw, pw = window.kw, window.sw, window.dw, window.pw
    low, high = _seen(0, sw, dw, pw, width, ow)
    low2, high2 = _seen(2, sw, dw, pw, width, ow)
    low, high = max(low, low2), min(high, high2)
    three = kw == 3 and low < high
    if three:
        _three(x, dy, y, cg, i, c, (low, high, sw, dw, pw))
    for kx in range(kw):
        begin, end = _seen(kx, sw, dw, pw, width, ow)
        mine = at(y, kx * cg * W)
        place = (kx * dw - pw) * c
        if three:
            _one(x, dy, mine, cg, i, c, (begin, low, sw, place))
            _one(x, dy, mine, cg, i, c, (high, end, sw, place))
        else:
            _one(x, dy, mine, cg, i, c, (begin, end, sw, place))


@inline
def _seen(kx, sw, dw, pw, width, ow):
    """[first, end) of the results for which a tap lies inside the row."""
    shift = kx * dw - pw
    begin = 0 if shift >= 0 else (sw - 1 - shift) // sw
    end = 0 if shift >= width else (width - 1 - shift) // sw + 1
    return min(begin, ow), max(min(begin, ow), min(end, ow))


@inline
def _one(x, dy, y, cg, i, c, run):
    """One tap over some pixels."""
    begin, end, sw, place = run
    if begin < end:
        a0 = load(y, 0)
        a1 = load(y, W)
        a2 = load(y, 2 * W)
        a3 = load(y, 3 * W)
        for ox in range(begin, end):
            d = load(dy, ox * c)
            p = ox * sw * c + place
            a0 = a0 + input_of(x, p, cg, i) * d
            a1 = a1 + input_of(x, p, cg, i + 1) * d
            a2 = a2 + input_of(x, p, cg, i + 2) * d
            a3 = a3 + input_of(x, p, cg, i + 3) * d
        store(y, 0, a0)
        store(y, W, a1)
        store(y, 2 * W, a2)
        store(y, 3 * W, a3)


@inline
def _three(x, dy, y, cg, i, c, run):
    """Three taps over the pixels that all of them see."""
    low, high, sw, dw, pw = run
    tap = cg * W
    a0, a1, a2, a3 = load(y, 0), load(y, W), load(y, 2 * W), load(y, 3 * W)
    b0, b1, b2, b3 = load(y, tap), load(y, tap + W), load(y, tap + 2 * W), load(y, tap + 3 * W)
    e0, e1, e2, e3 = load(y, 2 * tap), load(y, 2 * tap + W), load(y, 2 * tap + 2 * W), load(y, 2 * tap + 3 * W)
    for ox in range(low, high):
        d = load(dy, ox * c)
        p = (ox * sw - pw) * c
        q = p + dw * c
        r = q + dw * c
        a0 = a0 + input_of(x, p, cg, i) * d
        a1 = a1 + input_of(x, p, cg, i + 1) * d
        a2 = a2 + input_of(x, p, cg, i + 2) * d
        a3 = a3 + input_of(x, p, cg, i + 3) * d
        b0 = b0 + input_of(x, q, cg, i) * d
        b1 = b1 + input_of(x, q, cg, i + 1) * d
        b2 = b2 + input_of(x, q, cg, i + 2) * d
        b3 = b3 + input_of(x, q, cg, i + 3) * d
        e0 = e0 + input_of(x, r, cg, i) * d
        e1 = e1 + input_of(x, r, cg, i + 1) * d
        e2 = e2 + input_of(x, r, cg, i + 2) * d
        e3 = e3 + input_of(x, r, cg, i + 3) * d
    store(y, 0, a0)
    store(y, W, a1)
    store(y, 2 * W, a2)
    store(y, 3 * W, a3)
    store(y, tap, b0)
    store(y, tap + W, b1)
    store(y, tap + 2 * W, b2)
    store(y, tap + 3 * W, b3)
    store(y, 2 * tap, e0)
    store(y, 2 * tap + W, e1)
    store(y, 2 * tap + 2 * W, e2)
    store(y, 2 * tap + 3 * W, e3)
