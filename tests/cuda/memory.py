"""The device's global memory: allocations in one arena, with what was written since."""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Any

import numpy as np

from tests.cuda.ptx import Variable

BASE = 0x5_0000_0000  # no address fits 32 bits: one that was cut faults
ALIGNMENT = 256
FREE, ALLOCATED, WRITTEN = 0, 1, 2


class GlobalMemory:
    """Bytes and a state for each: free, allocated or written.

    Between two buffers lies a gap as large as the first, 4 KiB at least and 1 MiB at most, so that an index a little wrong
    never reaches another buffer. The arena's pages cost nothing until they are touched.
    """

    def __init__(self, capacity: int = 1 << 28):
        self.bytes = np.zeros(capacity, np.uint8)
        self.state = np.zeros(capacity, np.uint8)
        self.sizes: dict[int, int] = {}
        self.addresses: list[int] = []
        self.holes: dict[int, list[int]] = {}
        self.end = ALIGNMENT
        self.shadows: dict[int, np.ndarray[Any, Any]] = {}

    @staticmethod
    def _room(nbytes: int) -> int:
        gap = min(max(nbytes, 4096), 1 << 20)
        return -(-(nbytes + gap) // ALIGNMENT) * ALIGNMENT

    def alloc(self, nbytes: int) -> int:
        """The address of a new buffer, a multiple of 256; what it holds is unwritten."""
        nbytes = int(nbytes)
        room = self._room(nbytes)
        if self.holes.get(room):
            start = self.holes[room].pop()
        else:
            start = self.end
            self.end += room
            if self.end > self.bytes.size:
                self._grow()
        self.state[start : start + nbytes] = ALLOCATED
        address = BASE + start
        self.sizes[address] = nbytes
        insort(self.addresses, address)
        return address

    def _grow(self) -> None:
        capacity = self.bytes.size
        while capacity < self.end:
            capacity *= 2
        for name in ("bytes", "state"):
            old = getattr(self, name)
            new = np.zeros(capacity, np.uint8)
            new[: old.size] = old
            setattr(self, name, new)
        self.shadows.clear()

    def free(self, address: int) -> None:
        """Raises ValueError when `address` is no buffer's."""
        if address not in self.sizes:
            raise ValueError(f"no buffer at {address:#x} to free")
        nbytes = self.sizes.pop(address)
        self.addresses.remove(address)
        start = address - BASE
        self.state[start : start + nbytes] = FREE
        self.holes.setdefault(self._room(nbytes), []).append(start)

    def span(self, address: int, nbytes: int) -> slice:
        """Where `nbytes` from `address` lie in `bytes`; ValueError when they are not inside one buffer."""
        at = bisect_right(self.addresses, address) - 1
        if at < 0 or address + nbytes > self.addresses[at] + self.sizes[self.addresses[at]]:
            raise ValueError(f"{nbytes} bytes at {address:#x} are not inside a buffer: {self.describe(address)}")
        return slice(address - BASE, address - BASE + nbytes)

    def describe(self, address: int) -> str:
        """`address` in words, by the nearest buffer below it."""
        at = bisect_right(self.addresses, address) - 1
        if at < 0:
            return "before the first buffer"
        buffer = self.addresses[at]
        return f"byte {address - buffer} of the buffer of {self.sizes[buffer]} bytes at {buffer:#x}"

    def upload(self, address: int, array: np.ndarray[Any, Any]) -> None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        span = self.span(address, data.size)
        self.bytes[span] = data
        self.state[span] = WRITTEN

    def download(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Fills `array`, which must be contiguous."""
        if not array.flags.c_contiguous:
            raise ValueError("download needs a contiguous array")
        array.reshape(-1).view(np.uint8)[:] = self.bytes[self.span(address, array.nbytes)]

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        span = self.span(address, nbytes)
        self.bytes[span] = byte
        self.state[span] = WRITTEN

    def shadow(self, granule: int) -> np.ndarray[Any, Any]:
        """Who touched each word of 2**granule bytes, see `loops`."""
        if granule not in self.shadows:
            self.shadows[granule] = np.zeros((self.bytes.size >> granule, 4), np.int32)
        return self.shadows[granule]


def layout(variables: list[Variable], gap: int) -> tuple[dict[str, int], int, np.ndarray[Any, Any]]:
    """Offsets of variables one after another with `gap` bytes between, the size in all and the state of each byte."""
    offsets, size = {}, 0
    for variable in variables:
        size = -(-size // max(variable.align, 16)) * max(variable.align, 16)
        offsets[variable.name] = size
        size += variable.nbytes + gap
    size = -(-size // 16) * 16
    state = np.zeros(size, np.uint8)
    for variable in variables:
        state[offsets[variable.name] : offsets[variable.name] + variable.nbytes] = ALLOCATED
    return offsets, size, state
