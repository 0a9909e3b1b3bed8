"""Ops that gradients are made of; those of one family's own stand in its file."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph.op import Op
from nbconv.lowering.mix import transposed
from nbconv.ops.activation import (
    CeluGrad,
    EluGrad,
    GeluGrad,
    MishGrad,
    SeluGrad,
    SigmoidGrad,
    SoftplusGrad,
    SoftsignGrad,
    TanhGrad,
)
from nbconv.ops.gather import GatherElementsGrad, GatherGrad, Places
from nbconv.ops.grad import ExpandLike, Mix, SliceGrad
from nbconv.ops.inner import ChannelShuffle, Silu, SiluGrad
from nbconv.ops.nary import Max, Min
from nbconv.ops.norm import LRNGrad
from nbconv.ops.pointwise import Abs, AbsGrad, DivOrZero, Same
from nbconv.ops.power import PowLog, PowSlope
from nbconv.ops.rectifier import (
    ClipGrad,
    GradMask,
    HardSigmoidGrad,
    HardSwishGrad,
    LeakyRelu,
    LeakyReluGrad,
    MaskedGrad,
    PRelu,
    PReluSlope,
    Relu,
    ReluGrad,
    ShrinkGrad,
    ThresholdedReluGrad,
)
from nbconv.ops.reduce import ProdGrad, ReduceL2, ReduceMax
from nbconv.ops.softmax import LogSoftmaxGrad, SoftmaxGrad
from nbconv.ops.standardize import Standardize, StandardizeGrad
from tests.check import case, run_cases, sampler
from tests.gradients import Call, evaluate

r = sampler(31)
nan, inf = np.nan, np.inf

OF_X = [
    AbsGrad(), CeluGrad(alpha=0.4), EluGrad(alpha=2.5), GeluGrad(), GeluGrad(approximate="tanh"), HardSwishGrad(),
    LeakyReluGrad(alpha=0.3), MishGrad(), SeluGrad(), ShrinkGrad(), SiluGrad(), SoftplusGrad(), SoftsignGrad(),
    ThresholdedReluGrad(alpha=-0.2),
]  # fmt: skip
"""Gradients of one array that read the forward's x."""
OF_Y = [ReluGrad(), ClipGrad(low=-0.5, high=0.75), HardSigmoidGrad(alpha=0.3), SigmoidGrad(), TanhGrad()]
"""Those that read its y."""
ROWS = np.array([0, 2, 2, 5, 6])
CELLS = np.array([1, 0, 3, 3, 2, 1])
KNOWN = Mix(axis=1, rows=np.array([0, 1, 3]), cells=np.array([1, 0, 2]), weights=np.array([2.0, 1.0, 0.5]))

