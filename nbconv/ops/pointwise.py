"""Arithmetic and casts, element by element; activations stand in activation.py, comparisons in logic.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.lowering import Lowering, Operand
from nbconv.ops import spec as want
from nbconv.ops.op import ANY, CANONICAL, NUMPY, Op

if TYPE_CHECKING:
    from nbconv.backprop import Backward


class Unary(Op, abstract=True):
    """One array in, one of the same shape and type out. A subclass writes its ``formula``."""

    accepts: ClassVar[str] = "f"
    """NumPy kinds of element types."""
    kernel: ClassVar[str] = ""
    """The float32 kernel: of `kernels/cpu/activation.py`, its Float arguments the op's fields."""

    def infer(self, x: Spec) -> Spec:
        want.kind(self.accepts, x=x)
        return Spec(x.shape, x.dtype)

    def formula(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(self.formula(x), dtype=x.dtype)

    def layout(self, inputs, outputs) -> str:
        return ANY if self.kernel and inputs[0].dtype == np.float32 else NUMPY

    def lower(self, to: Lowering) -> None:
        to.unary(f"activation.{self.kernel}", **{name: getattr(self, name) for name in self.fields})


class UnaryGrad(Op, abstract=True):
    """The gradient of a `Unary`: of dy and the forward's x or y, all of one shape. A subclass has the forward's fields, and
    writes its ``formula``."""

    domain = "nbconv"
    kernel: ClassVar[str] = ""
    """The float32 kernel, of `kernels/cpu/activation_grad.py`; its Float arguments are the op's fields."""

    def infer(self, dy: Spec, v: Spec) -> Spec:
        dtype = want.one_type("f", dy=dy, v=v)
        if dy.shape != v.shape:
            raise ModelError(f"dy is {dy}, the value beside it {v}: wanted one shape")
        return Spec(dy.shape, dtype)

    def formula(self, dy: np.ndarray, v: np.ndarray, /) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, dy: np.ndarray, v: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(self.formula(dy, v), dtype=dy.dtype)

    def layout(self, inputs, outputs) -> str:
        return ANY if inputs[0].dtype == np.float32 else NUMPY

    def lower(self, to: Lowering) -> None:
        n, chunk = to.outputs[0].size, 4096
        to.step(
            f"activation_grad.{self.kernel}", -(-n // chunk), work=12 * n, dy=to.input(0), v=to.input(1), y=to.output(), n=n,
            chunk=chunk, **{name: getattr(self, name) for name in self.fields},
        )  # fmt: skip


class Abs(Unary):
    accepts = "fiu"
    kernel = "magnitude"

    def formula(self, x):
        return np.abs(x)


class Neg(Unary):
    accepts = "fi"
    kernel = "negative"

    def formula(self, x):
        return -x


class Exp(Unary):
    kernel = "exp"

    def formula(self, x):
        return np.exp(x)


class Log(Unary):
    kernel = "log"

    def formula(self, x):
        return np.log(x)


class Sqrt(Unary):
    kernel = "square_root"

    def formula(self, x):
        return np.sqrt(x)


class Reciprocal(Unary):
    kernel = "reciprocal"

    def formula(self, x):
        return 1 / x


class Floor(Unary):
    def formula(self, x):
        return np.floor(x)


class Ceil(Unary):
    def formula(self, x):
        return np.ceil(x)


class Round(Unary):
    """To the nearest integer, halves to even."""

    def formula(self, x):
        return np.rint(x)


class Sign(Unary):
    accepts = "fiu"

    def formula(self, x):
        return np.sign(x)


class Sin(Unary):
    def formula(self, x):
        return np.sin(x)


class Cos(Unary):
    def formula(self, x):
        return np.cos(x)


class Erf(Unary):
    kernel = "erf"

    def formula(self, x):
        return erf(x)


class Identity(Unary):
    accepts = "fiub"

    def bypass(self, inputs) -> bool:
        return True

    def layout(self, inputs, outputs) -> str:
        return ANY

    def lower(self, to: Lowering) -> None:
        to.alias()

    def formula(self, x):
        return x


erf = np.vectorize(math.erf, otypes=[np.float64])
"""The error function in float64, one element at a time."""


class Nary(Op, abstract=True):
    """One or more arrays of one type, broadcast together, type unchanged. A subclass writes its ``formula``."""

    accepts: ClassVar[str] = "f"
    kernel: ClassVar[str] = ""
    """The float32 kernel of two arrays, in `kernels/cpu/arithmetic.py`."""

    def infer(self, *inputs: Spec) -> Spec:
        dtype = want.one_type(self.accepts, **{f"input {i}": x for i, x in enumerate(inputs)})
        return want.make(want.broadcast(*(x.shape for x in inputs)), dtype)

    def formula(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        total = inputs[0]
        with np.errstate(all="ignore"):
            for x in inputs[1:]:
                total = self.formula(total, x)
        return np.asarray(total, dtype=inputs[0].dtype)

    def layout(self, inputs, outputs) -> str:
        return broadcast_layout(inputs, outputs) if self.kernel else NUMPY

    def absorbs(self, inputs, outputs) -> str:
        return "clamp" if self.kernel and len(inputs) == 2 else ""

    def lower(self, to: Lowering) -> None:
        count = len(to.node.inputs)
        if count == 1:
            to.alias()
            return
        total = to.operand(0)
        for i in range(1, count):
            to.broadcast(f"arithmetic.{self.kernel}", total, to.operand(i), to.output(), clamp=i == count - 1)
            total = Operand(to.output(), to.out_strides())


def broadcast_layout(inputs, outputs) -> str:
    """The layout of a kernel of `kernels/cpu/arithmetic.py`: either, where all arrays that reach the channel axis have the
    result's rank."""
    if any(spec.dtype != np.float32 for spec in (*inputs, *outputs)):
        return NUMPY
    rank = outputs[0].rank
    mixed = any((spec.rank >= 3 or spec.rank == rank - 1) and spec.rank != rank and not spec.constant for spec in inputs)
    return CANONICAL if mixed else ANY


class Max(Nary):
    """NaN where any input is NaN."""

    accepts = "fiu"
    kernel = "larger"

    def formula(self, a, b):
        return np.maximum(a, b)


class Min(Nary):
    """NaN where any input is NaN."""

    accepts = "fiu"
    kernel = "smaller"

    def formula(self, a, b):
        return np.minimum(a, b)


class Sum(Nary):
    kernel = "add"

    def formula(self, a, b):
        return a + b


class Mean(Nary):
    def formula(self, a, b):
        return a + b

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        return np.asarray(super().reference(*inputs) / len(inputs), dtype=inputs[0].dtype)


class Binary(Op, abstract=True):
    """Two arrays of one type, broadcast together; ``result`` is the output's type where it is not the inputs'."""

    accepts: ClassVar[str] = "fiu"
    result: ClassVar[np.dtype | None] = None
    kernel: ClassVar[str] = ""
    """The float32 kernel, in `kernels/cpu/arithmetic.py`."""

    def infer(self, a: Spec, b: Spec) -> Spec:
        dtype = want.one_type(self.accepts, a=a, b=b)
        return want.make(want.broadcast(a.shape, b.shape), self.result or dtype)

    def formula(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        raise NotImplementedError(self.type)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(self.formula(a, b), dtype=self.result or a.dtype)

    def layout(self, inputs, outputs) -> str:
        return broadcast_layout(inputs, outputs) if self.kernel else NUMPY

    def absorbs(self, inputs, outputs) -> str:
        return "clamp" if self.kernel else ""

    def lower(self, to: Lowering) -> None:
        to.broadcast(f"arithmetic.{self.kernel}", to.operand(0), to.operand(1), to.output())


class Add(Binary):
    kernel = "add"

    def formula(self, a, b):
        return a + b

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy = to.dy()
        return tuple(to.reduced(dy, i) if to.wants(i) else None for i in range(2))


class Sub(Binary):
    kernel = "sub"

    def formula(self, a, b):
        return a - b

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy = to.dy()
        da = to.reduced(dy, 0) if to.wants(0) else None
        return da, to.add(Neg(), to.reduced(dy, 1)) if to.wants(1) else None


class Mul(Binary):
    kernel = "mul"

    def formula(self, a, b):
        return a * b

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dy = to.dy()
        return tuple(to.reduced(to.add(Mul(), dy, to.x(1 - i)), i) if to.wants(i) else None for i in range(2))


class Div(Binary):
    """Integers divide toward zero; by zero they give 0 (ONNX leaves that open)."""

    kernel = "div"

    def formula(self, a, b):
        if a.dtype.kind == "f":
            return a / b
        down = a // b
        return down + ((down < 0) & (down * b != a))


class Pow(Binary):
    """The type is the base's; the exponent may have another."""

    def infer(self, a: Spec, b: Spec) -> Spec:
        want.kind("fiu", a=a, b=b)
        return want.make(want.broadcast(a.shape, b.shape), a.dtype)

    def formula(self, a, b):
        if a.dtype.kind in "iu" and b.dtype.kind == "i":
            a = a.astype(np.float64) if (b < 0).any() else a
        return np.power(a, b)

    kernels: ClassVar[dict[float, str]] = {2.0: "square", 0.5: "power_half", -1.0: "reciprocal"}
    """Exponents that have a kernel of their own."""

    def layout(self, inputs, outputs) -> str:
        a, b = inputs
        simple = b.value is not None and b.size == 1 and float(b.value.reshape(())) in self.kernels
        return ANY if simple and a.dtype == np.float32 and a.shape == outputs[0].shape else NUMPY

    def absorbs(self, inputs, outputs) -> str:
        return ""

    def lower(self, to: Lowering) -> None:
        exponent = to.value(1)
        to.unary(f"activation.{self.kernels[float(exponent.reshape(()))]}")


class Mod(Binary):
    """Remainder with the divisor's sign (``fmod=0``, integers only) or with the dividend's (``fmod=1``, C's fmod)."""

    fmod: int = 0

    def infer(self, a: Spec, b: Spec) -> Spec:
        if not self.fmod and a.dtype.kind == "f":
            raise ModelError(f"a is {a.dtype.name}: fmod must be 1 for floating point")
        return super().infer(a, b)

    def formula(self, a, b):
        return np.fmod(a, b) if self.fmod else np.mod(a, b)


class Cast(Op):
    """Floats become integers toward zero (out of range: as the machine does), anything but 0 becomes True. ``saturate``
    only concerns 8-bit floats."""

    to: int
    saturate: int = 1

    def infer(self, x: Spec) -> Spec:
        want.kind("fiub", x=x)
        return Spec(x.shape, want.dtype_of(self.to))

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(x).astype(want.dtype_of(self.to))

    def bypass(self, inputs) -> bool:
        return inputs[0].dtype == want.dtype_of(self.to)


class CastLike(Op):
    """``x`` in the type of ``like``, as `Cast`."""

    saturate: int = 1

    def infer(self, x: Spec, like: Spec) -> Spec:
        want.kind("fiub", x=x, like=like)
        return Spec(x.shape, like.dtype)

    def reference(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(x).astype(like.dtype)


class Dropout(Op):
    """The identity, as in inference; the mask is all True."""

    seed: int | None = None

    def infer(self, x: Spec, ratio: Spec | None = None, training_mode: Spec | None = None) -> tuple[Spec, Spec]:
        want.kind("f", x=x)
        if training_mode is not None and want.known(training_mode, "training_mode").any():
            raise UnsupportedError("training_mode is true, nbconv runs Dropout in inference only")
        return Spec(x.shape, x.dtype), Spec(x.shape, want.BOOL)

    def reference(self, x: np.ndarray, ratio: np.ndarray | None = None, training_mode: np.ndarray | None = None):
        return x, np.ones(x.shape, np.bool_)

    def bypass(self, inputs) -> bool:
        return True

    def layout(self, inputs, outputs) -> str:
        return ANY if len(outputs) == 1 else NUMPY

    def lower(self, to: Lowering) -> None:
        to.alias()
