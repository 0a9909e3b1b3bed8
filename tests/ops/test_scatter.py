"""ScatterND, ScatterElements, TensorScatter: updates at indexed places."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec, spec_of
from nbconv.ops.scatter import ScatterElements, ScatterND, TensorScatter, TensorScatterGrad
from nbconv.tools.gradcheck import Call
from tests.check import case, run_cases, sampler

r = sampler(13)
NEWER = "newer than opset 21"
F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def unique(*shape: int, below: int) -> np.ndarray:
    """Indices along the last axis of which none comes twice."""
    rng = np.random.default_rng(below)
    return np.array([rng.permutation(below)[: shape[-1]] for _ in range(int(np.prod(shape[:-1])))]).reshape(shape)


CASES = [
    case(ScatterND(), [1.0, 2.0, 3.0, 4.0, 5.0], [[3], [1]], [9.0, 8.0], expect=[1, 8, 3, 9, 5]),
    case(ScatterND(), [[1.0, 2.0], [3.0, 4.0]], [[-1]], [[np.nan, np.inf]], expect=[[1, 2], [np.nan, np.inf]]),
    case(ScatterND(reduction="add"), [1.0, 2.0, 3.0], [[2], [0], [2]], [10.0, 20.0, 30.0], expect=[21, 2, 43]),
    case(ScatterND(), r(3, 5, 4), unique(1, 2, below=3)[0, :, None], r(2, 5, 4)),
    case(ScatterND(), r(3, 5, 4), np.stack([unique(1, 3, below=3)[0], unique(1, 3, below=5)[0]], 1), r(3, 4)),
    case(ScatterND(reduction="add"), r(2, 3, 4, 5), np.array([[[0, 1], [1, 2]], [[0, 1], [1, 0]]]), r(2, 2, 4, 5)),
    case(ScatterND(reduction="add"), r(3, 2, 2), np.array([[0, 1, 0], [2, 1, 1], [0, 1, 0]]), r(3)),
    case(ScatterND(), r(3, 4), np.zeros((0, 1), np.int64), r(0, 4)),
    case(ScatterND(reduction="mul"), [2, 3, 5], [[1], [1], [0]], [7, 2, 10], expect=[20, 42, 5]),
    case(ScatterND(reduction="max"), [2, 3, 5], [[1], [1], [2]], [7, 2, 4], expect=[2, 7, 5]),
    case(ScatterND(reduction="min"), [2, 3, 5], [[1], [1], [2]], [7, 2, 4], expect=[2, 2, 4]),
    case(ScatterND(), r(4, 3, dtype=bool), [[2], [0]], r(2, 3, dtype=bool)),
    case(ScatterND(), r(4, 3, dtype=np.uint8), [[2], [0]], r(2, 3, dtype=np.uint8)),
    case(ScatterElements(axis=1), [[1.0, 2.0, 3.0, 4.0, 5.0]], [[1, 3]], [[1.1, 2.1]], expect=[[1, 1.1, 3, 2.1, 5]]),
    case(ScatterElements(), np.zeros((3, 3), np.float32), [[1, 0, 2], [0, 2, 1]], [[1.0, 1.1, 1.2], [2.0, 2.1, 2.2]],
         expect=[[2, 1.1, 0], [1, 0, 2.2], [0, 2.1, 1.2]]),
    case(ScatterElements(axis=-1, reduction="add"), [[1.0, 2.0, 3.0]], [[-3, 0, 2, 0]], [[1.0, 2.0, 4.0, 8.0]],
         expect=[[12, 2, 7]]),
    case(ScatterElements(axis=1), r(2, 5, 3), unique(2, 3, 4, below=5).transpose(0, 2, 1), r(2, 4, 3)),
    case(ScatterElements(axis=2), r(3, 4, 5), unique(2, 4, 3, below=5), r(2, 4, 3)),
    case(ScatterElements(axis=1, reduction="add"), r(2, 5, 3), r(2, 4, 2, dtype=np.uint8).astype(np.int64) % 5, r(2, 4, 2)),
    case(ScatterElements(reduction="mul"), [[2, 3]], [[0, 0], [0, 0]], [[5, 7], [2, 3]], expect=[[20, 63]]),
    case(ScatterElements(reduction="max"), [2, 3, 5], [1, 1, 2], [7, 2, 4], expect=[2, 7, 5]),
    case(ScatterElements(reduction="min"), [2, 3, 5], [1, 1, 2], [7, 2, 4], expect=[2, 2, 4]),
    case(TensorScatter(), r(2, 4, 3), r(2, 2, 3), [1, 2], differs=NEWER),
    case(TensorScatter(axis=1), [[1.0, 2.0, 3.0]], [[7.0, 8.0]], expect=[[7, 8, 3]], differs=NEWER),
    case(TensorScatter(axis=-1, mode="circular"), [[1.0, 2.0, 3.0]], [[7.0, 8.0]], [2], expect=[[8, 2, 7]], differs=NEWER),
    case(TensorScatter(axis=2, mode="circular"), r(2, 2, 5, 3), r(2, 2, 3, 3), [4, 1], differs=NEWER),
    case(TensorScatterGrad(axis=1, mode="linear", count=2), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [1, 0],
         expect=[[2, 3], [4, 5]]),
    case(ScatterElements(), r(4, 3, dtype=np.int32), np.array([[2, 0, 3]], np.int32), r(1, 3, dtype=np.int32)),
]  # fmt: skip
test_cases = run_cases(CASES)


@pytest.mark.parametrize("reduction", ["mul", "max", "min"])
def test_other_reductions_of_floats(reduction) -> None:
    x, indices, updates = r(4, 3), np.array([[1], [3], [1]]), r(3, 3)
    f = {"mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    want = x.copy()
    for (i,), u in zip(indices, updates, strict=True):
        want[i] = f(want[i], u)
    op = ScatterND(reduction=reduction)
    np.testing.assert_array_equal(op.reference(x, indices, updates), want)
    with pytest.raises(UnsupportedError, match=f"reduction '{reduction}' has no gradient"):
        Call(op, (x, indices, updates), 1, (0, 2), (0,))


def test_what_does_not_fit() -> None:
    x = Spec((4, 3), F32)
    with pytest.raises(ModelError, match="indices from 4 to 4 leave an axis of size 4"):
        ScatterND().infer(x, spec_of(np.array([[4]])), Spec((1, 3), F32))
    with pytest.raises(ModelError, match=r"wanted shape \[2, 3\]"):
        ScatterND().infer(x, Spec((2, 1), I64), Spec((2, 4), F32))
    with pytest.raises(ModelError, match="wanted 1 to 2 along their last axis"):
        ScatterND().infer(x, Spec((2, 3), I64), Spec((2,), F32))
    with pytest.raises(ModelError, match="reduction is 'mean'"):
        ScatterND(reduction="mean").infer(x, Spec((2, 1), I64), Spec((2, 3), F32))
    with pytest.raises(ModelError, match="they do not fit x"):
        ScatterElements(axis=0).infer(x, Spec((2, 4), I64), Spec((2, 4), F32))
    with pytest.raises(ModelError, match="wanted one shape"):
        ScatterElements(axis=0).infer(x, Spec((2, 3), I64), Spec((2, 2), F32))
    with pytest.raises(ModelError, match="write_indices lead from 3 to 4, outside of an axis of size 4"):
        TensorScatter().infer(Spec((1, 4, 3), F32), Spec((1, 2, 3), F32), spec_of(np.array([3])))
    with pytest.raises(ModelError, match="wanted its shape, or less along axis 1"):
        TensorScatter().infer(Spec((1, 4, 3), F32), Spec((1, 5, 3), F32))
    with pytest.raises(ModelError, match="leave an axis of size 4"):
        ScatterElements().reference(np.zeros((4, 3), np.float32), np.array([[0, -5, 1]]), np.zeros((1, 3), np.float32))
