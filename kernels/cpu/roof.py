"""What the processor can do at best: multiply-adds on registers, reading and writing at each level
of the memory.
Nothing runs these but the measurement of a machine's roofline."""

from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Int, i64

from ._ir import VT, call_intrinsic
from ._simd import Floats, W, at, kernel, load, store, vec

CHAINS = 12
"""Sums that do not wait for one another: two a cycle at a latency of four need eight, and 16
registers hold these."""


@intrinsic
def _spin(tc, n, x, y):
    """n turns of sum ← sum · x + y in each chain, all of it in registers; the total of the
    chains."""

    def gen(ctx, b, sig, args):
        count, xv, yv = args
        entry, body, done = b.block, b.append_basic_block("spin"), b.append_basic_block("spun")
        b.branch(body)
        b.position_at_end(body)
        i = b.phi(i64)
        i.add_incoming(i64(0), entry)
        sums = [b.phi(VT) for _ in range(CHAINS)]
        start = xv
        new = [call_intrinsic(b, f"fmuladd.v{W}f32", VT, s, xv, yv) for s in sums]
        for s, v in zip(sums, new):
            s.add_incoming(start, entry)
            s.add_incoming(v, body)
        after = b.add(i, i64(1))
        i.add_incoming(after, body)
        b.cbranch(b.icmp_signed("<", after, count), body, done)
        b.position_at_end(done)
        total = new[0]
        for v in new[1:]:
            total = b.fadd(total, v)
        return total

    return vec(types.int64, vec, vec), gen


@kernel
def multiply_add(x: Floats, n: Int, part: Int, first: Int, last: Int, slot: Int) -> None:
    """A unit is n turns of 12 multiply-adds of vectors.
    A thread works on ``part`` floats of x of its own."""
    mine = at(x, slot * part)
    for unit in range(first, last):
        store(mine, 0, _spin(n, load(mine, W), load(mine, 2 * W)))


@kernel
def read(x: Floats, n: Int, part: Int, first: Int, last: Int, slot: Int) -> None:
    """A unit is one pass over n floats (a multiple of eight vectors) of the thread's own part of
    x."""
    mine = at(x, slot * part)
    for unit in range(first, last):
        a, b, c, d = load(mine, 0), load(mine, 0), load(mine, 0), load(mine, 0)
        e, f, g, h = load(mine, 0), load(mine, 0), load(mine, 0), load(mine, 0)
        for i in range(0, n, 8 * W):
            a, b, c, d = (
                a + load(mine, i),
                b + load(mine, i + W),
                c + load(mine, i + 2 * W),
                d + load(mine, i + 3 * W),
            )
            e, f, g, h = (
                e + load(mine, i + 4 * W),
                f + load(mine, i + 5 * W),
                g + load(mine, i + 6 * W),
                h + load(mine, i + 7 * W),
            )
        store(mine, n, a + b + c + d + e + f + g + h)


@kernel
def scale(x: Floats, n: Int, part: Int, first: Int, last: Int, slot: Int) -> None:
    """A unit reads the first half of n floats (a multiple of eight vectors) of the thread's own
    part of x and writes the other half, which lies half a page further than it need: loads wait for
    stores whose addresses end alike."""
    mine = at(x, slot * part)
    half = n // 2
    other = at(mine, half + 512)
    for unit in range(first, last):
        for i in range(0, half, 4 * W):
            a, b, c, d = load(mine, i), load(mine, i + W), load(mine, i + 2 * W), load(mine, i + 3 * W)
            store(other, i, a * a)
            store(other, i + W, b * b)
            store(other, i + 2 * W, c * c)
            store(other, i + 3 * W, d * d)
