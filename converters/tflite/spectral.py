"""Fourier transforms of real signals. A complex tensor is a float32 value with real and imaginary part along one axis more,
the last; what follows a transform in audio networks takes such: parts, magnitudes, dropped axes."""

from __future__ import annotations

from nbconv.converters.tflite import movement, pointwise
from nbconv.converters.tflite.builder import Builder
from nbconv.converters.tflite.reader import COMPLEX64, Operator
from nbconv.errors import ModelError, UnsupportedError


def transform(to: Builder, node: Operator) -> None:
    x, rank = node.inputs[0], to.tensors[node.inputs[0]].rank
    lengths = to.whole(node.inputs[1], "length")
    if len(lengths) != 2 or min(lengths) < 1 or rank < 2:
        raise ModelError(f"its lengths are {lengths}, its input has rank {rank}")
    if lengths[0] != 1 or to.tensors[x].shape[-2] != 1:
        raise UnsupportedError("a transform along two axes is not supported, along the last one it is")
    signal = to.add("Unsqueeze", to.get(x), to.integers([rank]))
    made = to.add("DFT", signal, to.constant(lengths[1], "int64"), to.constant(rank - 1, "int64"), onesided=1)
    to.complex[node.outputs[0]] = made


def part(to: Builder, t: int, index: int) -> str:
    """The real (0) or the imaginary (1) part."""
    if t not in to.complex:
        raise ModelError(f"reads tensor {to.name(t)!r}, which is not complex")
    return to.add("Gather", to.complex[t], to.constant(index, "int64"), axis=-1)


def real(to: Builder, node: Operator) -> None:
    to.put(node.outputs[0], part(to, node.inputs[0], 0))


def imaginary(to: Builder, node: Operator) -> None:
    to.put(node.outputs[0], part(to, node.inputs[0], 1))


def magnitude(to: Builder, node: Operator) -> None:
    part(to, node.inputs[0], 0)
    to.put(node.outputs[0], to.add("ReduceL2", to.complex[node.inputs[0]], to.integers([-1]), keepdims=0))


def cast(to: Builder, node: Operator) -> None:
    if to.tensors[node.inputs[0]].type != COMPLEX64:
        pointwise.cast(to, node)
    elif to.tensors[node.outputs[0]].type == 0:
        real(to, node)
    else:
        raise UnsupportedError("complex numbers are only cast to float32")


def squeeze(to: Builder, node: Operator) -> None:
    x = node.inputs[0]
    if to.tensors[x].type != COMPLEX64:
        movement.squeeze(to, node)
        return
    part(to, x, 0)
    axes = movement.squeezed(node)
    if not axes:
        raise UnsupportedError("complex numbers without all axes of one are not supported: say which")
    axes = to.axes(axes, to.tensors[x].rank, None)
    to.complex[node.outputs[0]] = to.add("Squeeze", to.complex[x], to.integers(axes))


RULES = {
    "RFFT2D": transform,
    "REAL": real,
    "IMAG": imaginary,
    "COMPLEX_ABS": magnitude,
    "CAST": cast,
    "SQUEEZE": squeeze,
}
"""Operators that take complex numbers; the last two take others, too."""
