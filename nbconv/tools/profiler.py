"""What each step of a plan costs: its work by the arguments of its kernel, its time by running it, and how close it comes
to the roofline of the machine, where that is a CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.lowering.step import Cost, Step
from nbconv.plan.cost import cost, nbytes
from nbconv.runtime.executor import Workspace, time_steps, workspace
from nbconv.tools.roofline import Roofline, roofline

if TYPE_CHECKING:
    from nbconv.model import Model
    from nbconv.plan.plan import Plan

KINDS = ("pointwise", "winograd", "convolution", "depthwise", "dense", "other", "numpy")
"""Kinds of steps, see `Impl`."""


class Timed(NamedTuple):
    """One step of a profile. ``bound`` is the least time that the roofline allows, ``limit`` what sets it ("compute", or the
    level of the memory: of the weights where these take longest), ``level`` what holds its values. None on a GPU, whose
    roofline is not known."""

    number: int
    step: Step
    name: str
    kind: str
    algorithm: str
    seconds: float
    cost: Cost
    bound: float | None
    limit: str | None
    level: str | None

    @property
    def share_of_roof(self) -> float | None:
        """The bound over the time: 1 is the best that there can be."""
        return share_of_roof([self], self.seconds)


class Profile(NamedTuple):
    """``seconds`` is the median of whole runs, which do not stop between steps. A GPU has no ``threads`` to count, and its
    ``roof`` is not known."""

    plan: Plan
    roof: Roofline | None
    threads: int | None
    runs: int
    seconds: float
    steps: list[Timed]

    @property
    def total(self) -> float:
        """The sum of the steps' times."""
        return sum(s.seconds for s in self.steps)


def share_of_roof(steps: list[Timed], seconds: float) -> float | None:
    """The least time of these steps over the time that they took; None where it is not known."""
    bounds = [s.bound for s in steps if s.bound is not None]
    if len(bounds) < len(steps):
        return None
    return sum(bounds) / seconds if seconds > 0 else 0.0


def as_json(found: Profile, name: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """All of a profile as numbers, texts, lists and dicts: seconds, bytes, operations a second; None is not known."""
    plan, total = found.plan, found.total
    steps = []
    for s in found.steps:
        seconds, made = s.seconds, plan.specs[s.step.node.outputs[0]]
        steps.append(
            {
                "step": s.number,
                "name": s.name,
                "op": repr(s.step.node.op).partition("(")[0],
                "kind": s.kind,
                "implementation": s.step.impl.name if s.step.impl.candidates else None,
                "kernel": s.step.kernel or "numpy",
                "algorithm": s.algorithm,
                "shape": list(made.shape),
                "units": s.step.units,
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
        "memory": {"arena": plan.arena, "weights": sum(a.nbytes for a in plan.arrays.values())},
        "kinds": kinds,
        "steps": steps,
    }


def profile(
    model: Model, feeds: Mapping[str, Any], *, threads: int | None = None, runs: int = 20, warmup: int = 2
) -> Profile:
    """Time each step of a model's plan for these inputs, in the order in which they run, ``runs`` times: medians. On a GPU a
    step's time holds its launch, the copies that it needs, and the wait until it is done."""
    given = {name: np.require(array, requirements="C") for name, array in feeds.items()}
    count = model.threads if threads is None else threads
    plan = model.plan({name: array.shape for name, array in given.items()})
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
        return Profile(plan, roof, count, runs, seconds, timed(plan, roof, times))
    from nbconv.runtime.cuda.workspace import time_steps as time_on_device

    times = np.median(time_on_device(space, given, runs), 0)
    return Profile(plan, None, None, runs, seconds, timed(plan, None, times))


def timed(plan: Plan, roof: Roofline | None, times: np.ndarray) -> list[Timed]:
    """The plan's steps with their seconds, costs and bounds."""
    costs = [cost(plan, step) for step in plan.steps]
    everything = sum(plan.arrays[n].nbytes for n in plan.arrays) + plan.arena
    found = []
    for i, (step, c, seconds) in enumerate(zip(plan.steps, costs, times, strict=True)):
        bound, limit, level = bounded(c, roof, everything) if roof is not None else (None, None, None)
        name = step.node.name or step.node.outputs[0]
        found.append(Timed(i, step, name, step.impl.kind, step.impl.algorithm, float(seconds), c, bound, limit, level))
    return found


def bounded(c: Cost, roof: Roofline, everything: float) -> tuple[float, str, str]:
    """(seconds that a step takes at least, what sets them, the level that holds its values). Values come from the nearest
    levels; weights from the one that holds all that a run touches (``everything``), since a run reads each of them once."""
    level, far = roof.level(c.reads + c.writes), roof.level(everything)
    weights = c.weights / far.read
    moving = roof.move(c.reads, c.writes) + weights
    computing = c.arithmetic / roof.flops
    if computing >= moving:
        return computing, "compute", level.name
    return moving, far.name if weights > moving / 2 else level.name, level.name


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
