"""How threads share the products of a step of a tile: by multiply-adds of each thread, or by tensor
cores.

Both read columns of A and rows of B that lie in shared memory, and hold their sums as quads of a
row.
A step has 8 products.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

from ._simd import Float, Int, cuda, fma, inline, load2, load4, mma, store4, to_tf32

HIGH = 8
"""Rows of a thread's sums where threads multiply."""


class Tile(NamedTuple):
    """A block's tile: rows × columns sums by ``threads`` threads, ``wide`` columns each; ``blocks``
    blocks fit an SM."""

    rows: int
    columns: int
    wide: int
    blocks: int

    @property
    def threads(self) -> int:
        return self.rows * self.columns // (HIGH * self.wide)


def quads(tile: Tile) -> SimpleNamespace:
    """Each thread multiplies: `HIGH` × ``tile.wide`` sums, quads of four rows and four columns half
    a tile apart, so that a warp reads neighbouring 16 bytes.
    A lies as [k][row], B as [k][column]; rows of A are four floats longer than the tile, which puts
    the two quads of k that a warp stores into different banks."""
    columns, wide, high = tile.columns, tile.wide, HIGH
    pitch, stage_pitch = tile.rows + 4, columns
    size_a, size = 8 * pitch, 8 * (pitch + columns)
    across = columns // wide
    """threads side by side"""
    row_step, column_step = tile.rows // 2, across * 4
    lanes_across = 8
    warps_across = (across // lanes_across).bit_length() - 1

    @inline
    def place():
        """(ty, tx): which quads of rows and of columns are the thread's.
        A warp is 4 × 8 threads."""
        t = Int(cuda.threadIdx.x)
        warp = t >> 5
        ty = ((warp >> warps_across) << 2) + ((t & 31) >> 3)
        tx = ((warp & ((1 << warps_across) - 1)) << 3) + (t & 7)
        return ty, tx

    @inline
    def row_of(ty, i):
        """The row in the tile of the i-th row of sums that threads with this ty have."""
        return (i >> 2) * row_step + ty * 4 + (i & 3)

    @inline
    def reads():
        """Where in shared A and B the thread's quads begin."""
        ty, tx = place()
        return ty * 4, size_a + tx * 4

    @inline
    def stores(row, ka, kb, column):
        """Where in shared memory the thread stores its quads: of A, from (row, ka) on; of B, from
        (kb, column) on."""
        return ka * pitch + row, size_a + kb * columns + column

    @inline
    def put_a(shared, to, i, held, further):
        """Four k of a row; ``further``: rows between a thread's quads."""
        for j in range(4):
            shared[to + j * pitch + i * further] = held[4 * i + j]

    @inline
    def put_turned(shared, half, quad, k, held):
        """Four rows of A and four columns of B of one k, both the quad-th, where A comes as
        [k][row]."""
        store4(shared, half + k * pitch + quad * 4, held[0], held[1], held[2], held[3])
        store4(shared, half + size_a + k * columns + quad * 4, held[4], held[5], held[6], held[7])

    @inline
    def turned_row(row):
        """The row of A that `put_turned` has put in the place of this one."""
        return row

    @inline
    def put_b(shared, to, held, at):
        """Four columns of a k."""
        store4(shared, to, held[at], held[at + 1], held[at + 2], held[at + 3])

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
        """The products of a whole step.
        The calls are written out: loops over k would be loops in the machine code."""
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
    def stage_row(shared, acc, row, i, staged):
        """Store a row of the thread's sums for `results`, the i-th of ``staged``."""
        ty, tx = place()
        for h in range(wide // 4):
            s = row * wide + 4 * h
            to = (ty * staged + i) * columns + h * column_step + tx * 4
            store4(shared, to, acc[s], acc[s + 1], acc[s + 2], acc[s + 3])

    return _shared(locals())


def fragments(tile: Tile) -> SimpleNamespace:
    """A warp multiplies 32 rows and ``tile.wide`` · 8 columns by `mma`, 16 × 8 at a time.
    (PTX ISA, "Matrix Fragments for mma.m16n8k8".)

    Which row, column and k of the tile are which of the instruction's is free, as long as A and B
    agree on k.
    Thread 4r + q of a warp has the instruction's rows r and r + 8, column r of B, and two k: here
    rows 2r and 2r + 1 of 16, columns 4r … 4r + 3 of 32, one an instruction, and k = 2q and 2q + 1.
    Its sums are then of columns 8q … 8q + 7.

    What an instruction takes lies together, as its registers do: A as [k / 2][row / 2][k % 2][row %
    2], B as [k / 2][column % 4][column / 4][k % 2].
    From k = 4 on the two k are swapped, B's rows of k / 2 are in the order 0, 2, 1, 3, and rows are
    8 floats longer than needed: so no two threads meet in a bank.
    """
    high, halves, columns = 4, tile.wide // 4, tile.columns
    wide = 8 * halves
    a_pitch, b_pitch = 2 * tile.rows + 8, 2 * columns + 8
    size_a, size, stage_pitch = 4 * a_pitch, 4 * (a_pitch + b_pitch), columns + 4
    warps_across = (columns // (32 * halves)).bit_length() - 1

    @inline
    def warp_place():
        """(down, across) in rows and columns of the tile."""
        warp = Int(cuda.threadIdx.x) >> 5
        return (warp >> warps_across) * 32, (warp & ((1 << warps_across) - 1)) * (32 * halves)

    @inline
    def place():
        """(ty, tx): the thread's number among those that share columns, and which quad of columns
        is its first."""
        down, across = warp_place()
        t = Int(cuda.threadIdx.x) & 31
        return (down >> 2) + (t >> 2), (across >> 2) + (t & 3) * 2

    @inline
    def row_of(ty, i):
        """The row in the tile of the i-th row of sums that threads with this ty have."""
        return (ty >> 3) * 32 + (i >> 1) * 16 + (ty & 7) * 2 + (i & 1)

    @inline
    def reads():
        down, across = warp_place()
        t = Int(cuda.threadIdx.x) & 31
        q, r = t & 3, t >> 2
        return q * a_pitch + down * 2 + r * 4, size_a + swapped(q) * b_pitch + (across >> 1) + r * 2

    @inline
    def swapped(q):
        return ((q & 1) << 1) + (q >> 1)

    @inline
    def slot(k):
        return (k & 1) ^ (k >> 2)

    @inline
    def stores(row, ka, kb, column):
        a = (ka >> 1) * a_pitch + (row >> 1) * 4 + 2 * slot(ka) + (row & 1)
        return a, size_a + swapped(kb >> 1) * b_pitch + (column >> 1) + slot(kb)

    @inline
    def put_a(shared, to, i, held, further):
        """Four k of a row; ``further``: rows between a thread's quads."""
        here = to + i * further * 2
        shared[here] = to_tf32(held[4 * i])
        shared[here ^ 2] = to_tf32(held[4 * i + 1])
        shared[here + a_pitch] = to_tf32(held[4 * i + 2])
        shared[(here ^ 2) + a_pitch] = to_tf32(held[4 * i + 3])

    @inline
    def put_b(shared, to, held, at):
        """Four columns of a k."""
        for j in range(4):
            shared[to + j * (columns // 2)] = to_tf32(held[at + j])

    @inline
    def put_turned(shared, half, quad, k, held):
        """Four rows of A and four columns of B of one k, both the quad-th, where A comes as
        [k][row]."""
        a = half + (k >> 1) * a_pitch + (quad >> 1) * 4 + 2 * slot(k) + (quad & 1)
        for j in range(4):
            shared[a + j * (tile.rows // 2)] = to_tf32(held[j])
        put_b(shared, half + size_a + swapped(k >> 1) * b_pitch + quad * 2 + slot(k), held, 4)

    @inline
    def turned_row(row):
        """The row of A that `put_turned` has put in the place of this one."""
        return (row & (tile.rows // 4 - 1)) * 4 + row // (tile.rows // 4)

    @inline
    def multiply(shared, ia, ib, acc):
        """The products of a whole step."""
        for i in range(2):
            a = load4(shared, ia + 32 * i)
            for h in range(halves):
                for j in range(4):
                    b = load2(shared, ib + j * (columns // 2) + 16 * h)
                    s = 2 * i * wide + 8 * h + j
                    d = mma(acc[s], acc[s + 4], acc[s + wide], acc[s + wide + 4], a[0], a[1], a[2], a[3], b[0], b[1])
                    acc[s], acc[s + 4], acc[s + wide], acc[s + wide + 4] = d[0], d[1], d[2], d[3]

    @inline
    def stage_row(shared, acc, row, i, staged):
        """Store a row of the thread's sums for `results`; the i-th of ``staged``, which is 1."""
        ty, tx = place()
        for h in range(halves):
            for e in range(2):
                s = row * wide + 8 * h + 4 * e
                store4(shared, ty * stage_pitch + 32 * h + 4 * e + tx * 4, acc[s], acc[s + 1], acc[s + 2], acc[s + 3])

    return _shared(locals())


def _shared(found: dict) -> SimpleNamespace:
    names = "place row_of reads stores put_a put_b put_turned turned_row multiply stage_row high wide size stage_pitch"
    return SimpleNamespace(**{name: found[name] for name in names.split()})
