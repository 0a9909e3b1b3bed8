"""The op harness on a device: each row of the ops' tables through a model, against the reference."""

from __future__ import annotations

import pytest

from nbconv.model import Model
from nbconv.ops import packing
from tests.check import Case, answer
from tests.kernels.harness import check_kernels, one_node


def check_on_device(table: str, row: Case, device: str = "cuda:0") -> None:
    """What `check_kernels` holds of the row's call on the CPU holds on the device; ``table``: where the row stands."""
    outputs = row.options.get("outputs", 1)
    with pytest.MonkeyPatch.context() as patch:
        if table == "tiles":
            patch.setattr(packing, "PROCESSORS", 1)
        check_kernels(row.op, row.inputs, answer(row.op, row.inputs)[:outputs], device)
    if table == "split":
        graph = one_node(row.op, row.inputs, outputs, (0,), False)
        assert graph is not None and row.inputs[0] is not None
        steps = Model(graph, device=device).plan({"x0": row.inputs[0].shape}).steps
        kernels = [step.kernel for step in steps if step.kernel.startswith(("gemm.", "conv."))]
        assert kernels and 2 * kernels.count("gemm.finish") == len(kernels), kernels
