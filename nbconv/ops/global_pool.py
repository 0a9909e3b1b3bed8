"""Pooling over whole planes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering
from nbconv.ops.grad import ExpandLike
from nbconv.ops.pointwise import Div
from nbconv.ops.pool import LpPool, MaxPoolGrad, check_norm, powers

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward, Expansion


class GlobalPool(Op, abstract=True):
    """x (n, c, *size) → (n, c, 1, …)."""

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.rank(x, 3)
        return Spec((*x.shape[:2], *[1] * (x.rank - 2)), x.dtype)

    def flops(self, inputs, outputs) -> int:
        return inputs[0].size


class GlobalAveragePool(GlobalPool):
    batch_inputs = (0,)
    keeps_classes = True

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            total = x.sum(axis=tuple(range(2, x.ndim)), keepdims=True)
            return total / x.dtype.type(prod(x.shape[2:]))

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_LAST

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and inputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        n, c, *size = to.inputs[0].shape
        to.columns_step("reduce.sum_scaled", n, prod(size), c, scale=1 / prod(size))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        count = to.constant(np.array(prod(to.inputs[0].shape[2:]), to.inputs[0].dtype))
        return (to.add(ExpandLike(), to.add(Div(), to.dy(), count), to.x()),)


class GlobalMaxPool(GlobalPool):
    """The maximum of each plane, NaN where it holds one."""

    keeps_classes = True

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.max(axis=tuple(range(2, x.ndim)), keepdims=True, initial=-np.inf)

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_LAST

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and inputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        n, c, *size = to.inputs[0].shape
        to.columns_step("reduce.max", n, prod(size), c)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(MaxPoolGrad(kernel_shape=to.inputs[0].shape[2:]), to.dy(), to.x()),)


class GlobalLpPool(GlobalPool):
    """The p-norm of each plane."""

    p: int = 2

    def infer(self, x: Spec) -> Spec:
        check_norm(self.p)
        return super().infer(x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            total = (np.abs(x) ** self.p).sum(axis=tuple(range(2, x.ndim)), keepdims=True)
            return total ** x.dtype.type(1 / self.p)

    def expand(self, to: Expansion) -> str | None:
        """One window."""
        size = to.spec(to.x()).shape[2:]
        return to.add(LpPool(kernel_shape=size, p=self.p), to.x()) if prod(size) else None

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (powers(to, self.p, lambda v: to.add(ExpandLike(), v, to.x())),)
