"""Reads PTX text: entries with their parameters, variables, registers and instructions (PTX ISA 9.0, chapters 4 and 5)."""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from dataclasses import dataclass, field

BITS = {"8": 1, "16": 2, "32": 4, "64": 8}
LINE_DIRECTIVE = re.compile(r"\.(?:version|target|address_size|file|loc)\b")
VARIABLE = re.compile(
    r"^(?:\.(?:visible|extern|common|weak)\s+)*\.(shared|global|const|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+"
    r"([\w$.%]+)((?:\[\d*\])*)\s*(?:=\s*(.*))?$",
    re.S,
)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr[^,\[]*?\s)?([\w$]+)(?:\[(\d+)\])?\s*(?:,|$)")
INSTRUCTION = re.compile(r"^(?:@(!?)(%?[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.S)


class PTXError(Exception):
    """PTX that is not understood; the message names the line and the text."""


def size_of(type_name: str) -> int:
    """Bytes of a type such as `f32` or `b64`."""
    digits = type_name.lstrip("busf")
    if digits not in BITS:
        raise PTXError(f"unsupported type .{type_name}")
    return BITS[digits]


@dataclass
class Variable:
    """An array in `.shared`, `.global`, `.const` or `.local`; `data` is its initial content, None when it has none."""

    name: str
    space: str
    align: int
    nbytes: int
    data: bytes | None = None


@dataclass
class Parameter:
    name: str
    type: str
    nbytes: int
    offset: int


@dataclass
class Instruction:
    """One instruction: `@guard op.mods operands`; `line` is its line in the PTX text, from 1."""

    line: int
    op: str
    mods: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None = None
    negated: bool = False

    @property
    def name(self) -> str:
        return ".".join((self.op, *self.mods))


@dataclass
class Entry:
    """A kernel: `labels` gives positions in `instructions`, `registers` the type of each register."""

    name: str
    parameters: list[Parameter] = field(default_factory=list)
    maxntid: int | None = None
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def _number(text: str, type_name: str) -> bytes:
    size = size_of(type_name)
    if re.match(r"^0[fF][0-9a-fA-F]{8}$", text):
        return struct.pack("<I", int(text[2:], 16))
    if re.match(r"^0[dD][0-9a-fA-F]{16}$", text):
        return struct.pack("<Q", int(text[2:], 16))
    try:
        value = int(text.rstrip("U"), 0)
    except ValueError:
        raise PTXError(f"unsupported initial value {text!r}") from None
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _variable(text: str) -> Variable | None:
    match = VARIABLE.match(text)
    if not match:
        return None
    space, align, type_name, name, dims, initial = match.groups()
    size = size_of(type_name)
    count = 1
    for dim in re.findall(r"\[(\d*)\]", dims):
        count *= int(dim or 0)
    data = None
    if initial is not None:
        values = [v for v in re.split(r"[\s,{}]+", initial) if v]
        data = b"".join(_number(v, type_name) for v in values).ljust(count * size, b"\0")
    return Variable(name, space, int(align or size), count * size, data)


def _parameters(text: str) -> list[Parameter]:
    parameters, offset = [], 0
    for align, type_name, name, count in PARAMETER.findall(text):
        size = size_of(type_name)
        step = max(int(align or 0), size)
        offset = -(-offset // step) * step
        nbytes = size * int(count or 1)
        parameters.append(Parameter(name, type_name, nbytes, offset))
        offset += nbytes
    return parameters


def split_operands(text: str) -> tuple[str, ...]:
    """`{%f1, %f2}, [%rd1+4]` -> `("{%f1,%f2}", "[%rd1+4]")`."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "{[(") - (char in "}])")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return tuple(re.sub(r"\s+", "", part) for part in parts if part.strip())


class _Reader:
    """Walks the text statement by statement."""

    def __init__(self, text: str):
        text = re.sub(r"/\*.*?\*/", _blank, text, flags=re.S)
        self.text = re.sub(r"//[^\n]*", _blank, text)
        self.at = 0
        self.newlines = [m.start() for m in re.finditer("\n", self.text)]

    def line(self, at: int) -> int:
        return bisect_right(self.newlines, at) + 1

    def skip_space(self) -> bool:
        match = re.compile(r"\s*").match(self.text, self.at)
        assert match
        self.at = match.end()
        return self.at < len(self.text)

    def take(self, stop: str) -> str:
        """The text up to one of the characters `stop` outside parentheses; that character is left."""
        start, depth = self.at, 0
        for match in re.compile(f"[(){re.escape(stop)}]").finditer(self.text, start):
            depth += (match[0] == "(") - (match[0] == ")")
            if match[0] in stop and depth == 0:
                self.at = match.start()
                return self.text[start : self.at]
        raise PTXError(f"line {self.line(start)}: no {' or '.join(stop)} ends {self.text[start : start + 60]!r}")

    def skip_braces(self) -> None:
        depth = 0
        while True:
            depth += {"{": 1, "}": -1}.get(self.text[self.at], 0)
            self.at += 1
            if depth == 0:
                return


class _Body:
    """Collects an entry's body; names declared in an inner scope get a suffix of their own."""

    def __init__(self, entry: Entry):
        self.entry = entry
        self.scopes: list[dict[str, str]] = []
        self.opened = 0

    def open(self) -> None:
        self.scopes.append({})
        self.opened += 1

    def declare(self, name: str) -> str:
        unique = name if len(self.scopes) == 1 else f"{name}_s{self.opened}"
        self.scopes[-1][name] = unique
        return unique

    def resolve(self, text: str) -> str:
        if len(self.scopes) == 1:
            return text

        def scoped(match: re.Match[str]) -> str:
            return next((s[match[0]] for s in reversed(self.scopes) if match[0] in s), match[0])

        return re.sub(r"[%$\w]+", scoped, text)

    def registers(self, text: str) -> None:
        match = re.match(r"^\.reg\s+\.(\w+)\s+(.*)$", text, re.S)
        if not match:
            raise PTXError(f"unsupported declaration {text!r}")
        for name in split_operands(match[2]):
            counted = re.match(r"^([\w$%]+)<(\d+)>$", name)
            names = [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [name]
            for each in names:
                self.entry.registers[self.declare(each)] = match[1]

    def instruction(self, text: str, line: int) -> None:
        match = INSTRUCTION.match(text)
        if not match:
            raise PTXError(f"line {line}: not understood: {text!r}")
        negated, guard, name, rest = match.groups()
        op, *mods = name.replace("::", ".").split(".")
        operands = split_operands(self.resolve(rest))
        guard = self.resolve(guard) if guard else None
        self.entry.instructions.append(Instruction(line, op, tuple(mods), operands, guard, bool(negated)))

    def statement(self, text: str, line: int) -> None:
        if text.startswith(".reg"):
            return self.registers(text)
        if text.startswith(".pragma"):
            return None
        if text.startswith("."):
            variable = _variable(text)
            if variable is None:
                raise PTXError(f"line {line}: unsupported directive {text!r}")
            self.entry.variables[variable.name] = variable
            return None
        return self.instruction(text, line)


def _read_body(reader: _Reader, entry: Entry) -> None:
    body = _Body(entry)
    while reader.skip_space():
        line = reader.line(reader.at)
        char = reader.text[reader.at]
        if char in "{}":
            reader.at += 1
            if char == "{":
                body.open()
                continue
            body.scopes.pop()
            if not body.scopes:
                return
            continue
        label = re.compile(r"([\w$%]+):(?!:)").match(reader.text, reader.at)
        if label:
            reader.at = label.end()
            entry.labels[label[1]] = len(entry.instructions)
        elif LINE_DIRECTIVE.match(reader.text, reader.at):
            reader.take("\n")
        else:
            text = reader.take(";").strip()
            reader.at += 1
            if text:
                body.statement(text, line)
    raise PTXError(f"{entry.name}: the body has no end")


def parse(text: str) -> tuple[dict[str, Entry], dict[str, Variable]]:
    """The entries and the module's variables of `text`; `.func` bodies are skipped (a `call` is an error when it is run).

    Raises PTXError with the line of what is not understood.
    """
    reader = _Reader(text)
    entries: dict[str, Entry] = {}
    variables: dict[str, Variable] = {}
    while reader.skip_space():
        line = reader.line(reader.at)
        if reader.text.startswith(".section", reader.at):
            reader.take("{")
            reader.skip_braces()
            continue
        if LINE_DIRECTIVE.match(reader.text, reader.at):
            reader.take("\n")
            continue
        start = reader.at
        statement = reader.take("{;=").strip()
        if reader.text[reader.at] == "=":
            reader.take(";")
            statement = reader.text[start : reader.at].strip()
        ended = reader.text[reader.at] == ";"
        function = re.match(r"^(?:\.(?:visible|extern|weak)\s+)*\.(entry|func)\b", statement)
        if ended:
            reader.at += 1
            variable = _variable(statement)
            if variable:
                variables[variable.name] = variable
            elif not function:
                raise PTXError(f"line {line}: not understood: {statement!r}")
        elif not function:
            raise PTXError(f"line {line}: not understood: {statement[:80]!r}")
        elif function[1] == "func":
            reader.skip_braces()
        else:
            head = re.search(r"\.entry\s+([\w$]+)\s*(?:\((.*?)\))?\s*([^()]*)$", statement, re.S)
            assert head, statement
            entry = Entry(head[1], _parameters(head[2] or ""))
            threads = re.search(r"\.(?:max|req)ntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", head[3])
            if threads:
                entry.maxntid = int(threads[1]) * int(threads[2] or 1) * int(threads[3] or 1)
            _read_body(reader, entry)
            entries[entry.name] = entry
    return entries, variables
