"""Softmax and its kin."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import NUMPY, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


def around(to: Lowering, axis: int) -> tuple[int, int, int]:
    """(outer, n, inner) of an axis of the output, as it lies."""
    rank, sizes = to.outputs[0].rank, to.out_shape()
    at = to.layout(to.node.outputs[0]).order(rank).index(want.axis(axis, rank))
    return prod(sizes[:at]), sizes[at], prod(sizes[at + 1 :])


class Softmax(Op):
    """exp(x) / Σ exp(x) along ``axis``, without overflow."""

    keeps_classes = True
    kernel_dtypes = ONLY_FLOAT32

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

    def lower(self, to: Lowering) -> None:
        to.columns_step("softmax.softmax", *around(to, self.axis))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(SoftmaxGrad(axis=want.axis(self.axis, to.inputs[0].rank)), to.dy(), to.y()),)


class SoftmaxGrad(Op):
    """y · (dy - Σ dy · y), the sum along ``axis``."""

    domain = "nbconv"
    kernel_dtypes = ONLY_FLOAT32
    kernel: ClassVar[str] = "softmax_grad"

    axis: int = -1

    def infer(self, dy: Spec, y: Spec) -> Spec:
        dtype = want.one_type("f", dy=dy, y=y)
        want.axis(self.axis, y.rank)
        if dy.shape != y.shape:
            raise ModelError(f"dy is {dy}, y is {y}: wanted one shape")
        return Spec(y.shape, dtype)

    def reference(self, dy: np.ndarray, y: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return y * (dy - (dy * y).sum(axis=self.axis, keepdims=True))

    def lower(self, to: Lowering) -> None:
        outer, n, inner = around(to, self.axis)
        to.columns_step(f"softmax.{self.kernel}", outer, n, inner, x=to.operand(1).ref, dy=to.operand(0).ref)


class LogSoftmax(Softmax):
    """log of `Softmax`, without overflow."""

    keeps_classes = True

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            z = self.shifted(x)
            return z - np.log(np.exp(z).sum(axis=self.axis, keepdims=True))

    def lower(self, to: Lowering) -> None:
        to.columns_step("softmax.log_softmax", *around(to, self.axis))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(LogSoftmaxGrad(axis=want.axis(self.axis, to.inputs[0].rank)), to.dy(), to.y()),)


class LogSoftmaxGrad(SoftmaxGrad):
    """dy - exp(y) · Σ dy, the sum along ``axis``."""

    kernel = "log_softmax_grad"

    def reference(self, dy: np.ndarray, y: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return dy - np.exp(y) * dy.sum(axis=self.axis, keepdims=True)


class Hardmax(Softmax):
    """1 at the first greatest element along ``axis``, else 0."""

    keeps_classes = False

    def reference(self, x: np.ndarray) -> np.ndarray:
        y = np.zeros(x.shape, x.dtype)
        if x.size:
            np.put_along_axis(y, np.expand_dims(x.argmax(axis=self.axis), self.axis), x.dtype.type(1), axis=self.axis)
        return y

    def layout(self, inputs, outputs) -> str:
        return NUMPY

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (None,)  # 0 wherever there is one
