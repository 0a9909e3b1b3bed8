"""Connectionist temporal classification: its loss and gradient."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops.ctc import CTCLoss, CTCLossGrad
from tests.check import case, run_cases, sampler

r = sampler(31)
inf, nan = np.inf, np.nan
LABELS = np.array([[1, 2, 2, 4], [3, 3, -1, -1], [-1, -1, -1, -1]])
MANY = np.array([[1, 1, 2, 3, 1, 4, 4, 4, 2, 1, 3, 2], [2, 1, 2, *[-1] * 9]])
LENGTHS = np.array([7, 3, 0])
NONE = np.zeros((2, 0), np.int64)
HALF, LOG2 = np.zeros((1, 2, 2), np.float32), float(np.log(2))
FEW = np.array([[1, 1]])
"""Needs three steps: a blank stands between."""

CASES = [
    *(
        case(CTCLoss(reduction=how, time_major=major), r(*((7, 3, 5) if major else (3, 7, 5))), LABELS)
        for how, major in product(("none", "mean", "sum"), (0, 1))
    ),
    case(CTCLoss(reduction="none"), r(3, 7, 5), LABELS, LENGTHS),
    case(CTCLoss(blank=5, pad=9), r(2, 6, 6), np.array([[0, 4, 9], [9, 9, 9]]), np.array([6, 2])),
    case(CTCLoss(reduction="none"), 20 * r(2, 40, 5), MANY),
    case(CTCLoss(reduction="sum", zero_infinity=1), r(3, 3, 5), LABELS, np.array([3, 3, 0])),
    case(CTCLoss(), r(2, 5, 4), NONE),
    case(CTCLoss(), np.zeros((2, 0, 4), np.float32), NONE, expect=np.float32(0)),
    case(CTCLoss(reduction="none"), np.zeros((0, 3, 4), np.float32), np.zeros((0, 2), np.int64)),
    # two classes of a half: of the four paths of two steps three show one label
    case(CTCLoss(reduction="none"), HALF, np.array([[1]]), expect=[2 * LOG2 - float(np.log(3))]),
    case(CTCLoss(reduction="none"), HALF, np.array([[-1]]), expect=[2 * LOG2]),
    case(CTCLoss(zero_infinity=1), HALF, FEW, expect=np.float32(0)),
    case(CTCLoss(), [[[0.0, nan]]], np.array([[1]]), expect=np.float32(nan)),
    case(CTCLoss(), [[[0.0, inf]]], np.array([[1]]), expect=np.float32(nan)),
    case(CTCLoss(), [[[-inf, 3.0]]], np.array([[1]]), expect=np.float32(0)),
    case(CTCLoss(), [[[-inf, 3.0]]], np.array([[-1]]), expect=np.float32(inf)),
    case(CTCLoss(), [[[0.0, 3e38]]], np.array([[1]]), expect=np.float32(0)),
    case(CTCLossGrad(reduction="none"), r(3), r(3, 7, 5), LABELS, LENGTHS),
    case(CTCLossGrad(time_major=1), r(), r(7, 3, 5), LABELS),
    case(CTCLossGrad(reduction="sum"), r(), 20 * r(2, 40, 5), MANY),
    case(CTCLossGrad(), np.float32(2).reshape(()), HALF, np.array([[1]]), expect=[[[1 / 3, -1 / 3], [1 / 3, -1 / 3]]]),
    case(CTCLossGrad(), np.float32(2).reshape(()), HALF, FEW, expect=np.full((1, 2, 2), nan, np.float32)),
    case(CTCLossGrad(zero_infinity=1), np.float32(2).reshape(()), HALF, FEW, expect=np.zeros((1, 2, 2), np.float32)),
]  # fmt: skip

test_cases = run_cases(CASES)


@pytest.mark.parametrize("seed", range(4))
def test_all_paths(seed: int) -> None:
    """The definition: the probabilities of all paths that show the labels, added up."""
    rng = np.random.default_rng(seed)
    steps, classes = int(rng.integers(1, 5)), int(rng.integers(2, 5))
    labels = rng.integers(1, classes, int(rng.integers(0, 3)))
    x = rng.standard_normal((1, steps, classes))
    p = np.exp(x[0]) / np.exp(x[0]).sum(axis=1, keepdims=True)
    whole = 0.0
    for path in product(range(classes), repeat=steps):
        shown = [k for i, k in enumerate(path) if k and (i == 0 or path[i - 1] != k)]
        whole += float(np.prod(p[np.arange(steps), path])) * (shown == list(labels))
    with np.errstate(divide="ignore"):
        want = -np.log(whole)
    np.testing.assert_allclose(CTCLoss(reduction="sum").reference(x, labels[None]), want)


def test_too_few_steps() -> None:
    """The loss is infinite; it has no gradient."""
    model = Model(
        Graph([Node(CTCLoss(), ("x", "y"), ("loss",))], {"x": Spec((1, 2, 2), HALF.dtype)}, {"loss": None}, {"y": FEW})
    )
    assert model.run({"x": HALF})["loss"] == inf == CTCLoss().reference(HALF, FEW)


def test_messages() -> None:
    f32, i64 = np.dtype(np.float32), np.dtype(np.int64)
    x = Spec((2, 7, 5), f32)
    with pytest.raises(ModelError, match=r"labels are int64\(3, 4\), scores float32\(2, 7, 5\): wanted labels of shape "):
        CTCLoss().infer(x, Spec((3, 4), i64))
    with pytest.raises(ModelError, match="blank is 5, there are 5 classes"):
        CTCLoss(blank=5).infer(x, Spec((2, 4), i64))
    with pytest.raises(ModelError, match=r"lengths is int64\(3\), scores of a batch of 2 wants shape \[2\]"):
        CTCLoss().infer(x, Spec((2, 4), i64), Spec((3,), i64))
    scores = np.zeros((1, 3, 3), np.float32)
    with pytest.raises(ModelError, match="labels from 1 to 3, wanted 0 to 2 without the blank 0"):
        CTCLoss().reference(scores, np.array([[1, 3]]))
    with pytest.raises(ModelError, match="labels stand behind the padding -1"):
        CTCLoss().reference(scores, np.array([[-1, 2]]))
    with pytest.raises(ModelError, match="lengths from 4 to 4, there are 3 steps"):
        CTCLoss().reference(scores, np.array([[2]]), np.array([4]))


@pytest.mark.parametrize("labels", [[1, 0], [1, 3], [1, -7], [-1, 1], [1 << 40, -1]])
def test_what_is_no_label_makes_nan(labels: list[int]) -> None:
    """Kernels cannot raise; memory they must not leave. The other sequence has its loss."""
    ports = {"x": Spec((2, 4, 3), np.dtype(np.float32)), "y": Spec((2, 2), np.dtype(np.int64))}
    node = Node(CTCLoss(reduction="none"), ("x", "y"), ("loss",))
    model = Model(Graph([node], ports, {"loss": None}, {}))
    assert not model.plan({"x": (2, 4, 3), "y": (2, 2)}).numpy_steps()
    found = model.run({"x": np.zeros((2, 4, 3), np.float32), "y": np.array([labels, [1, 2]])})["loss"]
    assert np.isnan(found[0])
    assert np.isfinite(found[1])
