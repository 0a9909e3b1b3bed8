"""Losses of class labels."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.loss import (
    NegativeLogLikelihoodLoss,
    NegativeLogLikelihoodLossGrad,
    OneHotLike,
    SoftmaxCrossEntropyLoss,
    SoftmaxCrossEntropyLossGrad,
)
from tests.check import case, run_cases, sampler

r = sampler(11)
rng = np.random.default_rng(12)
BOTH = (SoftmaxCrossEntropyLoss, NegativeLogLikelihoodLoss)
GRADS = (SoftmaxCrossEntropyLossGrad, NegativeLogLikelihoodLossGrad)
log2 = 0.6931472


def labels(classes: int, *shape: int, ignore: int | None = None) -> np.ndarray:
    y = rng.integers(0, classes, shape)
    if ignore is not None:
        y.reshape(-1)[::3] = ignore
    return y


CASES = [
    *(case(op(reduction=how), r(5, 7), labels(7, 5)) for op in BOTH for how in ("none", "sum", "mean")),
    *(case(op(reduction=how), r(5, 7), labels(7, 5), np.abs(r(7))) for op in BOTH for how in ("none", "sum", "mean")),
    *(
        case(op(ignore_index=-1, reduction=how), r(2, 5, 7, 3), labels(5, 2, 7, 3, ignore=-1), np.abs(r(5)))
        for op in BOTH
        for how in ("none", "sum", "mean")
    ),
    *(case(op(ignore_index=2), r(3, 4, 6), labels(4, 3, 6)) for op in BOTH),
    *(case(op(), r(700, 3), labels(3, 700)) for op in BOTH),
    case(SoftmaxCrossEntropyLoss(), r(2, 9, 5, 4), labels(9, 2, 5, 4), outputs=2),
    case(SoftmaxCrossEntropyLoss(), [[0.0, 0.0]], np.array([1]), expect=np.float32(log2)),
    case(SoftmaxCrossEntropyLoss(reduction="none"), [[1000.0, 0.0]], np.array([1]), expect=[1000.0]),
    case(NegativeLogLikelihoodLoss(), [[-1.0, -2.0], [-3.0, -5.0]], np.array([1, 0]), [1.0, 3.0], expect=np.float32(2.25)),
    case(
        NegativeLogLikelihoodLoss(ignore_index=0, reduction="sum"), [[-1.0, -2.0], [-3.0, -5.0]], np.array([0, 1]),
        expect=np.float32(5),
    ),
    case(SoftmaxCrossEntropyLossGrad(), np.float32(4).reshape(()), [[-log2, -log2]], np.array([1]), expect=[[2.0, -2.0]]),
    case(
        NegativeLogLikelihoodLossGrad(), np.float32(1).reshape(()), [[0.0, 0.0], [0.0, 0.0]], np.array([1, 0]), [1.0, 3.0],
        expect=[[0.0, -0.75], [-0.25, 0.0]],
    ),
    *(case(op(ignore_index=-1), r(), -np.abs(r(2, 5, 7, 3)), labels(5, 2, 7, 3, ignore=-1), np.abs(r(5))) for op in GRADS),
    *(case(op(reduction="none"), r(2, 7, 3), -np.abs(r(2, 5, 7, 3)), labels(5, 2, 7, 3)) for op in GRADS),
    case(OneHotLike(), labels(5, 2, 7, 3), r(2, 5, 7, 3)),
    case(OneHotLike(ignore=1), np.array([2, 1, 0]), np.zeros((3, 3), np.float32), expect=[[0, 0, 1], [0, 0, 0], [1, 0, 0]]),
    case(OneHotLike(on=0.9, off=0.1), np.array([2, -1]), np.zeros((2, 3), np.float32), expect=[[0.1, 0.1, 0.9], [0, 0, 0]]),
]  # fmt: skip

test_cases = run_cases(CASES)


def test_messages() -> None:
    x, y = Spec((2, 3, 4), np.dtype(np.float32)), Spec((2, 5), np.dtype(np.int64))
    with pytest.raises(ModelError, match=r"labels are int64\(2, 5\), scores float32\(2, 3, 4\): wanted \[2, 4\]"):
        SoftmaxCrossEntropyLoss().infer(x, y)
    with pytest.raises(ModelError, match="labels from 0 to 3, there are 3 classes"):
        SoftmaxCrossEntropyLoss().reference(np.zeros((2, 3)), np.array([0, 3]))
    with pytest.raises(ModelError, match="reduction is 'average'"):
        SoftmaxCrossEntropyLoss(reduction="average").infer(x, Spec((2, 4), y.dtype))


def test_a_label_that_is_no_class_makes_nan() -> None:
    """Kernels cannot raise; memory they must not leave."""
    from nbconv.graph import Graph, Node
    from nbconv.model import Model

    node = Node(SoftmaxCrossEntropyLoss(), ("x", "y"), ("loss",))
    ports = {"x": Spec((2, 3), np.dtype(np.float32)), "y": Spec((2,), np.dtype(np.int64))}
    model = Model(Graph([node], ports, {"loss": None}, {}))
    assert not model.plan({"x": (2, 3), "y": (2,)}).numpy_steps()
    assert np.isnan(model.run({"x": np.zeros((2, 3), np.float32), "y": np.array([0, 1 << 40])})["loss"])
