"""What works on each element: arithmetic, activations, comparisons, types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from nbconv.converters.tflite.builder import Builder, Order
from nbconv.converters.tflite.reader import Operator
from nbconv.errors import ModelError, UnsupportedError

Rule = Callable[[Builder, Operator], None]


def unary(*kinds: str, **attributes: Any) -> Rule:
    """One ONNX operator, or several behind each other."""

    def rule(to: Builder, node: Operator) -> None:
        order = to.order(node.inputs[0])
        value = to.get(node.inputs[0], order)
        for kind in kinds:
            value = to.add(kind, value, **attributes)
        to.put(node.outputs[0], value, order)

    return rule


def formula(write: Callable[[Builder, Operator, str], str]) -> Rule:
    """What ``write`` makes of x, element by element."""

    def rule(to: Builder, node: Operator) -> None:
        order = to.order(node.inputs[0])
        to.put(node.outputs[0], write(to, node, to.get(node.inputs[0], order)), order)

    return rule


def together(to: Builder, *tensors: int) -> tuple[Order, list[str]]:
    """The order in which tensors broadcast to each other, and their values."""
    rank = max(to.tensors[t].rank for t in tensors)
    order = to.order(*tensors)
    order = order if order is not None and len(order) == rank else None
    return order, [to.operand(t, rank, order) for t in tensors]


def binary(write: Callable[[Builder, Operator, str, str], str] | str, options: str = "") -> Rule:
    """x and y broadcast to each other; ``options`` names the table that has the fused activation."""

    def rule(to: Builder, node: Operator) -> None:
        order, (x, y) = together(to, *node.inputs[:2])
        value = to.add(write, x, y) if isinstance(write, str) else write(to, node, x, y)
        code = node.options(options).FusedActivationFunction() if options else 0
        to.put(node.outputs[0], to.activated(value, code), order)

    return rule


def is_float(to: Builder, t: int) -> bool:
    """Whether numbers are computed: of floats, or of what integers stand for."""
    return to.tensors[t].quantised or to.tensors[t].dtype.kind == "f"


def one(to: Builder, node: Operator, value: float) -> str:
    """A scalar of the operator's type."""
    tensor = to.tensors[node.inputs[0]]
    return to.constant(value, np.float32 if tensor.quantised else tensor.dtype)


def squared_difference(to: Builder, node: Operator, x: str, y: str) -> str:
    d = to.add("Sub", x, y)
    return to.add("Mul", d, d)


def floor_mod(to: Builder, node: Operator, x: str, y: str) -> str:
    if not is_float(to, node.inputs[0]):
        return to.add("Mod", x, y)
    return to.add("Sub", x, to.add("Mul", to.add("Floor", to.add("Div", x, y)), y))


def floor_div(to: Builder, node: Operator, x: str, y: str) -> str:
    if is_float(to, node.inputs[0]):
        return to.add("Floor", to.add("Div", x, y))
    return to.add("Div", to.add("Sub", x, to.add("Mod", x, y)), y)


def negated(kind: str) -> Callable[[Builder, Operator, str, str], str]:
    return lambda to, node, x, y: to.add("Not", to.add(kind, x, y))


def rsqrt(to: Builder, node: Operator, x: str) -> str:
    return to.add("Div", one(to, node, 1), to.add("Sqrt", x))


def clip(low: float, high: float) -> Rule:
    return formula(lambda to, node, x: to.add("Clip", x, one(to, node, low), one(to, node, high)))


def leaky_relu(to: Builder, node: Operator, x: str) -> str:
    return to.add("LeakyRelu", x, alpha=node.options("LeakyReluOptions").Alpha())


def gelu(to: Builder, node: Operator, x: str) -> str:
    return to.add("Gelu", x, approximate="tanh" if node.options("GeluOptions").Approximate() else "none")


def prelu(to: Builder, node: Operator) -> None:
    order, (x, slope) = together(to, *node.inputs[:2])
    to.put(node.outputs[0], to.add("PRelu", x, slope), order)


def softmax(kind: str) -> Rule:
    def rule(to: Builder, node: Operator) -> None:
        x = node.inputs[0]
        order = to.order(x)
        value, (axis,) = to.get(x, order), to.axes([-1], to.tensors[x].rank, order)
        beta = node.options("SoftmaxOptions").Beta() if kind == "Softmax" else 1.0
        beta = beta or 1.0  # a table without it
        if beta != 1:
            value = to.add("Mul", value, to.numbers(beta))
        to.put(node.outputs[0], to.add(kind, value, axis=axis), order)

    return rule


def l2_normalization(to: Builder, node: Operator) -> None:
    """x / max(‖x‖, 1e-6), along the channels."""
    x = node.inputs[0]
    order = to.order(x)
    value, axes = to.get(x, order), to.axes([-1], to.tensors[x].rank, order)
    length = to.add("Max", to.add("ReduceL2", value, to.integers(axes), keepdims=1), one(to, node, 1e-6))
    made = to.add("Div", value, length)
    to.put(node.outputs[0], to.activated(made, node.options("L2NormOptions").FusedActivationFunction()), order)


def local_response(to: Builder, node: Operator) -> None:
    o, x, order = node.options("LocalResponseNormalizationOptions"), node.inputs[0], (0, 3, 1, 2)
    if to.tensors[x].rank != 4 or o.Radius() < 0:
        raise ModelError(f"its input has the shape {list(to.tensors[x].shape)}, its radius is {o.Radius()}")
    size = 2 * o.Radius() + 1
    made = to.add("LRN", to.get(x, order), size=size, alpha=o.Alpha() * size, beta=o.Beta(), bias=o.Bias())
    to.put(node.outputs[0], made, order)


