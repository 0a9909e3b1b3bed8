"""Arithmetic with constants goes into weights: behind products and convolutions, before them, and between branches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Node
from nbconv.model import Model
from nbconv.ops.inner import Fused
from tests.test_fusing import run
from tests.test_passes import graph, node, r
from tests.test_patterns import CONSTANTS, derived, types

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
