"""MaxUnpool: values back to where max-pooling found them."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering
from nbconv.lowering.repack import channels_last

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class MaxUnpool(Op):
    """Zeros, with x (n, c, *size) at the places that `MaxPool` told: int64, numbers of cells in the flattened result, whose
    size the window over x decides. A larger ``output_shape`` is filled with zeros around that, unless the places are numbers
    in it. For a place that there is not, the first cell of x's plane is NaN."""

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_LAST

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None

    def inferred(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """The result's shape as the window decides it."""
        n = len(x) - 2
        strides, pads = self.strides or (1,) * n, self.pads or (0,) * (2 * n)
        if not len(self.kernel_shape) == len(strides) == len(pads) // 2 == n or len(pads) % 2:
            raise ModelError(f"{self!r} wants an x of {len(self.kernel_shape)} spatial axes, x is {list(x)}")
        size = tuple((d - 1) * s + k - a - b for d, s, k, a, b in zip(x[2:], strides, self.kernel_shape, pads[:n], pads[n:]))
        if min(size) < 1:
            raise ModelError(f"the window leaves nothing of size {list(size)}")
        return (*x[:2], *size)

    def infer(self, x: Spec, places: Spec, output_shape: Spec | None = None) -> Spec:
        want.kind("f", x=x)
        want.kind("i", places=places)
        want.rank(x, 3, 5)
        if places.shape != x.shape:
            raise ModelError(f"x is {x}, its places {places}: wanted one shape")
        shape = self.inferred(x.shape)
        if output_shape is not None:
            shape = want.integers(output_shape, "output_shape")
            if len(shape) != x.rank or shape[:2] != x.shape[:2]:
                raise ModelError(f"output_shape is {list(shape)}, x is {x}: wanted its batch and channels")
        return want.make(shape, x.dtype)

    def reference(self, x: np.ndarray, places: np.ndarray, output_shape: np.ndarray | None = None) -> np.ndarray:
        small = self.inferred(x.shape)
        whole = small if output_shape is None else tuple(int(d) for d in output_shape)
        y = scatter(x, places, numbered(small, whole, places))
        if y.shape == whole:
            return y
        wide = np.zeros(whole, x.dtype)
        wide[tuple(slice(d) for d in y.shape)] = y
        return wide

    def has_kernel(self, inputs, outputs) -> bool:
        served = super().has_kernel(inputs, outputs) and inputs[1].dtype == np.int64 and outputs[0].size > 0
        return served and inputs[0].size > 0 and outputs[0].shape == self.inferred(inputs[0].shape)

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def layouts(self, inputs, outputs, given) -> Any:
        if self.layout(inputs, outputs) == NUMPY:
            return None
        return (CHANNELS_LAST, CHANNELS_LAST, *given[2:]), (CHANNELS_LAST,)

    def lower(self, to: Lowering) -> None:
        (n, c, *size), cells = to.inputs[0].shape, prod(to.outputs[0].shape[2:])
        arrays: dict[str, Any] = {"x": channels_last(to, 0), "places": channels_last(to, 1), "y": to.output()}
        arrays |= {"c": c, "size": prod(size), "cells": cells}
        work = 8 * (to.inputs[0].size + to.outputs[0].size)
        to.step("volume.max_unpool", n * -(-c // to.target.lanes), work=work, **arrays)
        to.step("volume.max_unpool_strays", 1, work=work, n=n, **arrays)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dx = to.add(MaxUnpoolGrad(inferred=self.inferred(to.inputs[0].shape)), to.dy(), to.x(1))
        return (dx, None, None)[: len(to.inputs)]


def numbered(small: tuple[int, ...], whole: tuple[int, ...], places: np.ndarray) -> tuple[int, ...]:
    """The shape in which the places are numbers: that which the window decides, unless one lies outside."""
    room = all(a <= b for a, b in zip(small, whole, strict=True))
    return small if room and (places < prod(small)).all() else whole


def scatter(x: np.ndarray, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros of this shape with x at its places."""
    y = np.zeros(prod(shape), x.dtype)
    there = (places >= 0) & (places < y.size)
    planes = np.broadcast_to(np.arange(prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * (x.ndim - 2)), x.shape)
    y[places[there]] = x[there]
    y[planes[~there] * prod(shape[2:])] = np.nan
    return y.reshape(shape)


class MaxUnpoolGrad(Op):
    """dy, places → dx: dy at the places of a `MaxUnpool` whose window makes a result of shape ``inferred``; 0 for a place
    that there is not."""

    domain = "nbconv"
    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_LAST

    inferred: tuple[int, ...]

    def infer(self, dy: Spec, places: Spec) -> Spec:
        want.kind("f", dy=dy)
        want.kind("i", places=places)
        return Spec(places.shape, dy.dtype)

    def reference(self, dy: np.ndarray, places: np.ndarray) -> np.ndarray:
        inner = dy[tuple(slice(d) for d in numbered(self.inferred, dy.shape, places))].reshape(-1)
        there = (places >= 0) & (places < inner.size)
        dx = np.zeros(places.shape, dy.dtype)
        dx[there] = inner[places[there]]
        return dx

    def has_kernel(self, inputs, outputs) -> bool:
        served = super().has_kernel(inputs, outputs) and inputs[1].dtype == np.int64
        return served and inputs[0].size > 0 and outputs[0].size > 0 and inputs[0].shape == self.inferred

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def lower(self, to: Lowering) -> None:
        shape, (n, c, *size) = to.inputs[0].shape, to.outputs[0].shape
        to.step(
            "volume.max_unpool_grad",
            n * prod(size),
            work=8 * to.outputs[0].size,
            writes=("dx",),
            dy=channels_last(to, 0),
            places=channels_last(to, 1),
            dx=to.output(),
            c=c,
            cells=prod(shape[2:]),
            total=prod(shape),
        )
