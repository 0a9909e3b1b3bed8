"""A training step on kernels: planned once, run on arrays that it owns between steps.

A step has two phases. The first computes the outputs (the loss), the gradients and whatever new state does not come from an
optimizer; it writes to no state. Then the outputs are checked. The second writes the state: optimizers' updates in place,
all else copied. A step that fails in between, or is abandoned, has changed nothing; a second phase that Ctrl-C interrupts
is gone on with, so that what the state is of is one step.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.base.machine import available_threads
from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.lowering.weights import Weights
from nbconv.passes.fuse_relu_bn_grad import fuse_relu_bn_grad
from nbconv.plan.plan import Plan
from nbconv.runtime.executor import workspace
from nbconv.runtime.planned import target_of
from nbconv.train.memory.policy import MIB, USUAL, TooLarge, mebibytes

if TYPE_CHECKING:
    from nbconv.runtime.cuda.device import State
    from nbconv.runtime.cuda.program import DeviceProgram
    from nbconv.runtime.cuda.workspace import DeviceWorkspace
    from nbconv.runtime.executor import Workspace

SLACK = 0.1
"""Share of `budget_ms` by which it may be overdrawn knowingly."""
WINDOW = 1 << 20
"""Bytes of an array that are compared each time a step is gone on with."""


class TrainingStep:
    """A step of training as a plan.

    ``graph`` reads ``feeds`` (Specs by name: batches, and scalars that change every step) and ``state`` (arrays by name,
    C-contiguous, which the step writes to and the caller may read between runs: parameters, running statistics, slots);
    ``updates`` maps a state's name to the value that is its new content; ``outputs`` are the values to return, the loss
    among them. ``home``: where the state lives instead, on a device; the arrays are then its copies (see
    `nbconv.runtime.cuda.device.State`). ``threads``: how many may work on it; the bits do not depend on it. ``slots``: for
    how many threads there is memory, at least. ``drop`` gives back the memory of the model's file, after weights were
    packed; ``packed`` and ``scratch_limit`` are `MemoryPolicy`'s. ``memory_mb``: the most memory that activations, gradients
    and scratch may take, ModelError says what they do take where that is more. ``flush_denormals`` and ``exact``: as
    `nbconv.load` takes them.
    """

    def __init__(
        self,
        graph: Graph,
        feeds: Mapping[str, Spec],
        state: dict[str, np.ndarray],
        updates: Mapping[str, str],
        outputs: tuple[str, ...],
        *,
        threads: int | None = None,
        memory_mb: float | None = None,
        drop: Callable[[], None] | None = None,
        packed: tuple[int, int] = USUAL.packed,
        home: State | None = None,
        scratch_limit: float = USUAL.scratch_limit,
        slots: int = 1,
        flush_denormals: bool = True,
        exact: bool = False,
    ) -> None:
        for name, array in state.items():
            if not array.flags.c_contiguous or not array.flags.writeable:
                raise ValueError(f"state {name!r} must be C-contiguous and writeable")
        self.state, self.feeds, self.outputs, self.home = state, dict(feeds), tuple(outputs), home
        self.threads = threads or available_threads()
        self.updates = {name: value for name, value in updates.items() if name in state}
        held = {name: Spec(a.shape, a.dtype) for name, a in state.items()}
        graph, placed = _updates_last(graph, self.updates)
        fetch = tuple(dict.fromkeys((*self.outputs, *self.updates.values())))
        graph = fuse_relu_bn_grad(graph, frozenset(fetch))
        outside = sum(self.state[n].nbytes for n, v in self.updates.items() if v not in placed)  # and small outputs
        self.plan = Plan(
            graph,
            {**self.feeds, **held},
            Weights(drop),
            fetch,
            target_of(None if home is None else home.device, exact),
            packed_limit=packed,
            threads=max(self.threads, slots),
            scratch_limit=scratch_limit,
            enough=None if memory_mb is None else memory_mb * MIB - outside,
            integers=False,
        )
        self._check_places(placed)
        self.boundary = self._boundary(placed)
        self.in_place = placed
        """by value: the state that it is written to where it lies"""
        program = self.plan.bound(flush_denormals) if home is None else self._on_device(home, fetch)
        self.results = [
            state[name] if (name := self._home(value)) else np.empty(*program.spec(k)[:2]) for k, value in enumerate(fetch)
        ]
        self._fetch = fetch
        self.arena = program.arena
        """bytes of activations, gradients and scratch"""
        self.memory = program.arena + sum(r.nbytes for r, v in zip(self.results, fetch, strict=True) if not self._home(v))
        if memory_mb is not None and self.memory > memory_mb * MIB:
            raise TooLarge(
                f"a step on these shapes needs {mebibytes(self.memory)} MiB for activations, gradients and scratch, "
                f"memory_mb is {memory_mb:g}: smaller batches or fewer trained layers need less",
                self.memory,
                self.memory - program.arena + self.plan.live,
            )
        if drop is not None:
            drop()
        _trim()
        self._space = workspace(program)
        self._progress: _Progress | None = None
        self._rate: dict[int, float] = {}
        self._commit = 0.0

    def _on_device(self, home: State, fetch: tuple[str, ...]) -> DeviceProgram:
        from nbconv.runtime.cuda.device import Uploads
        from nbconv.runtime.cuda.program import DeviceProgram

        plan = self.plan
        return DeviceProgram(
            plan.program,
            home.device,
            [plan.arrays[n] for n in plan.program.constants],
            Uploads(home.device),
            plan.inputs,
            plan=plan,
            resident={name: home.address(name) for name in self.state},
            homes={k: name for k, value in enumerate(fetch) if (name := self._home(value))},
            wanted={fetch.index(name) for name in self.outputs},
        )

    def _home(self, value: str) -> str | None:
        """The state that a value is written to in place."""
        return self.in_place.get(value)

    def _boundary(self, placed: Mapping[str, str]) -> int:
        """The first step of the second phase."""
        steps = self.plan.steps
        late = [any(n in placed for n in step.node.outputs) for step in steps]
        first = late.index(True) if True in late else len(steps)
        if not all(late[first:]):
            raise AssertionError("a step of the first phase stands in the second")
        return first

    def run(
        self,
        feeds: Mapping[str, Any],
        hyper: Mapping[str, Any] | None = None,
        check: Callable[[dict[str, np.ndarray]], None] | None = None,
        *,
        budget_ms: float | None = None,
    ) -> dict[str, np.ndarray] | None:
        """One step; the outputs, as they were before the state changed.

        ``feeds`` and ``hyper`` together give every feed. ``check`` is called with the outputs before anything is written,
        and may raise; without one, outputs that are not finite raise FloatingPointError. With ``budget_ms`` it works about
        so long (to the end of a kernel's unit, on one thread; the second phase, which begins where it fits or at a call's
        begin, is never interrupted) and returns None until the step is done: call it again, with the same feeds (ValueError
        for others, see `abandon`). The bits are those of an uninterrupted step.
        """
        found = self.prepare(feeds, hyper, check, budget_ms=budget_ms)
        if found is not None:
            done: list[Any] = []
            try:
                self.write(done)
            except BaseException:
                self.write(done)
                raise
        return found

    def prepare(
        self,
        feeds: Mapping[str, Any],
        hyper: Mapping[str, Any] | None = None,
        check: Callable[[dict[str, np.ndarray]], None] | None = None,
        *,
        budget_ms: float | None = None,
    ) -> dict[str, np.ndarray] | None:
        """The first phase of `run`: once it gives the outputs, `write` can write the state."""
        given = {**feeds, **(hyper or {})}
        arrays = {name: _fed(name, spec, given) for name, spec in self.feeds.items()}
        space = self._space
        if self.home is not None:
            self.home.send()
        if budget_ms is None:
            self._progress = None
            space.bind({**arrays, **self.state}, self.results)
            space.span(0, self.boundary, self.threads)
        elif not self._advance(arrays, feeds, budget_ms):
            return None
        space.copy_out(self.results)
        found = {name: self.results[self._fetch.index(name)].copy() for name in self.outputs}
        (check or _finite)(found)
        return found

    def write(self, done: list[Any]) -> None:
        """The second phase. ``done``, empty at first, keeps what of it is done: after a Ctrl-C, call it again with the same
        list. Until then nothing else may use the step's memory."""
        space, start = self._space, time.perf_counter()
        space.span(self.boundary, len(self.plan.steps), self.threads, done)
        for name, value in self.updates.items():
            if self._home(value) is None:
                space.keep(name, self._fetch.index(value))
        space.finish()
        if self.home is not None:
            self.home.stepped(self.updates)
        self._commit = time.perf_counter() - start

    def share(self, arena: Any) -> None:
        """Use this block, which other steps use, too."""
        if arena is not self._space.arena:
            self.abandon()
            try:
                self._space.attach(arena)
            except BaseException:  # its words would be addresses in a block that is gone
                self._space.attach(arena)
                raise

    @property
    def begun(self) -> bool:
        """Whether `run` with ``budget_ms`` has begun a step."""
        return self._progress is not None

    def abandon(self) -> None:
        """Give up what `run` with ``budget_ms`` has begun."""
        self._progress = None

    @property
    def block(self) -> Any:
        """The memory it works in."""
        return self._space.arena

    def _advance(self, arrays: dict[str, np.ndarray], batch: Iterable[str], budget_ms: float) -> bool:
        """Work on the first phase for so long; whether it is done. ``batch``: the feeds that must stay the same."""
        end = time.perf_counter() + budget_ms / 1000
        if self._progress is None:
            progress = _Progress(self._space, {n: a.copy() for n, a in arrays.items()}, self._rate)
            self._space.bind({**progress.arrays, **self.state}, self.results)
            self._progress = progress
        else:
            progress = self._progress
            progress.compare({name: arrays[name] for name in batch}, WINDOW)
        waiting = progress.step == self.boundary
        late = end + SLACK * budget_ms / 1000
        try:
            if not progress.advance(self.boundary, end, late):
                return False
        except BaseException:  # a unit may be done and not counted, and some cannot be done twice
            self.abandon()
            raise
        if not waiting and time.perf_counter() + self._commit > late:
            return False
        progress.compare({name: arrays[name] for name in batch}, None)
        self._progress = None
        return True

    def _check_places(self, placed: Mapping[str, str]) -> None:
        """No step of the second phase may read a state that an earlier one has written."""
        written: dict[str, Node] = {}
        for step in self.plan.steps:
            mine = {placed[n] for n in step.node.outputs if n in placed}
            late = [n for n in step.node.inputs if written.get(n, step.node) is not step.node]
            if late:
                raise ModelError(f"{step.node.name} reads {late} after it was updated")
            written.update(dict.fromkeys(mine, step.node))


