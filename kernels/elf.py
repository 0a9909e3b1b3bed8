"""A linker: one self-contained ELF64 object in, one shared library out (x86-64 and aarch64), with
no toolchain at hand.

The object holds code and constants only, in position-independent form, and refers to nothing
outside itself: so the library needs no relocation when it is loaded, no writable data and no other
library.
Whatever does not fit that description is refused.
Formats: the System V gABI ("Object Files", "Dynamic Linking") and the x86-64 and AArch64 psABIs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

X86_64, AARCH64 = 62, 183
PAGE = {X86_64: 4096, AARCH64: 65536}
"""Largest page size a kernel of the architecture may use: the alignment of segments."""

_WRITE, _ALLOC, _EXEC, _TLS = 1, 2, 4, 0x400
_SYMTAB, _RELA, _NOTE, _NOBITS, _REL, _X86_64_UNWIND = 2, 4, 7, 8, 9, 0x70000001
_EHDR, _PHDR, _SHDR, _SYM, _RELOCATION = "<16sHHIQQQIHHHHHH", "<IIQQQQQQ", "<IIQQQQIIQQ", "<IBBHQQ", "<QQq"
_MAGIC = b"\x7fELF\x02\x01\x01"


class LinkError(ValueError):
    """The object code is damaged, or needs more than this linker gives; the message names the
    symbol or section."""


class _Section(NamedTuple):
    name: str
    kind: int
    flags: int
    data: bytes
    link: int
    info: int
    align: int


class _Symbol(NamedTuple):
    name: str
    info: int
    section: int
    value: int
    size: int


class _Object:
    """The sections and symbols of a relocatable object, every offset in it checked."""

    def __init__(self, obj: bytes) -> None:
        self.bytes = obj
        if obj[:7] != _MAGIC:
            raise LinkError("not a 64-bit little-endian ELF object")
        head = _unpack(_EHDR, obj, 0)
        kind, self.machine, table, entry, count = head[1], head[2], head[6], head[11], head[12]
        if kind != 1 or self.machine not in PAGE or entry != struct.calcsize(_SHDR):
            raise LinkError(f"not a relocatable object for x86-64 or aarch64 (type {kind}, machine {self.machine})")
        rows = [_unpack(_SHDR, obj, table + entry * i) for i in range(count)]
        if not rows or head[13] >= count:
            raise LinkError("the object has no section names")
        names = self._slice(rows[head[13]][4], rows[head[13]][5])
        self.sections = [
            _Section(
                _text(names, row[0]),
                row[1],
                row[2],
                b"" if row[1] in (0, _NOBITS) else self._slice(row[4], row[5]),
                row[6],
                row[7],
                max(1, row[8]),
            )
            for row in rows
        ]
        pairs = zip(self.sections, rows)
        self.writable = [s.name for s, row in pairs if row[5] and s.flags & _ALLOC and s.flags & (_WRITE | _TLS)]
        self.symbols = self._symbols()

    def _slice(self, offset: int, size: int) -> bytes:
        if offset + size > len(self.bytes):
            raise LinkError(f"a section lies outside the object ({offset} + {size} of {len(self.bytes)} bytes)")
        return self.bytes[offset : offset + size]

    def section(self, index: int, what: str) -> _Section:
        if not 0 < index < len(self.sections):
            raise LinkError(f"{what} refers to section {index}, which does not exist")
        return self.sections[index]

    def _symbols(self) -> list[_Symbol]:
        tables = [s for s in self.sections if s.kind == _SYMTAB]
        if len(tables) != 1:
            raise LinkError(f"the object has {len(tables)} symbol tables, wanted 1")
        names = self.section(tables[0].link, "the symbol table").data
        rows = _rows(_SYM, tables[0].data, "the symbol table")
        return [_Symbol(_text(names, row[0]), row[1], row[3], row[4], row[5]) for row in rows]

    def undefined(self) -> list[str]:
        return sorted({s.name or "(unnamed)" for s in self.symbols[1:] if s.section == 0})

    def kept(self) -> list[int]:
        """Indices of the sections that go into the library; unwind tables and notes do not."""
        return [
            i
            for i, s in enumerate(self.sections)
            if s.flags & _ALLOC and s.data and s.kind not in (_NOTE, _X86_64_UNWIND) and s.name != ".eh_frame"
        ]

    def check(self) -> None:
        if missing := self.undefined():
            raise LinkError(f"undefined symbols: {', '.join(missing)}")
        if common := [s.name for s in self.symbols if s.section == 0xFFF2]:
            raise LinkError(f"writable data: {', '.join(common)}")
        if self.writable:
            raise LinkError(f"writable data in {', '.join(self.writable)}: kernels may have code and constants only")
        for i in self.kept():
            align = self.sections[i].align
            if align & (align - 1) or align > PAGE[self.machine]:
                raise LinkError(f"{self.sections[i].name} wants alignment {align}, pages have {PAGE[self.machine]}")


def undefined(obj: bytes) -> list[str]:
    """Names of the symbols that a relocatable object needs from elsewhere.
    Raises LinkError for a damaged object."""
    return _Object(obj).undefined()


def link(obj: bytes, exports: Iterable[str]) -> bytes:
    """The shared library of a relocatable object that exports the functions named.

    Raises LinkError when the object is damaged, is not for x86-64 or aarch64, has undefined
    symbols, writable data or a relocation that is not position-independent, or lacks an exported
    function.
    """
    o = _Object(obj)
    o.check()
    exported = [_exported(o, name) for name in sorted(set(exports))]
    page = PAGE[o.machine]
    # Three segments: R headers, symbols, constants; RX code; RW the dynamic section, which the loader writes to and then
    # protects (RELRO). They follow each other in the file; segment k is mapped k pages further on than it lies there,
    # which keeps address and offset congruent and no two segments on one page, without padding.
    strings = b"\0" + b"".join(s.name.encode() + b"\0" for s in exported)
    table = _hash_table([s.name for s in exported])
    at_symbols = struct.calcsize(_EHDR) + _SEGMENTS * struct.calcsize(_PHDR)
    at_strings = at_symbols + struct.calcsize(_SYM) * (1 + len(exported))
    at_table = _align(at_strings + len(strings), 8)
    at_constants = _align(at_table + len(table), 64)
    places: dict[int, tuple[int, int]] = {}
    at_code = _align(_place(o, at_constants, 0, places, executable=False), 64)
    at_dynamic = _align(_place(o, at_code, page, places, executable=True), 128)
    dynamic = b"".join(
        struct.pack("<QQ", tag, value)
        for tag, value in ((4, at_table), (5, at_strings), (6, at_symbols), (10, len(strings)), (11, 24), (0, 0))
    )

    image = bytearray(at_dynamic + len(dynamic))
    for i, (offset, _) in places.items():
        _put(image, offset, o.sections[i].data)
    _relocate(o, image, places)
    _put(image, at_symbols, _dynamic_symbols(exported, strings, places))
    _put(image, at_strings, strings)
    _put(image, at_table, table)
    _put(image, at_dynamic, dynamic)
    parts = (at_symbols, at_strings, at_table, at_constants, at_code, at_dynamic)
    return _with_headers(image, o.machine, parts, len(exported))


def _exported(o: _Object, name: str) -> _Symbol:
    for s in o.symbols:
        if s.name == name and s.info >> 4 in (1, 2) and s.info & 15 == 2 and s.section < len(o.sections):
            if not o.sections[s.section].flags & _EXEC or s.value > len(o.sections[s.section].data):
                raise LinkError(f"{name} is not code")
            return s
    raise LinkError(f"the object does not define the function {name}")


def _place(
    o: _Object,
    at: int,
    bias: int,
    places: dict[int, tuple[int, int]],
    *,
    executable: bool,
) -> int:
    """Puts the sections of one segment one after the other from file offset ``at``; returns where
    they end."""
    for i in o.kept():
        if bool(o.sections[i].flags & _EXEC) is executable:
            at = _align(at, o.sections[i].align)
            places[i] = at, at + bias
            at += len(o.sections[i].data)
    return at


def _relocate(o: _Object, image: bytearray, places: dict[int, tuple[int, int]]) -> None:
    apply = _relocate_x86_64 if o.machine == X86_64 else _relocate_aarch64
    for relocations in o.sections:
        if relocations.kind not in (_RELA, _REL) or relocations.info not in places:
            continue
        section = o.sections[relocations.info]
        if relocations.kind == _REL:
            raise LinkError(f"{relocations.name}: relocations without addends")
        offset, address = places[relocations.info]
        for where, info, addend in _rows(_RELOCATION, relocations.data, relocations.name):
            kind, index = info & 0xFFFFFFFF, info >> 32
            size = 8 if kind in _EIGHT_BYTES[o.machine] else 4
            if where + size > len(section.data) or index >= len(o.symbols):
                raise LinkError(f"{relocations.name}: an entry lies outside the object")
            s = o.symbols[index]
            if s.section not in places or s.info & 15 == 10 or s.value > len(o.sections[s.section].data):
                raise LinkError(f"{relocations.name} refers to {s.name or 'a symbol'}, which is neither code nor a constant")
            try:
                apply(image, kind, offset + where, address + where, places[s.section][1] + s.value + addend, where)
            except (LinkError, struct.error) as e:
                raise LinkError(f"{section.name}+{where:#x}, {s.name or o.sections[s.section].name}: {e}") from None


_EIGHT_BYTES = {X86_64: (24,), AARCH64: (260,)}  # PC64, PREL64


def _relocate_x86_64(
    image: bytearray,
    kind: int,
    at: int,
    place: int,
    value: int,
    where: int,
) -> None:
    """Writes ``value`` (S + A) at offset ``at`` of the image, which is mapped at ``place``."""
    if kind in (2, 4):  # PC32, PLT32
        struct.pack_into("<i", image, at, value - place)
    elif kind == 24:  # PC64
        struct.pack_into("<q", image, at, value - place)
    elif kind in (41, 42):  # GOTPCRELX, REX_GOTPCRELX: a load of the address becomes the address (psABI, B.2)
        opcode, operand = (image[at - 2], image[at - 1]) if where >= 2 else (0, 0)
        if opcode == 0x8B and operand & 0xC7 == 0x05:  # mov symbol@GOTPCREL(%rip), reg: lea symbol(%rip), reg
            image[at - 2] = 0x8D
        elif opcode == 0xFF and operand == 0x15:  # call *symbol@GOTPCREL(%rip): addr32 call symbol
            image[at - 2 : at] = b"\x67\xe8"
        else:
            raise LinkError(f"an address is taken from the GOT by {opcode:#04x} {operand:#04x}")
        struct.pack_into("<i", image, at, value - place)
    else:
        raise LinkError(f"relocation type {kind} (x86-64) is not position-independent or not known")


_LOADS = {278: 0, 284: 1, 285: 2, 286: 3, 299: 4}  # LDST{8,16,32,64,128}_ABS_LO12_NC: log2 of the access's size


def _relocate_aarch64(
    image: bytearray,
    kind: int,
    at: int,
    place: int,
    value: int,
    where: int,
) -> None:
    """Writes ``value`` (S + A) at offset ``at`` of the image, which is mapped at ``place``."""
    if kind == 260:  # PREL64
        struct.pack_into("<q", image, at, value - place)
        return
    if kind in (261, 314):  # PREL32, PLT32
        struct.pack_into("<i", image, at, value - place)
        return
    (word,) = struct.unpack_from("<I", image, at)
    if kind in (275, 311):  # ADR_PREL_PG_HI21; ADR_GOT_PAGE, whose load (312) becomes an addition
        pages = _signed((value >> 12) - (place >> 12), 21)
        word = word & 0x9F00001F | (pages & 3) << 29 | pages >> 2 << 5
    elif kind == 277:  # ADD_ABS_LO12_NC
        word = word & 0xFFC003FF | (value & 0xFFF) << 10
    elif kind == 312:  # LD64_GOT_LO12_NC: ldr Xt, [Xn, lo12(got entry)] becomes add Xt, Xn, lo12(symbol)
        if word & 0xFFC00000 != 0xF9400000:
            raise LinkError(f"an address is taken from the GOT by {word:#010x}")
        word = 0x91000000 | (value & 0xFFF) << 10 | word & 0x3FF
    elif kind in _LOADS:
        if value & ((1 << _LOADS[kind]) - 1):
            raise LinkError(f"a load of {1 << _LOADS[kind]} bytes from the unaligned address {value:#x}")
        word = word & 0xFFC003FF | (value & 0xFFF) >> _LOADS[kind] << 10
    elif kind in (282, 283):  # JUMP26, CALL26
        if (value - place) & 3:
            raise LinkError("a branch to an unaligned address")
        word = word & 0xFC000000 | _signed((value - place) >> 2, 26)
    else:
        raise LinkError(f"relocation type {kind} (aarch64) is not position-independent or not known")
    struct.pack_into("<I", image, at, word)


def _signed(value: int, bits: int) -> int:
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise LinkError(f"a distance of {value} does not fit in {bits} bits")
    return value & ((1 << bits) - 1)


def _dynamic_symbols(
    exported: list[_Symbol],
    strings: bytes,
    places: dict[int, tuple[int, int]],
) -> bytes:
    rows = [bytes(struct.calcsize(_SYM))]
    for s in exported:
        name = strings.index(b"\0" + s.name.encode() + b"\0") + 1
        rows.append(struct.pack(_SYM, name, s.info, 0, _TEXT_INDEX, places[s.section][1] + s.value, s.size))
    return b"".join(rows)


def _hash_table(names: list[str]) -> bytes:
    """The System V hash table of symbols 1, 2, … (gABI, "Hash Table")."""
    count = max(1, len(names))
    buckets, chains = [0] * count, [0] * (len(names) + 1)
    for i, name in enumerate(names, 1):
        h = 0
        for c in name.encode():
            h = (h << 4) + c
            h = (h ^ (h >> 24 & 0xF0)) & 0x0FFFFFFF
        chains[i], buckets[h % count] = buckets[h % count], i
    return struct.pack(f"<{2 + len(buckets) + len(chains)}I", count, len(chains), *buckets, *chains)


_SEGMENTS = 6
_TEXT_INDEX = 5


def _with_headers(image: bytearray, machine: int, parts: tuple[int, ...], exported: int) -> bytes:
    """The image with its ELF header, program headers and (for debuggers and profilers) section
    headers."""
    symbols, strings, table, constants, code, dynamic = parts
    page, end = PAGE[machine], len(image)
    top = dynamic + 2 * page
    rest = page - top % page  # RELRO protects whole pages
    loads = (
        (1, 4, 0, 0, 0, code, code, page),
        (1, 5, code, code + page, code + page, dynamic - code, dynamic - code, page),
        (1, 6, dynamic, top, top, end - dynamic, rest, page),
        (2, 6, dynamic, top, top, end - dynamic, end - dynamic, 8),
        (0x6474E552, 4, dynamic, top, top, end - dynamic, rest, 1),  # GNU_RELRO
        (0x6474E551, 6, 0, 0, 0, 0, 0, 16),  # GNU_STACK: not executable
    )
    for k, segment in enumerate(loads):
        struct.pack_into(_PHDR, image, struct.calcsize(_EHDR) + k * struct.calcsize(_PHDR), *segment)
    names = b"\0.dynsym\0.dynstr\0.hash\0.rodata\0.text\0.dynamic\0.shstrtab\0"
    rows = (
        (11, 2, symbols, symbols, strings - symbols, 2, 1, 8, 24),
        (3, 2, strings, strings, table - strings, 0, 0, 1, 0),
        (5, 2, table, table, constants - table, 1, 0, 8, 4),
        (1, 2, constants, constants, code - constants, 0, 0, 64, 0),
        (1, 6, code + page, code, dynamic - code, 0, 0, 64, 0),
        (6, 3, top, dynamic, end - dynamic, 2, 0, 8, 16),
        (3, 0, 0, end, len(names), 0, 0, 1, 0),
    )
    image += names + bytes(-(end + len(names)) % 8)
    head = (_MAGIC + bytes(9), 3, machine, 1, 0, 64, len(image), 0, 64, 56, _SEGMENTS, 64, len(rows) + 1, len(rows))
    struct.pack_into(_EHDR, image, 0, *head)
    image += bytes(struct.calcsize(_SHDR))
    for name, row in zip(names.split(b"\0")[1:-1], rows):
        image += struct.pack(_SHDR, names.index(b"\0" + name + b"\0") + 1, *row)
    return bytes(image)


def _align(value: int, to: int) -> int:
    return (value + to - 1) // to * to


def _put(image: bytearray, at: int, data: bytes) -> None:
    image[at : at + len(data)] = data


def _unpack(layout: str, data: bytes, offset: int) -> tuple:
    try:
        return struct.unpack_from(layout, data, offset)
    except struct.error:
        raise LinkError(f"the object ends early: a header lies at {offset} of {len(data)} bytes") from None


def _rows(layout: str, data: bytes, what: str) -> list[tuple]:
    if len(data) % struct.calcsize(layout):
        raise LinkError(f"{what} has {len(data)} bytes, which are no whole entries")
    return list(struct.iter_unpack(layout, data))


def _text(names: bytes, offset: int) -> str:
    end = names.find(b"\0", offset)
    if offset > len(names) or end < 0:
        raise LinkError(f"a name lies outside its table ({offset} of {len(names)} bytes)")
    return names[offset:end].decode("utf-8", "replace")
