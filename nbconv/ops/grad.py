"""What gradients are made of, beside ONNX's own operators; the gradient of one operator alone stands under that."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ONLY_FLOAT32, Op, same_dtype
from nbconv.lowering.context import Lowering
from nbconv.lowering.mix import mix


class UnaryGrad(Op, abstract=True):
    """The gradient of a `Unary`: of dy and the forward's x or y, all of one shape. A subclass has the forward's fields, and
    writes its ``formula``."""

    domain = "nbconv"
    kernel_dtypes = ONLY_FLOAT32
    kernel: ClassVar[str] = ""
    """The kernel, of `kernels/cpu/activation_grad.py`; its Float arguments are the op's fields."""

    def infer(self, dy: Spec, v: Spec) -> Spec:
        dtype = want.one_type("f", dy=dy, v=v)
        if dy.shape != v.shape:
            raise ModelError(f"dy is {dy}, the value beside it {v}: wanted one shape")
        return Spec(dy.shape, dtype)

    def formula(self, dy: np.ndarray, v: np.ndarray, /) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, dy: np.ndarray, v: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(self.formula(dy, v), dtype=dy.dtype)

    def lower(self, to: Lowering) -> None:
        self.pair(to, self.kernel, **{name: getattr(self, name) for name in self.fields})

    def pair(self, to: Lowering, kernel: str, **parameters: Any) -> None:
        """One elementwise step of `kernels/cpu/activation_grad.py`."""
        n, chunk = to.outputs[0].size, to.target.chunk
        to.step(
            f"activation_grad.{kernel}",
            -(-n // chunk),
            work=12 * n,
            dy=to.operand(0).ref,
            v=to.operand(1).ref,
            y=to.output(),
            n=n,
            chunk=chunk,
            **parameters,
        )


class ExpandLike(Op):
    """dy, whose axes have x's sizes or 1, repeated to x's shape: what sums did, undone. x says the shape, and in which
    order the result had best lie; it is not read."""

    domain = "nbconv"
    kernel_dtypes = ONLY_FLOAT32

    def infer(self, dy: Spec, x: Spec) -> Spec:
        if dy.rank != x.rank:
            raise ModelError(f"dy is {dy}, x is {x}: wanted one rank")
        want.broadcast_to(dy.shape, x.shape, "dy")
        return Spec(x.shape, dy.dtype)

    def reference(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(dy, x.shape)

    def bypass(self, inputs) -> bool:
        return inputs[0].shape == inputs[1].shape

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and same_dtype(inputs)

    def lower(self, to: Lowering) -> None:
        dy = to.operand(0)
        to.copy(dy.ref, to.output(), to.outputs[0].shape, dy.strides, to.out_strides())


class SliceGrad(Op):
    """Zeros of ``shape`` with dy at the cells that a Slice took: along axis i from ``starts[i]`` by ``steps[i]``."""

    domain = "nbconv"
    kernel_dtypes = ONLY_FLOAT32

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self, dy: Spec) -> Spec:
        for start, step, d, size in zip(self.starts, self.steps, dy.shape, self.shape, strict=True):
            if d and not (0 <= start < size and 0 <= start + (d - 1) * step < size):
                raise ModelError(f"dy is {dy}: it leaves {list(self.shape)} from {list(self.starts)} by {list(self.steps)}")
        return Spec(self.shape, dy.dtype)

    def reference(self, dy: np.ndarray) -> np.ndarray:
        dx = np.zeros(self.shape, dy.dtype)
        cells = [start + step * np.arange(d) for start, step, d in zip(self.starts, self.steps, dy.shape, strict=True)]
        dx[np.ix_(*cells)] = dy
        return dx

    def lower(self, to: Lowering) -> None:
        n, dy, there = to.outputs[0].size, to.inputs[0], to.out_strides()
        to.fill(to.output(), n)
        if dy.size:
            at = sum(start * s for start, s in zip(self.starts, there, strict=True))
            apart = tuple(step * s for step, s in zip(self.steps, there, strict=True))
            to.copy(to.input(0), to.output().at(at), dy.shape, to.strides(0), apart)


class Mix(Op):
    """A weighted sum along one axis: y[…, j, …] = Σ weights[t] · x[…, cells[t], …] over t from rows[j] to rows[j + 1], in
    that order. ``rows``, ``cells`` int64, ``weights`` float64: a sparse matrix by rows (CSR) applied to the axis."""

    domain = "nbconv"
    kernel_dtypes = ONLY_FLOAT32

    axis: int
    rows: np.ndarray
    cells: np.ndarray
    weights: np.ndarray

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        axis = want.axis(self.axis, x.rank)
        if self.cells.size and (self.cells.min() < 0 or self.cells.max() >= x.shape[axis]):
            raise ModelError(f"cells reach {self.cells.max()}, x is {x}, axis {axis}")
        return want.make((*x.shape[:axis], len(self.rows) - 1, *x.shape[axis + 1 :]), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        from_front = np.moveaxis(x, self.axis, 0)
        y = np.zeros((len(self.rows) - 1, *from_front.shape[1:]), x.dtype)
        for j in range(len(y)):
            for t in range(self.rows[j], self.rows[j + 1]):
                y[j] += x.dtype.type(self.weights[t]) * from_front[self.cells[t]]
        return np.ascontiguousarray(np.moveaxis(y, 0, self.axis))

    def flops(self, inputs, outputs) -> int:
        return 2 * len(self.cells) * outputs[0].size // max(len(self.rows) - 1, 1)

    def lower(self, to: Lowering) -> None:
        rank, layout = to.outputs[0].rank, to.layout(to.node.outputs[0])
        at = layout.order(rank).index(want.axis(self.axis, rank))
        size = layout.physical(to.inputs[0].shape)[at]
        outer, inner = prod(to.out_shape()[:at]), prod(to.out_shape()[at + 1 :])
        mix(to, to.input(0), to.output(), (outer, size, inner), self.rows, self.cells, self.weights)


__all__ = ["ExpandLike", "Mix", "SliceGrad", "UnaryGrad"]
