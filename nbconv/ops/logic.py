"""Comparisons and logic, element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.graph import Spec
from nbconv.ops import spec as want
from nbconv.ops.op import Op
from nbconv.ops.pointwise import Binary, Unary

if TYPE_CHECKING:
    from nbconv.backprop import Backward


class Not(Unary):
    accepts = "b"

    def formula(self, x):
        return ~x


class Equal(Binary):
    accepts, result = "fiub", want.BOOL

    def formula(self, a, b):
        return a == b


class Same(Binary):
    """1 where a = b, else 0, in their own type: who shares the gradient of an extreme."""

    domain = "nbconv"
    accepts, kernel, family = "f", "same", "arithmetic_grad"

    def formula(self, a, b):
        return a == b


class Greater(Binary):
    result = want.BOOL

    def formula(self, a, b):
        return a > b


class GreaterOrEqual(Binary):
    result = want.BOOL

    def formula(self, a, b):
        return a >= b


class Less(Binary):
    result = want.BOOL

    def formula(self, a, b):
        return a < b


class LessOrEqual(Binary):
    result = want.BOOL

    def formula(self, a, b):
        return a <= b


class And(Binary):
    accepts = "b"

    def formula(self, a, b):
        return a & b


class Or(Binary):
    accepts = "b"

    def formula(self, a, b):
        return a | b


class Xor(Binary):
    accepts = "b"

    def formula(self, a, b):
        return a ^ b


class IsNaN(Op):
    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        return Spec(x.shape, want.BOOL)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.isnan(x))


class IsInf(Op):
    detect_negative: int = 1
    detect_positive: int = 1

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        return Spec(x.shape, want.BOOL)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((x == np.inf) & bool(self.detect_positive) | (x == -np.inf) & bool(self.detect_negative))


class Where(Op):
    def infer(self, condition: Spec, x: Spec, y: Spec) -> Spec:
        want.kind("b", condition=condition)
        dtype = want.one_type("fiub", x=x, y=y)
        return want.make(want.broadcast(condition.shape, x.shape, y.shape), dtype)

    def reference(self, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(condition, x, y)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy, zero = to.dy(), to.constant(np.zeros((), to.outputs[0].dtype))
        dx = to.reduced(to.add(Where(), to.x(0), dy, zero), 1) if to.wants(1) else None
        return None, dx, to.reduced(to.add(Where(), to.x(0), zero, dy), 2) if to.wants(2) else None
