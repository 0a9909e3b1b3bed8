"""The profile of a model whose shapes depend on values: the steps of all its stages, as one run after another does them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph import Graph, Spec
from nbconv.lowering.step import Cost, Impl, Step, Work
from nbconv.plan.plan import Plan
from nbconv.runtime.executor import Arenas, Ready, time_steps
from nbconv.runtime.kept import Kept
from nbconv.runtime.staged import Done, Staged
from nbconv.tools.roofline import Roofline, roofline
from nbconv.tools.timed import Profile, Timed, bounded, timed

if TYPE_CHECKING:
    from nbconv.model import Model


class _Timing(Ready):
    """A program of which a run times each step, when ``on`` says so."""

    def __init__(self, program: Any, plan: Plan, stages: _Stages) -> None:
        super().__init__(program)
        self.plan, self.stages = plan, stages
        self.seconds: list[np.ndarray] = []
        """of each step, call by call"""

    def run(self, arenas: Arenas, feeds: dict[str, np.ndarray], results: list[np.ndarray], threads: int) -> None:
        if not self.stages.on:
            super().run(arenas, feeds, results, threads)
            return
        arena = arenas.lease(self.program.arena)
        space = self.lease(arena)
        try:
            space.bind(feeds, results)
            self.seconds.append(time_steps(space, feeds, results, threads, 1)[0])  # type: ignore[arg-type]
            space.copy_out(results)
        finally:
            self.give_back(space)
            arenas.give_back(arena)


class _Stages:
    """What runs in stages do: their plans, and nodes between them."""

    def __init__(self, model: Model) -> None:
        self.model, self.on = model, False
        self.plans: dict[tuple, _Timing] = {}
        self.alone: dict[tuple[str, ...], tuple[Done, list[float]]] = {}

    def planned(
        self, graph: Graph, inputs: dict[str, Spec], fetch: tuple[str, ...], varying: frozenset[str], key: tuple
    ) -> Ready:
        model = self.model
        plan = Plan(graph, inputs, model.weights, fetch, model._target(), varying=varying)
        self.plans[key] = found = _Timing(model.bound(plan), plan, self)
        return found

    def done(self, done: Done) -> None:
        if self.on and done.how == "numpy":
            self.alone.setdefault(done.node.outputs, (done, []))[1].append(done.seconds)


def profile(model: Model, feeds: Mapping[str, Any], threads: int, runs: int, warmup: int) -> Profile:
    """Time each step of a run on these inputs, ``runs`` times: medians of what a run does of it in all, as in the turns of a
    loop."""
    stages = _Stages(model)
    inputs = tuple(model.graph.inputs)
    staged = Staged(lambda: model.graph, inputs, stages.planned, model._arenas, Kept(1 << 40), stages.done)
    fetch = tuple(model.graph.outputs)
    given = dict(feeds)
    for _ in range(max(1, warmup)):
        staged.run(given, fetch, threads)
    whole = []
    for _ in range(max(3, runs)):
        start = time.perf_counter()
        staged.run(given, fetch, threads)
        whole.append(time.perf_counter() - start)
    stages.on, runs = True, max(1, runs)
    for _ in range(runs):
        staged.run(given, fetch, threads)
    timings = [t for t in stages.plans.values() if t.seconds]
    plans = [t.plan for t in timings]
    roof = roofline(threads, model._target())
    found: dict[tuple, Timed] = {}
    for timing in timings:
        calls, seen = len(timing.seconds) // runs, Counter[tuple[str, ...]]()
        for step in timed(timing.plan, roof, _median(timing.seconds, runs) / calls):
            made = step.step.node.outputs
            seen[made] += 1
            key = (made, step.step.kernel, seen[made])
            more = _often(step, calls)
            found[key] = _sum(found[key], more) if key in found else more
    between = [_alone(done, seconds, roof, runs) for done, seconds in stages.alone.values()]
    steps = [s._replace(number=i) for i, s in enumerate([*found.values(), *between])]
    return Profile(plans, roof, threads, runs, float(np.median(whole)), steps, True)


def _median(seconds: list, runs: int) -> np.ndarray:
    """What a run takes, from what each of its calls took, run after run."""
    return np.median(np.sum(np.reshape(seconds, (runs, len(seconds) // runs, *np.shape(seconds[0]))), 1), 0)


def _often(s: Timed, calls: int) -> Timed:
    """A step that a run does so often."""
    cost = Cost(*(n * calls for n in s.cost))
    bound = None if s.bound is None else s.bound * calls
    return s._replace(calls=calls, seconds=s.seconds * calls, cost=cost, bound=bound)


def _sum(a: Timed, b: Timed) -> Timed:
    """A step for other shapes beside the same for some."""
    cost = Cost(*(x + y for x, y in zip(a.cost, b.cost, strict=True)))
    bound = None if a.bound is None or b.bound is None else a.bound + b.bound
    return b._replace(calls=a.calls + b.calls, seconds=a.seconds + b.seconds, cost=cost, bound=bound)


def _alone(done: Done, seconds: list[float], roof: Roofline, runs: int) -> Timed:
    """A node that NumPy or onnx's reference does between plans."""
    node = done.node
    given, made = ([x for x in values if isinstance(x, np.ndarray)] for values in (done.given, done.made))
    cost = Cost(0, 0, sum(x.nbytes for x in given), sum(y.nbytes for y in made), 0)
    bound, limit, level = bounded(cost, roof, cost.nbytes)
    name, by = node.name or next(filter(None, node.outputs)), node.op.evaluator
    reads, writes = (tuple(filter(None, names)) for names in (node.inputs, node.outputs))
    step = Step(node, "", 1, 1, {}, Impl("numpy", "numpy", by), Work(), reads, writes)
    shape = made[0].shape if made else ()
    calls = len(seconds) // runs
    found = Timed(0, step, name, "numpy", by, float(_median(seconds, runs)) / calls, cost, bound, limit, level, shape)
    return _often(found, calls)
