"""The ops' calls on a device, held to the references as `tests/kernels/harness.py` holds them on the CPU."""

from __future__ import annotations

import numpy as np

from nbconv.errors import ModelError
from nbconv.model import Model
from tests.check import Case, answer
from tests.kernels.harness import agree, one_node, tolerances, variants


def check_on_device(row: Case) -> int:
    """Runs a call on "cuda:0" every way there is, in layouts both; how many models ran with a kernel. Results are held to the
    reference in float64 within c·ε·Σ|terms|."""
    op, inputs = row.op, row.inputs
    want = answer(op, inputs)[: row.options.get("outputs", 1)]
    ran, bounds = 0, None
    for fed in variants(op, inputs):
        for wrapped in (False, True):
            graph = one_node(op, inputs, len(want), fed, wrapped)
            if graph is None:
                continue
            feeds = {f"x{i}": inputs[i] for i in fed}
            if not has_kernels(graph, feeds, wrapped):
                continue
            bounds = bounds or tolerances(op, inputs, want)
            got = Model(graph, device="cuda").run(feeds)
            for (name, y), e, (exact, bound) in zip(got.items(), want, bounds, strict=True):
                agree(y, e, exact, bound, f"{name} of {op!r}, inputs {fed} fed{', channels last' * wrapped}")
            ran += 1
    return ran


def has_kernels(graph, feeds: dict[str, np.ndarray], wrapped: bool) -> bool:
    """Whether a kernel does the op, and not NumPy alone."""
    try:
        plan = Model(graph).plan({name: x.shape for name, x in feeds.items()})
    except (ModelError, ValueError):
        return False
    return any(step.kernel and not (wrapped and step.kernel == "pool.max_pool") for step in plan.steps)
