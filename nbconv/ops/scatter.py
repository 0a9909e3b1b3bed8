"""Ops that put slices or elements at indexed places of a copy of an array."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, FLOAT32, ONLY_FLOAT32, STORED, Op
from nbconv.lowering.context import Lowering
from nbconv.lowering.indices import checked_places, put_along, put_rows, served
from nbconv.ops.gather import Gather, Places, places_along, places_nd
from nbconv.ops.linear import reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


class Scatter(Op, abstract=True):
    """x with updates at some of its rows, each replaced (the last update stays) or combined by ``reduction`` in the updates'
    order. A subclass says where: x and the updates become (rows, inner), and an update has a row of x."""

    fixed = (0,)
    moves = True
    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED
    kernel_layout = CHANNELS_FIRST

    reduction: str = "none"

    def check(self, x: Spec, indices: Spec, updates: Spec) -> None:
        """What both kinds want."""
        if self.reduction != "none" and self.reduction not in REDUCTIONS:
            raise ModelError(f"reduction is {self.reduction!r}, wanted none, {', '.join(REDUCTIONS)}")
        want.one_type("fiub" if self.reduction == "none" else "fiu", x=x, updates=updates)
        want.kind("i", indices=indices)

    def rows(self, x: tuple[int, ...], indices: tuple[int, ...]) -> tuple[int, int]:
        """(rows, elements of one) of x, for shapes of x and the indices."""
        raise NotImplementedError(self.type)

    def places(self, indices: np.ndarray, x: tuple[int, ...]) -> np.ndarray:
        """The row of each update; ModelError for one outside."""
        raise NotImplementedError(self.type)

    def places_op(self, to: Backward) -> Places:
        """The op that computes `places`."""
        raise NotImplementedError(self.type)

    def reference(self, x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
        rows, inner = self.rows(x.shape, indices.shape)
        places = self.places(indices, x.shape).reshape(-1)
        y, new = x.reshape(rows, inner).copy(), updates.reshape(places.size, inner)
        if self.reduction == "none":
            kept, last = np.unique(places[::-1], return_index=True)
            y[kept] = new[::-1][last]
        else:
            with np.errstate(all="ignore"):
                REDUCTIONS[self.reduction].at(y, places, new)
        return y.reshape(x.shape)

    def sorts(self, inputs) -> bool:
        """Whether updates are sorted by their rows when the plan is made."""
        return inputs[1].value is not None and inputs[0].dtype == FLOAT32 and self.reduction in ("none", "add")

    def has_kernel(self, inputs, outputs) -> bool:
        meets = self.reduction == "none" or inputs[0].dtype == FLOAT32
        return super().has_kernel(inputs, outputs) and outputs[0].size > 0 and meets and served(inputs[1])

    def on_processors(self, inputs, outputs) -> bool:
        return not self.sorts(inputs)

    def put(self, to: Lowering, how: int) -> None:
        """The steps that put the updates on a copy of x, at indices that are checked there."""
        raise NotImplementedError(self.type)

    def lower(self, to: Lowering) -> None:
        if not self.sorts(to.inputs):
            n = to.outputs[0].size
            to.copy(to.input(0), to.output(), (n,), (1,), (1,))
            if to.inputs[1].size and to.inputs[2].size:
                self.put(to, ("none", *REDUCTIONS).index(self.reduction))
            return
        x, adds = to.inputs[0], self.reduction == "add"
        rows, inner = self.rows(x.shape, to.inputs[1].shape)
        places = self.places(to.value(1), x.shape).reshape(-1)
        order = np.argsort(places, kind="stable")
        if not adds and places.size:
            ends = np.append(places[order][1:] != places[order][:-1], True)
            order = order[ends]
        starts = np.searchsorted(places[order], np.arange(rows + 1))
        to.step(
            "scatter.scatter",
            rows,
            work=8 * x.size,
            x=to.input(0),
            updates=to.input(2),
            y=to.output(),
            starts=to.table("starts", starts.astype(np.int64)),
            order=to.table("order", order.astype(np.int64) if order.size else np.zeros(1, np.int64)),
            inner=inner,
            adds=int(adds),
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x, indices, updates = to.inputs
        if self.reduction not in ("none", "add"):
            raise UnsupportedError(f"reduction {self.reduction!r} has no gradient")
        dx = dupdates = None
        if to.wants(0) and self.reduction == "add":
            dx = to.dy()
        elif to.wants(0):
            zeros = to.constant(np.zeros(updates.shape, updates.dtype))
            dx = to.add(type(self)(**self.attributes()), to.dy(), to.x(1), zeros)
        if to.wants(2):
            known = indices.value
            places = to.add(self.places_op(to), to.x(1)) if known is None else to.constant(self.places(known, x.shape))
            rows, inner = self.rows(x.shape, indices.shape)
            slices = to.add(Gather(), reshape(to, to.dy(), (rows, inner)), places)
            dupdates = reshape(to, slices, updates.shape)
        return dx, None, dupdates


class ScatterND(Scatter):
    """x with the slices that ``indices`` name replaced by, or combined with, those of ``updates``: along the last axis of
    the indices is one for each of x's first axes."""

    def infer(self, x: Spec, indices: Spec, updates: Spec) -> Spec:
        self.check(x, indices, updates)
        want.rank(x, 1)
        want.rank(indices, 1, name="indices")
        depth = indices.shape[-1]
        if not 1 <= depth <= x.rank:
            raise ModelError(f"indices are {indices}: wanted 1 to {x.rank} along their last axis")
        if updates.shape != (*indices.shape[:-1], *x.shape[depth:]):
            wanted = [*indices.shape[:-1], *x.shape[depth:]]
            raise ModelError(f"updates are {updates}, wanted shape {wanted} for x {x} and indices {indices}")
        if indices.value is not None:
            self.places(indices.value, x.shape)
        return Spec(x.shape, x.dtype)

    def rows(self, x, indices) -> tuple[int, int]:
        return prod(x[: indices[-1]]), prod(x[indices[-1] :])

    def places(self, indices, x) -> np.ndarray:
        return places_nd(indices, x[: indices.shape[-1]])

    def places_op(self, to: Backward) -> Places:
        return Places(shape=to.inputs[0].shape[: to.inputs[1].shape[-1]])

    def put(self, to: Lowering, how: int) -> None:
        x, indices = to.inputs[0].shape, to.inputs[1].shape
        places = checked_places(to, 1, x[: indices[-1]])
        put_rows(to, places, prod(indices[:-1]), prod(x[indices[-1] :]), how)


