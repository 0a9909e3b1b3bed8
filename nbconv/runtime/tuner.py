"""Which algorithm is fastest here: candidates timed in whole runs, once, instead of a cost model's word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.plan.plan import Plan
from nbconv.runtime.executor import Workspace, time_steps

if TYPE_CHECKING:
    from nbconv.graph import Graph
    from nbconv.lowering.step import Impl
    from nbconv.lowering.weights import Weights

RUNS = 7
"""Runs of each plan that are timed; the median counts."""
GAIN = 0.97
"""A choice that differs from the cost model's must take less than this part of its time."""

Times = dict[Any, float]
"""Seconds by problem."""


def tune(graph: Graph, weights: Weights, plain: Plan, threads: int) -> dict[Any, str]:
    """The choices by which a plan of ``graph`` for the inputs of ``plain``, the cost model's plan, is fastest here and now:
    by problem that several implementations fit, the name of one. ``plain`` is bound and run. Takes some ten runs of the
    model a candidate. Results may differ in their last bits from those of the cost model's plan, and from one tuning to
    another.
    """
    default = _chosen(plain)
    found: dict[str, Times] = {"": _times(plain, threads)}
    for name in dict.fromkeys(n for impl in default.values() for n in impl.candidates):
        choices = {problem: name for problem, impl in default.items() if name in impl.candidates}
        plan = Plan(graph, plain.inputs, weights, plain.fetch, plain.target, choices)
        found[name] = _times(plan, threads)
    choices = {}
    for problem, impl in default.items():
        times = {name: found[name][problem] for name in impl.candidates}
        best = min(times, key=lambda name: times[name])
        if best != impl.name and times[best] < GAIN * found[""][problem]:
            choices[problem] = best
    return choices


def _chosen(plan: Plan) -> dict[Any, Impl]:
    """By problem that several implementations fit, the one that the plan has."""
    return {step.impl.problem: step.impl for step in plan.steps if len(step.impl.candidates) > 1}


def _times(plan: Plan, threads: int) -> Times:
    """Seconds that all that do one problem take together, each step in its place in a run."""
    program = plan.bound()
    space = Workspace(program)
    feeds = {name: np.zeros(spec.shape, spec.dtype) for name, spec in plan.inputs.items()}
    results = [np.empty(shape, dtype) for _, shape, dtype in program.results]
    space.run(feeds, results, threads)
    medians = np.median(time_steps(space, feeds, results, threads, RUNS), 0)
    total: Times = {}
    for step, seconds in zip(plan.steps, medians, strict=True):
        if len(step.impl.candidates) > 1:
            total[step.impl.problem] = total.get(step.impl.problem, 0.0) + float(seconds)
    return total
