"""Activation functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.lowering import Lowering
from nbconv.ops import spec as want
from nbconv.ops.op import ANY, NUMPY, Epilogue, Op
from nbconv.ops.pointwise import Unary, UnaryGrad, broadcast_layout, erf

if TYPE_CHECKING:
    from nbconv.backprop import Backward


class Relu(Unary):
    """max(x, 0); NaN stays NaN."""

    accepts = "fi"

    def formula(self, x):
        return np.maximum(x, 0)

    def layout(self, inputs, outputs) -> str:
        return ANY if inputs[0].dtype == np.float32 else NUMPY

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(low=0.0) if inputs[0].dtype == np.float32 else None

    def lower(self, to: Lowering) -> None:
        to.unary("activation.clip", low=0.0, high=math.inf)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(ReluGrad(), to.dy(), to.y()),)


class ReluGrad(UnaryGrad):
    """dy where y > 0, else 0 (at 0, too, as PyTorch has it). From y, so that Relu can be done by the kernel that makes x."""

    kernel = "relu_grad"

    def formula(self, dy, y):
        return np.where(y <= 0, 0, dy)


class LeakyRelu(Unary):
    kernel = "leaky_relu"

    alpha: float = 0.01

    def formula(self, x):
        return np.where(x < 0, self.alpha * x, x)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(code=7, alpha=self.alpha) if inputs[0].dtype == np.float32 else None


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


class ThresholdedRelu(Unary):
    """x where x > alpha, else 0 (NaN too)."""

    alpha: float = 1.0

    def formula(self, x):
        return np.where(x > self.alpha, x, 0)


class Elu(Unary):
    kernel = "elu"

    alpha: float = 1.0

    def formula(self, x):
        return np.where(x < 0, self.alpha * np.expm1(x), x)


class Selu(Unary):
    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875

    def formula(self, x):
        return self.gamma * np.where(x <= 0, self.alpha * np.expm1(x), x)


class Celu(Unary):
    alpha: float = 1.0

    def formula(self, x):
        return np.maximum(x, 0) + np.minimum(self.alpha * np.expm1(x / self.alpha), 0)


class Sigmoid(Unary):
    kernel = "sigmoid"

    def formula(self, x):
        return 1 / (1 + np.exp(-x))

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(code=1) if inputs[0].dtype == np.float32 else None


class HardSigmoid(Unary):
    kernel = "hard_sigmoid"

    alpha: float = 0.2
    beta: float = 0.5

    def formula(self, x):
        return np.clip(self.alpha * x + self.beta, 0, 1)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(code=3, alpha=self.alpha, beta=self.beta) if inputs[0].dtype == np.float32 else None


class HardSwish(Unary):
    """x · HardSigmoid(x) with alpha 1/6 and beta 1/2."""

    kernel = "hard_swish"

    def formula(self, x):
        return x * np.clip(x / 6 + 0.5, 0, 1)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(code=4, alpha=1 / 6, beta=0.5) if inputs[0].dtype == np.float32 else None


class Tanh(Unary):
    kernel = "tanh"

    def formula(self, x):
        return np.tanh(x)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(code=5) if inputs[0].dtype == np.float32 else None


class Softsign(Unary):
    """x / (1 + |x|)."""

    kernel = "softsign"

    def formula(self, x):
        return x / (1 + np.abs(x))


class Softplus(Unary):
    """log(1 + exp(x)), without overflow."""

    kernel = "softplus"

    def formula(self, x):
        return np.logaddexp(x, 0)


class Mish(Unary):
    """x · tanh(Softplus(x))."""

    def formula(self, x):
        return x * np.tanh(np.logaddexp(x, 0))


class Gelu(Unary):
    """x · Φ(x), by the error function or, with ``approximate="tanh"``, by a tanh of a cubic."""

    kernel = "gelu"

    approximate: str = "none"

    def infer(self, x: Spec) -> Spec:
        if self.approximate not in ("none", "tanh"):
            raise ModelError(f"approximate is {self.approximate!r}, wanted 'none' or 'tanh'")
        return super().infer(x)

    def formula(self, x):
        if self.approximate == "tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))

    def layout(self, inputs, outputs) -> str:
        return super().layout(inputs, outputs) if self.approximate == "none" else NUMPY

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(code=6) if self.approximate == "none" and inputs[0].dtype == np.float32 else None

    def lower(self, to: Lowering) -> None:
        to.unary("activation.gelu")


class Clip(Op):
    """min(max(x, low), high), so ``high`` where low > high; a bound left out does not bound. NaN stays NaN."""

    def infer(self, x: Spec, min: Spec | None = None, max: Spec | None = None) -> Spec:
        dtype = want.one_type("fiu", x=x, min=min, max=max)
        want.scalar(min, "min")
        want.scalar(max, "max")
        return Spec(x.shape, dtype)

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

    def layout(self, inputs, outputs) -> str:
        return ANY if inputs[0].dtype == np.float32 and self.limits(inputs) is not None else NUMPY

    def epilogue(self, inputs) -> Epilogue | None:
        limits = self.limits(inputs)
        return Epilogue(low=limits[0], high=limits[1]) if limits and inputs[0].dtype == np.float32 else None

    def lower(self, to: Lowering) -> None:
        low, high = self.limits(to.inputs) or (-math.inf, math.inf)
        to.unary("activation.clip", low=low, high=high)