class ScatterElements(Scatter):
    """x with updates[i, j, …] at, or combined with what is at, the same place but with ``axis``'s coordinate from
    indices[i, j, …]."""

    axis: int = 0

    def infer(self, x: Spec, indices: Spec, updates: Spec) -> Spec:
        self.check(x, indices, updates)
        axis = want.axis(self.axis, x.rank)
        if indices.rank != x.rank or any(
            i > d for a, (i, d) in enumerate(zip(indices.shape, x.shape, strict=True)) if a != axis
        ):
            raise ModelError(f"indices are {indices}, they do not fit x {x} outside axis {axis}")
        if updates.shape != indices.shape:
            raise ModelError(f"updates are {updates}, indices {indices}: wanted one shape")
        if indices.value is not None:
            self.places(indices.value, x.shape)
        return Spec(x.shape, x.dtype)

    def rows(self, x, indices) -> tuple[int, int]:
        return prod(x), 1

    def places(self, indices, x) -> np.ndarray:
        return places_along(indices, x, self.axis % len(x))

    def places_op(self, to: Backward) -> Places:
        x = to.inputs[0]
        return Places(shape=x.shape, axis=want.axis(self.axis, x.rank))

    def put(self, to: Lowering, how: int) -> None:
        x = to.inputs[0]
        put_along(to, x.shape, want.axis(self.axis, x.rank), 2, how)


