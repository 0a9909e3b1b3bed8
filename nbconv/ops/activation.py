"""Activation functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.kernels.params import Activation, Epilogue
from nbconv.lowering.context import Lowering
from nbconv.ops.grad import UnaryGrad
from nbconv.ops.pointwise import Unary, erf

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Elu(Unary):
    kernel = "elu"

    alpha: float = 1.0

    def formula(self, x):
        return np.where(x < 0, self.alpha * np.expm1(x), x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(EluGrad(alpha=self.alpha), to.dy(), to.x()),)


class EluGrad(UnaryGrad):
    """dy where x > 0, else alpha · exp(x) · dy."""

    kernel = "elu_grad"

    alpha: float = 1.0

    def formula(self, dy, x):
        return np.where(x > 0, dy, self.alpha * np.exp(x) * dy)


class Selu(Unary):
    kernel = "selu"

    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875

    def formula(self, x):
        return self.gamma * np.where(x <= 0, self.alpha * np.expm1(x), x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(SeluGrad(alpha=self.alpha, gamma=self.gamma), to.dy(), to.x()),)


class SeluGrad(UnaryGrad):
    """gamma · dy where x > 0, else gamma · alpha · exp(x) · dy."""

    kernel = "selu_grad"

    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875

    def formula(self, dy, x):
        return self.gamma * np.where(x > 0, dy, self.alpha * np.exp(x) * dy)


class Celu(Unary):
    kernel = "celu"

    alpha: float = 1.0

    def formula(self, x):
        return np.maximum(x, 0) + np.minimum(self.alpha * np.expm1(x / self.alpha), 0)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(CeluGrad(alpha=self.alpha), to.dy(), to.x()),)


class CeluGrad(UnaryGrad):
    """dy where x > 0, else exp(x / alpha) · dy."""

    kernel = "celu_grad"

    alpha: float = 1.0

    def formula(self, dy, x):
        return np.where(x > 0, dy, np.exp(x / self.alpha) * dy)


class Sigmoid(Unary):
    is_cheap = True
    keeps_classes = True
    kernel = "sigmoid"

    def formula(self, x):
        return 1 / (1 + np.exp(-x))

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(act=Activation.SIGMOID)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(SigmoidGrad(), to.dy(), to.y()),)


class SigmoidGrad(UnaryGrad):
    """dy · y · (1 - y)."""

    kernel = "sigmoid_grad"

    def formula(self, dy, y):
        return dy * (y * (1 - y))


class Tanh(Unary):
    kernel = "tanh"

    def formula(self, x):
        return np.tanh(x)

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(act=Activation.TANH)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(TanhGrad(), to.dy(), to.y()),)


class TanhGrad(UnaryGrad):
    """dy · (1 - y²)."""

    kernel = "tanh_grad"

    def formula(self, dy, y):
        return dy * (1 - y * y)


class Softsign(Unary):
    """x / (1 + |x|)."""

    kernel = "softsign"

    def formula(self, x):
        return x / (1 + np.abs(x))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(SoftsignGrad(), to.dy(), to.x()),)


class SoftsignGrad(UnaryGrad):
    """dy / (1 + |x|)²."""

    kernel = "softsign_grad"

    def formula(self, dy, x):
        return dy / np.square(1 + np.abs(x))


class Softplus(Unary):
    """log(1 + exp(x)), without overflow."""

    kernel = "softplus"

    def formula(self, x):
        return np.logaddexp(x, 0)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(SoftplusGrad(), to.dy(), to.x()),)


class SoftplusGrad(UnaryGrad):
    """dy · sigmoid(x)."""

    kernel = "softplus_grad"

    def formula(self, dy, x):
        return dy / (1 + np.exp(-x))


class Mish(Unary):
    """x · tanh(Softplus(x))."""

    kernel = "mish"

    def formula(self, x):
        return x * np.tanh(np.logaddexp(x, 0))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(MishGrad(), to.dy(), to.x()),)


class MishGrad(UnaryGrad):
    """dy · (t + x · (1 - t²) · sigmoid(x)) with t = tanh(Softplus(x))."""

    kernel = "mish_grad"

    def formula(self, dy, x):
        t = np.tanh(np.logaddexp(x, 0))
        return dy * (t + x * (1 - t * t) / (1 + np.exp(-x)))


class Gelu(Unary):
    """x · Φ(x), by the error function or, with ``approximate="tanh"``, by a tanh of a cubic."""

    is_cheap = True
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

    def epilogue(self, inputs) -> Epilogue | None:
        return Epilogue(act=Activation.GELU) if self.approximate == "none" else None

    def lower(self, to: Lowering) -> None:
        to.unary("activation.gelu_tanh" if self.approximate == "tanh" else "activation.gelu")

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(GeluGrad(approximate=self.approximate), to.dy(), to.x()),)


class GeluGrad(UnaryGrad):
    """dy · (Φ(x) + x · φ(x)), φ the normal density; with ``approximate="tanh"`` the derivative of that formula."""

    approximate: str = "none"

    def formula(self, dy, x):
        if self.approximate == "tanh":
            t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
            inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
            return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner)
        return dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))

    def lower(self, to: Lowering) -> None:
        self.pair(to, "gelu_tanh_grad" if self.approximate == "tanh" else "gelu_grad")
