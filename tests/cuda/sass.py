"""What ptxas makes of a kernel: registers, spills, and the instructions of its main loops. Needs no GPU."""

from __future__ import annotations

import functools
import os
import pickle
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from nbconv.base.files import replace
from nbconv.kernels.store import cache_folder

DOUBLE = {"DADD", "DFMA", "DMUL", "DSETP", "DMNMX"}
MEMORY = {"LDS", "LDG", "STS", "STG", "LDL", "STL", "LD", "ST"}
PRODUCTS = ("FFMA", "HMMA")
_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?);")
_LABEL = re.compile(r"^(\.L_x_\d+):")


@dataclass
class Loop:
    """Instructions of a loop without loops in it, by name; those of memory with their width in bits: LDS.128."""

    counts: Counter[str]

    @property
    def products(self) -> int:
        return sum(self.counts[name] for name in PRODUCTS)

    @property
    def share(self) -> float:
        """Multiply-add instructions of all instructions."""
        return self.products / self.counts.total()


@dataclass
class Machine:
    """The machine code of an entry."""

    registers: int
    stack: int
    spills: int
    shared: int
    instructions: Counter[str]
    loops: list[Loop] = field(default_factory=list)
    """innermost loops, those with most multiply-adds first, the shorter first"""

    @property
    def local(self) -> int:
        return _of(self.instructions, "LDL", "STL")

    @property
    def generic(self) -> int:
        return _of(self.instructions, "LD", "ST")

    @property
    def double(self) -> int:
        return self.instructions["double"]


def tool(name: str) -> str | None:
    """Where ``ptxas`` or ``nvdisasm`` is: of NVIDIA's packages for Python, or in the path."""
    root = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found = sorted(root.glob(f"*/bin/{name}"))
    return str(found[0]) if found else shutil.which(name)


def missing() -> str:
    """Why nothing can be assembled, "" where it can."""
    lacking = [name for name in ("ptxas", "nvdisasm") if tool(name) is None]
    return f"{' and '.join(lacking)} not installed: pip install nbconv[cuda-gates]" if lacking else ""


def machine_code(ptx: str, capability: tuple[int, int]) -> Machine:
    """Assemble PTX with one entry and read the result, or what is kept of it in the cache: gates share it.
    Raises ValueError where ptxas refuses it."""
    folder = cache_folder()
    if folder is None:
        return _assembled(ptx, capability)
    text = repr((ptx, capability, _version())).encode() + Path(__file__).read_bytes()
    path = Path(folder, f"machine-{sha256(text).hexdigest()[:32]}.pickle")
    if path.exists():
        return pickle.loads(path.read_bytes())
    made = _assembled(ptx, capability)
    replace(path, lambda file: pickle.dump(made, file))
    return made


@functools.cache
def _version() -> str:
    """What ptxas says it is."""
    ptxas = tool("ptxas")
    assert ptxas, "ptxas is needed"
    return subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=True).stdout


def _assembled(ptx: str, capability: tuple[int, int]) -> Machine:
    ptxas, nvdisasm = tool("ptxas"), tool("nvdisasm")
    assert ptxas and nvdisasm, "ptxas and nvdisasm are needed"
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernel.cubin")
        command = [ptxas, "-v", f"-arch=sm_{capability[0]}{capability[1]}", "-o", cubin, "-"]
        Path(folder, "kernel.ptx").write_text(ptx)
        command[-1] = os.path.join(folder, "kernel.ptx")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"ptxas refuses the kernel: {done.stderr.strip()}")
        text = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout

    def said(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, done.stderr)))

    lines, loops = _read(text)
    return Machine(
        said(r"Used (\d+) registers"), said(r"(\d+) bytes stack frame"), said(r"(\d+) bytes spill"),
        said(r"(\d+) bytes smem"), _count(lines), loops,
    )  # fmt: skip


def _read(text: str) -> tuple[list[str], list[Loop]]:
    """Instructions in order, and the innermost loops."""
    names: list[str] = []
    jumps: list[tuple[int, str]] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(names)
        elif found := _LINE.match(line):
            if found[3].startswith("BRA") and (to := re.search(r"\.L_x_\d+", found[4])):
                jumps.append((len(names), to[0]))
            names.append(found[3])
    spans = {(labels[to], at) for at, to in jumps if labels.get(to, at) < at}
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    loops = [Loop(_count(names[a : b + 1])) for a, b in inner]
    return names, sorted(loops, key=lambda x: (-x.products, x.counts.total()))


def _count(names: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for full in names:
        name = full.split(".")[0]
        if name in MEMORY:
            wide = re.search(r"\.(128|64|U16|U8|S16|S8)\b", full)
            name = f"{name}.{wide[1] if wide else 32}"
        elif name in DOUBLE or ".F64" in full or "64H" in full:
            name = "double"
        counts[name] += 1
    return counts


def _of(counts: Counter[str], *names: str) -> int:
    """How many instructions these are, of any width."""
    return sum(n for name, n in counts.items() if name.split(".")[0] in names)
