"""Weights that an epoch leaves as they were are told; trainings that go well say nothing."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest

import nbconv
from nbconv.graph import Graph, Node, Spec
from nbconv.ops import lookup
from nbconv.train.still import IdleWeights

F32 = np.float32


def mlp(sizes: tuple[int, ...], between: str, scale: float, bias: float = 0.0) -> nbconv.Model:
    """Gemm layers of these sizes, ``between`` them an activation; the biases of all but the last are ``bias``."""
    rng, nodes, constants, x = np.random.default_rng(0), [], {}, "x"
    for i, (n, m) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        constants[f"w{i}"] = (rng.standard_normal((n, m)) * scale / np.sqrt(n)).astype(F32)
        constants[f"b{i}"] = np.full(m, 0.0 if last else bias, F32)
        y = "y" if last else f"z{i}"
        nodes.append(Node(lookup("Gemm")(), (x, f"w{i}", f"b{i}"), (y,), f"layer{i}"))
        if not last:
            nodes.append(Node(lookup(between)(), (y,), (f"a{i}",), f"act{i}"))
            x = f"a{i}"
    return nbconv.Model(Graph(nodes, {"x": Spec(("n", sizes[0]), F32)}, {"y": None}, constants))


def blobs(features: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 240)
    return (rng.standard_normal((240, features)) * 0.3 + np.eye(3, features)[y]).astype(F32), y


def told(model: nbconv.Model, optimizer: nbconv.SGD | nbconv.Adam, **options: object) -> list[str]:
    """The warnings of three epochs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nbconv.Trainer(model, optimizer=optimizer, **options).fit(blobs(model.inputs[0].shape[1]), epochs=3, batch_size=16)
    return [str(w.message) for w in caught if issubclass(w.category, IdleWeights)]


@pytest.mark.parametrize("optimizer", [
    nbconv.SGD(lr=0.05), nbconv.SGD(lr=0.05, weight_decay=1e-3), nbconv.Adam(1e-2), nbconv.Adam(1e-2, weight_decay=1e-3),
])  # fmt: skip
def test_dead_units(optimizer: nbconv.SGD | nbconv.Adam) -> None:
    """Of the units whose biases are far below 0 none gets a gradient: told by layer and number, once."""
    model = mlp((6, 16, 3), "Relu", 1.0)
    bias = model.graph.constants["b0"].copy()
    bias[:11] = -50
    model = nbconv.Model(model.graph.derive(model.graph.nodes, {**model.graph.constants, "b0": bias}))
    found = told(model, optimizer)
    if optimizer.weight_decay and isinstance(optimizer, nbconv.Adam):
        assert found == []  # the L2 part is a gradient, whose size Adam makes 1
    else:
        assert len(found) == 1
        assert "11 of 16 units of 'layer0'" in found[0]


def test_no_rectifier_no_dead_units() -> None:
    """Rows that nothing reads are as before, too, but nothing is dead behind a Sigmoid."""
    model = mlp((6, 16, 3), "Sigmoid", 1.0)
    weight = model.graph.constants["w1"].copy()
    weight[:11] = 0
    frozen = nbconv.Model(model.graph.derive(model.graph.nodes, {**model.graph.constants, "w1": weight}))
    assert told(frozen, nbconv.SGD(lr=0.05), trainable=["w0"]) == []


def test_vanishing_gradients() -> None:
    """Ten sigmoids with small weights: the first layers stay as they are, the last learns."""
    (message,) = told(mlp((6, *[8] * 10, 3), "Sigmoid", 0.3), nbconv.SGD(lr=0.5))
    assert "from the input on: 'w0', 'w1'" in message
    assert "vanish" in message


@pytest.mark.parametrize("optimizer", [nbconv.SGD(lr=0.1, momentum=0.9), nbconv.Adam(1e-3)])
@pytest.mark.parametrize(("between", "depth"), [("Relu", 1), ("Relu", 6), ("Sigmoid", 1), ("Tanh", 5), ("LeakyRelu", 8)])
def test_what_goes_well_says_nothing(between: str, depth: int, optimizer: nbconv.SGD | nbconv.Adam) -> None:
    assert told(mlp((6, *[16] * depth, 3), between, 2**0.5), optimizer) == []


def test_frozen_and_chosen_parts_say_nothing() -> None:
    """Only what trains is looked at."""
    assert told(mlp((6, 16, 16, 3), "Relu", 1.4), nbconv.SGD(lr=0.1), trainable="head") == []
    assert told(mlp((6, 16, 16, 3), "Relu", 1.4), nbconv.SGD(lr=0.1), lr_decay=1e-3) == []
