"""Convolutions, pools and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from nbconv.converters.tflite.builder import CHANNELS, Builder
from nbconv.converters.tflite.reader import Operator
from nbconv.errors import ModelError, UnsupportedError

SAME, VALID = 0, 1


def unpadded(to: Builder, x: int, padding: int) -> tuple[int, list[int]]:
    """The tensor that a convolution without padding of its own may read instead of ``x``, and how many zeros stand around
    it (begin, begin, end, end): Keras writes a PAD before."""
    if padding == VALID and x in to.padded:
        return to.padded[x]
    return x, []


def pads(
    to: Builder, t: int, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], padding: int
) -> dict[str, Any]:
    """The attributes that say how an image is padded: SAME gives ceil(size / stride) pixels, the odd one behind."""
    if padding == VALID:
        return {"pads": [0] * (2 * len(kernel))}
    if padding != SAME:
        raise ModelError(f"its padding is {padding}, wanted SAME or VALID")
    sizes = to.tensors[t].shape[1:-1]
    if None in sizes:
        return {"auto_pad": "SAME_UPPER"}
    begin, end = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        assert size is not None
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        begin.append(total // 2)
        end.append(total - total // 2)
    return {"pads": begin + end}


def shaped(to: Builder, t: int, rank: int, what: str) -> tuple[int, ...]:
    """The shape of a tensor of this rank, which must be known."""
    shape = to.tensors[t].shape
    if len(shape) != rank or None in shape:
        raise ModelError(f"its {what} has the shape {list(shape)}, wanted {rank} known dimensions")
    return tuple(d or 0 for d in shape)


def positive(what: str, values: Sequence[int]) -> list[int]:
    if min(values) < 1:
        raise ModelError(f"its {what} are {list(values)}, wanted positive ones")
    return [int(v) for v in values]


def bias(to: Builder, node: Operator, slot: int, x: int, w: int) -> tuple[str, ...]:
    """The bias as float32; integers without a scale of their own have the product's."""
    if slot >= len(node.inputs) or node.inputs[slot] < 0:
        return ()
    t = node.inputs[slot]
    tensor = to.tensors[t]
    value = to.known(t)
    if value is not None and tensor.dtype.kind == "i" and (not tensor.quantised or tensor.dtype.itemsize > 4):
        scale = tensor.scale if tensor.scale is not None else _product(to, x, w)
        return (to.constant((value * scale).astype(np.float32), hint=f"{tensor.name}:float32"),)
    return (to.get(t),)


def _product(to: Builder, x: int, w: int) -> np.ndarray:
    left, right = to.tensors[x].scale, to.tensors[w].scale
    if left is None or right is None:
        raise UnsupportedError("its bias is of integers, its input is not quantised")
    return left * right


def convolution(to: Builder, node: Operator, weights: str, w: int, spatial: int, group: int, o: Any, kernel: Sequence[int]):
    x, y = node.inputs[0], node.outputs[0]
    order = CHANNELS[spatial + 2]
    strides = positive("strides", ([o.StrideD()] if spatial == 3 else []) + [o.StrideH(), o.StrideW()])
    dilations = [o.DilationDFactor()] if spatial == 3 else []
    dilations = positive("dilations", [*dilations, o.DilationHFactor(), o.DilationWFactor()])
    if to.tensors[x].rank != spatial + 2:
        raise ModelError(f"its input has the shape {list(to.tensors[x].shape)}, wanted rank {spatial + 2}")
    source, around = unpadded(to, x, o.Padding())
    padding: dict[str, Any] = {"pads": around} if around else pads(to, x, kernel, strides, dilations, o.Padding())
    made = to.add(
        "Conv", to.get(source, order), weights, *bias(to, node, 2, x, w), group=group, kernel_shape=kernel, strides=strides,
        dilations=dilations, **padding,
    )  # fmt: skip
    to.put(y, to.activated(made, o.FusedActivationFunction()), order)


