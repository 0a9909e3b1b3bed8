"""What the interpreter reports: faults, races and counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.cuda import loops
from tests.cuda.ptx import Entry


@dataclass(frozen=True)
class Finding:
    """One thing a kernel did wrong: `kind` is of loops.KINDS or "divergent barrier", "divergent warp", "trap"."""

    kind: str
    kernel: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.kernel}, line {self.line}: {self.what}"


class KernelFault(Exception):
    """A launch that broke a rule; `findings` lists all that was seen."""

    def __init__(self, findings: list[Finding]):
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


@dataclass
class InstructionCount:
    """How often an instruction ran, and what its memory accesses cost; a ratio is None where it has no accesses.

    warps: runs, counted by warp; accesses: of them to memory; uniform: accesses of all lanes to one address;
    conflicts: shared-memory wavefronts over the fewest possible; coalescing: bytes used over bytes of the sectors touched.
    """

    line: int
    name: str
    warps: int
    accesses: int
    uniform: int
    nbytes: int
    sectors: int
    wavefronts: int
    ideal: int

    @property
    def conflicts(self) -> float | None:
        return self.wavefronts / self.ideal if self.ideal else None

    @property
    def coalescing(self) -> float | None:
        return self.nbytes / (32 * self.sectors) if self.sectors else None


@dataclass
class LaunchCount:
    """Counts of one launch, by instruction and in all."""

    kernel: str
    instructions: list[InstructionCount]

    @property
    def executed(self) -> int:
        """Dynamic instructions, counted by warp."""
        return sum(i.warps for i in self.instructions)

    @property
    def conflicts(self) -> float:
        """Bank-conflict factor of all shared accesses, 1 when there are none."""
        ideal = sum(i.ideal for i in self.instructions)
        return sum(i.wavefronts for i in self.instructions) / ideal if ideal else 1.0

    @property
    def coalescing(self) -> float:
        """Share of used bytes in the global sectors touched, 1 when there are none; uniform accesses are not counted."""
        sectors = sum(i.sectors for i in self.instructions)
        return sum(i.nbytes for i in self.instructions) / (32 * sectors) if sectors else 1.0


def launch_count(entry: Entry, runs: np.ndarray, count: np.ndarray) -> LaunchCount:
    """runs: (instructions,) warps that ran each; count: (instructions, 6), columns as in `loops`."""
    rows = []
    for i, instruction in enumerate(entry.instructions):
        row = [int(x) for x in count[i]]
        rows.append(
            InstructionCount(
                line=instruction.line,
                name=instruction.name,
                warps=int(runs[i]),
                accesses=row[loops.WARPS],
                uniform=row[loops.UNIFORM],
                nbytes=row[loops.BYTES],
                sectors=row[loops.SECTORS],
                wavefronts=row[loops.WAVEFRONTS],
                ideal=row[loops.IDEAL],
            )
        )
    return LaunchCount(entry.name, rows)
