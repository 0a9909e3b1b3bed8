"""A step that changes no parameter warns, once, and says why."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Spec
from nbconv.train.unchanged import UnchangedParameters
from tests.train.models import F32, batch, mlp, model, node


def told(trainer: nbconv.Trainer, x: np.ndarray, y: np.ndarray, steps: int = 4) -> list[str]:
    """The warnings of some steps."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(steps):
            trainer.step(x, y)
    return [str(w.message) for w in found if w.category is UnchangedParameters]


def dead() -> Graph:
    """`mlp` whose Relu lets nothing through, and whose last layer's weights are 0."""
    graph = mlp()
    constants = {**graph.constants, "b1": np.full(8, -1e3, F32), "b2": np.full(3, -1e3, F32)}
    return Graph([*graph.nodes[:-1], node("Gemm", "r w2 b2", "z", "fc2", transB=1), node("Relu", "z", "y", "end")],
                 graph.inputs, graph.outputs, constants)  # fmt: skip


def test_zero_gradients() -> None:
    (message,) = told(nbconv.Trainer(model(dead()), optimizer=nbconv.SGD(0.1)), *batch())
    assert message == "the step left all 4 parameters as before: all their gradients are 0"


def test_updates_below_rounding() -> None:
    (message,) = told(nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(1e-40), trainable=["w*"]), *batch())
    assert "below what float32 can add: the greatest gradient is " in message and "learning rate 1e-40" in message


def test_no_gradient() -> None:
    """Behind Floor."""
    graph = mlp(end="Floor")
    (message,) = told(
        nbconv.Trainer(model(graph), loss="mse", optimizer=nbconv.SGD(0.1)), batch()[0], np.zeros((12, 3), F32)
    )
    assert message.endswith("no gradient reaches them from the loss")


def test_later_too() -> None:
    """A net that learns at first, and then no more."""
    x, y = batch()
    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1))
    assert told(trainer, x, y) == []
    trainer.lr_scale = 0.0  # which is asked for
    assert told(trainer, x, y) == []
    trainer.lr_scale = 1e-40
    (message,) = told(trainer, x, y)
    assert "below what float32 can add" in message


def test_parameters_that_rest_are_no_reason_to_warn() -> None:
    """Rows of a table that no batch looks up, steps in parts, sparse gradients."""
    rng = np.random.default_rng(0)
    constants = {"words": rng.standard_normal((600, 3)).astype(F32), "w": np.zeros((3, 3), F32)}
    nodes = [node("Gather", "words ids", "e", "words"), node("MatMul", "e w", "y", "fc")]
    graph = Graph(nodes, {"ids": Spec(("n",), np.dtype(np.int64))}, {"y": Spec(("n", 3), F32)}, constants)
    constants["w"] = rng.standard_normal((3, 3)).astype(F32)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.5), trainable=["words"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnchangedParameters)
        for k in range(6):
            trainer.step({"ids": np.array([599 - k])}, np.array([0]))
    x, y = batch()
    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnchangedParameters)
        for _ in range(3):
            while trainer.step(x, y, budget_ms=0.01) is None:
                pass


def test_who_calls_is_named() -> None:
    with pytest.warns(UnchangedParameters) as found:
        nbconv.Trainer(model(dead()), optimizer=nbconv.SGD(0.1)).step(*batch())
    assert found[0].filename == __file__
