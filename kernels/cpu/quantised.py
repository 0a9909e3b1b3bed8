"""Convolutions and products of 8-bit integers, channels last, summed as int32 and quantised again.

Rows of A are gathered in a thread's scratch memory, a block at a time, as the register tile wants
them: bytes, unsigned and with the zero point where a tap sees padding; or 16-bit integers less the
zero point.
"""

from typing import Any

from nbconv.kernels.params import ConvImage, Window
from nbconv.kernels.quantised_params import DotBlocking, Requantise

from ._dot import (
    AMX,
    MR,
    NR,
    SQUARE,
    VNNI,
    amx_begin,
    amx_end,
    byte_sums,
    finish,
    move_1,
    move_4,
    move_8,
    move_16,
    move_32,
    move_64,
    short_sums,
    square_sums,
    tile_sums,
    widen_1,
    widen_4,
    widen_8,
    widen_16,
)
from ._map import called
from ._simd import Bytes, Int, Int32s, W, at, inline


@inline
def _moved(y, x, n, flip, zero):
    """y[:n] = x[:n] ^ flip; the last vector may overlap the one before."""
    if n >= 16:
        i = 0
        while i + 64 <= n:
            move_64(at(y, i), at(x, i), flip)
            i += 64
        while i + 16 <= n:
            move_16(at(y, i), at(x, i), flip)
            i += 16
        if i < n:
            move_16(at(y, n - 16), at(x, n - 16), flip)
    elif n >= 8:
        move_8(y, x, flip)
        move_8(at(y, n - 8), at(x, n - 8), flip)
    elif n >= 4:
        move_4(y, x, flip)
        move_4(at(y, n - 4), at(x, n - 4), flip)
    else:
        for i in range(n):
            move_1(at(y, i), at(x, i), flip)


@inline
def _widened(y, x, n, flip, zero):
    """y[:n] = (x[:n] ^ flip) - zero, 16-bit integers; the last vector may overlap the one
    before."""
    if n >= 16:
        i = 0
        while i + 16 <= n:
            widen_16(at(y, 2 * i), at(x, i), flip, zero)
            i += 16
        if i < n:
            widen_16(at(y, 2 * (n - 16)), at(x, n - 16), flip, zero)
    elif n >= 8:
        widen_8(y, x, flip, zero)
        widen_8(at(y, 2 * (n - 8)), at(x, n - 8), flip, zero)
    elif n >= 4:
        widen_4(y, x, flip, zero)
        widen_4(at(y, 2 * (n - 4)), at(x, n - 4), flip, zero)
    else:
        for i in range(n):
            widen_1(at(y, 2 * i), at(x, i), flip, zero)


@inline
def _moved_over(y, x, n, flip, zero):
    """That of a row of 32 at most, which may read and write up to as many."""
    if n <= 16:
        move_16(y, x, flip)
    else:
        move_32(y, x, flip)


@inline
def _widened_over(y, x, n, flip, zero):
    """That of a row of 32 at most, which may read and write up to as many."""
    widen_16(y, x, flip, zero)
    if n > 16:
        widen_16(at(y, 32), at(x, 16), flip, zero)


@inline
def _filled(y, n, value):
    for i in range(n):
        y[i] = value


@inline
def _nothing():
    return None


