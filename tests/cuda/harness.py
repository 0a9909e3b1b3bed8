"""The op harness on a device: each row of the ops' tables through a model, against the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nbconv.lowering import implementation, packing
from nbconv.lowering.conv import winograd
from nbconv.lowering.conv.winograd_steps import WINOGRAD_STEPS_2, WINOGRAD_STEPS_4
from nbconv.lowering.implementation import Implementation
from nbconv.model import Model
from tests.check import Case, answer
from tests.cuda.larger import Net
from tests.kernels.harness import check_kernels, one_node, reference


def check_on_device(table: str, row: Case | Net, device: str = "cuda:0") -> None:
    """What `check_kernels` holds of the row's call on the CPU holds on the device; ``table``: where the row stands."""
    if table == "tf32":
        device += ":tf32"
    with pytest.MonkeyPatch.context() as patch:
        if table in ("tiles", "tf32"):
            patch.setattr(packing, "PROCESSORS", 1)
        if table.startswith("winograd"):
            patch.setattr(winograd, "FEWEST", 1)
            patch.setattr(implementation, "choose", winograds(int(table[-1])))
        if isinstance(row, Net):
            check_net(row, device)
            return
        outputs = row.options.get("outputs", 1)
        check_kernels(row.op, row.inputs, answer(row.op, row.inputs)[:outputs], device)
    if table == "split":
        graph = one_node(row.op, row.inputs, outputs, (0,), False)
        assert graph is not None and row.inputs[0] is not None
        steps = Model(graph, device=device).plan({"x0": row.inputs[0].shape}).steps
        kernels = [step.kernel for step in steps if step.kernel.startswith(("gemm.", "conv."))]
        assert kernels and 2 * kernels.count("gemm.finish") == len(kernels), kernels


def winograds(size: int) -> Callable[..., Implementation]:
    """`choose`, with tiles of this size wherever they fit."""
    row, usual = {4: WINOGRAD_STEPS_4, 2: WINOGRAD_STEPS_2}[size], implementation.choose
    return lambda to, fitting, problem: row if row in fitting else usual(to, fitting, problem)


def check_net(row: Net, device: str) -> None:
    """The graph's y on the device is the reference's in float64, within 1e-5 of its largest element."""
    rng = np.random.default_rng(3)
    feeds = {n: rng.standard_normal(s.shape).astype(np.float32) for n, s in row.graph.inputs.items()}
    got, want = Model(row.graph, device=device).run(feeds)["y"], reference(row.graph, feeds)["y"]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max(), row.name
