"""The linker: what LLVM emits runs; every relocation is decoded by hand; what it cannot link it names."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import random
import struct
import sys

import pytest

from nbconv.kernels.elf import AARCH64, X86_64, LinkError, link, undefined

linux_x86 = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and platform.machine() == "x86_64"), reason="opens x86-64 shared libraries"
)

# Calls (local and exported), a jump table, constants (local, exported, from a pool).
KERNELS = """
@table = internal constant [4 x float] [float 1.0, float 2.0, float 3.0, float 4.0]
@pub = constant [4 x float] [float 1.0, float 2.0, float 3.0, float 5.0]
define internal i64 @triple(i64 %x) noinline {
  %y = mul i64 %x, 3
  ret i64 %y
}
define i64 @quintuple(i64 %x) noinline {
  %y = mul i64 %x, 5
  ret i64 %y
}
define void @k(ptr %a, i64 %f, i64 %l) {
  %v = load i64, ptr %a
  %h = call i64 @triple(i64 %v)
  %h2 = call i64 @quintuple(i64 %h)
  %i = and i64 %v, 3
  %p = getelementptr [4 x float], ptr @table, i64 0, i64 %i
  %x = load float, ptr %p
  %q = getelementptr [4 x float], ptr @pub, i64 0, i64 %i
  %z = load float, ptr %q
  %s = fadd float %x, %z
  %s2 = fmul float %s, 1.25
  %n = fptosi float %s2 to i64
  %r = add i64 %n, %h2
  store i64 %r, ptr %a
  switch i64 %v, label %end [ i64 0, label %c0
    i64 1, label %c1
    i64 2, label %c2
    i64 3, label %c3
    i64 4, label %c4
    i64 5, label %c5 ]
c0:
  store i64 6, ptr %a
  ret void
c1:
  store i64 77, ptr %a
  ret void
c2:
  store i64 %h, ptr %a
  ret void
c3:
  store i64 %h2, ptr %a
  ret void
c4:
  store i64 %n, ptr %a
  ret void
c5:
  %m = mul i64 %n, %n
  store i64 %m, ptr %a
  ret void
end:
  ret void
}
"""


def expected(v: int) -> int:
    n = int(((1, 2, 3, 4)[v & 3] + (1, 2, 3, 5)[v & 3]) * 1.25)
    return {0: 6, 1: 77, 2: 3 * v, 3: 15 * v, 4: n, 5: n * n}.get(v, n + 15 * v)


def compiled(text: str, architecture: str = "x86_64") -> bytes:
    """Object code of LLVM IR."""
    llvm = pytest.importorskip("llvmlite.binding")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = f"{architecture}-unknown-linux-gnu"
    machine = llvm.Target.from_triple(triple).create_target_machine(reloc="pic", codemodel="default", opt=2)
    return machine.emit_object(llvm.parse_assembly(f'target triple = "{triple}"\n{text}'))


def raw(machine, text: bytes, relocations=(), *, data=b"", flags=2, symbols=(("f", 0x12, 1, 0),), kind=4) -> bytes:
    """An object with code ``text``, a second section ``data``, and relocations (offset, type, symbol index, addend) of
    the code. Symbol 1 is the second section; ``symbols`` (name, info, section, value) follow from 2."""
    names = b"\0.text\0.data\0.rela.text\0.symtab\0.strtab\0"
    strings = b"\0" + b"".join(s[0].encode() + b"\0" for s in symbols)
    rows = [bytes(24), struct.pack("<IBBHQQ", 0, 3, 0, 2, 0, 0)]
    for name, info, section, value in symbols:
        where = strings.index(b"\0" + name.encode() + b"\0") + 1
        rows.append(struct.pack("<IBBHQQ", where, info, 0, section, value, 4))
    relocated = b"".join(struct.pack("<QQq", o, s << 32 | t, a) for o, t, s, a in relocations)
    parts = [
        (b".text", 1, 6, text, 0, 0, 16),
        (b".data", 1, flags, data, 0, 0, 16),
        (b".rela.text", kind, 0, relocated, 4, 1, 8),
        (b".symtab", 2, 0, b"".join(rows), 5, 2, 8),
        (b".strtab", 3, 0, strings, 0, 0, 1),
        (b"", 3, 0, names, 0, 0, 1),
    ]
    body, headers = b"", bytes(64)
    for name, section, flag, content, to, info, align in parts:
        body += bytes(-len(body) % 16)
        at = names.index(b"\0" + name + b"\0") + 1 if name else 0
        headers += struct.pack("<IIQQQQIIQQ", at, section, flag, 0, 64 + len(body), len(content), to, info, align, 0)
        body += content
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return (
        struct.pack("<16sHHIQQQIHHHHHH", ident, 1, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 7, 6) + body + headers
    )


def segments(image: bytes) -> list[tuple]:
    """(type, flags, offset, address, size in the file, size in memory, alignment) of each program header."""
    (count,) = struct.unpack_from("<H", image, 56)
    rows = [struct.unpack_from("<IIQQQQQQ", image, 64 + 56 * i) for i in range(count)]
    return [(t, f, o, v, fs, ms, a) for t, f, o, v, _, fs, ms, a in rows]


def memory(image: bytes) -> bytearray:
    """The library as the system would map it at address 0."""
    loads = [s for s in segments(image) if s[0] == 1]
    mapped = bytearray(max(s[3] + s[5] for s in loads))
    for _, _, offset, address, size, _, _ in loads:
        mapped[address : address + size] = image[offset : offset + size]
    return mapped


def exported(image: bytes) -> dict[str, int]:
    """Symbols as a loader finds them: through DT_SYMTAB, DT_STRTAB and DT_HASH."""
    mapped = memory(image)
    at = next(s[3] for s in segments(image) if s[0] == 2)
    tags = dict(struct.unpack_from("<QQ", mapped, at + 16 * i) for i in range(6))
    buckets, count = struct.unpack_from("<II", mapped, tags[4])
    found = {}
    for bucket in range(buckets):
        (i,) = struct.unpack_from("<I", mapped, tags[4] + 8 + 4 * bucket)
        while i:
            name, value = struct.unpack_from("<I4xQ", mapped, tags[6] + 24 * i)
            start = tags[5] + name
            found[mapped[start : mapped.index(0, start)].decode()] = value
            (i,) = struct.unpack_from("<I", mapped, tags[4] + 8 + 4 * (buckets + i))
    assert len(found) == count - 1
    return found


@linux_x86
def test_what_llvm_compiles_runs(tmp_path):
    path = tmp_path / "k.so"
    path.write_bytes(link(compiled(KERNELS), ["k", "quintuple"]))
    library = ctypes.CDLL(str(path))
    for v in range(12):
        args = (ctypes.c_int64 * 1)(v)
        library.k(args, ctypes.c_int64(0), ctypes.c_int64(0))
        assert args[0] == expected(v)
    library.quintuple.restype = ctypes.c_int64
    assert library.quintuple(ctypes.c_int64(9)) == 45
    with pytest.raises(AttributeError):
        _ = library.triple


@linux_x86
def test_every_one_of_many_symbols_is_found(tmp_path):
    names = [f"kernel_{i}" for i in range(70)]
    text = "\n".join(f"define i64 @{n}() {{\n ret i64 {i}\n}}" for i, n in enumerate(names))
    path = tmp_path / "k.so"
    path.write_bytes(link(compiled(text), names))
    library = ctypes.CDLL(str(path))
    assert [getattr(library, n)() for n in names] == list(range(70))


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_layout_of_a_library(architecture):
    image = link(compiled(KERNELS, architecture), ["quintuple", "k"])
    assert struct.unpack_from("<HH", image, 16) == (3, {"x86_64": 62, "aarch64": 183}[architecture])
    page = {"x86_64": 4096, "aarch64": 65536}[architecture]
    loads = [s for s in segments(image) if s[0] == 1]
    assert [s[1] for s in loads] == [4, 5, 6]  # R, R+X, R+W: nothing is writable and executable
    for _, _, offset, address, size, in_memory, align in loads:
        assert align == page
        assert offset % page == address % page
        assert offset + size <= len(image)
        assert size <= in_memory
    ends = [(s[3] + s[5] - 1) // page for s in loads]
    starts = [s[3] // page for s in loads]
    assert all(start > end for start, end in zip(starts[1:], ends))  # no two share a page
    assert [s[1] for s in segments(image) if s[0] == 0x6474E551] == [6]  # the stack is not executable
    code = loads[1]
    for address in exported(image).values():
        assert code[3] <= address < code[3] + code[4]
    assert exported(image).keys() == {"k", "quintuple"}


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_undefined_symbols_are_named(architecture):
    text = """
