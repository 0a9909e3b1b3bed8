"""Dropout in training."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops.dropout import Dropout, TrainingDropout
from nbconv.ops.rectifier import Relu
from nbconv.train.dropout import with_dropout
from tests.check import case, run_cases, sampler

r = sampler(41)
STEP = np.array(3)

CASES = [
    case(TrainingDropout(), r(2, 3, 7, 5), STEP),
    case(TrainingDropout(ratio=0.2, seed=5, stream=2), r(3, 4099), STEP),
    case(TrainingDropout(ratio=0.0), r(5), STEP),
    case(TrainingDropout(ratio=0.9), r(5, 1), np.float32(70000).reshape(())),
    case(TrainingDropout(), r(0, 3), STEP),
    case(TrainingDropout(ratio=0.75), [1.0, np.nan, np.inf, -1.0], np.array(0), expect=[0, 0, np.inf, 0]),
]

test_cases = run_cases(CASES)


def test_share() -> None:
    x = np.ones((400, 500), np.float32)
    for ratio in (0.1, 0.5, 0.8):
        y = TrainingDropout(ratio=ratio, seed=9).reference(x, STEP)
        assert abs((y == 0).mean() - ratio) < 0.005
        np.testing.assert_allclose(y[y != 0], 1 / (1 - ratio), rtol=1e-6)


def test_step_and_stream_change_the_mask() -> None:
    x = np.ones(1000, np.float32)
    base = TrainingDropout().reference(x, STEP)
    assert (TrainingDropout().reference(x, np.array(4)) != base).any()
    assert (TrainingDropout(stream=1).reference(x, STEP) != base).any()
    assert (TrainingDropout(seed=1).reference(x, STEP) != base).any()


def test_seeds_that_numpy_lacks() -> None:
    x, ratio, training = np.ones(1000, np.float32), np.array(0.5, np.float32), np.array(True)
    y, kept = Dropout(seed=-1).reference(x, ratio, training)
    np.testing.assert_array_equal(Dropout(seed=-1).reference(x, ratio, training)[1], kept)
    np.testing.assert_array_equal(y, 2 * kept)
    assert (Dropout(seed=-2).reference(x, ratio, training)[1] != kept).any()


def graph(**dropout: object) -> Graph:
    nodes = [
        Node(Relu(), ("x",), ("a",)),
        Node(Dropout(**dropout), ("a", "ratio"), ("b",)),
        Node(Dropout(), ("b",), ("y",)),
    ]
    ports = {"x": Spec((4, 6), np.dtype(np.float32)), "step": Spec((), np.dtype(np.int64))}
    return Graph(nodes, ports, {"y": None}, {"ratio": np.array(0.25, np.float32)})


def test_with_dropout() -> None:
    made = with_dropout(graph(seed=6), "step", seed=11)
    first, second = made.nodes[1].op, made.nodes[2].op
    assert repr(first) == "TrainingDropout(ratio=0.25, seed=6)"
    assert repr(second) == "TrainingDropout(seed=11, stream=1)"
    model = Model(made)
    assert not model.plan({"x": (4, 6), "step": ()}).numpy_steps()
    x = np.abs(r(4, 6))
    got = model.run({"x": x, "step": STEP})["y"]
    np.testing.assert_array_equal(got, second.reference(first.reference(x, STEP), STEP))


def test_messages() -> None:
    with pytest.raises(ModelError, match=r"ratio is 1\.0, wanted from 0 up to 1"):
        TrainingDropout(ratio=1.0).infer(Spec((2,), np.dtype(np.float32)), Spec((), np.dtype(np.int64)))
    masked = graph()
    masked.nodes[1] = Node(Dropout(), ("a", "ratio"), ("b", "mask"), "drop")
    masked.outputs["mask"] = None
    with pytest.raises(UnsupportedError, match="drop \\(Dropout\\): its mask is read"):
        with_dropout(masked, "step", 0)
