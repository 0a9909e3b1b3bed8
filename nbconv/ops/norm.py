"""Normalisations."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Layout, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering, Operand, Ref
from nbconv.ops.grad import ExpandLike
from nbconv.ops.pointwise import Abs, AbsGrad, Add, Div, DivOrZero, Mul, Sqrt, Sub
from nbconv.ops.reduce import ReduceMean, ReduceSum, sums

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


def lrn_layout(size: int, y: Spec) -> str:
    """The layout of the kernels of `LRN` and its gradient, see kernels/cpu/norm.py."""
    return CHANNELS_LAST if y.shape[1] <= 4096 and size <= 128 and y.dtype in ONLY_FLOAT32 else NUMPY


class LRN(Op):
    """x / (bias + alpha / size · Σx²)^beta, the sum over ``size`` channels around each, floor((size-1)/2) of them before."""

    is_norm = True

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.rank(x, 2)
        if self.size < 1:
            raise ModelError(f"size is {self.size}, must be positive")
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            square, total, c = x * x, np.zeros(x.shape, x.dtype), x.shape[1]
            before, after = min((self.size - 1) // 2, c), min(self.size // 2, c)
            for shift in range(-before, after + 1):
                lo, hi = max(0, -shift), min(c, c - shift)
                total[:, lo:hi] += square[:, lo + shift : hi + shift]
            return x / (self.bias + self.alpha / self.size * total) ** self.beta

    def flops(self, inputs, outputs) -> int:
        return (self.size + 4) * outputs[0].size

    def layout(self, inputs, outputs) -> str:
        return lrn_layout(self.size, outputs[0])

    def lower(self, to: Lowering) -> None:
        size, c = to.outputs[0].size, to.outputs[0].shape[1]
        to.step(
            "norm.lrn",
            size // c,
            work=100 * size,
            x=to.input(0),
            y=to.output(),
            c=c,
            before=(self.size - 1) // 2,
            after=self.size // 2,
            alpha=self.alpha / self.size,
            beta=self.beta,
            bias=self.bias,
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(LRNGrad(**self.attributes()), to.dy(), to.x()),)


class LRNGrad(Op):
    """dy · s^-beta - 2 · alpha / size · beta · x · Σ dy · x · s^(-beta - 1), where s is what LRN raises to -beta, and the
    sum is over the channels whose window has this one."""

    domain = "nbconv"

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, dy: Spec, x: Spec) -> Spec:
        dtype = want.one_type("f", dy=dy, x=x)
        if dy.shape != x.shape:
            raise ModelError(f"dy is {dy}, x is {x}: wanted one shape")
        return Spec(x.shape, dtype)

    def layout(self, inputs, outputs) -> str:
        return lrn_layout(self.size, outputs[0])

    def reference(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            c, before, after = x.shape[1], (self.size - 1) // 2, self.size // 2

            def windows(v: np.ndarray, low: int, high: int) -> np.ndarray:
                total = np.zeros(v.shape, v.dtype)
                for shift in range(-min(low, c), min(high, c) + 1):
                    begin, end = max(0, -shift), min(c, c - shift)
                    total[:, begin:end] += v[:, begin + shift : end + shift]
                return total

            s = self.bias + self.alpha / self.size * windows(x * x, before, after)
            part = windows(dy * x * s ** (-self.beta - 1), after, before)
            return dy * s**-self.beta - 2 * self.alpha / self.size * self.beta * x * part

    def lower(self, to: Lowering) -> None:
        size, c = to.outputs[0].size, to.outputs[0].shape[1]
        to.step(
            "norm.lrn_grad",
            size // c,
            writes=("dx",),
            work=200 * size,
            dy=to.operand(0).ref,
            x=to.operand(1).ref,
            dx=to.output(),
            c=c,
            before=(self.size - 1) // 2,
            after=self.size // 2,
            alpha=self.alpha / self.size,
            beta=self.beta,
            bias=self.bias,
        )


class LpNormalization(Op):
    """x divided by its p-norm along ``axis``, 0 where that norm is 0."""

    axis: int = -1
    p: int = 2

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.axis(self.axis, x.rank)
        if self.p not in (1, 2):
            raise ModelError(f"p is {self.p}, wanted 1 or 2")
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            norm = np.abs(x).sum(axis=self.axis, keepdims=True)
            if self.p == 2:
                norm = np.sqrt((x * x).sum(axis=self.axis, keepdims=True))
            return np.where(norm == 0, x.dtype.type(0), x / norm)

    kernel_dtypes = ONLY_FLOAT32

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and inputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        x, layout = to.inputs[0], to.layout(to.node.inputs[0])
        axis = want.axis(self.axis, x.rank)
        sized = to.floats(x.size)
        to.unary(f"activation.{'abs' if self.p == 1 else 'square'}", y=sized)
        norm, kept = kept_sums(to, sized, (axis,), layout, 1.0)
        if self.p == 2:
            to.unary("activation.square_root", x=norm, y=norm, n=x.size // x.shape[axis])
        to.broadcast("arithmetic_grad.div_or_zero", Operand(to.input(0), to.strides(0)), Operand(norm, kept), to.output())

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy, x, y = to.dy(), to.x(), to.y()
        axes = to.constant(np.array([self.axis], np.int64))
        along = to.add(ReduceSum(), to.add(Mul(), dy, y), axes)
        if self.p == 1:
            norm = to.add(ReduceSum(), to.add(Abs(), x), axes)
            towards = to.add(AbsGrad(), to.add(ExpandLike(), along, x), x)
        else:
            norm = to.add(Sqrt(), to.add(ReduceSum(), to.add(Mul(), x, x), axes))
            towards = to.add(Mul(), y, along)
        return (to.add(DivOrZero(), to.add(Sub(), dy, towards), norm),)


class MeanVarianceNormalization(Op):
    """(x - mean) / (standard deviation + 1e-9) over ``axes``."""

    is_norm = True

    axes: tuple[int, ...] = (0, 2, 3)

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.axes(self.axes, x.rank)
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            count = x.dtype.type(np.prod([x.shape[a] for a in self.axes], dtype=np.int64))
            centred = x - x.sum(axis=self.axes, keepdims=True) / count
            deviation = np.sqrt((centred * centred).sum(axis=self.axes, keepdims=True) / count)
            return np.asarray(centred / (deviation + x.dtype.type(1e-9)))

    kernel_dtypes = ONLY_FLOAT32

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and inputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        x, layout = to.inputs[0], to.layout(to.node.inputs[0])
        axes = want.axes(self.axes, x.rank)
        count = prod(x.shape[a] for a in axes)
        mean, kept = kept_sums(to, to.input(0), axes, layout, 1 / count)
        centred = Operand(to.output(), to.out_strides())
        to.broadcast("arithmetic.sub", Operand(to.input(0), to.strides(0)), Operand(mean, kept), to.output())
        squares = to.floats(x.size)
        to.unary("activation.square", x=to.output(), y=squares)
        deviation, _ = kept_sums(to, squares, axes, layout, 1 / count)
        rows = x.size // count
        to.unary("activation.square_root", x=deviation, y=deviation, n=rows)
        to.unary("activation.shifted", x=deviation, y=deviation, n=rows, by=1e-9)
        to.broadcast("arithmetic.div", centred, Operand(deviation, kept), to.output())

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """With c = x - mean, d = deviation + 1e-9: dc = dy / d - c · mean(dy · c) / (d² · deviation), dx = dc - mean(dc)."""
        dy, x = to.dy(), to.x()
        axes = to.constant(np.array(self.axes, np.int64))

        def mean(v: str) -> str:
            return to.add(ReduceMean(), v, axes)

        c = to.add(Sub(), x, mean(x))
        deviation = to.add(Sqrt(), mean(to.add(Mul(), c, c)))
        d = to.add(Add(), deviation, to.constant(np.array(1e-9, to.inputs[0].dtype)))
        along = to.add(DivOrZero(), to.add(Div(), to.add(Div(), mean(to.add(Mul(), dy, c)), d), d), deviation)
        dc = to.add(Sub(), to.add(Div(), dy, d), to.add(Mul(), c, along))
        return (to.add(Sub(), dc, mean(dc)),)


def kept_sums(to: Lowering, x: Ref, axes: tuple[int, ...], layout: Layout, scale: float) -> tuple[Ref, tuple[int, ...]]:
    """The steps that sum an array of input 0's shape, times ``scale``: where the sums lie, and their element strides when
    broadcast to that shape."""
    shape = to.inputs[0].shape
    y = to.floats(to.inputs[0].size // max(prod(shape[a] for a in axes), 1))
    sums(to, ReduceSum.stages(shape, axes, layout), x, y, "sum_scaled", lambda n: {"scale": scale if n > 1 else 1.0})
    strides = layout.strides(tuple(1 if a in axes else d for a, d in enumerate(shape)))
    return y, tuple(0 if a in axes else s for a, s in enumerate(strides))
