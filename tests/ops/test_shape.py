"""Ops that rearrange, pick and make values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec, spec_of
from nbconv.ops.blocks import DepthToSpace, SpaceToDepth
from nbconv.ops.constant import Constant, ConstantOfShape, EyeLike, OneHot, Range, Shape, Size
from nbconv.ops.gather import Gather, GatherElements, GatherND
from nbconv.ops.pad import Expand, Pad, Tile
from nbconv.ops.shape import (
    Concat,
    Flatten,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Transpose,
    Unsqueeze,
)
from tests.check import case, run_cases, sampler

r = sampler(8)
NO_SCALAR = "onnxruntime 1.32 fails where there is nothing to pad"
nan = np.nan
BIG = np.iinfo(np.int64).max
ROW = [1.0, 2.0, 3.0]
NEWER = "onnxruntime knows no mode"
DEPTH = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)


def s(value: Any, dtype: Any = np.int64) -> np.ndarray:
    return np.array(value, dtype)


CASES = [
    case(Reshape(), r(2, 3, 4), [4, -1]),
    case(Reshape(), r(2, 3, 4), [0, 0, 2, -1]),
    case(Reshape(), r(2, 0, 4), [0, 0, 8, 1]),
    case(Reshape(allowzero=1), r(2, 0, 4), [0, 7]),
    case(Reshape(), r(1, 1), s([])),
    case(Reshape(), r(2, 3, dtype=bool), [-1]),
    *(case(Flatten(axis=a), r(2, 3, 4, 5)) for a in (0, 1, 3, 4, -1, -4)),
    case(Flatten(axis=0), r()),
    case(Flatten(), r(0, 3, 4)),
    case(Squeeze(), r(1, 3, 1, 5)),
    case(Squeeze(), r(1, 3, 1, 5), [-2]),
    case(Unsqueeze(), r(3, 5), [0, -1, 2]),
    case(Unsqueeze(), r(), [0]),
    case(Transpose(), r(2, 3, 4, 5)),
    case(Transpose(perm=(0, 2, 3, 1)), r(2, 3, 4, 5)),
    case(Transpose(), r()),
    case(Transpose(), [[1, 2, 3]], expect=[[1], [2], [3]]),
    case(Concat(axis=1), r(2, 3, 5), r(2, 0, 5), r(2, 7, 5)),
    case(Concat(axis=-1), r(2, 3), r(2, 1)),
    case(Concat(axis=0), [1], [2, 3], expect=[1, 2, 3]),
    case(Split(axis=1, num_outputs=3), r(2, 7, 3), outputs=3),
    case(Split(axis=-1), r(2, 7), [3, 0, 4], outputs=3),
    case(Split(num_outputs=2), [1, 2, 3, 4, 5], outputs=2, expect=([1, 2, 3], [4, 5])),
    case(Slice(), r(7, 5, 4), [1, -3], [BIG, -1]),
    case(Slice(), r(7, 5, 4), [-1, 2], [-BIG, BIG], [-2, 0], [-1, 2]),
    case(Slice(), r(7, 5), [20], [30], [0]),
    case(Slice(), r(7, 5), [-100], [100], [1], [3]),
    case(Slice(), [0, 1, 2, 3, 4], [4], [0], [0], [-2], expect=[4, 2]),
    case(Slice(), [0, 1, 2, 3, 4], [9], [-9], [0], [-1], expect=[4, 3, 2, 1, 0]),
    case(Slice(), r(0, 3), [0], [2]),
    case(Pad(), r(2, 3, 4, 5), [0, 1, 2, 0, 1, 0, 0, 3], np.float32(1.5).reshape(())),
    case(Pad(), r(3, 4), [1, 2], None, [-1]),
    case(Pad(), r(5, 6), [-1, 2, 1, -3]),
    case(Pad(), r(5, 6, dtype=np.int64), [1, 0, 0, 1]),
    *(case(Pad(mode=mode), r(2, 4, 5), [0, 2, 1, 1, 3, 2]) for mode in ("reflect", "edge", "wrap")),
    *(case(Pad(mode=mode), r(1, 2, 3, 4), [0, 1, 7, -1, 0, 0, 2, 9]) for mode in ("edge", "wrap")),
    case(Pad(mode="reflect"), r(1, 2, 3, 4), [0, 1, 7, -1, 0, 0, 2, 9], differs="it repeats once"),
    case(Pad(mode="reflect"), r(2, 1, dtype=np.uint8), [0, 3, 0, 2], differs="it takes no axis of 1"),
    case(Pad(mode="reflect"), ROW, [2, 1], expect=[3, 2, 1, 2, 3, 2]),
    case(Pad(mode="edge"), ROW, [2, 1], expect=[1, 1, 1, 2, 3, 3]),
    case(Pad(mode="wrap"), ROW, [2, 1], expect=[2, 3, 1, 2, 3, 1]),
    case(Pad(), ROW, [1, -1], np.float32(nan).reshape(()), expect=[nan, 1, 2]),
    case(Pad(), r(0, 2), [1, 0, 1, 0]),
    *(
        case(Pad(mode=mode), np.array(2.5, np.float32), np.zeros(0, np.int64), expect=2.5, differs=NO_SCALAR)
        for mode in ("constant", "edge")
    ),
    case(Expand(), r(3, 1), [2, 1, 6]),
    case(Expand(), r(3, 1), [1]),
    case(Expand(), r(), [2, 3]),
    case(Tile(), r(2, 3), [2, 3]),
    case(Tile(), r(2, 3), [0, 3]),
    case(Tile(), ROW, [2], expect=ROW * 2),
    case(SpaceToDepth(blocksize=2), r(2, 3, 4, 6)),
    case(DepthToSpace(blocksize=2), r(2, 12, 3, 5)),
    case(DepthToSpace(blocksize=3, mode="CRD"), r(2, 18, 3, 2)),
    case(DepthToSpace(blocksize=2), DEPTH, expect=[[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]),
    case(DepthToSpace(blocksize=2, mode="CRD"), DEPTH, expect=[[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]),
    case(SpaceToDepth(blocksize=2, mode="CRD"), r(2, 3, 4, 6), differs=NEWER),
    case(
        SpaceToDepth(blocksize=2, mode="CRD"),
        [[[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]]],
        expect=DEPTH,
        differs=NEWER,
    ),
    case(SpaceToDepth(blocksize=2), [[[[0.0, 2.0], [4.0, 6.0]], [[1.0, 3.0], [5.0, 7.0]]]], expect=DEPTH),
    case(Gather(), r(5, 4), [[0, -1], [2, 2]]),
    case(Gather(axis=1), r(5, 4, 3), s(-2)),
    case(Gather(axis=-1), r(5, 4), s([], np.int32)),
    case(Gather(), [10, 20, 30], [2, 0], expect=[30, 10]),
    case(GatherElements(axis=1), [[1, 2], [3, 4]], [[0, 0], [1, -2]], expect=[[1, 1], [4, 3]]),
    case(GatherElements(), r(4, 5), s([[0, 3, -4], [1, 1, 1]], np.int32)),
    case(GatherND(), [[0.0, 1.0], [2.0, 3.0]], [[0, 0], [1, -1]], expect=[0, 3]),
    case(GatherND(), r(4, 5, 3), s([[[1], [3]], [[-4], [1]]])),
    case(GatherND(batch_dims=1), [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]], [[1], [0]], expect=[[2, 3], [4, 5]]),
    case(GatherND(batch_dims=2), r(2, 3, 5, 4), s([[[[4], [0]]] * 3] * 2)),
    case(GatherND(), r(4, 5), s(np.zeros((0, 2)))),
    case(GatherND(), r(4, 5, dtype=np.uint8), s([[1], [2]])),
    case(EyeLike(), r(2, 3), expect=[[1, 0, 0], [0, 1, 0]]),
    case(EyeLike(dtype=7, k=1), r(2, 3), expect=[[0, 1, 0], [0, 0, 1]]),
    case(EyeLike(k=-5), r(3, 3, dtype=np.int32)),
    case(OneHot(), [1, 7, -1, -9], 3, [2.0, 5.0], expect=[[2, 5, 2], [2, 2, 2], [2, 2, 5], [2, 2, 2]]),
    case(OneHot(axis=1), [[1, 0], [2, 2]], [3], [0, 1], expect=[[[0, 1], [1, 0], [0, 0]], [[0, 0], [0, 0], [1, 1]]]),
    case(OneHot(axis=0), s([2, 1]), np.array(2.0, np.float32), [0.5, -0.5], expect=[[0.5, 0.5], [0.5, -0.5]]),
    case(OneHot(axis=-2), [[1.0, -1.0]], 2, [0.0, 1.0], expect=[[[0, 0], [1, 1]]]),
    case(Shape(), r(2, 3, 5), expect=[2, 3, 5]),
    case(Shape(start=1), r(2, 3, 5), expect=[3, 5]),
    case(Shape(start=-9, end=-1), r(2, 3, 5), expect=[2, 3]),
    case(Shape(start=2, end=1), r(2, 3, 5)),
    case(Shape(), r()),
    case(Size(), r(2, 3, 5), expect=s(30)),
    case(Size(), r(2, 0), expect=s(0)),
    case(Constant(value=r(2, 3))),
    case(Constant(value_float=1.5), expect=np.float32(1.5).reshape(())),
    case(Constant(value_floats=(1.5, 2.0)), expect=[1.5, 2]),
    case(Constant(value_int=3), expect=s(3)),
    case(Constant(value_ints=(3, -4)), expect=[3, -4]),
    case(ConstantOfShape(), [2, 0, 3]),
    case(ConstantOfShape(), s([]), expect=np.zeros((), np.float32)),
    case(ConstantOfShape(value=s([7], np.int32)), [2], expect=s([7, 7], np.int32)),
    case(Range(), s(3), s(9), s(3), expect=[3, 6]),
    case(Range(), s(10), s(4), s(-2), expect=[10, 8, 6]),
    case(Range(), s(10), s(4), s(2), expect=s([])),
    case(Range(), s(1.0, np.float32), s(2.1, np.float32), s(0.5, np.float32), expect=[1, 1.5, 2]),
]

test_cases = run_cases(CASES)


def f32(*shape: int) -> Spec:
    return Spec(shape, np.dtype(np.float32))


def ints(*values: int) -> Spec:
    return spec_of(np.array(values, np.int64))


WRONG = [
    (Reshape(), (f32(2, 3), ints(4, 2)), r"x of shape \[2, 3\] cannot take the shape \[4, 2\]"),
    (Reshape(), (f32(2, 3), ints(-1, -1)), "cannot take"),
    (Reshape(), (f32(2, 3), ints(-1, 4)), "cannot take"),
    (Reshape(), (f32(2, 3), ints(2, 3, 0)), "past x's last axis"),
    (Reshape(allowzero=1), (f32(0, 3), ints(0, -1)), "cannot take"),
    (Reshape(), (f32(2, 3), Spec((2,), np.dtype(np.int64))), "shape is computed while running"),
    (Flatten(axis=3), (f32(2, 3),), "axis 3 is out of range for rank 2"),
    (Squeeze(), (f32(2, 1), ints(0)), r"axis 0 of x \[2, 1\] is 2"),
    (Unsqueeze(), (f32(2), ints(0, 0)), "name an axis twice"),
    (Transpose(perm=(0, 0)), (f32(2, 3),), r"perm \[0, 0\] is no permutation"),
    (Concat(axis=1), (f32(2, 3), f32(3, 3)), "they differ outside axis 1"),
    (Concat(axis=0), (), "no inputs"),
    (Split(), (f32(4),), "wants its input split"),
    (Split(), (f32(4), ints(1, 2)), r"pieces \[1, 2\] do not make up an axis of size 4"),
    (Split(), (f32(4), ints(5, -1)), "do not make up"),
    (Split(num_outputs=4), (f32(2),), "does not split into 4"),
    (Split(num_outputs=1 << 60), (f32(0),), "does not split"),
    (Split(), (f32(0), ints()), "do not make up"),
    (Slice(), (f32(4), ints(0), ints(4), ints(0), ints(0)), "steps has a 0"),
    (Slice(), (f32(4), ints(0, 0), ints(4)), "differ in length"),
    (Pad(), (f32(4), ints(1)), r"pads \[1\] has 1 entries, 1 axes want 2"),
    (Pad(), (f32(4), ints(-3, -3)), "crop more than"),
    (Pad(mode="edge"), (f32(0), ints(1, 0)), "nothing to repeat"),
    (Pad(mode="mirror"), (f32(4), ints(1, 0)), "mode is 'mirror'"),
    (Pad(), (f32(4), ints(1 << 41, 0)), "more than"),
    (Expand(), (f32(2, 3), ints(2, 2)), "do not broadcast"),
    (Expand(), (f32(1), ints(-5)), "negative dimension"),
    (Tile(), (f32(2, 3), ints(2)), "wants 2 entries"),
    (SpaceToDepth(blocksize=2), (f32(1, 1, 3, 4),), "no multiple of blocksize 2"),
    (DepthToSpace(blocksize=2), (f32(1, 6, 3, 4),), "not a multiple of blocksize² = 4"),
    (DepthToSpace(blocksize=0), (f32(1, 6, 3, 4),), "blocksize is 0"),
    (Gather(), (f32(3), ints(3)), "indices from 3 to 3 leave an axis of size 3"),
    (Gather(axis=1), (f32(3), ints(0)), "axis 1 is out of range"),
    (GatherElements(), (f32(3, 2), Spec((1, 3), np.dtype(np.int64))), "do not fit"),
    (GatherND(), (f32(3, 2), spec_of(s([[3, 0]]))), "indices from 3 to 3 leave an axis of size 3"),
    (GatherND(), (f32(3, 2), Spec((1, 3), np.dtype(np.int64))), "wanted 1 to 2 along their last axis"),
    (GatherND(batch_dims=1), (f32(3, 2), Spec((2, 1), np.dtype(np.int64))), "wanted that many equal axes"),
    (EyeLike(), (f32(3),), "wanted rank 2"),
    (OneHot(axis=2), (f32(3), spec_of(s(2)), f32(2)), "axis 2 is out of range for rank 2"),
    (OneHot(), (f32(3), spec_of(s(2)), f32(3)), r"wants shape \[2\]"),
    (Constant(), (), "wants one attribute, got none"),
    (ConstantOfShape(), (ints(1 << 30, 1 << 30),), "more than"),
    (ConstantOfShape(value=np.zeros(2)), (ints(2),), "value has 2 elements"),
    (Range(), (spec_of(s(0)), spec_of(s(1)), spec_of(s(0))), "delta is 0"),
    (Range(), tuple(spec_of(np.array(v)) for v in (0.0, np.inf, 1.0)), "no finite range"),
]


@pytest.mark.parametrize("op, specs, message", WRONG, ids=[f"{i}-{row[0]!r}" for i, row in enumerate(WRONG)])
def test_messages(op, specs, message) -> None:
    with pytest.raises(ModelError, match=message):
        op.infer(*specs)


def test_shape_is_known_when_planning() -> None:
    value = Shape(start=1).infer(f32(2, 3, 5)).value
    assert value is not None
    assert value.tolist() == [3, 5]
    assert Size().infer(f32(2, 3)).value == 6


def test_gather_checks_indices_while_running() -> None:
    with pytest.raises(ModelError, match="leave an axis of size 3"):
        Gather().reference(np.zeros(3), np.array([-4]))
