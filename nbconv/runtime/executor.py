"""Running a plan: a workspace of memory and tables, and the threads that share its steps."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.base.machine import available_threads
from nbconv.kernels.compile import libraries
from nbconv.plan.memory import ALIGN
from nbconv.plan.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nbconv.plan.host import Binding
    from nbconv.runtime.cuda.program import DeviceProgram
    from nbconv.runtime.cuda.workspace import DeviceWorkspace

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
CANCEL, LIMIT = 3 * 8, 8 * 8
"""Words of a job, see `kernels/cpu/loop.py`."""
PATIENCE = 4000
"""Turns that an idle worker spins before it sleeps: some 0.1 ms."""


def aligned(nbytes: int) -> np.ndarray:
    """Uninitialised bytes whose address is a multiple of 64."""
    raw = np.empty(nbytes + ALIGN, np.uint8)
    skip = -raw.ctypes.data % ALIGN
    return raw[skip : skip + nbytes]


class Arenas:
    """Blocks of memory that a model's runs lend and give back: as many as runs go on at once, each as large as the largest
    run that needed it. Runs of other shapes share them, so varying shapes do not make memory grow. ``make`` gives a new
    block of so many bytes, on a device maybe."""

    def __init__(self, make: Callable[[int], Any] = aligned) -> None:
        self._free: list[Any] = []
        self._make = make
        self._lock = threading.Lock()

    def lease(self, nbytes: int) -> Any:
        """A free block of at least this many bytes, or a new one (a free one that is too small then goes)."""
        with self._lock:
            self._free.sort(key=len)
            for i, block in enumerate(self._free):
                if len(block) >= nbytes:
                    return self._free.pop(i)
            if self._free:
                self._free.pop()
        return self._make(nbytes)

    def give_back(self, block: Any) -> None:
        with self._lock:
            self._free.append(block)


class Workspace:
    """The tables of one run of a program at a time, with the addresses of its arena. Runs lease workspaces, so that as many
    runs of one plan may go on at once as there are callers. One may have the program's own words, ``alone``: what others
    copy of them they set anew before each run."""

    def __init__(self, program: Program, arena: np.ndarray | None = None, alone: bool = False) -> None:
        self.program = program
        self.words = program.words if alone else program.words.copy()
        self.feeds: dict[str, np.ndarray] = {}
        self.results: list[np.ndarray] = []
        self._base = 0
        self._inner: dict[tuple[int, int], Workspace] = {}
        self.attach(aligned(program.arena) if arena is None else arena)
        self.table = program.table.copy()
        self.table[:, 1] += self.words.ctypes.data

    def attach(self, arena: np.ndarray) -> None:
        """Use this memory, of at least ``program.arena`` bytes, from now on."""
        self.arena, base = arena, arena.ctypes.data
        if base != self._base:
            self.words[self.program.arena_words] = self.program.arena_offsets + base
            self._base = base

    def detach(self) -> None:
        """Between runs, hold nothing of a run: the arena is lent, and inputs and results are the caller's."""
        del self.arena
        self.feeds, self.results = {}, []

    def memory(self, root: str, offset: int, nbytes: int) -> np.ndarray:
        """The bytes of an intermediate value."""
        return self.arena[offset : offset + nbytes]

    @contextlib.contextmanager
    def inner(self, key: tuple[int, int], body: Program, arena: Binding) -> Iterator[Workspace]:
        """The workspace of a program that a step runs, in this part of the arena."""
        memory, space = arena.array(self), self._inner.get(key)
        if space is None:
            space = self._inner[key] = Workspace(body, memory)
        else:
            space.attach(memory)
        try:
            yield space
        finally:
            space.detach()

    def run(self, feeds: dict[str, np.ndarray], results: list[np.ndarray], threads: int) -> None:
        """Do the steps: ``feeds`` are C-contiguous arrays of the shapes and types planned for, ``results`` likewise take
        what is fetched."""
        self.bind(feeds, results)
        self.span(0, len(self.program.table), threads)
        self.copy_out(results)

    def bind(self, feeds: dict[str, np.ndarray], results: list[np.ndarray]) -> None:
        """Say where inputs and results lie for the steps to come."""
        program, words = self.program, self.words
        self.feeds, self.results = feeds, results
        for name, moves in program.input_moves.items():
            base = feeds[name].ctypes.data
            for i, extra in moves:
                words[i] = base + extra
        for k, moves in program.result_moves.items():
            base = results[k].ctypes.data
            for i, extra in moves:
                words[i] = base + extra

    def span(self, begin: int, end: int, threads: int, done: list[Any] | None = None) -> None:
        """Do the steps from ``begin`` to ``end``. ``done`` gets an item for each segment of them in the very call that does
        it, so that a Ctrl-C leaves no doubt; as many segments as it has items already are not done again."""
        program, loop = self.program, _loop()
        threads = min(threads, program.slots or threads)
        done, number = [] if done is None else done, 0
        for first, last in program.segments:
            first, last = max(first, begin), min(last, end)
            if first >= last:
                continue
            number += 1
            if number <= len(done):
                continue
            step = program.host_steps.get(first)
            if step is None:
                loop.run(self, first, last, threads, done)
            else:
                step.run(self, threads)
                done.append(None)

    def copy_out(self, results: list[np.ndarray]) -> None:
        """Copy the results that no step writes. ModelError for indices that the steps found outside of their axis."""
        for check in self.program.checks:
            check.run(self)
        for k, binding in self.program.copies:
            np.copyto(results[k], binding.array(self).reshape(results[k].shape))

    def keep(self, state: str, k: int) -> None:
        """Copy result k over the input ``state``."""
        np.copyto(self.feeds[state], self.results[k])

    def finish(self) -> None:
        """Wait until everything is done: it is."""

    def units(self, step: int) -> int:
        """Into how many parts a step can be cut."""
        return int(self.table[step, 2])

    def part(self, step: int, first: int, last: int) -> None:
        """Do these units of a step, on this thread."""
        if step in self.program.host_steps:
            self.span(step, step + 1, 1)
        else:
            _loop().part(self, step, first, last)


