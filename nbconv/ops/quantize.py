"""Linear quantisation, by one scale or by one a slice along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Quantisation, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import Op
from nbconv.ops.pointwise import Mul
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.shape import Reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Quantization(Op, abstract=True):
    """What QuantizeLinear and DequantizeLinear share."""

    axis: int = 1
    block_size: int = 0

    def check(self, x: Spec, scale: Spec, zero_point: Spec | None) -> None:
        if self.block_size:
            raise UnsupportedError(f"block_size={self.block_size} is not supported")
        want.kind("f", scale=scale)
        want.rank(scale, 0, 1, "scale")
        if zero_point is not None and zero_point.shape != scale.shape and not zero_point.size == scale.size == 1:
            raise ModelError(f"zero_point is {zero_point}, scale is {scale}: wanted one shape")
        if scale.rank and scale.size != 1:
            axis = want.axis(self.axis, x.rank)
            want.vector(x.shape[axis], f"axis {axis} of x {list(x.shape)}", scale=scale)

    def along(self, v: np.ndarray, rank: int) -> np.ndarray:
        """A scalar, or a vector shaped to lie along ``axis``."""
        if v.size == 1:
            return v.reshape(())
        return v.reshape([-1 if i == self.axis % rank else 1 for i in range(rank)])


class QuantizeLinear(Quantization):
    """saturate(round(x / scale) + zero_point), halves to even; uint8 unless zero_point or ``output_dtype`` says else."""

    output_dtype: int = 0
    saturate: int = 1

    def target(self, zero_point: Spec | np.ndarray | None) -> np.dtype:
        dtype = want.dtype_of(self.output_dtype or 2) if zero_point is None else zero_point.dtype
        if dtype.kind not in "iu" or dtype.itemsize > 2:
            raise UnsupportedError(f"quantising to {dtype.name} is not supported")
        if self.output_dtype and want.dtype_of(self.output_dtype) != dtype:
            raise ModelError(f"zero_point is {dtype.name}, output_dtype is {want.dtype_of(self.output_dtype).name}")
        return dtype

    def infer(self, x: Spec, scale: Spec, zero_point: Spec | None = None) -> Spec:
        want.kind("fi", x=x)
        self.check(x, scale, zero_point)
        return Spec(x.shape, self.target(zero_point))

    def quantisation(self, inputs, outputs) -> Quantisation | None:
        x, scale, zero_point = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
        if scale.value is None or (zero_point is not None and zero_point.value is None):
            return None
        scales = tuple(float(v) for v in scale.value.reshape(-1))
        zeros = (0,) * len(scales) if zero_point is None else tuple(int(v) for v in zero_point.value.reshape(-1))
        return Quantisation(scales, zeros, None if len(scales) == 1 else self.axis % x.rank)

    def reference(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
        dtype = self.target(zero_point)
        with np.errstate(all="ignore"):
            y = np.rint(x / self.along(scale, x.ndim))
            if zero_point is not None:
                y = y + self.along(zero_point, x.ndim)
            return np.asarray(np.clip(y, np.iinfo(dtype).min, np.iinfo(dtype).max)).astype(dtype)


class DequantizeLinear(Quantization):
    """(x - zero_point) · scale, in the scale's type."""

    converts = True

    def infer(self, x: Spec, scale: Spec, zero_point: Spec | None = None) -> Spec:
        want.one_type("iu", x=x, zero_point=zero_point)
        self.check(x, scale, zero_point)
        return Spec(x.shape, scale.dtype)

    def reference(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
        y = x.astype(np.int64) - (0 if zero_point is None else self.along(zero_point.astype(np.int64), x.ndim))
        return np.asarray(y * self.along(scale, x.ndim)).astype(scale.dtype)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """dscale = Σ dy · (x - zero_point); the integers have none."""
        if not to.wants(1):
            return (None,) * len(to.inputs)
        scale, rank = to.inputs[1], to.inputs[0].rank
        one = to.constant(np.ones(scale.shape, scale.dtype))
        steps = to.add(DequantizeLinear(axis=self.axis), to.x(0), one, *([to.x(2)] if to.has(2) else []))
        along = [i for i in range(rank) if scale.size == 1 or i != self.axis % rank]
        total = to.add(
            ReduceSum(keepdims=0, noop_with_empty_axes=1),
            to.add(Mul(), to.dy(), steps),
            to.constant(np.array(along, np.int64)),
        )
        return (None, to.add(Reshape(), total, to.constant(np.array(scale.shape, np.int64))), None)[: len(to.inputs)]
