"""Plans: where values lie in memory, where authored values went, and random graphs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbconv.arena import ALIGN, place
from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup
from nbconv.plan import Plan
from tests import fuzz
from tests.check import sampler
from tests.kernels.harness import reference

F32 = np.dtype(np.float32)
BUFFERS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 30)), max_size=40)


@given(BUFFERS)
@settings(max_examples=300, deadline=None)
def test_buffers_that_live_together_lie_apart(rows: list[tuple[int, int, int]]) -> None:
    sizes, begins, ends = [r[0] for r in rows], [min(r[1:]) for r in rows], [max(r[1:]) for r in rows]
    offsets, total = place(sizes, begins, ends)
    for i, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        assert offset % ALIGN == 0
        assert offset >= 0
        assert offset + size <= total
        for j in range(i):
            alive = begins[i] <= ends[j] and begins[j] <= ends[i]
            apart = offset + size <= offsets[j] or offsets[j] + sizes[j] <= offset
            assert not alive or apart or 0 in (size, sizes[j])
    most = max(
        (sum(-(-s // ALIGN) * ALIGN for s, b, e in zip(sizes, begins, ends) if b <= t <= e) for t in range(31)), default=0
    )
    assert most <= total <= sum(-(-s // ALIGN) * ALIGN for s in sizes)


def test_memory_is_used_again() -> None:
    """A chain of twenty values needs room for two."""
    nodes = [Node(lookup("Exp")(), (f"v{i}",), (f"v{i + 1}",)) for i in range(20)]
    plan = Model(Graph(nodes, {"v0": Spec((1000,), F32)}, {"v20": None}, {})).plan({"v0": (1000,)})
    assert plan.arena <= 2 * 4096


def test_too_large_for_the_machine() -> None:
    nodes = [
        Node(lookup("Expand")(), ("x", "shape"), ("a",)),
        Node(lookup("Exp")(), ("a",), ("b",)),
        Node(lookup("ReduceSum")(), ("b",), ("y",)),
    ]
    graph = Graph(nodes, {"x": Spec((1,), F32)}, {"y": None}, {"shape": np.array([1 << 18, 1 << 20])})
    with pytest.raises(ModelError, match=r"needs .* GiB .* there are"):
        Model(graph).run({"x": np.zeros(1, F32)})


def live(plan: Plan) -> list[tuple[int, int, int, int, str]]:
    """(first step, last step, offset, end, name) of each value in the arena, from the steps alone."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, step in enumerate(plan.steps):
        for name in plan._touched(step):
            first.setdefault(name, i)
            last[name] = i
    size = {n: plan._scratches.get(n) or plan.specs[n].nbytes for n in plan.offsets}
    return [(first[n], last[n], at, at + size[n], n) for n, at in plan.offsets.items()]


def some_graph(seed: int) -> tuple[Graph, dict[str, np.ndarray]]:
    generator = fuzz.Generator(seed)
    graph = generator.graph(15)
    return graph, {n: sampler(seed)(*s.shape) for n, s in graph.inputs.items()}


@given(st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_plans_of_random_graphs(seed: int) -> None:
    """Live values lie apart, every authored value is made or accounted for, and the authored graph stays as it was."""
    graph, feeds = some_graph(seed)
    before = (repr(graph.nodes), list(graph.inputs), list(graph.outputs), dict(graph.provenance))
    constants = {n: v.copy() for n, v in graph.constants.items()}
    model = Model(graph, threads=1)
    for fetch in (None, list(graph.values())[::2]):
        plan = model.plan({n: x.shape for n, x in feeds.items()}, fetch)
        for i, (b, e, low, high, name) in enumerate(rows := live(plan)):
            assert 0 <= low <= high <= plan.arena
            for b2, e2, low2, high2, other in rows[:i]:
                assert e < b2 or e2 < b or high <= low2 or high2 <= low, f"{name} and {other} overlap"
        made = {o for node in plan.graph.nodes for o in node.outputs}
        assert set(graph.values()) <= made | set(plan.graph.provenance) | dead(graph, fetch)
    assert before == (repr(graph.nodes), list(graph.inputs), list(graph.outputs), dict(graph.provenance))
    assert all(np.array_equal(graph.constants[n], v) for n, v in constants.items())
    assert list(graph.constants) == list(constants)


def dead(graph: Graph, fetch: list[str] | None) -> set[str]:
    """Values that nothing fetched depends on."""
    wanted = set(graph.outputs if fetch is None else fetch)
    for node in reversed(graph.nodes):
        if wanted & set(node.outputs):
            wanted |= set(node.inputs)
    return set(graph.values()) - wanted


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_random_graphs(first: int) -> None:
    """More of them: python -m tests.fuzz SEED COUNT."""
    for seed in range(first, first + 50):
        try:
            fuzz.check(seed)
        except Exception:
            print(f"python -m tests.fuzz {seed} 1")
            raise


def test_plans_share_packed_weights() -> None:
    r = sampler(1)
    graph = Graph(
        [Node(lookup("Conv")(), ("x", "w"), ("c",)), Node(lookup("Mul")(), ("c", "k"), ("y",))],
        {"x": Spec(("N", 20, "H", 7), F32)}, {"y": None}, {"w": r(8, 20, 2, 2), "k": r(8, 1, 1)},
    )  # fmt: skip
    model = Model(graph)
    x = r(2, 20, 9, 7)
    want = reference(graph, {"x": x})["y"]
    for cut in (x, x[:1], x[:, :, :6], x[:, :, :4].copy()):
        y = model.run({"x": cut})["y"]
        np.testing.assert_allclose(y, want[: cut.shape[0], :, : cut.shape[2] - 1], atol=1e-5)
    held = {n: a.ctypes.data for n, a in model.weights.arrays.items()}
    model.run({"x": x[:, :, :5].copy()})
    assert {n: model.weights.arrays[n].ctypes.data for n in held} == held


def test_constants_that_shapes_decide_are_not_shared() -> None:
    """A weight computed from the input's shape: another for each shape."""
    nodes = [
        Node(lookup("Shape")(start=2), ("x",), ("size",)), Node(lookup("Cast")(to=1), ("size",), ("real",)),
        Node(lookup("Mul")(), ("real", "w"), ("scaled",)), Node(lookup("Gemm")(), ("flat", "scaled"), ("y",)),
    ]  # fmt: skip
    nodes.insert(0, Node(lookup("GlobalAveragePool")(), ("x",), ("pool",)))
    nodes.insert(1, Node(lookup("Flatten")(), ("pool",), ("flat",)))
    graph = Graph(nodes, {"x": Spec((1, 3, "H", "W"), F32)}, {"y": None}, {"w": sampler(4)(3, 2)})
    model = Model(graph)
    for h, w in ((2, 3), (5, 4), (2, 3), (1, 9)):
        x = sampler(h)(1, 3, h, w)
        np.testing.assert_allclose(model.run({"x": x})["y"], reference(graph, {"x": x})["y"], rtol=1e-5)


def test_a_deep_copy_of_the_graph_plans_the_same() -> None:
    graph, feeds = some_graph(7)
    again = copy.deepcopy(graph)
    one, two = Model(graph).run(feeds), Model(again).run(feeds)
    assert all(one[n].tobytes() == two[n].tobytes() for n in one)
