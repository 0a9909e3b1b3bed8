"""What a batch of thread blocks sees of the machine: special registers, memory, warp-level exchange."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.cuda import loops
from tests.cuda.memory import BASE, FREE
from tests.cuda.report import Finding, KernelFault

if TYPE_CHECKING:
    from tests.cuda.interpreter import Interpreter, Launch

Array = np.ndarray[Any, Any]
SHARED_WINDOW, LOCAL_WINDOW, WINDOW = 0x7000_0000_0000, 0x7100_0000_0000, 1 << 32
LANES = 32


LANE = np.arange(LANES, dtype=np.uint32).reshape(1, 1, LANES)


@lru_cache(maxsize=256)
def thread_numbers(block: tuple[int, int, int], axis: int) -> Array:
    """%tid: (1, warps or 1, lanes or 1)."""
    warps = -(-math.prod(block) // LANES)
    thread = np.arange(warps * LANES, dtype=np.uint32).reshape(1, warps, LANES)
    return Machine.collapse(thread // np.uint32(math.prod(block[:axis])) % np.uint32(block[axis]))


def uniform(value: int, dtype: str = "u4") -> Array:
    return np.array(value, dtype).reshape(1, 1, 1)


def contiguous(a: Array) -> Array:
    """`a` as the compiled loops take it: one kind of array, so that they are compiled once."""
    return a if a.flags.c_contiguous and a.flags.writeable else a.copy()


class Machine:
    """State of the blocks first..first+count of a launch while they run; the translated code calls its methods.

    Values have shape (blocks, warps, lanes), see `translate`. `mask` says which threads are active, None when all are.
    """

    window = {"shared": uniform(SHARED_WINDOW, "u8"), "local": uniform(LOCAL_WINDOW, "u8")}

    def __init__(self, device: Interpreter, launch: Launch, first: int, count: int):
        program = launch.program
        self.device, self.launch, self.entry = device, launch, program.entry
        self.blocks, self.threads = count, launch.threads
        self.warps = -(-self.threads // LANES)
        self.mask: Array | None = None
        self.first = first
        self.registers: dict[str, Array] = {}
        self.full = np.ones((1, 1, 1), bool)
        if self.threads % LANES:
            self.full = (np.arange(self.warps * LANES) < self.threads).reshape(1, self.warps, LANES)
            self.mask = self.full
        self.warp_sync = np.zeros((count, self.warps), np.int64)
        self.found = np.zeros((len(loops.KINDS), 6), np.int64)
        self.copies: list[tuple[Any, ...]] = []
        self.groups: list[tuple[Array, list[tuple[Any, ...]]]] = []
        self._memories(first)

    def special(self, name: str) -> Array:
        """The special register `name`, such as `%tid.x`."""
        if name not in self.registers:
            self.registers[name] = self._special(name)
        return self.registers[name]

    def _special(self, name: str) -> Array:
        grid, block = self.launch.grid, self.launch.block
        kind, _, axis = name.partition(".")
        at = "xyz".find(axis) if axis else 0
        if kind == "%tid":
            return thread_numbers(block, at)
        if kind == "%ctaid":
            number = np.arange(self.first, self.first + self.blocks, dtype=np.uint32).reshape(self.blocks, 1, 1)
            return number // np.uint32(math.prod(grid[:at])) % np.uint32(grid[at])
        if kind == "%warpid":
            return np.arange(self.warps, dtype=np.uint32).reshape(1, self.warps, 1)
        bit = np.uint32(1) << LANE
        lower = bit - np.uint32(1)
        masks = {"eq": bit, "lt": lower, "le": bit | lower, "gt": ~(bit | lower), "ge": ~lower}
        if kind.startswith("%lanemask_"):
            return masks[kind[-2:]]
        return {"%ntid": uniform(block[at]), "%nctaid": uniform(grid[at]), "%laneid": LANE, "WARP_SZ": uniform(LANES)}[kind]

    def _memories(self, first: int) -> None:
        launch, memory = self.launch, self.device.memory
        shared, self.now = launch.program.shared_size, self.device.now + 1
        stamp, first_warp = self.now, first * self.warps
        common = [first_warp, self.warps, self.blocks, launch.blocks * self.warps]
        spaces = {
            "global": (memory.bytes, memory.state, [launch.start, stamp, *common, BASE, memory.bytes.size, 0, 0]),
            "shared": (*self._shared(shared), [stamp, stamp, *common, 0, shared, shared, 1]),
        }
        self.views: dict[tuple[str, int], tuple[Array, Array]] = {}
        self.space: dict[str, Array] = {}
        self.shadow: dict[str, Array] = {}
        for name, (data, state, numbers) in spaces.items():
            granule = launch.program.granules[name]
            self.space[name] = np.array([*numbers, granule], np.int64)
            for width in (1, 2, 4, 8):
                self.views[name, width] = (data.view(f"u{width}"), state.view(f"u{width}"))
            self.shadow[name] = np.zeros((0, 4), np.int32)
            if self.device.check:
                size = data.size >> granule
                self.shadow[name] = memory.shadow(granule) if name == "global" else np.zeros((size, 4), np.int32)
        size = launch.program.local_size
        self.local = np.zeros(self.blocks * self.warps * LANES * size, np.uint8)

    def _shared(self, size: int) -> tuple[Array, Array]:
        data = np.full((self.blocks, size), 0xA5, np.uint8)
        state = np.empty((self.blocks, size), np.uint8)
        state[:] = self.launch.program.shared_state
        return data.reshape(-1), state.reshape(-1)

    # Values

    @staticmethod
    def collapse(value: Array) -> Array:
        """`value` with each axis 1 that it is the same along."""
        for axis in (2, 1, 0):
            if value.shape[axis] > 1:
                first, second = value.take([0], axis), value.take([1], axis)
                if first.flat[0] == second.flat[0] and (value == first).all():
                    value = first
        return value

    def parameter(self, offset: int, dtype: str) -> Array:
        return np.frombuffer(self.launch.parameters, dtype, 1, offset).reshape(1, 1, 1)

    def symbol(self, name: str, offset: int) -> Array:
        return uniform(self.launch.module.address(self.device, self.launch.program.variables[name]) + offset, "u8")

    def in_space(self, space: str, address: Array) -> Array:
        start = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space)
        if start is None:
            return address < SHARED_WINDOW
        return (address >= start) & (address < start + WINDOW)

    def active(self, guard: Array | None) -> Array:
        mask = self.full if self.mask is None else self.mask
        return mask if guard is None else mask & guard

    def lane_bits(self, active: Array) -> Array:
        """(blocks or 1, warps or 1, 1) uint32: which lanes of a warp are active."""
        if active.shape[2] == 1:
            return np.where(active, np.uint32(0xFFFFFFFF), np.uint32(0))
        return np.where(active, np.uint32(1) << LANE, np.uint32(0)).sum(axis=2, keepdims=True, dtype=np.uint32)

    # Memory

    def _space(self, space: str, base: Array, offset: int, mask: Array) -> tuple[str, Array]:
        """The space of generic addresses and the addresses in it; all active threads' must be in one."""
        if space == "const":
            return "global", base
        if space != "generic":
            return space, base
        for name, start in (("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW)):
            inside = (base + offset >= start) & (base + offset < start + WINDOW)
            if (inside | ~mask).all():
                return name, base - start
            if (inside & mask).any():
                raise NotImplementedError("generic addresses of several spaces in one instruction")
        return "global", base

    def load(self, site: int, space: str, base: Array, offset: int, guard: Array | None, width: int, vector: int) -> Any:
        """The words at base + offset, `vector` arrays of unsigned numbers of `width` bytes."""
        mask = self.active(guard)
        space, base = self._space(space, base, offset, mask)
        if space == "local":
            index = self._local_index(base, offset, mask, width * vector, site)
            return [self.local.view(f"u{width}")[index // width + q] for q in range(vector)]
        data, state = self.views[space, width]
        blocks = self.blocks if space == "shared" else max(base.shape[0], mask.shape[0])
        shape = (vector, blocks, max(base.shape[1], mask.shape[1]), max(base.shape[2], mask.shape[2]))
        out = np.empty(shape, data.dtype)
        self._run(loops.load, data, state, space, base, offset, mask, out, site)
        return out

    def store(
        self, site: int, space: str, base: Array, offset: int, guard: Array | None, width: int, values: tuple[Array, ...]
    ) -> None:
        mask = self.active(guard)
        space, base = self._space(space, base, offset, mask)
        if space == "local":
            mask = np.broadcast_to(mask, (self.blocks, self.warps, LANES))
            index = self._local_index(base, offset, mask, width * len(values), site)[mask]
            for q, value in enumerate(values):
                self.local.view(f"u{width}")[index // width + q] = np.broadcast_to(value, mask.shape)[mask]
            return
        data, state = self.views[space, width]
        lanes = max(base.shape[2], mask.shape[2], *(v.shape[2] for v in values))
        packed = np.empty((len(values), self.blocks, self.warps, lanes), data.dtype)
        for q, value in enumerate(values):
            packed[q] = value
        self._run(loops.store, data, state, space, base, offset, mask, packed, site)

    def _run(
        self,
        loop: Any,
        data: Array,
        state: Array,
        space: str,
        base: Array,
        offset: int,
        mask: Array,
        values: Array,
        site: int,
    ) -> None:
        self.now += 1
        self.launch.history[self.now] = site
        numbers, count = self.space[space], self.launch.count
        base, mask = contiguous(base), contiguous(mask)
        shadow = self.shadow[space]
        if loop(data, state, shadow, base, offset, mask, values, self.warp_sync, numbers, count, self.found, self.now, site):
            self._findings(space, site, values.itemsize * values.shape[0])

    def _local_index(self, base: Array, offset: int, mask: Array, nbytes: int, site: int) -> Array:
        size = self.launch.program.local_size
        address = np.broadcast_to(base + offset, (self.blocks, self.warps, LANES))
        mask = np.broadcast_to(mask, address.shape)
        outside = (address < 0) | (address + nbytes > size)
        last = np.clip(address + nbytes - 1, 0, size - 1)
        if (outside | (self.launch.program.local_state[last] == FREE) | (address % nbytes != 0))[mask].any():
            raise KernelFault([self.finding("out of bounds", site, "local memory")])
        thread = np.arange(address.size).reshape(address.shape)
        return thread * size + np.where(mask, address, 0)

    # Findings

    def finding(self, kind: str, site: int, what: str) -> Finding:
        return Finding(kind, self.entry.name, self.entry.instructions[site].line, what)

    def report(self, finding: Finding) -> None:
        self.launch.findings.setdefault((finding.kind, finding.line), finding)

    def who(self, code: int) -> str:
        """A thread or several, as coded in `loops`, in words."""
        if code == -1:
            return "threads of several blocks"
        all_warps = self.launch.blocks * self.warps
        if code < -1 and -2 - code >= all_warps:
            return f"several warps of block {-2 - code - all_warps}"
        warp = code >> 5 if code >= 0 else -2 - code
        block, warp = divmod(warp, self.warps)
        return f"thread {warp * 32 + code % 32} of block {block}" if code >= 0 else f"warp {warp} of block {block}"

    def _findings(self, space: str, site: int, nbytes: int) -> None:
        """Turns what a loop found into findings; a fault ends the launch."""
        for kind, (seen, offset, me, _, other, when) in zip(loops.KINDS, self.found.tolist()):
            if not seen:
                continue
            where = f"{space} address {offset}"
            if space == "global":
                where = f"{BASE + offset:#x}, {self.device.memory.describe(BASE + offset)}"
            what = f"{nbytes} bytes at {where}, {self.who(me)}"
            if "race" in kind:
                line = self.entry.instructions[self.launch.history[when]].line
                what += f"; {'read' if kind.startswith('WAR') else 'written'} in line {line} by {self.who(other)}"
            if kind == "uninitialised" and not self.device.uninitialised:
                continue
            self.report(self.finding(kind, site, what))
        fault = self.found[loops.OUT_OF_BOUNDS, 0] or self.found[loops.MISALIGNED, 0]
        self.found[:] = 0
        if fault:
            raise KernelFault(list(self.launch.findings.values()))

    def trap(self, site: int, guard: Array | None) -> None:
        if self.active(guard).any():
            raise KernelFault([*self.launch.findings.values(), self.finding("trap", site, "the kernel trapped")])

    # Barriers and exchange within a warp

    def block_barrier(self) -> None:
        """All threads of all blocks passed a barrier: what they did is ordered."""
        self.now += 1
        for numbers in self.space.values():
            numbers[loops.BARRIER] = self.now

    def _converged(self, site: int, members: Array, active: Array) -> None:
        """Reports members of a warp-level instruction that do not take part in it, and those that take part uncalled."""
        if self.mask is None and members.size == 1 and int(members[0, 0, 0]) == 0xFFFFFFFF and active is self.full:
            return
        bits = self.lane_bits(active)
        alive = self.lane_bits(self.full)
        wrong = active & (((members & alive) & ~bits) != 0) | active & ((members >> LANE) & np.uint32(1) == 0)
        if wrong.any():
            b, w, l = (int(x) for x in np.argwhere(wrong)[0])
            self.report(
                self.finding("divergent warp", site, f"lanes of warp {w} of block {b} of the batch are missing, at lane {l}")
            )

    def whole_warps(self, site: int) -> None:
        if self.mask is not None:
            self._converged(site, uniform(0xFFFFFFFF), self.active(None))

    def warp_barrier(self, site: int, members: Array, guard: Array | None) -> None:
        active = self.active(guard)
        self._converged(site, members, active)
        self.now += 1
        self.warp_sync[np.broadcast_to(active.any(axis=2), self.warp_sync.shape)] = self.now

    def shuffle(self, site: int, mode: str, value: Array, b: Array, c: Array, members: Array, guard: Array | None) -> Any:
        """shfl.sync: (the value of the source lane, whether that lane is in range), PTX ISA 9.7.9.6."""
        self._converged(site, members, self.active(guard))
        lane, by, clamp, segment = LANE, b & np.uint32(31), c & np.uint32(31), (c >> np.uint32(8)) & np.uint32(31)
        first = lane & segment
        last = first | (clamp & ~segment)
        lane, by, last = lane.astype("i8"), by.astype("i8"), last.astype("i8")
        if mode == "up":
            source = lane - by
            valid = source >= last
        else:
            source = {"down": lane + by, "bfly": lane ^ by, "idx": first | (by & ~segment)}[mode]
            valid = source <= last
        source = np.where(valid, source, lane)
        if value.shape[2] == 1:
            return value, valid
        if source.shape[:2] == (1, 1):
            lanes = source[0, 0]
            if (lanes == lanes[0]).all():
                return np.ascontiguousarray(value[:, :, lanes[:1]]), valid
            return value.take(lanes, axis=2), valid
        shape = np.broadcast_shapes(value.shape, source.shape)
        return np.take_along_axis(np.broadcast_to(value, shape), np.broadcast_to(source, shape), axis=2), valid

    def vote(self, site: int, mode: str, value: Array, members: Array, guard: Array | None) -> Array:
        active = self.active(guard)
        self._converged(site, members, active)
        yes, bits = self.lane_bits(active & value), self.lane_bits(active)
        if mode == "ballot":
            return yes
        return {"any": yes != 0, "all": yes == bits, "uni": (yes == 0) | (yes == bits)}[mode]

    def active_lanes(self, guard: Array | None) -> Array:
        return self.lane_bits(self.active(guard))

    # Asynchronous copies: the data arrives when it is waited for, no earlier

    def copy_async(
        self, site: int, to: Array, to_offset: int, source: Array, offset: int, nbytes: int, read: Array | None, guard: Any
    ) -> None:
        mask = self.active(guard)
        if read is not None and not np.isin(read, (0, nbytes)).all():
            raise NotImplementedError("cp.async of a part of its bytes")
        wanted = mask if read is None else mask & (read != 0)
        aligned = ((source + offset) % nbytes == 0) & ((to + to_offset) % nbytes == 0)
        if not (aligned | ~mask).all():
            raise KernelFault(
                [*self.launch.findings.values(), self.finding("misaligned", site, f"cp.async of {nbytes} bytes")]
            )
        data = self.load(site, "global", source, offset, wanted, 4, nbytes // 4)
        self.copies.append((site, to, to_offset, mask, tuple(data)))

    def commit_group(self, site: int, guard: Array | None) -> None:
        self.groups.append((self.active(guard), self.copies))
        self.copies = []

    def wait_group(self, site: int, pending: int, guard: Array | None, everything: bool) -> None:
        active = self.active(guard)
        if everything and self.copies:
            self.commit_group(site, guard)
        mine = []
        for group in self.groups:
            shared = group[0] & active
            if shared.any():
                if (active & ~group[0]).any():
                    raise NotImplementedError("cp.async.wait_group after commits under divergence")
                mine.append(group)
        arriving = mine[: len(mine) - pending]
        mask = self.mask
        for committed, copies in arriving:
            for site_, to, to_offset, copying, data in copies:
                self.mask = copying & active
                self.store(site_, "shared", to, to_offset, None, 4, data)
            rest = committed & ~active
            position = next(k for k, g in enumerate(self.groups) if g[1] is copies)
            if rest.any():
                self.groups[position] = (rest, [(*c[:3], c[3] & ~active, c[4]) for c in copies])
            else:
                del self.groups[position]
        self.mask = mask
