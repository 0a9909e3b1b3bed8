"""Where each value of a plan lives in one block of memory."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from itertools import accumulate
from random import Random

ALIGN = 64
ORDERS = 32
"""Most orders that are tried where the first does not give what is wanted."""
SPREAD = 0.2
"""Of the random factors on sizes, which these orders are of: the deviation of their logarithms."""


def plan_memory(
    sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int], enough: float | None = None
) -> tuple[list[int], int]:
    """Offsets for buffers that live in steps begins[i] … ends[i] (both included), and the bytes needed in all.

    Largest first, each at the lowest offset that is free for its whole life (Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020, greedy by size). Where that takes more than ``enough`` bytes, though at
    no step so many live, other orders are tried: long lives count too, and sizes are varied by seeded random factors.
    """
    wide = [-(-s // ALIGN) * ALIGN for s in sizes]
    best = _in_order(wide, begins, ends, sorted(range(len(wide)), key=lambda i: (-wide[i], i)))
    if enough is None or best[1] <= enough or _most(wide, begins, ends) > enough:
        return best
    random = Random(1)
    for _ in range(ORDERS):
        weights = [
            s * (e - b + 1) ** 0.2 * random.lognormvariate(0, SPREAD) for s, b, e in zip(wide, begins, ends, strict=True)
        ]
        found = _in_order(wide, begins, ends, sorted(range(len(wide)), key=lambda i: (-weights[i], i)))
        best = min(best, found, key=lambda f: f[1])
        if best[1] <= enough:
            break
    return best


def _most(sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> int:
    """The most bytes that live in one step."""
    change = [0] * (max(ends, default=0) + 2)
    for size, begin, end in zip(sizes, begins, ends, strict=True):
        change[begin] += size
        change[end + 1] -= size
    return max(accumulate(change))


def _in_order(
    sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int], order: Sequence[int]
) -> tuple[list[int], int]:
    """Offsets of buffers that are placed in this order, and the bytes needed in all."""
    offsets = [0] * len(sizes)
    placed: list[tuple[int, int, int, int]] = []
    top = 0
    for i in order:
        size, begin, end = sizes[i], begins[i], ends[i]
        offset = 0
        for low, high, other_begin, other_end in placed:
            if other_begin <= end and begin <= other_end:
                if offset + size <= low:
                    break
                offset = max(offset, high)
        offsets[i] = offset
        if size:
            insort(placed, (offset, offset + size, begin, end))
        top = max(top, offset + size)
    return offsets, top
