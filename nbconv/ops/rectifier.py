"""Activations in straight pieces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ONLY_FLOAT32, Op
from nbconv.kernels.params import Activation, Epilogue
from nbconv.lowering.context import Lowering
from nbconv.ops.grad import UnaryGrad
from nbconv.ops.nary import Min
from nbconv.ops.pointwise import Binary, Mul, Same, Sub, Unary, broadcast_layout

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Relu(Unary):
    """max(x, 0); NaN stays NaN."""

    is_cheap = True
    keeps_classes = True
    keeps_quantisation = True
    accepts = "fi"
    kernel = "clip"
    processor_dtypes = frozenset(np.dtype(t) for t in ("float16", "int8", "int32", "int64"))

    def kept_axis(self, axis, inputs, outputs) -> int:
        return axis

    def formula(self, x):
        return np.maximum(x, 0)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(low=0.0)

    def lower(self, to: Lowering) -> None:
        dtype = to.inputs[0].dtype
        if dtype in self.processor_dtypes:
            to.unary(f"order.relu_{dtype.name}")
        else:
            to.unary("activation.clip", low=0.0, high=math.inf)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(ReluGrad(), to.dy(), to.y()),)


class ReluGrad(UnaryGrad):
    """dy where y > 0, else 0 (at 0, too, as PyTorch has it). From y, so that Relu can be done by the kernel that makes x."""

    kernel = "relu_grad"

    def formula(self, dy, y):
        return np.where(y <= 0, 0, dy)


class LeakyRelu(Unary):
    is_cheap = True
    kernel = "leaky_relu"

    alpha: float = 0.01

    def formula(self, x):
        return np.where(x < 0, self.alpha * x, x)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(act=Activation.LEAKY_RELU, alpha=self.alpha)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(LeakyReluGrad(alpha=self.alpha), to.dy(), to.y() if self.alpha > 0 else to.x()),)


class LeakyReluGrad(UnaryGrad):
    """dy where x > 0, else alpha · dy (at 0, too, as PyTorch has it). For alpha > 0 the sign of y is x's."""

    kernel = "leaky_relu_grad"

    alpha: float = 0.01

    def formula(self, dy, x):
        return np.where(x > 0, dy, self.alpha * dy)


class PRelu(Op):
    """x where x ≥ 0, else slope · x; the slope broadcasts to x's shape."""

    parameters = (1,)

    def infer(self, x: Spec, slope: Spec) -> Spec:
        dtype = want.one_type("f", x=x, slope=slope)
        want.broadcast_to(slope.shape, x.shape, "slope")
        return Spec(x.shape, dtype)

    def reference(self, x: np.ndarray, slope: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.where(x < 0, slope * x, x)

    def layout(self, inputs, outputs) -> str:
        return broadcast_layout(inputs, outputs)

    def lower(self, to: Lowering) -> None:
        to.broadcast("arithmetic.prelu", to.operand(0), to.operand(1), to.output())

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy, x, slope = to.dy(), to.x(0), to.x(1)
        dx = to.add(Mul(), dy, to.add(PReluSlope(), x, slope)) if to.wants(0) else None
        zero = to.constant(np.zeros((), to.inputs[0].dtype))
        dslope = to.reduced(to.add(Mul(), dy, to.add(Min(), x, zero)), 1) if to.wants(1) else None
        return dx, dslope


class PReluSlope(Binary):
    """1 where x > 0, else the slope: PRelu's derivative by x."""

    domain = "nbconv"
    accepts, kernel, family = "f", "prelu_slope", "arithmetic_grad"

    def formula(self, a, b):
        return np.where(a > 0, 1, b)


class ThresholdedRelu(Unary):
    """x where x > alpha, else 0 (NaN too)."""

    kernel = "thresholded_relu"

    alpha: float = 1.0

    def formula(self, x):
        return np.where(x > self.alpha, x, 0)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(ThresholdedReluGrad(alpha=self.alpha), to.dy(), to.x()),)


class ThresholdedReluGrad(UnaryGrad):
    """dy where x > alpha, else 0."""

    kernel = "thresholded_relu_grad"

    alpha: float = 1.0

    def formula(self, dy, x):
        return np.where(x > self.alpha, dy, 0)


class Shrink(Unary):
    """x + bias where x < -lambd, x - bias where x > lambd, else 0 (NaN too)."""

    kernel = "shrink"

    bias: float = 0.0
    lambd: float = 0.5

    def formula(self, x):
        return np.where(x < -self.lambd, x + self.bias, np.where(x > self.lambd, x - self.bias, 0))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(ShrinkGrad(lambd=self.lambd), to.dy(), to.x()),)


class ShrinkGrad(UnaryGrad):
    """dy where |x| > lambd, else 0."""

    kernel = "shrink_grad"

    lambd: float = 0.5

    def formula(self, dy, x):
        return np.where(np.abs(x) > self.lambd, dy, 0)


class HardSigmoid(Unary):
    is_cheap = True
    kernel = "hard_sigmoid"

    alpha: float = 0.2
    beta: float = 0.5

    def formula(self, x):
        return np.clip(self.alpha * x + self.beta, 0, 1)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(act=Activation.HARD_SIGMOID, alpha=self.alpha, beta=self.beta)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(HardSigmoidGrad(alpha=self.alpha), to.dy(), to.y()),)


class HardSigmoidGrad(UnaryGrad):
    """alpha · dy where 0 < y < 1, else 0."""

    kernel = "hard_sigmoid_grad"

    alpha: float = 0.2

    def formula(self, dy, y):
        return np.where((y <= 0) | (y >= 1), 0, self.alpha * dy)


