"""Limits of gradients in the call, and gradients and parameters that are not finite, told by name."""

from __future__ import annotations

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Spec
from tests.train.models import F32, batch, mlp, model, node

X, Y = batch(12)


@pytest.mark.parametrize("limits", [{"clip_norm": 0.1}, {"clip_value": 0.02}, {"clip_norm": 0.1, "clip_value": 0.02}])
def test_in_the_call(limits: dict) -> None:
    """They are those of the optimizer, from that `fit` on."""
    one = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.5, **limits))
    two = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.5))
    without = {n: a.copy() for n, a in two.state.items()}
    one.fit((X, Y), epochs=2, batch_size=5)
    two.fit((X, Y), epochs=2, batch_size=5, **limits)
    for name, value in one.state.items():
        np.testing.assert_array_equal(two.state[name], value, err_msg=name)
    assert any((two.state[n] != a).any() for n, a in without.items())
    with pytest.raises(ValueError, match="clip_norm is 0, wanted a positive number"):
        two.fit((X, Y), clip_norm=0)


def test_they_change_after_steps() -> None:
    """A step planned before has the limits of a later `fit`."""
    trainer = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(1.0))
    trainer.step(X, Y)
    before = {n: a.copy() for n, a in trainer.state.items()}
    trainer.fit((X, Y), batch_size=12, clip_norm=0.01)
    moved = sum(((trainer.state[n] - a) ** 2).sum() for n, a in before.items())
    assert np.sqrt(moved) == pytest.approx(0.01, rel=1e-3)


def root() -> Graph:
    """Two layers and a square root between them, whose gradient at 0 is infinite."""
    graph = mlp()
    graph.constants["w1"] = np.zeros((8, 16), F32)
    nodes = [*graph.nodes[:2], node("Sqrt", "h", "s", "root"), node("Gemm", "s w2 b2", "y", "fc2", transB=1)]
    return Graph(nodes, graph.inputs, graph.outputs, graph.constants)


def test_gradients_by_name() -> None:
    """With clip_norm they are looked at before the step, which is not taken; without, the lost parameter is named."""
    trainer = nbconv.Trainer(model(root()), optimizer=nbconv.SGD(0.1, clip_norm=1.0))
    before = {n: a.copy() for n, a in trainer.state.items()}
    with pytest.raises(nbconv.NonFiniteLoss, match=r"the gradient of 'w1' holds NaN or infinity .* at step 1, .* not taken"):
        trainer.step(X, Y)
    for name, value in before.items():
        np.testing.assert_array_equal(trainer.state[name], value, err_msg=name)
    trainer = nbconv.Trainer(model(root()), optimizer=nbconv.SGD(0.1))
    trainer.step(X, Y)
    with pytest.raises(
        nbconv.NonFiniteLoss, match=r"the loss is nan at step 2, .*'.1' .*holds NaN or infinity, by an earlier step"
    ):
        trainer.step(X, Y)


def test_a_norm_beyond_float32() -> None:
    """It would make all gradients 0, and the step none."""
    graph = Graph(
        [node("MatMul", "x w", "y", "fc")],
        {"x": Spec(("n", 4), F32)},
        {"y": Spec(("n", 2), F32)},
        {"w": np.ones((4, 2), F32)},
    )
    trainer = nbconv.Trainer(model(graph), "l1", optimizer=nbconv.SGD(0.1, clip_norm=1.0))
    with pytest.raises(nbconv.NonFiniteLoss, match="the norm of gradients is beyond float32, most of it that of 'w'"):
        trainer.step(np.full((3, 4), 1e25, F32), np.zeros((3, 2), F32))


def test_a_rate_that_diverges() -> None:
    trainer = nbconv.Trainer(model(mlp()), "mse", optimizer=nbconv.SGD(1e6))
    with pytest.raises(nbconv.NonFiniteLoss, match=r"lr_find suggests one|by an earlier step: clip_norm"):
        trainer.fit((X, np.eye(3, dtype=F32)[Y]), epochs=50)