class _Progress:
    """How far an interrupted first phase is: a step and a unit of it."""

    def __init__(self, space: Workspace | DeviceWorkspace, arrays: dict[str, np.ndarray], rate: dict[int, float]) -> None:
        self.space, self.arrays, self.step, self.unit = space, arrays, 0, 0
        self.rate = rate
        """seconds a unit, by step, as earlier calls found"""
        self.place = 0
        """where `compare` goes on"""

    def compare(self, batch: Mapping[str, np.ndarray], window: int | None) -> None:
        """ValueError for feeds that are not those that the step began with; with ``window`` of a large array only so many
        bytes, each time others."""
        for name, array in batch.items():
            old, new = (a.reshape(-1).view(np.uint8) for a in (self.arrays[name], array))
            if window is not None and len(old) > window:
                part = slice(self.place % len(old), self.place % len(old) + window)
                old, new = old[part], new[part]
            if not np.array_equal(_words(old), _words(new)):
                raise ValueError(
                    f"{name.removeprefix('hyper/')!r} is not what the step under way began with: call it again with the "
                    "same batch until it is done, or give it up (abandon)"
                )
        self.place += window or 0

    def advance(self, boundary: int, end: float, late: float) -> bool:
        """Do units until ``end`` by the clock, as many at a time as fit, the last one until ``late``; whether the phase is
        done. At least one is done a call."""
        idle = True
        while self.step < boundary:
            units = self.space.units(self.step)
            while self.unit < units:
                start = time.perf_counter()
                seconds = self.rate.get(self.step, 0.0)
                if not idle and start + seconds > (late if seconds else end):
                    return False
                count = max(1, min(units - self.unit, int((end - start) / seconds) if seconds else 1))
                self.space.part(self.step, self.unit, self.unit + count)
                took = max((time.perf_counter() - start) / count, 1e-9)
                self.rate[self.step] = min(seconds or took, took) if took < 2 * seconds else took
                self.unit, idle = self.unit + count, False
            self.step, self.unit = self.step + 1, 0
        return True


