"""What exporters write in several nodes becomes one, where it is exactly that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Node
from nbconv.model import Model
from nbconv.ops.inner import Fused
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


# columns of products


def weights(k: int, n: int) -> dict[str, Any]:
    return {"w": r(k, n), "b": r(n), "s": r(n), "t": r(1, n), "c": np.float32(0.7)}


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_product_with_factors_and_terms(shape: tuple[int, ...]) -> None:
    """All of it is one step, but for a row alone, which has no axis of its own."""
    nodes = [
        node("MatMul", "x w", "m"), node("Add", "b m", "a"), node("Mul", "a s", "p"), node("Sub", "p t", "q"),
        node("Div", "q c", "y"),
    ]  # fmt: skip
    constants = weights(5, 19) if len(shape) > 1 else {**weights(5, 19), "t": r(19)}
    g = graph(nodes, "y", constants, x=shape)
    assert len(shape) == 1 or [n.op.type for n in derived(g)] == ["Linear"]
    run(g)


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("addends", [(), (19,), (1, 19), (1,), (6, 1), (6, 19)])
def test_gemm_with_factors(turned: int, addends: tuple[int, ...]) -> None:
    nodes = [node("Gemm", "x w b" if addends else "x w", "m", transB=turned, alpha=0.5, beta=2.0), node("Mul", "m s", "y")]
    constants = {"w": r(19, 5) if turned else r(5, 19), "b": r(*addends), "s": r(19)}
    g = graph(nodes, "y", constants, x=(6, 5))
    found = derived(g)
    assert [n.op.type for n in found][:1] == ["Gemm" if addends != (1,) else "Fused"]
    assert len(found) == (2 if addends[:1] == (6,) else 1)
    run(g)


def test_what_is_no_factor_of_columns() -> None:
    for second, extra in (
        (node("Add", "m k", "y"), {"k": r(3, 1)}),
        (node("Add", "m k", "y"), {"k": r(4, 1, 1, 1)}),
        (node("Mul", "m k", "y"), {"k": r(3, 7)}),
        (node("Sub", "k m", "y"), {"k": r(7)}),
        (node("Div", "m k", "y"), {"k": np.array([1, 2, 0, 3, 4, 5, 6], np.float32)}),
    ):
        g = graph([node("MatMul", "x w", "m"), second], "y", {"w": r(5, 7), **extra}, x=(2, 3, 5))
        assert [n.op.type for n in derived(g)] == ["MatMul", second.op.type]
        if second.op.type != "Div":
            run(g)


def test_batch_norm_of_flat_rows() -> None:
    """LeViT's: rows of all samples are normalised as one matrix, then take their shape again for an activation."""
    nodes = [
        node("MatMul", "x w", "m"), node("Flatten", "m", "f", axis=2), node("BatchNormalization", "f s b u v", "n"),
        node("Reshape", "n shape", "g"), node("HardSwish", "g", "h"), node("MatMul", "h z", "o"),
        node("Reshape", "o flat", "p"), node("Mul", "p s", "q"), node("Reshape", "q shape", "t"), node("Add", "x t", "y"),
    ]  # fmt: skip
    constants = {
        "w": r(9, 9), "z": r(9, 9), "s": r(9), "b": r(9), "u": r(9), "v": np.abs(r(9)) + np.float32(0.5),
        "shape": np.array([2, 5, 9]), "flat": np.array([-1, 9]),
    }  # fmt: skip
    g = graph(nodes, "y", constants, x=(2, 5, 9))
    assert [repr(n.op) for n in derived(g)] == ["Linear()+HardSwish", "Linear()+Add"]
    run(g)
    for outputs in ("y g", "y f", "y m"):
        run(graph(nodes, outputs, constants, x=(2, 5, 9)))


