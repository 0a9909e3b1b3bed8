"""Constants that a model's plans share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LARGE = 1 << 20
"""Bytes."""


class Weights:
    """Constants derived from a model's constants (folded, packed), made once and shared by all its plans."""

    def __init__(self, drop: Callable[[], None] | None = None) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._drop = drop
        """gives back the memory of the model's file, which large arrays were just made from; it is read again at need"""

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this name, made now if it is new. Two threads may both make it; one array stays."""
        found = self.arrays.get(key)
        if found is None:
            found = self.arrays.setdefault(key, make())
            if found.nbytes >= LARGE:
                self.drop()
        return found

    def drop(self) -> None:
        """Give back the memory of the model's file."""
        if self._drop is not None:
            self._drop()

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.arrays.values())
