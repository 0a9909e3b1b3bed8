"""What a model plans, for which shapes it keeps the plans, and how they come to run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nbconv.base.machine import available_threads
from nbconv.errors import DataDependentError
from nbconv.graph import OBJECT, Graph, Spec
from nbconv.lowering.weights import Weights
from nbconv.runtime.arguments import fit
from nbconv.runtime.executor import Arenas, Ready
from nbconv.runtime.kept import Kept

if TYPE_CHECKING:
    from typing import Any

    from nbconv.kernels.target import Target
    from nbconv.plan.plan import Plan
    from nbconv.plan.program import Program
    from nbconv.plan.template import Templates
    from nbconv.runtime.cuda.device import Device, Uploads
    from nbconv.runtime.cuda.program import DeviceProgram
    from nbconv.runtime.plan_cache import PlanCache
    from nbconv.runtime.staged import Staged

PLAN_BYTES = 5 << 20
"""Bytes that the plans a model keeps for other input shapes may take in all (the newest always stays)."""


def target_of(device: Device | None, exact: bool) -> Target:
    """What kernels are compiled for, and plans made for: the device, else this machine; ``exact`` as `nbconv.load` takes
    it."""
    if device is not None:
        goal = device.target
    else:
        from nbconv.kernels.target import host

        goal = host()
    return goal._replace(winograd=False) if exact else goal


class Planned:
    """The plans of a `nbconv.model.Model`, which says what it wants and gives."""

    threads: int
    weights: Weights
    _inputs: dict[str, Spec]
    _outputs: dict[str, Spec | None]
    _optional: dict[str, Spec]
    _tune: bool
    _flush_denormals: bool
    _device: Device | None
    _uploads: Uploads
    _arenas: Arenas
    _lock: threading.Lock
    _plan_cache: PlanCache | None
    _plans: OrderedDict[tuple, Ready | Staged]
    _staged: Staged | None
    _templates: Templates | None

    @property
    def graph(self) -> Graph:
        raise NotImplementedError

    def _target(self) -> Target:
        raise NotImplementedError

    def _with_fed(self, given: Mapping[str, Any]) -> Planned:
        raise NotImplementedError

    def _forget(self) -> None:
        """There are no plans, as before the first run."""
        self._plans, self._nbytes = OrderedDict(), 0
        self._staged = self._templates = None

    def plan(
        self, shapes: Mapping[str, Sequence[int]], fetch: Sequence[str] | None = None, target: Target | None = None
    ) -> Plan:
        """The plan for inputs of these shapes (types as the model declares), to look at: what `run` would do; or what it
        would on another ``target``."""
        from nbconv.plan.plan import Plan

        if self._optional and not self._optional.keys().isdisjoint(shapes):
            return self._with_fed(shapes).plan(shapes, fetch, target)
        for name, spec in self._inputs.items():
            if name not in shapes:
                raise ValueError(f"no shape given for input {name!r} {spec}")
            fit(name, spec, tuple(shapes[name]))
        inputs = {n: Spec(tuple(int(d) for d in shapes[n]), s.dtype) for n, s in self._inputs.items()}
        names = tuple(self._outputs) if fetch is None else tuple(fetch)
        self._check_fetch(names)
        return Plan(self.graph, inputs, self.weights if target is None else Weights(), names, target or self._target())

    def _tuned(self, plan: Plan) -> Plan:
        """The plan with the algorithms that were fastest when they were tried, now."""
        from nbconv.plan.plan import Plan as Planned
        from nbconv.runtime.tuner import tune

        choices = tune(self.graph, self.weights, plan, self.threads)
        return Planned(self.graph, plan.inputs, self.weights, plan.fetch, plan.target, choices)

    def _ready(self, values: Mapping[str, Any], fetch: tuple[str, ...]) -> Ready | Staged:
        if any(spec.dtype == OBJECT for spec in self._inputs.values()):
            with self._lock:
                self._staged = self._staged or self._in_stages()
            return self._staged
        given = {n: (a.shape, a.dtype) for n, a in values.items()}
        key = (tuple((n, shape, dtype.str) for n, (shape, dtype) in given.items()), fetch)
        with self._lock:
            ready = self._plans.get(key)
            if ready is None:
                ready = self._keep(key, self._found(key, given, values, fetch))
            self._plans.move_to_end(key)
            return ready

    def _found(
        self, key: tuple, given: Mapping[str, Any], values: Mapping[str, Any], fetch: tuple[str, ...]
    ) -> Ready | Staged:
        """What runs the model for these shapes and results: a plan, or several in turn."""
        if self._tune:
            key = (*key, "tuned", self.threads)
        specs = {n: Spec(shape, dtype) for n, (shape, dtype) in given.items()}
        program = self._kept(key, specs)
        if program is not None:
            return Ready(program)
        if self._staged is None and self._plan_cache is not None and self._plan_cache.has_notes():
            self._staged = self._in_stages()
        if self._staged is not None and self._staged.needed(values, fetch):
            return self._staged
        try:
            return Ready(self._keep_program(key, self._planned(specs, fetch)))
        except DataDependentError:
            self._staged = self._staged or self._in_stages()
            return self._staged

    def _in_stages(self) -> Staged:
        """What runs a graph whose shapes depend on values."""
        from nbconv.runtime.stage_files import StageFiles, named
        from nbconv.runtime.staged import Staged

        def planned(
            graph: Graph, inputs: dict[str, Spec], fetch: tuple[str, ...], varying: frozenset[str], key: tuple
        ) -> Ready:
            from nbconv.plan.plan import Plan

            plan = Plan(graph, inputs, self.weights, fetch, self._target(), varying=varying)
            return Ready(self.bound(plan) if files is None else self._keep_program(named(key), plan))

        def kept(key: Any) -> Ready | None:
            program = self._kept(key, {})
            return None if program is None else Ready(program)

        gpu = self._device is not None
        files = None if gpu or self._plan_cache is None else StageFiles(self._plan_cache, kept)
        limit, inputs = Kept(PLAN_BYTES), tuple(self._inputs)
        return Staged(lambda: self.graph, inputs, planned, self._arenas, limit, gpu=gpu, files=files)

    def _kept(self, key: Any, specs: dict[str, Spec]) -> Program | DeviceProgram | None:
        """The program that an earlier process left under the key, for inputs of these Specs."""
        found = None if self._plan_cache is None else self._plan_cache.program(key, self.weights)
        if found is None or 0 < found[0].slots < min(self.threads, available_threads()):
            return None
        return self._bound(found[0], found[1], specs)

    def _keep_program(self, key: Any, plan: Plan) -> Program | DeviceProgram:
        """The plan's program, ready to run, and kept for later processes."""
        if self._plan_cache is not None and plan.portable:
            arrays = {n: plan.arrays[n] for n in plan.program.constant_names()}
            self._plan_cache.keep_program(key, plan.program, arrays, plan.own, plan.target)
        return self.bound(plan)

    def _planned(self, inputs: dict[str, Spec], fetch: tuple[str, ...]) -> Plan:
        """The plan for these inputs: cheap where one was made for others before."""
        if self._tune:
            return self._tuned(self.plan({n: spec.shape for n, spec in inputs.items()}, fetch))
        if self._device is not None:
            return self.plan({n: spec.shape for n, spec in inputs.items()}, fetch)
        from nbconv.plan.template import Templates

        if fetch != tuple(self._outputs):
            self._check_fetch(fetch)
        self._templates = self._templates or Templates(self.graph, self.weights, self._target())
        return self._templates.plan(inputs, fetch)

    def bound(self, plan: Plan) -> Program | DeviceProgram:
        """The program of a plan (see `plan`), ready to run where this model runs."""
        if self._device is None:
            return plan.bound(self._flush_denormals)
        plan.program.own = [plan.arrays[n] for n in plan.tables if n in plan.arrays]
        return self._bound(plan.program, plan.arrays, plan.inputs, plan)

    def _bound(
        self, program: Program, arrays: Mapping[str, np.ndarray], inputs: dict[str, Spec], plan: Plan | None = None
    ) -> Program | DeviceProgram:
        """A program with what it reads, ready to run where this model runs."""
        if self._device is None:
            from nbconv.plan.program import bind

            return bind(program, self._target(), arrays, self._flush_denormals)
        from nbconv.runtime.cuda.program import DeviceProgram

        needed = [arrays[n] for n in program.constants]
        return DeviceProgram(program, self._device, needed, self._uploads, inputs, plan=plan)

    def _check_fetch(self, fetch: tuple[str, ...]) -> None:
        known = {*self.graph.values(), *self.graph.inputs, *self.graph.constants}
        for name in fetch:
            if name not in known:
                raise ValueError(f"the model has no value {name!r}")
        if len(set(fetch)) < len(fetch):
            raise ValueError("fetch names a value twice")

    def _keep(self, key: tuple, ready: Ready | Staged) -> Ready | Staged:
        """Keep a plan; those not used for longest go while all together take more than `PLAN_BYTES`."""
        self._plans[key] = ready
        self._nbytes += ready.nbytes
        while self._nbytes > PLAN_BYTES and len(self._plans) > 1:
            _, old = self._plans.popitem(last=False)
            self._nbytes -= old.nbytes
        return ready
