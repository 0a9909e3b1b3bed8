"""Inputs like photographs: large and small structures."""

from __future__ import annotations

import numpy as np


def picture(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 in 0…1 of this shape, whose last two axes are height and width: patches in several sizes, and noise."""
    random = np.random.default_rng(seed)
    *rest, height, width = shape
    y = 0.1 * random.random(shape, np.float32)
    for cells, weight in ((3, 0.5), (8, 0.3), (20, 0.1)):
        patches = random.random((*rest, cells, cells), np.float32)
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        y += np.float32(weight) * patches[..., rows[:, None], columns]
    return y
