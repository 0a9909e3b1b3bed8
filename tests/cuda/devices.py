"""Devices for tests of what runs on one; none of them needs a GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from nbconv.kernels.ptx import Launch, PtxLibrary
from nbconv.kernels.target import target, with_tf32
from tests.cuda.interpreter import Interpreter, Module

GPU = os.environ.get("NBCONV_TEST_DEVICE", "")
"""The GPU that tests run on, "" where there is none."""


class InterpreterDevice:
    """`nbconv.runtime.cuda.device.Device` on the PTX interpreter: everything is done at once, one call at a time."""

    def __init__(self, **options: Any) -> None:
        self.name, self.model, self.target = "cuda:0", "PTX interpreter", target("cuda")
        self.functions: dict[Any, Any] = {}
        self.machine = Interpreter(**{"check": False, "uninitialised": False, **options})
        self._lock = threading.RLock()  # a block may be freed by the garbage collector meanwhile

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

    def upload(self, address: int, array: np.ndarray, stream: object) -> None:
        with self._lock:
            if array.nbytes:
                self.machine.upload(address, array)

    def download(self, array: np.ndarray, address: int, stream: object) -> None:
        with self._lock:
            if array.nbytes:
                self.machine.download(address, array)

    def copy(self, to: int, source: int, nbytes: int, stream: object) -> None:
        held = np.empty(nbytes, np.uint8)
        self.download(held, source, stream)
        self.upload(to, held, stream)

    def load(self, library: PtxLibrary, kernel: str, launch: Launch) -> Any:
        return Module(library.text(launch)), launch.entry

    def launcher(
        self, function: Any, blocks: int, threads: int, words: np.ndarray, kinds: tuple[str, ...]
    ) -> Callable[[Any], None]:
        def launch(stream: object) -> None:
            floats = words.astype(np.uint32).view(np.float32)
            given = [float(f) if k == "float32" else int(w) for k, w, f in zip(kinds, words, floats, strict=True)]
            with self._lock:
                self.machine.launch(*function, blocks, threads, given)

        return launch

    def capture(self, work: Callable[[], None], stream: object) -> None:
        """There are no graphs."""

    def synchronize(self, stream: object) -> None:
        pass


class TensorCores:
    """A device under its other name, by which kernels on tensor cores are chosen."""

    def __init__(self, device: Any) -> None:
        self.device, self.name, self.target = device, f"{device.name}:tf32", with_tf32(device.target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)


class Counted:
    """A device, with an account of what is done on it: bytes of each copy (``uploads``, ``downloads``), the kernels
    ``launched``, graphs replayed (``replays``; what they hold counts each time), bytes ``held`` by address."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.functions: dict[Any, Any] = {}
        self.held: dict[int, int] = {}
        self._captured: dict[int, list[tuple[str, Any]]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget what was done."""
        self.uploads: list[int] = []
        self.downloads: list[int] = []
        self.launched: list[str] = []
        self.replays = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def __repr__(self) -> str:
        return repr(self.device)

    def alloc(self, nbytes: int) -> int:
        address = self.device.alloc(nbytes)
        self.held[address] = nbytes
        return address

    def free(self, address: int) -> None:
        del self.held[address]
        self.device.free(address)

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        self._count("uploads", array.nbytes, stream)
        self.device.upload(address, array, stream)

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        self._count("downloads", array.nbytes, stream)
        self.device.download(array, address, stream)

    def load(self, library: PtxLibrary, kernel: str, launch: Launch) -> Any:
        return f"{library.family}.{kernel}", self.device.load(library, kernel, launch)

    def launcher(
        self, function: Any, blocks: int, threads: int, words: np.ndarray, kinds: tuple[str, ...]
    ) -> Callable[[Any], None]:
        name, inner = function
        launch = self.device.launcher(inner, blocks, threads, words, kinds)

        def go(stream: Any) -> None:
            self._count("launched", name, stream)
            launch(stream)

        return go

    def capture(self, work: Callable[[], None], stream: Any) -> Callable[[Any], None] | None:
        done = self._captured[id(stream)] = []
        try:
            graph = self.device.capture(work, stream)
        finally:
            del self._captured[id(stream)]
        if graph is None:
            return None

        def replay(stream: Any) -> None:
            self.replays += 1
            for kind, what in done:
                self._count(kind, what, stream)
            graph(stream)

        return replay

    def _count(self, kind: str, what: Any, stream: Any) -> None:
        if id(stream) in self._captured:
            self._captured[id(stream)].append((kind, what))
        else:
            getattr(self, kind).append(what)
