"""onnxruntime's operators on 8-bit integers with scales (domain com.microsoft): what the operator of their name does to the
numbers that they stand for, quantised again. Scales and zero points are scalars; a zero point left out is 0."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Quantisation, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ANY, NUMPY, Op
from nbconv.kernels.quantised_params import Combination, Line
from nbconv.ops.integer import eight_bits
from nbconv.ops.quantize import DequantizeLinear, QuantizeLinear, limits, meaning, requantised
from nbconv.ops.shape import Concat
from nbconv.ops.softmax import Softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbconv.graph.backward import Expansion
    from nbconv.lowering.context import Lowering

F32 = np.float32


def given(**named: Spec | None) -> None:
    """ModelError where an input that must be given is left out."""
    for name, spec in named.items():
        if spec is None:
            raise ModelError(f"its input {name} is left out")


def scalars(**named: Spec | None) -> None:
    """Refuses scales and zero points that are no scalars, and scales that are no floats or left out."""
    given(**{name: spec for name, spec in named.items() if name.endswith("scale")})
    for name, spec in named.items():
        want.scalar(spec, name)
        if name.endswith("scale"):
            want.kind("f", **{name: spec})


def number(v: np.ndarray | None) -> Any:
    """A scale or zero point as float32; 0 where it is left out."""
    return F32(0) if v is None else v.reshape(()).astype(F32)


def dequantised(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
    """What integers stand for, as float32."""
    return (x.astype(F32) - number(zero_point)) * number(scale)


def quantised(y: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    """The integers that stand for y."""
    with np.errstate(all="ignore"):
        return requantised(y / number(scale), number(zero_point), dtype)


class QLinear(Op, abstract=True):
    """What has the inputs X, X_scale, X_zero_point, Y_scale, Y_zero_point."""

    domain = "com.microsoft"

    def infer(
        self, x: Spec, x_scale: Spec, x_zero_point: Spec | None, y_scale: Spec, y_zero_point: Spec | None = None
    ) -> Spec:
        given(x=x)
        scalars(x_scale=x_scale, x_zero_point=x_zero_point, y_scale=y_scale, y_zero_point=y_zero_point)
        return want.make(self.shape(x.shape), eight_bits(x=x, x_zero_point=x_zero_point, y_zero_point=y_zero_point))

    def shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """The result's, for an x of this shape."""
        return x

    def quantisation(self, inputs, outputs) -> Quantisation | None:
        return meaning(inputs[3], inputs[4] if len(inputs) > 4 else None, None)

    def reference(
        self, x: np.ndarray, x_scale: np.ndarray, x_zero_point: np.ndarray | None, y_scale: np.ndarray,
        y_zero_point: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        y = self.formula(dequantised(x, x_scale, x_zero_point))
        return quantised(y, self.scale_of(y_scale), y_zero_point, x.dtype)

    def scale_of(self, scale: np.ndarray) -> np.ndarray:
        """By what results are divided, where Y_scale is this."""
        return scale

    def formula(self, x: np.ndarray) -> np.ndarray:
        """What is done to the numbers."""
        raise NotImplementedError(self.type)

    def plain(self) -> Op | None:
        """The operator on numbers that does what `formula` does, where it has kernels."""
        return None

    def expand(self, to: Expansion) -> str | None:
        """By floats."""
        plain, x = self.plain(), to.inputs[0]
        if plain is None or not known(*to.inputs[1:]):
            return None
        zero = to.constant(np.zeros((), x.dtype))
        numbers = to.add(DequantizeLinear(), to.x(), to.x(1), to.x(2) if to.has(2) else zero)
        scale, y_scale = to.x(3), to.inputs[3].value
        if (other := self.scale_of(y_scale)) is not y_scale:
            scale = to.constant(other)
        return to.add(QuantizeLinear(), to.add(plain, numbers), scale, to.x(4) if to.has(4) else zero)


def known(*specs: Spec | None) -> bool:
    """Whether scales and zero points are known when the plan is made, and float32 where they are floats."""
    return all(s is None or (s.value is not None and s.dtype.name in ("float32", "uint8", "int8")) for s in specs)


def unsigned(to: Lowering, i: int, zero: int) -> int:
    """The zero point, input ``zero``, of input i where this is read as unsigned: 128 more for an int8."""
    return int(number(to.value(zero) if to.has(zero) else None)) + flip_of(to.inputs[i].dtype)


def flip_of(dtype: np.dtype) -> int:
    """What turns integers of 8 bits to unsigned ones, by exclusive or."""
    return 0x80 if dtype.kind == "i" else 0


def looked_up(x: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``of(x)``, element by element, from a table of the 256 values."""
    return np.asarray(of(np.arange(256, dtype=np.uint8).view(x.dtype))[x.view(np.uint8)])


def table(to: Expansion, dtype: np.dtype, of: Callable[[np.ndarray], np.ndarray]) -> str:
    """``of`` every integer of this type, in the order of their bits: a constant."""
    return to.constant(of(np.arange(256, dtype=np.uint8).view(dtype)))


class LookUp(Op):
    """x's integers, of the type ``of`` where that is given, replaced by those of a table (256), in which they stand by
    their bits. The result has ``rank`` axes at least, as what x was broadcast with."""

    domain = "nbconv"

    of: str = ""
    rank: int = 0

    def infer(self, x: Spec, table: Spec) -> Spec:
        if self.of and x.dtype.name != self.of:
            raise ModelError(f"x is {x}, its zero point is {self.of}")
        for name, spec in (("x", x), ("table", table)):
            if spec.dtype.name not in ("uint8", "int8"):
                raise ModelError(f"{name} is {spec}, wanted int8 or uint8")
        want.vector(256, "a byte", table=table)
        return Spec(self.shape(x.shape), table.dtype)

    def shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """The result's."""
        return (1,) * (self.rank - len(x)) + x

    def reference(self, x: np.ndarray, table: np.ndarray) -> np.ndarray:
        return np.asarray(table[x.view(np.uint8)]).reshape(self.shape(x.shape))

    def layout(self, inputs, outputs) -> str:
        return NUMPY if inputs[0].constant else ANY

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def lower(self, to: Lowering) -> None:
        n, chunk = to.outputs[0].size, to.target.chunk
        to.step(
            "requantise.look_up", -(-n // chunk), work=8 * n, x=to.input(0), y=to.output(), table=to.input(1),
            line=Line(n, chunk),
        )  # fmt: skip


class QLinearUnary(QLinear, abstract=True):
    """A function of each element."""

    def reference(self, x, x_scale, x_zero_point, y_scale, y_zero_point=None) -> np.ndarray:
        return looked_up(x, lambda v: QLinear.reference(self, v, x_scale, x_zero_point, y_scale, y_zero_point))

    def expand(self, to: Expansion) -> str | None:
        x, *numbers = to.inputs
        if not known(*numbers):
            return None
        values: list[Any] = [None if s is None else s.value for s in numbers]
        return to.add(LookUp(), to.x(), table(to, x.dtype, lambda v: QLinear.reference(self, v, *values)))


class QLinearSigmoid(QLinearUnary):
    def formula(self, x):
        with np.errstate(all="ignore"):
            return F32(1) / (F32(1) + np.exp(-x))


class QLinearLeakyRelu(QLinearUnary):
    alpha: float = 0.01

    def formula(self, x):
        return np.where(x >= 0, x, F32(self.alpha) * x)


class QLinearSoftmax(QLinear):
    """Of ``opset`` 13 along ``axis``; before, over all axes from ``axis`` on as one. As onnxruntime has it, 1 / Y_scale is
    rounded down: of a scale of 1/255, which is 1/254.99998 as float32, the greatest result is 254."""

    axis: int = -1
    opset: int

    def shape(self, x):
        want.axis(self.axis, len(x))
        return x

    def scale_of(self, scale):
        with np.errstate(divide="ignore", over="ignore"):
            return F32(1) / np.floor(F32(1) / scale)

    def plain(self):
        return Softmax(axis=self.axis) if self.opset >= 13 else None

    def formula(self, x):
        if self.opset >= 13:
            return Softmax(axis=self.axis).reference(x)
        axis = self.axis % x.ndim
        flat = x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))
        return Softmax(axis=1).reference(flat).reshape(x.shape)


class QLinearBinary(Op, abstract=True):
    """What has the inputs A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point; A and B broadcast."""

    domain = "com.microsoft"
    kernel: ClassVar[str] = ""
    """Of `kernels/cpu/requantise.py`."""

    def infer(
        self, a: Spec, a_scale: Spec, a_zero_point: Spec | None, b: Spec, b_scale: Spec, b_zero_point: Spec | None,
        c_scale: Spec, c_zero_point: Spec | None = None,
    ) -> Spec:  # fmt: skip
        given(A=a, B=b)
        scalars(a_scale=a_scale, a_zero_point=a_zero_point, b_scale=b_scale, b_zero_point=b_zero_point, c_scale=c_scale,
                c_zero_point=c_zero_point)  # fmt: skip
        zeros = {"A_zero_point": a_zero_point, "B_zero_point": b_zero_point, "C_zero_point": c_zero_point}
        return want.make(want.broadcast(a.shape, b.shape), eight_bits(A=a, B=b, **zeros))

    def quantisation(self, inputs, outputs) -> Quantisation | None:
        return meaning(inputs[6], inputs[7] if len(inputs) > 7 else None, None)

    def reference(
        self, a: np.ndarray, a_scale: np.ndarray, a_zero_point: np.ndarray | None, b: np.ndarray, b_scale: np.ndarray,
        b_zero_point: np.ndarray | None, c_scale: np.ndarray, c_zero_point: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        left, right = dequantised(a, a_scale, a_zero_point), dequantised(b, b_scale, b_zero_point)
        return quantised(self.formula(left, right), c_scale, c_zero_point, a.dtype)

    def expand(self, to: Expansion) -> str | None:
        """A table, where one side is a number that is known."""
        if not known(*to.inputs[1:3], *to.inputs[4:]):
            return None
        for x, number_at in ((0, 3), (3, 0)):
            side, other = to.inputs[x], to.inputs[number_at]
            if side.constant or other.value is None or other.size != 1 or side.shape != to.outputs[0].shape:
                continue
            values: list[Any] = [None if s is None else s.value for s in to.inputs]
            values[number_at] = values[number_at].reshape(())

            def made(v: np.ndarray, x: int = x, values: list[Any] = values) -> np.ndarray:
                return self.reference(*(v if i == x else other for i, other in enumerate(values)))

            return to.add(LookUp(), to.x(x), table(to, side.dtype, made))
        return None

    def layout(self, inputs, outputs) -> str:
        a, *a_numbers, b = inputs[:4]
        return ANY if known(*a_numbers, *inputs[4:]) and not (a.constant and b.constant) else NUMPY

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def absorbs(self, inputs, outputs) -> str:
        return "clamp"

    def lower(self, to: Lowering) -> None:
        dtype = to.outputs[0].dtype
        zero, (low, high) = int(number(to.value(7) if to.has(7) else None)), limits(dtype)
        low, high = max(low, to.epilogue.low), min(high, to.epilogue.high)
        numbers = Combination(
            unsigned(to, 0, 2), number(to.value(1)), unsigned(to, 3, 5), number(to.value(4)), number(to.value(6)),
            zero, low - zero, high - zero,
        )  # fmt: skip
        more = {"numbers": numbers, "flip": flip_of(dtype), "zero_point": zero}
        to.broadcast(f"requantise.{self.kernel}", to.operand(0), to.operand(3), to.output(), more=more)

    def formula(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What is done to the numbers."""
        raise NotImplementedError(self.type)


class QLinearAdd(QLinearBinary):
    kernel = "add"

    def formula(self, a, b):
        return a + b


class QLinearMul(QLinearBinary):
    kernel = "mul"

    def formula(self, a, b):
        return a * b


class QLinearConcat(Op):
    """Arrays joined along ``axis``: inputs are y_scale, y_zero_point, and x, x_scale, x_zero_point of each."""

    domain = "com.microsoft"

    axis: int

    def infer(self, y_scale: Spec, y_zero_point: Spec, *inputs: Spec) -> Spec:
        if not inputs or len(inputs) % 3:
            raise ModelError(f"behind y_scale and y_zero_point stand {len(inputs)} inputs, wanted three for each array")
        given(y_zero_point=y_zero_point, **{f"input {i + 2}": spec for i, spec in enumerate(inputs)})
        scalars(y_scale=y_scale, y_zero_point=y_zero_point)
        first = inputs[0]
        dtype, axis, total = eight_bits(y_zero_point=y_zero_point), want.axis(self.axis, first.rank), 0
        for x, scale, zero_point in zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True):
            scalars(scale=scale, zero_point=zero_point)
            eight_bits(x=x, x_zero_point=zero_point)
            if x.rank != first.rank or any(i != axis and d != first.shape[i] for i, d in enumerate(x.shape)):
                raise ModelError(f"{x} cannot be joined to {first} along axis {axis}")
            total += x.shape[axis]
        return want.make((*first.shape[:axis], total, *first.shape[axis + 1 :]), dtype)

    def quantisation(self, inputs, outputs) -> Quantisation | None:
        return meaning(inputs[0], inputs[1], None)

    def reference(self, y_scale: np.ndarray, y_zero_point: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                moved(x, scale, zero_point, y_scale, y_zero_point)
                for x, scale, zero_point in zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True)
            ],
            axis=self.axis,
        )

    def expand(self, to: Expansion) -> str | None:
        """Each array by y's scale, then joined."""
        y_scale, y_zero = to.inputs[:2]
        if not known(y_scale, y_zero, *to.inputs[3::3], *to.inputs[4::3]):
            return None
        parts = [moved_by(to, i, y_scale.value, y_zero.value) for i in range(2, len(to.inputs), 3)]
        return to.add(Concat(axis=self.axis), *parts)


def moved(
    x: np.ndarray, x_scale: np.ndarray, x_zero_point: np.ndarray, y_scale: np.ndarray, y_zero_point: np.ndarray
) -> np.ndarray:
    """Integers by another scale and zero point; the same where these are."""
    if x_scale == y_scale and x_zero_point == y_zero_point and x.dtype == y_zero_point.dtype:
        return x
    return looked_up(
        x, lambda v: quantised(dequantised(v, x_scale, x_zero_point), y_scale, y_zero_point, y_zero_point.dtype)
    )


def moved_by(to: Expansion, i: int, y_scale: np.ndarray, y_zero: np.ndarray) -> str:
    """Input i, with its scale and zero point behind it, by another scale and zero point."""
    x, scale, zero = to.inputs[i], to.inputs[i + 1].value, to.inputs[i + 2].value
    if scale == y_scale and zero == y_zero and x.dtype == y_zero.dtype:
        return to.x(i)
    return to.add(LookUp(), to.x(i), table(to, x.dtype, lambda v: moved(v, scale, zero, y_scale, y_zero)))


class QLinearWhere(Op):
    """X where the condition holds, else Y."""

    domain = "com.microsoft"

    def infer(
        self, condition: Spec, x: Spec, x_scale: Spec, x_zero_point: Spec, y: Spec, y_scale: Spec, y_zero_point: Spec,
        z_scale: Spec, z_zero_point: Spec,
    ) -> Spec:  # fmt: skip
        given(condition=condition, x=x, y=y, x_zero_point=x_zero_point, y_zero_point=y_zero_point, z_zero_point=z_zero_point)
        want.kind("b", condition=condition)
        scalars(x_scale=x_scale, x_zero_point=x_zero_point, y_scale=y_scale, y_zero_point=y_zero_point, z_scale=z_scale,
                z_zero_point=z_zero_point)  # fmt: skip
        zeros = {"x_zero_point": x_zero_point, "y_zero_point": y_zero_point, "z_zero_point": z_zero_point}
        return want.make(want.broadcast(condition.shape, x.shape, y.shape), eight_bits(x=x, y=y, **zeros))

    def quantisation(self, inputs, outputs) -> Quantisation | None:
        return meaning(inputs[7], inputs[8], None)

    def reference(
        self, condition: np.ndarray, x: np.ndarray, x_scale: np.ndarray, x_zero_point: np.ndarray, y: np.ndarray,
        y_scale: np.ndarray, y_zero_point: np.ndarray, z_scale: np.ndarray, z_zero_point: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        left = moved(x, x_scale, x_zero_point, z_scale, z_zero_point)
        return np.where(condition, left, moved(y, y_scale, y_zero_point, z_scale, z_zero_point))
