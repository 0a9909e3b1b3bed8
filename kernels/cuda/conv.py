"""Convolution on channels-last data: any kernel, stride, dilation, padding and groups, and its
transpose.

An implicit matrix product: a row of A is what an output pixel sees, k goes over taps and their
channels.
A step of k stays in one tap, so the last of a tap may be short.
A thread's rows of A are those of one or two pixels, whose place it moves from tap to tap; a tap
outside the image has no channels.

Where ``channel_chunk``, a multiple of `DEPTH`, is less than a group's channels, products are made
in parts, each of some channels of all taps: see gemm.py.
Taps are not cut: the main loop would have to hold where they end.
"""

from nbconv.kernels.params import Addends, ConvBlocking, ConvImage, Epilogue, Scatter, Window

from ._products import Tile
from ._simd import (
    Float,
    Floats,
    Int,
    aligned,
    at,
    barrier,
    below,
    cuda,
    inline,
    product,
    quotient,
    shared_floats,
    short,
    tiled,
    unseen,
)
from ._tile import (
    DEPTH,
    NOTHING,
    addends_from,
    by_tile,
    epilogue_from,
    fetch,
    is_scattered,
    working,
)


@inline
def pixel_of(row, oh, ow):
    """(image, row, column) of an output pixel."""
    line = quotient(row, ow)
    image = quotient(line, oh)
    return image, line - image * oh, row - line * ow


@inline
def inside(iy, ix, h, width):
    """Whether a pixel is one of the image."""
    return below(iy, h) & below(ix, width)


def convolution(tile: Tile, tensor: bool):
    """The kernel `conv` for one shape of tile."""
    work = working(tile, tensor)
    size, both, sums = work.size, work.both, work.sums
    two, carried, at_b = work.a_quads == 2, work.carried, 4 * work.a_quads
    begin, a_row, a_k, b_place, shared_places = work.begin, work.a_row, work.a_k, work.b_place, work.shared_places
    put_down, multiply, results = work.put_down, work.multiply, work.results

    @inline
    def products(vector, shared, acc, x, from0, pixel0, iy0, ix0, pixel1, iy1, ix1, w, n0, c0, chunk, image, window):
        """Sums over all taps and ``chunk`` of their cg channels, from c0 on.
        The first tap of the thread's pixels is (iy, ix) of the image, ``pixel`` of x; its channels
        begin at ``from0``.
        ``vector``: four can be read as 16 bytes."""
        h, width, ldx, cg, og = image.h, image.width, image.ldx, image.cg, image.og
        kh, kw, dh, dw = window.kh, window.kw, window.dh, window.dw
        held = cuda.local.array(carried, Float)
        reads_a, reads_b, stores_a, stores_b = shared_places()
        kb, skip, b_step = b_place(n0, og, kh * kw * cg)
        ka = a_k() + c0
        kb += c0
        b = at(w, skip + c0 * b_step)
        a = at(x, product(pixel0, ldx) + from0)
        a2 = at(x, product(pixel1, ldx) + from0)
        seen, seen2 = inside(iy0, ix0, h, width), inside(iy1, ix1, h, width)
        fetch(held, 0, a, vector, ka, cg, seen)
        if two:
            fetch(held, 4, a2, vector, ka, cg, seen2)
        fetch(held, at_b, b, True, kb, cg, True)
        put_down(shared, stores_a, stores_b, held)
        barrier()
        half, c, ky, kx = 0, 0, 0, 0
        while below(c, chunk):
            c += DEPTH
            a = at(a, DEPTH)
            a2 = at(a2, DEPTH)
            b = at(b, DEPTH * b_step)
            if not below(c, chunk):
                b = at(b, product(cg - c, b_step))
                c = 0
                kx += 1
                if not below(kx, kw):
                    kx = 0
                    ky += 1
                    if not below(ky, kh):
                        c = NOTHING
                down, right = ky * dh, kx * dw
                far = down * width + right
                a = at(x, product(pixel0 + far, ldx) + from0)
                a2 = at(x, product(pixel1 + far, ldx) + from0)
                seen = inside(iy0 + down, ix0 + right, h, width)
                seen2 = inside(iy1 + down, ix1 + right, h, width)
            fetch(held, 0, a, vector, ka + c, cg, seen)
            if two:
                fetch(held, 4, a2, vector, ka + c, cg, seen2)
            fetch(held, at_b, b, True, kb + c, cg, True)
            multiply(shared, half + reads_a, half + reads_b, acc)
            half = size - half
            put_down(shared, half + stores_a, half + stores_b, held)
            barrier()

    @tiled(tile.threads, tile.blocks)
    def conv(
        x: Floats,
        w: Floats,
        addends: Addends,
        y: Floats,
        zeros: Floats,
        image: ConvImage,
        window: Window,
        scatter: Scatter,
        blocking: ConvBlocking,
        epilogue: Epilogue,
        first: Int,
        last: Int,
    ) -> None:
        m, h, width, ldx, cg, oh, ow, ldy, og = image
        kh, kw, sh, sw, _, _, ph, pw = window
        channel_chunk, padded = blocking.channel_chunk, blocking.padded
        shared = shared_floats(both)
        acc = cuda.local.array(sums, Float)
        g, part, m0, n0 = begin(first, m, og, cg, channel_chunk)
        c0 = short(part * channel_chunk)
        from0 = short(g * cg + c0 + a_k())
        sample, oy, ox = pixel_of(min(m0 + a_row(0), m - 1), oh, ow)
        iy0, ix0 = short(oy * sh - ph), short(ox * sw - pw)
        pixel0 = short((sample * h + iy0) * width + ix0)
        sample, oy, ox = pixel_of(min(m0 + a_row(1), m - 1), oh, ow)
        iy1, ix1 = short(oy * sh - ph), short(ox * sw - pw)
        pixel1 = short((sample * h + iy1) * width + ix1)
        wg = at(w, g * kh * kw * cg * padded)
        for j in range(sums):
            acc[j] = Float(0)
        if (cg | ldx) & 3 == 0 and aligned(x):
            products(
                True, shared, acc, x, from0, pixel0, iy0, ix0, pixel1, iy1, ix1, wg, n0, c0, channel_chunk, image, window
            )
        else:
            products(
                False, shared, acc, x, from0, pixel0, iy0, ix0, pixel1, iy1, ix1, wg, n0, c0, channel_chunk, image, window
            )
        g, part, m0, n0 = begin(unseen(first), m, og, cg, channel_chunk)  # again, which leaves registers to the products
        placed = is_scattered(scatter, oh, ow)
        yg = at(y, g * og + part * m * ldy)
        added = addends_from(addends, g * padded, g * og)
        results(shared, acc, m0, m, n0, og, placed, oh, ow, scatter, yg, ldy, added, epilogue_from(epilogue, g * padded))

    return conv


conv = by_tile(convolution)
conv_tf32 = by_tile(convolution, True)
