"""onnxruntime's averages of 8-bit integers with scales (domain com.microsoft)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, NUMPY
from nbconv.graph.symbolic import apply
from nbconv.kernels.quantised_params import Requantise
from nbconv.ops.pool import AveragePool
from nbconv.ops.qlinear import F32, QLinear, dequantised, flip_of, known, number, unsigned
from nbconv.ops.quantize import limits, requantised

if TYPE_CHECKING:
    from nbconv.lowering.context import Lowering

EXACT = 2**24
"""Up to here float32 has every integer."""


class QLinearAveragePool(QLinear):
    """The average of each window; with ``channels_last`` x is (n, *size, c). With ``count_include_pad`` all windows divide
    by as many cells as the kernel has, those in ceil mode that reach past the padding too, as onnxruntime does. Averages are
    rounded after the zero point was added, halves to even: where the zero point is odd a half goes the other way."""

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0
    count_include_pad: int = 0
    channels_last: int = 0

    def pool(self) -> AveragePool:
        """The pool of the numbers."""
        return AveragePool(**{k: v for k, v in self.attributes().items() if k != "channels_last"})

    def shape(self, x):
        if self.channels_last and len(x) > 2:
            n, *size, c = x
            n, c, *size = self.shape_of((n, c, *size))
            return (n, *size, c)
        return self.shape_of(x)

    def shape_of(self, x: tuple[int, ...]) -> tuple[int, ...]:
        found = self.pool().infer(Spec(x, np.dtype(F32)))
        assert isinstance(found, Spec)
        return found.shape

    def reference(self, x, x_scale, x_zero_point, y_scale, y_zero_point=None) -> np.ndarray:
        y = self.formula(dequantised(x, x_scale, x_zero_point))
        with np.errstate(all="ignore"):
            return requantised(y / number(y_scale) + number(y_zero_point), 0, x.dtype)

    def layout(self, inputs, outputs) -> str:
        x = inputs[0]
        served = not self.channels_last and x.rank in (3, 4) and not x.constant and known(*inputs[1:])
        return CHANNELS_LAST if served else NUMPY

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and self.writes_strided(inputs, outputs)

    def writes_strided(self, inputs, outputs) -> bool:
        return self.layout(inputs, outputs) != NUMPY

    def lower(self, to: Lowering) -> None:
        dtype, zero = to.inputs[0].dtype, int(number(to.value(4) if to.has(4) else None))
        self.pool().lower_window(
            to, "requantise.average_pool", cells=prod(self.kernel_shape) if self.count_include_pad else 0,
            x_scale=float(number(to.value(1))), scale=float(number(to.value(3))),
            to8=Requantise(None, *limits(dtype), zero, flip_of(dtype), unsigned(to, 0, 2)),
        )  # fmt: skip

    def formula(self, x):
        x = np.moveaxis(x, -1, 1) if self.channels_last else x
        y = self.pool().reference(x)
        if self.count_include_pad:
            y = y * (self.pool().counts(x.shape) / prod(self.kernel_shape)).astype(F32)
        return np.moveaxis(y, 1, -1) if self.channels_last else y


class QLinearGlobalAveragePool(QLinear):
    """The average of each plane; with ``channels_last`` x is (n, *size, c)."""

    channels_last: int = 0

    def shape(self, x):
        if len(x) < 3:
            raise ModelError(f"x {list(x)} has no spatial axes")
        over = self.over(len(x))
        return tuple(1 if i in over else d for i, d in enumerate(x))

    def over(self, rank: int) -> tuple[int, ...]:
        """The spatial axes."""
        return tuple(range(1, rank - 1)) if self.channels_last else tuple(range(2, rank))

    def reference(self, x, x_scale, x_zero_point, y_scale, y_zero_point=None) -> np.ndarray:
        over = self.over(x.ndim)
        count = prod(x.shape[i] for i in over)
        total = x.sum(axis=over, keepdims=True, dtype=np.int64) - count * int(number(x_zero_point))
        with np.errstate(all="ignore"):
            y = total.astype(F32) * (number(x_scale) / (number(y_scale) * F32(count)))
        return requantised(y, number(y_zero_point), x.dtype)

    def layout(self, inputs, outputs) -> str:
        x = inputs[0]
        counted = not self.channels_last and x.rank > 2 and prod(x.shape[2:]) * 255 < EXACT and not x.constant
        return CHANNELS_LAST if counted and known(*inputs[1:]) else NUMPY

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and self.layout(inputs, outputs) != NUMPY

    def lower(self, to: Lowering) -> None:
        x = to.inputs[0]
        pixels, zero = prod(x.shape[2:]), int(number(to.value(4) if to.has(4) else None))
        low, high = limits(x.dtype)
        to.step(
            "requantise.global_average", x.shape[0] * -(-x.shape[1] // to.target.lanes), work=16 * x.size, x=to.input(0),
            y=to.output(), pixels=pixels, c=x.shape[1], ldx=to.ld(0),
            scale=apply(averaging, float(number(to.value(1))), float(number(to.value(3))), pixels),
            to8=Requantise(None, low - zero, high - zero, zero, flip_of(x.dtype), unsigned(to, 0, 2)),
        )  # fmt: skip


def averaging(x_scale: float, y_scale: float, count: int) -> float:
    """What a sum of so many integers is multiplied with."""
    with np.errstate(all="ignore"):
        return float(F32(x_scale) / (F32(y_scale) * F32(count)))


class QLinearReduceMean(QLinear):
    """The average over ``axes``."""

    axes: tuple[int, ...]
    keepdims: int

    def shape(self, x):
        over = want.axes(self.axes, len(x)) or tuple(range(len(x)))
        return tuple(1 if i in over else d for i, d in enumerate(x) if self.keepdims or i not in over)

    def formula(self, x):
        over = want.axes(self.axes, x.ndim) or tuple(range(x.ndim))
        with np.errstate(all="ignore"):
            return np.asarray(x.mean(axis=over, keepdims=bool(self.keepdims), dtype=np.float64).astype(F32))