class TensorScatter(Op):
    """``past`` with ``update`` written along ``axis`` from a sample's write index on (by default 0); where ``mode`` is
    circular, on at the axis's begin."""

    fixed = (0,)
    moves = True

    axis: int = -2
    mode: str = "linear"

    def infer(self, past: Spec, update: Spec, write_indices: Spec | None = None) -> Spec:
        dtype = want.one_type("fiub", past_cache=past, update=update)
        axis = want.axis(self.axis, past.rank)
        if self.mode not in ("linear", "circular"):
            raise ModelError(f"mode is {self.mode!r}, wanted linear or circular")
        fits = update.rank == past.rank and update.shape[axis : axis + 1] <= past.shape[axis : axis + 1]
        if axis == 0 or not fits or any(a != axis and u != p for a, (u, p) in enumerate(zip(update.shape, past.shape))):
            raise ModelError(
                f"update is {update}, past_cache {past}: wanted its shape, or less along axis {axis}, not the first"
            )
        want.vector(past.shape[0], f"past_cache {past}", write_indices=write_indices)
        if write_indices is not None:
            want.kind("i", write_indices=write_indices)
            if write_indices.value is not None:
                self.cells(past.shape, update.shape, write_indices.value)
        return Spec(past.shape, dtype)

    def cells(self, past: tuple, update: tuple, write: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """What to index an array with whose axis stands second: samples, and places along the axis."""
        axis = self.axis % len(past)
        size, count = past[axis], update[axis]
        at = (np.zeros(past[0], np.int64) if write is None else write.astype(np.int64))[:, None] + np.arange(count)
        if self.mode == "circular":
            at %= max(size, 1)
        if at.size and (at.min() < 0 or at.max() >= size):
            raise ModelError(f"write_indices lead from {at.min()} to {at.max()}, outside of an axis of size {size}")
        return np.arange(past[0])[:, None], at

    def reference(self, past: np.ndarray, update: np.ndarray, write_indices: np.ndarray | None = None) -> np.ndarray:
        y, axis = past.copy(), self.axis % past.ndim
        np.moveaxis(y, axis, 1)[self.cells(past.shape, update.shape, write_indices)] = np.moveaxis(update, axis, 1)
        return y

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        past, update, given = to.inputs[0], to.inputs[1], [to.x(2)] if to.has(2) else []
        zeros = to.constant(np.zeros(update.shape, update.dtype))
        dpast = to.add(TensorScatter(axis=self.axis, mode=self.mode), to.dy(), zeros, *given) if to.wants(0) else None
        grad = TensorScatterGrad(axis=want.axis(self.axis, past.rank), mode=self.mode, count=update.shape[self.axis])
        return dpast, to.add(grad, to.dy(), *given) if to.wants(1) else None, *[None] * (len(to.inputs) - 2)


class TensorScatterGrad(Op):
    """What of dy lies where `TensorScatter` wrote ``count`` entries along ``axis``."""

    domain = "nbconv"

    axis: int
    mode: str
    count: int

    def infer(self, dy: Spec, write_indices: Spec | None = None) -> Spec:
        return want.make((*dy.shape[: self.axis], self.count, *dy.shape[self.axis + 1 :]), dy.dtype)

    def reference(self, dy: np.ndarray, write_indices: np.ndarray | None = None) -> np.ndarray:
        forward = TensorScatter(axis=self.axis, mode=self.mode)
        shape = (*dy.shape[: self.axis], self.count, *dy.shape[self.axis + 1 :])
        found = np.moveaxis(dy, self.axis, 1)[forward.cells(dy.shape, shape, write_indices)]
        return np.ascontiguousarray(np.moveaxis(found, 1, self.axis))