def conv_2d(to: Builder, node: Operator) -> None:
    x, w = node.inputs[:2]
    _, h, wide, channels = shaped(to, w, 4, "filter")
    have = to.tensors[x].shape[-1] if to.tensors[x].rank else None
    have = channels if have is None else have
    if not channels or have % channels:
        raise ModelError(f"its input has {have} channels, its filter {list(to.tensors[w].shape)}")
    convolution(to, node, to.get(w, CHANNELS[4]), w, 2, have // channels, node.options("Conv2DOptions"), (h, wide))


def depthwise(to: Builder, node: Operator) -> None:
    x, w = node.inputs[:2]
    one, h, wide, made = shaped(to, w, 4, "filter")
    have = to.tensors[x].shape[-1] if to.tensors[x].rank else None
    o = node.options("DepthwiseConv2DOptions")
    have = made // max(o.DepthMultiplier(), 1) if have is None else have
    if one != 1 or not have or made % have:
        raise ModelError(f"its input has {have} channels, its filter {list(to.tensors[w].shape)}")
    convolution(to, node, to.get(w, (3, 0, 1, 2)), w, 2, have, o, (h, wide))


def conv_3d(to: Builder, node: Operator) -> None:
    w = node.inputs[1]
    kernel = shaped(to, w, 5, "filter")[:3]
    convolution(to, node, to.get(w, (4, 3, 0, 1, 2)), w, 3, 1, node.options("Conv3DOptions"), kernel)


def transposed(
    to: Builder, node: Operator, x: int, w: int, slot: int, sizes: Sequence[int | None], strides: Sequence[int],
    padding: int, activation: int,
) -> None:  # fmt: skip
    """A transposed convolution whose result is of these (height, width), as the gradient of one that is padded so."""
    _, *kernel, channels = shaped(to, w, 4, "filter")
    strides = positive("strides", strides)
    if to.tensors[x].rank != 4 or to.tensors[x].shape[3] not in (None, channels):
        raise ModelError(f"its input has the shape {list(to.tensors[x].shape)}, its filter {list(to.tensors[w].shape)}")
    begin, end, more = [], [], []
    for size, have, k, s in zip(sizes, to.tensors[x].shape[1:3], kernel, strides, strict=True):
        if have is None or size is None:
            if padding == SAME and k < s:
                raise UnsupportedError("SAME padding of a filter smaller than its stride wants known sizes")
            total = max(k - s, 0) if padding == SAME else 0
        else:
            total = (have - 1) * s + k - size
            fits = have == (-(-size // s) if padding == SAME else (size - k) // s + 1)
            if not fits or total <= -s:
                raise ModelError(f"a result of {size} does not belong to an input of {have} with stride {s} and filter {k}")
        begin.append(max(total, 0) // 2 if padding == SAME else 0)
        end.append(max(total, 0) - begin[-1])
        more.append(max(-total, 0))
    order = CHANNELS[4]
    made = to.add(
        "ConvTranspose", to.get(x, order), to.get(w, (3, 0, 1, 2)), *bias(to, node, slot, x, w), kernel_shape=kernel,
        strides=strides, pads=begin + end, output_padding=more,
    )  # fmt: skip
    to.put(node.outputs[0], to.activated(made, activation), order)


def transpose_conv(to: Builder, node: Operator) -> None:
    o = node.options("TransposeConvOptions")
    shape, w, x = node.inputs[:3]
    sizes = to.tensors[node.outputs[0]].shape[1:3]
    if to.known(shape) is not None:
        sizes = to.whole(shape, "output shape")[1:3]
    if len(sizes) != 2:
        raise ModelError(f"its output shape has {len(sizes)} sizes")
    activation = o.FusedActivationFunction() if hasattr(o, "FusedActivationFunction") else 0
    transposed(to, node, x, w, 3, sizes, (o.StrideH(), o.StrideW()), o.Padding(), activation)


def pool(kind: str, root: bool = False):
    def rule(to: Builder, node: Operator) -> None:
        o, x, order = node.options("Pool2DOptions"), node.inputs[0], CHANNELS[4]
        kernel = positive("filter", (o.FilterHeight(), o.FilterWidth()))
        strides = positive("strides", (o.StrideH(), o.StrideW()))
        if to.tensors[x].rank != 4:
            raise ModelError(f"its input has the shape {list(to.tensors[x].shape)}, wanted rank 4")
        value = to.get(x, order)
        if root:
            value = to.add("Mul", value, value)
        made = to.add(kind, value, kernel_shape=kernel, strides=strides, **pads(to, x, kernel, strides, (1, 1), o.Padding()))
        if root:
            made = to.add("Sqrt", made)
        to.put(node.outputs[0], to.activated(made, o.FusedActivationFunction()), order)

    return rule


def fully_connected(to: Builder, node: Operator) -> None:
    o = node.options("FullyConnectedOptions")
    x, w = node.inputs[:2]
    if o.WeightsFormat():
        raise UnsupportedError("weights in shuffled order are not supported")
    if to.tensors[w].rank != 2:
        raise ModelError(f"its weights have the shape {list(to.tensors[w].shape)}, wanted rank 2")
    added = bias(to, node, 2, x, w)
    wide = to.tensors[w].shape[1]
    if o.KeepNumDims() and to.tensors[x].rank != 2:
        made = to.add("MatMul", to.get(x), to.get(w, (1, 0)))
        made = to.add("Add", made, *added) if added else made
    else:
        flat = to.elements(x)
        if to.tensors[x].rank != 2 or to.tensors[x].shape[1] != wide:
            flat = to.add("Reshape", flat, to.integers([-1, int(wide or 0)]))
        made = to.add("Gemm", flat, to.get(w), *added, transB=1)
    to.put(node.outputs[0], to.activated(made, o.FusedActivationFunction()))


def batch_matmul(to: Builder, node: Operator) -> None:
    o = node.options("BatchMatMulOptions")
    sides = []
    for t, turn in zip(node.inputs[:2], (o.AdjX(), o.AdjY()), strict=True):
        rank = to.tensors[t].rank
        if rank < 2:
            raise ModelError(f"an operand has the shape {list(to.tensors[t].shape)}, wanted rank 2 or more")
        sides.append(to.get(t, (*range(rank - 2), rank - 1, rank - 2) if turn else None))
    made = to.add("MatMul", *sides)
    if to.tensors[node.outputs[0]].type == 2 and not to.tensors[node.outputs[0]].quantised:
        made = to.add("Cast", made, to=TensorProto.INT32)
    to.put(node.outputs[0], made)


RULES = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise,
    "CONV_3D": conv_3d,
    "TRANSPOSE_CONV": transpose_conv,
    "MAX_POOL_2D": pool("MaxPool"),
    "AVERAGE_POOL_2D": pool("AveragePool"),
    "L2_POOL_2D": pool("AveragePool", root=True),
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
}
