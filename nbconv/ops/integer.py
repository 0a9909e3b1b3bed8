"""Products of 8-bit integers, exact as integers; those called QLinear round to 8 bits of another scale.

What is summed is computed in floating point where every partial sum is an integer that the type holds: in float32 up to
`NARROW` products a sum, in float64 beyond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import FLOAT32, Quantisation, Spec
from nbconv.graph import infer as want
from nbconv.graph.dtypes import FLOAT16
from nbconv.graph.op import CHANNELS_FIRST, NUMPY, Op
from nbconv.lowering.conv import CONVOLUTIONS
from nbconv.lowering.conv.integer_gemm import Integers
from nbconv.lowering.conv.problem import matrix, problem
from nbconv.lowering.implementation import emit
from nbconv.ops.cast import CastLike
from nbconv.ops.linear import MatMul
from nbconv.ops.logic import Equal
from nbconv.ops.nary import Max
from nbconv.ops.pointwise import Div, DivOrZero, Mul, Neg, Sub
from nbconv.ops.quantize import EIGHT_BITS, DequantizeLinear, QuantizeLinear, limits, meaning, requantised
from nbconv.ops.reduce import ReduceMax, ReduceSum

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward, Expansion
    from nbconv.lowering.context import Lowering

INT32, UINT8 = np.dtype(np.int32), np.dtype(np.uint8)

NARROW = 2**24 // 255**2
"""Products of two 8-bit integers, less their zero points, whose sum a float32 always holds."""


def eight_bits(**named: Spec | None) -> np.dtype:
    """The one type of these Specs, int8 or uint8: ModelError where they differ, UnsupportedError for another."""
    dtype = want.one_type("iu", **named)
    if dtype.itemsize != 1:
        name = next(name for name, spec in named.items() if spec is not None)
        raise UnsupportedError(f"{name} is {dtype.name}, wanted int8 or uint8")
    return dtype


def zero(spec: Spec | None, dtype: np.dtype, name: str) -> None:
    """ModelError unless a zero point is left out or of this type."""
    if spec is not None and spec.dtype != dtype:
        raise ModelError(f"{name} is {spec}, wanted {dtype.name}")


def as_float(spec: Spec) -> Spec:
    """The Spec of the array as float32."""
    return Spec(spec.shape, FLOAT32)


def shifted(x: np.ndarray, zero_point: np.ndarray | None, products: int) -> np.ndarray:
    """x - zero_point in a type of floating point in which so many products add up exactly."""
    x = x.astype(np.float32 if products <= NARROW else np.float64)
    return x if zero_point is None else x - zero_point.astype(x.dtype)


def served(
    x: Spec,
    w: Spec,
    products: int,
    *others: Spec | None,
    scales: tuple[Spec, ...] = (),
    b: Spec | None = None,
    zero: int = 1,
) -> bool:
    """Whether kernels do a product of x and w: all but x must be known, and sums fit an int32. ``zero``: 0 where w's zero
    points are."""
    known = all(s is None or (s.value is not None and s.size) for s in (*others, *scales, b))
    single = all(s.dtype in (FLOAT32, FLOAT16) for s in scales)
    if x.constant or not (w.constant and w.size and x.size and known and single):
        return False
    bias = 0 if b is None else np.abs(np.asarray(b.value, np.int64))
    if np.max(bias, initial=0) + 255**2 * products < 2**31:
        return True
    if b is None or w.rank == 2 or w.value is None:
        return False
    most = 255 * (np.abs(w.value.astype(np.int64)).reshape(w.shape[0], -1).sum(axis=1) + 255 * products * (zero != 0))
    return bool((bias + most < 2**31).all())


def requantising(to: Lowering, scale: np.ndarray, zero_point: np.ndarray, **more: Any) -> dict[str, Any]:
    """The fields of `Integers` for results of this scale and zero point, and of the limits of the node's epilogue."""
    low, high = limits(zero_point.dtype)
    low, high = int(max(low, to.epilogue.low)), int(min(high, to.epilogue.high))
    return {"scale": scale, "low": low, "high": high, "zero_point": int(zero_point.reshape(())), **more}


