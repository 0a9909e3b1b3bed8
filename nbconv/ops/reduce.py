"""Reductions along axes, the places of extremes, and softmax."""

from __future__ import annotations

from math import prod
from typing import ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.lowering import Lowering, physical
from nbconv.ops import spec as want
from nbconv.ops.op import ANY, CANONICAL, NUMPY, Op


class Reduce(Op, abstract=True):
    """x reduced over ``axes``; without axes over all, or over none with ``noop_with_empty_axes`` (a formula's other parts,
    such as ReduceSumSquare's square, are applied all the same). A subclass writes its ``formula`` over NumPy axes."""

    accepts: ClassVar[str] = "fiu"
    kernel: ClassVar[str] = ""
    """The float32 kernel in `kernels/cpu/reduce.py`."""

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

    def _over(self, inputs) -> tuple[int, ...]:
        axes = inputs[1] if len(inputs) > 1 else None
        return self.over(inputs[0].rank, None if axes is None else want.integers(axes, "axes"))

    def stages(self, shape: tuple[int, ...], over: tuple[int, ...], last: bool) -> list[tuple[int, int, int]]:
        """(outer, n, inner) of each reduction in turn, over axes that lie side by side, the innermost first."""
        order = [a for a in physical(tuple(range(len(shape))), last) if shape[a] != 1]
        found = []
        while any(a in over for a in order):
            end = max(i for i, a in enumerate(order) if a in over) + 1
            first = end
            while first and order[first - 1] in over:
                first -= 1
            outer, n, inner = (prod(shape[a] for a in part) for part in (order[:first], order[first:end], order[end:]))
            found.append((outer, n, inner))
            order = order[:first] + order[end:]
        return found or [(prod(shape), 1, 1)]

    def place(self, inputs, outputs, last):
        """As x lies; without kept axes only if the result lies as ONNX has it."""
        x, over = inputs[0], self._over(inputs)
        if not last or not last[0] or not self.kernel or x.dtype != np.float32:
            return None
        if self.keepdims:
            return last, (True,)
        left = [a for a in physical(tuple(range(x.rank)), True) if a not in over and x.shape[a] != 1]
        return (last, (False,)) if left == sorted(left) else None

    def layout(self, inputs, outputs) -> str:
        return CANONICAL if self.kernel and inputs[0].dtype == np.float32 and inputs[0].size else NUMPY

    def lower(self, to: Lowering) -> None:
        x, over = to.inputs[0], self._over(to.inputs)
        stages = self.stages(x.shape, over, to.last(to.node.inputs[0]))
        source = to.input(0)
        for k, (outer, n, inner) in enumerate(stages):
            target = to.output() if k == len(stages) - 1 else to.scratch(4 * outer * inner)
            more = self.scaling(prod(s[1] for s in stages)) if k == len(stages) - 1 else self.scaling(1)
            to.columns_step(f"reduce.{self.kernel}", outer, n, inner, x=source, y=target, **more)
            source = target

    def scaling(self, n: int) -> dict[str, float]:
        """More arguments of the kernel, for a reduction of n elements."""
        return {}


def total(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The sum over ``axes`` (0 of nothing), kept, in x's type."""
    return x.sum(axis=axes, keepdims=True, dtype=x.dtype)


class ReduceSum(Reduce):
    kernel = "sum_scaled"

    def formula(self, x, axes):
        return total(x, axes)

    def scaling(self, n):
        return {"scale": 1.0}


class ReduceMean(Reduce):
    """Integers are divided toward zero."""

    kernel = "sum_scaled"

    def formula(self, x, axes):
        return total(x, axes) / prod(x.shape[a] for a in axes)

    def scaling(self, n):
        return {"scale": 1 / n}


class ReduceMax(Reduce):
    """NaN where there is one; of nothing, minus infinity or the type's least value."""

    accepts = "fiub"
    kernel = "largest"

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

    def layout(self, inputs, outputs) -> str:
        return ANY if inputs[0].dtype == np.float32 else NUMPY

    def lower(self, to: Lowering) -> None:
        shape = to.outputs[0].shape
        order = physical(tuple(range(len(shape))), to.last(to.node.outputs[0]))
        lying, at = to.out_shape(), order.index(want.axis(self.axis, len(shape)))
        to.columns_step("reduce.softmax", prod(lying[:at]), lying[at], prod(lying[at + 1 :]))


class LogSoftmax(Softmax):
    """log of `Softmax`, without overflow."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            z = self.shifted(x)
            return z - np.log(np.exp(z).sum(axis=self.axis, keepdims=True))

    def layout(self, inputs, outputs) -> str:
        return NUMPY


class Hardmax(Softmax):
    """1 at the first greatest element along ``axis``, else 0."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        y = np.zeros(x.shape, x.dtype)
        if x.size:
            np.put_along_axis(y, np.expand_dims(x.argmax(axis=self.axis), self.axis), x.dtype.type(1), axis=self.axis)
        return y

    def layout(self, inputs, outputs) -> str:
        return NUMPY