def cast(to: Builder, node: Operator) -> None:
    """Integers as they are: cast.cc does not look at scales."""
    x, y = node.inputs[0], node.outputs[0]
    order, kind = to.order(x), helper.np_dtype_to_tensor_dtype(to.tensors[y].dtype)
    to.put(y, to.add("Cast", to.get(x, order, real=False), to=kind), order, real=False)


def dequantize(to: Builder, node: Operator) -> None:
    x, y = node.inputs[0], node.outputs[0]
    if to.tensors[x].type == 1:
        if to.tensors[x].constant:
            to.cast[y] = x
            return
        order = to.order(x)
        to.put(y, to.add("Cast", to.get(x, order), to=1), order)
        return
    if not to.tensors[x].quantised:
        raise ModelError(f"{to.name(x)!r} has no scale")
    order = to.order(x)
    to.put(y, to.get(x, order), order)


def quantize(to: Builder, node: Operator) -> None:
    x, y = node.inputs[0], node.outputs[0]
    if not to.tensors[y].quantised:
        raise ModelError(f"{to.name(y)!r} has no scale")
    order = to.order(x)
    to.put(y, to.get(x, order), order)


def densify(to: Builder, node: Operator) -> None:
    found, y = to.known(node.inputs[0]), to.tensors[node.outputs[0]]
    if found is None:
        raise UnsupportedError("what it makes dense is computed by the model, a constant is supported")
    if found.dtype != y.dtype:
        raise ModelError(f"it makes {y.dtype.name} of {found.dtype.name}")
    y.array, y.sparsity = found, None


def select(to: Builder, node: Operator) -> None:
    """`where`; the older operator's condition may be a vector, which chooses rows."""
    c, x, y = node.inputs[:3]
    if node.name == "SELECT" and to.tensors[c].rank == 1 and to.tensors[x].rank > 1:
        wide = to.add("Unsqueeze", to.get(c), to.integers(range(1, to.tensors[x].rank)))
        to.put(node.outputs[0], to.add("Where", wide, to.get(x), to.get(y)))
        return
    order, values = together(to, c, x, y)
    to.put(node.outputs[0], to.add("Where", *values), order)


def add_n(to: Builder, node: Operator) -> None:
    order, values = together(to, *node.inputs)
    to.put(node.outputs[0], to.add("Sum", *values), order)


def zeros_like(to: Builder, node: Operator) -> None:
    tensor = to.tensors[node.inputs[0]]
    zero = to.constant(0, np.float32 if tensor.quantised else tensor.dtype)
    to.put(node.outputs[0], to.add("Expand", zero, to.add("Shape", to.get(node.inputs[0], real=False))))


RULES: dict[str, Rule] = {
    "ADD": binary("Add", "AddOptions"),
    "SUB": binary("Sub", "SubOptions"),
    "MUL": binary("Mul", "MulOptions"),
    "DIV": binary("Div", "DivOptions"),
    "MAXIMUM": binary("Max"),
    "MINIMUM": binary("Min"),
    "POW": binary("Pow"),
    "SQUARED_DIFFERENCE": binary(squared_difference),
    "FLOOR_DIV": binary(floor_div),
    "FLOOR_MOD": binary(floor_mod),
    "EQUAL": binary("Equal"),
    "NOT_EQUAL": binary(negated("Equal")),
    "GREATER": binary("Greater"),
    "GREATER_EQUAL": binary("GreaterOrEqual"),
    "LESS": binary("Less"),
    "LESS_EQUAL": binary("LessOrEqual"),
    "LOGICAL_AND": binary("And"),
    "LOGICAL_OR": binary("Or"),
    "LOGICAL_NOT": unary("Not"),
    "RELU": unary("Relu"),
    "RELU6": clip(0, 6),
    "RELU_N1_TO_1": clip(-1, 1),
    "RELU_0_TO_1": clip(0, 1),
    "TANH": unary("Tanh"),
    "LOGISTIC": unary("Sigmoid"),
    "HARD_SWISH": unary("HardSwish"),
    "ELU": unary("Elu"),
    "LEAKY_RELU": formula(leaky_relu),
    "GELU": formula(gelu),
    "PRELU": prelu,
    "SOFTMAX": softmax("Softmax"),
    "LOG_SOFTMAX": softmax("LogSoftmax"),
    "L2_NORMALIZATION": l2_normalization,
    "LOCAL_RESPONSE_NORMALIZATION": local_response,
    "EXP": unary("Exp"),
    "LOG": unary("Log"),
    "SQRT": unary("Sqrt"),
    "RSQRT": formula(rsqrt),
    "NEG": unary("Neg"),
    "ABS": unary("Abs"),
    "SIN": unary("Sin"),
    "COS": unary("Cos"),
    "FLOOR": unary("Floor"),
    "CEIL": unary("Ceil"),
    "ROUND": unary("Round"),
    "SIGN": unary("Sign"),
    "SQUARE": formula(lambda to, node, x: to.add("Mul", x, x)),
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
    "DENSIFY": densify,
    "SELECT": select,
    "SELECT_V2": select,
    "ADD_N": add_n,
    "ZEROS_LIKE": zeros_like,
}
