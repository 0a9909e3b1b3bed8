"""An NVIDIA GPU through its driver's API (libcuda), by ctypes: no package and no toolkit is needed."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import DeviceError
from nbconv.kernels.target import target, with_tf32

if TYPE_CHECKING:
    from nbconv.kernels.ptx import Launch, PtxLibrary

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (POINTER(c_char), c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuModuleLoadDataEx": (POINTER(c_void_p), c_char_p, c_uint, POINTER(c_int), POINTER(c_void_p)),
    "cuModuleGetFunction": (POINTER(c_void_p), c_void_p, c_char_p),
    "cuLaunchKernel": (c_void_p, *[c_uint] * 7, c_void_p, POINTER(c_void_p), POINTER(c_void_p)),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
}
"""Functions of the driver and their arguments; each returns a CUresult."""
GRAPHS: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
}
"""The same for graphs, which drivers before 11.4 lack."""

OUT_OF_MEMORY = 2
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: other work, as freeing memory, may go on meanwhile
JIT_LOG, JIT_LOG_SIZE = 5, 6  # CU_JIT_ERROR_LOG_BUFFER, …_SIZE_BYTES
LOG_BYTES = 8192


class Api:
    """The driver's functions; each raises DeviceError for what is not success."""

    def __init__(self, library: Any, name: str) -> None:
        self._functions: dict[str, Any] = {}
        for function, arguments in {**SIGNATURES, **GRAPHS}.items():
            found = getattr(library, function, None)
            if found is not None:
                found.argtypes, found.restype = arguments, c_int
                self._functions[function] = found
            elif function in SIGNATURES:
                raise DeviceError(f"device {name!r}: the NVIDIA driver is too old, it has no {function}")
        self.graphs = all(function in self._functions for function in GRAPHS)

    def try_(self, function: str, *arguments: Any) -> int:
        """Call a function; its CUresult."""
        return self._functions[function](*arguments)

    def call(self, function: str, *arguments: Any) -> None:
        code = self._functions[function](*arguments)
        if code:
            raise DeviceError(f"{function} failed: {self.error(code)}")

    def error(self, code: int) -> str:
        """What the driver says an error code means."""
        text = c_char_p()
        self._functions["cuGetErrorString"](code, byref(text))
        return f"{text.value.decode() if text.value else 'unknown error'} (CUDA error {code})"


def open_library(name: str) -> Any:
    """The driver's library. DeviceError where there is none."""
    try:
        if sys.platform == "win32":
            return ctypes.WinDLL("nvcuda.dll")
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(
            f"device {name!r} is not available: there is no NVIDIA driver on this machine ({error}); device='cpu' runs "
            "without one"
        ) from None


