"""Nested axes of strided arrays: merged where they lie alike, and cut for units."""

from __future__ import annotations

from collections.abc import Iterable


def tiles(n3: int, n4: int) -> int:
    """How many tiles `copy` of kernels/cuda/move.py cuts a plane of n3 × n4 elements into."""
    tall, wide = (256, 8) if n4 <= 8 else (4, 256) if n3 <= 4 else (32, 32)
    return -(-n3 // tall) * -(-n4 // wide)


def merge(axes: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """(length, stride in one array, stride in the other) of nested axes, outermost first, with unit axes dropped and
    neighbours that lie alike in both made one; at least one axis."""
    merged: list[tuple[int, int, int]] = []
    for d, a, b in axes:
        if d == 1:
            continue
        if merged and merged[-1][1] == a * d and merged[-1][2] == b * d:
            merged[-1] = (merged[-1][0] * d, a, b)
        else:
            merged.append((d, a, b))
    return merged or [(1, 1, 1)]


def split(axis: tuple[int, int, int], most: int, lanes: int) -> tuple[list[tuple[int, int, int]], tuple[int, int, int]]:
    """An axis as (outer axes, inner axis) with about ``most`` elements inside, whole vectors of ``lanes`` if it can be,
    where its length has such a divisor."""
    d, a, b = axis
    most = max(1, min(most, d))
    inner = next(k for k in range(most, 0, -1) if d % k == 0)
    if d % lanes == 0:
        inner = lanes * next(k for k in range(max(1, most // lanes), 0, -1) if d // lanes % k == 0)
    if inner * 16 < most:
        return [], axis
    return [(d // inner, a * inner, b * inner)], (inner, a, b)