CASES = [
    *(case(op, r(2, 3, 7, 5), 3 * r(2, 3, 7, 5)) for op in OF_X),
    *(case(op, r(2, 3, 7, 5), np.tanh(r(2, 3, 7, 5))) for op in OF_Y),
    *(case(op, r(3, 0), r(3, 0)) for op in (*OF_X, *OF_Y)),
    *(case(op, r(), r()) for op in (*OF_X, *OF_Y)),
    case(ReluGrad(), [1.0, 2.0, 3.0, 4.0], [-1.0, 0.0, 2.0, nan], expect=[0, 0, 3, 4]),
    case(ClipGrad(low=0.0, high=6.0), [1.0, 2.0, 3.0, 4.0], [0.0, 3.0, 6.0, nan], expect=[0, 2, 0, 4]),
    case(GradMask(), [0.0, 1e-30, -1.0, nan, inf], expect=[True, False, True, False, True]),
    case(GradMask(high=6.0), r(2, 35, 7, 5) * 5),
    case(MaskedGrad(), [1.0, nan, inf, -0.0], np.array([False, True, True, False]), expect=[1.0, 0.0, 0.0, -0.0]),
    case(MaskedGrad(), r(2, 35, 7, 5), r(2, 35, 7, 5) > 0),
    case(LeakyReluGrad(alpha=0.5), [1.0, 2.0, 4.0], [-1.0, 3.0, 0.0], expect=[0.5, 2, 2]),
    case(ThresholdedReluGrad(), [1.0, 2.0], [1.0, 1.5], expect=[0, 2]),
    case(ShrinkGrad(), [1.0, 2.0, 3.0, 4.0], [-0.6, 0.5, 2.0, nan], expect=[1, 0, 3, 0]),
    case(EluGrad(alpha=2.0), [1.0, 1.0, 1.0, 1.0], [-inf, -1.0, 0.0, 500.0], expect=[0, 0.7357589, 2, 1]),
    case(SeluGrad(alpha=2.0, gamma=3.0), [1.0, 1.0], [-1.0, 2.0], expect=[2.2072766, 3]),
    case(CeluGrad(alpha=2.0), [1.0, 1.0], [-2.0, 3.0], expect=[0.36787945, 1]),
    case(SigmoidGrad(), [4.0, 1.0], [0.5, 1.0], expect=[1, 0]),
    case(HardSigmoidGrad(), [1.0, 1.0, 1.0], [0.0, 0.5, 1.0], expect=[0, 0.2, 0]),
    case(HardSwishGrad(), [1.0, 1.0, 1.0, 1.0], [-3.0, 0.0, 1.5, 3.0], expect=[0, 0.5, 1, 1]),
    case(TanhGrad(), [1.0, 1.0], [0.5, 1.0], expect=[0.75, 0]),
    case(SoftsignGrad(), [1.0, 1.0], [1.0, -3.0], expect=[0.25, 0.0625]),
    case(SoftplusGrad(), [1.0, 1.0, 1.0], [0.0, 1e4, -1e4], expect=[0.5, 1, 0]),
    case(MishGrad(), [1.0, 1.0, 1.0], [0.0, 1e4, -1e3], expect=[0.6, 1, 0]),
    case(GeluGrad(), [1.0, 1.0], [0.0, 1.0], expect=[0.5, 1.0833155]),
    case(GeluGrad(approximate="tanh"), [1.0, 1.0], [0.0, 1.0], expect=[0.5, 1.0829641]),
    case(SiluGrad(), [1.0, 1.0], [0.0, 1.0], expect=[0.5, 0.9276705]),
    case(AbsGrad(), [1.0, 2.0, 3.0], [-1.0, 0.0, 2.0], expect=[-1, 0, 3]),
    case(Silu(), 3 * r(2, 3, 7, 5)),
    case(Silu(), [0.0, 1.0, nan], expect=[0, 0.7310586, nan]),
    case(ChannelShuffle(group=2), r(2, 6, 3, 5)),
    case(ChannelShuffle(group=2), np.arange(6).reshape(1, 6, 1, 1).astype(np.float32),
         expect=np.float32([0, 3, 1, 4, 2, 5]).reshape(1, 6, 1, 1)),
    case(PReluSlope(), [[-1.0, 2.0, 0.0]], [0.5, 0.25, 3.0], expect=[[0.5, 1, 3]]),
    case(PReluSlope(), r(2, 3, 7, 5), r(3, 1, 1)),
    case(Same(), [1.0, nan, inf, 0.0], [1.0, nan, inf, -0.0], expect=[1, 0, 1, 1]),
    case(Same(), r(2, 3, 7, 5), r(2, 3, 7, 1)),
    case(DivOrZero(), [1.0, 0.0, 3.0, nan], [2.0, 0.0, 0.0, 1.0], expect=[0.5, 0, 0, nan]),
    case(PowSlope(), [2.0, -2.0, 0.0, 0.0], [3.0, 2.0, 0.0, 1.0], expect=[12, -4, 0, 1]),
    case(PowSlope(), np.abs(r(2, 3, 7, 5)), r(3, 1, 1)),
    case(PowLog(), [2.0, 0.0, 0.0, -1.0], [3.0, 2.0, -1.0, 2.0], expect=[5.5451775, 0, -inf, nan]),
    case(PowLog(), np.abs(r(2, 3, 7, 5)), r(3, 1, 1)),
    case(ExpandLike(), r(2, 3, 1, 1), r(2, 3, 7, 5)),
    case(ExpandLike(), [[1.0], [2.0]], r(2, 3), expect=[[1, 1, 1], [2, 2, 2]]),
    case(SliceGrad(shape=(2, 3, 9, 5), starts=(0, 2, 7, 1), steps=(1, -1, -3, 2)), r(2, 2, 3, 2)),
    case(SliceGrad(shape=(4,), starts=(3,), steps=(-2,)), [1.0, 2.0], expect=[0, 2, 0, 1]),
    case(SliceGrad(shape=(4, 2), starts=(0, 0), steps=(1, 1)), r(0, 2)),
    *(case(Mix(axis=a, rows=ROWS, cells=CELLS, weights=np.arange(1.0, 7.0)), r(4, 4, 4, 4)) for a in (0, 1, 2, 3)),
    case(Mix(axis=1, rows=ROWS, cells=CELLS, weights=np.arange(1.0, 7.0)), r(2, 4, 17, 19)),
    case(KNOWN, [[1.0, 10.0, 100.0]], expect=[[20, 51]]),
    case(GatherGrad(axis=0, shape=(3, 2)), [[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]], np.array([2, 0, -1]),
         expect=[[4, 8], [0, 0], [17, 34]]),
    case(GatherGrad(axis=1, shape=(2, 5, 300)), r(2, 3, 4, 300), np.array([[0, 4, 0, 1], [1, 1, -5, 3], [2, 2, 2, 2]])),
    case(Places(shape=(3, 4)), [[0, 1], [-1, -1]], expect=[1, 11]),
    case(Places(shape=(2, 3), batch=1), [[[1]], [[-1]]], expect=[[1], [5]]),
    case(Places(shape=(3, 4), axis=0), [[2, -1, 0]], expect=[[8, 9, 2]]),
    case(GatherElementsGrad(axis=0, shape=(3, 2)), [[1.0, 2.0], [4.0, 8.0]], np.array([[2, 0], [2, -1]]),
         expect=[[0, 2], [0, 0], [5, 8]]),
    case(SoftmaxGrad(axis=1), r(2, 7, 5, 3), np.abs(r(2, 7, 5, 3))),
    case(SoftmaxGrad(axis=-1), [[1.0, 0.0]], [[0.25, 0.75]], expect=[[0.1875, -0.1875]]),
    case(LogSoftmaxGrad(axis=1), r(2, 7, 5, 3), -np.abs(r(2, 7, 5, 3))),
    case(LogSoftmaxGrad(axis=-1), [[1.0, 1.0]], [[0.0, -inf]], expect=[[-1, 1]]),
    case(ProdGrad(axes=(0,)), [2.0], [3.0, 0.0, 5.0], expect=[0, 30, 0]),
    case(Standardize(rows=2, epsilon=1e-5), r(2, 3, 7, 5)),
    case(Standardize(rows=1, epsilon=0.0), [1.0, 3.0], expect=[-1, 1]),
    case(StandardizeGrad(rows=6, epsilon=1e-5), r(2, 3, 7, 5), r(2, 3, 7, 5)),
    case(StandardizeGrad(rows=1, epsilon=0.0), [1.0, 0.0, 0.0], [-1.0, 0.0, 1.0], expect=[0.2041241, -0.4082483, 0.2041241]),
    case(LRNGrad(size=3), r(2, 5, 7, 3), r(2, 5, 7, 3)),
    case(LRNGrad(size=4, alpha=0.5, beta=0.6, bias=2.0), r(2, 19, 3), r(2, 19, 3)),
]  # fmt: skip