class Driver:
    """The GPU of this number, as a `nbconv.runtime.cuda.device.Device`. DeviceError where there is no driver, no such
    GPU, or where it is older than compute capability 7.5, for ``tf32`` 8.0. ``library``: the driver's, opened."""

    def __init__(self, number: int, library: Any = None, tf32: bool = False) -> None:
        self.name = f"cuda:{number}{':tf32' * tf32}"
        self.functions: dict[Any, Any] = {}
        self._process = os.getpid()
        self._api = api = Api(library or open_library(self.name), self.name)
        code = api.try_("cuInit", 0)
        if code:
            raise DeviceError(f"device {self.name!r} is not available: the NVIDIA driver says {api.error(code)}")
        self._device, self.model, self.capability = self._find(number)
        if self.capability < ((8, 0) if tf32 else (7, 5)):
            raise DeviceError(
                f"device {self.name!r} ({self.model}) has compute capability {self.capability[0]}.{self.capability[1]}, "
                f"{'TF32 needs 8.0' if tf32 else 'nbconv needs 7.5'} or newer"
            )
        self.target = target("cuda-sm_75" if self.capability < (8, 0) else "cuda")
        if tf32:
            self.target = with_tf32(self.target)
        context = c_void_p()
        api.call("cuDevicePrimaryCtxRetain", byref(context), self._device)
        self._context = context
        self._modules: list[c_void_p] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{self.name}: {self.model}, compute capability {self.capability[0]}.{self.capability[1]}>"

    def _find(self, number: int) -> tuple[int, str, tuple[int, int]]:
        api, count, found = self._api, c_int(), c_int()
        api.call("cuDeviceGetCount", byref(count))
        if number >= count.value:
            last = count.value - 1
            there = f"cuda:0 to cuda:{last}" if last > 0 else "cuda:0 alone" if last == 0 else "no GPU"
            raise DeviceError(f"device {self.name!r} is not available: the NVIDIA driver finds {there}")
        api.call("cuDeviceGet", byref(found), number)
        name = (c_char * 256)()
        api.call("cuDeviceGetName", name, len(name), found.value)
        parts = []
        for attribute in (MAJOR, MINOR):
            part = c_int()
            api.call("cuDeviceGetAttribute", byref(part), attribute, found.value)
            parts.append(part.value)
        return found.value, name.value.decode("utf-8", "replace"), (parts[0], parts[1])

    def enter(self) -> None:
        if os.getpid() != self._process:
            raise DeviceError(
                f"device {self.name!r} was opened before this process was forked, and CUDA does not survive a fork: start "
                "processes by multiprocessing's method 'spawn', or load the model in the child"
            )
        self._api.call("cuCtxSetCurrent", self._context)

    def alloc(self, nbytes: int) -> int:
        address = c_uint64()
        code = self._api.try_("cuMemAlloc_v2", byref(address), nbytes)
        if code == OUT_OF_MEMORY:
            free, total = self.memory()
            raise DeviceError(
                f"device {self.name!r} ({self.model}) has too little memory: {nbytes / 2**20:.1f} MiB were wanted, "
                f"{free / 2**20:.1f} of {total / 2**20:.1f} MiB are free"
            )
        if code:
            raise DeviceError(f"cuMemAlloc_v2 failed: {self._api.error(code)}")
        return address.value

    def memory(self) -> tuple[int, int]:
        """(free, all) bytes."""
        free, total = c_size_t(), c_size_t()
        self._api.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def free(self, address: int) -> None:
        """Free memory; does nothing in a forked child, or when the driver is gone."""
        self._release("cuMemFree_v2", address)

    def _release(self, function: str, handle: Any) -> None:
        if os.getpid() == self._process and not sys.is_finalizing():
            self._api.try_("cuCtxSetCurrent", self._context)
            self._api.try_(function, handle)

    def pinned(self, nbytes: int) -> np.ndarray:
        address = c_void_p()
        self._api.call("cuMemHostAlloc", byref(address), max(nbytes, 1), PORTABLE)
        memory = (ctypes.c_uint8 * nbytes).from_address(address.value or 0)
        weakref.finalize(memory, self._release, "cuMemFreeHost", address.value).atexit = False
        return np.ctypeslib.as_array(memory)

    def stream(self) -> Stream:
        handle = c_void_p()
        self._api.call("cuStreamCreate", byref(handle), NON_BLOCKING)
        stream = Stream(handle.value or 0)
        weakref.finalize(stream, self._release, "cuStreamDestroy_v2", stream.handle).atexit = False
        return stream

    def upload(self, address: int, array: np.ndarray, stream: Stream) -> None:
        if array.nbytes:
            self._api.call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, stream.handle)

    def download(self, array: np.ndarray, address: int, stream: Stream) -> None:
        if array.nbytes:
            self._api.call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, stream.handle)

    def copy(self, to: int, source: int, nbytes: int, stream: Stream) -> None:
        if nbytes:
            self._api.call("cuMemcpyDtoDAsync_v2", to, source, nbytes, stream.handle)

    def load(self, library: PtxLibrary, kernel: str, launch: Launch) -> Any:
        text = library.text(launch).encode()
        module, function = c_void_p(), c_void_p()
        log = ctypes.create_string_buffer(LOG_BYTES)
        options = (c_int * 2)(JIT_LOG, JIT_LOG_SIZE)
        values = (c_void_p * 2)(ctypes.addressof(log), LOG_BYTES)
        code = self._api.try_("cuModuleLoadDataEx", byref(module), text, 2, options, values)
        if code:
            said = log.value.decode("utf-8", "replace").strip()
            raise DeviceError(
                f"device {self.name!r} ({self.model}) does not load the kernel {library.family}.{kernel}: "
                f"{self._api.error(code)}{': ' + said if said else ''}"
            )
        with self._lock:
            self._modules.append(module)
        self._api.call("cuModuleGetFunction", byref(function), module, launch.entry.encode())
        return function

    def launcher(
        self, function: Any, blocks: int, threads: int, words: np.ndarray, kinds: tuple[str, ...]
    ) -> Callable[[Any], None]:
        base = words.ctypes.data
        pointers = (c_void_p * len(words))(*(base + 8 * i for i in range(len(words))))
        launch = self._api.call

        def go(stream: Stream) -> None:
            launch("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, 0, stream.handle, pointers, None)

        go.words = words  # type: ignore[attr-defined]  # the pointers lead there
        return go

    def capture(self, work: Callable[[], None], stream: Stream) -> Callable[[Any], None] | None:
        if not self._api.graphs:
            return None
        api, graph, ready = self._api, c_void_p(), c_void_p()
        api.call("cuStreamBeginCapture_v2", stream.handle, RELAXED)
        try:
            work()
        finally:
            code = api.try_("cuStreamEndCapture", stream.handle, byref(graph))
        if code:
            raise DeviceError(f"cuStreamEndCapture failed: {api.error(code)}")
        code = api.try_("cuGraphInstantiateWithFlags", byref(ready), graph, 0)
        api.call("cuGraphDestroy", graph)
        if code:
            raise DeviceError(f"cuGraphInstantiateWithFlags failed: {api.error(code)}")

        def replay(stream: Stream) -> None:
            api.call("cuGraphLaunch", ready, stream.handle)

        weakref.finalize(replay, self._release, "cuGraphExecDestroy", ready.value).atexit = False
        return replay

    def synchronize(self, stream: Stream) -> None:
        self._api.call("cuStreamSynchronize", stream.handle)


class Stream:
    """A queue of work."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
