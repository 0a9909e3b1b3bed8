"""A program bound to a device: launches with their arguments, and where everything lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.kernels.compile import libraries
from nbconv.kernels.ptx import Launch, PtxLibrary
from nbconv.runtime.cuda.device import ALIGN, Device, Uploads
from nbconv.runtime.cuda.placement import Transfers, transfers

if TYPE_CHECKING:
    from nbconv.graph import Spec
    from nbconv.plan.plan import Plan
    from nbconv.plan.program import Program


BITS = frozenset(("ignore", "weighting.ignore", "key", "threshold"))
"""Integer arguments of kernels that are no sizes: kernels divide and compare sizes in 32 bits (`kernels/cuda/_tile.py`)."""


class Start(NamedTuple):
    """One launch: the arguments are ``words[begin:end]``, the last of them the number of units."""

    function: Any
    blocks: int
    threads: int
    begin: int
    end: int
    kinds: tuple[str, ...]


class Place(NamedTuple):
    """Where a value lies: at an address, or ``offset`` bytes into the block of a run."""

    offset: int
    nbytes: int
    address: int = 0


class DeviceProgram:
    """A program on a device, with the attributes of `nbconv.plan.program.Program` that runs ask for.

    Its ``arena`` holds intermediate values, inputs and results; what is ``resident`` (inputs by name, with addresses) does
    not, nor do results that are written over a resident input (``homes``, by number). ``wanted``: the results that are
    copied back (default: all). ``plan``: needed where steps run on the CPU; a program without such can do without.
    """

    def __init__(
        self,
        program: Program,
        device: Device,
        arrays: list[np.ndarray],
        uploads: Uploads,
        inputs: Mapping[str, Spec],
        *,
        plan: Plan | None = None,
        resident: Mapping[str, int] | None = None,
        homes: Mapping[int, str] | None = None,
        wanted: set[int] | None = None,
    ) -> None:
        assert plan is not None or not (program.host_steps or program.copies)
        self.program, self.device, self.arrays = program, device, arrays
        self.host_steps, self.copies = program.host_steps, program.copies
        self.slots, self.results = program.slots, program.results
        self.resident, self.homes = dict(resident or {}), dict(homes or {})
        self.wanted = set(range(len(program.results))) if wanted is None else wanted
        device.enter()
        self._loaded = libraries(program.families, device.target, program.keys)
        self._lay_words()
        self._place(inputs, plan)
        self._bind_constants(uploads)
        self.transfers = transfers(plan, frozenset(self.resident)) if plan is not None else self._plain()
        self.on_cpu = {self.numbers[root] for root in self.transfers.results} | {k for k, _ in self.copies}
        """results that lie here in the end, from a step or a copy on the CPU"""
        self.downs = self._downs()

    @property
    def fetch(self) -> tuple[str, ...]:
        return self.program.fetch

    def spec(self, k: int) -> Spec:
        return self.program.spec(k)

    @property
    def nbytes(self) -> int:
        """Bytes that it and a workspace take here, without weights."""
        return self.program.nbytes

    def _lay_words(self) -> None:
        """One 64-bit word an argument, as in the program, and behind each step's arguments its units."""
        program = self.program
        new, self.starts = [], {}
        self._moved = np.zeros(len(program.words), np.int64)
        for i, (kernel, begin, units, _) in enumerate(program.table.tolist()):
            if i in self.host_steps or not program.kernels:
                continue
            family, name = program.kernels[kernel].split(".")
            library = self._loaded[family]
            assert isinstance(library, PtxLibrary)
            formal = library.arguments(name)
            words = program.words[begin // 8 : begin // 8 + len(formal)]
            integers = {n: int(w) for (n, kind), w in zip(formal, words, strict=True) if kind == "int64"}
            if max(units, *(abs(v) for n, v in integers.items() if n not in BITS), 0) >= 1 << 31:
                raise ModelError(
                    f"step {i} ({family}.{name}) has a size of 2^31 or more, which kernels for {self.device.name} do not "
                    "count to: run smaller batches, or on the CPU"
                )
            if self.device.target.tf32 and f"{name}_tf32" in library.kernels:
                name += "_tf32"
            launch = library.launch(name, integers)
            self._moved[begin // 8 : begin // 8 + len(formal)] = np.arange(len(new), len(new) + len(formal))
            first = len(new)
            new += [*words.tolist(), units]
            kinds = tuple(kind for _, kind in formal)
            function = self._function(library, name, launch)
            self.starts[i] = Start(function, launch.blocks(units), launch.threads, first, len(new), (*kinds, "int64"))
        self.words = np.array(new, np.int64)
        """arguments without addresses in the block, which a workspace fills in"""

    def _function(self, library: PtxLibrary, kernel: str, launch: Launch) -> Any:
        known, key = self.device.functions, (library.family, library.key, kernel, launch)
        if key not in known:
            known[key] = self.device.load(library, kernel, launch)
        return known[key]

    def _place(self, inputs: Mapping[str, Spec], plan: Plan | None) -> None:
        """The block of a run: intermediate values, then inputs, then results."""
        program, top = self.program, self.program.arena
        self.inputs: dict[str, Place] = {}
        self.outputs: dict[int, Place] = {}
        for name in program.inputs:
            nbytes = inputs[name].nbytes
            if name in self.resident:
                self.inputs[name] = Place(0, nbytes, self.resident[name])
            else:
                top = -(-top // ALIGN) * ALIGN
                self.inputs[name] = Place(top, nbytes)
                top += nbytes
        for k in range(len(program.results)):
            nbytes = program.spec(k).nbytes
            if k in self.homes:
                self.outputs[k] = self.inputs[self.homes[k]]
            else:
                top = -(-top // ALIGN) * ALIGN
                self.outputs[k] = Place(top, nbytes)
                top += nbytes
        self.arena = top
        self.places: dict[str, Place] = dict(self.inputs)
        """by the root of a value"""
        self.numbers: dict[str, int] = {}
        """by root: which result it is"""
        if plan is not None:
            self.numbers = dict(plan.results)
            self.places |= {root: self.outputs[k] for root, k in plan.results.items()}
            self.places |= {n: Place(offset, plan.nbytes(n)) for n, offset in plan.offsets.items()}
        self.block_words = np.concatenate([self._moved[program.arena_words], *self._moves(False)]).astype(np.int64)
        self.block_offsets = np.concatenate([program.arena_offsets, *self._moves(True)]).astype(np.int64)

    def _moves(self, offsets: bool) -> list[np.ndarray]:
        """Words that are addresses of inputs and results in the block, or their offsets; resident ones are filled in now."""
        found = []
        for part, moves in ((self.inputs, self.program.input_moves), (self.outputs, self.program.result_moves)):
            for key, rows in moves.items():
                place, table = part[key], np.array(rows, np.int64).reshape(-1, 2)  # type: ignore[index]
                if place.address:
                    self.words[self._moved[table[:, 0]]] = place.address + table[:, 1]
                else:
                    found.append(place.offset + table[:, 1] if offsets else self._moved[table[:, 0]])
        return found

    def _bind_constants(self, uploads: Uploads) -> None:
        """Constants go to the device: those that plans share once, this plan's own with it."""
        own = {id(a) for a in self.program.own}
        self._own = Uploads(self.device)
        stream = self.device.stream()
        program = self.program
        read = np.unique(program.constant_indices).tolist()  # others only steps on the CPU read
        self.blocks = [(self._own if id(self.arrays[i]) in own else uploads).block(self.arrays[i], stream) for i in read]
        if self.blocks:
            bases = np.zeros(len(self.arrays), np.int64)
            bases[read] = [b.address for b in self.blocks]
            self.words[self._moved[program.constant_words]] = bases[program.constant_indices] + program.constant_offsets

    def _plain(self) -> Transfers:
        """Inputs go to the device before the first step."""
        names = [n for n in self.program.input_moves if n not in self.resident]
        return Transfers({0: (names, [])} if names else {}, frozenset())

    def _downs(self) -> list[str | int]:
        """What is copied here in the end: inputs by name, results by number."""
        found: set[str | int] = {k for k in self.wanted if k in self.program.result_moves and k not in self.on_cpu}
        for k, binding in self.copies:
            source = binding.key
            there = source not in self.on_cpu and (source in self.resident or binding.kind == "result")
            if there and (k in self.wanted or k not in self.homes):
                found.add(source)
        return sorted(found, key=str)