def test_rows_whose_columns_are_others() -> None:
    """Of another width, a batch normalisation along rows, and of Reshapes that give another shape."""
    norm = {"s": r(5), "b": r(5), "u": r(5), "v": np.abs(r(5)) + np.float32(0.5)}
    for nodes, shape in (
        ([node("Reshape", "m shape", "f"), node("Mul", "f k", "y")], (5, 18)),
        ([node("BatchNormalization", "m s b u v", "y")], ()),
        ([node("Reshape", "m shape", "f"), node("Mul", "f k", "g"), node("Reshape", "g other", "y")], (10, 9)),
    ):
        constants = {"w": r(4, 9), **norm, "shape": np.array(shape), "k": r(*shape[-1:]), "other": np.array([5, 2, 9])}
        g = graph([node("MatMul", "x w", "m"), *nodes], "y", constants, x=(2, 5, 4))
        run(g)
        found = [kind for kind in types(g) if kind != "Reorder"]
        assert found == (["Linear", "Reshape", "Reshape"] if shape == (10, 9) else ["MatMul", *(n.op.type for n in nodes)])


def test_product_that_is_read_twice() -> None:
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Mul", "m s", "p"), node("Mul", "a p", "y")]
    run(graph(nodes, "y", weights(5, 7), x=(3, 5)))
    g = graph(nodes[:2], "a", weights(5, 7), x=(3, 5))
    assert [n.op.type for n in derived(g, "m", "a")] == ["MatMul", "Add"]


def test_product_of_two_variables() -> None:
    nodes = [node("MatMul", "x z", "m"), node("Add", "m b", "y")]
    run(graph(nodes, "y", {"b": r(7)}, x=(2, 3, 5), z=(2, 5, 7)))


# ConvNeXt


def block(i: int, x: str, y: str) -> list[Node]:
    v = [f"{k}{i}" for k in "ABCDEFGHIJ"]
    return [
        node("Conv", f"{x} k b{i}", v[0], group=20, pads=(1, 1, 1, 1)), node("Transpose", v[0], v[1], perm=(0, 2, 3, 1)),
        node("LayerNormalization", f"{v[1]} s b{i}", v[2]), node("MatMul", f"{v[2]} w", v[3]),
        node("Add", f"{v[3]} v", v[4]),
        node("Div", f"{v[4]} root", v[5]), node("Erf", v[5], v[6]), node("Add", f"{v[6]} one", v[7]),
        node("Mul", f"{v[4]} {v[7]}", v[8]), node("Mul", f"{v[8]} half", v[9]), node("MatMul", f"{v[9]} u", f"k{i}"),
        node("Add", f"k{i} s", f"l{i}"), node("Transpose", f"l{i}", f"m{i}", perm=(0, 3, 1, 2)),
        node("Mul", f"m{i} g", f"n{i}"), node("Add", f"n{i} {x}", y),
    ]  # fmt: skip


def test_convnext() -> None:
    """A block is a convolution, a normalisation and two products; nothing is copied between blocks."""
    constants = {
        **CONSTANTS, "k": r(20, 1, 3, 3), "b0": r(20), "b1": r(20), "s": r(20), "w": r(20, 33), "v": r(33), "u": r(33, 20),
        "g": r(20, 1, 1), "z": r(20, 20, 1, 1),
    }  # fmt: skip
    nodes = [node("Conv", "x z", "x0"), *block(0, "x0", "x1"), *block(1, "x1", "x2"), node("GlobalAveragePool", "x2", "y")]
    g = graph(nodes, "y", constants, x=(2, 20, 5, 6))
    plan = Model(g).plan({"x": (2, 20, 5, 6)})
    products = [n.op for n in plan.graph.nodes if isinstance(n.op, Fused)]
    assert [(repr(p), p.residual) for p in products] == [("Linear()+Gelu", False), ("Linear()+Add", True)] * 2
    assert [s.kernel for s in plan.steps].count("move.copy") == 1  # the image
    run(g)


def test_sum_with_what_is_turned() -> None:
    """Other orders of axes, and a constant, are added as they were."""
    shape = {"x": (2, 3, 4, 5), "z": (2, 6, 3, 4)}
    first = [node("MatMul", "x w", "m"), node("Transpose", "m", "t", perm=(0, 3, 1, 2))]
    for g in (
        graph([*first, node("Add", "z t", "y")], "y", {"w": r(5, 6)}, **shape),
        graph([*first, node("Add", "t t", "y")], "y", {"w": r(5, 6)}, x=(2, 3, 4, 5)),
        graph([*first, node("Add", "t z", "y")], "y", {"w": r(5, 6), "z": r(2, 6, 3, 4)}, x=(2, 3, 4, 5)),
        graph([*first, node("Add", "t z", "y")], "y t", {"w": r(5, 6)}, **shape),
        graph([*first, node("Add", "t z", "y")], "y", {"w": r(5, 6)}, x=(2, 3, 4, 5), z=(6, 1, 1)),
        graph([first[0], node("Transpose", "m", "t", perm=(0, 3, 2, 1)), node("Add", "t z", "y")], "y", {"w": r(5, 6)},
              x=(2, 3, 4, 5), z=(2, 6, 4, 3)),
    ):  # fmt: skip
        run(g)


