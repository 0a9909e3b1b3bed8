"""Implementation lists: each row does what it fits, and nobody else knows kernels by their names."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.kernels import store
from nbconv.kernels.target import target
from nbconv.lowering.conv import CONVOLUTIONS, WEIGHT_GRADIENTS, parts
from nbconv.lowering.gemm import PRODUCTS, Operands, packed
from nbconv.lowering.gemm.problem import operand, problem
from nbconv.lowering.packing import cut
from nbconv.lowering.step import Ref
from nbconv.lowering.weights import Weights
from nbconv.model import Model
from nbconv.ops import conv_weight_grad, convolution, linear, lookup
from nbconv.plan.plan import Plan
from tests.kernels.harness import reference, unwritten

ROOT = Path(__file__).resolve().parent.parent
F32 = np.dtype(np.float32)

SAME: dict[str, Any] = {"pads": (1, 1, 1, 1)}
CASES: list[tuple[str, str, str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("depthwise", "", "Conv", (2, 19, 9, 8), (19, 1, 3, 3), {"group": 19, **SAME}),
    ("depthwise_transposed", "", "ConvTranspose", (1, 19, 5, 4), (19, 1, 3, 3), {"group": 19, "strides": (2, 2)}),
    ("depthwise_multiplied", "", "Conv", (2, 19, 9, 8), (57, 1, 3, 3), {"group": 19, "strides": (2, 1), **SAME}),
    ("grouped", "", "Conv", (2, 48, 9, 8), (48, 4, 3, 3), {"group": 12, "strides": (2, 1), **SAME}),
    ("first_layer", "", "Conv", (2, 3, 11, 9), (16, 3, 5, 3), {"strides": (1, 2), "pads": (1, 1, 0, 1)}),
    ("small_channels", "", "Conv", (2, 3, 11, 9), (20, 3, 3, 5), {"strides": (2, 1), "pads": (1, 2, 0, 2)}),
    ("small_channels", "", "Conv", (1, 3, 11, 9), (20, 3, 3, 5), {"strides": (2, 1), "pads": (1, 2, 0, 1)}),
    ("small_channels", "", "Conv", (1, 2, 30), (9, 2, 7), {"strides": (4,), "pads": (3, 0)}),
    ("small_channels", "", "Conv", (1, 3, 8, 8), (5, 3, 4, 4), {"strides": (4, 4)}),
    ("whole_window", "", "Conv", (2, 18, 5, 4), (33, 18, 5, 4), {}),
    ("whole_window", "", "Conv", (3, 16, 7), (5, 16, 7), {}),
    ("disjoint_product", "", "ConvTranspose", (1, 18, 5, 4), (18, 7, 2, 2), {"strides": (2, 2)}),
    ("indirect_gemm", "", "Conv", (1, 18, 9, 8), (33, 18, 3, 3), SAME),
    ("indirect_gemm", "", "Conv", (2, 40, 5, 7), (24, 10, 1, 1), {"group": 4}),
    ("transposed_phases", "", "ConvTranspose", (1, 18, 5, 4), (18, 14, 3, 3), {"strides": (2, 1)}),
    ("transposed_phases", "", "ConvTranspose", (1, 18, 5, 4), (18, 14, 3, 3), SAME),
    *((f"winograd_{k}", "", "Conv", (2, 18, 9, 8), (33, 18, 3, 3), SAME) for k in (2, 4)),
    *((f"winograd_{k}", "", "ConvTranspose", (1, 36, 9, 8), (36, 14, 3, 3), {"group": 2, **SAME}) for k in (2, 4)),
    ("weight_grad", "nbconv", "ConvGradWeight", (2, 18, 9, 8), (2, 33, 9, 8), {"kernel_shape": (3, 3), **SAME}),
    ("weight_grad_depthwise", "nbconv", "ConvGradWeight", (2, 19, 9, 8), (2, 19, 9, 8),
     {"kernel_shape": (3, 3), "group": 19, **SAME}),
    ("weight_grad_grouped", "nbconv", "ConvGradWeight", (2, 64, 9, 8), (2, 64, 9, 8),
     {"kernel_shape": (3, 3), "group": 16, **SAME}),
    ("weight_grad_small_channels", "nbconv", "ConvGradWeight", (2, 3, 9, 8), (2, 20, 9, 8),
     {"kernel_shape": (3, 3), **SAME}),
]  # fmt: skip
"""Row, op, shapes of x and w (or dy), attributes."""


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Leaves one row in the lists."""
    monkeypatch.setattr(convolution, "CONVOLUTIONS", [row for row in CONVOLUTIONS if row.name == name])
    monkeypatch.setattr(conv_weight_grad, "WEIGHT_GRADIENTS", [row for row in WEIGHT_GRADIENTS if row.name == name])


