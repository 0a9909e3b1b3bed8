"""Running a program on a device: one run at a time, on a stream of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.runtime.cuda.device import Block

if TYPE_CHECKING:
    from nbconv.runtime.cuda.program import DeviceProgram, Place

Work = Callable[[Any], None]
"""Something put on a stream."""


class _Part:
    """Work of the device between two things that the CPU does. It is put on the stream piece by piece at first; when it
    comes again it is captured as a graph, where the device has graphs."""

    def __init__(self, works: list[Work]) -> None:
        self.works, self.runs, self.graph = works, 0, None

    def __call__(self, space: DeviceWorkspace) -> None:
        if self.graph is None and self.runs == 1 and len(self.works) > 1:
            self.graph = space.device.capture(self._all(space), space.stream)
        self.runs += 1
        if self.graph is not None:
            self.graph(space.stream)
        else:
            self._all(space)()

    def _all(self, space: DeviceWorkspace) -> Callable[[], None]:
        def work() -> None:
            for one in self.works:
                one(space.stream)

        return work


class DeviceWorkspace:
    """The tables of one run of a program at a time on a device, as `nbconv.runtime.Workspace` is for the CPU: arguments with
    the addresses of its block, pinned copies of what crosses over, and a stream."""

    def __init__(self, program: DeviceProgram, block: Block | None = None) -> None:
        self.program, self.device = program, program.device
        self.device.enter()
        self.stream = self.device.stream()
        self.words = program.words.copy()
        self.feeds = _Feeds(self)
        self.results = _Results(self)
        self._launches = {
            i: self.device.launcher(s.function, s.blocks, s.threads, self.words[s.begin : s.end], s.kinds)
            for i, s in program.starts.items()
        }
        self._here: dict[str | int, np.ndarray] = {}
        self._kept: list[tuple[str, int]] = []
        self._base = 0
        self.attach(Block(self.device, program.arena) if block is None else block)

    def attach(self, block: Block) -> None:
        """Use this memory, of at least ``program.arena`` bytes, from now on."""
        self.arena = block
        if block.address != self._base:
            self._base = block.address
            self.words[self.program.block_words] = self.program.block_offsets + self._base
            self._parts: dict[Any, list[_Part | int]] = {}

    def detach(self) -> None:
        """Between runs, hold nothing of a run: the arena is lent, and inputs are the caller's."""
        del self.arena
        self.feeds.given = {}

    def run(self, feeds: dict[str, np.ndarray], results: list[np.ndarray], threads: int) -> None:
        """Do the steps: ``feeds`` are C-contiguous arrays of the shapes and types planned for, ``results`` likewise take
        what is fetched."""
        try:
            self.bind(feeds, results)
            self._do(0, len(self.program.program.table), True)
            self._hand_out(results)
        except BaseException:
            with contextlib.suppress(Exception):  # nothing may still work in memory that is given back
                self.device.synchronize(self.stream)
            raise

    def bind(self, feeds: dict[str, np.ndarray], results: list[np.ndarray]) -> None:
        """Say what the inputs are for the steps to come; what the device reads of them is copied to pinned memory now."""
        self.device.enter()
        self.device.synchronize(self.stream)
        self.feeds.given = feeds
        self._kept.clear()
        for up, _ in self.program.transfers.before.values():
            for name in up:
                if name in feeds and name not in self.program.resident:
                    np.copyto(self.here(name), feeds[name].reshape(-1).view(np.uint8))

    def span(self, begin: int, end: int, threads: int, done: list[Any] | None = None) -> None:
        """Do the steps from ``begin`` to ``end``, unless ``done`` has an item; then it gets one. (Launches are calls of
        their own: unlike on processors, a Ctrl-C between two of them leaves the steps half done.)"""
        if done:
            return
        self.device.enter()
        self._do(begin, end, False)
        if done is not None:
            done.append(None)

    def copy_out(self, results: list[np.ndarray]) -> None:
        """Copy the wanted results here."""
        self.device.enter()
        for root in self.program.downs:
            self._down(root)(self.stream)
        self._hand_out(results)

    def keep(self, state: str, k: int) -> None:
        """Copy result k over the resident input ``state``, before `finish` returns."""
        if k in self.program.on_cpu:
            self.device.upload(self.program.inputs[state].address, self.results[k], self.stream)
        else:
            self._kept.append((state, k))

    def finish(self) -> None:
        """Wait until everything is done. What the CPU made goes where it belongs on the device."""
        if self._kept:
            key = tuple(self._kept)
            if key not in self._parts:
                self._parts[key] = [_Part([self._keep(state, k) for state, k in key])]
            self._kept.clear()
            self._do_parts(self._parts[key])
        for k in self.program.homes.keys() & self.program.on_cpu:
            self.device.upload(self.program.outputs[k].address, self.results[k], self.stream)
        self.device.synchronize(self.stream)

    def units(self, step: int) -> int:
        """A step is not cut."""
        return 1

    def part(self, step: int, first: int, last: int) -> None:
        """Do a step and wait for it."""
        self.span(step, step + 1, 1)
        self.finish()

    def memory(self, root: str, offset: int, nbytes: int) -> np.ndarray:
        """The bytes of an intermediate value as steps on the CPU see it."""
        return self.here(root)[:nbytes]

    def here(self, key: str | int) -> np.ndarray:
        """Pinned memory for a value (by root) or a result (by number)."""
        if isinstance(key, str) and key in self.program.numbers:
            key = self.program.numbers[key]
        if key not in self._here:
            place = self.program.outputs[key] if isinstance(key, int) else self.program.places[key]
            self._here[key] = self.device.pinned(place.nbytes)
        return self._here[key]

    # what is done, and in which order

    def _do(self, begin: int, end: int, out: bool) -> None:
        key = begin, end, out
        if key not in self._parts:
            self._parts[key] = self._cut(begin, end, out)
        self._do_parts(self._parts[key])

    def _do_parts(self, parts: list[_Part | int]) -> None:
        for part in parts:
            if isinstance(part, int):
                self.device.synchronize(self.stream)
                self.program.host_steps[part].run(self, 1)
            else:
                part(self)

    def _cut(self, begin: int, end: int, out: bool) -> list[_Part | int]:
        """Parts for the device, and numbers of steps for the CPU."""
        found: list[_Part | int] = []
        works: list[Work] = []
        for i in range(begin, end):
            up, down = self.program.transfers.before.get(i, ((), ()))
            works += [self._up(name) for name in up]
            works += [self._down(name) for name in down]
            if i in self._launches:
                works.append(self._launches[i])
            elif i in self.program.host_steps:
                found += [_Part(works), i] if works else [i]
                works = []
        if out:
            works += [self._down(root) for root in self.program.downs]
        return [*found, _Part(works)] if works else found

    def _up(self, root: str) -> Work:
        place, array = self.program.places[root], self.here(root)
        return lambda stream: self.device.upload(self._address(place), array, stream)

    def _down(self, root: str | int) -> Work:
        place = self.program.outputs[root] if isinstance(root, int) else self.program.places[root]
        array = self.here(root)
        return lambda stream: self.device.download(array, self._address(place), stream)

    def _keep(self, state: str, k: int) -> Work:
        to, source = self.program.inputs[state].address, self.program.outputs[k]
        return lambda stream: self.device.copy(to, self._address(source), source.nbytes, stream)

    def _hand_out(self, results: list[np.ndarray]) -> None:
        self.device.synchronize(self.stream)
        for k, binding in self.program.copies:
            np.copyto(self.results[k], binding.array(self).reshape(self.program.spec(k).shape))
        for k in self.program.wanted:
            np.copyto(results[k], self.results[k])

    def _address(self, place: Place) -> int:
        return place.address or self._base + place.offset


def time_steps(space: DeviceWorkspace, feeds: dict[str, np.ndarray], runs: int) -> np.ndarray:
    """Seconds (runs, steps) of each step alone, in the order of a run: the copies that it needs, its launch and the wait for
    it."""
    steps = len(space.program.program.table)
    found = np.zeros((runs, steps))
    for r in range(-2, runs):  # a step of several pieces is captured when it comes for the second time
        space.bind(feeds, [])
        for i in range(steps):
            start = time.perf_counter()
            space.part(i, 0, 1)
            if r >= 0:
                found[r, i] = time.perf_counter() - start
    return found


class _Feeds:
    """Inputs as steps on the CPU see them, by name: the caller's arrays, or copies of what is resident on the device."""

    def __init__(self, space: DeviceWorkspace) -> None:
        self.space = space
        self.given: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.given[name]
        if name not in self.space.program.resident:
            return array
        return self.space.here(name).view(array.dtype).reshape(array.shape)


class _Results:
    """Results as steps on the CPU see them, by number."""

    def __init__(self, space: DeviceWorkspace) -> None:
        self.space = space

    def __getitem__(self, k: int) -> np.ndarray:
        spec = self.space.program.spec(k)
        return self.space.here(k).view(spec.dtype).reshape(spec.shape)
