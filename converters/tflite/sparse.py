"""Sparse constants written out: TFLite's levels (Kjolstad et al., "The tensor algebra compiler", 2017), blocks included."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbconv.errors import ModelError

MOST = 1 << 28
"""Elements of a constant that is written out, at most."""


def dense(values: np.ndarray, shape: tuple[int, ...], sparsity: Any, name: str) -> np.ndarray:
    """The array of ``shape`` whose stored elements are ``values``, 0 elsewhere. ModelError where levels do not fit."""
    order, blocks, levels = sparsity
    rank = len(shape)
    wrong = ModelError(f"tensor {name!r} {list(shape)}: its sparse levels do not fit")
    if sorted(order) != list(range(rank + len(blocks))) or any(not 0 <= b < rank for b in blocks) or math.prod(shape) > MOST:
        raise wrong
    # no place is met twice, so each level of a file that fits makes at most as many as something behind it has entries
    most = max(len(values), *(len(level[0]) for level in levels if not isinstance(level, int)), 1)
    at = np.zeros(1, np.int64)
    coordinates: list[np.ndarray] = []
    sizes = [1] * len(order)
    for axis, level in zip(order, levels, strict=True):
        if isinstance(level, int):
            if level < 1 or len(at) * level > most:
                raise wrong
            sizes[axis] = level
            counts, here = np.full(len(at), level), np.tile(np.arange(level), len(at))
            at = np.repeat(at * level, level) + here
        else:
            segments, indices = level
            if len(at) and at.max() + 1 >= len(segments):
                raise wrong
            first, counts = segments[at], segments[at + 1] - segments[at]
            if counts.min(initial=0) < 0 or counts.sum() > len(indices) or first.min(initial=0) < 0:
                raise wrong
            starts = np.cumsum(counts) - counts
            at = np.arange(counts.sum()) - np.repeat(starts, counts) + np.repeat(first, counts)
            if at.max(initial=-1) >= len(indices):
                raise wrong
            here = indices[at]
        coordinates = [np.repeat(c, counts) for c in coordinates] + [here]
    if at.max(initial=-1) >= len(values):
        raise wrong
    places = dict(zip(order.tolist(), coordinates, strict=True))
    whole = [places[i] for i in range(rank)]
    for i, axis in enumerate(blocks):
        whole[axis] = whole[axis] * sizes[rank + i] + places[rank + i]
    if any(c.min(initial=0) < 0 or c.max(initial=-1) >= d for c, d in zip(whole, shape, strict=True)):
        raise wrong
    found = np.zeros(shape, values.dtype)
    found[tuple(whole)] = values[at]
    return found
