"""Calls large enough for several tiles, parts and warps of the CUDA kernels, beside the small ones of the ops' tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbconv.graph import Graph, Spec
from nbconv.lowering.mix import transposed
from nbconv.ops.batch_norm import BatchNormalization, BatchNormalizationGradInput, BatchNormalizationGradScale
from nbconv.ops.conv import Conv, ConvGradInput, ConvTranspose
from nbconv.ops.conv_weight_grad import ConvGradWeight
from nbconv.ops.dropout import TrainingDropout
from nbconv.ops.gather import GatherGrad
from nbconv.ops.grad import Mix
from nbconv.ops.linear import Gemm, MatMul
from nbconv.ops.logic import Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Where
from nbconv.ops.loss import SoftmaxCrossEntropyLoss, SoftmaxCrossEntropyLossGrad
from nbconv.ops.norm import LRN, LRNGrad
from nbconv.ops.pad import Pad
from nbconv.ops.pointwise import Add
from nbconv.ops.pool import AveragePool, AveragePoolGrad, MaxPool, MaxPoolGrad
from nbconv.ops.power import Pow
from nbconv.ops.rectifier import Relu
from nbconv.ops.reduce import ReduceMax, ReduceMean
from nbconv.ops.resize import Resize
from nbconv.ops.shape import Transpose
from nbconv.ops.softmax import Softmax
from nbconv.ops.standardize import LayerNormalization
from tests.check import Case, case, sampler
from tests.cuda.numeric import to_tf32
from tests.train.models import node

r = sampler(71)
labels = np.random.default_rng(5).integers(0, 45, (37,))
spatial = np.random.default_rng(6).integers(0, 5, (3, 9, 7))

peaked = r(3, 300)
peaked[range(3), [200, 270, 299]] += 50
last_is_large = r(2, 7, 40)
last_is_large[:, -1] += 200  # e to the power of that is infinite


def positive(*shape: int) -> np.ndarray:
    return np.abs(r(*shape)) + np.float32(0.5)


rectified = np.maximum(np.random.default_rng(8).standard_normal((2, 40, 7, 5), np.float32), 0)
whole = np.random.default_rng(7).integers(0, 3, (5, 9)).astype(np.float32)
"""Numbers of which many are equal."""

LARGER = [
    case(Transpose(perm=(3, 1, 4, 0, 2)), r(2, 3, 4, 5, 6)),
    case(Transpose(perm=(1, 0)), r(300, 4)),
    case(Transpose(perm=(1, 0, 2)), r(20, 3, 40)),
    case(Transpose(perm=(0, 2, 1)), r(2, 8, 300)),
    case(Pad(), r(2, 3, 45), np.array([0, 1, 2, 0, 1, 3]), np.array(2.5, np.float32)),
    case(Conv(pads=(3, 1, 3, 1), group=34), r(2, 34, 7, 8), r(34, 1, 7, 2), r(34)),
    case(Conv(pads=(1, 1, 1, 1)), r(1, 20, 12, 13), r(72, 20, 3, 3), r(72)),
    case(Conv(pads=(1, 1, 1, 1), group=70), r(1, 70, 9, 13), r(70, 1, 3, 3), r(70)),
    case(Conv(pads=(2, 2, 2, 2), strides=(2, 2), group=34), r(2, 34, 9, 11), r(34, 1, 5, 5), r(34)),
    case(Gemm(), r(70, 33), r(33, 160), r(160)),
    case(ConvGradInput(size=(11, 12), pads=(1, 1, 1, 1), group=40), r(1, 40, 11, 12), r(40, 1, 3, 3)),
    case(ConvGradWeight(kernel_shape=(3, 3), pads=(1, 1, 1, 1)), r(1, 36, 5, 7), r(1, 68, 5, 7), outputs=2),
    case(ConvGradWeight(kernel_shape=(3, 3), pads=(1, 1, 1, 1)), r(2, 12, 21, 19), r(2, 8, 21, 19), outputs=2),
    case(ConvGradWeight(kernel_shape=(5, 5), pads=(2, 2, 2, 2)), r(2, 3, 20, 17), r(2, 9, 20, 17), outputs=2),
    case(ConvGradWeight(kernel_shape=(3, 3), group=40, pads=(1, 1, 1, 1)), r(2, 40, 9, 11), r(2, 40, 9, 11), outputs=2),
    case(ConvGradWeight(kernel_shape=(2, 2), group=34), r(1, 34, 4, 5), r(1, 34, 3, 4), outputs=2),
    case(Transpose(perm=(0, 2, 1)), r(2, 37, 70)),
    case(Transpose(perm=(2, 0, 1)), r(3, 9, 300)),
    case(Add(), r(2, 300), r(2, 1)),
    case(Conv(pads=(2, 2, 2, 2), dilations=(2, 2), group=34), r(2, 34, 7, 8), r(34, 1, 3, 3), r(34)),
    case(MatMul(), r(2, 7, 33), r(2, 33, 70)),
    case(Pow(), positive(3, 9), np.array(0.5, np.float32)),
    case(GatherGrad(axis=1, shape=(3, 9, 7)), r(3, 5, 7), np.array([3, 0, 3, 8, -1])),
    *(
        case(op(), *pair)
        for op in (Greater, GreaterOrEqual, Less, LessOrEqual, Equal)
        for pair in ((whole, np.roll(whole, 1)), (whole[:, :1], whole), (whole, whole[:, :1]))
    ),
    case(Where(), r(3, 160, dtype=bool), r(3, 1), r(160)),
    case(
        Mix(axis=1, **transposed(np.array([[0, 2], [1, 3], [4, 4]]), np.array([[0.5, 2.0], [1.0, 0.3], [1.5, 0.2]]), 5)),
        r(2, 3, 40),
    ),
    case(Add(), r(3, 40, 160), r(40, 1)),
    case(Where(), r(3, 160, dtype=bool), r(3, 160), r(160)),
    case(Relu(), r(700)),
    case(MaxPool(kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), r(1, 40, 9, 8)),
    case(AveragePool(kernel_shape=(3, 3), pads=(1, 1, 1, 1)), r(1, 40, 9, 8)),
    case(MaxPoolGrad(kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), r(1, 40, 5, 4), r(1, 40, 9, 8)),
    case(AveragePoolGrad(kernel_shape=(3, 3), size=(9, 8), pads=(1, 1, 1, 1)), r(1, 40, 9, 8)),
    case(BatchNormalization(training_mode=1), r(2, 40, 33, 13), r(40), r(40), r(40), positive(40), outputs=3),
    case(BatchNormalizationGradScale(), r(2, 40, 33, 13), r(2, 40, 33, 13), r(40), positive(40), outputs=2),
    case(
        BatchNormalizationGradScale(rectified=1), r(2, 40, 7, 5), r(2, 40, 7, 5), r(40), positive(40), rectified, outputs=2
    ),
    case(BatchNormalizationGradInput(), r(2, 40, 33, 13), r(2, 40, 33, 13), r(40), r(40), positive(40), r(40), r(40)),
    case(LRN(size=5), r(2, 150, 3, 2)),
    case(LRNGrad(size=5), r(2, 150, 3, 2), r(2, 150, 3, 2)),
    case(Resize(mode="linear"), r(1, 40, 5, 6), None, np.array([1, 1, 2, 1.5], np.float32)),
    case(Resize(), r(1, 40, 5, 6), None, np.array([1, 1, 2, 1.5], np.float32)),
    case(Softmax(), r(5, 300)),
    case(Softmax(axis=1), last_is_large),
    case(Softmax(axis=1), r(2, 7, 40)),
    case(LayerNormalization(), r(5, 300), r(300), r(300)),
    case(ReduceMean(), r(3, 300), np.array([1])),
    case(ReduceMax(), peaked, np.array([1])),
    case(ReduceMean(), r(96, 40), np.array([0])),
    case(ReduceMax(), r(2, 72, 70), np.array([1])),
    case(ReduceMean(), r(2, 2200)),
    case(SoftmaxCrossEntropyLoss(), r(37, 45), labels),
    case(SoftmaxCrossEntropyLossGrad(), r(), r(37, 45), labels),
    case(SoftmaxCrossEntropyLossGrad(reduction="sum"), r(), r(3, 5, 9, 7), spatial),
    case(GatherGrad(axis=0, shape=(9, 70)), r(5, 70), np.array([3, 0, 3, 8, -1])),
    case(TrainingDropout(ratio=0.3, seed=5), r(3, 333), np.array(7)),
]

TILES = [
    case(Conv(pads=(1, 1, 1, 1)), r(1, 8, 16, 8), r(127, 8, 3, 3), r(127)),
    case(Gemm(), r(128, 9), r(9, 127), r(127)),
    case(Gemm(), r(256, 9), r(9, 20), r(20)),
    case(Conv(pads=(1, 1, 1, 1)), r(1, 8, 12, 13), r(127, 8, 3, 3), r(127)),
    case(Conv(pads=(1, 1, 1, 1)), r(1, 8, 16, 17), r(20, 8, 3, 3), r(20)),
]
"""Calls that are given the largest tiles that fit, as on a GPU with one multiprocessor."""


SPLIT = [
    case(MatMul(), r(2, 7, 260), r(2, 260, 70)),
    case(Conv(pads=(1, 0, 1, 0), strides=(2, 1), group=2), r(2, 50, 6, 3), r(34, 25, 3, 3), r(34)),
    case(Conv(pads=(1, 1, 1, 2)), r(1, 40, 7, 6), r(70, 40, 3, 4), r(70)),
    case(Conv(), r(3, 150, 3, 2), r(20, 150, 1, 1)),
    case(Conv(), r(1, 3, 11, 12), r(9, 3, 11, 11), r(9)),
    case(Gemm(transB=1, alpha=0.5), r(5, 300), r(37, 300), r(37)),
    case(ConvTranspose(strides=(2, 3), pads=(1, 1, 1, 1)), r(1, 140, 3, 3), r(140, 20, 4, 5), r(20)),
    case(ConvTranspose(strides=(2, 2)), r(1, 140, 3, 2), r(140, 12, 2, 2), r(12)),
    case(ConvGradInput(size=(7, 6), strides=(2, 2), pads=(1, 1, 1, 1)), r(1, 136, 4, 3), r(136, 33, 3, 3)),
]
"""Products of few rows and columns and a long k, which are split along k."""


def t(*shape: int) -> np.ndarray:
    """Numbers that TF32 has, too."""
    return to_tf32(r(*shape))


TF32 = [
    case(Conv(pads=(1, 1, 1, 1)), t(1, 8, 16, 8), t(127, 8, 3, 3), r(127)),
    case(Gemm(), t(128, 9), t(9, 127), r(127)),
    case(Gemm(), t(256, 9), t(9, 20), r(20)),
    case(Conv(pads=(1, 1, 1, 1)), t(1, 8, 21, 24), t(20, 8, 3, 3), r(20)),
    case(Gemm(), t(33, 12), t(12, 40), r(40)),
    case(MatMul(), t(2, 7, 33), t(2, 33, 70)),
    case(Conv(strides=(2, 1), group=2), t(1, 10, 7, 9), t(66, 5, 3, 2), r(66)),
    case(Conv(dilations=(2, 1), pads=(2, 0, 2, 0)), t(2, 5, 7, 9), t(40, 5, 3, 2)),
    case(ConvGradInput(size=(11, 12), pads=(1, 1, 1, 1), strides=(2, 2)), t(1, 40, 6, 6), t(40, 8, 3, 3)),
    case(ConvGradWeight(kernel_shape=(3, 3), pads=(1, 1, 1, 1)), t(1, 36, 6, 7), t(1, 68, 6, 7), outputs=2),
    case(ConvGradWeight(kernel_shape=(3, 2), strides=(2, 1), group=3), t(2, 15, 9, 9), t(2, 21, 4, 8), outputs=2),
    case(ConvGradWeight(kernel_shape=(5, 5), pads=(2, 2, 2, 2)), t(2, 3, 20, 17), t(2, 9, 20, 17), outputs=2),
]
"""Calls on a device whose tensor cores multiply, of numbers that lose nothing by it; the tiles as in `TILES`."""


class Net(NamedTuple):
    """A graph, for what no call of one op has: what a kernel does for its neighbours, values in the middle of others."""

    name: str
    graph: Graph

    def __str__(self) -> str:
        return self.name


SAME = {"pads": (1, 1, 1, 1)}
AFFINE = {"k": r(1, 40, 1, 1), "t": r(1, 40, 1, 1)}


def net(name: str, nodes: list, shape: tuple[int, ...], **constants: np.ndarray) -> Net:
    """From x of this shape to y."""
    return Net(name, Graph(nodes, {"x": Spec(shape, np.dtype(np.float32))}, {"y": None}, constants))


WINOGRAD: list[Case | Net] = [
    net(
        "residual, SiLU, factor and term",
        [
            node("Conv", "x w b", "c", **SAME), node("Add", "c x", "d"), node("Sigmoid", "d", "e"), node("Mul", "d e", "f"),
            node("Mul", "f k", "g"), node("Add", "g t", "y"),
        ],
        (1, 40, 7, 9), w=r(40, 40, 3, 3), b=r(40), **AFFINE,
    ),
    net(
        "in the middle of others, clamped",
        [
            node("Conv", "x v", "a"), node("Relu", "a", "b"), node("Split", "b", "p q", axis=1, num_outputs=2),
            node("Conv", "q w", "c", pads=(2, 1, 0, 1)), node("Add", "c p", "d"), node("Relu", "d", "e"),
            node("Concat", "p e q", "y", axis=1),
        ],
        (2, 5, 5, 6), v=r(68, 5, 1, 1), w=r(34, 34, 3, 3),
    ),
    case(Conv(pads=(0, 1, 2, 0), group=2), r(1, 34, 5, 6), r(64, 17, 3, 3), r(64)),
    case(ConvGradInput(size=(7, 6), **SAME), r(1, 20, 7, 6), r(20, 72, 3, 3)),
    case(ConvGradInput(size=(7, 6), group=2, pads=(0, 1, 1, 0)), r(1, 20, 6, 5), r(20, 16, 3, 3)),
    case(ConvTranspose(pads=(1, 1, 1, 1)), r(1, 20, 6, 5), r(20, 16, 3, 3), r(16)),
    case(Conv(**SAME), r(2, 33, 9, 4), r(130, 33, 3, 3), r(130)),
    case(Conv(**SAME), r(1, 256, 8, 8), r(32, 256, 3, 3), r(32)),
]  # fmt: skip
"""Calls that go through Winograd's filtering, in tiles of 4×4 and of 2×2 results, whatever the cost model says."""