def integer_of(v: np.ndarray | None) -> int:
    """A zero point that is one for all; 0 where it is left out."""
    return 0 if v is None else int(v.reshape(()))


def weights_of(to: Lowering, w: int, zero: int, turned: Any) -> dict[str, Any]:
    """The fields of `Integers` that tell of w, input ``w``, and its zero point; ``turned`` gives w, and a zero point that
    broadcasts to it, as (groups, columns, k)."""

    def matrices() -> np.ndarray:
        less = to.value(zero) if to.has(zero) else np.zeros((), np.int16)
        return turned(to.value(w).astype(np.int16), less.astype(np.int16))

    middle = 128 if to.inputs[w].dtype == UINT8 else 0
    zeros = to.value(zero) if to.has(zero) else np.zeros(1)
    return {"key": to.known(*(i for i in (w, zero) if to.has(i))), "matrices": matrices,
            "symmetric": bool((zeros == middle).all())}  # fmt: skip


def integers(total: np.ndarray) -> np.ndarray:
    """Sums as int32, whose low bits are kept where they overflow."""
    return np.asarray(total).astype(np.int64).astype(np.int32)


# Products of matrices


def rows(spec: Spec | None, a: Spec, name: str) -> None:
    """ModelError unless there is one element for all of A, or one for each row: a vector, or shaped (…, m, 1)."""
    per_row = a.rank > 1 and spec is not None and (spec.shape == a.shape[-2:-1] or spec.shape == (*a.shape[:-1], 1))
    if spec is not None and spec.size != 1 and not per_row:
        raise ModelError(f"{name} is {spec}, wanted a scalar or one for each row of {list(a.shape)}")


def columns(spec: Spec | None, b: Spec, name: str) -> None:
    """ModelError unless there is one element for all of B, or one for each column: a vector, or shaped (…, 1, n)."""
    per_column = b.rank > 1 and spec is not None and spec.shape in (b.shape[-1:], (*b.shape[:-2], 1, b.shape[-1]))
    if spec is not None and spec.size != 1 and not per_column:
        raise ModelError(f"{name} is {spec}, wanted a scalar or one for each column of {list(b.shape)}")


def down(v: np.ndarray | None) -> Any:
    """One element for all or for each row, so that it broadcasts."""
    return v if v is None else v.reshape(()) if v.size == 1 else v[:, None] if v.ndim == 1 else v


def across(v: np.ndarray | None) -> Any:
    """One element for all or for each column, so that it broadcasts."""
    return v.reshape(()) if v is not None and v.size == 1 else v


def product(a: np.ndarray, a_zero: np.ndarray | None, b: np.ndarray, b_zero: np.ndarray | None) -> np.ndarray:
    """(a - a_zero) · (b - b_zero), integers in floating point."""
    k = a.shape[-1]
    return np.asarray(shifted(a, down(a_zero), k) @ shifted(b, across(b_zero), k))


