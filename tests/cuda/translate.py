"""Turns the basic blocks of an entry into Python functions on NumPy arrays.

A register is an array of shape (blocks, warps, lanes) where each axis may be 1: the value is the same along it. A function
`block(R, M)` reads registers from the list `R`, asks the machine `M` for memory and special registers, writes back the
registers that live on and returns the condition of its branch. It computes on all threads, those that are not active too;
the machine keeps the old values of registers that those still need.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from tests.cuda import numeric
from tests.cuda.arithmetic import ARITHMETIC
from tests.cuda.flow import Block, basic_blocks, registers_of
from tests.cuda.movement import MOVEMENT
from tests.cuda.ptx import Entry, Instruction, PTXError, size_of

OPERATIONS = {**ARITHMETIC, **MOVEMENT}
SPECIAL = re.compile(r"^%(?:n?tid|n?ctaid)\.[xyz]$|^%(?:laneid|warpid|lanemask_(?:eq|lt|le|gt|ge))$|^WARP_SZ$")


@cache
def dtype_of(type_name: str) -> str:
    """NumPy's name: `s32` -> `i4`, `b64` -> `u8`, `pred` -> `?`."""
    if type_name == "pred":
        return "?"
    if type_name == "tf32":
        return "f4"
    return {"f": "f", "s": "i"}.get(type_name[0], "u") + str(size_of(type_name))


