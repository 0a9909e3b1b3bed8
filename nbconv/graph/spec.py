"""What is known of a value before it is computed: shape, element type, quantisation, and how its axes lie in memory."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import numpy as np

FLOAT32 = np.dtype(np.float32)
OBJECT = np.dtype(object)
"""The element type of strings, and of what is no tensor."""
UNRANKED = (...,)
"""The shape of an input that may have any rank."""


class Quantisation(NamedTuple):
    """What integers stand for: (x - zero_point) · scale. One of each, or with ``axis`` one for each slice along it."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def __str__(self) -> str:
        if self.axis is not None:
            return f"{len(self.scale)} scales along axis {self.axis}"
        return f"scale {self.scale[0]:g}, zero point {self.zero_point[0]}"


class Spec(NamedTuple):
    """What is known of a value before it is computed.

    ``shape`` holds an ``int`` per known dimension; in an authored graph a dimension may also be a ``str`` (symbolic) or
    None (unknown), and an input's shape `UNRANKED`. In a planned graph all are ints. ``value`` is the array itself where it
    is known (a constant, or a shape computation), else None.
    """

    shape: tuple
    dtype: np.dtype
    value: np.ndarray | None = None
    constant: bool = False
    """whether it is the same in every run (``value`` may still be None: large constants are computed when needed)"""
    quantisation: Quantisation | None = None
    """what its integers stand for, where that is known"""
    type: str = ""
    """ONNX's type of an input or output that is no tensor, as "seq(tensor(float))"; its dtype is then `OBJECT`"""

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def ranked(self) -> bool:
        """Whether the rank is declared, as everywhere but at a model's inputs."""
        return self.shape != UNRANKED

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
        if self.type:
            return self.type
        dims = ", ".join("?" if d is None else "..." if d is ... else str(d) for d in self.shape)
        return f"{self.dtype.name}({dims})" + (f" [{self.quantisation}]" if self.quantisation else "")


def spec_of(array: np.ndarray) -> Spec:
    """The Spec of a known array, its value included."""
    return Spec(array.shape, array.dtype, array, True)


class Layout(str, Enum):
    """The order in which a value's axes lie in memory. Its shape is ONNX's in any layout."""

    CHANNELS_FIRST = "channels_first"
    """as ONNX has it, outermost axis first"""
    CHANNELS_LAST = "channels_last"
    """(n, c, *size) as (n, *size, c); for values of rank 3 and more"""

    def order(self, rank: int) -> tuple[int, ...]:
        """The axes as they lie, outermost first."""
        return (0, *range(2, rank), 1) if self is Layout.CHANNELS_LAST else tuple(range(rank))

    def physical(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The dimensions in the order in which they lie."""
        return tuple(shape[a] for a in self.order(len(shape)))

    def strides(self, shape: tuple[int, ...], pitch: int = 0) -> tuple[int, ...]:
        """Element strides for each axis of the shape; ``pitch``: from pixel to pixel, where that is not the channels."""
        found, step = [0] * len(shape), 1
        for i, axis in enumerate(reversed(self.order(len(shape)))):
            found[axis] = step
            step *= pitch if i == 0 and pitch else shape[axis]
        return tuple(found)


CHANNELS_FIRST, CHANNELS_LAST = Layout