def time_steps(
    space: Workspace, feeds: dict[str, np.ndarray], results: list[np.ndarray], threads: int, runs: int
) -> np.ndarray:
    """Seconds (runs, steps) of each step alone, in the order of a run, less what calling the loop takes. The workspace has
    run with these feeds and results before, which says where they lie."""
    program, loop = space.program, _loop()
    clock, threads = time.perf_counter, min(threads, program.slots or threads)
    steps = program.segments[-1][1] if program.segments else 0
    found = np.zeros((runs, steps))
    idle = []
    for r in range(runs):
        for i in range(steps):
            host = program.host_steps.get(i)
            start = clock()
            if host is None:
                loop.run(space, i, i + 1, threads)
            else:
                host.run(space, threads)
            found[r, i] = clock() - start
            if i % 8 == 0:
                start = clock()
                loop.run(space, i, i, threads)
                idle.append(clock() - start)
    calling = min(idle, default=0.0)
    return np.maximum(found - calling, 1e-8)


def time_alone(
    space: Workspace, step: int, threads: int, seconds: float, before: Callable[[], object] | None = None
) -> list[float]:
    """Seconds of each run of one step of a kernel over and over, for so many seconds, less what calling the loop takes. The
    workspace has run before. Short steps are run many times a call. ``before`` is called before each run, say to empty the
    caches."""
    loop, threads, clock = _loop(), min(threads, space.program.slots or threads), time.perf_counter
    many = Workspace.__new__(Workspace)
    many.program = space.program

    def repeat(times: int) -> None:
        many.table = np.repeat(space.table[step : step + 1], times, 0)

    def once(last: int) -> float:
        start = clock()
        loop.run(many, 0, last, threads)
        return clock() - start

    repeat(1)
    once(1)
    calling = min(once(0) for _ in range(5))
    times = 1 if before is not None else max(1, min(64, int(5e-5 / max(once(1) - calling, 1e-7))))
    repeat(times)
    found: list[float] = []
    begin = clock()
    while len(found) < 5 or clock() - begin < seconds:
        if before is not None:
            before()
        found.append(max(once(times) - calling, 1e-8) / times)
    return found


def workspace(program: Program | DeviceProgram, arena: Any = None, alone: bool = False) -> Any:
    """Memory and tables for one run at a time of a bound program, this machine's or a device's; ``alone`` as `Workspace`."""
    if isinstance(program, Program):
        return Workspace(program, arena, alone)
    from nbconv.runtime.cuda.workspace import DeviceWorkspace

    return DeviceWorkspace(program, arena)


class Ready:
    """A program and the workspaces that wait for its next runs."""

    def __init__(self, program: Program | DeviceProgram) -> None:
        self.program = program
        self._spaces: list[Any] = []
        self._words_are_free = [True]

    @property
    def nbytes(self) -> int:
        """Bytes that the program takes, about."""
        return self.program.nbytes

    def run(self, arenas: Arenas, feeds: dict[str, np.ndarray], results: list[np.ndarray], threads: int) -> None:
        """One run, as `Workspace.run`, in memory that is lent for it."""
        arena = arenas.lease(self.program.arena)
        space = self.lease(arena)
        try:
            space.run(feeds, results, threads)
        finally:
            self.give_back(space)
            arenas.give_back(arena)

    def lease(self, arena: Any) -> Workspace | DeviceWorkspace:
        try:
            space = self._spaces.pop()
        except IndexError:
            return workspace(self.program, arena, self._take_words())
        space.attach(arena)
        return space

    def _take_words(self) -> bool:
        """Whether the caller, the first, may have the program's own words."""
        try:
            return self._words_are_free.pop()
        except IndexError:
            return False

    def give_back(self, space: Workspace | DeviceWorkspace) -> None:
        space.detach()
        self._spaces.append(space)


