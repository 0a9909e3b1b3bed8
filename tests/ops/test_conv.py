"""Convolutions."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.ops.conv import Conv, ConvGradInput, ConvTranspose
from nbconv.ops.conv_weight_grad import ConvGradWeight
from tests.check import case, run_cases, sampler

r = sampler(4)
nan, inf = np.nan, np.inf
NO_DILATION = "onnxruntime refuses dilations with auto_pad"
SAME_IN_TEXT = "onnxruntime crops to what the kernel reaches; the text says x's size times strides"

CASES = [
    case(Conv(), r(2, 3, 7, 5), r(4, 3, 3, 2)),
    case(Conv(strides=(2, 1)), r(2, 3, 7, 5), r(4, 3, 3, 2), r(4)),
    case(Conv(pads=(1, 0, 2, 3), strides=(2, 3), dilations=(2, 1)), r(2, 5, 9, 8), r(7, 5, 3, 2), r(7)),
    case(Conv(group=3, pads=(1, 1, 1, 1)), r(2, 6, 7, 5), r(9, 2, 3, 3), r(9)),
    case(Conv(group=13, pads=(1, 1, 1, 1), strides=(2, 2)), r(2, 13, 9, 7), r(13, 1, 3, 3), r(13)),
    case(Conv(group=5), r(2, 5, 7, 6), r(10, 1, 5, 5), r(10)),
    case(Conv(group=13, pads=(2, 1, 2, 3), dilations=(2, 2)), r(1, 13, 9, 7), r(13, 1, 3, 3)),
    case(Conv(), r(2, 19, 6, 5), r(23, 19, 1, 1), r(23)),
    case(Conv(), r(2, 19, 3, 6, 5), r(23, 19, 1, 1, 1), r(23)),
    case(Conv(), r(1, 17, 4, 6, 5), r(5, 17, 2, 3, 2)),
    case(Conv(pads=(1, 1, 1, 1, 1, 1)), r(2, 18, 4, 5, 6), r(7, 18, 3, 3, 3), r(7)),
    case(Conv(pads=(1, 0, 2, 0, 1, 1), strides=(2, 1, 2), dilations=(1, 2, 1)), r(2, 4, 6, 7, 8), r(6, 4, 3, 2, 3), r(6)),
    case(Conv(group=2, strides=(2, 2, 2)), r(2, 6, 5, 6, 7), r(4, 3, 2, 2, 2)),
    case(Conv(strides=(2, 3, 3)), r(2, 20, 4, 6, 6), r(5, 20, 2, 3, 3), r(5)),
    case(Conv(group=4, pads=(1, 1, 1, 1, 1, 1)), r(1, 4, 3, 5, 4), r(4, 1, 3, 3, 3)),
    case(Conv(group=17, strides=(2, 1, 2), dilations=(1, 2, 1)), r(2, 17, 5, 6, 25), r(17, 1, 3, 2, 3), r(17)),
    case(Conv(strides=(2, 2)), r(2, 19, 7, 5), r(17, 19, 1, 1)),
    case(Conv(auto_pad="SAME_UPPER", strides=(2, 2)), r(2, 3, 8, 7), r(5, 3, 3, 4), r(5)),
    case(Conv(auto_pad="SAME_LOWER", strides=(2, 3)), r(2, 3, 8, 7), r(5, 3, 3, 4), r(5)),
    case(Conv(auto_pad="SAME_UPPER", dilations=(2, 1)), r(2, 3, 8, 7), r(5, 3, 3, 4), r(5), differs=NO_DILATION),
    case(Conv(auto_pad="VALID", strides=(2, 2)), r(2, 3, 8, 7), r(5, 3, 3, 4)),
    case(Conv(pads=(3, 3, 3, 3)), r(1, 2, 2, 1), r(3, 2, 5, 5)),
    case(Conv(kernel_shape=(3, 3), pads=(1, 1, 1, 1)), r(1, 33, 13, 11), r(31, 33, 3, 3), r(31)),
    case(Conv(strides=(2,), pads=(1, 0), dilations=(2,)), r(2, 3, 11), r(5, 3, 3), r(5)),
    case(Conv(strides=(2, 1, 1), pads=(1, 0, 1, 0, 2, 1)), r(2, 3, 5, 4, 3), r(5, 3, 2, 3, 2), r(5)),
    case(Conv(), r(0, 3, 5, 5), r(4, 3, 3, 3), r(4)),
    case(Conv(), [[[[1.0, 2.0], [3.0, 4.0]]]], [[[[1.0, 0.0], [0.0, 10.0]]]], [0.5], expect=[[[[41.5]]]]),
    case(Conv(pads=(0, 1, 0, 0)), [[[[1.0, 2.0]]]], [[[[3.0, 5.0]]]], expect=[[[[5, 13]]]]),
    case(Conv(), [[[[1.0, nan, 2.0, inf, 1.0]]]], [[[[1.0, 1.0]]]], expect=[[[[nan, nan, inf, inf]]]]),
    case(ConvTranspose(), r(2, 3, 5, 4), r(3, 4, 3, 2)),
    case(ConvTranspose(strides=(2, 3), pads=(1, 0, 0, 2), output_padding=(1, 1)), r(2, 6, 5, 7), r(6, 5, 3, 4), r(5)),
    case(ConvTranspose(group=3, strides=(2, 2), dilations=(1, 2)), r(2, 6, 5, 7), r(6, 2, 3, 4), r(6)),
    case(ConvTranspose(group=7, strides=(2, 2), pads=(1, 1, 1, 1)), r(2, 7, 5, 4), r(7, 1, 4, 4), r(7)),
    case(ConvTranspose(auto_pad="SAME_UPPER", strides=(2, 2)), r(2, 3, 5, 4), r(3, 4, 3, 5)),
    case(ConvTranspose(auto_pad="SAME_LOWER", strides=(2, 2)), r(2, 3, 5, 4), r(3, 4, 3, 5)),
    case(ConvTranspose(auto_pad="SAME_UPPER", strides=(4, 4)), r(2, 3, 5, 4), r(3, 4, 3, 3), differs=SAME_IN_TEXT),
    case(ConvTranspose(auto_pad="VALID", strides=(2, 2)), r(2, 3, 5, 4), r(3, 4, 3, 5)),
    case(ConvTranspose(output_shape=(10, 13), strides=(2, 3)), r(2, 3, 5, 4), r(3, 4, 3, 5), r(4)),
    case(ConvTranspose(output_shape=(10, 13), strides=(2, 3), auto_pad="SAME_UPPER"), r(2, 3, 5, 4), r(3, 4, 3, 5)),
    case(ConvTranspose(strides=(2,)), r(2, 3, 5), r(3, 4, 3), r(4)),
    case(ConvTranspose(strides=(2, 1, 1)), r(2, 3, 3, 4, 2), r(3, 4, 3, 1, 2)),
    case(ConvTranspose(strides=(2, 2, 2)), r(2, 19, 2, 3, 3), r(19, 4, 2, 2, 2), r(4)),
    case(
        ConvTranspose(strides=(2, 3, 1), pads=(1, 0, 1, 1, 2, 0), output_padding=(1, 1, 0), dilations=(1, 1, 2)),
        r(2, 6, 3, 4, 5),
        r(6, 5, 3, 2, 3),
        r(5),
    ),
    case(ConvTranspose(group=2, strides=(3, 1, 2), dilations=(2, 1, 1)), r(1, 4, 3, 2, 3), r(4, 3, 2, 2, 1), r(6)),
    case(ConvTranspose(group=5, strides=(2, 1, 3), pads=(1, 1, 0, 0, 1, 0)), r(2, 5, 3, 3, 2), r(5, 1, 3, 3, 2), r(5)),
    case(ConvTranspose(), r(0, 3, 5, 5), r(3, 4, 3, 3), r(4)),
    case(
        ConvTranspose(strides=(1, 2)),
        [[[[1.0, 2.0]]]],
        [[[[1.0, 10.0, 100.0]]]],
        [0.5],
        expect=[[[[1.5, 10.5, 102.5, 20.5, 200.5]]]],
    ),
]

CASES += [
    case(ConvGradInput(size=(7, 5), strides=(2, 1), pads=(1, 0, 1, 1)), r(2, 4, 4, 5), r(4, 3, 3, 2)),
    case(ConvGradInput(size=(9, 8), pads=(1, 1, 1, 1)), r(2, 19, 9, 8), r(19, 33, 3, 3)),
    case(ConvGradInput(size=(9, 7), strides=(2, 2), pads=(1, 1, 1, 1), group=13), r(2, 13, 5, 4), r(13, 1, 3, 3)),
    case(ConvGradInput(size=(9, 7), pads=(2, 3, 1, 0), group=37), r(2, 37, 10, 8), r(37, 1, 3, 3)),
    case(ConvGradInput(size=(9, 11), pads=(2, 2, 2, 2), dilations=(1, 2), group=20), r(1, 20, 9, 7), r(20, 1, 5, 5)),
    case(ConvGradInput(size=(6, 5), pads=(3, 3, 3, 3), group=17), r(2, 17, 6, 5), r(17, 1, 7, 7)),
    case(ConvGradInput(size=(9,), pads=(0, 1), group=18), r(2, 18, 8), r(18, 1, 3)),
    case(ConvGradWeight(kernel_shape=(3, 2), strides=(2, 1)), r(2, 3, 7, 5), r(2, 4, 3, 4), outputs=2),
    case(ConvGradWeight(kernel_shape=(3, 3), pads=(1, 1, 1, 1)), r(2, 19, 9, 8), r(2, 33, 9, 8), outputs=2),
    case(
        ConvGradWeight(kernel_shape=(3, 3), pads=(1, 1, 1, 1), channels=(0, 3, 4, 30)),
        r(2, 19, 9, 8),
        r(2, 33, 9, 8),
        outputs=2,
    ),
    case(ConvGradWeight(kernel_shape=(3, 2), strides=(2, 1), channels=(2,)), r(2, 3, 7, 5), r(2, 4, 3, 4), outputs=2),
    case(ConvGradWeight(kernel_shape=(3,), channels=(1, 4)), r(2, 9, 20), r(2, 6, 18)),
    case(ConvGradWeight(kernel_shape=(1, 1), strides=(2, 2)), r(2, 70, 9, 8), r(2, 65, 5, 4)),
    case(ConvGradWeight(kernel_shape=(3, 3), group=3, dilations=(2, 1)), r(2, 6, 9, 8), r(2, 9, 5, 6), outputs=2),
    case(ConvGradWeight(kernel_shape=(3, 3), group=19, pads=(1, 1, 1, 1)), r(2, 19, 9, 8), r(2, 19, 9, 8), outputs=2),
    case(ConvGradWeight(kernel_shape=(5, 4), group=33, strides=(2, 2)), r(2, 33, 9, 8), r(2, 33, 3, 3)),
    case(ConvGradInput(size=(5, 6, 7), strides=(2, 1, 1), pads=(1, 0, 1, 1, 0, 1)), r(2, 4, 3, 4, 7), r(4, 3, 3, 3, 3)),
    case(ConvGradInput(size=(4, 5, 11), pads=(1,) * 6, group=17), r(2, 17, 4, 5, 11), r(17, 1, 3, 3, 3)),
    case(ConvGradWeight(kernel_shape=(3, 3, 3), pads=(1,) * 6), r(2, 9, 4, 5, 6), r(2, 19, 4, 5, 6), outputs=2),
    case(
        ConvGradWeight(kernel_shape=(3, 2, 3), strides=(2, 1, 2), dilations=(1, 2, 1), pads=(1, 0, 1, 0, 1, 1)),
        r(2, 9, 6, 5, 7),
        r(2, 5, 3, 4, 3),
    ),
    case(ConvGradWeight(kernel_shape=(2, 3, 3), strides=(3, 1, 1)), r(2, 2, 7, 5, 6), r(2, 5, 2, 3, 4), outputs=2),
    case(ConvGradWeight(kernel_shape=(3, 3, 3), group=17, pads=(1,) * 6), r(2, 17, 3, 4, 5), r(2, 17, 3, 4, 5)),
    case(ConvGradWeight(kernel_shape=(1, 3, 1), group=2), r(2, 18, 3, 4, 5), r(2, 6, 3, 2, 5), outputs=2),
    case(ConvGradWeight(kernel_shape=(2, 1, 1)), r(1, 9, 3, 4, 5), r(1, 4, 2, 4, 5)),
    case(
        ConvGradWeight(kernel_shape=(1, 2)),
        [[[[1.0, 2.0, 4.0]]]],
        [[[[1.0, 10.0]]]],
        outputs=2,
        expect=([[[[21, 42]]]], [11]),
    ),
]

test_cases = run_cases(CASES)


def f32(*shape: int) -> Spec:
    return Spec(shape, np.dtype(np.float32))


def test_messages() -> None:
    w = f32(8, 4, 3, 3)
    with pytest.raises(ModelError, match="x has 3 channels, w wants 4"):
        Conv().infer(f32(1, 3, 8, 8), w)
    with pytest.raises(ModelError, match="x has 3 channels, w wants 8"):
        ConvTranspose().infer(f32(1, 3, 8, 8), w)
    with pytest.raises(UnsupportedError, match="x is int32, wanted floating point"):
        Conv().infer(Spec((1, 4, 8, 8), np.dtype(np.int32)), w)
    with pytest.raises(ModelError, match="x is float32, w is float64"):
        Conv().infer(f32(1, 4, 8, 8), Spec(w.shape, np.dtype(np.float64)))
    with pytest.raises(ModelError, match=r"b is float32\(7\), with 8 output channels it wants shape \[8\]"):
        Conv().infer(f32(1, 4, 8, 8), w, f32(7))
    with pytest.raises(ModelError, match="kernel_shape"):
        Conv(kernel_shape=(5, 5)).infer(f32(1, 4, 8, 8), w)
    with pytest.raises(ModelError, match="not a multiple of 3 groups"):
        Conv(group=3).infer(f32(1, 12, 8, 8), w)
    with pytest.raises(ModelError, match="group is 0"):
        Conv(group=0).infer(f32(1, 4, 8, 8), w)
    with pytest.raises(ModelError, match="auto_pad 'WHAT'"):
        Conv(auto_pad="WHAT").infer(f32(1, 4, 8, 8), w)
    with pytest.raises(ModelError, match="must not be negative"):
        Conv(pads=(0, 0, -1, 0)).infer(f32(1, 4, 8, 8), w)
    with pytest.raises(ModelError, match="wanted rank 4"):
        Conv().infer(f32(1, 4, 8, 8), f32(8, 4, 3))
    with pytest.raises(ModelError, match="does not fit"):
        Conv().infer(f32(1, 4, 0, 8), w)
    with pytest.raises(ModelError, match="leave nothing"):
        ConvTranspose(pads=(9, 9, 9, 9)).infer(f32(1, 8, 2, 2), w)
    with pytest.raises(ModelError, match="output_padding"):
        ConvTranspose(output_padding=(1,)).infer(f32(1, 8, 2, 2), w)
