"""Sliding windows over an array, for the NumPy references of convolutions and pools."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from nbconv.lowering.window import Window


def pad(x: np.ndarray, window: Window, fill: float = 0) -> np.ndarray:
    """``x`` (n, c, *size) with every cell that a window touches: padded by ``fill``, also past the stated end padding
    where ceil mode reaches there."""
    spread = [(0, 0), (0, 0)]
    for size, k, s, d, b, out in zip(
        x.shape[2:], window.kernel, window.strides, window.dilations, window.begin, window.out, strict=True
    ):
        spread.append((b, max((out - 1) * s + d * (k - 1) + 1 - b - size, 0)))
    return np.pad(x, spread, constant_values=fill)


def taps(x: np.ndarray, window: Window) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Each position in the kernel, with the view (n, c, *out) of the padded ``x`` that this position sees."""
    for tap in product(*(range(k) for k in window.kernel)):
        yield tap, x[(slice(None), slice(None), *reach(tap, window))]


def reach(tap: tuple[int, ...], window: Window) -> tuple[slice, ...]:
    """The cells of the padded input that one kernel position meets, over all outputs."""
    return tuple(
        slice(t * d, t * d + (out - 1) * s + 1, s)
        for t, d, s, out in zip(tap, window.dilations, window.strides, window.out, strict=True)
    )
