"""Plans: where values lie in memory, where authored values went, and random graphs."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup
from nbconv.plan.memory import ALIGN, plan_memory
from nbconv.plan.plan import Plan
from tests import fuzz
from tests.check import sampler
from tests.kernels.harness import reference

ROOT = Path(__file__).resolve().parent.parent
F32 = np.dtype(np.float32)
BUFFERS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 30)), max_size=40)


@given(BUFFERS)
@settings(max_examples=300, deadline=None)
def test_buffers_that_live_together_lie_apart(rows: list[tuple[int, int, int]]) -> None:
    sizes, begins, ends = [r[0] for r in rows], [min(r[1:]) for r in rows], [max(r[1:]) for r in rows]
    offsets, total = plan_memory(sizes, begins, ends)
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


def test_other_orders_are_tried_where_the_first_does_not_do() -> None:
    """Buffers from a plan on which largest first leaves a gap."""
    rng = np.random.default_rng(3)
    begins = rng.integers(0, 200, 120).tolist()
    ends = [b + int(rng.integers(1, 60)) for b in begins]
    sizes = [int(v) * ALIGN for v in rng.integers(1, 400, 120)]
    most = max(sum(s for s, b, e in zip(sizes, begins, ends, strict=True) if b <= t <= e) for t in range(260))
    _, first = plan_memory(sizes, begins, ends)
    assert most < first
    offsets, total = plan_memory(sizes, begins, ends, enough=most)
    assert most <= total < first
    assert plan_memory(sizes, begins, ends, enough=most) == (offsets, total)
    for i in range(120):
        for j in range(i):
            alive = begins[i] <= ends[j] and begins[j] <= ends[i]
            assert not alive or offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]


def samples(nodes: list[Node]) -> Graph:
    """A graph from x (6, 5, 7, 3) to y, with constants for `parts`."""
    constants = {f"n{v}": np.array([v], np.int64) for v in (0, 2, 4, 6)}
    constants["w"] = np.random.default_rng(0).standard_normal((18, 5, 3, 3)).astype(np.float32)
    constants["v"] = np.random.default_rng(1).standard_normal((18, 18, 1, 1)).astype(np.float32)
    return Graph(nodes, {"x": Spec((6, 5, 7, 3), F32)}, {"y": None}, constants)


def parts(source: str, made: str, op: str, *inputs: str, **fields) -> list[Node]:
    """``made`` as op(source, …), two samples at a time."""
    nodes = []
    for k in range(3):
        nodes.append(Node(lookup("Slice")(), (source, f"n{2 * k}", f"n{2 * k + 2}", "n0"), (f"{source}/{made}{k}",)))
        nodes.append(Node(lookup(op)(**fields), (f"{source}/{made}{k}", *inputs), (f"{made}{k}",)))
    return [*nodes, Node(lookup("Concat")(axis=0), tuple(f"{made}{k}" for k in range(3)), (made,))]


@pytest.mark.parametrize("op", ["Exp", "GlobalAveragePool", "Flatten", "Identity", "Transpose", "Softmax"])
def test_parts_of_the_samples_lie_in_the_whole(op: str) -> None:
    """Of what a kernel makes and another reads nothing is copied; what is another name for its input is."""
    fields = {"Transpose": {"perm": (0, 2, 3, 1)}}.get(op, {})
    conv = [Node(lookup("Conv")(pads=(1, 1, 1, 1)), ("x", "w"), ("c",))]
    graph = samples([*conv, *parts("c", "e", op, **fields), Node(lookup("Abs")(), ("e",), ("y",))])
    x = np.random.default_rng(2).standard_normal((6, 5, 7, 3)).astype(np.float32)
    whole = samples([*conv, Node(lookup(op)(**fields), ("c",), ("e",)), graph.nodes[-1]])
    model = Model(graph)
    np.testing.assert_array_equal(model.run({"x": x})["y"], Model(whole).run({"x": x})["y"])
    if op in ("Exp", "GlobalAveragePool"):
        kernels = [s.kernel for s in model.plan({"x": (6, 5, 7, 3)}).steps if s.node.name.startswith(("c/", "e"))]
        assert not [k for k in kernels if k.startswith("move")]


def test_parts_of_an_input_and_of_an_output() -> None:
    graph = samples(parts("x", "y", "Conv", "w", pads=(1, 1, 1, 1)))
    x = np.random.default_rng(2).standard_normal((6, 5, 7, 3)).astype(np.float32)
    whole = samples([Node(lookup("Conv")(pads=(1, 1, 1, 1)), ("x", "w"), ("y",))])
    want = Model(whole).run({"x": x})["y"]
    np.testing.assert_allclose(Model(graph).run({"x": x})["y"], want, rtol=1e-5, atol=1e-5)


def test_a_sum_of_parts_lies_where_a_dead_operand_lay() -> None:
    """Unless somebody reads that later."""

    def made(late: bool) -> Graph:
        add = [*parts("c", "e", "Exp"), *parts("c", "p", "Abs")]
        for k in range(3):
            add.append(Node(lookup("Slice")(), ("e", f"n{2 * k}", f"n{2 * k + 2}", "n0"), (f"a{k}",)))
            add.append(Node(lookup("Slice")(), ("p", f"n{2 * k}", f"n{2 * k + 2}", "n0"), (f"b{k}",)))
            add.append(Node(lookup("Add")(), (f"a{k}", f"b{k}"), (f"s{k}",)))
        add.append(Node(lookup("Concat")(axis=0), ("s0", "s1", "s2"), ("s",)))
        conv = Node(lookup("Conv")(pads=(1, 1, 1, 1)), ("x", "w"), ("c",))
        end = [Node(lookup("Conv")(), ("s", "v"), ("z",)), Node(lookup("Mul")(), ("z", "e" if late else "z"), ("u",))]
        end.append(Node(lookup("Mul")(), ("u", "p" if late else "u"), ("y",)))
        return samples([conv, *add, *end])

    x = np.random.default_rng(2).standard_normal((6, 5, 7, 3)).astype(np.float32)
    for late in (False, True):
        model = Model(made(late))
        plan = model.plan({"x": (6, 5, 7, 3)})
        assert ("s" in plan.offsets) == late  # else it is memory of e or p
        got = model.run({"x": x}, fetch=["y", "c"])
        c = got["c"].astype(np.float64)
        e = np.exp(c)
        s = e + np.abs(c)
        z = np.einsum("nchw,oc->nohw", s, made(late).constants["v"][:, :, 0, 0].astype(np.float64))
        want = z * e * np.abs(c) if late else z**4
        np.testing.assert_allclose(got["y"], want, rtol=1e-4, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("op", ["Reshape", "Split", "Concat"])
def test_what_is_not_a_values_own_memory_is_not_overwritten(op: str) -> None:
    """An input under another name, a piece of one, and a piece of a wider value."""
    graph = samples([])
    graph.constants |= {"shape": np.array([6, 5, 7, 3]), "sizes": np.array([3, 2])}
    first = {
        "Reshape": [Node(lookup("Reshape")(), ("flat", "shape"), ("e",))],
        "Split": [Node(lookup("Split")(axis=1), ("flat", "sizes"), ("e", "rest"))],
        "Concat": [
            Node(lookup("Conv")(pads=(1, 1, 1, 1)), ("flat", "w"), ("e",)),
            Node(lookup("Concat")(axis=1), ("e", "flat"), ("wide",)),
        ],
    }[op]
    shape = (6, 105) if op == "Reshape" else (6, 5, 7, 3)
    nodes = [*first, *parts("e", "p", "Abs")]
    for k in range(3):
        nodes.append(Node(lookup("Slice")(), ("e", f"n{2 * k}", f"n{2 * k + 2}", "n0"), (f"a{k}",)))
        nodes.append(Node(lookup("Add")(), (f"a{k}", f"p{k}"), (f"s{k}",)))
    nodes.append(Node(lookup("Concat")(axis=0), ("s0", "s1", "s2"), ("s",)))
    nodes.append(Node(lookup("Abs")(), ("s",), ("y",)))
    if op == "Concat":
        nodes.append(Node(lookup("Abs")(), ("wide",), ("z",)))
    outputs = {"y": None, **({"z": None} if op == "Concat" else {})}
    model = Model(Graph(nodes, {"flat": Spec(shape, F32)}, outputs, graph.constants))
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    kept = x.copy()
    got = model.run({"flat": x})
    np.testing.assert_array_equal(x, kept)
    e = model.run({"flat": x}, fetch=["e"])["e"]
    np.testing.assert_allclose(got["y"], np.abs(e + np.abs(e)), rtol=1e-6)
    if op == "Concat":
        np.testing.assert_array_equal(got["z"], np.abs(np.concatenate([e, x], axis=1)))


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


PLANS = """
from tests.test_plan import Plan, some_graph
from tests.train.models import Model, batch, convolutional
from nbconv import Trainer
import nbconv.train.step as step

