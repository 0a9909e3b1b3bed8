"""Python for PTX's data movement, warp-level and synchronisation instructions (PTX ISA 9.0, 9.7.9 and 9.7.13 to 9.7.15)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cuda.arithmetic import Handler
from tests.cuda.ptx import Instruction

if TYPE_CHECKING:
    from tests.cuda.translate import Translator

SPACES = ("param", "global", "shared", "local", "const")
CACHING = (
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "volatile",
    "relaxed",
    "weak",
    "cta",
    "gpu",
    "sys",
    "unified",
    "cluster",
)
HINTS = ("L1", "L2", "evict_normal", "evict_first", "evict_last", "evict_unchanged", "no_allocate", "64B", "128B", "256B")


def _parts(operand: str) -> list[str]:
    return operand.strip("{}").split(",")


def _mov(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types()
    destination, source = i.operands
    if destination.startswith("{"):
        parts = _parts(destination)
        narrow = f"u{int(dtype[1]) // len(parts)}"
        for k, part in enumerate(parts):
            shift = t.get(str(8 * int(narrow[1]) * k), f"u{dtype[1]}")
            t.put(part, f"np.right_shift({t.get(source, f'u{dtype[1]}')}, {shift}).astype('{narrow}')", narrow)
    elif source.startswith("{"):
        parts = _parts(source)
        wide, narrow = f"u{dtype[1]}", f"u{int(dtype[1]) // len(parts)}"
        pieces = []
        for k, part in enumerate(parts):
            shift = t.get(str(8 * int(narrow[1]) * k), wide)
            pieces.append(f"np.left_shift({t.get(part, narrow)}.astype('{wide}'), {shift})")
        t.put(destination, " | ".join(pieces), wide)
    else:
        t.put(destination, t.get(source, dtype), dtype)


def _access(t: Translator, i: Instruction) -> tuple[str, str, int]:
    """Space ("generic" when none is named), dtype and vector length of a load or store."""
    (dtype,) = t.types(*SPACES, *CACHING, *HINTS, "v2", "v4")
    space = next((m for m in i.mods if m in SPACES), "generic")
    return space, dtype, next((int(m[1]) for m in i.mods if m in ("v2", "v4")), 1)


def _ld(t: Translator, i: Instruction) -> None:
    space, dtype, vector = _access(t, i)
    registers = _parts(i.operands[0])
    if space == "param":
        name, _, offset = i.operands[1].strip("[]").partition("+")
        parameter = next((p for p in t.entry.parameters if p.name == name), None)
        if parameter is None:
            raise t.error("unknown parameter")
        for k, register in enumerate(registers):
            at = parameter.offset + int(offset or "0", 0) + k * int(dtype[1])
            t.put(register, f"M.parameter({at}, '{dtype}')", dtype)
        return
    base, offset = t.address(i.operands[1])
    temporaries = [f"t{k}" for k in range(vector)]
    guard = t.guard() or "None"
    t.lines.append(
        f"{', '.join(temporaries)}, = M.load({t.site}, '{space}', {base}, {offset}, {guard}, {dtype[1]}, {vector})"
    )
    for register, value in zip(registers, temporaries):
        t.put(register, value if dtype[0] == "u" else f"{value}.view('{dtype}')", dtype)
    t.lines.append(f"del {', '.join(temporaries)}")


def _st(t: Translator, i: Instruction) -> None:
    space, dtype, _ = _access(t, i)
    base, offset = t.address(i.operands[0])
    unsigned = f"u{dtype[1]}"
    values = []
    for part in _parts(i.operands[1]):
        value = t.get(part, dtype)
        values.append(value if dtype == unsigned else f"{value}.view('{unsigned}')")
    t.lines.append(
        f"M.store({t.site}, '{space}', {base}, {offset}, {t.guard() or 'None'}, {dtype[1]}, ({', '.join(values)},))"
    )


def _cvta(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types("to", *SPACES)
    space = next(m for m in i.mods if m in SPACES)
    sign = "-" if "to" in i.mods else "+"
    value = t.get(i.operands[1], dtype)
    t.put(i.operands[0], value if space in ("global", "const", "param") else f"({value} {sign} M.window['{space}'])", dtype)


def _shfl(t: Translator, i: Instruction) -> None:
    t.types("sync", "idx", "up", "down", "bfly")
    value = t.get(i.operands[1], "u4")
    b, c, members = (t.get(o, "u4") for o in i.operands[2:5])
    register, _, valid = i.operands[0].partition("|")
    t.lines.append(f"t0, t1 = M.shuffle({t.site}, {i.mods[1]!r}, {value}, {b}, {c}, {members}, {t.guard() or 'None'})")
    t.put(register, "t0", "u4")
    if valid:
        t.put(valid, "t1", "?")
    t.lines.append("del t0, t1")


def _vote(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types("sync", "all", "any", "uni", "ballot")
    value, members = t.get(i.operands[1], "?"), t.get(i.operands[2], "u4")
    t.put(i.operands[0], f"M.vote({t.site}, {i.mods[1]!r}, {value}, {members}, {t.guard() or 'None'})", dtype)


def _activemask(t: Translator, i: Instruction) -> None:
    t.put(i.operands[0], f"M.active_lanes({t.guard() or 'None'})", "u4")


def _bar(t: Translator, i: Instruction) -> None:
    if i.mods[:1] == ("warp",):
        t.lines.append(f"M.warp_barrier({t.site}, {t.get(i.operands[0], 'u4')}, {t.guard() or 'None'})")
        return
    if i.operands != ("0",):
        raise t.error("only barrier 0 of all the block's threads is supported")


def _cp(t: Translator, i: Instruction) -> None:
    t.types("async", "ca", "cg", "shared", "cta", "global", "commit_group", "wait_group", "wait_all", *HINTS)
    guard = t.guard() or "None"
    if "commit_group" in i.mods:
        t.lines.append(f"M.commit_group({t.site}, {guard})")
    elif "wait_group" in i.mods or "wait_all" in i.mods:
        pending = int(i.operands[0], 0) if "wait_group" in i.mods else 0
        t.lines.append(f"M.wait_group({t.site}, {pending}, {guard}, {'wait_all' in i.mods})")
    else:
        to, to_offset = t.address(i.operands[0])
        source, offset = t.address(i.operands[1])
        read = t.get(i.operands[3], "u4") if len(i.operands) > 3 else "None"
        copy = f"{to}, {to_offset}, {source}, {offset}, {int(i.operands[2], 0)}, {read}, {guard}"
        t.lines.append(f"M.copy_async({t.site}, {copy})")


def _mma(t: Translator, i: Instruction) -> None:
    if i.name != "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" or i.guard:
        raise t.error("unsupported matrix instruction")
    d, a, b, c = (_parts(o) for o in i.operands)
    lists = ", ".join(f"[{', '.join(t.get(x, kind) for x in xs)}]" for xs, kind in ((c, "f4"), (a, "f4"), (b, "f4")))
    t.lines.append(f"M.whole_warps({t.site})")
    t.lines.append(f"t0, t1, t2, t3 = numeric.mma_tf32({lists})")
    for k, register in enumerate(d):
        t.put(register, f"t{k}", "f4")


def _nothing(t: Translator, i: Instruction) -> None:
    """Control flow is the interpreter's; fences order nothing here as accesses happen in order."""


def _trap(t: Translator, i: Instruction) -> None:
    t.lines.append(f"M.trap({t.site}, {t.guard() or 'None'})")


def _no_atomics(t: Translator, i: Instruction) -> None:
    raise t.error("atomic operations make results depend on the order of threads; kernels must not use them")


def _isspacep(t: Translator, i: Instruction) -> None:
    t.put(i.operands[0], f"M.in_space({i.mods[0]!r}, {t.get(i.operands[1], 'i8')})", "?")


MOVEMENT: dict[str, Handler] = {
    "mov": _mov,
    "ld": _ld,
    "ldu": _ld,
    "st": _st,
    "cvta": _cvta,
    "shfl": _shfl,
    "vote": _vote,
    "activemask": _activemask,
    "bar": _bar,
    "barrier": _bar,
    "cp": _cp,
    "mma": _mma,
    "isspacep": _isspacep,
    "trap": _trap,
    **dict.fromkeys(("red", "atom"), _no_atomics),
    **dict.fromkeys(("bra", "ret", "exit", "membar", "fence", "prefetch", "nanosleep"), _nothing),
}
