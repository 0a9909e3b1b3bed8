"""Which algorithm is fastest here: candidates timed in whole runs, once, instead of a cost model's word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph import Spec
from nbconv.lowering.winograd import geometry
from nbconv.plan.plan import NUMPY_STEP, Plan
from nbconv.runtime.executor import Workspace, time_steps

if TYPE_CHECKING:
    from nbconv.lowering.context import Step
    from nbconv.model import Model

RUNS = 7
"""Runs of each plan that are timed; the median counts."""
GAIN = 0.97
"""A choice that differs from the cost model's must take less than this part of its time."""
CANDIDATES = (0, 2, 4)
"""For a 3×3 convolution of stride 1: direct, Winograd F(2×2) and F(4×4)."""


def tune(model: Model, plain: Plan, threads: int) -> dict[str, int]:
    """The choices by which a plan for the inputs of ``plain``, the cost model's plan, is fastest on this machine now: by the
    geometry of each convolution that has alternatives, the tile's side (0 direct). ``plain`` is bound and run. Takes some
    ten runs of the model a candidate. Results may differ in their last bits from those of the cost model's plan, and from
    one tuning to another.
    """
    inputs = plain.inputs
    found: dict[str, dict[int | None, float]] = {}
    for name, seconds in _times(plain, inputs, threads).items():
        found[name] = {None: seconds}
    default = _sizes(plain)
    for size in CANDIDATES:
        plan = Plan(model.graph, inputs, model.weights, plain.fetch, plain.target, dict.fromkeys(default, size))
        for name, seconds in _times(plan, inputs, threads).items():
            found.setdefault(name, {})[size] = seconds
    choices = {}
    for name, times in found.items():
        best = min((s for s in times if s is not None), key=lambda s: times[s], default=None)
        if best is not None and best != default.get(name) and times[best] < GAIN * times.get(None, np.inf):
            choices[name] = best
    return choices


def _geometry(step: Step) -> tuple[str, int] | None:
    """(the name of the convolution that the step does, the side of its tiles) where there are candidates for it."""
    if step.kernel not in ("winograd.winograd", "conv.conv"):
        return None
    a: dict[str, Any] = {**step.arguments}
    m, oh, ow, ci, co = (a[f"image.{name}"] for name in ("m", "oh", "ow", "cg", "og"))
    if step.kernel == "winograd.winograd":
        return geometry(m // (oh * ow), oh, ow, ci, co), a["filtering.size"]
    if [a[f"window.{name}"] for name in ("kh", "kw", "sh", "sw", "dh", "dw")] == [3, 3, 1, 1, 1, 1]:
        return geometry(m // (oh * ow), oh, ow, ci, co), 0
    return None


def _sizes(plan: Plan) -> dict[str, int]:
    return dict(found for step in plan.steps if (found := _geometry(step)) is not None)


def _times(plan: Plan, inputs: dict[str, Spec], threads: int) -> dict[str, float]:
    """Seconds that the convolutions of each geometry take together, each step in its place in a run."""
    program = plan.bound()
    space = Workspace(program)
    feeds = {name: np.zeros(spec.shape, spec.dtype) for name, spec in inputs.items()}
    results = [np.empty(shape, dtype) for _, shape, dtype in program.results]
    space.run(feeds, results, threads)
    medians = np.median(time_steps(space, feeds, results, threads, RUNS), 0)
    total: dict[str, float] = {}
    for step, seconds in zip(plan.steps, medians, strict=True):
        found = _geometry(step) if step.kernel != NUMPY_STEP else None
        if found is not None:
            total[found[0]] = total.get(found[0], 0.0) + float(seconds)
    return total
