"""Reductions along axes, the places of extremes, and softmax."""

from __future__ import annotations

from math import prod
from typing import ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops import spec as want
from nbconv.ops.op import Op


class Reduce(Op, abstract=True):
    """x reduced over ``axes``; without axes over all, or over none with ``noop_with_empty_axes`` (a formula's other parts,
    such as ReduceSumSquare's square, are applied all the same). A subclass writes its ``formula`` over NumPy axes."""

    accepts: ClassVar[str] = "fiu"

    keepdims: int = 1
    noop_with_empty_axes: int = 0

    def over(self, rank: int, axes) -> tuple[int, ...]:
        """The axes to reduce, from the front, sorted."""
        if axes is None or len(axes) == 0:
            return () if self.noop_with_empty_axes else tuple(range(rank))
        return tuple(sorted(want.axes(axes, rank)))

    def infer(self, x: Spec, axes: Spec | None = None) -> Spec:
        want.kind(self.accepts, x=x)
        over = self.over(x.rank, None if axes is None else want.integers(axes, "axes"))
        if self.keepdims:
            return Spec(tuple(1 if i in over else d for i, d in enumerate(x.shape)), x.dtype)
        return Spec(tuple(d for i, d in enumerate(x.shape) if i not in over), x.dtype)

    def formula(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """The reduction of ``x`` with kept axes."""
        raise NotImplementedError(self.type)

    def reference(self, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        over = self.over(x.ndim, None if axes is None else axes.ravel())
        with np.errstate(all="ignore"):
            y = np.asarray(self.formula(x, over)).astype(x.dtype, copy=False)
        return y if self.keepdims else y.reshape([d for i, d in enumerate(x.shape) if i not in over])

    def flops(self, inputs, outputs) -> int:
        return inputs[0].size


def total(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The sum over ``axes`` (0 of nothing), kept, in x's type."""
    return x.sum(axis=axes, keepdims=True, dtype=x.dtype)


class ReduceSum(Reduce):
    def formula(self, x, axes):
        return total(x, axes)


class ReduceMean(Reduce):
    """Integers are divided toward zero."""

    def formula(self, x, axes):
        return total(x, axes) / x.dtype.type(prod(x.shape[a] for a in axes))


class ReduceMax(Reduce):
    """NaN where there is one; of nothing, minus infinity or the type's least value."""

    accepts = "fiub"

    def formula(self, x, axes):
        return x.max(axis=axes, keepdims=True, initial=extreme(x.dtype, -1))


class ReduceMin(Reduce):
    """NaN where there is one; of nothing, infinity or the type's greatest value."""

    accepts = "fiub"

    def formula(self, x, axes):
        return x.min(axis=axes, keepdims=True, initial=extreme(x.dtype, 1))


def extreme(dtype: np.dtype, sign: int) -> float | int | bool:
    """The greatest (``sign=1``) or least (``sign=-1``) value of a type."""
    if dtype.kind == "f":
        return sign * np.inf
    if dtype.kind == "b":
        return sign > 0
    return np.iinfo(dtype).max if sign > 0 else np.iinfo(dtype).min


class ReduceProd(Reduce):
    def formula(self, x, axes):
        return x.prod(axis=axes, keepdims=True, dtype=x.dtype)


class ReduceL1(Reduce):
    def formula(self, x, axes):
        return total(np.abs(x), axes)


class ReduceL2(Reduce):
    def formula(self, x, axes):
        return np.sqrt(total(x * x, axes))


class ReduceSumSquare(Reduce):
    def formula(self, x, axes):
        return total(x * x, axes)


class ReduceLogSum(Reduce):
    def formula(self, x, axes):
        return np.log(total(x, axes))


class ReduceLogSumExp(Reduce):
    """log Σ exp(x), without overflow."""

    def formula(self, x, axes):
        if x.dtype.kind != "f":
            x = x.astype(np.float64)
        top = x.max(axis=axes, keepdims=True, initial=-np.inf)
        top = np.where(np.isfinite(top), top, x.dtype.type(0))
        return top + np.log(total(np.exp(x - top), axes))


class Arg(Op, abstract=True):
    """Where along ``axis`` the extreme stands, int64: the first of equals, or the last with ``select_last_index``. NaN
    counts as the extreme, as in NumPy."""

    axis: int = 0
    keepdims: int = 1
    select_last_index: int = 0

    def infer(self, x: Spec) -> Spec:
        want.kind("fiu", x=x)
        axis = want.axis(self.axis, x.rank)
        if x.shape[axis] == 0:
            raise ModelError(f"x is {x}: axis {axis} is empty")
        return Spec((*x.shape[:axis], *[1] * bool(self.keepdims), *x.shape[axis + 1 :]), want.INT64)

    def find(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, x: np.ndarray) -> np.ndarray:
        if self.select_last_index:
            place = x.shape[self.axis] - 1 - self.find(np.flip(x, self.axis))
        else:
            place = self.find(x)
        place = np.asarray(place, np.int64)
        return np.expand_dims(place, self.axis % x.ndim) if self.keepdims else place


class ArgMax(Arg):
    def find(self, x):
        return x.argmax(axis=self.axis)


class ArgMin(Arg):
    def find(self, x):
        return x.argmin(axis=self.axis)


class Softmax(Op):
    """exp(x) / Σ exp(x) along ``axis``, without overflow."""

    axis: int = -1

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.axis(self.axis, x.rank)
        return Spec(x.shape, x.dtype)

    def shifted(self, x: np.ndarray) -> np.ndarray:
        """x less its greatest along the axis."""
        return x - x.max(axis=self.axis, keepdims=True, initial=-np.inf)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            e = np.exp(self.shifted(x))
            return e / e.sum(axis=self.axis, keepdims=True)

    def flops(self, inputs, outputs) -> int:
        return 4 * outputs[0].size


class LogSoftmax(Softmax):
    """log of `Softmax`, without overflow."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            z = self.shifted(x)
            return z - np.log(np.exp(z).sum(axis=self.axis, keepdims=True))


class Hardmax(Softmax):
    """1 at the first greatest element along ``axis``, else 0."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        y = np.zeros(x.shape, x.dtype)
        if x.size:
            np.put_along_axis(y, np.expand_dims(x.argmax(axis=self.axis), self.axis), x.dtype.type(1), axis=self.axis)
        return y