class MatMulInteger(Op):
    """(A - a_zero_point) · (B - b_zero_point) in int32, of 8-bit integers; shapes as NumPy's matmul. Zero points are
    scalars, or one for each row of A and each column of B."""

    is_layer = True

    def infer(self, a: Spec, b: Spec, a_zero_point: Spec | None = None, b_zero_point: Spec | None = None) -> Spec:
        zero(a_zero_point, eight_bits(A=a), "a_zero_point")
        zero(b_zero_point, eight_bits(B=b), "b_zero_point")
        rows(a_zero_point, a, "a_zero_point")
        columns(b_zero_point, b, "b_zero_point")
        return Spec(MatMul().infer(as_float(a), as_float(b)).shape, INT32)

    def reference(
        self, a: np.ndarray, b: np.ndarray, a_zero_point: np.ndarray | None = None, b_zero_point: np.ndarray | None = None
    ) -> np.ndarray:
        return integers(product(a, a_zero_point, b, b_zero_point))

    def layout(self, inputs, outputs) -> str:
        a, b, *zeros = inputs
        one = len(zeros) < 1 or zeros[0] is None or zeros[0].size == 1
        return CHANNELS_FIRST if one and b.rank == 2 and served(a, b, b.shape[0], *zeros) else NUMPY

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def lower(self, to: Lowering) -> None:
        k, n = to.inputs[1].shape
        found = problem(to, matrix(to.outputs[0].size // n, k, n))
        x_zero = integer_of(to.value(2) if to.has(2) else None)
        q = Integers(**weights_of(to, 1, 3, of_columns), x_zero=x_zero, bias=None, scale=np.ones(n, np.float32), size=4)
        emit(to, CONVOLUTIONS, found, q)

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * inputs[0].shape[-1]


class QLinearMatMul(Op):
    """The product of dequantised A and B, quantised by y_scale and y_zero_point: sums are exact, then multiplied by
    a_scale · b_scale / y_scale, rounded (halves to even) and saturated. Scales and zero points are scalars, or one for each
    row of A and y, and each column of B."""

    is_layer = True

    def infer(
        self, a: Spec, a_scale: Spec, a_zero_point: Spec, b: Spec, b_scale: Spec, b_zero_point: Spec, y_scale: Spec,
        y_zero_point: Spec,
    ) -> Spec:  # fmt: skip
        zero(a_zero_point, eight_bits(A=a), "a_zero_point")
        zero(b_zero_point, eight_bits(B=b), "b_zero_point")
        want.one_type("f", a_scale=a_scale, b_scale=b_scale, y_scale=y_scale)
        y = Spec(MatMul().infer(as_float(a), as_float(b)).shape, eight_bits(y_zero_point=y_zero_point))
        for name, spec in (("a_scale", a_scale), ("a_zero_point", a_zero_point)):
            rows(spec, a, name)
        for name, spec in (("b_scale", b_scale), ("b_zero_point", b_zero_point)):
            columns(spec, b, name)
        for name, spec in (("y_scale", y_scale), ("y_zero_point", y_zero_point)):
            rows(spec, y, name)
        return y

    def quantisation(self, inputs, outputs) -> Quantisation | None:
        return meaning(inputs[6], inputs[7], None) if inputs[6].size == inputs[7].size == 1 else None

    def reference(
        self, a: np.ndarray, a_scale: np.ndarray, a_zero_point: np.ndarray, b: np.ndarray, b_scale: np.ndarray,
        b_zero_point: np.ndarray, y_scale: np.ndarray, y_zero_point: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        return of_scale(product(a, a_zero_point, b, b_zero_point), a_scale, b_scale, y_scale, y_zero_point)

    def layout(self, inputs, outputs) -> str:
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero, *bias = inputs
        one = all(s.size == 1 for s in (a_scale, a_zero, y_scale, y_zero))
        scales = (a_scale, b_scale, y_scale)
        sums = bias[0] if bias else None
        known = b.rank == 2 and served(a, b, b.shape[0], a_zero, b_zero, y_zero, scales=scales, b=sums)
        return CHANNELS_FIRST if one and known else NUMPY

    def expand(self, to: Expansion) -> str | None:
        """By floats, where B varies."""
        a, *of_a, b, a_b, b_b, y_scale, y_zero = to.inputs[:8]
        numbers = (*of_a, a_b, b_b, y_scale, y_zero)
        if a.constant or b.constant or len(to.inputs) > 8 or any(s.size > 1 or s.value is None for s in numbers):
            return None
        if any(s.dtype not in (FLOAT32, *EIGHT_BITS) for s in numbers):
            return None
        factors = [to.add(DequantizeLinear(), to.x(i), to.x(i + 1), to.x(i + 2)) for i in (0, 3)]
        return to.add(QuantizeLinear(), to.add(MatMul(), *factors), to.x(6), to.x(7))

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def absorbs(self, inputs, outputs) -> str:
        return "clamp"

    def lower(self, to: Lowering) -> None:
        k, n = to.inputs[3].shape
        a_scale, b_scale, y_scale = (to.value(i).astype(np.float32).reshape(-1) for i in (1, 4, 6))
        with np.errstate(all="ignore"):
            scale = np.broadcast_to(a_scale * b_scale / y_scale, (n,))
        bias = to.value(8).astype(np.int64) if to.has(8) else None
        fields = requantising(to, scale, to.value(7), x_zero=integer_of(to.value(2)), bias=bias)
        emit(to, CONVOLUTIONS, problem(to, matrix(to.outputs[0].size // n, k, n), 3),
             Integers(**weights_of(to, 3, 5, of_columns), **fields))  # fmt: skip

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * inputs[0].shape[-1]


class QLinearGemm(QLinearMatMul):
    """QLinearMatMul of an A of two axes, with an int32 bias, one for each column, of the scale of products."""

    domain = "nbconv"

    def infer(self, a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point, bias=None):  # pyright: ignore
        want.rank(a, 2, 2, "A")
        if bias is not None:
            zero(bias, INT32, "bias")
            want.vector(b.shape[-1], f"with {b.shape[-1]} columns it", bias=bias)
        return super().infer(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point)

    def reference(self, a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point, bias=None):  # pyright: ignore
        total = product(a, a_zero_point, b, b_zero_point)
        total = total if bias is None else total + bias.astype(np.float64)
        return of_scale(total, a_scale, b_scale, y_scale, y_zero_point)


def of_scale(
    total: np.ndarray, a_scale: np.ndarray, b_scale: np.ndarray, y_scale: np.ndarray, y_zero: np.ndarray
) -> np.ndarray:
    """Sums of products of matrices, quantised by y's scale."""
    dtype = np.promote_types(a_scale.dtype, np.float32)
    with np.errstate(all="ignore"):
        scale = down(a_scale).astype(dtype) * across(b_scale).astype(dtype) / down(y_scale).astype(dtype)
        return requantised(total.astype(dtype) * scale, down(y_zero), y_zero.dtype)


def of_columns(b: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """b (k, n) less its zero points, a group's columns."""
    return (b - across(zero)).T[None]


class DynamicQuantizeLinear(Op):
    """x as uint8 by a scale and a zero point that its own range decides, with 0 in it: (y, y_scale, y_zero_point).

    Where x holds 0 alone the scale is 1, as in onnxruntime; ONNX leaves that open.
    """

    def infer(self, x: Spec) -> tuple[Spec, Spec, Spec]:
        want.kind("f", x=x)
        return Spec(x.shape, UINT8), Spec((), x.dtype), Spec((), UINT8)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):
            low, high = x.min(initial=0), x.max(initial=0)
            scale = (high - low) / x.dtype.type(255)
            scale = np.asarray(scale if scale != 0 else 1, x.dtype)
            zero_point = np.asarray(np.clip(np.rint(-low / scale), 0, 255)).astype(np.uint8)
            return requantised(x / scale, zero_point, UINT8), scale, zero_point

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """That of y_scale, which goes to the greatest and the least element (equals share it); y has none."""
        dy, zero = to.dy(1), to.constant(np.array(0, to.inputs[0].dtype))
        if dy is None:
            return (None,)

        def greatest(v: str) -> str:
            top = to.add(Max(), to.add(ReduceMax(keepdims=0), v), zero)
            there = to.add(CastLike(), to.add(Equal(), v, top), zero)
            return to.add(DivOrZero(), there, to.add(ReduceSum(keepdims=0), there))

        ends = to.add(Sub(), greatest(to.x()), greatest(to.add(Neg(), to.x())))
        return (to.add(Mul(), ends, to.add(Div(), dy, to.constant(np.array(255, to.inputs[0].dtype)))),)
