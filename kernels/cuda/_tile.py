"""The tile of a matrix product that a block of threads computes: rows of A (channels last) × packed
panels of B.

A step of `DEPTH` products goes from global memory through registers into one of two halves of
shared memory while the other half is multiplied: one barrier a step.
`_products.py` says how that half lies and which sums a thread holds, and multiplies.
Every sum is made in the order of k, whatever the tile's shape: the bits of a result do not depend
on it (on tensor cores a step's eight products are one sum).

Indices are 64 bits wide, divisions 32: pixels, rows and units number fewer than 2^31.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from nbconv.kernels.params import Activation, Addends, Epilogue

from ._math import activated
from ._products import Tile, fragments, quads
from ._simd import (
    Float,
    Int,
    W,
    aligned,
    at,
    barrier,
    below,
    cuda,
    fma,
    given,
    inline,
    load4,
    maximum,
    minimum,
    on_tensor_cores,
    quotient,
    scalar,
    splat,
    store4,
    unseen,
)

NR = 2 * W
"""Columns of a packed panel; the last one has W where that is enough."""
DEPTH = 8
"""Products of a step: two quads of A a row."""
NOTHING = 1 << 30
"""A k that no matrix has: what is read there is 0."""


TILES = LARGE, SMALL, NARROW = Tile(128, 128, 8, 2), Tile(64, 64, 4, 4), Tile(256, 32, 4, 2)
"""For large products; for those with too few tiles of that size to fill a GPU; for one narrow
panel."""


def by_tile(make: Callable[[Tile, bool], Callable], tensor: bool = False) -> Callable:
    """The kernel that ``make`` makes for `LARGE` tiles; its argument ``blocking.rows`` tells which
    of `TILES` a step wants.
    ``tensor``: it needs tensor cores for TF32, and is named so."""
    found = [make(tile, tensor) for tile in TILES]
    for kernel in found if tensor else []:
        on_tensor_cores(kernel)
    found[0].__variants__ = ("blocking.rows", [(tile.rows, kernel) for tile, kernel in zip(TILES, found)])  # type: ignore
    return found[0]


def working(tile: Tile, tensor: bool = False) -> SimpleNamespace:
    """The parts of a tile's work as functions to inline, its sizes being constants in them.
    ``tensor``: products by tensor cores, of numbers rounded to TF32 (see `fragments`).

    ``held`` is what a thread carries from global to shared memory: its quads of A, then its quad of
    B.
    ``half`` is where the half of shared memory in use begins: A's rows, then B's.
    """
    threads, tall, columns = tile.threads, tile.rows, tile.columns
    a_quads = tall * DEPTH // 4 // threads
    b_quads = columns * DEPTH // 4
    b_all = b_quads == threads
    lay = fragments(tile) if tensor else quads(tile)
    place, row_of, reads, stores, multiply = lay.place, lay.row_of, lay.reads, lay.stores, lay.multiply
    put_a, put_b, put_turned, turned_row = lay.put_a, lay.put_b, lay.put_turned, lay.turned_row
    stage_row, high, wide, size, stage_pitch = lay.stage_row, lay.high, lay.wide, lay.size, lay.stage_pitch
    both, carried = 2 * size, 4 * a_quads + 4
    sums = tile.rows * columns // threads
    panel = min(NR, columns)
    panel_quads, row_quads = _log2(panel * DEPTH // 4), _log2(panel // 4)
    down = tile.rows // high
    """quads of rows that are staged at a time"""
    staged = 1 if tensor else 2 if 4 * down * stage_pitch > both else 4
    """rows of a thread that shared memory has room for when the products are done; of `fragments`
    more would share banks"""
    parts, staged_bits, quads_wide = high // staged, _log2(staged), _log2(columns // 4)
    turns = staged * down * columns // 4 // threads
    assert staged * down * stage_pitch <= both

    @inline
    def begin(unit, m, n, k, k_chunk):
        """(matrix, part of its k, first row, first column) of a unit.
        A part is k_chunk of k, or what is left."""
        row_blocks = quotient(m + tall - 1, tall)
        rest = quotient(unit, row_blocks)
        column_blocks = quotient(n + columns - 1, columns)
        above = quotient(rest, column_blocks)
        # with the unit in it, lest it be held for all units, which would take registers from the products
        parts = quotient(k + k_chunk - 1 + above - unseen(above), k_chunk)
        i = quotient(above, parts)
        return i, above - i * parts, (unit - rest * row_blocks) * tall, (rest - above * column_blocks) * columns

    @inline
    def a_row(i):
        """The row in the tile of the thread's i-th quad of A."""
        return (Int(cuda.threadIdx.x) >> 1) + i * (threads // 2)

    @inline
    def a_k():
        """The k in the step of the thread's quads of A."""
        return (Int(cuda.threadIdx.x) & 1) * 4

    @inline
    def b_place(n0, n, k):
        """(k in the step, where in the packed matrix, floats from one k to the next) of the
        thread's quad of B: (k, n) from column n0 on.
        Where there is no such quad, k is `NOTHING`."""
        t = Int(cuda.threadIdx.x)
        first = n0 + (t >> panel_quads) * NR
        rest = t & ((1 << panel_quads) - 1)
        kb = rest >> row_quads
        column = (rest & ((1 << row_quads) - 1)) * 4
        step = NR if n - first > W else W
        there = first < n and column < step and t < b_quads
        return (kb if there else NOTHING), (first * k + kb * step + column if there else 0), step

    @inline
    def shared_places():
        """Where a thread has its quads in a half of shared memory: (A's that it reads, B's, A's
        that it stores, B's)."""
        t = Int(cuda.threadIdx.x)
        kb = (t & ((1 << panel_quads) - 1)) >> row_quads
        column = (t >> panel_quads) * NR + (t & ((1 << row_quads) - 1)) * 4
        reads_a, reads_b = reads()
        stores_a, stores_b = stores(a_row(0), a_k(), kb, column)
        return unseen(reads_a), unseen(reads_b), unseen(stores_a), unseen(stores_b)

    @inline
    def put_down(shared, to_a, to_b, held):
        """Store what a thread holds into a half of shared memory."""
        for i in range(a_quads):
            put_a(shared, to_a, i, held, threads // 2)
        if b_all or Int(cuda.threadIdx.x) < b_quads:
            put_b(shared, to_b, held, 4 * a_quads)

    @inline
    def stage(shared, acc, part):
        """Store the thread's rows of sums of this ``part`` into shared memory.
        Which sums these are must be constants."""
        if part == 0:
            stage_rows(shared, acc, 0)
        elif part == 1:
            stage_rows(shared, acc, staged)
        elif part == 2:
            stage_rows(shared, acc, 2 * staged % high)
        else:
            stage_rows(shared, acc, 3 * staged % high)

    @inline
    def stage_rows(shared, acc, r):
        for i in range(staged):
            stage_row(shared, acc, r + i, i, staged)

    @inline
    def results(shared, acc, m0, m, n0, n, placed, oh, ow, scatter, y, ldy, addends, epilogue):
        """What follows the products (bias, residual, clamp or activation, factor and term), for the
        tile from row m0 and column n0 on of (m, n).
        Sums go through shared memory, so that a warp stores whole rows, and the code is there once,
        not for each sum.

        Row r goes to pixel r of y, or, if ``placed``, to the pixel that a convolution's geometry
        says."""
        bias, res, ldres = addends
        low, high, act, alpha, beta, scale, shift = epilogue
        t = Int(cuda.threadIdx.x)
        column = n0 + (t & (columns // 4 - 1)) * 4
        left = n - column
        add = cuda.local.array(4, Float)
        factor = cuda.local.array(4, Float)
        term = cuda.local.array(4, Float)
        v = cuda.local.array(4, Float)
        affine = given(scale)
        if left > 0:
            quad(add, bias, column, 4, True)
            if affine:
                quad(factor, scale, column, 4, True)
                quad(term, shift, column, 4, True)
        whole = aligned(y) and ldy & 3 == 0
        whole_res = aligned(res) and ldres & 3 == 0
        for part in range(unseen(parts)):
            stage(shared, acc, part)
            barrier()
            for turn in range(unseen(turns)):
                s = (t >> quads_wide) + turn * (threads >> quads_wide)
                r = part * staged + (s & (staged - 1))
                row = m0 + row_of(s >> staged_bits, r)
                if row < m and left > 0:
                    got = load4(shared, s * stage_pitch + column - n0)
                    v[0], v[1], v[2], v[3] = got[0] + add[0], got[1] + add[1], got[2] + add[2], got[3] + add[3]
                    pixel = pixel_of_result(row, oh, ow, scatter) if placed else row
                    if given(res):
                        had = cuda.local.array(4, Float)
                        quad(had, res, pixel * ldres + column, left, whole_res)
                        for j in range(4):
                            v[j] = v[j] + had[j]
                    if act == Activation.NONE:
                        for j in range(4):
                            v[j] = scalar(minimum(maximum(splat(v[j]), low), high))
                    else:
                        activate(shared, s * stage_pitch + column - n0, v, act, alpha, beta)
                    if affine:
                        for j in range(4):
                            v[j] = fma(v[j], factor[j], term[j])
                    here = pixel * ldy + column
                    if whole and left >= 4:
                        store4(y, here, v[0], v[1], v[2], v[3])
                    else:
                        for j in range(4):
                            if j < left:
                                y[here + j] = v[j]
            barrier()

    return SimpleNamespace(**{k: v for k, v in locals().items() if k != "tile"})


@inline
def pixel_of_result(row, oh, ow, scatter):
    """Where in y the row-th result of a convolution goes, of (oh, ow) an image."""
    full_h, full_w, osh, osw, oy0, ox0 = scatter
    line = quotient(row, ow)
    image = quotient(line, oh)
    return (image * full_h + (line - image * oh) * osh + oy0) * full_w + (row - line * ow) * osw + ox0


@inline
def is_scattered(scatter, oh, ow):
    """Whether the (oh, ow) results of an image do not lie in y as they are."""
    return scatter.osh != 1 or scatter.osw != 1 or scatter.full_h != oh or scatter.full_w != ow


@inline
def addends_from(addends, channel, place):
    """The addends of the channels from ``channel`` on, the residual's from ``place`` on."""
    bias, residual, ldres = addends
    if given(residual):
        residual = at(residual, place)
    return Addends(at(bias, channel), residual, ldres)


@inline
def epilogue_from(epilogue, channel):
    """The epilogue of the channels from ``channel`` on."""
    low, high, act, alpha, beta, scale, shift = epilogue
    if given(scale):
        scale = at(scale, channel)
    return Epilogue(low, high, act, alpha, beta, scale, at(shift, channel))


@inline
def fetch(held, to, p, whole, k, end, there):
    """Four neighbours at p, which belong to k, k + 1 …: zeros from ``end`` on, and if they are not
    ``there``.
    ``whole``: read as 16 bytes."""
    for j in range(4):
        held[to + j] = Float(0)
    if whole:
        if there & below(k, end):
            v = load4(p, 0)
            held[to], held[to + 1], held[to + 2], held[to + 3] = v[0], v[1], v[2], v[3]
    else:
        for j in range(4):
            if there & below(k + j, end):
                held[to + j] = p[j]


@inline
def activate(shared, place, v, act, alpha, beta):
    """Four values of a thread through an activation, one by one in shared memory: the code is there
    once.
    Which comes first differs between lanes, so that they meet in no bank."""
    store4(shared, place, v[0], v[1], v[2], v[3])
    turned = (Int(cuda.threadIdx.x) >> 3) & 3
    for j in range(unseen(4)):
        i = place + ((j + turned) & 3)
        shared[i] = scalar(activated(act, splat(shared[i]), alpha, beta))
    done = load4(shared, place)
    v[0], v[1], v[2], v[3] = done[0], done[1], done[2], done[3]


@inline
def quad(found, p, i, count, whole):
    """p[i:i+4], of which ``count`` are there; ``whole``: 16 bytes at a time where all are."""
    if whole and count >= 4:
        v = load4(p, i)
        found[0], found[1], found[2], found[3] = v[0], v[1], v[2], v[3]
    else:
        for j in range(4):
            found[j] = p[i + j] if j < count else Float(0)


def _log2(n: int) -> int:
    assert n > 0 and n & (n - 1) == 0, n
    return n.bit_length() - 1
