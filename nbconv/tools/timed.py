"""Steps with their times, work, and what the roofline allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbconv.lowering.step import Cost, Step
from nbconv.plan.cost import cost
from nbconv.tools.roofline import Roofline

if TYPE_CHECKING:
    from nbconv.plan.plan import Plan


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
    shape: tuple[int, ...]
    """of its first result"""
    calls: int = 1
    """times that a run does it, all of which ``seconds`` and ``cost`` add up"""

    @property
    def share_of_roof(self) -> float | None:
        """The bound over the time: 1 is the best that there can be."""
        return share_of_roof([self], self.seconds)


class Profile(NamedTuple):
    """``seconds`` is the median of whole runs, which do not stop between steps. A GPU has no ``threads`` to count, and its
    ``roof`` is not known. ``plans``: one, or those of all stages."""

    plans: list[Plan]
    roof: Roofline | None
    threads: int | None
    runs: int
    seconds: float
    steps: list[Timed]
    staged: bool = False
    """whether values decide shapes: then steps are those of all stages, and nodes that are done between them"""

    @property
    def plan(self) -> Plan:
        """The plan, or that of the first stage."""
        return self.plans[0]

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


def timed(plan: Plan, roof: Roofline | None, times: np.ndarray) -> list[Timed]:
    """The plan's steps with their seconds, costs and bounds."""
    costs = [cost(plan, step) for step in plan.steps]
    everything = sum(plan.arrays[n].nbytes for n in plan.arrays) + plan.arena
    found = []
    for i, (step, c, seconds) in enumerate(zip(plan.steps, costs, times, strict=True)):
        bound, limit, level = bounded(c, roof, everything) if roof is not None else (None, None, None)
        name = step.node.name or step.node.outputs[0]
        shape = plan.specs[next(filter(None, step.node.outputs))].shape
        found.append(
            Timed(i, step, name, step.impl.kind, step.impl.algorithm, float(seconds), c, bound, limit, level, shape)
        )
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
