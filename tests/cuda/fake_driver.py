"""libcuda as Python functions behind C pointers: what `nbconv.runtime.cuda.driver` calls arrives as in a C library."""

from __future__ import annotations

import ctypes
import itertools
import threading
from ctypes import CFUNCTYPE, c_int
from typing import Any

import numpy as np

from nbconv.runtime.cuda.driver import GRAPHS, SIGNATURES
from tests.cuda.interpreter import Interpreter, Module

MEMORY = 1 << 26
OUT_OF_MEMORY, INVALID_PTX, NOT_FOUND, FAILED = 2, 218, 500, 719
MESSAGES = {2: b"out of memory", 100: b"no CUDA-capable device is detected", 218: b"a PTX JIT compilation failed"}
KINDS = {"u64": ctypes.c_int64, "b64": ctypes.c_int64, "s64": ctypes.c_int64, "f32": ctypes.c_float}


class FakeDriver:
    """A library whose functions are those of `SIGNATURES`; kernels run on the PTX interpreter. Work is put on streams and
    done when these are waited for. ``calls`` are the functions' names; ``answers``: results that functions shall have."""

    def __init__(
        self, gpus: int = 1, capability: tuple[int, int] = (8, 6), graphs: bool = True, memory: int = MEMORY
    ) -> None:
        self.gpus, self.capability, self.memory = gpus, capability, memory
        self.calls: list[str] = []
        self.answers: dict[str, int] = {}
        self.lock = threading.RLock()  # a block may be freed by the garbage collector meanwhile
        self.failure = b"unspecified launch failure"
        self.machine = Interpreter(check=False, uninitialised=False)
        self.held: dict[int, Any] = {}
        self.handles = itertools.count(0x7000, 16)
        self.streams: dict[int, list[Any]] = {}
        self.recording: dict[int, list[Any]] = {}
        for name, arguments in {**SIGNATURES, **(GRAPHS if graphs else {})}.items():
            setattr(self, name, CFUNCTYPE(c_int, *arguments)(self._guarded(name)))

    def _guarded(self, name: str) -> Any:
        function = getattr(self, f"_{name}")

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.answers:
                return self.answers[name]
            try:
                with self.lock:
                    return function(*arguments) or 0
            except Exception as error:  # C has none
                self.failure = f"{type(error).__name__}: {error}".encode()
                return FAILED

        return call

    def _new(self, thing: Any) -> int:
        handle = next(self.handles)
        self.held[handle] = thing
        return handle

    def _put(self, stream: int, work: Any) -> None:
        (self.recording.get(stream) if stream in self.recording else self.streams[stream]).append(work)  # type: ignore

    def _cuInit(self, flags):
        assert flags == 0

    def _cuGetErrorString(self, code, text):
        text[0] = self.failure if code == FAILED else MESSAGES.get(code, b"some error")

    def _cuDeviceGetCount(self, count):
        count[0] = self.gpus

    def _cuDeviceGet(self, device, number):
        device[0] = 40 + number

    def _cuDeviceGetName(self, name, size, device):
        assert device >= 40
        ctypes.memmove(name, b"Fake GPU\0", 9)

    def _cuDeviceGetAttribute(self, value, attribute, device):
        value[0] = self.capability[{75: 0, 76: 1}[attribute]]

    def _cuDevicePrimaryCtxRetain(self, context, device):
        context[0] = 0xC0

    def _cuCtxSetCurrent(self, context):
        assert context == 0xC0

    def _cuMemGetInfo_v2(self, free, total):
        free[0], total[0] = self.memory - sum(self.machine.memory.sizes.values()), self.memory

    def _cuMemAlloc_v2(self, address, nbytes):
        if sum(self.machine.memory.sizes.values()) + nbytes > self.memory:
            return OUT_OF_MEMORY
        address[0] = self.machine.alloc(nbytes)
        return 0

    def _cuMemFree_v2(self, address):
        self.machine.free(address)

    def _cuMemHostAlloc(self, address, nbytes, flags):
        buffer = (ctypes.c_uint8 * (nbytes + 64))()
        at = -(-ctypes.addressof(buffer) // 64) * 64
        self.held[at] = buffer
        address[0] = at

    def _cuMemFreeHost(self, address):
        del self.held[address]

    def _cuMemcpyHtoDAsync_v2(self, to, source, nbytes, stream):
        self._put(stream, lambda: self.machine.upload(to, _bytes(source, nbytes)))

    def _cuMemcpyDtoHAsync_v2(self, to, source, nbytes, stream):
        self._put(stream, lambda: self.machine.download(source, _bytes(to, nbytes)))

    def _cuMemcpyDtoDAsync_v2(self, to, source, nbytes, stream):
        def work():
            held = np.empty(nbytes, np.uint8)
            self.machine.download(source, held)
            self.machine.upload(to, held)

        self._put(stream, work)

    def _cuModuleLoadDataEx(self, module, text, count, options, values):
        given = {options[i]: values[i] for i in range(count)}
        if b"bad" in text:
            ctypes.memmove(given[5], b"ptxas error: bad\0", 17)
            return INVALID_PTX
        module[0] = self._new(Module(text.decode()))
        return 0

    def _cuModuleGetFunction(self, function, module, name):
        if name.decode() not in self.held[module].entries:
            return NOT_FOUND
        function[0] = self._new((self.held[module], name.decode()))
        return 0

    def _cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        assert (gy, gz, by, bz, shared, bool(extra)) == (1, 1, 1, 1, 0, False)
        module, name = self.held[function]
        wanted = module.entries[name].parameters
        # a driver copies the parameters when it is called, so does a graph when it is captured
        given = [KINDS[p.type].from_address(parameters[i]).value for i, p in enumerate(wanted)]
        self._put(stream, lambda: self.machine.launch(module, name, gx, bx, given))

    def _cuStreamCreate(self, stream, flags):
        stream[0] = 0x10 + len(self.streams)
        self.streams[stream[0]] = []

    def _cuStreamSynchronize(self, stream):
        work, self.streams[stream] = self.streams[stream], []
        for one in work:
            one()

    def _cuStreamDestroy_v2(self, stream):
        assert not self.streams[stream]

    def _cuStreamBeginCapture_v2(self, stream, mode):
        self.recording[stream] = []

    def _cuStreamEndCapture(self, stream, graph):
        graph[0] = self._new(self.recording.pop(stream))

    def _cuGraphInstantiateWithFlags(self, ready, graph, flags):
        ready[0] = self._new(list(self.held[graph]))

    def _cuGraphLaunch(self, ready, stream):
        for one in self.held[ready]:
            self._put(stream, one)

    def _cuGraphDestroy(self, graph):
        self.held[graph] = None

    def _cuGraphExecDestroy(self, ready):
        self.held[ready] = None


def _bytes(address: int, nbytes: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
