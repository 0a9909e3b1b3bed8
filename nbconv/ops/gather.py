"""Ops that pick elements by index."""

from __future__ import annotations

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops import spec as want
from nbconv.ops.op import Op


def check_range(indices: np.ndarray, size: int) -> None:
    """ModelError for an index outside [-size, size)."""
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        raise ModelError(f"indices from {indices.min()} to {indices.max()} leave an axis of size {size}")


class Gather(Op):
    """The slices of x along ``axis`` that ``indices`` name; the indices' axes take that axis's place."""

    axis: int = 0

    def infer(self, x: Spec, indices: Spec) -> Spec:
        want.kind("fiub", x=x)
        want.kind("i", indices=indices)
        axis = want.axis(self.axis, x.rank)
        if indices.value is not None:
            check_range(indices.value, x.shape[axis])
        return want.make((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)

    def reference(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        check_range(indices, x.shape[self.axis])
        return np.asarray(np.take(x, indices, axis=self.axis))


class GatherElements(Op):
    """y[i, j, …] is x at the same place, but with ``axis``'s coordinate from indices[i, j, …]."""

    axis: int = 0

    def infer(self, x: Spec, indices: Spec) -> Spec:
        want.kind("fiub", x=x)
        want.kind("i", indices=indices)
        axis = want.axis(self.axis, x.rank)
        if indices.rank != x.rank or any(
            i > d for a, (i, d) in enumerate(zip(indices.shape, x.shape, strict=True)) if a != axis
        ):
            raise ModelError(f"indices are {indices}, they do not fit x {x} outside axis {axis}")
        return Spec(indices.shape, x.dtype)

    def reference(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        axis = self.axis % x.ndim
        check_range(indices, x.shape[axis])
        near = x[tuple(slice(None) if a == axis else slice(d) for a, d in enumerate(indices.shape))]
        return np.take_along_axis(near, indices, axis=axis)