def _words(content: np.ndarray) -> np.ndarray:
    """Bytes in units that compare faster, where they are a multiple of these."""
    return content.view(np.uint64) if len(content) % 8 == 0 else content


def _trim() -> None:
    """Give the system the memory back that planning took and freed, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _updates_last(graph: Graph, updates: Mapping[str, str]) -> tuple[Graph, dict[str, str]]:
    """The graph with the nodes that may write state in place at its end, and which value is written to which state."""
    wanted = {value: name for name, value in updates.items()}
    late, early, placed = [], [], {}
    for node in graph.nodes:
        (late if _in_place(node, wanted) else early).append(node)
    reads = {n for node in early for n in node.inputs}
    for node in late:
        placed.update({value: wanted[value] for value in node.outputs if value in wanted})
    if not reads.isdisjoint(placed):
        raise ModelError(f"{reads.intersection(placed)} are read before the step is taken")
    return Graph([*early, *late], graph.inputs, graph.outputs, graph.constants, graph.name), placed


def _in_place(node: Node, wanted: Mapping[str, str]) -> bool:
    """Whether the node is an optimizer's update, element by element, of states that it reads itself."""
    if not node.op.in_place:
        return False
    return all(value in wanted and wanted[value] in node.inputs for value in node.outputs if value)


def _fed(name: str, spec: Spec, given: Mapping[str, Any]) -> np.ndarray:
    """A feed as the plan wants it; ValueError where it does not fit."""
    if name not in given:
        raise ValueError(f"no value given for {name!r} {spec}")
    array = np.require(given[name], spec.dtype, ["C", "A"])
    if array.shape != spec.shape:
        raise ValueError(f"{name!r} is {Spec(array.shape, array.dtype)}, the step is planned for {spec}")
    return array


def _finite(outputs: dict[str, np.ndarray]) -> None:
    for name, value in outputs.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise FloatingPointError(f"{name} is {value}: the step was not taken")
