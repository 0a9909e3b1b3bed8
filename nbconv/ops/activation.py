"""Activation functions."""

from __future__ import annotations

import math

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops import spec as want
from nbconv.ops.op import Op
from nbconv.ops.pointwise import Unary, erf


class Relu(Unary):
    """max(x, 0); NaN stays NaN."""

    accepts = "fi"

    def formula(self, x):
        return np.maximum(x, 0)


class LeakyRelu(Unary):
    alpha: float = 0.01

    def formula(self, x):
        return np.where(x < 0, self.alpha * x, x)


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


class ThresholdedRelu(Unary):
    """x where x > alpha, else 0 (NaN too)."""

    alpha: float = 1.0

    def formula(self, x):
        return np.where(x > self.alpha, x, 0)


class Elu(Unary):
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
    def formula(self, x):
        return 1 / (1 + np.exp(-x))


class HardSigmoid(Unary):
    alpha: float = 0.2
    beta: float = 0.5

    def formula(self, x):
        return np.clip(self.alpha * x + self.beta, 0, 1)


class HardSwish(Unary):
    """x · HardSigmoid(x) with alpha 1/6 and beta 1/2."""

    def formula(self, x):
        return x * np.clip(x / 6 + 0.5, 0, 1)


class Tanh(Unary):
    def formula(self, x):
        return np.tanh(x)


class Softplus(Unary):
    """log(1 + exp(x)), without overflow."""

    def formula(self, x):
        return np.logaddexp(x, 0)


class Mish(Unary):
    """x · tanh(Softplus(x))."""

    def formula(self, x):
        return x * np.tanh(np.logaddexp(x, 0))


class Gelu(Unary):
    """x · Φ(x), by the error function or, with ``approximate="tanh"``, by a tanh of a cubic."""

    approximate: str = "none"

    def infer(self, x: Spec) -> Spec:
        if self.approximate not in ("none", "tanh"):
            raise ModelError(f"approximate is {self.approximate!r}, wanted 'none' or 'tanh'")
        return super().infer(x)

    def formula(self, x):
        if self.approximate == "tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))


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
