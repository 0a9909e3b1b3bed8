"""The tile of a matrix product that a block of threads computes: rows of A (channels last) × packed panels of B.

A step of `DEPTH` products goes from global memory through registers into one of two halves of shared memory while the
other half is multiplied: one barrier a step. Each thread holds `HIGH` × wide sums: quads of four rows and four columns,
half a tile apart, so that a warp reads neighbouring 16 bytes. A comes as [row][k] and is stored as [k][row]: rows of the
shared copy are four floats longer than the tile, which puts the two quads of k that a warp stores into different banks.
Every sum is made in the order of k, whatever the tile's shape: the bits of a result do not depend on it.

Indices are 64 bits wide, divisions 32: pixels, rows and units number fewer than 2^31.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

from ._math import activated
from ._simd import (
    Float,
    Int,
    W,
    aligned,
    barrier,
    below,
    cuda,
    fma,
    given,
    inline,
    load4,
    maximum,
    minimum,
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
HIGH = 8
"""Rows of a thread's sums."""
NOTHING = 1 << 30
"""A k that no matrix has: what is read there is 0."""


class Tile(NamedTuple):
    """A block's tile: rows × columns sums by ``threads`` threads, ``wide`` columns each; ``blocks`` blocks fit an SM."""

    rows: int
    columns: int
    wide: int
    blocks: int

    @property
    def threads(self) -> int:
        return self.rows * self.columns // (HIGH * self.wide)


TILES = LARGE, SMALL, NARROW = Tile(128, 128, 8, 2), Tile(64, 64, 4, 4), Tile(256, 32, 4, 2)
"""For large products; for those with too few tiles of that size to fill a GPU; for one narrow panel."""


def by_tile(make: Callable[[Tile], Callable]) -> Callable:
    """The kernel that ``make`` makes for `LARGE` tiles; its argument ``rows`` tells which of `TILES` a step wants."""
    found = [make(tile) for tile in TILES]
    found[0].__variants__ = ("rows", [(tile.rows, kernel) for tile, kernel in zip(TILES, found)])  # type: ignore
    return found[0]


