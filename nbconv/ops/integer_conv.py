"""Convolutions of 8-bit integers, exact as integers; QLinearConv rounds to 8 bits of another scale."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.graph import Quantisation, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, NUMPY, Op
from nbconv.lowering.conv import CONVOLUTIONS, INTEGER_SUMS
from nbconv.lowering.conv.integer_gemm import Integers
from nbconv.lowering.conv.problem import Geometry, problem
from nbconv.lowering.implementation import emit
from nbconv.ops.conv import Conv
from nbconv.ops.integer import (
    INT32,
    as_float,
    down,
    eight_bits,
    integer_of,
    integers,
    requantising,
    served,
    shifted,
    weights_of,
    zero,
)
from nbconv.ops.quantize import meaning, requantised

if TYPE_CHECKING:
    from nbconv.lowering.context import Lowering


class IntegerConv(Op, abstract=True):
    """What ConvInteger and QLinearConv share: x (n, ci, *size), w (co, ci/group, *kernel); padding stands for zero."""

    is_layer = True
    weights: ClassVar[int]
    """Which input they are."""

    kernel_shape: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    group: int = 1
    auto_pad: str = "NOTSET"

    def conv(self) -> Conv:
        """The convolution of what the integers stand for."""
        return Conv(**{name: getattr(self, name) for name in IntegerConv.fields})

    def shape(self, x: Spec, w: Spec, b: Spec | None = None, **per_channel: Spec | None) -> tuple[int, ...]:
        """The result's shape; ModelError or UnsupportedError for a call that is not well formed."""
        y = self.conv().infer(as_float(x), as_float(w), b and as_float(b))
        for name, spec in per_channel.items():
            if spec is not None and spec.size != 1:
                want.vector(w.shape[0], f"with {w.shape[0]} output channels it", **{name: spec})
        return y.shape

    def total(self, x: np.ndarray, x_zero: np.ndarray | None, w: np.ndarray, w_zero: np.ndarray | None) -> np.ndarray:
        """The sums, integers in floating point."""
        products = int(np.prod(w.shape[1:]))
        x_zero, w_zero = down(x_zero), w_zero if w_zero is None else channels(w_zero, w.ndim, 0)
        return self.conv().reference(shifted(x, x_zero, products), shifted(w, w_zero, products))

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def writes_strided(self, inputs, outputs) -> bool:
        return self.layout(inputs, outputs) != NUMPY and not self.conv().depthwise(inputs[self.weights])

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and self.writes_strided(inputs, outputs)

    def geometry(self, x: Spec, w: Spec) -> Geometry:
        """What implementations are told."""
        return self.conv().geometry(x.shape, w.shape)

    def filters(self, w: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """w less its zero points as (groups, columns, k): taps, and in each the channels."""
        less = w - channels(zero, w.ndim, 0)
        co, ci = w.shape[:2]
        return less.reshape(self.group, co // self.group, ci, -1).swapaxes(2, 3).reshape(self.group, co // self.group, -1)


def channels(v: np.ndarray, rank: int, axis: int = 1) -> np.ndarray:
    """One element for all, or one for each output channel, so that it broadcasts to an array of this rank."""
    return v.reshape(()) if v.size == 1 else v.reshape([-1 if i == axis else 1 for i in range(rank)])


class ConvInteger(IntegerConv):
    """The convolution of x - x_zero_point with w - w_zero_point in int32, of 8-bit integers."""

    weights = 1

    def infer(self, x: Spec, w: Spec, x_zero_point: Spec | None = None, w_zero_point: Spec | None = None) -> Spec:
        zero(x_zero_point, eight_bits(x=x), "x_zero_point")
        zero(w_zero_point, eight_bits(w=w), "w_zero_point")
        want.scalar(x_zero_point, "x_zero_point")
        return Spec(self.shape(x, w, w_zero_point=w_zero_point), INT32)

    def reference(
        self, x: np.ndarray, w: np.ndarray, x_zero_point: np.ndarray | None = None, w_zero_point: np.ndarray | None = None
    ) -> np.ndarray:
        return integers(self.total(x, x_zero_point, w, w_zero_point))

    def layout(self, inputs, outputs) -> str:
        x, w, *zeros = inputs
        return CHANNELS_LAST if x.rank < 5 and served(x, w, prod(w.shape[1:]), *zeros) else NUMPY

    def lower(self, to: Lowering) -> None:
        x_zero = integer_of(to.value(2) if to.has(2) else None)
        scale = np.ones(to.inputs[1].shape[0], np.float32)
        q = Integers(**weights_of(to, 1, 3, self.filters), x_zero=x_zero, bias=None, scale=scale, size=4)
        emit(to, INTEGER_SUMS, problem(to, self.geometry(*to.inputs[:2])), q)

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * int(np.prod(inputs[1].shape[1:]))


class QLinearConv(IntegerConv):
    """The convolution of dequantised x and w, with the int32 bias B, quantised by y_scale and y_zero_point: sums are exact,
    then multiplied by x_scale · w_scale / y_scale, rounded (halves to even) and saturated. w may have a scale and a zero
    point for each output channel."""

    weights = 3

    def infer(
        self, x: Spec, x_scale: Spec, x_zero_point: Spec, w: Spec, w_scale: Spec, w_zero_point: Spec, y_scale: Spec,
        y_zero_point: Spec, b: Spec | None = None,
    ) -> Spec:  # fmt: skip
        zero(x_zero_point, eight_bits(x=x), "x_zero_point")
        zero(w_zero_point, eight_bits(w=w), "w_zero_point")
        want.one_type("f", x_scale=x_scale, w_scale=w_scale, y_scale=y_scale)
        zero(b, INT32, "B")
        scalars = {"x_scale": x_scale, "x_zero_point": x_zero_point, "y_scale": y_scale, "y_zero_point": y_zero_point}
        for name, spec in scalars.items():
            want.scalar(spec, name)
        shape = self.shape(x, w, b, w_scale=w_scale, w_zero_point=w_zero_point)
        return Spec(shape, eight_bits(y_zero_point=y_zero_point))

    def quantisation(self, inputs, outputs) -> Quantisation | None:
        return meaning(inputs[6], inputs[7], None)

    def reference(
        self, x: np.ndarray, x_scale: np.ndarray, x_zero_point: np.ndarray, w: np.ndarray, w_scale: np.ndarray,
        w_zero_point: np.ndarray, y_scale: np.ndarray, y_zero_point: np.ndarray, b: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        total = self.total(x, x_zero_point, w, w_zero_point)
        if b is not None:
            total = total + channels(b, total.ndim).astype(np.float64)
        dtype = np.promote_types(x_scale.dtype, np.float32)
        with np.errstate(all="ignore"):
            scale = x_scale.reshape(()).astype(dtype) * channels(w_scale, total.ndim).astype(dtype)
            scale = scale / y_scale.reshape(()).astype(dtype)
            return requantised(total.astype(dtype) * scale, y_zero_point.reshape(()), y_zero_point.dtype)

    def layout(self, inputs, outputs) -> str:
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *b = inputs
        scales = (x_scale, w_scale, y_scale)
        zero = 0 if w_zero.value is not None and not w_zero.value.any() else 1
        known = served(x, w, prod(w.shape[1:]), x_zero, w_zero, y_zero, scales=scales, b=b[0] if b else None, zero=zero)
        return CHANNELS_LAST if x.rank < 5 and known else NUMPY

    def absorbs(self, inputs, outputs) -> str:
        return "clamp"

    def lower(self, to: Lowering) -> None:
        co = to.inputs[3].shape[0]
        x_scale, w_scale, y_scale = (to.value(i).astype(np.float32).reshape(-1) for i in (1, 4, 6))
        with np.errstate(all="ignore"):
            scale = np.broadcast_to(x_scale * w_scale / y_scale, (co,))
        bias = to.value(8).astype(np.int64) if to.has(8) else None
        fields = requantising(to, scale, to.value(7), x_zero=integer_of(to.value(2)), bias=bias)
        q = Integers(**weights_of(to, 3, 5, self.filters), **fields)
        emit(to, CONVOLUTIONS, problem(to, self.geometry(to.inputs[0], to.inputs[3]), 3), q)

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * int(np.prod(inputs[3].shape[1:]))
