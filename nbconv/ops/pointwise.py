"""Arithmetic, element by element, of one array and of two; sums and extremes of many stand in nary.py, activations in
activation.py, comparisons in logic.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ANY, CHANNELS_FIRST, NUMPY, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering
from nbconv.ops.grad import UnaryGrad

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Unary(Op, abstract=True):
    """One array in, one of the same shape and type out. A subclass writes its ``formula``."""

    accepts: ClassVar[str] = "f"
    """NumPy kinds of element types."""
    kernel_dtypes = ONLY_FLOAT32
    kernel: ClassVar[str] = ""
    """The kernel: of `kernels/cpu/activation.py`, its Float arguments the op's fields."""

    def infer(self, x: Spec) -> Spec:
        want.kind(self.accepts, x=x)
        return Spec(x.shape, x.dtype)

    def formula(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(self.formula(x), dtype=x.dtype)

    def has_kernel(self, inputs, outputs) -> bool:
        return bool(self.kernel) and super().has_kernel(inputs, outputs)

    def lower(self, to: Lowering) -> None:
        to.unary(f"activation.{self.kernel}", **{name: getattr(self, name) for name in self.fields})


class Abs(Unary):
    accepts = "fiu"
    kernel = "abs"

    def formula(self, x):
        return np.abs(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(AbsGrad(), to.dy(), to.x()),)


class AbsGrad(UnaryGrad):
    """dy with the sign of x; 0 where x is 0."""

    kernel = "abs_grad"

    def formula(self, dy, x):
        return dy * np.sign(x)


class Neg(Unary):
    accepts = "fi"
    kernel = "negative"

    def formula(self, x):
        return -x

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Neg(), to.dy()),)


class Exp(Unary):
    kernel = "exp"

    def formula(self, x):
        return np.exp(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Mul(), to.dy(), to.y()),)


class Log(Unary):
    kernel = "log"

    def formula(self, x):
        return np.log(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Div(), to.dy(), to.x()),)


