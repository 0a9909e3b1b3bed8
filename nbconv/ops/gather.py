"""Ops that pick elements by index."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, FLOAT32, ONLY_FLOAT32, STORED, Op
from nbconv.graph.symbolic import apply
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.indices import ADD, along, as_int64, checked_places, put_along, served
from nbconv.ops.linear import reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


def check_range(indices: np.ndarray, size: int) -> None:
    """ModelError for an index outside [-size, size)."""
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        raise ModelError(f"indices from {indices.min()} to {indices.max()} leave an axis of size {size}")


def reachable(inputs: tuple[Spec, ...], outputs: tuple[Spec, ...]) -> bool:
    """Whether kernels take the indices, input 1: known ones, which were checked, or others, where there is something to take
    for a wrong one."""
    checkable = served(inputs[1]) and inputs[0].size > 0
    return outputs[0].size > 0 and (inputs[1].value is not None or checkable)


def emit_gather(
    to: Lowering,
    outer: int,
    places: np.ndarray | Ref,
    count: int,
    size: int,
    inner: int,
    x: Ref | None = None,
    y: Ref | None = None,
    name: str = "places",
) -> None:
    """The step that takes these ``count`` slices along the middle axis of x (outer, size, inner), input 0 or another, into
    y, by default the output. ``places`` are known, int64, or memory where checked ones will lie; ``name`` tells tables of
    several steps of a node apart."""
    table = places if isinstance(places, Ref) else to.table(name, places)
    width = to.inputs[0].dtype.itemsize
    to.step(
        "gather.gather" if width == FLOAT32.itemsize else f"elements.gather_{width}",
        outer * count,
        work=8 * outer * count * inner,
        x=x or to.input(0),
        y=y or to.output(),
        places=table,
        count=count,
        size=size,
        inner=inner,
    )


def _places(indices: np.ndarray, size: int) -> np.ndarray:
    """int64 indices from the front, as a vector."""
    return (indices.astype(np.int64) % size).reshape(-1)


class Gather(Op):
    """The slices of x along ``axis`` that ``indices`` name; the indices' axes take that axis's place."""

    moves = True
    keeps_quantisation = True

    kernel_dtypes, processor_dtypes, kernel_layout = ONLY_FLOAT32, STORED, CHANNELS_FIRST

    axis: int = 0

    def infer(self, x: Spec, indices: Spec) -> Spec:
        want.kind("fiubn", x=x)
        want.kind("i", indices=indices)
        axis = want.axis(self.axis, x.rank)
        if indices.value is not None:
            check_range(indices.value, x.shape[axis])
        return want.make((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)

    def reference(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        check_range(indices, x.shape[self.axis])
        return np.asarray(np.take(x, indices, axis=self.axis))

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        taken = want.axis(self.axis, inputs[0].rank)
        return None if axis == taken else axis if axis < taken else axis + inputs[1].rank - 1

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and reachable(inputs, outputs)

    def on_processors(self, inputs, outputs) -> bool:
        return inputs[1].value is None or super().on_processors(inputs, outputs)

    def lower(self, to: Lowering) -> None:
        x, axis = to.inputs[0], want.axis(self.axis, to.inputs[0].rank)
        outer, size, inner = prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :])
        known = to.inputs[1].value is not None
        places = apply(_places, to.value(1), size) if known else checked_places(to, 1, (size,))
        emit_gather(to, outer, places, to.inputs[1].size, size, inner)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        axis = want.axis(self.axis, to.inputs[0].rank)
        return to.add(GatherGrad(axis=axis, shape=to.inputs[0].shape), to.dy(), to.x(1)), None


class GatherGrad(Op):
    """Zeros of ``shape`` to which each slice of dy is added where `Gather` took it, in the order of the indices."""

    domain = "nbconv"
    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    axis: int
    shape: tuple[int, ...]

    def infer(self, dy: Spec, indices: Spec) -> Spec:
        want.kind("i", indices=indices)
        if dy.shape != (*self.shape[: self.axis], *indices.shape, *self.shape[self.axis + 1 :]):
            raise ModelError(f"dy is {dy}, indices {indices}: they are not of a Gather from {list(self.shape)}")
        if indices.value is not None:
            check_range(indices.value, self.shape[self.axis])
        return Spec(self.shape, dy.dtype)

    def reference(self, dy: np.ndarray, indices: np.ndarray) -> np.ndarray:
        check_range(indices, self.shape[self.axis])
        dx = np.zeros(self.shape, dy.dtype)
        flat = dy.reshape(*self.shape[: self.axis], indices.size, *self.shape[self.axis + 1 :])
        np.add.at(np.moveaxis(dx, self.axis, 0), indices.reshape(-1), np.moveaxis(flat, self.axis, 0))
        return dx

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and served(inputs[1])

    def on_processors(self, inputs, outputs) -> bool:
        return inputs[1].dtype != np.int64

    def lower(self, to: Lowering) -> None:
        outer, size, inner = prod(self.shape[: self.axis]), self.shape[self.axis], prod(self.shape[self.axis + 1 :])
        width = min(inner, 256)
        checked = to.target.gpu or to.inputs[1].value is not None  # on a GPU by the step that gathered
        indices = as_int64(to, 1) if checked or not to.inputs[1].size else checked_places(to, 1, (size,))
        to.step(
            "gather.gather_grad",
            outer * -(-inner // width),
            writes=("dx",),
            work=8 * (to.outputs[0].size + to.inputs[0].size),
            dy=to.input(0),
            indices=indices,
            dx=to.output(),
            count=to.inputs[1].size,
            size=size,
            inner=inner,
            width=width,
        )


def places_nd(indices: np.ndarray, shape: tuple[int, ...], batch: int = 0) -> np.ndarray:
    """For each index, which the last axis of ``indices`` holds, its row-major place in an array of this shape, int64; the
    first ``batch`` coordinates are those of the index itself. ModelError for one outside."""
    found = np.zeros(indices.shape[:-1], np.int64)
    for axis, size in enumerate(shape[:batch]):
        found = found * size + np.arange(size).reshape(-1, *[1] * (found.ndim - axis - 1))
    for i, size in enumerate(shape[batch:]):
        check_range(indices[..., i], size)
        found = found * size + indices[..., i].astype(np.int64) % max(size, 1)
    return found


def places_along(indices: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """For each index along ``axis`` the row-major place in an array of this shape, int64, whose other coordinates are those
    of the index itself. ModelError for one outside."""
    check_range(indices, shape[axis])
    found = np.zeros(indices.shape, np.int64)
    for a, size in enumerate(shape):
        own = np.arange(indices.shape[a]).reshape(-1, *[1] * (indices.ndim - a - 1))
        found = found * size + (indices.astype(np.int64) % max(size, 1) if a == axis else own)
    return found


class Places(Op):
    """`places_along` of the indices for an array of this ``shape``, or without ``axis`` `places_nd`."""

    moves = True
    domain = "nbconv"

    shape: tuple[int, ...]
    axis: int | None = None
    batch: int = 0

    def infer(self, indices: Spec) -> Spec:
        want.kind("i", indices=indices)
        return Spec(indices.shape[:-1] if self.axis is None else indices.shape, want.INT64)

    def reference(self, indices: np.ndarray) -> np.ndarray:
        if self.axis is None:
            return places_nd(indices, self.shape, self.batch)
        return places_along(indices, self.shape, self.axis)


class GatherND(Op):
    """The slices of x that ``indices`` name: along their last axis is an index for each axis of x behind the first
    ``batch_dims``, which go one by one."""

    moves = True
    keeps_quantisation = True

    kernel_dtypes, processor_dtypes, kernel_layout = ONLY_FLOAT32, STORED, CHANNELS_FIRST

    batch_dims: int = 0

    def infer(self, x: Spec, indices: Spec) -> Spec:
        want.kind("fiub", x=x)
        want.kind("i", indices=indices)
        want.rank(x, 1)
        want.rank(indices, 1, name="indices")
        batch, depth = self.batch_dims, indices.shape[-1]
        if not 0 <= batch < min(x.rank, indices.rank) or x.shape[:batch] != indices.shape[:batch]:
            raise ModelError(f"batch_dims is {batch}, x is {x}, indices {indices}: wanted that many equal axes")
        if not 1 <= depth <= x.rank - batch:
            raise ModelError(f"indices are {indices}: wanted 1 to {x.rank - batch} along their last axis")
        if indices.value is not None:
            places_nd(indices.value, x.shape[: batch + depth], batch)
        return want.make((*indices.shape[:-1], *x.shape[batch + depth :]), x.dtype)

    def reference(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        there = self.batch_dims + indices.shape[-1]
        places = places_nd(indices, x.shape[:there], self.batch_dims)
        return np.asarray(x.reshape(prod(x.shape[:there]), *x.shape[there:])[places])

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and reachable(inputs, outputs)

    def on_processors(self, inputs, outputs) -> bool:
        return inputs[1].value is None or super().on_processors(inputs, outputs)

    def lower(self, to: Lowering) -> None:
        x, indices, batch = to.inputs[0], to.inputs[1], self.batch_dims
        there, count = batch + indices.shape[-1], prod(indices.shape[:-1])
        if indices.value is not None:
            places = places_nd(to.value(1), x.shape[:there], batch).reshape(-1).astype(np.int64)
        else:
            places = checked_places(to, 1, x.shape[batch:there], prod(indices.shape[batch:-1]))
        emit_gather(to, 1, places, count, prod(x.shape[:there]), prod(x.shape[there:]))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x, there = to.inputs[0], self.batch_dims + to.inputs[1].shape[-1]
        places = to.add(Places(shape=x.shape[:there], batch=self.batch_dims), to.x(1))
        dx = to.add(GatherGrad(axis=0, shape=(prod(x.shape[:there]), *x.shape[there:])), to.dy(), places)
        return reshape(to, dx, x.shape), None


class GatherElements(Op):
    """y[i, j, …] is x at the same place, but with ``axis``'s coordinate from indices[i, j, …]."""

    moves = True
    keeps_quantisation = True

    processor_dtypes, kernel_layout = ONLY_FLOAT32 | STORED, CHANNELS_FIRST

    axis: int = 0

    def infer(self, x: Spec, indices: Spec) -> Spec:
        want.kind("fiubn", x=x)
        want.kind("i", indices=indices)
        axis = want.axis(self.axis, x.rank)
        if indices.rank != x.rank or any(
            i > d for a, (i, d) in enumerate(zip(indices.shape, x.shape, strict=True)) if a != axis
        ):
            raise ModelError(f"indices are {indices}, they do not fit x {x} outside axis {axis}")
        if indices.value is not None:
            check_range(indices.value, x.shape[axis])
        return Spec(indices.shape, x.dtype)

    def reference(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        axis = self.axis % x.ndim
        check_range(indices, x.shape[axis])
        near = x[tuple(slice(None) if a == axis else slice(d) for a, d in enumerate(indices.shape))]
        return np.take_along_axis(near, indices, axis=axis)

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and reachable(inputs, outputs) and served(inputs[1])

    def lower(self, to: Lowering) -> None:
        x = to.inputs[0]
        units, arguments = along(to, 1, x.shape, want.axis(self.axis, x.rank))
        to.step(
            f"indices.take_along_{x.dtype.itemsize}",
            units,
            work=16 * to.outputs[0].size,
            writes=("y", "wrong"),
            x=to.input(0),
            y=to.output(),
            **arguments,
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        axis = want.axis(self.axis, to.inputs[0].rank)
        return to.add(GatherElementsGrad(axis=axis, shape=to.inputs[0].shape), to.dy(), to.x(1)), None


class GatherElementsGrad(Op):
    """Zeros of ``shape`` to which each element of dy is added where `GatherElements` took it, in the order of the axis."""

    domain = "nbconv"
    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    axis: int
    shape: tuple[int, ...]

    def infer(self, dy: Spec, indices: Spec) -> Spec:
        want.kind("i", indices=indices)
        if dy.shape != indices.shape or dy.rank != len(self.shape):
            raise ModelError(f"dy is {dy}, indices {indices}: they are not of a GatherElements from {list(self.shape)}")
        return Spec(self.shape, dy.dtype)

    def reference(self, dy: np.ndarray, indices: np.ndarray) -> np.ndarray:
        check_range(indices, self.shape[self.axis])
        dx = np.zeros(self.shape, dy.dtype)
        places = tuple(indices if a == self.axis else at for a, at in enumerate(np.indices(indices.shape)))
        np.add.at(dx, places, dy)
        return dx

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and served(inputs[1])

    def on_processors(self, inputs, outputs) -> bool:
        alike = all(d == e for a, (d, e) in enumerate(zip(inputs[1].shape, self.shape, strict=True)) if a != self.axis)
        return not alike or inputs[1].dtype != np.int64

    def lower(self, to: Lowering) -> None:
        if not to.target.gpu:
            to.fill(to.output(), to.outputs[0].size)
            if to.inputs[0].size:
                put_along(to, self.shape, self.axis, 0, ADD)
            return
        outer, size, inner = prod(self.shape[: self.axis]), self.shape[self.axis], prod(self.shape[self.axis + 1 :])
        to.step(
            "gather.gather_elements_grad",
            outer,
            writes=("dx",),
            work=8 * (to.outputs[0].size + to.inputs[0].size),
            dy=to.input(0),
            indices=to.input(1),
            dx=to.output(),
            count=to.inputs[1].shape[self.axis],
            size=size,
            inner=inner,
        )