class _Loop:
    """The native run loop and the process's worker threads. Workers are made when a run first wants them, spin for a moment
    when a run ends, then sleep on a lock."""

    def __init__(self) -> None:
        library = libraries(["loop"])["loop"]
        names = ("run", "lead", "follow", "part")
        self._run, self._lead, self._follow, self._part = (_ENTRY(library.address(n)) for n in names)
        self._job = aligned(16 * 64).view(np.int64)
        self._job[:] = 0
        self._job[7 * 8] = _yield_address()
        self._busy: Any = threading.RLock()
        """whose run the workers serve: its thread owns this"""
        self._counters = np.zeros(16 * 64, np.int64)
        self._alone = np.zeros(16 * 8, np.int64)
        """the job of a thread that is alone, which nobody cancels"""
        self._most = available_threads() - 1
        self._workers: list[_Worker] = []

    def run(self, space: Workspace, first: int, last: int, threads: int, done: list[Any] | None = None) -> None:
        """Do steps from first to last, with up to ``threads`` threads (the caller is one). When the workers serve another
        run the caller does it alone: the results are the same. ``done`` gets an item."""
        done = [] if done is None else done
        if threads > 1 and not self._busy._is_owned():  # a signal handler may run a model in the middle of a run
            # A Ctrl-C is raised when a call returns. So the lock is taken inside `try`, and given back by one call, which
            # a thread that does not own it may make in vain.
            try:
                if self._busy.acquire(blocking=False):
                    self._wake(threads - 1)
                    self._job[LIMIT] = threads - 1
                    if len(self._counters) < 16 * (last - first):
                        self._counters = np.zeros(16 * (last - first), np.int64)
                    tables = space.table, self._counters, self._job
                    words = np.array([*(t.ctypes.data for t in tables), space.program.flush_denormals], np.int64)
                    # `extend` calls and appends without a return to the interpreter between, where Ctrl-C would be raised
                    done.extend(map(self._lead, (words.ctypes.data,), (first,), (last,), (0,)))
                    return
            finally:
                try:  # noqa: SIM105
                    self._busy.release()
                except RuntimeError:
                    pass
        words = np.array([space.table.ctypes.data, self._alone.ctypes.data, space.program.flush_denormals], np.int64)
        done.extend(map(self._run, (words.ctypes.data,), (first,), (last,), (0,)))

    def part(self, space: Workspace, step: int, first: int, last: int) -> None:
        """Do the units from first to last of a step on this thread."""
        words = np.array([space.table[step].ctypes.data, space.program.flush_denormals], np.int64)
        self._part(words.ctypes.data, first, last, 0)

    def _wake(self, count: int) -> None:
        count = min(count, self._most)
        while len(self._workers) < count:
            self._workers.append(_Worker(len(self._workers) + 1, self._job, self._follow))
        for worker in self._workers[:count]:
            worker.wake()

    def close(self) -> None:
        """End the workers (when Python exits)."""
        for worker in self._workers:
            worker.mine[1] = 1
            worker.wake()
        for worker in self._workers:
            worker.thread.join(1.0)


class _Worker:
    """A daemon thread that sits in the native loop while there is work and sleeps on a lock when there is none."""

    def __init__(self, number: int, job: np.ndarray, follow) -> None:
        self.mine = np.zeros(16, np.int64)
        self.mine[0], self.mine[2] = job[0], number
        self._words = np.array([job.ctypes.data, self.mine.ctypes.data, PATIENCE], np.int64)
        self._job, self._follow = job, follow
        self._asleep = False
        self._bell = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._work, name="nbconv-worker", daemon=True)
        self.thread.start()

    def wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bell.release()

    def _work(self) -> None:
        address = self._words.ctypes.data
        while not self.mine[1]:
            self._follow(address, 0, 0, 0)
            if self._job[0] == self.mine[0] and not self.mine[1]:
                self._asleep = True
                self._bell.acquire()


def _yield_address() -> int:
    """The address of the system's function that yields the processor."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value or 0


_the_loop: list[_Loop] = []
_making = threading.Lock()


def _loop() -> _Loop:
    if not _the_loop:
        with _making:
            if not _the_loop:
                import atexit

                made = _Loop()
                atexit.register(made.close)
                _the_loop.append(made)
    return _the_loop[0]


def _after_fork() -> None:
    """A child has none of its parent's threads, and locks that others may have held."""
    global _making
    _making = threading.Lock()
    _the_loop.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
