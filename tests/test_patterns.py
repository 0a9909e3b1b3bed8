"""What exporters write in several nodes becomes one, where it is exactly that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Node
from nbconv.model import Model
from tests.test_fusing import run
from tests.test_passes import graph, node, r

HALF, ONE, ROOT = np.float32(0.5), np.float32(1), np.float32(np.sqrt(2))
SLOPE, CUBIC = np.float32(np.sqrt(2 / np.pi)), np.float32(0.044715)
CONSTANTS: dict[str, Any] = {
    "half": HALF, "one": ONE, "two": np.float32(2), "root": ROOT, "inverse": ONE / ROOT, "slope": SLOPE, "cubic": CUBIC,
    "three": np.float32(3), "row": np.full(1, 0.5, np.float32),
}  # fmt: skip
ERF = [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a")]
CUBE = [
    node("Pow", "x three", "p"), node("Mul", "p cubic", "q"), node("Add", "x q", "s"), node("Mul", "s slope", "d"),
    node("Tanh", "d", "e"), node("Add", "one e", "a"),
]  # fmt: skip
GELUS = {
    "half last": [*ERF, node("Mul", "x a", "m"), node("Mul", "m half", "y")],
    "half of x": [*ERF, node("Mul", "x row", "h"), node("Mul", "h a", "y")],
    "half first": [*ERF, node("Mul", "half a", "h"), node("Mul", "h x", "y")],
    "halved": [*ERF, node("Mul", "a x", "m"), node("Div", "m two", "y")],
    "times": [node("Mul", "inverse x", "d"), node("Erf", "d", "e"), node("Add", "one e", "a"), node("Mul", "x a", "m"),
              node("Mul", "half m", "y")],
    "of halves": [*ERF[:2], node("Mul", "e half", "h"), node("Add", "h half", "a"), node("Mul", "a x", "y")],
    "tanh": [*CUBE, node("Mul", "x half", "h"), node("Mul", "h a", "y")],
    "tanh of products": [
        node("Mul", "x x", "p"), node("Mul", "p x", "q"), node("Mul", "cubic q", "t"), node("Add", "t x", "s"),
        node("Mul", "slope s", "d"), *CUBE[4:], node("Mul", "a x", "m"), node("Mul", "m half", "y"),
    ],
    "tanh of a square": [
        node("Mul", "x x", "p"), node("Mul", "p cubic", "q"), node("Add", "q one", "s"), node("Mul", "x slope", "t"),
        node("Mul", "s t", "d"), *CUBE[4:], node("Mul", "a x", "m"), node("Mul", "m half", "y"),
    ],
}  # fmt: skip
"""x·Φ(x) as exporters write it."""
OTHERS = {
    "another root": [node("Div", "x two", "d"), *ERF[1:], node("Mul", "x a", "m"), node("Mul", "m half", "y")],
    "divided by x": [node("Div", "root x", "d"), *ERF[1:], node("Mul", "x a", "m"), node("Mul", "m half", "y")],
    "another sum": [*ERF[:2], node("Add", "e half", "a"), node("Mul", "x a", "m"), node("Mul", "m half", "y")],
    "another factor": [*ERF, node("Mul", "z a", "m"), node("Mul", "m half", "y")],
    "a third": [*ERF, node("Mul", "x a", "m"), node("Div", "m three", "y")],
    "a sum behind": [*ERF, node("Mul", "x a", "m"), node("Add", "m half", "y")],
    "a vector": [*ERF, node("Mul", "x a", "m"), node("Mul", "m halves", "y")],
    "another cubic": [node("Pow", "x two", "p"), *CUBE[1:], node("Mul", "x half", "h"), node("Mul", "h a", "y")],
    "tanh of the root": [node("Div", "x root", "d"), *CUBE[4:], node("Mul", "x a", "m"), node("Mul", "m half", "y")],
    "wider": [*ERF, node("Mul", "x a", "m"), node("Mul", "m wide", "y")],
}


def derived(g: Graph, *fetch: str) -> list[Node]:
    return Model(g).plan({n: s.shape for n, s in g.inputs.items()}, fetch=fetch or None).graph.nodes


@pytest.mark.parametrize("name", GELUS)
def test_gelu(name: str) -> None:
    g = graph(GELUS[name], "y", CONSTANTS, x=(3, 5, 7))
    (found,) = derived(g)
    assert found.op.type == "Gelu" and found.inputs == ("x",)
    assert (found.op.approximate == "tanh") == name.startswith("tanh")  # type: ignore[attr-defined]
    run(g)
    x = np.array([0.0, -0.0, 3e38, -3e38, np.inf, np.nan, 1e-40, -20, 20], np.float32)
    y = Model(graph(GELUS[name], "y", CONSTANTS, x=(9,))).run({"x": x})["y"]
    np.testing.assert_allclose(y, [0, 0, 3e38, 0, np.inf, np.nan, 5e-41, 0, 20], rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_gelu(name: str) -> None:
    constants = {**CONSTANTS, "halves": np.full(7, 0.5, np.float32), "wide": np.full((1, 1, 1, 1), 0.5, np.float32)}
    g = graph(OTHERS[name], "y", constants, x=(3, 5, 7), **({"z": (3, 5, 7)} if name == "another factor" else {}))
    assert all(n.op.type != "Gelu" for n in derived(g))
    run(g)


def test_values_that_are_asked_for_or_read_elsewhere() -> None:
    """A value within is an output, fetched, or read by another node: what makes it stays."""
    nodes = GELUS["half last"]
    for g, fetch in (
        (graph(nodes, "y e", CONSTANTS, x=(3, 5)), ()),
        (graph([*nodes, node("Neg", "a", "z")], "y z", CONSTANTS, x=(3, 5)), ()),
        (graph(nodes, "y", CONSTANTS, x=(3, 5)), ("y", "m")),
    ):
        assert all(n.op.type != "Gelu" for n in derived(g, *fetch))
        run(g)
    g = graph([*GELUS["half of x"], node("Neg", "h", "z")], "y z d", CONSTANTS, x=(3, 5))
    assert sorted(n.op.type for n in derived(g)) == ["Div", "Gelu", "Mul", "Neg"]
    run(g)


def test_gelu_of_other_types_is_left() -> None:
    nodes = GELUS["half last"]
    wide = {k: v.astype(np.float64) for k, v in CONSTANTS.items()}
    spec = graph(nodes, "y", CONSTANTS, x=(3, 5)).inputs["x"]._replace(dtype=np.dtype(np.float64))
    g = Graph(nodes, {"x": spec}, {"y": None}, wide)
    assert all(n.op.type != "Gelu" for n in derived(g))


# normalisations


LAST = np.array([-1], np.int64)
NORM = [
    node("ReduceMean", "x over", "m"), node("Sub", "x m", "d"), node("Pow", "d two", "p"), node("ReduceMean", "p over", "v"),
    node("Add", "v eps", "e"), node("Sqrt", "e", "r"), node("Div", "d r", "n"),
]  # fmt: skip
AFFINE = [node("Mul", "n g", "w"), node("Add", "b w", "y")]
EPS: dict[str, Any] = {"eps": np.float32(1e-3), "two": np.float32(2), "three": np.float32(3), "half": HALF}


def types(g: Graph, *fetch: str) -> list[str]:
    return [n.op.type for n in derived(g, *fetch)]


@pytest.mark.parametrize("over", [(-1,), (2, 3), (1, 2, 3), (3, 2)])
def test_layer_norm(over: tuple[int, ...]) -> None:
    shape = (2, 3, 5, 7)
    part = tuple(shape[a] for a in sorted(a % 4 for a in over))
    constants = {**EPS, "over": np.array(over, np.int64), "g": r(*part), "b": r(1, *part) if len(part) < 4 else r(*part)}
    g = graph([*NORM, *AFFINE], "y", constants, x=shape)
    assert types(g) == ["LayerNormalization"]
    run(g)
    again = [node("Sub", "x m2", "d2"), node("Mul", "d2 d2", "p"), node("ReduceMean", "x over", "m2")]
    nodes = [NORM[0], NORM[1], again[2], again[0], again[1], *NORM[3:6], node("Div", "d r", "y")]
    g = graph(nodes, "y", constants, x=shape)
    assert types(g) == ["LayerNormalization"]
    run(g)


def test_layer_norm_of_channels() -> None:
    """LayerNorm2d: between convolutions nothing is copied."""
    nodes = [node("Conv", "z k", "x"), *NORM, *AFFINE, node("Conv", "y k", "u"), node("GlobalAveragePool", "u", "o")]
    constants = {**EPS, "over": np.array([1]), "g": r(20, 1, 1), "b": r(1, 20, 1, 1), "k": r(20, 20, 1, 1)}
    g = graph(nodes, "o", constants, z=(2, 20, 5, 6))
    assert "LayerNormalization" in types(g)
    steps = [s.kernel for s in Model(g).plan({"z": (2, 20, 5, 6)}).steps]
    assert steps.count("move.copy") == 1 and steps.count("normalize.layer") == 1
    run(g)


NO_NORMS: dict[str, tuple[list[Node], dict[str, Any]]] = {
    "a cube": ([*NORM[:2], node("Pow", "d three", "p"), *NORM[3:], *AFFINE], {}),
    "no root": ([*NORM[:5], node("Pow", "e half", "r"), NORM[6], *AFFINE], {}),
    "turned round": ([*NORM[:6], node("Div", "r d", "n"), *AFFINE], {}),
    "x itself": ([*NORM[:6], node("Div", "x r", "n"), *AFFINE], {}),
    "the square of x": ([*NORM[:2], node("Pow", "x two", "p"), *NORM[3:], *AFFINE], {}),
    "a vector of epsilons": ([*NORM, *AFFINE], {"eps": np.abs(r(5, 1)) + np.float32(0.1)}),
    "other axes": ([*NORM[:3], node("ReduceMean", "p others", "v"), *NORM[4:], *AFFINE], {"others": np.array([2])}),
    "an axis in the middle": ([*NORM, *AFFINE], {"over": np.array([2])}),
    "the batch": ([*NORM, *AFFINE], {"over": np.array([0])}),
}


@pytest.mark.parametrize("name", NO_NORMS)
def test_what_is_no_layer_norm(name: str) -> None:
    nodes, more = NO_NORMS[name]
    g = graph(nodes, "y", {**EPS, "over": LAST, "g": r(7), "b": r(7), **more}, x=(2, 3, 5, 7))
    assert "LayerNormalization" not in types(g)
    if name not in ("a cube", "turned round"):  # roots of numbers below 0, quotients of small ones
        run(g)


def test_layer_norm_whose_factors_are_others() -> None:
    """What does not lie along the axis stays a node of its own."""
    for more in (
        {"g": r(5, 1), "b": r(7)},
        {"g": r(7), "b": r(3, 1, 1)},
        {"g": r(1), "b": r(1)},
        {"g": r(4, 1, 1, 1, 7), "b": r(7)},
    ):
        g = graph([*NORM, *AFFINE], "y", {**EPS, "over": LAST, **more}, x=(2, 3, 5, 7))
        found = types(g)
        assert found[0] == "LayerNormalization" and len(found) > 1
        run(g)


def test_layer_norm_that_is_read_within() -> None:
    constants = {**EPS, "over": LAST, "g": r(7), "b": r(7)}
    for outputs in ("y d", "y m", "y r"):
        g = graph([*NORM, *AFFINE], outputs, constants, x=(3, 7))
        assert "LayerNormalization" not in types(g)
        run(g)
    g = graph([*NORM, *AFFINE], "y n", constants, x=(3, 7))
    assert types(g) == ["LayerNormalization", "Mul", "Add"]
    run(g)
    assert "LayerNormalization" not in types(graph([*NORM, *AFFINE], "y", constants, x=(3, 7)), "y", "v")


def grouped(groups: int, c: int, h: int, w: int) -> tuple[list[Node], dict[str, Any]]:
    nodes = [
        node("Reshape", "x flat", "f"), node("InstanceNormalization", "f i j", "n", epsilon=1e-3),
        node("Reshape", "n full", "u"), node("Mul", "u g", "p"), node("Add", "p b", "y"),
    ]  # fmt: skip
    shapes = {"flat": np.array([0, groups, -1]), "full": np.array([2, c, h, w])}
    return nodes, {**shapes, "i": r(groups), "j": r(groups), "g": r(c, 1, 1), "b": r(c, 1, 1)}


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(groups: int) -> None:
    nodes, constants = grouped(groups, 6, 5, 4)
    g = graph(nodes, "y", constants, x=(2, 6, 5, 4))
    assert types(g) == ["GroupNormalization"]
    run(g)
    assert types(graph(nodes, "y n", constants, x=(2, 6, 5, 4)))[:2] == ["Reshape", "InstanceNormalization"]
    run(
        graph(
            [*nodes[:2], node("Reshape", "n other", "y")],
            "y",
            {**constants, "other": np.array([2, 5, 6, 4])},
            x=(2, 6, 5, 4),
        )
    )


def test_group_norm_of_one_group_lies_as_convolutions_want_it() -> None:
    nodes, constants = grouped(1, 20, 5, 6)
    ends = [node("Conv", "z k", "x"), *nodes, node("Conv", "y k", "c"), node("GlobalAveragePool", "c", "o")]
    g = graph(ends, "o", {**constants, "k": r(20, 20, 1, 1)}, z=(2, 20, 5, 6))
    assert [s.kernel for s in Model(g).plan({"z": (2, 20, 5, 6)}).steps].count("move.copy") == 1
    run(g)


# products of two variables


SCALES: dict[str, Any] = {"c": np.float32(0.25), "e": np.full(1, 3, np.float32), "zero": np.float32(0), "v": r(5)}
PRODUCTS_SCALED = {
    "the first factor": ([node("Mul", "x c", "q"), node("MatMul", "q k", "y")], (0.25, 0)),
    "the second, turned": (
        [node("Mul", "c k", "s"), node("Transpose", "s", "t", perm=(0, 2, 1)), node("MatMul", "x t", "y")], (0.25, 1),
    ),
    "both": (
        [node("Mul", "x c", "q"), node("Transpose", "k", "t", perm=(0, 2, 1)), node("Div", "t e", "s"),
         node("MatMul", "q s", "y")], (0.25 / 3, 1),
    ),
    "the result": ([node("MatMul", "x k", "m"), node("Div", "m e", "d"), node("Mul", "c d", "y")], (0.25 / 3, 0)),
    "a turn alone": ([node("Transpose", "k", "t", perm=(0, 2, 1)), node("MatMul", "x t", "y")], (1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS_SCALED)
def test_scaled_products(name: str) -> None:
    nodes, (alpha, turned) = PRODUCTS_SCALED[name]
    g = graph(nodes, "y", SCALES, x=(3, 4, 5), k=(3, 7, 5) if turned else (3, 5, 7))
    (found,) = derived(g)
    assert found.op.type == "FusedMatMul" and np.isclose(found.op.alpha, alpha) and found.op.transB == turned  # type: ignore[attr-defined]
    run(g)


def test_a_number_between_two_products() -> None:
    nodes = [node("MatMul", "x k", "m"), node("Mul", "m c", "s"), node("MatMul", "s x", "y")]
    g = graph(nodes, "y", SCALES, x=(3, 4, 5), k=(3, 5, 4))
    assert types(g) == ["FusedMatMul", "MatMul"]
    run(g)


def test_products_that_are_not_scaled() -> None:
    shapes = {"x": (3, 4, 5), "k": (3, 5, 7)}
    product = node("MatMul", "q k", "y")
    for nodes in (
        [node("Mul", "x v", "q"), product], [node("Div", "c x", "q"), product], [node("Mul", "x zero", "q"), product],
        [node("Transpose", "z", "q", perm=(1, 0, 2)), product], [node("MatMul", "x k", "m"), node("Div", "c m", "y")],
    ):  # fmt: skip
        first = {"z": (4, 3, 5), "k": (3, 5, 7)} if nodes[0].op.type == "Transpose" else shapes
        g = graph(nodes, "y", SCALES, **first)
        assert types(g) == [n.op.type for n in nodes]
        if "c m" not in " ".join(nodes[-1].inputs):
            run(g)
    nodes = [node("Mul", "x c", "q"), product]
    assert types(graph([*nodes, node("Neg", "q", "n")], "y n", SCALES, **shapes)) == ["Mul", "MatMul", "Neg"]
    assert types(graph(nodes, "y", SCALES, **shapes), "q", "y") == ["Mul", "MatMul"]


# sizes that are not known


def test_sizes_not_seen_before() -> None:
    """Patterns are found of sizes that are symbols, once for all of them."""
    nodes = [
        node("Conv", "x k", "c0", pads=(1, 1, 1, 1)), node("Conv", "x l", "c1"), node("Add", "c0 c1", "z0"),
        *(Node(n.op, tuple("z0" if i == "x" else i for i in n.inputs), n.outputs, n.name) for n in NORM),
        node("Mul", "n g", "w0"), node("Transpose", "w0", "t", perm=(0, 2, 3, 1)), node("MatMul", "t u", "a0"),
        node("Add", "a0 h", "a1"), node("Gelu", "a1", "a2"), node("MatMul", "a2 q", "a3"),
        node("Transpose", "a3", "t2", perm=(0, 3, 1, 2)), node("Mul", "t2 g", "s"), node("Add", "z0 s", "y"),
    ]  # fmt: skip
    constants = {
        **EPS, "over": np.array([1]), "k": r(6, 4, 3, 3), "l": r(6, 4, 1, 1), "g": r(6, 1, 1), "u": r(6, 9), "h": r(9),
        "q": r(9, 6),
    }  # fmt: skip
    spec = graph(nodes, "y", constants, x=(1, 4, 5, 5)).inputs["x"]._replace(shape=("n", 4, "h", "w"))
    g = Graph(nodes, {"x": spec}, {"y": None}, constants)
    model = Model(g)
    for shape in ((1, 4, 5, 5), (2, 4, 6, 7), (3, 4, 9, 8), (1, 4, 1, 1), (1, 4, 12, 1)):
        x = r(*shape)
        known = Model(graph(nodes, "y", constants, x=shape))
        assert model.run({"x": x})["y"].tobytes() == known.run({"x": x})["y"].tobytes()
    run(graph(nodes, "y", constants, x=(2, 4, 6, 7)))