test_cases = run_cases(CASES)


def test_transposed() -> None:
    """The matrix of the table, by hand: two outputs of two taps each over three cells."""
    found = transposed(np.array([[0, 1], [1, 1]]), np.array([[0.25, 0.75], [0.5, 2.0]]), 3)
    matrix = np.zeros((3, 2))
    for j in range(3):
        for t in range(found["rows"][j], found["rows"][j + 1]):
            matrix[j, found["cells"][t]] += found["weights"][t]
    np.testing.assert_array_equal(matrix, [[0.25, 0], [0.75, 2.5], [0, 0]])


def test_messages() -> None:
    x = Spec((2, 3), np.dtype(np.float32))
    with pytest.raises(ModelError, match=r"dy is float32\(3,?\), the value beside it float32\(2, 3\): wanted one shape"):
        ReluGrad().infer(Spec((3,), x.dtype), x)
    with pytest.raises(ModelError, match="it leaves"):
        SliceGrad(shape=(2, 2), starts=(0, 0), steps=(1, 1)).infer(x)
    with pytest.raises(ModelError, match="cells reach 2"):
        KNOWN.infer(Spec((2, 2), x.dtype))
    with pytest.raises(ModelError, match="wanted one shape of 4 equal rows"):
        StandardizeGrad(rows=4, epsilon=0.1).infer(x, x)


def gradients(op: Op, *inputs: np.ndarray) -> list[list[float]]:
    """What the gradients of a call come to where dy is 1 everywhere."""
    call = Call(op, inputs, 1, tuple(i for i, x in enumerate(inputs) if x.dtype.kind == "f"))
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if x.dtype.kind == "f"}
    feeds |= {name: np.ones(spec.shape, spec.dtype) for name, spec in call.dy.items()}
    found = evaluate(call.graph, feeds)
    return [np.round(found[name], 6).tolist() for name in call.gradients]


def test_ties() -> None:
    """Who shares an extreme shares its gradient equally; at a corner the slope on the left is taken."""
    a, b = np.array([1.0, 2.0, 5.0], np.float32), np.array([1.0, 3.0, 4.0], np.float32)
    assert gradients(Max(), a, b) == [[0.5, 0, 1], [0.5, 1, 0]]
    assert gradients(Min(), a, b, a) == [[0.333333, 0.5, 0], [0.333333, 0, 1], [0.333333, 0.5, 0]]
    x = np.array([[4.0, 1.0, 4.0], [2.0, 7.0, 0.0]], np.float32)
    assert gradients(ReduceMax(), x, np.array([1])) == [[[0.5, 0, 0.5], [0, 1, 0]]]
    corner = np.zeros(1, np.float32)
    assert [gradients(op, corner) for op in (Relu(), LeakyRelu(alpha=0.25), Abs())] == [[[0.0]], [[0.25]], [[0.0]]]
    assert gradients(PRelu(), corner, np.array([0.5], np.float32)) == [[0.5], [0.0]]
    assert gradients(ReduceL2(keepdims=0), np.zeros(2, np.float32)) == [[0, 0]]
