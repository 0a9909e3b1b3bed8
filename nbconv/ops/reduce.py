"""Reductions along axes, the places of extremes, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Layout, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, ONLY_FLOAT32, RANKED, Op
from nbconv.lowering.context import Lowering, Ref
from nbconv.ops.grad import ExpandLike
from nbconv.ops.pointwise import AbsGrad, Div, DivOrZero, Exp, Mul, Same, Sub
from nbconv.ops.shape import Reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Reduce(Op, abstract=True):
    """x reduced over ``axes``; without axes over all, or over none with ``noop_with_empty_axes`` (a formula's other parts,
    such as ReduceSumSquare's square, are applied all the same). A subclass writes its ``formula`` over NumPy axes."""

    accepts: ClassVar[str] = "fiu"
    kernel: ClassVar[str] = ""
    """The float32 kernel in `kernels/cpu/reduce.py`."""
    before: ClassVar[str] = ""
    """The kernel of `kernels/cpu/activation.py` for each element of x first"""
    after: ClassVar[str] = ""
    """and for the result."""

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

    @staticmethod
    def stages(shape: tuple[int, ...], over: tuple[int, ...], layout: Layout) -> list[tuple[int, int, int]]:
        """(outer, n, inner) of each reduction in turn, over axes that lie side by side, the innermost first."""
        order = [a for a in layout.order(len(shape)) if shape[a] != 1]
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

    def layouts(self, inputs, outputs, given):
        """As x lies; without kept axes only if the result lies as ONNX has it."""
        if given[0] is CHANNELS_LAST and self.has_kernel(inputs, outputs):
            if self.keepdims:
                return given, (CHANNELS_LAST,)
            x, over = inputs[0], self._over(inputs)
            left = [a for a in CHANNELS_LAST.order(x.rank) if a not in over and x.shape[a] != 1]
            if left == sorted(left):
                return given, (CHANNELS_FIRST,)
        return super().layouts(inputs, outputs, given)

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    def has_kernel(self, inputs, outputs) -> bool:
        return bool(self.kernel) and super().has_kernel(inputs, outputs) and inputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        x, over = to.inputs[0], self._over(to.inputs)
        source = to.input(0)
        if self.before:
            whole = to.floats(x.size)
            to.unary(f"activation.{self.before}", x=source, y=whole, n=x.size)
            source = whole
        sums(to, self.stages(x.shape, over, to.layout(to.node.inputs[0])), source, to.output(), self.kernel, self.scaling)
        if self.after:
            to.unary(f"activation.{self.after}", x=to.output())

    def kept(self, to: Backward, name: str) -> str:
        """A value of the result's shape, with the reduced axes as 1."""
        if self.keepdims:
            return name
        shape = tuple(1 if i in self._over(to.inputs) else d for i, d in enumerate(to.inputs[0].shape))
        return to.add(Reshape(allowzero=1), name, to.constant(np.array(shape, np.int64)))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (self.back(to, self.kept(to, to.dy())), *[None] * (len(to.inputs) - 1))

    def back(self, to: Backward, dy: str) -> str:
        """The gradient of x; ``dy`` has the reduced axes as 1."""
        raise NotImplementedError(self.type)

    def shared(self, to: Backward, dy: str) -> str:
        """`back` of an extreme: the elements that have it share dy equally, as in PyTorch's `amax`."""
        mask = to.add(Same(), to.x(), self.kept(to, to.y()))
        axes = to.constant(np.array(self._over(to.inputs), np.int64))
        count = to.add(ReduceSum(noop_with_empty_axes=1), mask, axes)
        return to.add(Mul(), mask, to.add(Div(), dy, count))

    def scaling(self, n: int) -> dict[str, float]:
        """More arguments of the kernel, for a reduction of n elements."""
        return {"scale": 1.0} if self.kernel == "sum_scaled" else {}


def sums(
    to: Lowering, stages: list[tuple[int, int, int]], x: Ref, y: Ref, kernel: str, more: Callable[[int], dict[str, float]]
) -> None:
    """The steps of a reduction in `stages` (see `Reduce.stages`) from x to y; ``more`` gives the kernel's other arguments
    for so many elements."""
    stages = [turn for stage in stages for turn in to.turns(*stage)]
    for k, (outer, n, inner) in enumerate(stages):
        last = k == len(stages) - 1
        target = y if last else to.floats(outer * inner)
        to.columns_step(
            f"reduce.{kernel}", outer, n, inner, x=x, y=target, **more(prod(s[1] for s in stages) if last else 1)
        )
        x = target


def total(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The sum over ``axes`` (0 of nothing), kept, in x's type."""
    return x.sum(axis=axes, keepdims=True, dtype=x.dtype)


class ReduceSum(Reduce):
    batch_sums = (0,)
    kernel = "sum_scaled"

    def formula(self, x, axes):
        return total(x, axes)

    def back(self, to: Backward, dy: str) -> str:
        return to.add(ExpandLike(), dy, to.x())


class ReduceMean(Reduce):
    """Integers are divided toward zero."""

    keeps_classes = True
    kernel = "sum_scaled"

    def formula(self, x, axes):
        return total(x, axes) / prod(x.shape[a] for a in axes)

    def scaling(self, n):
        return {"scale": 1 / n}

    def back(self, to: Backward, dy: str) -> str:
        n = prod(to.inputs[0].shape[a] for a in self._over(to.inputs))
        scale = to.constant(np.array(1 / max(n, 1), to.inputs[0].dtype))
        return to.add(ExpandLike(), to.add(Mul(), dy, scale), to.x())


class ReduceMax(Reduce):
    """NaN where there is one; of nothing, minus infinity or the type's least value."""

    accepts = "fiub"
    kernel = "max"

    def formula(self, x, axes):
        return x.max(axis=axes, keepdims=True, initial=extreme(x.dtype, -1))

    def back(self, to: Backward, dy: str) -> str:
        return self.shared(to, dy)


class ReduceMin(Reduce):
    """NaN where there is one; of nothing, infinity or the type's greatest value."""

    accepts = "fiub"
    kernel, before, after = "max", "negative", "negative"

    def formula(self, x, axes):
        return x.min(axis=axes, keepdims=True, initial=extreme(x.dtype, 1))

    def back(self, to: Backward, dy: str) -> str:
        return self.shared(to, dy)


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

    def back(self, to: Backward, dy: str) -> str:
        return to.add(ProdGrad(axes=self._over(to.inputs)), dy, to.x())


class ProdGrad(Op):
    """dy · the product of all the others along ``axes``: from both ends, so that zeros are no matter."""

    domain = "nbconv"

    axes: tuple[int, ...]

    def infer(self, dy: Spec, x: Spec) -> Spec:
        want.broadcast_to(dy.shape, x.shape, "dy")
        return Spec(x.shape, x.dtype)

    def reference(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        front = tuple(range(len(self.axes)))
        rows = np.moveaxis(x, self.axes, front)
        flat = rows.reshape(prod(rows.shape[: len(front)]), *rows.shape[len(front) :])
        one = np.ones((1, *flat.shape[1:]), x.dtype)
        before = np.concatenate([one, np.cumprod(flat[:-1], axis=0, dtype=x.dtype)])[: len(flat)]
        after = np.concatenate([one, np.cumprod(flat[:0:-1], axis=0, dtype=x.dtype)])[: len(flat)][::-1]
        others = np.moveaxis((before * after).reshape(rows.shape), front, self.axes)
        return np.asarray(dy * others)


class ReduceL1(Reduce):
    kernel, before = "sum_scaled", "abs"

    def formula(self, x, axes):
        return total(np.abs(x), axes)

    def back(self, to: Backward, dy: str) -> str:
        return to.add(AbsGrad(), to.add(ExpandLike(), dy, to.x()), to.x())


class ReduceL2(Reduce):
    kernel, before, after = "sum_scaled", "square", "square_root"

    def formula(self, x, axes):
        return np.sqrt(total(x * x, axes))

    def back(self, to: Backward, dy: str) -> str:
        """x / y, and 0 where all of x is 0, as PyTorch has it."""
        return to.add(Mul(), to.x(), to.add(DivOrZero(), dy, self.kept(to, to.y())))


class ReduceSumSquare(Reduce):
    kernel, before = "sum_scaled", "square"

    def formula(self, x, axes):
        return total(x * x, axes)

    def back(self, to: Backward, dy: str) -> str:
        two = to.constant(np.array(2, to.inputs[0].dtype))
        return to.add(Mul(), to.x(), to.add(Mul(), dy, two))


class ReduceLogSum(Reduce):
    kernel, after = "sum_scaled", "log"

    def formula(self, x, axes):
        return np.log(total(x, axes))

    def back(self, to: Backward, dy: str) -> str:
        return to.add(ExpandLike(), to.add(Div(), dy, to.add(Exp(), self.kept(to, to.y()))), to.x())


class ReduceLogSumExp(Reduce):
    """log Σ exp(x), without overflow."""

    def formula(self, x, axes):
        if x.dtype.kind != "f":
            x = x.astype(np.float64)
        top = x.max(axis=axes, keepdims=True, initial=-np.inf)
        top = np.where(np.isfinite(top), top, x.dtype.type(0))
        return top + np.log(total(np.exp(x - top), axes))

    def back(self, to: Backward, dy: str) -> str:
        share = to.add(Exp(), to.add(Sub(), to.x(), self.kept(to, to.y())))
        return to.add(Mul(), share, dy)


class Arg(Op, abstract=True):
    """Where along ``axis`` the extreme stands, int64: the first of equals, or the last with ``select_last_index``. NaN
    counts as the extreme, as in NumPy."""

    processor_dtypes, kernel_layout = RANKED, CHANNELS_FIRST
    kernel: ClassVar[str] = ""
    """In `kernels/cpu/rank.py`, by the element type."""

    axis: int = 0
    keepdims: int = 1
    select_last_index: int = 0

    def infer(self, x: Spec) -> Spec:
        want.kind("fiu", x=x)
        axis = want.axis(self.axis, x.rank)
        if x.shape[axis] == 0:
            raise ModelError(f"x is {x}: axis {axis} is empty")
        return Spec((*x.shape[:axis], *[1] * bool(self.keepdims), *x.shape[axis + 1 :]), want.INT64)

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and outputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        x, axis = to.inputs[0], want.axis(self.axis, to.inputs[0].rank)
        to.step(
            f"rank.{self.kernel}_{x.dtype.name}",
            to.outputs[0].size,
            work=8 * x.size,
            x=to.input(0),
            y=to.output(),
            n=x.shape[axis],
            inner=prod(x.shape[axis + 1 :]),
            latest=int(bool(self.select_last_index)),
        )

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
    kernel = "arg_max"

    def find(self, x):
        return x.argmax(axis=self.axis)


class ArgMin(Arg):
    kernel = "arg_min"

    def find(self, x):
        return x.argmin(axis=self.axis)
