"""What the compiler made of the inner loops: read from the assembly that `nbconv kernels show FAMILY --target NAME` prints.

`python -m tests.kernels.disassembly [FAMILY ...]` prints a table of them, for all targets.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from nbconv.kernels.target import TARGETS

_FUNCTION = re.compile(r"^_?((?:tile|strip)_\w+):(.*?)(?=^[A-Za-z_]\w*:|\Z)", re.M | re.S)
_LABEL = re.compile(r"((?:\.L|L)BB\d+_\d+):")
_JUMP = re.compile(r"\s+(?:j\w+|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+((?:\.L|L)BB\d+_\d+)\s*(?:[#;/].*)?$")
_MULTIPLY = re.compile(r"^\s+(?:v?mulps|vfmadd\w+ps|fmla|fmul)\s", re.M)
_MASKED = re.compile(r"\bvmaskmov|\{%k\d\}")
_STACK = re.compile(r"\(%rsp|\[sp\b")
_VECTOR = re.compile(r"%[xyz]mm\d|\b[qvds]\d+\b")


class Loop(NamedTuple):
    """A loop of one basic block that multiplies vectors."""

    function: str
    multiplies: int
    instructions: int
    masked: bool
    spills: list[str]
    """Its instructions that store vector registers to the stack, or load them from it."""


def assembly(family: str, target: str) -> str:
    """A family's assembly for a target, compiled in a process of its own."""
    command = [sys.executable, "-m", "nbconv", "kernels", "show", family, "--target", target]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def loops(text: str) -> Iterator[Loop]:
    """The innermost loops of register tiles (``tile_<rows>x<vectors>``) and strips (``strip_<pixels>_<width>_<stride>``)."""
    for name, body in _FUNCTION.findall(text):
        label, block = "", []
        for line in body.split("\n"):
            if found := _LABEL.match(line):
                label, block = found[1], []
            elif re.match(r"\s+[a-z]", line):
                block.append(line)
                if (found := _JUMP.match(line)) and found[1] == label:
                    inside = "\n".join(block)
                    if count := len(_MULTIPLY.findall(inside)):
                        spills = [" ".join(x.split()) for x in block if _STACK.search(x) and _VECTOR.search(x)]
                        yield Loop(name, count, len(block), bool(_MASKED.search(inside)), spills)


def main(families: list[str]) -> None:
    print(f"{'family':10} {'target':10} {'function':14} multiply-adds / instructions of each inner loop")
    for family in families or ["conv", "gemm", "winograd", "depthwise"]:
        for target in TARGETS:
            found: dict[str, list[str]] = {}
            for loop in loops(assembly(family, target)):
                spilt = f", {len(loop.spills)} SPILLS" if loop.spills else ""
                text = f"{loop.multiplies}/{loop.instructions}{', masked' * loop.masked}{spilt}"
                found.setdefault(loop.function, []).append(text)
            for function, texts in found.items():
                print(f"{family:10} {target:10} {function:14} {'; '.join(texts)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