class Sqrt(Unary):
    kernel = "square_root"

    def formula(self, x):
        return np.sqrt(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        half = to.constant(np.array(0.5, to.inputs[0].dtype))
        return (to.add(Div(), to.add(Mul(), to.dy(), half), to.y()),)


class Reciprocal(Unary):
    kernel = "reciprocal"

    def formula(self, x):
        return 1 / x

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        y = to.y()
        return (to.add(Neg(), to.add(Mul(), to.dy(), to.add(Mul(), y, y))),)


class Floor(Unary):
    kernel = "floor"

    def formula(self, x):
        return np.floor(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (None,)  # 0 wherever there is one


class Ceil(Unary):
    kernel = "ceil"

    def formula(self, x):
        return np.ceil(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (None,)  # 0 wherever there is one


class Round(Unary):
    """To the nearest integer, halves to even."""

    kernel = "round_half_even"

    def formula(self, x):
        return np.rint(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (None,)  # 0 wherever there is one


class Sign(Unary):
    accepts = "fiu"

    def formula(self, x):
        return np.sign(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (None,)  # 0 wherever there is one


class Sin(Unary):
    def formula(self, x):
        return np.sin(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Mul(), to.dy(), to.add(Cos(), to.x())),)


class Cos(Unary):
    def formula(self, x):
        return np.cos(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(Neg(), to.add(Mul(), to.dy(), to.add(Sin(), to.x()))),)


class Erf(Unary):
    kernel = "erf"

    def formula(self, x):
        return erf(x)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x = to.x()
        bell = to.add(Exp(), to.add(Neg(), to.add(Mul(), x, x)))
        scale = to.constant(np.array(2 / math.sqrt(math.pi), to.inputs[0].dtype))
        return (to.add(Mul(), to.add(Mul(), to.dy(), scale), bell),)


class Identity(Unary):
    moves = True
    converts = True
    keeps_classes = True
    keeps_quantisation = True
    accepts = "fiubn"

    def kept_axis(self, axis, inputs, outputs) -> int:
        return axis

    def bypass(self, inputs) -> bool:
        return True

    def layout(self, inputs, outputs) -> str:
        return ANY

    def lower(self, to: Lowering) -> None:
        to.alias()

    def formula(self, x):
        return x

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.dy(),)


erf = np.vectorize(math.erf, otypes=[np.float64])
"""The error function in float64, one element at a time."""


def broadcast_layout(inputs, outputs) -> str:
    """The layout of a kernel of `kernels/cpu/arithmetic.py`: either, where all arrays that reach the channel axis have the
    result's rank."""
    if any(spec.dtype not in ONLY_FLOAT32 for spec in (*inputs, *outputs)):
        return NUMPY
    rank = outputs[0].rank
    mixed = any((spec.rank >= 3 or spec.rank == rank - 1) and spec.rank != rank and not spec.constant for spec in inputs)
    return CHANNELS_FIRST if mixed else ANY


INTEGERS = frozenset((np.dtype(np.int32), np.dtype(np.int64)))
"""Element types of which `kernels/cpu/integers.py` has arithmetic."""


class Binary(Op, abstract=True):
    """Two arrays of one type, broadcast together; ``result`` is the output's type where it is not the inputs'."""

    accepts: ClassVar[str] = "fiu"
    result: ClassVar[np.dtype | None] = None
    kernel: ClassVar[str] = ""
    """The float32 kernel."""
    family: ClassVar[str] = "arithmetic"
    """The file of `kernels/cpu` that has it."""
    integers: ClassVar[str] = ""
    """The kernel of `kernels/cpu/integers.py`, without the element type."""
    processor_dtypes = INTEGERS

    def infer(self, a: Spec, b: Spec) -> Spec:
        dtype = want.one_type(self.accepts, a=a, b=b)
        return want.make(want.broadcast(a.shape, b.shape), self.result or dtype)

    def formula(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(self.formula(a, b), dtype=self.result or a.dtype)

    def layout(self, inputs, outputs) -> str:
        if self.whole(inputs):
            return CHANNELS_FIRST if outputs[0].size else NUMPY
        return broadcast_layout(inputs, outputs) if self.kernel else NUMPY

    def whole(self, inputs) -> bool:
        """Whether a kernel of integers does it."""
        return bool(self.integers) and inputs[0].dtype in INTEGERS

    def absorbs(self, inputs, outputs) -> str:
        return "clamp" if self.kernel and not self.whole(inputs) else ""

    def reads_strided(self, inputs, outputs, i) -> bool:
        return bool(self.kernel) and not self.whole(inputs)

    def lower(self, to: Lowering) -> None:
        if self.whole(to.inputs):
            to.rows(f"integers.{self.integers}_{to.inputs[0].dtype}", a=to.operand(0), b=to.operand(1))
        else:
            to.broadcast(f"{self.family}.{self.kernel}", to.operand(0), to.operand(1), to.output())


class Add(Binary):
    kernel = integers = "add"

    def formula(self, a, b):
        return a + b

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy = to.dy()
        return tuple(to.reduced(dy, i) if to.wants(i) else None for i in range(2))


class Sub(Binary):
    kernel = integers = "sub"

    def formula(self, a, b):
        return a - b

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy = to.dy()
        da = to.reduced(dy, 0) if to.wants(0) else None
        return da, to.add(Neg(), to.reduced(dy, 1)) if to.wants(1) else None


class Mul(Binary):
    kernel = integers = "mul"

    def formula(self, a, b):
        return a * b

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy = to.dy()
        return tuple(to.reduced(to.add(Mul(), dy, to.x(1 - i)), i) if to.wants(i) else None for i in range(2))


class Div(Binary):
    """Integers divide toward zero; by zero they give 0 (ONNX leaves that open)."""

    kernel = integers = "div"

    def formula(self, a, b):
        if a.dtype.kind == "f":
            return a / b
        down = a // b
        return down + ((down < 0) & (down * b != a))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        part = to.add(Div(), to.dy(), to.x(1))
        da = to.reduced(part, 0) if to.wants(0) else None
        db = to.add(Neg(), to.reduced(to.add(Mul(), part, to.y()), 1)) if to.wants(1) else None
        return da, db


class Same(Binary):
    """1 where a = b, else 0, in their own type: who shares the gradient of an extreme."""

    domain = "nbconv"
    accepts, kernel, family = "f", "same", "arithmetic_grad"

    def formula(self, a, b):
        return a == b


class DivOrZero(Binary):
    """a / b, and 0 where b is 0: for gradients of norms, whose value at 0 is chosen to be 0."""

    domain = "nbconv"
    accepts, kernel, family = "f", "div_or_zero", "arithmetic_grad"

    def formula(self, a, b):
        return np.where(b == 0, 0, a / b)


class Mod(Binary):
    """Remainder with the divisor's sign (``fmod=0``; of floating point from opset 28 on) or with the dividend's
    (``fmod=1``, C's fmod)."""

    integers = "mod"

    fmod: int = 0

    def infer(self, a: Spec, b: Spec) -> Spec:
        if self.fmod not in (0, 1):
            raise ModelError(f"fmod is {self.fmod}, wanted 0 or 1")
        return super().infer(a, b)

    def formula(self, a, b):
        return np.fmod(a, b) if self.fmod else np.mod(a, b)

    def lower(self, to: Lowering) -> None:
        kind = "fmod" if self.fmod else "mod"
        to.rows(f"integers.{kind}_{to.inputs[0].dtype}", a=to.operand(0), b=to.operand(1))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """y is a - b · (a / b in whole numbers), and that is (a - y) / b."""
        dy = to.dy()
        whole = to.add(Div(), to.add(Sub(), to.x(0), to.y()), to.x(1))
        db = to.add(Neg(), to.reduced(to.add(Mul(), dy, whole), 1)) if to.wants(1) else None
        return to.reduced(dy, 0) if to.wants(0) else None, db
