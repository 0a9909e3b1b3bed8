"""Gradients of pooling."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ONLY_FLOAT32
from nbconv.kernels.params import DenseImage
from nbconv.lowering.context import Lowering
from nbconv.lowering.patches import reach
from nbconv.lowering.repack import channels_last
from nbconv.lowering.window import STRIP, flat, plane, sliding
from nbconv.ops.pointwise import Abs, AbsGrad, DivOrZero, Mul
from nbconv.ops.pool import AveragePool, MaxPool, Pool, divisor

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


def fields(op: Pool) -> dict[str, Any]:
    """The geometry of a pool."""
    return {name: getattr(op, name) for name in Pool.fields}


def powers(to: Backward, p: int, spread: Callable[[str], str]) -> str:
    """dx = x · |x|^(p - 2) · spread(dy / y^(p - 1)), what flows through a p-norm; 0 where y is 0."""
    v, x = to.dy(), to.x()
    for _ in range(p - 1):
        v = to.add(DivOrZero(), v, to.y())
    v = spread(v)
    if p == 1:
        return to.add(AbsGrad(), v, x)
    size = to.add(Abs(), x) if p > 2 else ""
    for _ in range(p - 2):
        v = to.add(Mul(), v, size)
    return to.add(Mul(), v, x)


class MaxPoolGrad(Pool):
    """dy (n, c, *out), x (n, c, *size) → dx: each dy goes to the cell that held the maximum, the first of equals; a NaN is
    one."""

    batch_inputs = (0, 1)
    domain = "nbconv"

    def infer(self, dy: Spec, x: Spec) -> Spec:  # pyright: ignore[reportIncompatibleMethodOverride]
        dtype = want.one_type("f", dy=dy, x=x)
        out = (*x.shape[:2], *self.window(x.shape).out)
        if dy.shape != out:
            raise ModelError(f"dy is {dy}, of x {x} its windows are {list(out)}")
        return Spec(x.shape, dtype)

    def reference(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        _, place = MaxPool(**self.attributes()).reference(x)
        dx = np.zeros(x.size, dy.dtype)
        np.add.at(dx, place.ravel(), dy.ravel())
        return dx.reshape(x.shape)

    kernel_dtypes = ONLY_FLOAT32

    def has_kernel(self, inputs, outputs) -> bool:
        return inputs[0].dtype in self.kernel_dtypes and inputs[0].rank < 5 and inputs[0].size > 0

    def writes_strided(self, inputs, outputs) -> bool:
        return False

    def reads_strided(self, inputs, outputs, i) -> bool:
        return False

    def lower(self, to: Lowering) -> None:
        lower_planes(
            self, to, to.inputs[1].shape, "pool_grad.max_pool_grad", dy=channels_last(to, 0), x=channels_last(to, 1)
        )


class AveragePoolGrad(Pool):
    """dy (n, c, *out) → dx (n, c, *size): each dy, divided as `AveragePool` divides (unless ``divided`` is 0), goes to all
    cells of its window."""

    batch_inputs = (0, 1)
    domain = "nbconv"

    size: tuple[int, ...]
    count_include_pad: int = 0
    divided: int = 1

    def infer(self, dy: Spec) -> Spec:  # pyright: ignore[reportIncompatibleMethodOverride]
        want.kind("f", dy=dy)
        shape = (*dy.shape[:2], *self.size)
        if dy.rank != len(shape) or dy.shape[2:] != self.window(shape).out:
            raise ModelError(f"dy is {dy}, over {list(self.size)} its windows are {list(self.window(shape).out)}")
        return Spec(shape, dy.dtype)

    def reference(self, dy: np.ndarray) -> np.ndarray:
        shape = (*dy.shape[:2], *self.size)
        window = self.window(shape)
        span = [
            max((out - 1) * s + d * (k - 1) + 1, b + size)
            for k, s, d, b, _, out, size in zip(*window, self.size, strict=True)
        ]
        with np.errstate(all="ignore"):
            if self.divided:
                pool = AveragePool(count_include_pad=self.count_include_pad, **fields(self))
                dy = dy / pool.counts(shape).astype(dy.dtype)
            wide = np.zeros((*dy.shape[:2], *span), dy.dtype)
            for tap in np.ndindex(*window.kernel):
                wide[(slice(None), slice(None), *reach(tap, window))] += dy
        return wide[(slice(None), slice(None), *(slice(b, b + n) for b, n in zip(window.begin, self.size)))]

    kernel_dtypes = ONLY_FLOAT32

    def has_kernel(self, inputs, outputs) -> bool:
        return inputs[0].dtype in self.kernel_dtypes and inputs[0].rank < 5 and inputs[0].size > 0

    def writes_strided(self, inputs, outputs) -> bool:
        return False

    def reads_strided(self, inputs, outputs, i) -> bool:
        return False

    def lower(self, to: Lowering) -> None:
        shape, dy = to.outputs[0].shape, channels_last(to, 0)
        lower_planes(
            self,
            to,
            shape,
            "pool_grad.average_pool_grad",
            dy=dy,
            divisor=divisor(self, shape, self.count_include_pad),
            divided=self.divided,
        )


def lower_planes(op: Pool, to: Lowering, shape: tuple[int, ...], kernel: str, **more) -> None:
    """One step whose units are planes, a vector of channels wide: windows overlap, and a plane has one owner. (On a GPU
    they are strips of a plane's rows, whose cells ask their windows.)"""
    n, c = shape[:2]
    (h, w), window = plane(shape), op.window(shape)
    oh, ow = plane((n, c, *window.out))
    to.step(
        kernel,
        to.gpu_split(n * -(-c // to.target.lanes), h * -(-w // STRIP)),
        work=16 * n * c * (oh * ow * prod(window.kernel) + h * w),
        dx=to.output(),
        image=DenseImage(h, w, c, oh, ow),
        window=sliding(*flat(window)),
        **more,
    )
