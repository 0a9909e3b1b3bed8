"""What a device can do, and memory on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from nbconv.kernels.ptx import Launch, PtxLibrary
    from nbconv.kernels.target import Target

ALIGN = 256


class Device(Protocol):
    """A GPU, or what stands for one. A stream is a queue of work, done in order; methods that take one may return before
    the work is done. Any thread may call; whoever does has called `enter` on that thread before. Failures are
    DeviceErrors."""

    name: str
    """as `nbconv.load` takes it, with its number"""
    model: str
    """what it is, as its maker calls it"""
    target: Target
    functions: dict[Any, Any]
    """kernels that were loaded (see `nbconv.runtime.cuda.program`)"""

    def enter(self) -> None:
        """This thread works on the device from now on."""
        ...

    def alloc(self, nbytes: int) -> int:
        """The address of new memory, a multiple of `ALIGN`."""
        ...

    def free(self, address: int) -> None: ...

    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes of this machine's memory that copies need not wait for."""
        ...

    def stream(self) -> Any: ...

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        """Copy a C-contiguous array to the device."""
        ...

    def download(self, array: np.ndarray, address: int, stream: Any) -> None: ...

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        """Copy within the device."""
        ...

    def load(self, library: PtxLibrary, kernel: str, launch: Launch) -> Any:
        """A kernel, ready to be launched."""
        ...

    def launcher(
        self, function: Any, blocks: int, threads: int, words: np.ndarray, kinds: tuple[str, ...]
    ) -> Callable[[Any], None]:
        """A function of a stream that launches the kernel with the arguments that ``words`` (int64, one each; a float32 in
        the low half) hold when it is called; ``kinds`` are the manifest's."""
        ...

    def capture(self, work: Callable[[], None], stream: Any) -> Callable[[Any], None] | None:
        """What ``work`` puts on the stream as a graph: a function of a stream that does all of it at once. None where there
        are no graphs; ``work`` may have been called then, to no effect."""
        ...

    def synchronize(self, stream: Any) -> None:
        """Wait until all work on the stream is done."""
        ...


class Block:
    """Memory on a device, freed with this object; its length is in bytes."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.device, self.nbytes = device, max(nbytes, ALIGN)
        self.address = 0
        device.enter()
        self.address = device.alloc(self.nbytes)

    def __len__(self) -> int:
        return self.nbytes

    def __del__(self) -> None:
        if self.address:
            self.device.free(self.address)


class Uploads:
    """Constants on a device, each once: what a model's plans share."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._held: dict[int, tuple[np.ndarray, Block]] = {}

    def block(self, array: np.ndarray, stream: Any) -> Block:
        """Where the array lies, which is copied there now if it is new. It is kept alive."""
        found = self._held.get(id(array))
        if found is None:
            block = Block(self.device, array.nbytes)
            self.device.upload(block.address, array, stream)
            self.device.synchronize(stream)
            found = self._held.setdefault(id(array), (array, block))
        return found[1]


class State:
    """Arrays that live on a device from one training step to the next: ``arrays`` are their copies here.

    `fetch` brings the copies here up to date, `send` those on the device. After `touched` (somebody may have written to the
    copies here) the next `send` copies all; after `stepped` (a step has changed these on the device) the next `fetch` does.
    """

    def __init__(self, device: Device, arrays: dict[str, np.ndarray]) -> None:
        self.device, self.arrays = device, arrays
        device.enter()
        self._stream = device.stream()
        self._blocks: dict[str, Block] = {}
        self._old_here: set[str] = set()
        self._old_there: set[str] = set()

    def address(self, name: str) -> int:
        """Where an array lies on the device."""
        if name not in self._blocks:
            self._blocks[name] = Block(self.device, self.arrays[name].nbytes)
            self._old_there.add(name)
        return self._blocks[name].address

    def touched(self) -> None:
        self.fetch()
        self._old_there = set(self._blocks)

    def stepped(self, names: Iterable[str]) -> None:
        self._old_here.update(names)

    def send(self) -> None:
        """Copy to the device what may have changed here."""
        for name in self._begin(self._old_there):
            self.device.upload(self._blocks[name].address, self.arrays[name], self._stream)
        self._end(self._old_there)

    def fetch(self) -> None:
        """Copy here what steps have changed there."""
        for name in self._begin(self._old_here):
            self.device.download(self.arrays[name], self._blocks[name].address, self._stream)
        self._end(self._old_here)

    def _begin(self, names: set[str]) -> list[str]:
        if names:
            self.device.enter()
        return sorted(names)

    def _end(self, names: set[str]) -> None:
        if names:
            self.device.synchronize(self._stream)
            names.clear()
