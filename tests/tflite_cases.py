"""TFLite's operators, with what they give on small inputs, from NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erf
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tests.tflite_files import O, T, constant, write

F = np.float32


def noise(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(F)


class Case(NamedTuple):
    """An operator on inputs: arrays that are fed, or constants; ``expect`` computes its results from all of them."""

    op: str
    inputs: Sequence[Any]
    expect: Callable[..., Any]
    table: str = ""
    options: dict[str, Any] = {}

    def __str__(self) -> str:
        told = "".join(f"-{k}={v}" for k, v in self.options.items())
        return f"{self.op}{told}-{'x'.join(map(str, np.shape(self.inputs[0])))}".replace(" ", "")


class Fixed(NamedTuple):
    """An input that is a constant of the file."""

    data: np.ndarray


def ints(*values: Any) -> Fixed:
    return Fixed(np.array(values if len(values) != 1 else values[0], np.int32))


def model(case: Case) -> tuple[bytes, list[np.ndarray], list[np.ndarray]]:
    """The file, what is fed to it, and what comes out."""
    arrays = [v.data if isinstance(v, Fixed) else v for v in case.inputs]
    expected = case.expect(*arrays)
    expected = [np.asarray(e) for e in (expected if isinstance(expected, tuple) else (expected,))]
    tensors = [
        constant(f"c{i}", v.data, v.data.dtype) if isinstance(v, Fixed) else T(f"x{i}", v.shape, v.dtype.name)
        for i, v in enumerate(case.inputs)
    ]
    count = len(tensors)
    tensors += [T(f"y{i}", e.shape, e.dtype.name) for i, e in enumerate(expected)]
    fed = [i for i, v in enumerate(case.inputs) if not isinstance(v, Fixed)]
    made = list(range(count, len(tensors)))
    content = write(tensors, [O(case.op, range(count), made, case.options, case.table)], fed, made)
    return content, [arrays[i] for i in fed], expected


def same_pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def patches(x: np.ndarray, kernel, stride, dilation, same: bool, fill: float = 0) -> np.ndarray:
    """(N, OH, OW, C, KH, KW)"""
    if same:
        around = [same_pads(d, k, s, e) for d, k, s, e in zip(x.shape[1:3], kernel, stride, dilation)]
        x = np.pad(x, [(0, 0), *around, (0, 0)], constant_values=fill)
    wide = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    windows = sliding_window_view(x, wide, (1, 2))[:, :: stride[0], :: stride[1]]
    return windows[..., :: dilation[0], :: dilation[1]]


def conv(stride=(1, 1), dilation=(1, 1), same=True, act=lambda y: y):
    def expect(x, w, *b):
        groups = x.shape[3] // w.shape[3]
        parts = np.split(patches(x.astype("f8"), w.shape[1:3], stride, dilation, same), groups, 3)
        y = np.concatenate(
            [np.einsum("nyxcij,oijc->nyxo", p, v) for p, v in zip(parts, np.split(w.astype("f8"), groups))], -1
        )
        return act(y + sum(b)).astype(F)

    return expect


def depthwise(stride=(1, 1), dilation=(1, 1), same=True):
    def expect(x, w, b):
        p = patches(x.astype("f8"), w.shape[1:3], stride, dilation, same)
        many = w.shape[3] // x.shape[3]
        y = np.einsum("nyxcij,ijcm->nyxcm", p, w[0].reshape(*w.shape[1:3], x.shape[3], many).astype("f8"))
        return (y.reshape(*y.shape[:3], -1) + b).astype(F)

    return expect


def pooled(how, kernel, stride, same):
    def expect(x):
        p = patches(x, kernel, stride, (1, 1), same, np.nan)
        return how(p, (4, 5)).astype(F)

    return expect


def transposed(size, stride, same):
    def expect(_, w, x, *b):
        n, h, wide, _ = x.shape
        kh, kw = w.shape[1:3]
        full = np.zeros(
            (n, (h - 1) * stride[0] + max(kh, stride[0]), (wide - 1) * stride[1] + max(kw, stride[1]), w.shape[0])
        )
        for i in range(h):
            for j in range(wide):
                at = full[:, i * stride[0] :, j * stride[1] :][:, :kh, :kw]
                at += np.einsum("nc,oklc->nklo", x[:, i, j], w)
        top, left = (
            max((d - 1) * s + k - z, 0) // 2 if same else 0 for d, s, k, z in zip((h, wide), stride, (kh, kw), size)
        )
        return (full[:, top : top + size[0], left : left + size[1]] + sum(b)).astype(F)

    return expect


X = noise(2, 5, 6, 4)
C2 = "Conv2DOptions"
PLAIN = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
CONVOLUTIONS = [
    Case("CONV_2D", (X, Fixed(noise(3, 3, 3, 4)), Fixed(noise(3))), conv(), C2, {**PLAIN, "Padding": 0}),
    Case("CONV_2D", (X, Fixed(noise(3, 3, 2, 4)), Fixed(noise(3))), conv((2, 2)), C2, {**PLAIN, "StrideH": 2, "StrideW": 2}),
    Case(
        "CONV_2D", (noise(1, 9, 9, 2), Fixed(noise(3, 3, 3, 2)), Fixed(noise(3))),
        conv((1, 1), (2, 3), True, lambda y: np.clip(y, 0, 6)), C2,
        {**PLAIN, "DilationHFactor": 2, "DilationWFactor": 3, "FusedActivationFunction": 3},
    ),
    Case(
        "CONV_2D", (X, Fixed(noise(6, 2, 2, 2)), Fixed(noise(6))),
        conv((1, 2), (1, 1), False, lambda y: np.clip(y, -1, 1)), C2,
        {**PLAIN, "StrideW": 2, "Padding": 1, "FusedActivationFunction": 2},
    ),
    Case(
        "DEPTHWISE_CONV_2D", (X, Fixed(noise(1, 3, 3, 4)), Fixed(noise(4))), depthwise((2, 2)), "DepthwiseConv2DOptions",
        {**PLAIN, "StrideH": 2, "StrideW": 2, "DepthMultiplier": 1},
    ),
    Case(
        "DEPTHWISE_CONV_2D", (X, Fixed(noise(1, 2, 3, 8)), Fixed(noise(8))), depthwise((1, 1), (2, 1), False),
        "DepthwiseConv2DOptions", {**PLAIN, "Padding": 1, "DilationHFactor": 2, "DepthMultiplier": 2},
    ),
    Case(
        "TRANSPOSE_CONV", (ints(2, 9, 12, 3), Fixed(noise(3, 3, 3, 4)), X), transposed((9, 12), (2, 2), True),
        "TransposeConvOptions", {"StrideH": 2, "StrideW": 2},
    ),
    Case(
        "TRANSPOSE_CONV", (ints(2, 11, 8, 3), Fixed(noise(3, 3, 3, 4)), X, Fixed(noise(3))),
        transposed((11, 8), (2, 1), False),
        "TransposeConvOptions", {"StrideH": 2, "StrideW": 1, "Padding": 1},
    ),
    Case(
        "TRANSPOSE_CONV", (ints(2, 15, 18, 3), Fixed(noise(3, 2, 2, 4)), X), transposed((15, 18), (3, 3), True),
        "TransposeConvOptions", {"StrideH": 3, "StrideW": 3},
    ),
    Case(
        "MAX_POOL_2D", (X,), pooled(np.nanmax, (3, 3), (2, 2), True), "Pool2DOptions",
        {"FilterHeight": 3, "FilterWidth": 3, "StrideH": 2, "StrideW": 2},
    ),
    Case(
        "AVERAGE_POOL_2D", (X,), pooled(np.nanmean, (2, 3), (2, 2), True), "Pool2DOptions",
        {"FilterHeight": 2, "FilterWidth": 3, "StrideH": 2, "StrideW": 2},
    ),
    Case(
        "L2_POOL_2D", (X,), pooled(lambda p, a: np.sqrt((p**2).mean(a)), (2, 2), (1, 1), False), "Pool2DOptions",
        {"FilterHeight": 2, "FilterWidth": 2, "StrideH": 1, "StrideW": 1, "Padding": 1},
    ),
    Case(
        "CONV_3D", (noise(1, 3, 4, 5, 2), Fixed(noise(1, 1, 1, 2, 3)), Fixed(noise(3))), lambda x, w, b: x @ w[0, 0, 0] + b,
        "Conv3DOptions", {"StrideD": 1, "StrideH": 1, "StrideW": 1, "Padding": 1},
    ),
    Case("FULLY_CONNECTED", (noise(3, 8), Fixed(noise(5, 8)), Fixed(noise(5))), lambda x, w, b: x @ w.T + b,
         "FullyConnectedOptions"),
    Case("FULLY_CONNECTED", (noise(2, 1, 1, 8), Fixed(noise(5, 8))), lambda x, w: np.maximum(x.reshape(2, 8) @ w.T, 0),
         "FullyConnectedOptions", {"FusedActivationFunction": 1}),
    Case("FULLY_CONNECTED", (noise(2, 3, 8), Fixed(noise(5, 8)), Fixed(noise(5))), lambda x, w, b: x @ w.T + b,
         "FullyConnectedOptions", {"KeepNumDims": True}),
    Case("BATCH_MATMUL", (noise(2, 3, 4), noise(2, 5, 4)), lambda x, y: x @ y.transpose(0, 2, 1), "BatchMatMulOptions",
         {"AdjY": True}),
    Case("BATCH_MATMUL", (noise(2, 4, 3), noise(1, 4, 5)), lambda x, y: x.transpose(0, 2, 1) @ y, "BatchMatMulOptions",
         {"AdjX": True}),
]  # fmt: skip

POSITIVE = noise(2, 3, low=0.1)
COUNTS = np.array([[7, -7, 8], [-3, 5, 9]], np.int32)
DIVISORS = np.array([[2, 2, -3], [2, -2, 4]], np.int32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, beta=1.0):
    e = np.exp(beta * (x - x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


POINTWISE = [
    Case("ADD", (X, noise(4)), lambda x, y: np.maximum(x + y, 0), "AddOptions", {"FusedActivationFunction": 1}),
    Case("SUB", (X, noise(2, 1, 1, 4)), lambda x, y: np.clip(x - y, -1, 1), "SubOptions", {"FusedActivationFunction": 2}),
    Case("MUL", (X, Fixed(noise(1, 1, 4))), lambda x, y: x * y, "MulOptions"),
    Case("DIV", (X, Fixed(np.array(3, F))), lambda x, y: x / y, "DivOptions"),
    Case("DIV", (COUNTS, DIVISORS), lambda x, y: np.trunc(x / y).astype(np.int32), "DivOptions"),
    Case("MAXIMUM", (X, noise(2, 5, 6, 4, seed=1)), np.maximum),
    Case("MINIMUM", (X, noise(4)), np.minimum),
    Case("SQUARED_DIFFERENCE", (X, noise(2, 5, 6, 4, seed=1)), lambda x, y: (x - y) ** 2),
    Case("POW", (POSITIVE, noise(2, 3)), np.power),
    Case("FLOOR_DIV", (COUNTS, DIVISORS), lambda x, y: x // y),
    Case("FLOOR_DIV", (noise(2, 3), POSITIVE), lambda x, y: x // y),
    Case("FLOOR_MOD", (COUNTS, DIVISORS), lambda x, y: x % y),
    Case("EQUAL", (COUNTS, np.array([7, 5, 9], np.int32)), np.equal),
    Case("NOT_EQUAL", (COUNTS, np.array([7, 5, 9], np.int32)), np.not_equal),
    Case("GREATER", (X, noise(4)), np.greater),
    Case("GREATER_EQUAL", (COUNTS, DIVISORS), np.greater_equal),
    Case("LESS", (X, noise(4)), np.less),
    Case("LESS_EQUAL", (COUNTS, DIVISORS), np.less_equal),
    Case("LOGICAL_AND", (COUNTS > 0, DIVISORS > 0), np.logical_and),
    Case("LOGICAL_OR", (COUNTS > 0, DIVISORS > 0), np.logical_or),
    Case("LOGICAL_NOT", (COUNTS > 0,), np.logical_not),
    Case("RELU", (X,), lambda x: np.maximum(x, 0)),
    Case("RELU6", (X * 9,), lambda x: np.clip(x, 0, 6)),
    Case("RELU_N1_TO_1", (X,), lambda x: np.clip(x, -1, 1)),
    Case("TANH", (X,), np.tanh),
    Case("LOGISTIC", (X,), sigmoid),
    Case("HARD_SWISH", (X * 3,), lambda x: x * np.clip(x + 3, 0, 6) / 6),
    Case("ELU", (X,), lambda x: np.where(x > 0, x, np.expm1(x))),
    Case("LEAKY_RELU", (X,), lambda x: np.where(x > 0, x, F(0.3) * x), "LeakyReluOptions", {"Alpha": 0.3}),
    Case("GELU", (X,), lambda x: x * (1 + np.vectorize(erf)(x / np.sqrt(2)).astype(F)) / 2, "GeluOptions"),
    Case("GELU", (X,), lambda x: x * (1 + np.tanh(F(np.sqrt(2 / np.pi)) * (x + 0.044715 * x**3))) / 2, "GeluOptions",
         {"Approximate": True}),
    Case("PRELU", (X, Fixed(noise(1, 1, 4))), lambda x, a: np.where(x > 0, x, a * x)),
    Case("SOFTMAX", (X,), lambda x: softmax(x, 0.5), "SoftmaxOptions", {"Beta": 0.5}),
    Case("SOFTMAX", (noise(3, 7),), softmax, "SoftmaxOptions", {"Beta": 1.0}),
    Case("LOG_SOFTMAX", (noise(3, 7),), lambda x: np.log(softmax(x))),
    Case("L2_NORMALIZATION", (X,), lambda x: x / np.sqrt((x**2).sum(-1, keepdims=True)), "L2NormOptions"),
    Case("LOCAL_RESPONSE_NORMALIZATION", (X,), lambda x: x / (2 + 0.5 * sum(
        np.pad(x, [(0, 0)] * 3 + [(1, 1)])[..., i : i + 4] ** 2 for i in range(3)
    )) ** 0.75, "LocalResponseNormalizationOptions", {"Radius": 1, "Bias": 2.0, "Alpha": 0.5, "Beta": 0.75}),
    Case("EXP", (X,), np.exp), Case("LOG", (POSITIVE,), np.log), Case("SQRT", (POSITIVE,), np.sqrt),
    Case("RSQRT", (POSITIVE,), lambda x: 1 / np.sqrt(x)), Case("NEG", (X,), np.negative), Case("ABS", (X,), np.abs),
    Case("SIN", (X,), np.sin), Case("COS", (X,), np.cos), Case("FLOOR", (X,), np.floor), Case("CEIL", (X,), np.ceil),
    Case("ROUND", (np.array([0.5, 1.5, -2.5, 2.4], F),), np.round), Case("SQUARE", (X,), np.square),
    Case("CAST", (X,), lambda x: x.astype(np.int32)), Case("CAST", (COUNTS,), lambda x: x.astype(F)),
    Case("SELECT", (np.array([True, False]), noise(2, 3), noise(2, 3, seed=1)), lambda c, x, y: np.where(c[:, None], x, y)),
    Case("SELECT_V2", (COUNTS > 0, noise(2, 3), noise(2, 3, seed=1)), np.where),
    Case("ADD_N", (X, noise(2, 5, 6, 4, seed=1), noise(2, 5, 6, 4, seed=2)), lambda x, y, z: x + y + z),
    Case("ZEROS_LIKE", (X,), np.zeros_like),
]  # fmt: skip


R = "ReducerOptions"
MOVES = [
    Case("RESHAPE", (X, ints(2, -1, 8)), lambda x, _: x.reshape(2, -1, 8), "ReshapeOptions", {"NewShape": [2, -1, 8]}),
    Case("SQUEEZE", (noise(2, 1, 3, 1),), lambda x: x[:, 0], "SqueezeOptions", {"SqueezeDims": [1]}),
    Case("SQUEEZE", (noise(2, 1, 3, 1),), np.squeeze, "SqueezeOptions"),
    Case("EXPAND_DIMS", (noise(2, 3), ints(-1)), lambda x, _: x[..., None]),
    Case("TRANSPOSE", (X, ints(3, 0, 2, 1)), lambda x, p: x.transpose(p)),
    Case("CONCATENATION", (X, noise(2, 5, 6, 3)), lambda x, y: np.concatenate([x, y], 3),
         "ConcatenationOptions", {"Axis": 3}),
    Case("PACK", (noise(2, 3), noise(2, 3, seed=1)), lambda x, y: np.stack([x, y], 1), "PackOptions",
         {"ValuesCount": 2, "Axis": 1}),
    Case("UNPACK", (noise(2, 3),), lambda x: tuple(x.T), "UnpackOptions", {"Num": 3, "Axis": 1}),
    Case("SPLIT", (ints(3), X), lambda _, x: tuple(np.split(x, 2, 3)), "SplitOptions", {"NumSplits": 2}),
    Case("SPLIT_V", (X, ints(1, -1), ints(2)), lambda x, *_: tuple(np.split(x, [1], 2)), "SplitVOptions", {"NumSplits": 2}),
    Case("SLICE", (X, ints(0, 1, 2, 0), ints(-1, 3, 2, -1)), lambda x, *_: x[:, 1:4, 2:4]),
    Case("STRIDED_SLICE", (X, ints(0, 1, -1, 0), ints(2, 4, -5, 4), ints(1, 2, -1, 1)), lambda x, *_: x[:, 1:4:2, -1:-5:-1],
         "StridedSliceOptions"),
    Case("STRIDED_SLICE", (X, ints(1, 0, 2), ints(2, 0, 9), ints(1, 1, 2)), lambda x, *_: x[1, :, 2::2],
         "StridedSliceOptions", {"ShrinkAxisMask": 1, "BeginMask": 2, "EndMask": 2}),
    Case("STRIDED_SLICE", (noise(3, 4), ints(0, 0, -1), ints(0, 3, 0), ints(1, 1, 1)), lambda x, *_: x[None, :, -1],
         "StridedSliceOptions", {"NewAxisMask": 1, "ShrinkAxisMask": 4}),
    Case("GATHER", (X, ints(3, 0)), lambda x, i: x[:, :, :, i], "GatherOptions", {"Axis": 3}),
    Case("GATHER", (noise(2, 4, 3), ints([[0, 2], [1, 1]])), lambda x, i: np.take_along_axis(x, i[..., None], 1),
         "GatherOptions", {"Axis": 1, "BatchDims": 1}),
    Case("STRIDED_SLICE", (noise(3, 4, 5), np.array([1, -1, 1], np.int32), np.array([3, 0, 2], np.int32), ints(1, 1, 2)),
         lambda x, *_: x[1:3, -1, 1::2], "StridedSliceOptions", {"ShrinkAxisMask": 2, "EndMask": 4}),
    Case("SLICE", (noise(3, 4), np.array([1, 2], np.int32), np.array([-1, 1], np.int32)), lambda x, *_: x[1:, 2:3]),
    Case("RESHAPE", (noise(1, 1), Fixed(np.zeros(0, np.int32))), lambda x, _: x.reshape(())),
    Case("GATHER_ND", (noise(3, 4, 2), ints([[0, 1], [2, 3]])), lambda x, i: x[i[:, 0], i[:, 1]]),
    Case("PAD", (X, ints([[0, 0], [1, 2], [0, 1], [0, 3]])), lambda x, p: np.pad(x, p)),
    Case("PADV2", (X, ints([[0, 0], [1, 2], [0, 1], [0, 0]]), Fixed(np.array(7, F))),
         lambda x, p, v: np.pad(x, p, constant_values=7)),
    Case("MIRROR_PAD", (X, ints([[0, 0], [2, 1], [0, 3], [0, 0]])), lambda x, p: np.pad(x, p, "reflect"),
         "MirrorPadOptions"),
    Case("MIRROR_PAD", (X, ints([[0, 0], [1, 1], [0, 1], [0, 0]])), lambda x, p: np.pad(x, p, "symmetric"),
         "MirrorPadOptions", {"Mode": 1}),
    Case("DEPTH_TO_SPACE", (noise(1, 2, 3, 8),),
         lambda x: x.reshape(1, 2, 3, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(1, 4, 6, 2),
         "DepthToSpaceOptions", {"BlockSize": 2}),
    Case("SPACE_TO_DEPTH", (noise(1, 4, 6, 2),),
         lambda x: x.reshape(1, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(1, 2, 3, 8),
         "SpaceToDepthOptions", {"BlockSize": 2}),
    Case("SPACE_TO_BATCH_ND", (X, ints(3, 2), ints([[1, 0], [0, 0]])), lambda x, *_: np.pad(
        x, [(0, 0), (1, 0), (0, 0), (0, 0)]).reshape(2, 2, 3, 3, 2, 4).transpose(2, 4, 0, 1, 3, 5).reshape(12, 2, 3, 4)),
    Case("BATCH_TO_SPACE_ND", (noise(12, 2, 3, 4), ints(3, 2), ints([[1, 0], [0, 2]])), lambda x, *_: x.reshape(
        3, 2, 2, 2, 3, 4).transpose(2, 3, 0, 4, 1, 5).reshape(2, 6, 6, 4)[:, 1:, :-2]),
    Case("MEAN", (X, ints(1, 2)), lambda x, _: x.mean((1, 2)), R),
    Case("MEAN", (X, ints(1, 2)), lambda x, _: x.mean((1, 2), keepdims=True), R, {"KeepDims": True}),
    Case("MEAN", (X, ints()), lambda x, _: x, R),
    Case("SUM", (X, ints(-1)), lambda x, _: x.sum(-1), R), Case("REDUCE_MAX", (X, ints(1)), lambda x, _: x.max(1), R),
    Case("REDUCE_MIN", (X, ints(0, 3)), lambda x, _: x.min((0, 3)), R),
    Case("REDUCE_PROD", (X, ints(3)), lambda x, _: x.prod(3), R),
    Case("REDUCE_ANY", (COUNTS > 6, ints(1)), lambda x, _: x.any(1), R),
    Case("ARG_MAX", (X, ints(-1)), lambda x, _: x.argmax(-1).astype(np.int32), "ArgMaxOptions", {"OutputType": 2}),
    Case("ARG_MIN", (X, ints(1)), lambda x, _: x.argmin(1), "ArgMinOptions", {"OutputType": 4}),
    Case("SHAPE", (X,), lambda x: np.array(x.shape, np.int32), "ShapeOptions", {"OutType": 2}),
    Case("RANGE", (ints(2), ints(11), ints(3)), lambda *v: np.arange(*v, dtype=np.int32), "RangeOptions"),
    Case("FILL", (ints(2, 3), Fixed(np.array(4.5, F))), lambda d, v: np.full(d, v)),
    Case("TILE", (noise(2, 3), ints(1, 2)), lambda x, r: np.tile(x, r)),
    Case("BROADCAST_TO", (noise(3), ints(2, 3)), lambda x, s: np.broadcast_to(x, s)),
    Case("REVERSE_V2", (noise(2, 3), ints([1])), lambda x, _: x[:, ::-1]),
    Case("TOPK_V2", (noise(2, 5), ints(2)), lambda x, _: (
        -np.sort(-x)[:, :2], np.argsort(-x)[:, :2].astype(np.int32)), "TopKV2Options"),
    Case("CUMSUM", (noise(2, 5), ints(1)), lambda x, _: np.cumsum(x, 1) - x, "CumsumOptions", {"Exclusive": True}),
    Case("ONE_HOT", (np.array([2, 0, -1, 3], np.int32), ints(3), Fixed(np.array(5, F)), Fixed(np.array(-1, F))),
         lambda i, *_: np.where(i[:, None] == np.arange(3), F(5), F(-1)), "OneHotOptions", {"Axis": -1}),
]  # fmt: skip


def resized(coordinate, nearest):
    def expect(x, size):
        for axis, out in ((1, size[0]), (2, size[1])):
            have = x.shape[axis]
            at = coordinate(np.arange(out), have, out)
            if nearest:
                x = x.take(np.clip(at.astype(int), 0, have - 1), axis)
                continue
            low = np.clip(np.floor(at), 0, have - 1).astype(int)
            high = np.minimum(low + 1, have - 1)
            part = np.clip(at - low, 0, 1).reshape([-1 if a == axis else 1 for a in range(4)])
            x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
        return x.astype(F)

    return expect


def align(i, have, out):
    return i * (have - 1) / (out - 1)


RESIZES = [
    Case(f"RESIZE_{op}", (X, ints(size)), resized(at, op != "BILINEAR"), f"Resize{table}Options", options)
    for op, table, at, options in (
        ("BILINEAR", "Bilinear", lambda i, have, out: i * have / out, {}),
        ("BILINEAR", "Bilinear", align, {"AlignCorners": True}),
        ("BILINEAR", "Bilinear", lambda i, have, out: (i + 0.5) * have / out - 0.5, {"HalfPixelCenters": True}),
        ("NEAREST_NEIGHBOR", "NearestNeighbor", lambda i, have, out: np.floor(i * have / out), {}),
        ("NEAREST_NEIGHBOR", "NearestNeighbor", lambda *v: np.floor(align(*v) + 0.5), {"AlignCorners": True}),
        ("NEAREST_NEIGHBOR", "NearestNeighbor", lambda i, have, out: np.floor((i + 0.5) * have / out),
         {"HalfPixelCenters": True}),
    )
    for size in ((9, 13), (3, 4))
]  # fmt: skip

CASES = CONVOLUTIONS + POINTWISE + MOVES + RESIZES
