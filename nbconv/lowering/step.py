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
    kind: str = "other"
    """pointwise (a 1×1 convolution or a product), dense (a product with one row), winograd, convolution, depthwise, numpy or
    other"""
    algorithm: str = ""
    """in a few words: the method and its blocks"""
    problem: Any = None
    """what the row was chosen for"""
    candidates: tuple[str, ...] = ()
    """the rows that fit the problem"""
    slow: str = ""
    """why it is far from what the machine could do, where that is known"""


class Work(NamedTuple):
    """What a step does, as far as its values do not say it; None: the op and its outputs do (see `nbconv.plan.cost`)."""

    flops: int | None = None
    """of the mathematics"""
    arithmetic: int | None = None
    """that its algorithm does instead: Winograd's products are fewer"""
    written: int | None = None
    """bytes"""
    seen: float = 1.0
    """the part of what it reads first that a window with gaps sees"""
    copies: bool = False
    """whether it reads no more than it writes"""


class Cost(NamedTuple):
    """What a step does: ``flops`` of the mathematics, ``arithmetic`` that its algorithm does instead (Winograd's products
    are fewer), bytes of values read and written, bytes of constants read."""

    flops: int
    arithmetic: int
    reads: int
    writes: int
    weights: int

    @property
    def nbytes(self) -> int:
        return self.reads + self.writes + self.weights


class Step(NamedTuple):
    """One kernel call of a plan, or (``kernel`` "") one op that NumPy runs."""

    node: Node
    kernel: str
    units: int
    chunk: int
    arguments: dict[str, int | float | Ref | None]
    impl: Impl
    work: Work
    reads: tuple[str, ...]
    """values, scratch memory and constants that it reads, in the arguments' order"""
    writes: tuple[str, ...]
    """values and scratch memory that it writes"""
