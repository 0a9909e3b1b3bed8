"""Comparisons and logic, element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, FLOAT32, NUMPY, ONLY_FLOAT32, STORED, Op
from nbconv.lowering.context import Lowering
from nbconv.ops.pointwise import Abs, Binary, Unary

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward, Expansion


class Logic(Binary, abstract=True):
    """Two arrays to one of booleans; a subclass names the kernels of floats and of booleans, in `kernels/cpu/logic.py`."""

    result = want.BOOL
    floats: ClassVar[str] = ""
    booleans: ClassVar[str] = ""

    def chosen(self, inputs) -> str:
        """The kernel for these types, or ""."""
        kinds = {spec.dtype for spec in inputs}
        return self.floats if kinds == {FLOAT32} else self.booleans if kinds == {want.BOOL} else ""

    def on_processors(self, inputs, outputs) -> bool:
        return self.whole(inputs)

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_FIRST if (self.chosen(inputs) or self.whole(inputs)) and outputs[0].size else NUMPY

    def absorbs(self, inputs, outputs) -> str:
        return ""

    def lower(self, to: Lowering) -> None:
        dtype = to.inputs[0].dtype
        kernel = f"integers.{self.integers}_{dtype}" if self.whole(to.inputs) else f"logic.{self.chosen(to.inputs)}"
        to.rows(kernel, a=to.operand(0), b=to.operand(1))


class Not(Unary):
    accepts = "b"
    kernel = "logical_not"
    kernel_dtypes, kernel_layout = frozenset((want.BOOL,)), CHANNELS_FIRST

    def formula(self, x):
        return ~x

    def lower(self, to: Lowering) -> None:
        to.unary(f"logic.{self.kernel}")


class Equal(Logic):
    accepts = "fiub"
    floats = integers = "equal"

    def formula(self, a, b):
        return a == b


class Greater(Logic):
    floats = integers = "greater"

    def formula(self, a, b):
        return a > b


class GreaterOrEqual(Logic):
    floats = integers = "greater_or_equal"

    def formula(self, a, b):
        return a >= b


class Less(Logic):
    floats = integers = "less"

    def formula(self, a, b):
        return a < b


class LessOrEqual(Logic):
    floats = integers = "less_or_equal"

    def formula(self, a, b):
        return a <= b


class And(Logic):
    accepts, booleans = "b", "logical_and"

    def formula(self, a, b):
        return a & b


class Or(Logic):
    accepts, booleans = "b", "logical_or"

    def formula(self, a, b):
        return a | b


class Xor(Logic):
    accepts, booleans = "b", "logical_xor"

    def formula(self, a, b):
        return a ^ b


class IsNaN(Op):
    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        return Spec(x.shape, want.BOOL)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.isnan(x))

    def expand(self, to: Expansion) -> str | None:
        """What is not equal to itself."""
        return to.add(Not(), to.add(Equal(), to.x(), to.x())) if to.inputs[0].dtype == FLOAT32 else None


class IsInf(Op):
    detect_negative: int = 1
    detect_positive: int = 1

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        return Spec(x.shape, want.BOOL)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((x == np.inf) & bool(self.detect_positive) | (x == -np.inf) & bool(self.detect_negative))

    def expand(self, to: Expansion) -> str | None:
        """What is equal to infinity, or whose absolute value is."""
        if to.inputs[0].dtype != FLOAT32 or not (self.detect_positive or self.detect_negative):
            return None
        both = self.detect_positive and self.detect_negative
        infinity = to.constant(np.float32(np.inf if self.detect_positive else -np.inf))
        return to.add(Equal(), to.add(Abs(), to.x()) if both else to.x(), infinity)


class Where(Op):
    moves = True

    def infer(self, condition: Spec, x: Spec, y: Spec) -> Spec:
        want.kind("b", condition=condition)
        dtype = want.one_type("fiubn", x=x, y=y)
        return want.make(want.broadcast(condition.shape, x.shape, y.shape), dtype)

    def reference(self, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(condition, x, y)

    def quantisation(self, inputs, outputs):
        found = inputs[1].quantisation
        return found if found == inputs[2].quantisation and (found is None or found.axis is None) else None

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_FIRST if outputs[0].dtype in ONLY_FLOAT32 | STORED and outputs[0].size else NUMPY

    def on_processors(self, inputs, outputs) -> bool:
        return outputs[0].dtype in STORED

    def lower(self, to: Lowering) -> None:
        dtype = to.outputs[0].dtype
        kernel = "logic.where" if dtype in ONLY_FLOAT32 else f"integers.where_{dtype.itemsize}"
        to.rows(kernel, c=to.operand(0), a=to.operand(1), b=to.operand(2))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy, zero = to.dy(), to.constant(np.zeros((), to.outputs[0].dtype))
        dx = to.reduced(to.add(Where(), to.x(0), dy, zero), 1) if to.wants(1) else None
        return None, dx, to.reduced(to.add(Where(), to.x(0), zero, dy), 2) if to.wants(2) else None