found = []
step.Plan = lambda *a, **k: found.append(Plan(*a, **k)) or found[-1]
Trainer(Model(convolutional())).step(*batch(shape=(2, 7, 9)))
for seed in range(10):
    graph, feeds = some_graph(seed)
    found.append(Model(graph).plan({n: x.shape for n, x in feeds.items()}, list(graph.values())[::2]))
for plan in found:
    print([(s.kernel, s.arguments) for s in plan.steps], plan.offsets, plan.program.constants)
"""


def test_plans_do_not_depend_on_the_order_of_sets() -> None:
    """Another process, where strings have other hashes, plans the same, training too: to the byte that a value lies at."""
    command = [sys.executable, "-c", PLANS]
    printed = [
        subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, text=True) for seed in "123"
    ]
    assert printed[0].count("\n") == 11 and printed[0] == printed[1] == printed[2]


def test_shapes_decide_constants_and_weights_are_packed_once() -> None:
    """A bias that shapes decide belongs to a plan, the weights beside it do not; a large one is made while running."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal((64, 300)).astype(np.float32)
    nodes = [
        Node(lookup("MatMul")(), ("x", "w"), ("m",)),
        Node(lookup("Shape")(), ("m",), ("s",)),
        Node(lookup("ConstantOfShape")(value=np.array([0.5], np.float32)), ("s",), ("c",), "halves"),
        Node(lookup("Max")(), ("m", "c"), ("y",)),
    ]
    graph = Graph(nodes, {"x": Spec(("n", 64), np.dtype(np.float32))}, {"y": None}, {"w": w}, "decided")
    model = Model(graph, threads=1)
    plans = [model.plan({"x": (n, 64)}) for n in (2, 3, 100)]
    shared = {name for name in plans[0].arrays if all(p.arrays.get(name) is plans[0].arrays[name] for p in plans[1:])}
    assert [name for name in shared if name.startswith("w")]
    assert [name for p in plans for name in p.own if name.startswith("w")] == []
    assert [("c" in p.arrays, "c" in p.own) for p in plans] == [(True, True), (True, True), (False, False)]
    assert "move.fill" in [step.kernel for step in plans[2].steps if step.node.name == "halves"]
    assert [p.numpy_steps() for p in plans] == [[], [], []]
    for n in (2, 3, 2, 100, 90, 101):
        x = rng.standard_normal((n, 64)).astype(np.float32)
        np.testing.assert_allclose(model.run({"x": x})["y"], np.maximum(x @ w, 0.5), rtol=2e-4, atol=1e-4)


def test_integers_that_shapes_decide_are_packed_for_each_plan() -> None:
    w = np.random.default_rng(4).integers(-9, 9, (16, 8)).astype(np.int8)
    nodes = [
        Node(lookup("Shape")(start=0, end=1), ("x",), ("s",)),
        Node(lookup("Cast")(to=3), ("s",), ("k",)),
        Node(lookup("Add")(), ("w", "k"), ("v",)),
        Node(lookup("MatMulInteger")(), ("x", "v"), ("y",)),
    ]
    graph = Graph(nodes, {"x": Spec(("n", 16), np.dtype(np.uint8))}, {"y": None}, {"w": w}, "integers")
    model = Model(graph, threads=1)
    for n in (1, 2, 3):
        plan, alone = (m.plan({"x": (n, 16)}) for m in (model, Model(graph, threads=1)))
        assert plan.arrays.keys() == alone.arrays.keys() <= plan.own
        for name, array in alone.arrays.items():
            np.testing.assert_array_equal(plan.arrays[name], array)
