"""Quantisation while a model learns: rounded in the forward, straight through in the backward (Bengio et al. 2013)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.graph import Spec
from nbconv.graph.half import any_half
from nbconv.ops.pointwise import Add, Div, Mul, Round, Sub
from nbconv.ops.quantize import Quantization, limits
from nbconv.ops.rectifier import Clip, ClipGrad

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward, Expansion

WHOLE = 24
"""Bits of the whole numbers that float32 has; those of wider types are not limited."""


class FakeQuantize(Quantization):
    """DequantizeLinear of QuantizeLinear: (clip(round(x / scale) + zero_point, low, high) - zero_point) · scale, like x.

    The zero point says the integers' type, uint8 without one. The gradient is dy where round(x / scale) + zero_point is in
    the type's range, its limits included, and 0 outside, as that of torch.fake_quantize_per_tensor_affine and of
    fake_quantize_per_channel_affine. Scales and zero points have none.
    """

    domain = "nbconv"

    def infer(self, x: Spec, scale: Spec, zero_point: Spec | None = None) -> Spec:
        self.check(x, scale, zero_point)
        return Spec(x.shape, x.dtype)

    def on_processors(self, inputs, outputs) -> bool:
        return False  # what it expands to has kernels on a GPU, too

    def reference(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
        scale = self.along(scale, x.shape).astype(x.dtype, copy=False)
        zero = x.dtype.type(0) if zero_point is None else self.along(zero_point.astype(x.dtype), x.shape)
        low, high = _bounds(np.dtype(np.uint8) if zero_point is None else zero_point.dtype)
        with np.errstate(all="ignore"):
            steps = np.rint(x / divisor(scale)) + zero
            return np.asarray((np.clip(steps, low, high) - zero) * scale, dtype=x.dtype)

    def expand(self, to: Expansion) -> str | None:
        """Scales and zero points are constants; half precision is promoted first."""
        if any_half(to.inputs) or any(to.has(i) and to.inputs[i].value is None for i in (1, 2)):
            return None
        x, zero = to.inputs[0], to.inputs[2].value if to.has(2) else np.zeros((), np.uint8)
        low, high = _bounds(zero.dtype)
        scale = self.along(to.inputs[1].value, x.shape).astype(x.dtype, copy=False)
        q = to.add(StraightRound(), to.add(Div(), to.x(), to.constant(divisor(scale))))
        zeros, shift = "", x.dtype.type(zero.reshape(-1)[0])
        if (zero != zero.reshape(-1)[0]).any():
            zeros, shift = to.constant(self.along(zero, x.shape).astype(x.dtype)), x.dtype.type(0)
            q = to.add(Add(), q, zeros)
        if np.isfinite(high):
            q = to.add(StraightClip(), q, *(to.constant(np.array(v - shift, x.dtype)) for v in (low, high)))
        return to.add(Mul(), to.add(Sub(), q, zeros) if zeros else q, to.constant(scale))


class StraightRound(Round):
    """`Round` whose gradient is dy."""

    domain = "nbconv"

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.dy(),)


class StraightClip(Clip):
    """`Clip` of whole numbers whose gradient is dy at the limits, too. They are constants."""

    domain = "nbconv"

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        low, high = self.limits(to.inputs) or (-np.inf, np.inf)
        return to.add(ClipGrad(low=low - 0.5, high=high + 0.5), to.dy(), to.x()), *[None] * (len(to.inputs) - 1)


def divisor(scale: np.ndarray) -> np.ndarray:
    """What values are divided by: 1 for scales of 0 and denormal ones, as channels of zeros have, so that 0 stays 0."""
    return np.where(np.abs(scale) < np.finfo(np.float32).tiny, scale.dtype.type(1), scale)


def _bounds(dtype: np.dtype) -> tuple[float, float]:
    """The least and the greatest integer of a type, infinite where float32 has no such numbers."""
    low, high = limits(dtype)
    return (float(low), float(high)) if high < 1 << WHOLE else (-np.inf, np.inf)
