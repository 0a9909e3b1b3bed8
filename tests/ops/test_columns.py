"""Blocks as columns, and middles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Spec, spec_of
from nbconv.ops.columns import Col2Im, Im2Col
from nbconv.ops.pad import CenterCropPad
from tests.check import case, run_cases, sampler

r = sampler(24)

CASES = [
    case(Col2Im(), r(2, 12, 9), [5, 4], [3, 2]),
    case(Col2Im(strides=(2, 1), pads=(1, 0, 0, 2), dilations=(1, 2)), r(1, 18, 18), [6, 8], [2, 3]),
    case(Col2Im(), r(1, 8, 12), [3, 4, 3], [2, 2, 2]),
    case(Col2Im(), [[[1.0, 2.0], [3.0, 4.0]]], [1, 3], [1, 2], expect=[[[[1, 5, 4]]]]),
    case(Col2Im(pads=(0, 1, 0, 1)), [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], [1, 2], [1, 2], expect=[[[[6, 8]]]]),
    case(Im2Col(block=(2, 3), pads=(1, 0, 0, 1)), r(2, 3, 5, 6)),
    case(Im2Col(block=(1, 2)), [[[[1.0, 5.0, 4.0]]]], expect=[[[1, 5], [5, 4]]]),
    case(CenterCropPad(), r(5, 6, 7), [3, 9, 4]),
    case(CenterCropPad(axes=(-1, 1)), r(2, 3, 7, 6), [9, 2]),
    case(CenterCropPad(axes=(2, 3)), r(2, 3, 7, 6), [7, 6]),
    case(CenterCropPad(), [[1.0, 2.0, 3.0, 4.0]], [2, 3], expect=[[1, 2, 3], [0, 0, 0]]),
    case(CenterCropPad(), [[1.0], [2.0]], [1, 4], expect=[[0, 1, 0, 0]]),
    case(CenterCropPad(), r(3, 4, dtype=np.uint8), [4, 2]),
    case(CenterCropPad(), r(0, 4), [2, 2]),
]

test_cases = run_cases(CASES)


def test_messages() -> None:
    f = np.dtype(np.float32)
    x = Spec((1, 6, 4), f)
    wrong: list[Any] = [
        (Col2Im(), (x, spec_of(np.array([3, 3])), spec_of(np.array([2, 2]))), "wanted a multiple of 4 rows of 4 blocks"),
        (Col2Im(), (x, spec_of(np.array([1, 3])), spec_of(np.array([2, 2]))), "does not fit"),
        (CenterCropPad(axes=(0,)), (x, spec_of(np.array([1, 2]))), "2 entries, 1 axes"),
        (CenterCropPad(axes=(0, 0)), (x, spec_of(np.array([1, 2]))), "twice"),
        (CenterCropPad(axes=(0,)), (x, spec_of(np.array([-1]))), "negative"),
    ]
    for op, inputs, message in wrong:
        with pytest.raises(ModelError, match=message):
            op.infer(*inputs)
    with pytest.raises(DataDependentError):
        CenterCropPad().infer(x, Spec((3,), np.dtype(np.int64)))
