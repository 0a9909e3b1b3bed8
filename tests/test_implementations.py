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
from nbconv.lowering.conv import CONVOLUTIONS, WEIGHT_GRADIENTS
from nbconv.model import Model
from nbconv.ops import conv, lookup
from nbconv.plan.plan import Plan
from tests.kernels.harness import reference, unwritten

ROOT = Path(__file__).resolve().parent.parent
F32 = np.dtype(np.float32)

SAME: dict[str, Any] = {"pads": (1, 1, 1, 1)}
CASES: list[tuple[str, str, str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("depthwise", "", "Conv", (2, 19, 9, 8), (19, 1, 3, 3), {"group": 19, **SAME}),
    ("depthwise_transposed", "", "ConvTranspose", (1, 19, 5, 4), (19, 1, 3, 3), {"group": 19, "strides": (2, 2)}),
    ("small_channels", "", "Conv", (2, 3, 11, 9), (20, 3, 3, 5), {"strides": (2, 1), "pads": (1, 2, 0, 2)}),
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
    ("weight_grad_small_channels", "nbconv", "ConvGradWeight", (2, 3, 9, 8), (2, 20, 9, 8),
     {"kernel_shape": (3, 3), **SAME}),
]  # fmt: skip
"""Row, op, shapes of x and w (or dy), attributes."""


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Leaves one row in the lists."""
    monkeypatch.setattr(conv, "CONVOLUTIONS", [row for row in CONVOLUTIONS if row.name == name])
    monkeypatch.setattr(conv, "WEIGHT_GRADIENTS", [row for row in WEIGHT_GRADIENTS if row.name == name])


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


def test_every_row_is_tried() -> None:
    tried = {case[0] for case in CASES}
    assert {row.name for row in (*CONVOLUTIONS, *WEIGHT_GRADIENTS)} - tried == {"winograd_steps_4", "winograd_steps_2"}


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
