"""What each step of a plan costs: its work by the arguments of its kernel, its time by running it, and how close it comes
to the roofline of the machine, where that is a CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import DataDependentError
from nbconv.plan.cost import nbytes
from nbconv.runtime.executor import Workspace, time_steps, workspace
from nbconv.tools import stages
from nbconv.tools.roofline import roofline
from nbconv.tools.timed import Profile, share_of_roof, timed

if TYPE_CHECKING:
    from nbconv.model import Model
    from nbconv.plan.plan import Plan

KINDS = ("pointwise", "winograd", "convolution", "depthwise", "dense", "other", "numpy")
"""Kinds of steps, see `Impl`."""


def as_json(found: Profile, name: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """All of a profile as numbers, texts, lists and dicts: seconds, bytes, operations a second; None is not known."""
    plan, total = found.plan, found.total
    weights = {id(array): array.nbytes for one in found.plans for array in one.arrays.values()}
    steps = []
    for s in found.steps:
        seconds = s.seconds
        steps.append(
            {
                "step": s.number,
                "name": s.name,
                "op": repr(s.step.node.op).partition("(")[0],
                "kind": s.kind,
                "implementation": s.step.impl.name if s.step.impl.candidates else None,
                "kernel": s.step.kernel or "numpy",
                "algorithm": s.algorithm,
                "shape": list(s.shape),
                "units": s.step.units,
                "calls": s.calls,
                "seconds": seconds,
                "share": seconds / total if total else 0.0,
                "flops": s.cost.flops,
                "arithmetic": s.cost.arithmetic,
                "reads": s.cost.reads,
                "writes": s.cost.writes,
                "weights": s.cost.weights,
                "flops_per_second": s.cost.flops / seconds,
                "arithmetic_per_second": s.cost.arithmetic / seconds,
                "bytes_per_second": s.cost.nbytes / seconds,
                "bound": s.bound,
                "share_of_roof": s.share_of_roof,
                "limit": s.limit,
                "level": s.level,
            }
        )
    kinds = {}
    for kind in KINDS:
        mine = [s for s in found.steps if s.kind == kind]
        if mine:
            seconds, flops = sum(s.seconds for s in mine), sum(s.cost.flops for s in mine)
            kinds[kind] = {
                "steps": len(mine),
                "seconds": seconds,
                "share": seconds / total,
                "flops_per_second": flops / seconds,
                "share_of_roof": share_of_roof(mine, seconds),
            }
    return {
        "model": name,
        "inputs": {n: list(s) for n, s in shapes.items()},
        "target": plan.target.name,
        "threads": found.threads,
        "runs": found.runs,
        "seconds": found.seconds,
        "sum_of_steps": total,
        "flops": sum(s.cost.flops for s in found.steps),
        "share_of_roof": share_of_roof(found.steps, total),
        "roofline": None if found.roof is None else found.roof.as_json(),
        "stages": len(found.plans) if found.staged else None,
        "memory": {"arena": max(one.arena for one in found.plans), "weights": sum(weights.values())},
        "kinds": kinds,
        "steps": steps,
    }


def profile(
    model: Model, feeds: Mapping[str, Any], *, threads: int | None = None, runs: int = 20, warmup: int = 2
) -> Profile:
    """Time each step of a model's plan for these inputs, in the order in which they run, ``runs`` times: medians. On a GPU a
    step's time holds its launch, the copies that it needs, and the wait until it is done. Where values decide shapes, the
    steps of all stages are timed in a run, on a CPU."""
    given = {name: np.require(array, requirements="C") for name, array in feeds.items()}
    count = model.threads if threads is None else threads
    try:
        plan = model.plan({name: array.shape for name, array in given.items()})
    except DataDependentError:
        if model.device != "cpu":
            raise
        return stages.profile(model, given, count, runs, warmup)
    program = model.bound(plan)
    space = workspace(program)
    results = [np.empty(shape, dtype) for _, shape, dtype in program.results]
    for _ in range(warmup):
        space.run(given, results, count)
    whole = []
    for _ in range(max(3, runs)):
        start = time.perf_counter()
        space.run(given, results, count)
        whole.append(time.perf_counter() - start)
    seconds = float(np.median(whole))
    if isinstance(space, Workspace):
        times = np.median(time_steps(space, given, results, count, runs), 0)
        roof = roofline(count, plan.target)
        return Profile([plan], roof, count, runs, seconds, timed(plan, roof, times))
    from nbconv.runtime.cuda.workspace import time_steps as time_on_device

    times = np.median(time_on_device(space, given, runs), 0)
    return Profile([plan], None, None, runs, seconds, timed(plan, None, times))


class Life(NamedTuple):
    """Where and when a value lies in the arena: bytes from ``offset``, steps ``begin`` to ``end``, both included."""

    name: str
    offset: int
    nbytes: int
    begin: int
    end: int


def lives(plan: Plan) -> list[Life]:
    """Every value that the arena holds."""
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    for i, step in enumerate(plan.steps):
        for name in plan._touched(step):
            begins.setdefault(name, i)
            ends[name] = i
    for _, name in plan.copies:
        if name in ends:
            ends[name] = len(plan.steps) - 1
    return [Life(n, at, plan._scratches.get(n) or nbytes(plan, n), begins[n], ends[n]) for n, at in plan.offsets.items()]
