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


class LaunchCount:
    """Counts of one launch, by instruction and in all."""

    def __init__(self, entry: Entry, runs: np.ndarray, count: np.ndarray):
        """runs: (instructions,) warps that ran each; count: (instructions, 6), columns as in `loops`."""
        self.kernel = entry.name
        self._entry, self._runs = entry, runs
        self._accesses = np.flatnonzero(count[:, loops.WARPS])  # most instructions have none
        self._count = count[self._accesses]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LaunchCount) and self.instructions == other.instructions

    @property
    def instructions(self) -> list[InstructionCount]:
        names = ("accesses", "uniform", "nbytes", "sectors", "wavefronts", "ideal")
        rows = dict(zip(self._accesses.tolist(), self._count.tolist()))
        none = [0] * len(names)
        return [
            InstructionCount(i.line, i.name, warps, **dict(zip(names, rows.get(at, none))))
            for at, (i, warps) in enumerate(zip(self._entry.instructions, self._runs.tolist()))
        ]

    @property
    def executed(self) -> int:
        """Dynamic instructions, counted by warp."""
        return int(self._runs.sum())

    def _ratio(self, column: int, of: int, factor: int) -> float:
        total = int(self._count[:, of].sum())
        return int(self._count[:, column].sum()) / (factor * total) if total else 1.0

    @property
    def conflicts(self) -> float:
        """Bank-conflict factor of all shared accesses, 1 when there are none."""
        return self._ratio(loops.WAVEFRONTS, loops.IDEAL, 1)

    @property
    def coalescing(self) -> float:
        """Share of used bytes in the global sectors touched, 1 when there are none; uniform accesses are not counted."""
        return self._ratio(loops.BYTES, loops.SECTORS, 32)
