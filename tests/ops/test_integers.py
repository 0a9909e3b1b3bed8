"""Kernels of int32 and int64: the reference's bits, at the extremes too."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup
from tests.ops.test_storage import STORED, check, op, values

KINDS = [np.dtype(np.int32), np.dtype(np.int64)]
PAIRS = [
    "Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
]  # fmt: skip
SHAPES = [((2, 3, 5, 7), (2, 3, 5, 7)), ((2, 3, 5, 7), (7,)), ((4, 1, 3), (2, 1)), ((), (9,)), ((20000,), (20000,)),
          ((2, 1, 3, 1, 5), (1, 4, 1, 6, 1))]  # fmt: skip


def draw(dtype: np.dtype, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Small numbers, with 0, -1 and the type's extremes among them."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 10, shape).astype(dtype)
    flat = x.reshape(-1)
    some = rng.random(flat.size) < 0.2
    flat[some] = rng.choice(np.array([0, -1, 1, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype), some.sum())
    return x


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_pairs(kind: str, dtype: np.dtype) -> None:
    for seed, (a, b) in enumerate(SHAPES):
        given = draw(dtype, a, seed), draw(dtype, b, seed + 50)
        with np.errstate(all="ignore"):
            check(op(kind), *given, fed=2, differs=kind in ("Div", "Mod"))
            check(op(kind), *given, fed=1, differs=kind in ("Div", "Mod"))
    if kind == "Mod":
        with np.errstate(all="ignore"):
            check(op(kind, fmod=1), draw(dtype, (999,), 1), draw(dtype, (999,), 2), fed=2, differs=True)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_extremes_of_many(dtype: np.dtype) -> None:
    many = [draw(dtype, shape, seed) for seed, shape in enumerate([(3, 4), (4,), (2, 1, 1), (3, 1)])]
    for kind in ("Max", "Min"):
        for count in (1, 2, 3, 4):
            check(op(kind), *many[:count], fed=count)


@pytest.mark.parametrize("dtype", [*STORED, np.dtype(np.float32)], ids=str)
def test_where(dtype: np.dtype) -> None:
    mask = np.random.default_rng(0).random((3, 5, 7)) < 0.5
    check(op("Where"), mask, values(dtype, 2, 3, 5, 7), values(dtype, 7), fed=3)
    check(op("Where"), mask[:1, :1], values(dtype, 5, 1), values(dtype, 1), fed=1)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_clip(dtype: np.dtype) -> None:
    x = draw(dtype, (2, 3, 4, 5), 3)
    x.reshape(-1)[:4] = [2**24 + 1, 2**31 - 2, np.iinfo(dtype).max - 1, np.iinfo(dtype).min + 1]
    limits = [np.array(v, dtype) for v in (-3, 7, np.iinfo(dtype).max - 2)]
    check(op("Clip"), x, limits[0], limits[1])
    check(op("Clip"), x, None, limits[2])
    check(op("Clip"), x, limits[1], limits[0])
    check(op("Clip"), x)


def test_between_floats() -> None:
    """Integers between convolutions' values: no clamp is fused into them, nothing lies channels last."""
    nodes = [
        Node(lookup("MaxPool")(kernel_shape=(2, 2)), ("x",), ("pooled",)),
        Node(lookup("Cast")(to=7), ("pooled",), ("whole",)),
        Node(lookup("Add")(), ("whole", "one"), ("more",)),
        Node(lookup("Relu")(), ("more",), ("positive",)),
        Node(lookup("Cast")(to=1), ("positive",), ("back",)),
        Node(lookup("MaxPool")(kernel_shape=(2, 2)), ("back",), ("y",)),
    ]
    x = 9 * np.random.default_rng(1).standard_normal((1, 3, 6, 7)).astype(np.float32)
    graph = Graph(nodes, {"x": Spec(x.shape, x.dtype)}, {"y": None}, {"one": np.arange(3).reshape(3, 1, 1)})
    model = Model(graph)
    assert not model.plan({"x": x.shape}).numpy_steps()
    values = {"x": x, "one": graph.constants["one"]}
    for node in nodes:
        found = node.op.reference(*(values[n] for n in node.inputs))
        values[node.outputs[0]] = found[0] if isinstance(found, tuple) else found
    np.testing.assert_array_equal(model.run({"x": x})["y"], values["y"])
