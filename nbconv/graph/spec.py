"""What is known of a value before it is computed: shape and element type."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Spec(NamedTuple):
    """What is known of a value before it is computed.

    ``shape`` holds an ``int`` per known dimension; in an authored graph a dimension may also be a ``str`` (symbolic) or
    None (unknown). In a planned graph all are ints. ``value`` is the array itself where it is known (a constant, or a
    shape computation), else None.
    """

    shape: tuple
    dtype: np.dtype
    value: np.ndarray | None = None
    constant: bool = False
    """whether it is the same in every run (``value`` may still be None: large constants are computed when needed)"""

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements (all dimensions must be known)."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.dtype.name}({dims})"


def spec_of(array: np.ndarray) -> Spec:
    """The Spec of a known array, its value included."""
    return Spec(array.shape, array.dtype, array, True)