class Translator:
    """Writes the source of one entry's blocks; handlers in `arithmetic.py` and `movement.py` call `get` and `put`."""

    def __init__(self, entry: Entry, symbols: dict[str, tuple[str, int]]):
        self.entry = entry
        self.symbols = symbols
        self.index = {name: i for i, name in enumerate(entry.registers)}
        self.names = list(entry.registers)
        self.blocks = basic_blocks(entry, self.index)
        self.namespace: dict[str, Any] = {"np": np, "numeric": numeric, "where": np.where}
        self.constants: dict[tuple[str, bytes], str] = {}
        self.lines: list[str] = []
        self.site = 0
        self.instruction = Instruction(0, "", (), ())

    def error(self, what: str) -> PTXError:
        i = self.instruction
        return PTXError(f"{self.entry.name}, line {i.line}: {what}: {i.name} {', '.join(i.operands)}")

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant of shape (1, 1, 1)."""
        key = (array.dtype.str, array.tobytes())
        if key not in self.constants:
            self.constants[key] = f"k{len(self.constants)}"
            self.namespace[self.constants[key]] = array.reshape(1, 1, 1)
        return self.constants[key]

    def literal(self, text: str) -> float | int | None:
        """The value of an immediate operand, None for anything else."""
        if re.match(r"^0[fF][0-9a-fA-F]{8}$", text):
            return float(np.array(int(text[2:], 16), "u4").view("f4"))
        if re.match(r"^0[dD][0-9a-fA-F]{16}$", text):
            return float(np.array(int(text[2:], 16), "u8").view("f8"))
        if re.match(r"^-?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?$", text):
            text = text.rstrip("U")
            octal = re.match(r"^(-?)0([0-7]+)$", text)
            return int(octal[1] + octal[2], 8) if octal else int(text, 0)
        return None

    def local(self, register: str) -> str:
        return "r_" + re.sub(r"\W", "_", register)

    def get(self, operand: str, dtype: str) -> str:
        """Python for the operand's value as `dtype`."""
        if operand in self.entry.registers:
            stored = dtype_of(self.entry.registers[operand])
            name = self.local(operand)
            if stored == dtype:
                return name
            if "?" in (stored, dtype):
                raise self.error(f"a predicate beside a number, {operand}")
            if stored[1] == dtype[1]:
                return f"{name}.view('{dtype}')"
            if stored[1] > dtype[1] and stored[0] != "f":
                return f"{name}.astype('{dtype}')" if dtype[0] != "f" else f"{name}.astype('u{dtype[1]}').view('{dtype}')"
            raise self.error(f"operand {operand} of {stored}, {dtype} wanted")
        if operand.startswith("!"):
            return f"~{self.get(operand[1:], dtype)}"
        if SPECIAL.match(operand):
            return f"M.special({operand!r})" + ("" if dtype == "u4" else f".astype('{dtype}')")
        return self.immediate(operand, dtype)

    def immediate(self, operand: str, dtype: str) -> str:
        value = self.literal(operand)
        if value is None:
            match = re.match(r"^([\w$.]+)(?:\+(-?\w+))?$", operand)
            if not match or match[1] not in self.symbols:
                raise self.error(f"unknown operand {operand}")
            space, base = self.symbols[match[1]]
            if space in ("global", "const"):
                return f"M.symbol({match[1]!r}, {int(match[2] or '0', 0)}).astype('{dtype}')"
            value = base + int(match[2] or "0", 0)
        if dtype[0] == "f":
            exact = re.match(r"^0[fF]([0-9a-fA-F]{8})$", operand)
            if exact and dtype == "f4":
                return self.constant(np.array(int(exact[1], 16), "u4").view("f4"))
            return self.constant(np.array(value, dtype))
        if isinstance(value, float):
            digits = re.match(r"^0[fFdD]([0-9a-fA-F]+)$", operand)
            assert digits
            value = int(digits[1], 16)
        if dtype == "?":
            return self.constant(np.array(bool(value)))
        bits = 8 * int(dtype[1])
        return self.constant(np.array(int(value) & ((1 << bits) - 1), f"u{dtype[1]}").view(dtype))

    def put(self, destination: str, expression: str, dtype: str) -> None:
        """Assigns; a value narrower than the register is extended as its type says, and a guard keeps the old value."""
        if destination == "_":
            self.lines.append(expression)
            return
        if destination not in self.entry.registers:
            raise self.error(f"unknown register {destination}")
        stored = dtype_of(self.entry.registers[destination])
        if stored != dtype:
            if "?" in (stored, dtype) or stored[1] < dtype[1]:
                raise self.error(f"a result of {dtype} in {destination} of {stored}")
            if stored[1] == dtype[1]:
                expression = f"({expression}).view('{stored}')"
            else:
                wide = f"{'i' if dtype[0] == 'i' else 'u'}{stored[1]}"
                narrow = f"({expression}).view('u{dtype[1]}')" if dtype[0] == "f" else f"({expression})"
                expression = f"{narrow}.astype('{wide}').view('{stored}')"
        name = self.local(destination)
        guard = self.guard()
        if guard:
            expression = f"where({guard}, {expression}, {name})"
        self.lines.append(f"{name} = {expression}")

    def guard(self) -> str:
        """Python for the instruction's guard, empty without one."""
        i = self.instruction
        if not i.guard:
            return ""
        return f"~{self.local(i.guard)}" if i.negated else self.local(i.guard)

    def address(self, operand: str) -> tuple[str, int]:
        """`[%rd1+8]` -> (Python for the base as int64, 8)."""
        match = re.match(r"^\[([^+\]]+)(?:\+(-?\w+))?\]$", operand)
        if not match:
            raise self.error(f"address {operand}")
        base, offset = match[1], int(match[2] or "0", 0)
        if base in self.entry.registers and dtype_of(self.entry.registers[base]) == "u4":
            return f"{self.local(base)}.astype('i8')", offset
        return self.get(base, "i8"), offset

    def types(self, *allowed: str) -> list[str]:
        """The types among the instruction's modifiers, as dtypes; other modifiers must be in `allowed`."""
        found = []
        for mod in self.instruction.mods:
            if re.match(r"^([busf](8|16|32|64)|pred|tf32)$", mod):
                found.append(dtype_of(mod))
            elif mod not in allowed:
                raise self.error(f"unsupported modifier .{mod} in")
        return found

    def block_source(self, number: int, block: Block) -> list[str]:
        """The function of one block: registers in, one to a few lines an instruction, registers out."""
        instructions = self.entry.instructions[block.first : block.last]
        names = self.names
        last_use: dict[str, int] = {}
        body: list[list[str]] = []
        for position, instruction in enumerate(instructions):
            self.instruction, self.site, self.lines = instruction, block.first + position, []
            handler = OPERATIONS.get(instruction.op)
            if handler is None:
                raise self.error("unsupported instruction")
            handler(self, instruction)
            body.append(self.lines)
            last_use.update(
                dict.fromkeys(registers_of(self.entry, (*instruction.operands, instruction.guard or "")), position)
            )
        kept = {names[i] for i in _bits(block.live_out)}
        if block.condition:
            kept.add(block.condition[0])
        done: dict[int, list[str]] = {}
        for name, position in last_use.items():
            if name not in kept:
                done.setdefault(position, []).append(self.local(name))
        source = [f"def block{number}(R, M):"]
        source += [f"    {self.local(names[i])} = R[{i}]" for i in _bits(block.used)]
        for position, lines in enumerate(body):
            source += [f"    {line}" for line in lines]
            if position in done:
                source.append(f"    del {', '.join(done[position])}")
        source += [f"    R[{i}] = {self.local(names[i])}" for i in _bits(block.live_out & block.defined)]
        if block.condition:
            register, negated = block.condition
            source.append(f"    return {'~' if negated else ''}{self.local(register)}")
        return source

    def compile(self) -> list[Any]:
        """The functions of the entry's blocks. Raises PTXError for what is not supported."""
        source = []
        for number, block in enumerate(self.blocks):
            source += self.block_source(number, block)
            if source[-1].startswith("def"):
                source.append("    pass")
        exec(compile("\n".join(source), f"<{self.entry.name}>", "exec"), self.namespace)
        return [self.namespace[f"block{i}"] for i in range(len(self.blocks))]


def _bits(mask: int) -> list[int]:
    """Positions of the ones."""
    found = []
    while mask:
        found.append((mask & -mask).bit_length() - 1)
        mask &= mask - 1
    return found
