"""Functions of the circle and the hyperbola, element by element. Kernels have none of them; `Tanh` is an activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.ops.pointwise import Add, Cos, Div, Mul, Neg, Sqrt, Sub, Unary

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Tan(Unary):
    def formula(self, x):
        return np.tan(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """dy / cos²."""
        cos = to.add(Cos(), to.x())
        return (to.add(Div(), to.dy(), to.add(Mul(), cos, cos)),)


class Asin(Unary):
    def formula(self, x):
        return np.arcsin(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Div(), to.dy(), to.add(Sqrt(), _one_minus_square(to))),)


class Acos(Unary):
    def formula(self, x):
        return np.arccos(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Neg(), to.add(Div(), to.dy(), to.add(Sqrt(), _one_minus_square(to)))),)


class Atan(Unary):
    def formula(self, x):
        return np.arctan(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Div(), to.dy(), _square_plus(to, 1)),)


class Sinh(Unary):
    def formula(self, x):
        return np.sinh(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Mul(), to.dy(), to.add(Cosh(), to.x())),)


class Cosh(Unary):
    def formula(self, x):
        return np.cosh(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Mul(), to.dy(), to.add(Sinh(), to.x())),)


class Asinh(Unary):
    def formula(self, x):
        return np.arcsinh(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Div(), to.dy(), to.add(Sqrt(), _square_plus(to, 1))),)


class Acosh(Unary):
    def formula(self, x):
        return np.arccosh(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Div(), to.dy(), to.add(Sqrt(), _square_plus(to, -1))),)


class Atanh(Unary):
    def formula(self, x):
        return np.arctanh(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Div(), to.dy(), _one_minus_square(to)),)


def _square_plus(to: Backward, term: int) -> str:
    """x² + term."""
    square = to.add(Mul(), to.x(), to.x())
    return to.add(Add(), square, to.constant(np.array(term, to.inputs[0].dtype)))


def _one_minus_square(to: Backward) -> str:
    """(1 - x) · (1 + x), which loses nothing near ±1."""
    one = to.constant(np.array(1, to.inputs[0].dtype))
    return to.add(Mul(), to.add(Sub(), one, to.x()), to.add(Add(), one, to.x()))
