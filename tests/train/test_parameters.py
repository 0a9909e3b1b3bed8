"""What trains is what the loss depends on: parameters are found by use, and what is none of them is told, and why."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

import nbconv
from nbconv.edit.parameters import constants_of, parameters
from nbconv.edit.selection import select
from nbconv.graph import Graph, Node, Spec
from nbconv.tools.gradcheck import evaluate
from tests.train.models import F32, batch, convolutional, mlp, model, node

WIDE = 6
I64 = np.dtype(np.int64)


class Maker:
    """A graph that grows: values are (n, WIDE)."""

    def __init__(self, seed: int) -> None:
        self.rng, self.numbers = np.random.default_rng(seed), count()
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def c(self, *shape: int, scale: float = 0.5, shift: float = 0.0, dtype: type = np.float32) -> str:
        return self.value((self.rng.standard_normal(shape) * scale + shift).astype(dtype))

    def value(self, array: np.ndarray) -> str:
        name = f"c{next(self.numbers)}"
        self.constants[name] = np.asarray(array)
        return name

    def add(self, op: str, *inputs: str, **fields) -> str:
        name = f"v{next(self.numbers)}"
        self.nodes.append(node(op, " ".join(inputs), name, f"{op}_{name}", **fields))
        return name


def number(m: Maker, v: float) -> str:
    return m.value(np.array(v, F32))


def standardised(m: Maker, x: str) -> str:
    w, axes = m.c(WIDE, WIDE), m.value(np.array([0]))
    centred = m.add("Sub", w, m.add("ReduceMean", w, axes))
    spread = m.add("Sqrt", m.add("Add", m.add("ReduceMean", m.add("Mul", centred, centred), axes), number(m, 1e-5)))
    return m.add("MatMul", x, m.add("Mul", m.add("Div", centred, spread), m.c(1, WIDE, shift=1.0)))


def normed(m: Maker, x: str) -> str:
    axes = m.value(np.array([-1]))
    centred = m.add("Sub", x, m.add("ReduceMean", x, axes))
    var = m.add("ReduceMean", m.add("Pow", centred, number(m, 2.0)), axes)
    y = m.add("Div", centred, m.add("Sqrt", m.add("Add", var, number(m, 1e-5))))
    return m.add("Add", m.add("Mul", y, m.c(WIDE, shift=1.0)), m.c(WIDE))


def weight_norm(m: Maker, x: str) -> str:
    v = m.c(WIDE, WIDE)
    size = m.add("ReduceL2", v, m.value(np.array([0])))
    return m.add("MatMul", x, m.add("Mul", m.add("Div", v, size), m.c(1, WIDE, shift=1.0)))


def gelu(m: Maker, x: str) -> str:
    inner = m.add("Add", m.add("Erf", m.add("Mul", x, number(m, 0.7071))), number(m, 1.0))
    return m.add("Mul", m.add("Mul", x, inner), number(m, 0.5))


def table(m: Maker, x: str) -> str:
    rows = m.add("Gather", m.c(9, WIDE), "ids")
    return m.add("Add", x, m.add("ReduceMean", rows, m.value(np.array([1])), keepdims=0))


def token(m: Maker, x: str) -> str:
    kept = m.add("Slice", x, m.value(np.array([0])), m.value(np.array([4])), m.value(np.array([1])))
    shape = m.add("Concat", "n", m.value(np.array([2])), axis=0)
    return m.add("Concat", kept, m.add("Expand", m.c(1, 2), shape), axis=1)


def tied(m: Maker, x: str) -> str:
    w = m.c(WIDE, WIDE)
    return m.add("MatMul", m.add("Tanh", m.add("MatMul", x, w)), m.add("Transpose", w, perm=(1, 0)))


def halved(m: Maker, x: str) -> str:
    """One weight of float16 that two nodes convert."""
    w = m.c(WIDE, WIDE, dtype=np.float16)
    y = m.add("MatMul", x, m.add("Cast", w, to=1))
    return m.add("MatMul", m.add("Tanh", y), m.add("Cast", w, to=1))


def masked(m: Maker, x: str) -> str:
    mask = np.where(np.arange(WIDE) % 3 == 0, -1e4, 0).astype(F32)
    return m.add("Softmax", m.add("Add", m.add("MatMul", x, m.c(WIDE, WIDE)), m.value(mask)))


BLOCKS: list[Callable[[Maker, str], str]] = [
    lambda m, x: m.add("Gemm", x, m.c(WIDE, WIDE), m.c(WIDE)),
    lambda m, x: m.add("Add", m.c(1, WIDE), m.add("MatMul", x, m.c(WIDE, WIDE))),
    lambda m, x: m.add("Transpose", m.add("MatMul", m.c(WIDE, WIDE), m.add("Transpose", x, perm=(1, 0))), perm=(1, 0)),
    lambda m, x: m.add("MatMul", x, m.add("MatMul", m.c(WIDE, 2), m.c(2, WIDE))),
    lambda m, x: m.add("Sub", m.c(WIDE), x),
    lambda m, x: m.add("Mul", m.add("Mul", x, m.c(WIDE, shift=1.0)), number(m, 0.7)),
    lambda m, x: m.add("Div", x, m.c(WIDE, scale=0.1, shift=1.5)),
    lambda m, x: m.add("Pow", m.add("Add", m.add("Abs", x), number(m, 0.5)), m.c(WIDE, scale=0.2, shift=1.0)),
    lambda m, x: m.add("PRelu", x, m.c(WIDE, shift=0.2)),
    lambda m, x: m.add("Max", x, m.c(WIDE)),
    lambda m, x: m.add("Clip", x, number(m, -2.0), number(m, 2.0)),
    lambda m, x: m.add("Mul", x, m.add("Sigmoid", m.c(WIDE))),
    lambda m, x: m.add("Add", x, m.add("Unsqueeze", m.c(WIDE), m.value(np.array([0])))),
    lambda m, x: m.add("MatMul", x, m.add("Reshape", m.c(WIDE * WIDE), m.value(np.array([WIDE, WIDE])))),
    lambda m, x: m.add("Mul", x, m.add("Floor", m.c(WIDE, shift=2.3))),
    standardised, normed, weight_norm, gelu, table, token, tied, halved, masked,
]  # fmt: skip


def random_graph(seed: int) -> Graph:
    m = Maker(seed)
    x = m.add("MatMul", "x", m.c(WIDE, WIDE))
    m.nodes.append(node("Shape", "x", "n", "n", end=1))
    for k in m.rng.choice(len(BLOCKS), 5, replace=False):
        x = BLOCKS[k](m, m.add("Tanh", x))
    m.nodes.append(node("Identity", x, "y", "end"))
    inputs = {"x": Spec(("n", WIDE), F32), "ids": Spec(("n", 3), I64)}
    return Graph(m.nodes, inputs, {"y": Spec(("n", WIDE), F32)}, m.constants)


@pytest.mark.parametrize("seed", range(14))
def test_found_by_use(seed: int) -> None:
    """Each initializer on which the loss depends is a parameter, or has a reason; a step of SGD moves each parameter by its
    derivative."""
    graph, rng = random_graph(seed), np.random.default_rng(seed)
    feeds = {"x": rng.standard_normal((5, WIDE)).astype(F32), "ids": rng.integers(0, 9, (5, 3))}
    targets = rng.standard_normal((5, WIDE)).astype(F32)
    known = {c.parameter.name: c for c in constants_of(graph)}
    trainer = nbconv.Trainer(model(graph), loss="mse", optimizer=nbconv.SGD(1e-2))
    trains = {p.name: p.value for p in trainer.parameters}
    assert len(trains) == len(trainer.parameters)
    before = {n: trainer.state[v].copy() for n, v in trains.items()}
    trainer.step(feeds, targets)

    def loss(name: str, way: np.ndarray, t: float) -> float:
        moved = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in graph.constants.items()}
        moved[name] = moved[name] + t * way
        plain = [Node(n.op, n.inputs, n.outputs, n.name) for n in graph.nodes if n.op.type != "Cast"]
        same = {n.outputs[0]: n.inputs[0] for n in graph.nodes if n.op.type == "Cast"}
        plain = [Node(n.op, tuple(same.get(i, i) for i in n.inputs), n.outputs, n.name) for n in plain]
        found = evaluate(Graph(plain, graph.inputs, graph.outputs, moved), dict(feeds))["y"]
        return float(((found - targets) ** 2).mean())

    for name, array in graph.constants.items():
        if array.dtype.kind != "f":
            continue
        way = rng.standard_normal(array.shape)
        slope = (loss(name, way, 1e-6) - loss(name, way, -1e-6)) / 2e-6
        if abs(slope) > 1e-6:
            assert name in known and (name in trains or known[name].why), name
        if name in trains:
            change = (trainer.state[trains[name]].astype(np.float64) - before[name]) / -1e-2
            scale = np.abs(change * way).sum()
            assert abs((change * way).sum() - slope) <= 2e-3 * scale + 2e-5, name
            if abs(slope) > 1e-3:
                assert change.any(), name
        else:
            told = known[name].why  # Floor makes whole numbers, and has a gradient of 0
            assert array.size == 1 or told == "a mask" or (abs(slope) < 1e-6 and "whole" in told), known[name]


def test_why_constants_are_none() -> None:
    """What stands beside weights in models, and trains only where its name is given."""
    rng = np.random.default_rng(0)
    at = rng.random((1, 1, 4, 6))
    c = {
        "mean": rng.random((1, 3, 1, 1)), "w": rng.standard_normal((6, 3, 1, 1)), "eps": np.array(1e-5),
        "gain": rng.random((6, 1, 1)), "grid": np.arange(24.0).reshape(1, 1, 4, 6), "cos": np.cos(at), "sin": np.sin(at),
        "mask": np.where(np.eye(6) > 0, 0.0, -np.inf)[None, None], "low": np.array(-3.0), "bias": rng.random((1, 6, 1, 1)),
        "w2": rng.standard_normal((6, 6, 1, 1)), "scales": np.array([1, 1, 2.0, 2.0]), "anchors": rng.random((1, 6, 8, 12)),
    }  # fmt: skip
    nodes = [
        node("Sub", "x mean", "a", "preprocess"), node("Conv", "a w", "b", "conv"), node("Mul", "b gain", "d", "gain"),
        node("Add", "d eps", "e", "eps"), node("Mul", "e cos", "f1", "f1"), node("Neg", "e", "g", "neg"),
        node("Mul", "g sin", "f2", "f2"), node("Add", "f1 f2", "f", "rotation"), node("Add", "f grid", "h", "grid"),
        node("Transpose", "h", "ht", "turn", perm=(0, 1, 3, 2)), node("MatMul", "ht h", "hh", "product"),
        node("Add", "hh mask", "i", "mask"), node("Clip", "i low", "j", "clip"), node("Conv", "j w2", "k0", "conv2"),
        node("Add", "k0 bias", "k", "bias"),
        node("Resize", "k  scales", "l", "resize"), node("Slice", "l from to axes", "l2", "cut"),
        node("Add", "l2 anchors", "y", "anchors"),
    ]  # fmt: skip
    nodes[-3] = Node(nodes[-3].op, ("k", "", "scales"), ("l",), "resize")
    constants = {n: np.asarray(a, F32) for n, a in c.items()}
    constants |= {"from": np.array([0]), "to": np.array([8]), "axes": np.array([2])}
    graph = Graph(nodes, {"x": Spec(("n", 3, 4, 6), F32)}, {"y": Spec(("n", 6, 8, 12), F32)}, constants)
    told = {x.parameter.name: x.why for x in constants_of(graph)}
    assert set(told) == set(c)
    assert [n for n in told if not told[n]] == ["w", "gain", "w2", "bias"]
    for name, why in {
        "mean": "prepares the input", "eps": "one number", "grid": "grid", "mask": "mask", "low": "setting of Clip",
        "scales": "setting of Resize", "anchors": "behind the last layer", "cos": "rotation", "sin": "rotation",
    }.items():  # fmt: skip
        assert why in told[name], (name, told[name])
    for name in ("mean", "eps", "cos"):
        assert [p.name for p in select(graph, [name])] == [name]
    assert [p.name for p in select(graph, "*")] == ["w", "gain", "w2", "bias"]
    with pytest.raises(ValueError, match="fits no parameter"):
        select(graph, ["nothing*"])


def test_statistics_cannot_be_named() -> None:
    graph = convolutional()
    assert {c.parameter.name for c in constants_of(graph) if c.why} == {"mean", "var"}
    with pytest.raises(ValueError, match="mean cannot train: a running statistic"):
        select(graph, ["mean"])


def test_models_that_were_complete_keep_their_parameters() -> None:
    """Names, order and depth."""
    assert [(p.name, p.depth) for p in parameters(mlp())] == [("w1", 1), ("b1", 1), ("w2", 0), ("b2", 0)]
    found = [(p.name, p.depth) for p in parameters(convolutional())]
    assert found == [("w1", 2), ("b1", 2), ("scale", 2), ("shift", 2), ("w2", 1), ("w3", 0), ("b3", 0)]


def test_tables_reach_the_file(tmp_path) -> None:
    """A text network: the table of words trains, and is saved."""
    rng = np.random.default_rng(2)
    nodes = [
        node("Gather", "words ids", "e", "embedding"), node("Transpose", "e", "t", "turn", perm=(0, 2, 1)),
        node("Conv", "t w b", "c", "conv"), node("Relu", "c", "r", "relu"), node("GlobalMaxPool", "r", "p", "pool"),
        node("Flatten", "p", "f", "flat"), node("Gemm", "f w2 b2", "y", "fc"),
    ]  # fmt: skip
    constants = {
        "words": rng.standard_normal((20, 5)), "w": rng.standard_normal((4, 5, 3)), "b": np.zeros(4),
        "w2": rng.standard_normal((4, 3)), "b2": np.zeros(3),
    }  # fmt: skip
    graph = Graph(
        nodes, {"ids": Spec(("n", 7), I64)}, {"y": Spec(("n", 3), F32)}, {n: a.astype(F32) for n, a in constants.items()}
    )
    ids, y = rng.integers(0, 19, (6, 7)), np.arange(6) % 3
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.1))
    assert [p.name for p in trainer.parameters] == ["words", "w", "b", "w2", "b2"]
    trainer.step({"ids": ids}, y)
    moved = (trainer.state["words"] != graph.constants["words"]).any(axis=1)
    assert moved.any() and not moved[[i for i in range(20) if i not in ids]].any()
    trainer.save(tmp_path / "m.onnx")
    again = nbconv.load(tmp_path / "m.onnx", threads=1)
    np.testing.assert_array_equal(again.graph.constants["words"], trainer.state["words"])
    np.testing.assert_array_equal(again.run({"ids": ids})["y"], trainer.predict({"ids": ids}))


def test_weights_standardised_by_a_batch_normalisation() -> None:
    """As PyTorch exports it: the norm is a function of weights, with no running statistics, and its gradient is turned
    before the update."""
    rng = np.random.default_rng(3)
    nodes = [
        node("ReduceMean", "w axes", "mean", "mean", keepdims=0),
        node("BatchNormalization", "w gain zero mean mean", "s", "standardise", training_mode=1),
        node("Reshape", "s shape", "w4", "as_filters"), node("Conv", "x w4 b", "c", "conv"), node("Relu", "c", "r", "relu"),
        node("GlobalAveragePool", "r", "p", "pool"), node("Flatten", "p", "f", "flat"), node("Gemm", "f w2 b2", "y", "fc"),
    ]  # fmt: skip
    floats = {
        "w": rng.standard_normal((1, 4, 18)), "gain": 0.5 + rng.random(4), "zero": np.zeros(4), "b": np.zeros(4),
        "w2": rng.standard_normal((4, 3)), "b2": np.zeros(3),
    }  # fmt: skip
    constants = {n: a.astype(F32) for n, a in floats.items()} | {"axes": np.array([0, 2]), "shape": np.array([4, 2, 3, 3])}
    graph = Graph(nodes, {"x": Spec(("n", 2, 7, 7), F32)}, {"y": Spec(("n", 3), F32)}, constants)
    trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.1))
    assert {p.name for p in trainer.parameters} == set(floats)
    x, y = batch(12, (2, 7, 7))
    losses = [trainer.step(x, y) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert all((trainer.state[n] != constants[n]).any() for n in floats)
    np.testing.assert_array_equal(trainer.graph().constants["w"], trainer.state["w"])
