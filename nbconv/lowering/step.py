"""A step of a plan: one call of a kernel, and what others must know of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbconv.graph import FLOAT32, Node


class Ref(NamedTuple):
    """An address in a plan: a value's or a constant's memory, ``offset`` bytes in, where elements of this type lie."""

    name: str
    offset: int = 0
    dtype: np.dtype = FLOAT32

    def at(self, elements: int) -> Ref:
        """The address of the element that lies this many further."""
        return Ref(self.name, self.offset + self.dtype.itemsize * elements, self.dtype)


class Impl(NamedTuple):
    """How a step does its work."""

    name: str
    """of the row of an implementation list, or of the kernel"""
    problem: Any = None
    """what the row was chosen for"""
    candidates: tuple[str, ...] = ()
    """the rows that fit the problem"""


class Step(NamedTuple):
    """One kernel call of a plan, or (``kernel`` "") one op that NumPy runs."""

    node: Node
    kernel: str
    units: int
    chunk: int
    arguments: dict[str, int | float | Ref | None]
    impl: Impl
