"""Plans made through templates are those made without, and sizes are noted soundly."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbconv
from nbconv.converters.importer import import_graph
from nbconv.converters.weights import Source
from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from nbconv.graph.symbolic import Trace, TraceEnded, apply, settled
from nbconv.kernels.target import host
from nbconv.lowering.weights import Weights
from nbconv.model import Model
from nbconv.plan.plan import Plan
from nbconv.plan.program import FIELDS
from nbconv.plan.template import MOST_KINDS, VAIN, Templates
from tests.models import asset, rapidocr
from tests.random_graphs import Generator

F32 = np.dtype(np.float32)
FIXED = frozenset(("Reshape", "Gemm", "Expand", "Transpose", "LayerNormalization", "PRelu"))
"""Operators that the generator gives sizes of other values."""


def facts(plan: Plan) -> dict[str, Any]:
    """All that running a plan depends on."""
    p = plan.program
    names = ("results", "inputs", "arena", "kernels", "constants", "input_moves", "result_moves", "segments", "slots")
    found: dict[str, Any] = {name: getattr(p, name) for name in names}
    found |= {name: getattr(p, name).tolist() for name in FIELDS}
    found |= {"copies": [(k, b.encode()) for k, b in p.copies], "own": plan.own, "tables": {*plan.tables}}
    found["host"] = {i: step.encode([]) for i, step in p.host_steps.items()}
    found["arrays"] = {n: (a.dtype, a.shape, a.tobytes()) for n in p.constants for a in (plan.arrays[n],)}
    found["specs"] = {n: (s.shape, s.dtype, s.constant, s.quantisation) for n, s in plan.specs.items()}
    return found


def agree(graph: Graph, templates: Templates, inputs: dict[str, Spec], weights: Weights) -> None:
    """The same plan or the same error with and without templates."""
    found, want = [], []
    for kept, plan in (
        (want, lambda: Plan(graph, inputs, weights, tuple(graph.outputs), host())),
        (found, lambda: templates.plan(inputs, tuple(graph.outputs))),
    ):
        try:
            kept.append(facts(plan()))
        except ModelError as error:
            kept.append({"error": (type(error), str(error))})
    for name in want[0]:
        assert found[0][name] == want[0][name], name


def freed(graph: Graph, rng: np.random.Generator) -> tuple[Graph, list[dict[str, Spec]]]:
    """The graph with inputs of any size, and some sizes that keep what is equal equal."""
    shapes = {n: s.shape for n, s in graph.inputs.items()}
    free = {n: Spec((None, s[1], *[None] * (len(s) - 2)), F32) for n, s in shapes.items()}
    all_sizes = []
    for _ in range(6):
        of = {d: int(rng.integers(5, 40)) for s in shapes.values() for d in s}
        of[1] = 1
        all_sizes.append({n: Spec((of[s[0]], s[1], *(of[d] for d in s[2:])), F32) for n, s in shapes.items()})
    return Graph(graph.nodes, free, graph.outputs, graph.constants), all_sizes


@pytest.mark.parametrize("seed", range(6))
def test_plans_of_random_graphs_are_the_same(seed: int) -> None:
    with_templates = 0
    for k in range(12 * seed, 12 * seed + 12):
        generator = Generator(k, without=FIXED if k % 3 else frozenset())
        graph, sizes = freed(generator.graph(8 if k % 2 else 16), np.random.default_rng(k))
        weights = Weights()
        templates = Templates(graph, weights, host())
        for inputs in sizes:
            agree(graph, templates, inputs, weights)
        with_templates += any(kind._templates for kind in templates._kinds.values())
    assert with_templates > 1


def models() -> dict[str, Any]:
    return {
        "mtcnn": (asset("mtcnn_pnet.onnx"), lambda r: (r.integers(1, 3), 3, *r.integers(12, 90, 2))),
        "detector": (rapidocr("det"), lambda r: (1, 3, *r.integers(1, 12, 2) * 32)),
        "batches": (asset("blazeface_short_128.onnx"), lambda r: (r.integers(1, 20), 3, 128, 128)),
    }


@pytest.mark.parametrize("name", [*models()])
def test_plans_of_real_models_are_the_same(name: str) -> None:
    path, draw = models()[name]
    graph, weights, rng = nbconv.load(path).graph, Weights(), np.random.default_rng(1)
    templates, port = Templates(graph, weights, host()), next(iter(graph.inputs))
    for _ in range(8):
        agree(graph, templates, {port: Spec(tuple(int(d) for d in draw(rng)), F32)}, weights)
    (kind,) = templates._kinds.values()
    assert 1 <= len(kind._templates) <= 5, "a template holds for one size only"


def test_results_are_the_same() -> None:
    model, rng = nbconv.load(asset("mtcnn_pnet.onnx"), threads=1), np.random.default_rng(0)
    model._plan_cache = None
    for _ in range(8):
        x = rng.standard_normal((1, 3, *rng.integers(12, 60, 2)), np.float32)
        want = Model(model.graph, threads=1).run({"input": x})
        for y, z in zip(model.run({"input": x}).values(), want.values(), strict=True):
            assert y.tobytes() == z.tobytes()


def test_new_sizes_run_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nbconv.load(asset("mtcnn_pnet.onnx"), threads=1)
    model._plan_cache = None
    for n in (40, 41):
        model.run({"input": np.zeros((1, 3, n, n), np.float32)})
    monkeypatch.setattr("nbconv.plan.plan.derive", None)
    monkeypatch.setattr("nbconv.plan.template.derive", None)
    model.run({"input": np.zeros((1, 3, 52, 67), np.float32)})


def test_kinds_are_bounded_and_errors_are_the_models() -> None:
    model = nbconv.load(asset("mtcnn_pnet.onnx"), threads=1)
    model._plan_cache = None
    x = np.zeros((1, 3, 20, 20), np.float32)
    names = [*model.graph.values()][: 2 * MOST_KINDS]
    for name in names:
        model.run({"input": x}, [name])
    assert model._templates is not None
    assert len(model._templates._kinds) <= MOST_KINDS
    for _ in range(VAIN + 1):  # no trace of these is held against the model
        with pytest.raises(ModelError, match="does not fit"):
            model.run({"input": x[:, :, :5]}, [names[-1]])
    assert all(kind.vain == 0 for kind in model._templates._kinds.values())


# Symbols


def counted(n: Any, m: Any) -> tuple[Any, ...]:
    """Arithmetic of all kinds, with a decision."""
    area, half = n * m, (n - 1) // 2 + 1
    rows = math.ceil(area / 7) if area > 100 else -area
    return area, half, rows, 3 + n % 5, apply(min, area, 64), (7 // m, 2**m), apply(divmod, area, 9), abs(3 - n), 100 - m


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_formula_gives_what_the_arithmetic_gives(sizes: list[tuple[int, int]]) -> None:
    with Trace(sizes[0]) as trace:
        noted = counted(*trace.inputs)
        place = trace.place(noted)
    formula, moved = trace.end([place])
    for n, m in sizes:
        values = formula.values((n, m))
        same = (n * m > 100) == (sizes[0][0] * sizes[0][1] > 100)
        assert (values is not None) == same
        if values is not None:
            assert values[moved[place]] == counted(n, m)


@pytest.mark.parametrize(
    "use", [range, hash, str, float, lambda n: np.zeros(n), lambda n: np.array([n, 2]).astype(int), lambda n: f"{n}", list]
)
def test_a_size_that_leaves_arithmetic_is_decided_on(use: Any) -> None:
    with Trace([5]) as trace:
        try:
            use(trace.inputs[0])
        except TypeError:
            return
        formula, _ = trace.end([])
    assert trace.narrow or use is list
    assert formula.values([5]) is not None
    assert formula.values([6]) is None


def test_decisions_on_comparisons_and_truth() -> None:
    with Trace([5]) as trace:
        (n,) = trace.inputs
        assert n != None and n not in (..., "5") and not n == "5"  # noqa: E711, SIM201
        assert n in (3, 5)
        assert n - 4
        assert settled(apply(max, n, 2)) == 5
        formula, _ = trace.end([])
    assert formula.values([5]) is not None
    assert formula.values([4]) is None
    assert formula.values(["a"]) is None  # type: ignore[list-item]


def test_nothing_is_noted_after_the_end() -> None:
    with Trace([5]) as trace:
        (n,) = trace.inputs
    for use in (lambda: n + 1, lambda: int(n), lambda: n < 3, lambda: apply(abs, n)):
        with pytest.raises((TraceEnded, TypeError)):
            use()
    with Trace([6]) as other, pytest.raises(TraceEnded):
        other.place(n)


def test_a_new_size_is_planned_in_a_fraction_of_the_time() -> None:
    graph, weights = nbconv.load(rapidocr("det")).graph, Weights()
    templates, fetch, ratios = Templates(graph, weights, host()), tuple(graph.outputs), []
    for i in range(24):
        inputs = {"x": Spec((1, 3, 64 + 32 * (i % 5), 96 + 32 * (i // 5)), F32)}
        times = [time.thread_time()]
        templates.plan(inputs, fetch)
        times.append(time.thread_time())
        Plan(graph, inputs, weights, fetch, host())
        times.append(time.thread_time())
        ratios.append((times[1] - times[0]) / (times[2] - times[1]))
    assert sorted(ratios)[len(ratios) // 2] < 0.6


@pytest.mark.parametrize(
    "body",
    [
        "k = Mul(w, h) y = Conv<pads = [1, 1, 1, 1]>(x, k, b)",
        "k = Mul(b, h) y = Conv<pads = [1, 1, 1, 1]>(x, w, k)",
        "c = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Mul(c, h)",
        "k = Sqrt(h) c = Conv<pads = [1, 1, 1, 1]>(x, w) d = Div(c, k) e = Add(d, h) y = Relu(e)",
        "p = GlobalAveragePool(x) f = Flatten(p) k = Mul(m, h) y = MatMul(f, k)",
        "k = Mul(w, h) c = Conv<pads = [1, 1, 1, 1]>(x, k, b) y = Mul(c, h)",
        "k = Squeeze(h) l = Neg(k) c = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Clip(c, l, k)",
    ],
)
def test_weights_that_sizes_decide(body: str) -> None:
    """Models of many sizes, one after another, have the bits of models that see one size: nothing packed is kept."""
    rng = np.random.default_rng(5)
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, H, W] x) => (float[] y)
        <float[4, 3, 3, 3] w, float[4] b, float[3, 2] m> {{
            s = Shape<start = 2>(x) r = Cast<to = 1>(s) i = Constant<value_ints = [0]>() h = Gather(r, i) {body} }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in (("w", (4, 3, 3, 3)), ("b", (4,)), ("m", (3, 2))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    graph, _ = import_graph(Source(model.SerializeToString()))
    many = Model(graph)
    for size in rng.integers(3, 14, (12, 2)):
        x = rng.standard_normal((1, 3, *size)).astype(np.float32)
        np.testing.assert_array_equal(many.run({"x": x})["y"], Model(graph).run({"x": x})["y"])
