"""No op without a case, and none without a gradient that could have one."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np

import tests.ops
from nbconv.graph import Spec, spec_of
from nbconv.ops import REGISTRY, Op
from nbconv.passes.autodiff import differentiable
from tests.check import Case
from tests.gradients import PENDING, arguments

INNER = {"Fused", "Reorder"}
"""Ops that passes make behind the gradients, which their own tests hold."""
UNTENSORED = {"Optional", "OptionalGetElement", "OptionalHasElement", "SequenceMap"}
"""Ops on values that are no tensors, which tests/test_values.py holds."""


def cases() -> list[Case]:
    modules = [importlib.import_module(f"tests.ops.{m.name}") for m in pkgutil.iter_modules(tests.ops.__path__)]
    return [row for module in modules for row in getattr(module, "CASES", [])]


def test_every_op_has_a_case() -> None:
    checked = {(row.op.domain, row.op.type) for row in cases()}
    bare = sorted(
        f"{domain} {type}"
        for domain, type in REGISTRY
        if domain in ("", "nbconv", "com.microsoft") and (domain, type) not in checked and type not in INNER | UNTENSORED
    )
    assert not bare, f"ops without a case in tests/ops: {', '.join(bare)}"


def test_every_differentiable_op_has_a_gradient() -> None:
    """Which ops are excepted says `nbconv.passes.autodiff.differentiable`. Not only must there be a method: some case
    must have put it to the proof."""
    needs: set[str] = set()
    proven: set[str] = set()
    for row in cases():
        if row.op.domain:
            continue
        given = tuple(
            None if x is None else Spec(x.shape, x.dtype) if i == 0 or x.dtype == np.float32 else spec_of(x)
            for i, x in enumerate(row.inputs)
        )
        if differentiable(row.op, given) or arguments(row.op, row.inputs):
            needs.add(row.op.type)
        if arguments(row.op, row.inputs) and all(row.inputs[i].size for i in arguments(row.op, row.inputs)):  # pyright: ignore[reportOptionalMemberAccess]
            proven.add(row.op.type)
    bare = {name for name in needs if REGISTRY["", name].gradient is Op.gradient}
    assert bare == PENDING, f"differentiable ops without a gradient: {', '.join(sorted(bare ^ PENDING))}"
    assert needs <= proven, f"gradients that no case proves: {', '.join(sorted(needs - proven))}"
    assert {"Add", "Softmax", "Resize", "LayerNormalization", "Gather"} <= needs
    assert needs.isdisjoint({"Shape", "ArgMax", "Greater", "And", "QuantizeLinear", "Constant", "Range", "IsNaN"})