def _convolution(name, sums, copy, over, size, most: int = MR, begin: Any = _nothing, end: Any = _nothing):
    """The kernel whose elements of A have ``size`` bytes, and are made by ``copy``, or by ``over``
    where there is room; ``most``: rows of a tile."""
    square = most > MR

    @inline
    def gather(a, lda, x, c0, m0, count, image, window, padding, flip, zero):
        """The rows of A of a block of pixels, of the channels from c0 on. What a row of the window
        has too much is overwritten by the next, or meets weights of 0."""
        kh, kw, sh, sw, dh, dw, ph, pw = window
        h, width, ldx, cg, ow, oh = image.h, image.width, image.ldx, image.cg, image.ow, image.oh
        if h == 1 and oh == 1 and kh * kw * sw == 1 and ph == pw == 0 and ow == width:  # one row of pixels
            for i in range(count):
                copy(at(a, i * lda), at(x, (m0 + i) * ldx + c0), cg, flip, zero)
            return
        together = dw == 1 and ldx == cg
        row_of = kw * cg
        wide = 16 if row_of <= 16 else 32
        small = together and row_of <= 32 and ((kh - 1) * row_of + wide) * size <= lda
        last = image.m // (oh * ow) * h * width * ldx - wide
        line = m0 // ow
        ox = m0 - line * ow
        n = line // oh
        oy = line - n * oh
        for i in range(count):
            row = at(a, i * lda)
            x0 = ox * sw - pw
            before = max(0, -x0)
            after = max(0, width - x0)
            if dw > 1:
                before = (before + dw - 1) // dw
                after = (after + dw - 1) // dw
            begin = min(kw, before)
            end = max(begin, min(kw, after))
            for ky in range(kh):
                iy = oy * sh - ph + ky * dh
                taps = at(row, ky * kw * cg * size)
                if iy < 0 or iy >= h:
                    _filled(taps, kw * cg * size, padding)
                elif small and begin == 0 and end == kw and ((n * h + iy) * width + x0) * ldx <= last:
                    over(taps, at(x, ((n * h + iy) * width + x0) * ldx), row_of, flip, zero)
                else:
                    source = at(x, ((n * h + iy) * width + x0) * ldx + c0)
                    if begin > 0:
                        _filled(taps, begin * cg * size, padding)
                    if together:
                        copy(at(taps, begin * cg * size), at(source, begin * ldx), (end - begin) * cg, flip, zero)
                    else:
                        for kx in range(begin, end):
                            copy(at(taps, kx * cg * size), at(source, kx * dw * ldx), cg, flip, zero)
                    if end < kw:
                        _filled(at(taps, end * cg * size), (kw - end) * cg * size, padding)
            ox += 1
            if ox == ow:
                ox = 0
                oy += 1
                if oy == oh:
                    oy = 0
                    n += 1

    def conv(
        x: Bytes,
        w: Int32s,
        bias: Int32s,
        y: Bytes,
        area: Bytes,
        image: ConvImage,
        window: Window,
        blocking: DotBlocking,
        to8: Requantise,
        first: Int,
        last: Int,
        slot: Int,
    ) -> None:
        """y[n, oy, ox, :] = Σ (x[n, oy·sh-ph+ky·dh, ox·sw-pw+kx·dw, :] - x_zero)·w + bias, as
        ``to8`` says.

        w is packed [group][panel][word][NR]. A unit is (group, block of panels, block of pixels).
        """
        m, og, ldx = image.m, image.og, image.ldx
        rows, panels, padded, depth, lda, room = blocking
        scale, low, high, zero_point, flip, x_zero, out = to8
        row_blocks = (m + rows - 1) // rows
        column_blocks = ((og + NR - 1) // NR + panels - 1) // panels
        padding = x_zero if size == 1 else 0
        c = tile_sums()
        begin()
        for unit in range(first, last):
            part = unit // row_blocks
            m0 = (unit - part * row_blocks) * rows
            g = part // column_blocks
            n0 = (part - g * column_blocks) * panels * NR
            n1 = min(og, n0 + panels * NR)
            count = min(rows, m - m0)
            a = at(x, m0 * ldx + g * image.cg)
            if room > 0:
                a = at(area, slot * room)
                gather(a, lda, x, g * image.cg, m0, count, image, window, padding, flip, x_zero)
            wg = at(w, g * depth * padded)
            yg = at(y, (m0 * image.ldy + g * og) * out)
            tiles = (count + most - 1) // most
            height = most if square else count // tiles
            taller = 0 if square else count - height * tiles
            col = n0
            while col < n1:
                cols = min(NR, n1 - col)
                wide = W if cols <= W else NR
                i = 0
                for tile in range(tiles):
                    n = min(count - i, height + 1 if tile < taller else height)
                    sums(n, wide, at(a, i * lda), lda, depth, at(wg, col * depth), c)
                    place = g * padded + col
                    there = at(yg, (i * image.ldy + col) * out)
                    finish(
                        c, wide, n, cols, at(bias, place), at(scale, place), low, high, zero_point, out, there,
                        image.ldy * out,
                    )  # fmt: skip
                    i += n
                col += wide
        end()

    return called(name, conv, __name__)


if VNNI:
    conv_bytes = _convolution("conv_bytes", byte_sums, _moved, _moved_over, 1)
if AMX:
    conv_squares = _convolution("conv_squares", square_sums, _moved, _moved_over, 1, SQUARE, amx_begin, amx_end)
conv_shorts = _convolution("conv_shorts", short_sums, _widened, _widened_over, 2)