declare void @memset()
declare void @expf()
define void @k() {
  call void @memset()
  call void @expf()
  ret void
}"""
    obj = compiled(text, architecture)
    assert undefined(obj) == ["expf", "memset"]
    with pytest.raises(LinkError, match="expf, memset"):
        link(obj, ["k"])
    assert undefined(compiled(KERNELS, architecture)) == []


@pytest.mark.parametrize(
    "text",
    [
        "@x = global i64 1\ndefine void @k() {\n store i64 2, ptr @x\n ret void\n}",
        "@x = global i64 0\ndefine void @k() {\n store i64 2, ptr @x\n ret void\n}",
        "@x = common global i64 0\ndefine void @k() {\n store i64 2, ptr @x\n ret void\n}",
        "@x = constant ptr @k\ndefine void @k() {\n ret void\n}",  # .data.rel.ro
        "@x = thread_local global i64 1\ndefine ptr @k() {\n ret ptr @x\n}",
    ],
)
def test_writable_data_is_refused(text):
    with pytest.raises(LinkError, match=r"writable data|undefined"):
        link(compiled(text), ["k"])


def test_missing_export_is_named():
    obj = compiled(KERNELS)
    for name in ("conv", "triple", "pub"):
        with pytest.raises(LinkError, match=name):
            link(obj, ["k", name])


def linked_word(machine, word: bytes, kind: int, addend: int = 0, value: int = 0, **more) -> tuple[int, int, bytearray]:
    """Links ``f``: 16 bytes, then ``word`` with a relocation to symbol ``there`` in the data; (place, target, memory)."""
    symbols = (("f", 0x12, 1, 0), ("there", 0x11, 2, value))
    at = 16 + more.pop("within", 0)
    obj = raw(machine, bytes(16) + word, [(at, kind, 3, addend)], data=bytes(64), symbols=symbols, **more)
    image = link(obj, ["f"])
    rodata = 64 * ((image.index(b"\0f\0") + 3 + 4 * 4 + 63) // 64)  # after the strings and the hash table, aligned
    return exported(image)["f"] + at, rodata + value, memory(image)


@pytest.mark.parametrize("kind", [2, 4])
def test_x86_64_pc_relative(kind):
    place, target, mapped = linked_word(X86_64, bytes(8), kind, addend=-4, value=24)
    assert struct.unpack_from("<i", mapped, place)[0] == target - 4 - place
    place, target, mapped = linked_word(X86_64, bytes(8), 24, addend=3, value=24)
    assert struct.unpack_from("<q", mapped, place)[0] == target + 3 - place


def test_x86_64_got_loads_become_addresses():
    place, target, mapped = linked_word(X86_64, b"\x48\x8b\x05" + bytes(4), 42, addend=-4, within=3)
    assert mapped[place - 3 : place] == b"\x48\x8d\x05"  # mov rax, [rip+x] → lea rax, [rip+x]
    assert struct.unpack_from("<i", mapped, place)[0] == target - 4 - place
    place, target, mapped = linked_word(X86_64, b"\xff\x15" + bytes(4), 41, addend=-4, within=2)
    assert mapped[place - 2 : place] == b"\x67\xe8"  # call [rip+x] → addr32 call x
    with pytest.raises(LinkError, match="GOT"):
        linked_word(X86_64, b"\x48\x03\x05" + bytes(4), 42, addend=-4, within=3)  # add rax, [rip+x]


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


@pytest.mark.parametrize("kind", [275, 311])
@pytest.mark.parametrize("pages", [0, 1, 2, 3, -5])
def test_aarch64_page_address(kind, pages):
    addend = pages * 4096
    place, target, mapped = linked_word(AARCH64, struct.pack("<I", 0x90000003), kind, value=24, addend=addend)
    (word,) = struct.unpack_from("<I", mapped, place)
    assert word & 0x9F00001F == 0x90000003  # adrp x3
    immediate = signed((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)
    assert immediate < 0
    assert (place & ~0xFFF) + (immediate << 12) == (target + addend) & ~0xFFF


@pytest.mark.parametrize(
    ("kind", "word", "scale", "result"),
    [
        (277, 0x91000041, 1, 0x91000041),  # add x1, x2, #
        (278, 0x39400041, 1, 0x39400041),  # ldrb
        (284, 0x79400041, 2, 0x79400041),  # ldrh
        (285, 0xB9400041, 4, 0xB9400041),  # ldr w
        (286, 0xF9400041, 8, 0xF9400041),  # ldr x
        (299, 0x3DC00041, 16, 0x3DC00041),  # ldr q
        (312, 0xF9400041, 1, 0x91000041),  # a load from the GOT becomes an addition
    ],
)
def test_aarch64_low_bits(kind, word, scale, result):
    place, target, mapped = linked_word(AARCH64, struct.pack("<I", word), kind, value=48)
    (found,) = struct.unpack_from("<I", mapped, place)
    assert found & 0xFFC003FF == result
    assert (found >> 10 & 0xFFF) * scale == target & 0xFFF
    if kind in (284, 285, 286, 299):
        with pytest.raises(LinkError, match="unaligned"):
            linked_word(AARCH64, struct.pack("<I", word), kind, value=49)


@pytest.mark.parametrize(("kind", "word"), [(282, 0x14000000), (283, 0x94000000)])
def test_aarch64_branches(kind, word):
    place, target, mapped = linked_word(AARCH64, struct.pack("<I", word), kind, value=24)
    (found,) = struct.unpack_from("<I", mapped, place)
    assert found & 0xFC000000 == word
    assert place + 4 * signed(found & 0x3FFFFFF, 26) == target
    with pytest.raises(LinkError, match="26 bits"):
        linked_word(AARCH64, struct.pack("<I", word), kind, addend=1 << 28)


def test_aarch64_distances():
    place, target, mapped = linked_word(AARCH64, bytes(8), 260, addend=5)
    assert struct.unpack_from("<q", mapped, place)[0] == target + 5 - place
    for kind in (261, 314):
        place, target, mapped = linked_word(AARCH64, bytes(8), kind, addend=5)
        assert struct.unpack_from("<i", mapped, place)[0] == target + 5 - place


@pytest.mark.parametrize(
    ("machine", "kind"), [(X86_64, 1), (X86_64, 9), (X86_64, 11), (X86_64, 25), (AARCH64, 257), (AARCH64, 258)]
)
def test_other_relocations_are_refused_by_number(machine, kind):
    with pytest.raises(LinkError, match=rf"\.text\+0x10, there: .*{kind}\b"):
        linked_word(machine, bytes(8), kind)


def test_relocations_stay_inside():
    with pytest.raises(LinkError, match="outside"):
        link(raw(X86_64, bytes(16), [(13, 2, 1, 0)], data=bytes(16)), ["f"])
    with pytest.raises(LinkError, match="outside"):
        link(raw(X86_64, bytes(16), [(0, 2, 99, 0)], data=bytes(16)), ["f"])
    with pytest.raises(LinkError, match="neither code nor"):
        link(raw(X86_64, bytes(16), [(0, 2, 0, 0)], data=bytes(16)), ["f"])
    with pytest.raises(LinkError, match="addends"):
        link(raw(X86_64, bytes(16), [(0, 2, 1, 0)], data=bytes(16), kind=9), ["f"])
    with pytest.raises(LinkError, match=r"fit|format|range"):
        link(raw(X86_64, bytes(16), [(0, 2, 1, 1 << 40)], data=bytes(16)), ["f"])
    with pytest.raises(LinkError, match=r"writable data in \.data"):
        link(raw(X86_64, bytes(16), data=bytes(16), flags=3), ["f"])


@pytest.mark.parametrize(
    "junk", [b"", b"MZ", b"\x7fELF", b"\x7fELF\x01\x01\x01" + bytes(99), b"\x7fELF\x02\x01\x01" + bytes(99)]
)
def test_other_files_are_refused(junk):
    with pytest.raises(LinkError):
        link(junk, ["k"])


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_damaged_objects_raise_nothing_else(architecture):
    whole = compiled(KERNELS, architecture)
    random.seed(5)
    for size in range(0, len(whole), 37):
        with pytest.raises(LinkError):
            link(whole[:size], ["k"])
    for _ in range(600):
        broken = bytearray(whole)
        for _ in range(random.choice((1, 3))):
            broken[random.randrange(len(broken))] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
        with contextlib.suppress(LinkError):
            link(bytes(broken), ["k"])
