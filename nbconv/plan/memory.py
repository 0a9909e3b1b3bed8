"""Where each value of a plan lives in one block of memory."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf
from random import Random

ALIGN = 64
ORDERS = 128
"""Most orders that are tried where the first does not give what is wanted."""
SMALL = 512
"""Buffers of a smaller part than one of so many of what lives at one time are left out where orders are tried."""
HOPELESS = 1.02
"""How many times the wanted bytes live at one time where no other order is worth trying."""


def plan_memory(
    sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int], enough: float | None = None
) -> tuple[list[int], int]:
    """Offsets for buffers that live in steps begins[i] … ends[i] (both included), and the bytes needed in all.

    Largest first, each at the lowest offset that is free for its whole life (Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020, greedy by size). Where that takes more than ``enough`` bytes, though at
    no step clearly more live, other orders are tried, the same ones whatever is enough (see `_orders`).
    """
    wide = [-(-s // ALIGN) * ALIGN for s in sizes]
    order = sorted(range(len(wide)), key=lambda i: (-wide[i], i))
    best = _in_order(wide, begins, ends, order)
    assert best is not None
    if enough is None or best[1] <= enough or (live := most_live(sizes, begins, ends)) > HOPELESS * enough:
        return best
    large = [i for i in order if SMALL * wide[i] >= live]
    small, below = order[len(large) :], best[1]
    found: list[tuple[int, list[int]]] = []
    for some in _orders(large, wide, begins, ends):
        placed = _in_order(wide, begins, ends, some, below)
        if placed is not None:
            below = placed[1]
            found.append((below, some))
            if below <= max(enough, live):
                best = _in_order(wide, begins, ends, [*some, *small], best[1]) or best
                if best[1] <= max(enough, live):
                    return best
    for least, some in reversed(found):
        if least < best[1]:
            best = _in_order(wide, begins, ends, [*some, *small], best[1]) or best
    return best


def _orders(which: Sequence[int], sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> Iterator[list[int]]:
    """Orders in which buffers may be placed, from a seed: by size, but those that live long or when much does come earlier,
    some more than others."""
    live = _live(sizes, begins, ends)
    most = {i: max(live[begins[i] : ends[i] + 1]) / max(live) for i in which}
    random = Random(1)
    for k in range(ORDERS):
        life, crowd = (0.2, 0.0) if k % 2 else (random.uniform(0, 0.8), random.uniform(0, 4))
        spread = 0.2 if k % 2 else random.uniform(0, 0.3)
        weights = {
            i: sizes[i] * (ends[i] - begins[i] + 1) ** life * most[i] ** crowd * random.lognormvariate(0, spread)
            for i in which
        }
        yield sorted(which, key=lambda i: (-weights[i], i))


def most_live(sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> int:
    """The most bytes that live in one step, each buffer aligned."""
    return max(_live([-(-s // ALIGN) * ALIGN for s in sizes], begins, ends))


def _live(sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The bytes that live in each step."""
    change = [0] * (max(ends, default=0) + 2)
    for size, begin, end in zip(sizes, begins, ends, strict=True):
        change[begin] += size
        change[end + 1] -= size
    return list(accumulate(change))


def _in_order(
    sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int], order: Sequence[int], below: float = inf
) -> tuple[list[int], int] | None:
    """Offsets of buffers that are placed in this order, and the bytes needed in all; None if these are not ``below``."""
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
        if top >= below:
            return None
    return offsets, top
