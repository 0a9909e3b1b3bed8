"""Basic blocks of an entry, and which registers are live between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.cuda.ptx import Entry, Instruction, PTXError

ENDS = {"bra", "ret", "exit", "bar", "barrier", "trap"}
NO_RESULT = {"st", "bra", "ret", "exit", "bar", "barrier", "membar", "fence", "red", "trap", "prefetch", "nanosleep"}
REGISTER = re.compile(r"%?[A-Za-z_$][\w$]*(?:\.[xyz])?")


@dataclass
class Block:
    """Instructions first..last of the entry (last excluded) and where control goes: "jump", "exit" or "barrier".

    A jump under a guard (`condition`) goes to `taken`, else to `following`; without one to `taken`.
    """

    first: int
    last: int
    kind: str = "jump"
    taken: int = -1
    following: int = -1
    condition: tuple[str, bool] | None = None
    used: int = 0
    defined: int = 0
    live_in: int = 0
    live_out: int = 0
    successors: list[int] = field(default_factory=list)


def results(instruction: Instruction) -> tuple[str, ...]:
    """The operands that the instruction writes, as written: `{%r1,%r2}`, `%r1|%p1`."""
    if instruction.op in NO_RESULT or (instruction.op == "cp" and "async" in instruction.mods) or not instruction.operands:
        return ()
    return instruction.operands[:1]


def registers_of(entry: Entry, operands: tuple[str, ...]) -> list[str]:
    return [name for text in operands for name in REGISTER.findall(text) if name in entry.registers]


def _starts(entry: Entry) -> list[int]:
    starts = {0, *entry.labels.values()}
    starts |= {i + 1 for i, each in enumerate(entry.instructions) if each.op in ENDS and each.mods[:1] != ("warp",)}
    starts = {i for i in starts if i < len(entry.instructions)}
    return sorted(starts)


def _finish(entry: Entry, block: Block, number: dict[int, int]) -> None:
    last = entry.instructions[block.last - 1]
    following = number.get(block.last, -1)
    if last.guard and last.op in ("bra", "ret", "exit"):
        block.condition = (last.guard, last.negated)
        block.following = following
    if last.op == "bra":
        target = entry.labels.get(last.operands[0])
        if target is None:
            raise PTXError(f"line {last.line}: no label {last.operands[0]}")
        block.taken = number.get(target, -1)
    elif last.op in ("ret", "exit"):
        block.taken = -1
    elif last.op in ("bar", "barrier") and last.mods[:1] != ("warp",):
        if last.guard or last.mods[0] != "sync":
            raise PTXError(f"line {last.line}: unsupported {'@' if last.guard else ''}{last.name}")
        block.kind = "barrier"
        block.taken = following
    else:
        block.taken = following
    block.successors = [i for i in (block.taken, block.following) if i >= 0]


def basic_blocks(entry: Entry, index: dict[str, int]) -> list[Block]:
    """The entry's blocks in the order of the text; sets of registers are bit masks by `index`. -1 is the exit."""
    starts = _starts(entry)
    blocks = [Block(a, b) for a, b in zip(starts, [*starts[1:], len(entry.instructions)])]
    number = {block.first: i for i, block in enumerate(blocks)}
    for block in blocks:
        _finish(entry, block, number)
        for instruction in entry.instructions[block.first : block.last]:
            written = registers_of(entry, results(instruction))
            read = registers_of(entry, instruction.operands[len(results(instruction)) :])
            if instruction.guard:
                read += [instruction.guard, *written]  # where the guard is false the old value stays
            for name in read:
                block.used |= 1 << index[name] & ~block.defined
            for name in written:
                block.defined |= 1 << index[name]
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks):
            block.live_out = 0
            for i in block.successors:
                block.live_out |= blocks[i].live_in
            live_in = block.used | block.live_out & ~block.defined
            changed |= live_in != block.live_in
            block.live_in = live_in
    return blocks
