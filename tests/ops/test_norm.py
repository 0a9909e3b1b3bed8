"""Normalisations."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.batch_norm import (
    BatchNormalization,
    BatchNormalizationGradInput,
    BatchNormalizationGradScale,
)
from nbconv.ops.norm import LRN, LpNormalization, MeanVarianceNormalization
from nbconv.ops.standardize import GroupNormalization, InstanceNormalization, LayerNormalization
from tests.check import case, run_cases, sampler

r = sampler(5)
nan = np.nan
PLANE = [[[[1.0, 3.0], [5.0, 7.0]]]]
"""Mean 4, variance 5."""
Z = [-1.3416408, -0.4472136, 0.4472136, 1.3416408]
"""PLANE standardised: (-3, -1, 1, 3) / sqrt(5)."""

NO_TRAINING = "onnxruntime wants training_mode to be 0"

CASES = [
    case(BatchNormalization(), r(2, 5, 7, 3), r(5), r(5), r(5), np.abs(r(5))),
    case(BatchNormalization(epsilon=0.3), r(2, 5, 7), r(5), r(5), r(5), np.abs(r(5))),
    case(BatchNormalization(), r(4, 7), r(7), r(7), r(7), np.abs(r(7))),
    case(BatchNormalization(), r(0, 5, 2, 3), r(5), r(5), r(5), np.abs(r(5))),
    case(
        BatchNormalization(training_mode=1, momentum=0.7),
        r(2, 5, 7, 3),
        r(5),
        r(5),
        r(5),
        np.abs(r(5)),
        outputs=5,
        differs=NO_TRAINING,
    ),
    case(BatchNormalization(training_mode=1), r(3, 33, 4), r(33), r(33), r(33), np.abs(r(33)), differs=NO_TRAINING),
    case(BatchNormalization(training_mode=1), r(64, 19), r(19), r(19), r(19), np.abs(r(19)), differs=NO_TRAINING),
    case(
        BatchNormalization(training_mode=1, epsilon=0.0, momentum=0.5),
        [[[1.0, 3.0], [5.0, 5.0]], [[5.0, 3.0], [7.0, 7.0]]],
        [1.0, 2.0],
        [0.0, 10.0],
        [1.0, 2.0],
        [4.0, 5.0],
        outputs=3,
        differs=NO_TRAINING,
        expect=(
            [[[-(2**0.5), 0.0], [8.0, 8.0]], [[2**0.5, 0.0], [12.0, 12.0]]],
            [2.0, 4.0],
            [3.0, 3.0],
        ),
    ),
    case(BatchNormalizationGradScale(), r(2, 19, 3, 5), r(2, 19, 3, 5), r(19), np.abs(r(19)), outputs=2),
    case(
        BatchNormalizationGradScale(rectified=1),
        r(2, 35, 3),
        r(2, 35, 3),
        r(35),
        np.abs(r(35)),
        r(2, 35, 3),
        outputs=2,
    ),
    case(BatchNormalizationGradInput(), r(2, 19, 3, 5), r(2, 19, 3, 5), r(19), r(19), np.abs(r(19)) + 0.1, r(19), r(19)),
    case(
        BatchNormalizationGradInput(count=50),
        *(r(2, 19, 3, 5), r(2, 19, 3, 5), r(19), r(19), np.abs(r(19)) + 0.1, r(19), r(19)),
    ),
    case(
        BatchNormalizationGradInput(rectified=1),
        r(2, 35, 3),
        r(2, 35, 3),
        r(35),
        r(35),
        np.abs(r(35)) + 0.1,
        r(35),
        r(35),
        r(2, 35, 3),
    ),
    case(
        BatchNormalization(epsilon=1.0),
        [[[5.0], [nan]]],
        [2.0, 1.0],
        [10.0, 0.0],
        [1.0, 0.0],
        [3.0, 1.0],
        expect=[[[14], [nan]]],
    ),
    case(InstanceNormalization(), r(2, 5, 7, 3), r(5), r(5)),
    case(InstanceNormalization(epsilon=0.1), 1000 + r(2, 5, 9), r(5), r(5), rtol=1e-4),
    case(
        InstanceNormalization(epsilon=0.0), PLANE, [2.0], [1.0], expect=[[[[-1.6832816, 0.1055728], [1.8944272, 3.6832816]]]]
    ),
    case(LayerNormalization(), r(2, 3, 5), r(5), r(5), outputs=3),
    case(LayerNormalization(axis=1, epsilon=0.1), r(2, 3, 5), r(3, 5), r(3, 5), outputs=3),
    case(LayerNormalization(axis=-2), r(2, 3, 5), r(3, 5)),
    case(LayerNormalization(), r(2, 3, 5), r(1), r(1), outputs=3),
    case(LayerNormalization(axis=1), r(2, 3, 5), r(1, 1)),
    case(LayerNormalization(axis=1, stash_type=11), r(2, 3, 5), r(3, 5), r(3, 5), outputs=3, differs="float32 only"),
    case(LayerNormalization(), r(0, 5), r(5), r(5)),
    case(
        LayerNormalization(epsilon=0.0),
        [[1.0, 3.0, 5.0, 7.0]],
        [1.0, 1.0, 1.0, 1.0],
        [0.0, 0.0, 0.0, 1.0],
        outputs=3,
        expect=([[*Z[:3], Z[3] + 1]], [[4]], [[0.4472136]]),
    ),
    case(GroupNormalization(num_groups=3), r(2, 6, 5, 3), r(6), r(6)),
    case(GroupNormalization(num_groups=1, epsilon=0.2), r(2, 5, 7), r(5), r(5)),
    case(GroupNormalization(num_groups=7), r(2, 7, 3, 2), r(7), r(7)),
    case(
        GroupNormalization(num_groups=1, epsilon=0.0),
        [[[1.0, 3.0], [5.0, 7.0]]],
        [1.0, 2.0],
        [0.0, 1.0],
        expect=[[[Z[0], Z[1]], [2 * Z[2] + 1, 2 * Z[3] + 1]]],
    ),
    case(LRN(size=3), 10 * r(2, 7, 5, 3)),
    case(LRN(size=5, alpha=0.2, beta=0.6, bias=2.0), r(2, 7, 5, 3)),
    case(
        LRN(size=2, alpha=1.0, beta=1.0),
        [[[[1.0]], [[2.0]], [[3.0]]]],
        expect=[[[[1 / 3.5]], [[2 / 7.5]], [[3 / 5.5]]]],
        differs="onnxruntime wants an odd size",
    ),
    case(LRN(size=9, alpha=0.5), r(1, 3, 2, 2)),
    case(LpNormalization(), r(2, 3, 5)),
    case(LpNormalization(axis=1, p=1), r(2, 3, 5)),
    case(LpNormalization(), [[3.0, -4.0], [0.0, 0.0]], expect=[[0.6, -0.8], [0, 0]]),
    case(LpNormalization(p=1, axis=0), [[3.0, 0.0], [-1.0, 0.0]], expect=[[0.75, 0], [-0.25, 0]]),
    case(MeanVarianceNormalization(), r(2, 3, 5, 4)),
    case(MeanVarianceNormalization(axes=(2, 3)), PLANE, expect=[[[[Z[0], Z[1]], [Z[2], Z[3]]]]]),
]

test_cases = run_cases(CASES)


def test_messages() -> None:
    x, v = Spec((2, 3, 4, 4), np.dtype(np.float32)), Spec((3,), np.dtype(np.float32))
    with pytest.raises(ModelError, match=r"mean is float32\(4\), x with 3 channels wants shape \[3\]"):
        BatchNormalization().infer(x, v, v, Spec((4,), v.dtype), v)
    with pytest.raises(ModelError, match="not a multiple of 2 groups"):
        GroupNormalization(num_groups=2).infer(x, v, v)
    with pytest.raises(ModelError, match="axis 4 is out of range for rank 4"):
        LayerNormalization(axis=4).infer(x, v)
    with pytest.raises(ModelError, match="size is 0"):
        LRN(size=0).infer(x)
    with pytest.raises(ModelError, match="p is 3, wanted 1 or 2"):
        LpNormalization(p=3).infer(x)
    with pytest.raises(ModelError, match="name an axis twice"):
        MeanVarianceNormalization(axes=(0, -4)).infer(x)
