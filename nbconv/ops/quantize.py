"""Linear quantisation, by one scale, by one a slice along an axis, or by one a block of a slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import CHANNELS_FIRST, CHANNELS_LAST, FLOAT32, Quantisation, Spec
from nbconv.graph import infer as want
from nbconv.graph.dtypes import BITS, is_added, kind_of
from nbconv.graph.op import ANY, NUMPY, Op
from nbconv.kernels.quantised_params import Line
from nbconv.ops.cast import CastLike, converted
from nbconv.ops.pad import Pad
from nbconv.ops.pointwise import Mul
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.shape import Reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward
    from nbconv.lowering.context import Lowering

IMAGES = (3, 4)
"""Channels of images that a kernel turns to channels last while it quantises them."""
EIGHT_BITS = frozenset(np.dtype(t) for t in ("uint8", "int8"))


class Quantization(Op, abstract=True):
    """What QuantizeLinear and DequantizeLinear share."""

    fixed = (1, 2)

    axis: int = 1
    block_size: int = 0

    def check(self, x: Spec, scale: Spec, zero_point: Spec | None) -> None:
        want.kind("f" if scale.dtype.name != "float8_e8m0fnu" else "n", scale=scale)
        if zero_point is not None and zero_point.shape != scale.shape and not zero_point.size == scale.size == 1:
            raise ModelError(f"zero_point is {zero_point}, scale is {scale}: wanted one shape")
        if self.block_size < 0:
            raise ModelError(f"block_size is {self.block_size}, must not be negative")
        if self.blocked(x.shape, scale.shape):
            axis = want.axis(self.axis, x.rank)
            shape = self.blocks(x.shape)
            if scale.shape != shape:
                blocks = f"blocks of {self.block_size} along axis {axis} of x {list(x.shape)}"
                raise ModelError(f"scale is {scale}, {blocks} want shape {list(shape)}")
            return
        want.rank(scale, 0, 1, "scale")
        if scale.rank and scale.size != 1:
            axis = want.axis(self.axis, x.rank)
            want.vector(x.shape[axis], f"axis {axis} of x {list(x.shape)}", scale=scale)

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def by_kernel(self, wide: Spec, narrow: Spec, inputs: tuple) -> bool:
        """Whether a kernel goes between float32 and 8-bit integers: by one scale, which is known."""
        known = all(s is None or (s.value is not None and s.size == 1) for s in inputs[1:])
        return known and wide.dtype == inputs[1].dtype == FLOAT32 and narrow.dtype in EIGHT_BITS and not inputs[0].constant

    def line(self, to: Lowering) -> tuple[int, Line]:
        """Units, and the elements that are done."""
        n, chunk = to.outputs[0].size, to.target.chunk
        return -(-n // chunk), Line(n, chunk)

    def blocked(self, x: tuple[int, ...], scale: tuple[int, ...]) -> bool:
        """Whether there is a scale for each block of ``block_size`` elements along ``axis``."""
        return self.block_size > 0 and len(scale) == len(x) > 0

    def blocks(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a blocked scale of an x of this shape; the last block may be short."""
        axis = self.axis % len(x)
        return tuple(-(-d // self.block_size) if i == axis else d for i, d in enumerate(x))

    def along(self, v: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A scalar, a vector, or one of each block, shaped to broadcast to an x of this shape."""
        if self.blocked(shape, v.shape):
            axis = self.axis % len(shape)
            return np.repeat(v, self.block_size, axis)[(*[slice(None)] * axis, slice(shape[axis]))]
        if v.size == 1:
            return v.reshape(())
        return v.reshape([-1 if i == self.axis % len(shape) else 1 for i in range(len(shape))])


def meaning(scale: Spec, zero_point: Spec | None, axis: int | None) -> Quantisation | None:
    """What integers of this scale and zero point stand for, where these are known; ``axis``: the one of a vector."""
    zero = None if zero_point is None else zero_point.value
    if scale.value is None or (zero_point is not None and zero is None):
        return None
    scales = tuple(float(v) for v in scale.value.reshape(-1))
    zeros = (0,) * len(scales) if zero is None else tuple(int(v) for v in zero.reshape(-1))
    return Quantisation(scales, zeros, None if len(scales) == 1 else axis)


def requantised(x: np.ndarray, zero_point: np.ndarray | int, dtype: np.dtype) -> np.ndarray:
    """saturate(round(x) + zero_point), halves to even: integers of ``dtype``. NaN becomes the least, as in onnxruntime."""
    low, high = limits(dtype)
    with np.errstate(all="ignore"):
        y = np.rint(x) + np.asarray(zero_point).astype(x.dtype)
        return converted(np.fmin(np.fmax(y, low), high), dtype)


def limits(dtype: np.dtype) -> tuple[int, int]:
    """The least and the greatest integer of a type."""
    if not is_added(dtype):
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    bits = BITS[dtype.name]
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype.name.startswith("int") else (0, (1 << bits) - 1)


class QuantizeLinear(Quantization):
    """saturate(round(x / scale) + zero_point), halves to even; uint8 unless zero_point or ``output_dtype`` says else. To a
    float of few bits, x / scale is rounded as `Cast` rounds, and a zero point is 0."""

    output_dtype: int = 0
    saturate: int = 1
    precision: int = 0

    def target(self, zero_point: Spec | np.ndarray | None) -> np.dtype:
        dtype = want.dtype_of(self.output_dtype or 2) if zero_point is None else zero_point.dtype
        stored = kind_of(dtype) == "n" and dtype.name != "float8_e8m0fnu"
        if not stored and (kind_of(dtype) not in "iu" or dtype.itemsize > 2):
            raise UnsupportedError(f"quantising to {dtype.name} is not supported")
        if self.output_dtype and want.dtype_of(self.output_dtype) != dtype:
            raise ModelError(f"zero_point is {dtype.name}, output_dtype is {want.dtype_of(self.output_dtype).name}")
        return dtype

    def infer(self, x: Spec, scale: Spec, zero_point: Spec | None = None) -> Spec:
        want.kind("fi", x=x)
        self.check(x, scale, zero_point)
        if self.precision:
            want.kind("f", precision=Spec((), want.dtype_of(self.precision)))
        return Spec(x.shape, self.target(zero_point))

    def quantisation(self, inputs, outputs) -> Quantisation | None:
        x, scale, zero_point = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
        if self.blocked(x.shape, scale.shape) or is_added(outputs[0].dtype):
            return None
        return meaning(scale, zero_point, self.axis % max(x.rank, 1))

    def reference(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
        dtype = want.dtype_of(self.precision) if self.precision else scale.dtype
        scale = self.along(scale, x.shape).astype(dtype)
        if self.precision or x.dtype.kind == "f":
            x = x.astype(dtype, copy=False)
        with np.errstate(all="ignore"):
            steps = x / scale
        target = self.target(zero_point)
        if target.name.startswith("float"):
            return converted(steps, target, bool(self.saturate))
        return requantised(steps, 0 if zero_point is None else self.along(zero_point, x.shape), target)

    def layout(self, inputs, outputs) -> str:
        served = not self.precision or want.dtype_of(self.precision) == FLOAT32
        return ANY if served and self.by_kernel(inputs[0], outputs[0], inputs) else NUMPY

    def layouts(self, inputs, outputs, given) -> Any:
        """Images of 3 or 4 channels are turned on the way: the layer that reads them wants channels last."""
        found = super().layouts(inputs, outputs, given)
        x = inputs[0]
        if found is None or given[0] is not CHANNELS_FIRST or x.rank != 4 or x.shape[1] not in IMAGES:
            return found
        return found[0], (CHANNELS_LAST,)

    def absorbs(self, inputs, outputs) -> str:
        return "clamp"

    def lower(self, to: Lowering) -> None:
        units, line = self.line(to)
        zero = int(to.value(2).reshape(())) if to.has(2) else 0
        low, high = limits(to.outputs[0].dtype)
        low, high = max(low, to.epilogue.low), min(high, to.epilogue.high)
        how = {"scale": float(to.value(1).reshape(())), "low": low - zero, "high": high - zero, "zero_point": zero}
        work = 16 * line.n
        if to.layout(to.node.inputs[0]) is to.layout(to.node.outputs[0]):
            to.step("requantise.quantize", units, work=work, x=to.input(0), y=to.output(), line=line, **how)
            return
        n, c, h, w = to.inputs[0].shape
        chunk = to.target.chunk // c
        to.step(
            "requantise.quantize_pixels", n * -(-h * w // chunk), work=work, x=to.input(0), y=to.output(),
            line=Line(h * w, chunk), channels=c, **how,
        )  # fmt: skip


class DequantizeLinear(Quantization):
    """(x - zero_point) · scale, in the scale's type or ``output_dtype``."""

    converts = True

    output_dtype: int = 0

    def infer(self, x: Spec, scale: Spec, zero_point: Spec | None = None) -> Spec:
        want.one_type("iun", x=x, zero_point=zero_point)
        self.check(x, scale, zero_point)
        return Spec(x.shape, self.target(scale.dtype))

    def target(self, scale: np.dtype) -> np.dtype:
        """The type of the result."""
        dtype = want.dtype_of(self.output_dtype) if self.output_dtype else scale
        want.kind("f", output_dtype=Spec((), dtype))
        return dtype

    def reference(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
        whole, target = np.float32 if x.dtype.name.startswith("float") else np.int64, self.target(scale.dtype)
        y = x.astype(whole) - (0 if zero_point is None else self.along(zero_point.astype(whole), x.shape))
        if is_added(scale.dtype):
            scale = scale.astype(np.float32)
        with np.errstate(all="ignore"):
            return np.asarray(y * self.along(scale, x.shape)).astype(target)

    def layout(self, inputs, outputs) -> str:
        return ANY if self.by_kernel(outputs[0], inputs[0], inputs) else NUMPY

    def lower(self, to: Lowering) -> None:
        units, line = self.line(to)
        flip = 0x80 if to.inputs[0].dtype == np.int8 else 0
        zero = (int(to.value(2).reshape(())) if to.has(2) else 0) + flip
        to.step(
            "requantise.dequantize", units, work=8 * line.n, x=to.input(0), y=to.output(), line=line,
            scale=float(to.value(1).reshape(())), zero_point=float(zero), flip=flip,
        )  # fmt: skip

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """dscale = Σ dy · (x - zero_point) over all that have a scale in common; the integers have none."""
        if not to.wants(1):
            return (None,) * len(to.inputs)
        (x, scale), dy = to.inputs[:2], to.dy()
        one = to.constant(np.ones(scale.shape, scale.dtype))
        steps = to.add(DequantizeLinear(axis=self.axis, block_size=self.block_size), to.x(0), one, *self.zero_point(to))
        if to.spec(dy).dtype != scale.dtype:
            dy = to.add(CastLike(), dy, to.x(1))
        total = to.add(Mul(), dy, steps)
        if self.blocked(x.shape, scale.shape):
            axis = self.axis % x.rank
            count = scale.shape[axis]
            end = [count * self.block_size - d if i == axis else 0 for i, d in enumerate(x.shape)]
            total = to.add(Pad(), total, to.constant(np.array([0] * x.rank + end, np.int64)))
            apart = (*x.shape[:axis], count, self.block_size, *x.shape[axis + 1 :])
            total, along = to.add(Reshape(), total, to.constant(np.array(apart, np.int64))), [axis + 1]
        else:
            along = [i for i in range(x.rank) if scale.size == 1 or i != self.axis % x.rank]
        total = to.add(ReduceSum(keepdims=0, noop_with_empty_axes=1), total, to.constant(np.array(along, np.int64)))
        return (None, to.add(Reshape(), total, to.constant(np.array(scale.shape, np.int64))), None)[: len(to.inputs)]

    def zero_point(self, to: Backward) -> list[str]:
        """The zero point, where there is one."""
        return [to.x(2)] if to.has(2) else []
