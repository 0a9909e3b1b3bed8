"""Where each value of a plan lives in one block of memory."""

from __future__ import annotations

from bisect import insort

ALIGN = 64


def place(sizes: list[int], begins: list[int], ends: list[int]) -> tuple[list[int], int]:
    """Offsets for buffers that live in steps begins[i] … ends[i] (both included), and the bytes needed in all.

    Largest first, each at the lowest offset that is free for its whole life (Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020, greedy by size).
    """
    offsets = [0] * len(sizes)
    placed: list[tuple[int, int, int, int]] = []
    top = 0
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size, begin, end = -(-sizes[i] // ALIGN) * ALIGN, begins[i], ends[i]
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
