"""Launches that were recorded where they were right, to be done again: by a mutant, or by another machine."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbconv.kernels.ptx import Launch, PtxLibrary
from tests.cuda.devices import InterpreterDevice
from tests.cuda.interpreter import Interpreter, Module

TOLERANCE = 1e-5
"""Allowed difference of a float32, as a fraction of the largest finite one that the launch wrote into its buffer."""
TINY = 1e-37
"""What is less is no float32 of a kernel's: integers or bytes."""
LARGEST = 1 << 20
"""Bytes of buffers beyond which a launch is not kept."""


class Recording(NamedTuple):
    """One launch: its arguments (``("at", buffer, offset)`` is an address), its buffers before and after."""

    family: str
    kernel: str
    variant: int
    blocks: int
    threads: int
    arguments: tuple[Any, ...]
    kinds: tuple[str, ...]
    before: tuple[np.ndarray, ...]
    after: tuple[np.ndarray, ...]

    @property
    def units(self) -> int:
        return self.arguments[-1]


class Recorder(InterpreterDevice):
    """The interpreter's device, which keeps some launches of each kernel: ``each`` of them, of different arguments.
    ``right``: calls that were found right on it."""

    def __init__(self, each: int = 6, **options: Any) -> None:
        super().__init__(**options)
        self.each, self.right = each, 0
        self.kept: dict[tuple[str, str, int], list[Recording]] = {}

    def load(self, library: PtxLibrary, kernel: str, launch: Launch) -> Any:
        number = [found for _, found in library.launches(kernel)].index(launch)
        return library.family, kernel, number, super().load(library, kernel, launch)

    def launcher(
        self, function: Any, blocks: int, threads: int, words: np.ndarray, kinds: tuple[str, ...]
    ) -> Callable[[Any], None]:
        family, kernel, number, inner = function
        go = super().launcher(inner, blocks, threads, words, kinds)

        def record(stream: Any) -> None:
            kept = self.kept.setdefault((family, kernel, number), [])
            plain = numbers_alone(words.tolist(), kinds)
            new = all(plain != numbers_alone(r.arguments, kinds) for r in kept)
            if len(kept) >= self.each or not new:
                go(stream)
                return
            arguments, bases = self._arguments(words, kinds)
            before = tuple(self._bytes(base) for base in bases)
            go(stream)
            if sum(b.nbytes for b in before) <= LARGEST:
                after = tuple(self._bytes(base) for base in bases)
                kept.append(Recording(family, kernel, number, blocks, threads, arguments, kinds, before, after))

        return record

    def _arguments(self, words: np.ndarray, kinds: tuple[str, ...]) -> tuple[tuple[Any, ...], list[int]]:
        """Arguments with addresses as places in buffers, and where these begin."""
        addresses, bases, found = self.machine.memory.addresses, [], []
        for word, kind in zip(words.tolist(), kinds, strict=True):
            if not kind.endswith("*") or word == 0:
                found.append(word)
                continue
            base = addresses[bisect_right(addresses, word) - 1]
            if base not in bases:
                bases.append(base)
            found.append(("at", bases.index(base), word - base))
        return tuple(found), bases

    def _bytes(self, base: int) -> np.ndarray:
        held = np.empty(self.machine.memory.sizes[base], np.uint8)
        self.machine.download(base, held)
        return held


def numbers_alone(words: Sequence[Any], kinds: Sequence[str]) -> list[int]:
    """A launch's arguments without addresses, of which those that are null are numbers, too."""
    return [word for word, kind in zip(words, kinds, strict=True) if not kind.endswith("*")]


def replay(recording: Recording, machine: Interpreter, ptx: str) -> str:
    """Do a launch again with this PTX: what differs from what was recorded, or the fault that ended it; "" for nothing."""
    places = []
    for held in recording.before:
        places.append(machine.alloc(held.nbytes))
        machine.upload(places[-1], held)
    given = numbers(recording, lambda buffer, offset: places[buffer] + offset)
    try:
        machine.launch(Module(ptx), recording.kernel, recording.blocks, recording.threads, given)
        return differs(recording, [_download(machine, p, b.nbytes) for p, b in zip(places, recording.before, strict=True)])
    except Exception as error:  # whatever the machine says ended a wrong kernel
        return f"{type(error).__name__}: {error}"
    finally:
        for place in places:
            machine.free(place)


def numbers(recording: Recording, address: Callable[[int, int], Any]) -> list[Any]:
    """A launch's arguments: integers, floats, and what ``address`` makes of a buffer and an offset."""
    found = []
    for value, kind in zip(recording.arguments, recording.kinds, strict=True):
        if isinstance(value, tuple):
            found.append(address(value[1], value[2]))
        elif kind == "float32":
            found.append(float(np.array(value & 0xFFFFFFFF, np.uint32).view(np.float32)))
        else:
            found.append(value)
    return found


def _download(machine: Interpreter, place: int, nbytes: int) -> np.ndarray:
    held = np.empty(nbytes, np.uint8)
    machine.download(place, held)
    return held


def differs(recording: Recording, got: list[np.ndarray]) -> str:
    """Where buffers are not what was recorded; words that are equal, or as floats within `TOLERANCE`, are."""
    for k, (mine, before, right) in enumerate(zip(got, recording.before, recording.after, strict=True)):
        size = right.nbytes // 4 * 4
        a, b = mine[:size].view(np.uint32), right[:size].view(np.uint32)
        apart = a != b
        if apart.any():
            x, y = a.view(np.float32)[apart].astype(float), b.view(np.float32)[apart].astype(float)
            made = b.view(np.float32)[b != before[:size].view(np.uint32)]
            finite = np.abs(made[np.isfinite(made)])
            scale = float(finite.max()) if finite.size else 0.0
            near = (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= TOLERANCE * scale)
            near &= ~((np.abs(x) < TINY) & (np.abs(y) < TINY))
            if not near.all():
                return f"buffer {k}: {int((~near).sum())} words differ"
        if not np.array_equal(mine[size:], right[size:]):
            return f"buffer {k}: its last bytes differ"
    return ""


def smallest(kept: Mapping[tuple[str, str, int], list[Recording]]) -> dict[tuple[str, str, int], Recording]:
    """Of each kernel the launch of the fewest bytes."""
    return {key: min(found, key=lambda r: sum(b.nbytes for b in r.before)) for key, found in kept.items() if found}
