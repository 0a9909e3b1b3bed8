"""The training step: what it returns, what it writes and when; convolutional nets against their references."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.lowering.weights import Weights
from nbconv.ops import lookup
from nbconv.passes.autodiff import backprop
from nbconv.passes.fold import fold
from nbconv.train.step import TrainingStep

F32 = np.dtype(np.float32)
RNG = np.random.default_rng(5)


def op(kind: str, **fields):
    return lookup(kind)(**fields)


def net() -> tuple[Graph, dict[str, np.ndarray]]:
    """Convolution, batch norm, depthwise, a residual, pooling, a linear layer."""
    nodes = [
        Node(op("Conv", pads=(1, 1, 1, 1)), ("x", "w1"), ("c1",)),
        Node(op("BatchNormalization", training_mode=1), ("c1", "s1", "b1", "m1", "v1"), ("n1", "new_m1", "new_v1")),
        Node(op("Relu"), ("n1",), ("r1",)),
        Node(op("Conv", pads=(1, 1, 1, 1), group=20), ("r1", "w2", "b2"), ("c2",)),
        Node(op("Add"), ("c2", "r1"), ("a2",)),
        Node(op("Relu"), ("a2",), ("r2",)),
        Node(op("MaxPool", kernel_shape=(2, 2), strides=(2, 2)), ("r2",), ("p2",)),
        Node(op("Conv", pads=(1, 1, 1, 1)), ("p2", "w3", "b3"), ("c3",)),
        Node(op("Relu"), ("c3",), ("r3",)),
        Node(op("GlobalAveragePool"), ("r3",), ("g",)),
        Node(op("Flatten"), ("g",), ("f",)),
        Node(op("Gemm", transB=1), ("f", "w4", "b4"), ("logits",)),
        Node(op("SoftmaxCrossEntropyLoss"), ("logits", "labels"), ("loss",)),
    ]

    def r(*shape: int) -> np.ndarray:
        return (RNG.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)

    state = {
        "w1": r(20, 3, 3, 3), "s1": r(20) + 1, "b1": r(20), "m1": np.zeros(20, np.float32), "v1": np.ones(20, np.float32),
        "w2": r(20, 1, 3, 3), "b2": r(20), "w3": r(24, 20, 3, 3), "b3": r(24), "w4": r(5, 24), "b4": r(5),
    }  # fmt: skip
    inputs = {"x": Spec((4, 3, 12, 10), F32), "labels": Spec((4,), np.dtype(np.int64)), "lr": Spec((), F32)}
    inputs |= {n: Spec(a.shape, a.dtype) for n, a in state.items()}
    return Graph(nodes, inputs, {"loss": None}, {}), state


def training(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph with gradients and plain updates p - lr·g."""
    graph, specs, _ = fold(graph, dict(graph.inputs), Weights(), frozenset(("loss",)))
    graph = graph.derive(graph.nodes, {**graph.constants, "one": np.ones((), np.float32)})
    specs["one"] = Spec((), F32)
    wrt = [n for n in graph.inputs if n[0] in "wsb"]
    graph, _, gradients = backprop(graph, specs, {"loss": "one"}, wrt)
    nodes, updates = list(graph.nodes), {"m1": "new_m1", "v1": "new_v1"}
    for name, gradient in gradients.items():
        nodes.append(Node(op("Mul"), (gradient, "lr"), (f"{name}/change",)))
        nodes.append(Node(op("Sub"), (name, f"{name}/change"), (f"{name}/new",)))
        updates[name] = f"{name}/new"
    return graph.derive(nodes), updates


def made(threads: int = 1, **options) -> tuple[TrainingStep, Graph, dict[str, str], dict[str, np.ndarray]]:
    global RNG
    RNG = np.random.default_rng(5)
    authored, state = net()
    graph, updates = training(authored)
    feeds = {n: s for n, s in authored.inputs.items() if n not in state}
    return TrainingStep(graph, feeds, state, updates, ("loss",), threads=threads, **options), graph, updates, state


def batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((4, 3, 12, 10)).astype(np.float32), "labels": rng.integers(0, 5, 4)}


def reference(graph: Graph, updates: dict[str, str], state: dict, feeds: dict) -> tuple[float, dict]:
    values = {n: a.astype(np.float64) if a.dtype == F32 else a for n, a in {**graph.constants, **state, **feeds}.items()}
    for node in graph.nodes:
        found = node.op.reference(*(values[n] if n else None for n in node.inputs))
        values.update(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
    return float(values["loss"]), {n: values[v] for n, v in updates.items()}


def test_steps_are_the_references() -> None:
    step, graph, updates, state = made()
    assert not step.plan.numpy_steps()
    for i in range(3):
        feeds = {**batch(i), "lr": np.array(0.1, np.float32)}
        loss, want = reference(graph, updates, dict(state), feeds)
        found = step.run(batch(i), {"lr": 0.1})
        assert found is not None
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
        for name, value in want.items():
            np.testing.assert_allclose(state[name], value, rtol=0, atol=2e-5 * np.abs(value).max(), err_msg=name)


def test_bits_do_not_depend_on_threads_or_budget() -> None:
    one, two, slow = made(1), made(2), made(1)
    for i in range(2):
        losses = [made_[0].run(batch(i), {"lr": 0.1}) for made_ in (one, two)]
        found, turns = None, 0
        while found is None:
            before = {n: a.copy() for n, a in slow[3].items()}
            found = slow[0].run(batch(i), {"lr": 0.1}, budget_ms=0.05)
            if found is None:
                assert all(np.array_equal(a, slow[3][n]) for n, a in before.items()), "state changed before the end"
            turns += 1
        assert turns > 1
        assert losses[0]["loss"].tobytes() == losses[1]["loss"].tobytes() == found["loss"].tobytes()  # pyright: ignore
    for name, a in one[3].items():
        assert a.tobytes() == two[3][name].tobytes() == slow[3][name].tobytes(), name


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    step, _, _, state = made()
    before = {n: a.copy() for n, a in state.items()}
    feeds = batch(0)
    feeds["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan"):
        step.run(feeds, {"lr": 0.1})

    def refuse(outputs: dict[str, np.ndarray]) -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        step.run(batch(0), {"lr": 0.1}, refuse)
    assert all(np.array_equal(a, state[n]) for n, a in before.items())


def test_bad_input() -> None:
    step, *_ = made()
    with pytest.raises(ValueError, match="no value given for 'lr'"):
        step.run(batch(0))
    with pytest.raises(ValueError, match=r"'x' is float32\(1, 3, 12, 10\), the step is planned for"):
        step.run({**batch(0), "x": np.zeros((1, 3, 12, 10), np.float32)}, {"lr": 0.1})
    with pytest.raises(ModelError, match=r"memory_mb is 0\.01"):
        made(memory_mb=0.01)