class HardSwish(Unary):
    """x · HardSigmoid(x) with alpha 1/6 and beta 1/2."""

    is_cheap = True
    kernel = "hard_swish"

    def formula(self, x):
        return x * np.clip(x / 6 + 0.5, 0, 1)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(act=Activation.HARD_SWISH, alpha=1 / 6, beta=0.5)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(HardSwishGrad(), to.dy(), to.x()),)


class HardSwishGrad(UnaryGrad):
    """dy · (x / 3 + 1/2) where -3 < x < 3; 0 below, dy above."""

    kernel = "hard_swish_grad"

    def formula(self, dy, x):
        return np.where(x <= -3, 0, np.where(x >= 3, dy, dy * (x / 3 + 0.5)))


class Clip(Op):
    """min(max(x, low), high), so ``high`` where low > high; a bound left out does not bound. NaN stays NaN."""

    fixed = (1, 2)
    kernel_dtypes = ONLY_FLOAT32
    processor_dtypes = frozenset(np.dtype(t) for t in ("int8", "uint8", "int32", "int64"))

    is_cheap = True
    keeps_classes = True
    keeps_quantisation = True

    def infer(self, x: Spec, min: Spec | None = None, max: Spec | None = None) -> Spec:
        dtype = want.one_type("fiu", x=x, min=min, max=max)
        want.scalar(min, "min")
        want.scalar(max, "max")
        return Spec(x.shape, dtype)

    def kept_axis(self, axis, inputs, outputs) -> int:
        return axis

    def reference(self, x: np.ndarray, min: np.ndarray | None = None, max: np.ndarray | None = None) -> np.ndarray:
        y = np.asarray(x)
        if min is not None:
            y = np.maximum(y, min.reshape(()))
        if max is not None:
            y = np.minimum(y, max.reshape(()))
        return np.asarray(y, dtype=x.dtype)

    def limits(self, inputs) -> tuple[float, float] | None:
        """(low, high) where both are constants, in the order that gives ``high`` where low > high."""
        found = [-math.inf, math.inf]
        for i, spec in enumerate(inputs[1:3]):
            if spec is not None:
                if spec.value is None:
                    return None
                found[i] = float(spec.value.reshape(()))
        return found[0], found[1]

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and self.limits(inputs) is not None

    def epilogue(self, inputs) -> Epilogue | None:
        limits = self.limits(inputs)
        return Epilogue(low=limits[0], high=limits[1]) if limits else None

    def lower(self, to: Lowering) -> None:
        low, high = self.limits(to.inputs) or (-math.inf, math.inf)
        dtype = to.inputs[0].dtype
        if dtype in self.processor_dtypes:
            limits = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
            for i in (0, 1):
                if to.has(i + 1):
                    limits[i] = int(to.value(i + 1).reshape(()))
            to.unary(f"order.clip_{dtype.name}", low=limits[0], high=limits[1])
        else:
            to.unary("activation.clip", low=low, high=high)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        limits, dy, y = self.limits(to.inputs), to.dy(), to.y()
        if limits is not None:
            dx = to.add(ClipGrad(low=limits[0], high=limits[1]), dy, y) if to.wants(0) else None
            return (dx, *[None] * (len(to.inputs) - 1))
        dx, bounds = dy, []
        for i in range(1, len(to.inputs)):
            if not to.has(i):
                bounds.append(None)
                continue
            at = to.add(Mul(), dy, to.add(Same(), y, to.x(i)))
            dx = to.add(Sub(), dx, at)
            bounds.append(to.reduced(at, i) if to.wants(i) else None)
        return dx, *bounds


class ClipGrad(UnaryGrad):
    """dy where low < y < high, else 0: at the limits, too, as PyTorch's hardtanh (ReLU6) has it. From y, so that Clip can
    be done by the kernel that makes x."""

    kernel = "clip_grad"

    low: float = -math.inf
    high: float = math.inf

    def formula(self, dy, y):
        return np.where((y <= self.low) | (y >= self.high), 0, dy)


class GradMask(Op):
    """Where a rectifier's gradient is 0: y ≤ low or y ≥ high, a byte an element. What is left of y where nothing else of the
    backward part reads it."""

    domain = "nbconv"
    batch_inputs = (0,)
    kernel_dtypes = ONLY_FLOAT32

    low: float = 0.0
    high: float = math.inf

    def infer(self, y: Spec) -> Spec:
        want.kind("f", x=y)
        return Spec(y.shape, want.BOOL)

    def reference(self, y: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return (y <= self.low) | (y >= self.high)

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def lower(self, to: Lowering) -> None:
        to.unary("elements.grad_mask", low=self.low, high=self.high)


class MaskedGrad(Op):
    """0 where the mask is true, else dy."""

    domain = "nbconv"
    batch_inputs = (0, 1)
    kernel_dtypes = ONLY_FLOAT32

    def infer(self, dy: Spec, mask: Spec) -> Spec:
        want.kind("f", x=dy)
        want.kind("b", mask=mask)
        if dy.shape != mask.shape:
            raise ModelError(f"dy is {dy}, the mask {mask}: wanted one shape")
        return Spec(dy.shape, dy.dtype)

    def reference(self, dy: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask, dy.dtype.type(0), dy)

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def lower(self, to: Lowering) -> None:
        n, chunk = to.outputs[0].size, to.target.chunk
        to.step(
            "elements.masked_grad",
            -(-n // chunk),
            work=10 * n,
            dy=to.operand(0).ref,
            mask=to.operand(1).ref,
            y=to.output(),
            n=n,
            chunk=chunk,
        )