def working(tile: Tile) -> SimpleNamespace:
    """The parts of a tile's work as functions to inline, its sizes being constants in them.

    ``held`` is what a thread carries from global to shared memory: its quads of A, then its quad of B. ``half`` is where the
    half of shared memory in use begins: A's rows, then B's.
    """
    threads, tall, columns, wide = tile.threads, tile.rows, tile.columns, tile.wide
    pitch = tall + 4
    a_quads = tall * DEPTH // 4 // threads
    b_quads = columns * DEPTH // 4
    b_all = b_quads == threads
    b_at = DEPTH * pitch
    size = DEPTH * (pitch + columns)
    both, carried = 2 * size, 4 * a_quads + 4
    sums = HIGH * wide
    panel = min(NR, columns)
    panel_quads, row_quads = _log2(panel * DEPTH // 4), _log2(panel // 4)
    across = columns // 4 if wide == 4 else columns // 8
    """threads side by side"""
    down = threads // across
    lanes_across = 8
    warps_across = _log2(across // lanes_across)
    row_step, column_step = down * 4, across * 4
    staged = 2 if 4 * down * columns > 2 * size else 4
    """rows of a thread that shared memory has room for when the products are done"""
    parts, staged_bits, quads_wide = HIGH // staged, _log2(staged), _log2(columns // 4)
    turns = staged * down * columns // 4 // threads
    assert staged * down * columns <= 2 * size

    @inline
    def begin(unit, m, n, k, k_chunk):
        """(matrix, part of its k, first row, first column) of a unit. A part is k_chunk of k, or what is left."""
        row_blocks = quotient(m + tall - 1, tall)
        rest = quotient(unit, row_blocks)
        column_blocks = quotient(n + columns - 1, columns)
        above = quotient(rest, column_blocks)
        # with the unit in it, lest it be held for all units, which would take registers from the products
        parts = quotient(k + k_chunk - 1 + above - unseen(above), k_chunk)
        i = quotient(above, parts)
        return i, above - i * parts, (unit - rest * row_blocks) * tall, (rest - above * column_blocks) * columns

    @inline
    def place():
        """(ty, tx): which quads of rows and of columns are the thread's. A warp is 4 × 8 threads."""
        t = Int(cuda.threadIdx.x)
        warp = t >> 5
        ty = ((warp >> warps_across) << 2) + ((t & 31) >> 3)
        tx = ((warp & ((1 << warps_across) - 1)) << 3) + (t & 7)
        return ty, tx

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
        """(k in the step, where in the packed matrix, floats from one k to the next) of the thread's quad of B: (k, n) from
        column n0 on. Where there is no such quad, k is `NOTHING`."""
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
        """Where a thread has its quads in a half of shared memory: (A's that it reads, B's, A's that it stores, B's)."""
        t = Int(cuda.threadIdx.x)
        ty, tx = place()
        kb = (t & ((1 << panel_quads) - 1)) >> row_quads
        column = (t >> panel_quads) * NR + (t & ((1 << row_quads) - 1)) * 4
        reads_a, reads_b = ty * 4, b_at + tx * 4
        stores_a, stores_b = a_k() * pitch + a_row(0), b_at + kb * columns + column
        return unseen(reads_a), unseen(reads_b), unseen(stores_a), unseen(stores_b)

    @inline
    def put_down(shared, to_a, to_b, held):
        """Store what a thread holds into a half of shared memory, A turned."""
        for i in range(a_quads):
            for j in range(4):
                shared[to_a + j * pitch + i * (threads // 2)] = held[4 * i + j]
        b = 4 * a_quads
        if b_all or Int(cuda.threadIdx.x) < b_quads:
            store4(shared, to_b, held[b], held[b + 1], held[b + 2], held[b + 3])

    @inline
    def step(shared, ia, ib, acc, a, b):
        """One k: the sums plus the products of a column of A and a row of B, from shared memory."""
        for h in range(2):
            v = load4(shared, ia + h * row_step)
            a[4 * h], a[4 * h + 1], a[4 * h + 2], a[4 * h + 3] = v[0], v[1], v[2], v[3]
        for h in range(wide // 4):
            v = load4(shared, ib + h * column_step)
            b[4 * h], b[4 * h + 1], b[4 * h + 2], b[4 * h + 3] = v[0], v[1], v[2], v[3]
        for i in range(HIGH):
            for j in range(wide):
                acc[i * wide + j] = fma(a[i], b[j], acc[i * wide + j])

    @inline
    def multiply(shared, ia, ib, acc):
        """The products of a whole step. The calls are written out: loops over k would be loops in the machine code."""
        a = cuda.local.array(HIGH, Float)
        b = cuda.local.array(wide, Float)
        step(shared, ia, ib, acc, a, b)
        step(shared, ia + pitch, ib + columns, acc, a, b)
        step(shared, ia + 2 * pitch, ib + 2 * columns, acc, a, b)
        step(shared, ia + 3 * pitch, ib + 3 * columns, acc, a, b)
        step(shared, ia + 4 * pitch, ib + 4 * columns, acc, a, b)
        step(shared, ia + 5 * pitch, ib + 5 * columns, acc, a, b)
        step(shared, ia + 6 * pitch, ib + 6 * columns, acc, a, b)
        step(shared, ia + 7 * pitch, ib + 7 * columns, acc, a, b)

    @inline
    def stage(shared, acc, part):
        """Store the thread's rows of sums of this ``part`` into shared memory. Which sums these are must be constants."""
        if part == 0:
            stage_rows(shared, acc, 0)
        elif part == 1:
            stage_rows(shared, acc, staged)
        elif part == 2:
            stage_rows(shared, acc, 2 * staged % HIGH)
        else:
            stage_rows(shared, acc, 3 * staged % HIGH)

    @inline
    def stage_rows(shared, acc, r):
        ty, tx = place()
        for i in range(staged):
            for h in range(wide // 4):
                s = (r + i) * wide + 4 * h
                to = (ty * staged + i) * columns + h * column_step + tx * 4
                store4(shared, to, acc[s], acc[s + 1], acc[s + 2], acc[s + 3])

    @inline
    def results(
        shared, acc, m0, m, n0, n, placed, oh, ow, full_h, full_w, osh, osw, oy0, ox0, y, ldy, bias, res, ldres, low, high,
        act, alpha, beta, scale, shift,
    ):  # fmt: skip
        """What follows the products (bias, residual, clamp or activation, factor and term), for the tile from row m0 and
        column n0 on of (m, n). Sums go through shared memory, so that a warp stores whole rows, and the code is there once,
        not for each sum.

        Row r goes to pixel r of y, or, if ``placed``, to the pixel that a convolution's geometry says."""
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
                row = m0 + (r >> 2) * row_step + (s >> staged_bits) * 4 + (r & 3)
                if row < m and left > 0:
                    got = load4(shared, s * columns + column - n0)
                    v[0], v[1], v[2], v[3] = got[0] + add[0], got[1] + add[1], got[2] + add[2], got[3] + add[3]
                    pixel = row
                    if placed:
                        line = quotient(row, ow)
                        image = quotient(line, oh)
                        pixel = (image * full_h + (line - image * oh) * osh + oy0) * full_w + (row - line * ow) * osw + ox0
                    if given(res):
                        had = cuda.local.array(4, Float)
                        quad(had, res, pixel * ldres + column, left, whole_res)
                        for j in range(4):
                            v[j] = v[j] + had[j]
                    if act == 0:
                        for j in range(4):
                            v[j] = scalar(minimum(maximum(splat(v[j]), low), high))
                    else:
                        activate(shared, s * columns + column - n0, v, act, alpha, beta)
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
def fetch(held, to, p, whole, k, end, there):
    """Four neighbours at p, which belong to k, k + 1 …: zeros from ``end`` on, and if they are not ``there``.
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
    """Four values of a thread through an activation, one by one in shared memory: the code is there once. Which comes first
    differs between lanes, so that they meet in no bank."""
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
