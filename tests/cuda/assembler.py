"""NVIDIA's assembler and disassembler: PTX → machine code, and what can be read in it. No GPU is needed.

``ptxas`` and ``nvdisasm`` are taken from the packages nvidia-cuda-nvcc and nvidia-cuda-nvdisasm, else from PATH.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Assembled(NamedTuple):
    """A kernel's machine code: what ptxas says of it, how often each instruction stands in it, and nvdisasm's text."""

    registers: int
    stack: int
    spills: int
    shared: int
    counts: Counter[str]
    text: str

    @property
    def generic(self) -> int:
        """Loads and stores that do not know their address space."""
        return self.counts["LD"] + self.counts["ST"]

    @property
    def local(self) -> int:
        """Loads and stores of a thread's own memory."""
        return self.counts["LDL"] + self.counts["STL"]

    @property
    def doubles(self) -> int:
        """Instructions in double precision."""
        return sum(n for name, n in self.counts.items() if name in ("DFMA", "DADD", "DMUL", "DSETP", "DMNMX", "F2F"))


@functools.cache
def tool(name: str) -> str | None:
    """The path of a tool, None where it is not installed."""
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found = sorted(packages.glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


def missing() -> str:
    """Why nothing can be assembled, "" where it can."""
    lacking = [name for name in ("ptxas", "nvdisasm") if tool(name) is None]
    return f"{' and '.join(lacking)} not installed: pip install nbconv[cuda-gates]" if lacking else ""


INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.M)


def assemble(ptx: str, architecture: str) -> Assembled:
    """The machine code of one kernel for, say, "sm_80"; ValueError with ptxas's words where it refuses."""
    ptxas, nvdisasm = tool("ptxas"), tool("nvdisasm")
    assert ptxas is not None and nvdisasm is not None
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        command = [ptxas, "-v", f"-arch={architecture}", str(source), "-o", str(binary)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise ValueError(made.stderr.strip())
        text = subprocess.run([nvdisasm, "-c", str(binary)], capture_output=True, text=True, check=True).stdout
    said = made.stderr

    def number(pattern: str) -> int:
        return sum(int(n) for n in re.findall(pattern, said))

    return Assembled(
        number(r"Used (\d+) registers"), number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"), number(r"(\d+) bytes smem"),
        Counter(INSTRUCTION.findall(text)), text,
    )  # fmt: skip
