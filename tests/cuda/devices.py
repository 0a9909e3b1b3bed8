"""Devices that need no GPU, for tests of what runs on one."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from nbconv.kernels.ptx import Launch, PtxLibrary
from nbconv.kernels.target import target, with_tf32
from tests.cuda.interpreter import Interpreter, Module


class InterpreterDevice:
    """`nbconv.cuda.device.Device` on the PTX interpreter: everything is done at once, one call at a time. It counts what is
    copied and launched. ``graphs``: capture what is put on a stream, and do it again, as a driver's graphs do."""

    def __init__(self, graphs: bool = True, name: str = "cuda:0", **options: Any) -> None:
        self.name, self.target, self.graphs = name, target("cuda"), graphs
        self.functions: dict[Any, Any] = {}
        self.machine = Interpreter(**{"check": False, "uninitialised": False, **options})
        self.launched: list[str] = []
        self.uploads: list[int] = []
        self.downloads: list[int] = []
        self.replays = 0
        self._lock = threading.RLock()
        self._recording: dict[int, list[Callable[[], None]]] = {}

    def with_tf32(self) -> InterpreterDevice:
        """This device under its other name, by which kernels on tensor cores are chosen."""
        found = copy.copy(self)
        found.name, found.target = f"{self.name}:tf32", with_tf32(self.target)
        return found

    def enter(self) -> None:
        pass

    def alloc(self, nbytes: int) -> int:
        with self._lock:
            return self.machine.alloc(nbytes)

    def free(self, address: int) -> None:
        with self._lock:
            self.machine.free(address)

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    def stream(self) -> object:
        return object()

    def _put(self, stream: object, work: Callable[[], None]) -> None:
        with self._lock:
            if id(stream) in self._recording:
                self._recording[id(stream)].append(work)
            else:
                work()

    def upload(self, address: int, array: np.ndarray, stream: object) -> None:
        def work() -> None:
            self.uploads.append(array.nbytes)
            if array.nbytes:
                self.machine.upload(address, array)

        self._put(stream, work)

    def download(self, array: np.ndarray, address: int, stream: object) -> None:
        def work() -> None:
            self.downloads.append(array.nbytes)
            if array.nbytes:
                self.machine.download(address, array)

        self._put(stream, work)

    def copy(self, to: int, source: int, nbytes: int, stream: object) -> None:
        def work() -> None:
            held = np.empty(nbytes, np.uint8)
            self.machine.download(source, held)
            self.machine.upload(to, held)

        self._put(stream, work)

    def load(self, library: PtxLibrary, kernel: str, launch: Launch) -> Any:
        return f"{library.family}.{kernel}", Module(library.text(launch)), launch.entry

    def launcher(
        self, function: Any, blocks: int, threads: int, words: np.ndarray, kinds: tuple[str, ...]
    ) -> Callable[[Any], None]:
        name, module, entry = function

        def work() -> None:
            floats = words.astype(np.uint32).view(np.float32)
            given = [float(f) if k == "float32" else int(w) for k, w, f in zip(kinds, words, floats, strict=True)]
            self.launched.append(name)
            self.machine.launch(module, entry, blocks, threads, given)

        return lambda stream: self._put(stream, work)

    def capture(self, work: Callable[[], None], stream: object) -> Callable[[Any], None] | None:
        if not self.graphs:
            return None
        with self._lock:
            recorded = self._recording[id(stream)] = []
            try:
                work()
            finally:
                del self._recording[id(stream)]

        def replay(stream: object) -> None:
            with self._lock:
                self.replays += 1
                for one in recorded:
                    one()

        return replay

    def synchronize(self, stream: object) -> None:
        pass