@pytest.mark.parametrize("row,domain,op,x,w,fields", CASES)
@pytest.mark.parametrize("constant", [True, False])
def test_each_row_does_what_it_fits(monkeypatch, row, domain, op, x, w, fields, constant) -> None:
    if constant and domain:
        pytest.skip("dy is never a constant")
    only(monkeypatch, row)
    arrays = {"x": rand(*x), "w": rand(*w)}
    fed = {"x": arrays["x"]} if constant else arrays
    inputs = {name: Spec(array.shape, F32) for name, array in fed.items()}
    node = Node(lookup(op, domain)(**fields), ("x", "w"), ("y",))
    graph = Graph([node], inputs, {"y": None}, {n: a for n, a in arrays.items() if n not in fed})
    model = Model(graph, threads=2)
    plan = model.plan({name: array.shape for name, array in fed.items()})
    assert row in {step.impl.name for step in plan.steps}
    want = reference(graph, fed)["y"]
    np.testing.assert_allclose(model.run(fed)["y"], want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("n,h,w", [(1, 0, 8), (2, 0, 8), (1, 8, 0), (1, 0, 0), (0, 6, 6)])
@pytest.mark.parametrize("pads", [(0, 3, 6, 3), (6, 3, 0, 3), (3, 3, 3, 3)])
def test_an_image_without_cells_is_its_padding(n: int, h: int, w: int, pads: tuple[int, ...]) -> None:
    """In a first layer, which copies it into a padded one: results are the bias, where there are any."""
    x, weights, b = rand(n, 3, h, w), rand(7, 3, 5, 5), rand(7)
    conv = Node(lookup("Conv")(pads=pads), ("x", "w", "b"), ("y",))
    model = Model(Graph([conv], {"x": Spec(x.shape, F32)}, {"y": None}, {"w": weights, "b": b}), threads=2)
    refs = [ref for step in model.plan({"x": x.shape}).steps for ref in step.arguments.values() if isinstance(ref, Ref)]
    assert all(ref.offset >= 0 for ref in refs), "before the padded image"
    y = model.run({"x": x})["y"]
    wanted = (n, 7, h + pads[0] + pads[2] - 4, w + pads[1] + pads[3] - 4)
    np.testing.assert_array_equal(y, np.broadcast_to(b[:, None, None], wanted))


def test_parts_of_a_convolution_skip_what_is_nothing(monkeypatch) -> None:
    """Over random windows, most of whose taps lie in the padding: the bits of the indirect GEMM, in any number of threads;
    with one part for each set of taps, and with what the cost model takes."""
    monkeypatch.setattr(parts, "WORTH", float("inf"))
    rng = np.random.default_rng(3)
    for i in range(40):
        kernel, stride, dilation = rng.integers(1, 5, 2), rng.integers(1, 4, 2), rng.integers(1, 9, 2)
        pads, size = rng.integers(0, 12, 4), rng.integers(1, 13, 2)
        pads[0] += max(0, (kernel[0] - 1) * dilation[0] + 1 - size[0])
        pads[1] += max(0, (kernel[1] - 1) * dilation[1] + 1 - size[1]) or not pads.any()
        n, group, ci, co = (
            int(rng.integers(1, 3)),
            int(rng.integers(1, 3)),
            int(rng.integers(16, 20)),
            int(rng.integers(2, 40)),
        )
        fields = {"strides": stride, "dilations": dilation, "pads": pads, "group": (group,)}
        fields = {name: tuple(map(int, value)) for name, value in fields.items()} | {"group": group}
        x, w, b = rand(n, group * ci, *size), rand(group * co, ci, *kernel), rand(group * co)
        graph = Graph(
            [Node(lookup("Conv")(**fields), ("x", "w", "b"), ("c",)), Node(lookup("Relu")(), ("c",), ("y",))],
            {"x": Spec(x.shape, F32)},
            {"y": None},
            {"w": w, "b": b},
        )
        made = []
        for name, threads in (("parts", 1), ("parts", 2), ("indirect_gemm", 1)):
            with monkeypatch.context() as one:
                only(one, name)
                if i % 2:
                    one.setattr(parts, "weighted_product", lambda flops, *_: flops)
                model = Model(graph, threads=threads)
                assert name in {step.impl.name for step in model.plan({"x": x.shape}).steps}
                made.append(model.run({"x": x})["y"])
                parts.parts.cache_clear()
        np.testing.assert_array_equal(made[0], made[1])
        np.testing.assert_array_equal(made[0], made[2], err_msg=f"{x.shape} {w.shape} {fields}")


PRODUCT_CASES: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Gemm", (5, 37), (37, 41), {}),
    ("Gemm", (1, 300), (300, 70), {"alpha": 0.5}),
    ("Gemm", (37, 5), (37, 41), {"transA": 1}),
    ("Gemm", (5, 37), (41, 37), {"transB": 1, "alpha": 3.0}),
    ("Gemm", (37, 5), (41, 37), {"transA": 1, "transB": 1}),
    ("MatMul", (2, 3, 5, 7), (2, 3, 7, 9), {}),
    ("MatMul", (3, 5, 7), (7, 9), {}),
    ("MatMul", (5, 7), (3, 7, 9), {}),
    ("MatMul", (7,), (7,), {}),
]
"""Op, shapes of a and b, attributes."""