# branches


def bn(x: str, y: str) -> Node:
    return node("BatchNormalization", f"{x} s b m v", y)


def statistics(c: int) -> dict[str, np.ndarray]:
    return {"s": r(c), "b": r(c), "m": r(c), "v": np.abs(r(c)) + np.float32(0.5)}


def convolutions(g: Graph) -> list[str]:
    return [n.op.inner.type if isinstance(n.op, Fused) else n.op.type for n in derived(g) if n.op.type != "Reorder"]


@pytest.mark.parametrize("group", [1, 2, 6])
def test_branches_become_one_convolution(group: int) -> None:
    """MobileOne's: two of 3×3, one of 1×1, a batch normalisation; then a layer scale and the input."""
    same = {"pads": (1, 1, 1, 1), "group": group}
    nodes = [
        bn("x", "n"), node("Add", "n zero", "n0"), node("Conv", "x w1", "c1", group=group), node("Add", "c1 n0", "a1"),
        node("Conv", "x w2 b", "c2", **same), node("Add", "c2 a1", "a2"), node("Conv", "x w3 m", "c3", **same),
        node("Sub", "a2 c3", "a3"), node("Mul", "a3 k", "p"), node("Relu", "p", "y"),
    ]  # fmt: skip
    constants = {
        **statistics(6), "zero": np.float32(0), "k": r(6, 1, 1),
        **{f"w{i}": r(6, 6 // group, d, d) for i, d in ((1, 1), (2, 3), (3, 3))},
    }  # fmt: skip
    g = graph(nodes, "y", constants, x=(2, 6, 7, 5))
    assert convolutions(g) == ["Conv"]
    run(g)


def test_branches_with_windows_of_other_sizes_and_strides() -> None:
    nodes = [
        node("Conv", "x w7", "c", pads=(3, 2, 1, 3), strides=(2, 3)),
        node("Conv", "x w3", "d", pads=(1, 2, 0, 0), strides=(2, 3)), node("Sub", "d c", "y"),
    ]  # fmt: skip
    g = graph(nodes, "y", {"w7": r(4, 5, 5, 6), "w3": r(4, 5, 2, 3)}, x=(2, 5, 12, 13))
    assert convolutions(g) == ["Conv"]
    run(g)
    nodes = [node("Conv", "x w5", "c", pads=(2, 2)), node("Conv", "x w1", "d"), node("Add", "c d", "y")]
    g = graph(nodes, "y", {"w5": r(4, 5, 5), "w1": r(4, 5, 1)}, x=(2, 5, 12))
    assert convolutions(g) == ["Conv"]
    run(g)


DENSE, ADD = node("Conv", "x w", "c"), node("Add", "c d", "y")
BRANCHES: dict[str, tuple[list[Node], tuple[int, ...], tuple[int, ...], int]] = {
    "inputs": ([DENSE, node("Conv", "z u", "d"), ADD], (6, 6, 3, 3), (6, 6, 3, 3), 5),
    "dilations": ([node("Conv", "x w", "c", dilations=(2, 2), pads=(1, 1, 1, 1)), node("Conv", "x u", "d"), ADD],
                  (6, 6, 3, 3), (6, 6, 3, 3), 6),
    "strides": ([node("Conv", "x w", "c", pads=(1, 1, 1, 1), strides=(2, 2)), node("Conv", "x u", "d"), ADD],
                (6, 6, 3, 3), (6, 6, 3, 3), 5),
    "ends": ([node("Conv", "x w", "c", pads=(0, 0, 2, 2)), node("Conv", "x u", "d", pads=(2, 2, 0, 0)), ADD],
             (6, 6, 3, 3), (6, 6, 3, 3), 6),
    "heights and widths": ([node("Conv", "x w", "c", pads=(1, 0, 1, 0)), node("Conv", "x u", "d", pads=(0, 1, 0, 1)), ADD],
                           (6, 6, 3, 1), (6, 6, 1, 3), 5),
    "groups": ([DENSE, node("Conv", "x u", "d", group=6), ADD], (6, 6, 3, 3), (6, 1, 3, 3), 5),
    "numbers of channels": ([DENSE, node("Conv", "x u", "d"), ADD], (6, 6, 3, 3), (1, 6, 3, 3), 5),
    "strides of an identity": ([node("Conv", "x w", "c", strides=(5, 5)), bn("x", "d"), ADD], (6, 6, 1, 1), (1,), 1),
    "normalisations": ([bn("x", "c"), bn("x", "d"), ADD], (1,), (1,), 5),
}  # fmt: skip
"""Branches that differ in something: nodes, the shapes of their weights, and the size of the image."""


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_that_differ(name: str) -> None:
    nodes, w, u, size = BRANCHES[name]
    shape = (1, 6, size, size)
    inputs = {"x": shape, "z": shape} if name == "inputs" else {"x": shape}
    g = graph(nodes, "y", {**statistics(6), "w": r(*w), "u": r(*u)}, **inputs)
    assert len(convolutions(g)) == 2 + (name in ("numbers of channels", "normalisations"))
    run(g)


def test_branches_that_are_fetched_or_read_twice() -> None:
    nodes = [node("Conv", "x w", "c"), node("Conv", "x u", "d"), node("Add", "c d", "y")]
    weights = {"w": r(4, 3, 1, 1), "u": r(4, 3, 1, 1)}
    assert convolutions(graph(nodes, "y", weights, x=(1, 3, 5, 5))) == ["Conv"]
    run(graph(nodes, "y c", weights, x=(1, 3, 5, 5)))
    run(graph([*nodes, node("Neg", "d", "e")], "y e", weights, x=(1, 3, 5, 5)))
    run(graph([nodes[0], node("Add", "c c", "y")], "y", weights, x=(1, 3, 5, 5)))


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


# factors and terms before convolutions


@pytest.mark.parametrize("group", [1, 2, 6])
def test_batch_norm_before_a_convolution(group: int) -> None:
    nodes = [node("MaxPool", "x", "p", kernel_shape=(2, 2)), bn("p", "n"), node("Conv", "n w c", "y", group=group)]
    g = graph(nodes, "y", {**statistics(6), "w": r(6, 6 // group, 2, 3), "c": r(6)}, x=(2, 6, 7, 8))
    assert convolutions(g) == ["MaxPool", "Conv"]
    run(g)
    nodes = [nodes[0], node("Mul", "p k", "n"), node("Add", "n b", "a"), node("Conv", "a w", "y", group=group)]
    g = graph(nodes, "y", {"b": r(6, 1, 1), "k": r(1, 6, 1, 1), "w": r(12, 6 // group, 1, 1)}, x=(2, 6, 7, 8))
    assert convolutions(g) == ["MaxPool", "Conv"]
    run(g)


def test_batch_norm_before_padding_or_other_readers() -> None:
    constants = {**statistics(6), "w": r(5, 6, 1, 1)}
    pool = node("MaxPool", "x", "p", kernel_shape=(2, 2))
    for nodes, outputs in (
        ([pool, bn("p", "n"), node("Conv", "n w", "y", pads=(0, 1, 0, 0))], "y"),
        ([pool, bn("p", "n"), node("Conv", "n w", "y", auto_pad="SAME_UPPER")], "y"),
        ([pool, bn("p", "n"), node("Conv", "n w", "y"), node("Neg", "n", "z")], "y z"),
        ([pool, bn("p", "n"), node("Conv", "n w", "y")], "y n"),
        ([pool, bn("p", "n"), node("Relu", "n", "a"), node("Conv", "a w", "y")], "y"),
    ):
        g = graph(nodes, outputs, constants, x=(2, 6, 7, 8))
        assert any("BatchNorm" in n.op.label for n in derived(g))
        run(g)
