"""Runs compiled PTX on NumPy, as a device: memory, launches, findings and counts.

    device = Interpreter()
    x = device.alloc(4096); device.upload(x, array)
    device.launch(Module(text), "kernel", grid=8, block=128, parameters=[x, 1024])
    device.download(x, array); device.last.coalescing

Blocks run in batches; all threads of a batch run one instruction at once, those first whose place in the text is first
(min-PC), so threads that parted meet again where the text does. A launch ends with KernelFault when a check fails:

- an access outside a buffer or not aligned to its width;
- a read of memory that nobody wrote since it was allocated (shared memory: since the block began);
- a race: two threads touch one word, one of them writes, and no barrier orders them: `bar.sync` for threads of a block,
  `bar.warp.sync` for lanes of a warp, nothing for threads of different blocks. Lanes of one warp may store one value to one
  address in one instruction: that is a scalar of the warp, and later accesses of this warp to it are ordered;
- a barrier that part of a block reaches while others have ended or wait elsewhere; a warp-level instruction whose members
  are not all there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from tests.cuda.machine import Machine
from tests.cuda.memory import GlobalMemory, layout
from tests.cuda.ptx import Entry, Parameter, PTXError, Variable, parse, size_of
from tests.cuda.report import Finding, KernelFault, LaunchCount
from tests.cuda.translate import Translator, dtype_of

Array = np.ndarray[Any, Any]


class Program:
    """One entry, ready to run."""

    def __init__(self, entry: Entry, variables: dict[str, Variable]):
        self.entry = entry
        mentioned = {word for i in entry.instructions for o in i.operands for word in o.strip("[]").split("+")}
        known = {**variables, **entry.variables}
        self.variables = {name: v for name, v in known.items() if name in mentioned}
        used = list(self.variables.values())
        shared, self.shared_size, self.shared_state = layout([v for v in used if v.space == "shared"], 128)
        local, self.local_size, self.local_state = layout([v for v in used if v.space == "local"], 0)
        symbols = {name: ("shared", at) for name, at in shared.items()} | {name: ("local", at) for name, at in local.items()}
        symbols |= {v.name: (v.space, 0) for v in used if v.space in ("global", "const")}
        translator = Translator(entry, symbols)
        self.functions = translator.compile()
        self.blocks = translator.blocks
        self.registers = [unwritten(dtype_of(kind)) for kind in entry.registers.values()]
        self.granules = {"global": self._granule(), "shared": self._granule()}
        self.merges: dict[tuple[int, int], list[int]] = {}

    def _granule(self) -> int:
        """log2 of the bytes that races are told apart by: the narrowest access, 4 at most."""
        widths = [size_of(i.mods[-1]) for i in self.entry.instructions if i.op in ("ld", "st") and "param" not in i.mods]
        return min([4, *widths]).bit_length() - 1

    def to_merge(self, block: int, others: int) -> list[int]:
        """Registers that the block writes and that waiting threads, to which `others` are live, still need."""
        key = (block, others)
        if key not in self.merges:
            bits = self.blocks[block].defined & self.blocks[block].live_out & others
            self.merges[key] = [i for i in range(bits.bit_length()) if bits >> i & 1]
        return self.merges[key]


@lru_cache(maxsize=1024)
def _parsed(text: str) -> tuple[dict[str, Entry], dict[str, Variable], dict[str, Program]]:
    """Entries, variables and an empty dict of programs, which all modules of one text share."""
    return *parse(text), {}


def unwritten(dtype: Any) -> Array:
    """What a register holds that nobody has written: never what a kernel may count on."""
    found = np.zeros((1, 1, 1), dtype)
    if found.dtype.kind != "b":
        found.view(np.uint8)[:] = 0xFF  # NaN, or far from any index
    return found


class Module:
    """PTX text: `entries` by name. An entry is translated when it is first launched, once for all modules of one text."""

    def __init__(self, text: str):
        self.entries, self.variables, self.programs = _parsed(text)
        self.addresses: WeakKeyDictionary[Interpreter, dict[str, int]] = WeakKeyDictionary()

    def program(self, name: str) -> Program:
        """Raises PTXError for an unknown entry or an unsupported instruction."""
        if name not in self.entries:
            raise PTXError(f"no entry {name}; there are {', '.join(self.entries)}")
        if name not in self.programs:
            self.programs[name] = Program(self.entries[name], self.variables)
        return self.programs[name]

    def address(self, device: Interpreter, variable: Variable) -> int:
        """Where a variable of the module lies on the device."""
        placed = self.addresses.setdefault(device, {})
        if variable.name not in placed:
            placed[variable.name] = device.alloc(variable.nbytes)
            device.upload(placed[variable.name], np.frombuffer(variable.data or bytes(variable.nbytes), np.uint8))
        return placed[variable.name]


@dataclass
class Launch:
    """One launch: sizes, parameters, and what is found and counted."""

    module: Module
    program: Program
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    parameters: bytearray
    start: int
    count: Array
    runs: Array
    history: dict[int, int] = field(default_factory=dict)
    findings: dict[tuple[str, int], Finding] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @cached_property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]


def _three(size: int | Sequence[int]) -> tuple[int, int, int]:
    sizes = [size] if isinstance(size, (int, np.integer)) else list(size)
    x, y, z = (*(int(s) for s in sizes), 1, 1)[:3]
    return x, y, z


def _pack(entry: Entry, values: Sequence[int | float]) -> bytearray:
    parameters = entry.parameters
    if len(values) != len(parameters):
        raise ValueError(f"{entry.name} has {len(parameters)} parameters, {len(values)} given")
    packed = bytearray(max((p.offset + p.nbytes for p in parameters), default=0))
    for parameter, value in zip(parameters, values):
        struct.pack_into(_format(parameter, value), packed, parameter.offset, value)
    return packed


def _format(parameter: Parameter, value: int | float) -> str:
    code = {1: "b", 2: "h", 4: "i", 8: "q"}[parameter.nbytes]
    if isinstance(value, (float, np.floating)):
        return {4: "<f", 8: "<d"}[parameter.nbytes]
    return "<" + (code if value < 0 else code.upper())


class Interpreter:
    """A device. check: look for races; uninitialised: report reads of unwritten memory; raising: a launch that found
    something raises KernelFault at its end, else `findings` collects it (faults raise always); threads: of a batch;
    steps: basic blocks a batch may run before it counts as endless.
    """

    def __init__(
        self,
        check: bool = True,
        uninitialised: bool = True,
        raising: bool = True,
        threads: int = 1 << 14,
        steps: int = 1 << 22,
    ):
        self.check, self.uninitialised, self.raising = check, uninitialised, raising
        self.threads, self.steps = threads, steps
        self.memory = GlobalMemory()
        self.findings: list[Finding] = []
        self.counts: list[LaunchCount] = []
        self.now = 1
        self.alloc, self.free = self.memory.alloc, self.memory.free
        self.upload, self.download, self.fill = self.memory.upload, self.memory.download, self.memory.fill

    @property
    def last(self) -> LaunchCount:
        """The counts of the last launch."""
        return self.counts[-1]

    def launch(
        self,
        module: Module,
        entry: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        parameters: Sequence[int | float],
    ) -> LaunchCount:
        """Runs the grid; returns its counts. Raises KernelFault, see the module's docstring, and PTXError."""
        program = module.program(entry)
        grid3, block3 = _three(grid), _three(block)
        size = len(program.entry.instructions)
        if self.now > 1 << 30:
            self.memory.shadows.clear()
            self.now = 1
        self.now += 1
        packed = _pack(program.entry, parameters)
        count, runs = np.zeros((size, 6), np.int64), np.zeros(len(program.blocks), np.int64)
        launch = Launch(module, program, grid3, block3, packed, self.now, count, runs)
        limit = program.entry.maxntid
        if launch.threads > min(limit or 1024, 1024):
            raise ValueError(f"{entry}: {launch.threads} threads a block, {limit or 1024} allowed")
        batch = max(1, self.threads // launch.threads)
        try:
            with np.errstate(all="ignore"):
                for first in range(0, launch.blocks, batch):
                    machine = Machine(self, launch, first, min(batch, launch.blocks - first))
                    try:
                        self._run(machine, launch)
                    finally:
                        self.now = machine.now
        except KernelFault as fault:
            self.findings += fault.findings
            raise
        return self._finish(launch)

    def _finish(self, launch: Launch) -> LaunchCount:
        runs = np.repeat(launch.runs, [block.last - block.first for block in launch.program.blocks])
        counts = LaunchCount(launch.program.entry, runs, launch.count)
        self.counts.append(counts)
        found = list(launch.findings.values())
        self.findings += found
        if found and self.raising:
            raise KernelFault(found)
        return counts

    def _run(self, machine: Machine, launch: Launch) -> None:
        """Runs a batch: groups of threads by the block they are at, the first block first."""
        blocks, functions = launch.program.blocks, launch.program.functions
        registers = list(launch.program.registers)
        schedule = Schedule(machine, launch)
        for _ in range(self.steps):
            if not schedule.groups:
                if not schedule.waiting:
                    return
                schedule.release()
            number = min(schedule.groups)
            mask = schedule.groups.pop(number)
            machine.mask = mask
            launch.runs[number] += schedule.warps(mask)
            others = schedule.live()
            kept = [(i, registers[i]) for i in launch.program.to_merge(number, others)] if others else ()
            condition = functions[number](registers, machine)
            for i, old in kept:
                registers[i] = np.where(mask, registers[i], old)
            schedule.go(blocks[number], mask, condition)
        where = launch.program.entry.instructions[blocks[min(schedule.groups)].first]
        raise KernelFault(
            [Finding("endless", launch.program.entry.name, where.line, f"no end after {self.steps} basic blocks")]
        )


class Schedule:
    """Where the threads of a batch are: `groups` run, `waiting` stand at a barrier; a mask of None is all threads."""

    def __init__(self, machine: Machine, launch: Launch):
        self.machine, self.program = machine, launch.program
        self.groups: dict[int, Array | None] = {0: machine.mask}
        self.waiting: dict[int, Array | None] = {}
        self.arrived: dict[int, int] = {}
        self._counted: tuple[Any, int] = (None, machine.blocks * machine.warps)

    def warps(self, mask: Array | None) -> int:
        """How many warps have an active thread."""
        machine = self.machine
        if mask is None:
            return machine.blocks * machine.warps
        if self._counted[0] is not mask:
            repeated = machine.blocks // mask.shape[0] * (machine.warps // mask.shape[1])
            self._counted = (mask, int(mask.any(axis=2).sum()) * repeated)
        return self._counted[1]

    def live(self) -> int:
        """The registers that threads elsewhere still need."""
        bits = 0
        for number in self.groups:
            bits |= self.program.blocks[number].live_in
        for number in self.waiting:
            bits |= self.program.blocks[number].live_in
        return bits

    def add(self, groups: dict[int, Array | None], number: int, mask: Array | None) -> None:
        if number < 0:
            return
        if number in groups:
            old = groups[number]
            assert old is not None and mask is not None
            mask = old | mask
            if mask.all():
                mask = None
        groups[number] = mask

    def go(self, block: Any, mask: Array | None, condition: Array | None) -> None:
        """Moves the threads of `mask` to where the block ends."""
        if block.kind == "barrier":
            self.arrived[block.taken] = block.last - 1
            return self.add(self.waiting, block.taken, mask)
        if condition is None:
            return self.add(self.groups, block.taken, mask)
        taken = condition if mask is None else condition & mask
        if not taken.any():
            return self.add(self.groups, block.following, mask)
        rest = ~condition if mask is None else mask & ~condition
        if not rest.any():
            return self.add(self.groups, block.taken, mask)
        self.add(self.groups, block.taken, taken)
        return self.add(self.groups, block.following, rest)

    def release(self) -> None:
        """Lets all who wait pass; reports blocks of which only a part waits at one barrier."""
        machine = self.machine
        for number, mask in self.waiting.items():
            if mask is None:
                continue
            here = mask.sum(axis=(1, 2)) * (machine.warps // mask.shape[1]) * (32 // mask.shape[2])
            part = (here > 0) & (here < machine.threads)
            if part.any():
                block = int(np.argmax(part))
                what = f"{int(here[block])} of {machine.threads} threads of block {block} of the batch are here"
                machine.report(machine.finding("divergent barrier", self.arrived[number], what))
        machine.block_barrier()
        self.groups, self.waiting = self.waiting, {}