@pytest.mark.parametrize("op,a,b,fields", PRODUCT_CASES)
@pytest.mark.parametrize("constant", [True, False])
def test_packed_gemm_does_each_product(op, a, b, fields, constant) -> None:
    arrays = {"a": rand(*a), "b": rand(*b)}
    fed = {"a": arrays["a"]} if constant else arrays
    inputs = {name: Spec(array.shape, F32) for name, array in fed.items()}
    nodes = [Node(lookup(op)(**fields), ("a", "b"), ("y",))]
    graph = Graph(nodes, inputs, {"y": None}, {n: x for n, x in arrays.items() if n not in fed})
    model = Model(graph, threads=2)
    plan = model.plan({name: array.shape for name, array in fed.items()})
    assert {step.impl.name for step in plan.steps} == {"packed_gemm"}
    assert {step.impl.candidates for step in plan.steps} == {("packed_gemm",)}
    want = reference(graph, fed)["y"]
    np.testing.assert_allclose(model.run(fed)["y"], want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_packed_gemm_turns_each_matrix_of_a_batch(monkeypatch) -> None:
    """No op asks for that yet: MatMul is made to."""

    def lower(self, to) -> None:
        batch, m, k, n, *strides = self.matrices(*to.inputs[:2])
        found = problem(to, batch, m, k, n, (True, False), (strides[0], strides[1]))
        packed.emit(to, found, Operands(to.input(0), operand(to, 1)))

    monkeypatch.setattr(linear.MatMul, "lower", lower)
    a, b = rand(3, 6, 6), rand(3, 6, 9)
    inputs = {"a": Spec(a.shape, F32), "b": Spec(b.shape, F32)}
    model = Model(Graph([Node(lookup("MatMul")(), ("a", "b"), ("y",))], inputs, {"y": None}, {}))
    np.testing.assert_allclose(model.run({"a": a, "b": b})["y"], a.swapaxes(1, 2) @ b, atol=1e-5)


def on_gpu(monkeypatch: pytest.MonkeyPatch, m: int, k: int, n: int, choices: dict[Any, str] | None = None) -> Plan:
    """The plan of a product there."""
    monkeypatch.setattr(Plan, "_assemble", lambda *_: None)  # kernels of a GPU need not be there
    inputs = {"a": Spec((m, k), F32)}
    graph = Graph([Node(lookup("Gemm")(), ("a", "b"), ("y",))], inputs, {"y": None}, {"b": rand(k, n)})
    return Plan(graph, inputs, Weights(), ("y",), target("cuda"), choices)


def test_on_a_gpu_products_are_split_where_costs_say_so(monkeypatch) -> None:
    """`tests/cuda/test_tiles.py` runs them."""
    sizes = (1, 2048, 1000), (49, 512, 512), (640, 512, 640), (49, 64, 64), (5, 3, 7), (300, 70, 33), (2048, 64, 2048)
    found = {}
    for m, k, n in sizes:
        (impl,) = {step.impl._replace(algorithm="") for step in on_gpu(monkeypatch, m, k, n).steps}
        how = cut(impl.problem, m, k, n, 1)
        assert impl.name == ("split_k" if how.parts > 1 else "packed_gemm")
        found[m, k, n] = impl.name, impl.candidates
    both = ("packed_gemm", "split_k")
    assert found[1, 2048, 1000] == ("split_k", both)
    assert found[5, 3, 7] == found[2048, 64, 2048] == ("packed_gemm", both[:1])
    assert found[49, 512, 512] == ("split_k", both) and found[640, 512, 640] == ("packed_gemm", both)


@pytest.mark.parametrize("name,kernels", [("packed_gemm", ["gemm.gemm"]), ("split_k", ["gemm.gemm", "gemm.finish"])])
def test_choices_of_products_are_obeyed(monkeypatch, name, kernels) -> None:
    for m, k, n in ((1, 2048, 1000), (640, 512, 640)):
        plain = on_gpu(monkeypatch, m, k, n)
        assert plain.steps[0].impl.candidates == ("packed_gemm", "split_k")
        plan = on_gpu(monkeypatch, m, k, n, {plain.steps[0].impl.problem: name})
        assert [step.kernel for step in plan.steps] == kernels
        assert {step.impl.name for step in plan.steps} == {name}


def test_every_row_is_tried() -> None:
    assert {row.name for row in PRODUCTS} == {"packed_gemm", "split_k"}
    tried = {case[0] for case in CASES}
    assert {row.name for row in (*CONVOLUTIONS, *WEIGHT_GRADIENTS)} - tried == {
        "winograd_steps_4", "winograd_steps_2",  # on a GPU
        "parts",  # by the test above
        "integer_gemm", "integer_depthwise", "integer_winograd",  # by tests/ops/test_integer_kernels.py
    }  # fmt: skip


def test_on_a_gpu_winograd_takes_three_steps(monkeypatch) -> None:
    """`tests/cuda/test_winograd.py` runs them."""
    graph = Graph(
        [Node(lookup("Conv")(pads=(1, 1, 1, 1)), ("x", "w"), ("y",))], {"x": Spec((1, 64, 9, 8), F32)}, {"y": None},
        {"w": rand(64, 64, 3, 3)},
    )  # fmt: skip
    for name in ("winograd_steps_4", "winograd_steps_2"):
        only(monkeypatch, name)
        monkeypatch.setattr(Plan, "_assemble", lambda *_: None)  # kernels of a GPU need not be there
        plan = Model(graph).plan({"x": (1, 64, 9, 8)}, target=target("cuda"))
        assert [s.impl.kind for s in plan.steps if s.impl.kind != "other"] == ["winograd"] * 3


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdaDelta", "RMSProp", "AdaGrad"])
def test_steps_read_what_was_written(optimizer: str) -> None:
    import nbconv
    from tests.train.models import batch, convolutional

    trainer = nbconv.Trainer(Model(convolutional()), optimizer=getattr(nbconv, optimizer)(lr=1e-3))
    trainer.step(*batch(shape=(2, 7, 9)))
    plan = next(iter(trainer._works.values())).step.plan
    assert unwritten(plan) == []
    made = {plan.root(n) for step in plan.steps for n in step.writes}
    assert made >= {plan.root(n) for step in plan.steps for n in step.node.outputs if n} - {*plan.constants, *plan.inputs}


def test_kernels_are_not_compared_by_name() -> None:
    """Outside of the kernels' own layer and lowering, no text that is a kernel's name, or the start of one."""
    families = {name for name in store.modules() if not name.startswith("_")}
    found = []
    for folder in ("passes", "plan", "runtime", "edit", "train", "tools", "compat", "commands"):
        for path in sorted((ROOT / "nbconv" / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    held: list[ast.AST] = [node.left, *node.comparators]
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
                    held = [*node.args]
                else:
                    continue
                for text in (t for h in held for t in ast.walk(h) if isinstance(t, ast.Constant)):
                    if isinstance(text.value, str) and text.value.partition(".")[0] in families and "." in text.value:
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text.value}")
    assert found == []
