"""The five gates that CUDA kernels pass without a GPU: ``python -m tests.cuda.gates`` (or ``make cuda-gates``).

Each is some test files; one where nothing ran has not passed. The last line says ``gates passed 5 of 5``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple


class Gate(NamedTuple):
    """What a gate is, its test files, in groups that run by themselves, and the environment that they want."""

    name: str
    about: str
    groups: tuple[tuple[str, ...], ...]
    environment: dict[str, str] = {}


GATES = (
    Gate(
        "d", "PTX interpreted: numbers, bounds, races, conflicts",
        (
            ("test_kernels.py",),
            (
                "test_interpreter.py", "test_instructions.py", "test_races.py", "test_compiled.py", "test_executor.py",
                "test_commands.py", "test_gpu.py", "test_driver.py", "test_signatures.py", "test_benchmark.py",
                "test_tiles.py", "test_winograd.py", "test_ptx_manifest.py",
            ),
        ),
    ),
    Gate("b", "ptxas: no spills, stack, local, generic or double", (("test_ptxas.py",),)),
    Gate("e", "mutants of kernels are caught", (("test_mutants_shared.py",), ("test_mutants.py",))),
    Gate("a", "kernels in Numba's simulator", (("test_simulator.py",),), {"NUMBA_ENABLE_CUDASIM": "1"}),
    Gate("c", "machine code of the main loops", (("test_sass.py",),)),
)  # fmt: skip
ORDER = (("d", 0), ("b", 0), ("d", 1), ("e", 0), ("e", 1), ("a", 0), ("c", 0))
"""Gates and groups as they are begun."""
AFTER = "ae"
"""Gates that do again what the first of `ORDER` has launched."""


def passes(gate: Gate, group: int) -> tuple[bool, str]:
    """Whether a group of a gate's tests passes, and pytest's closing line."""
    files = [f"tests/cuda/{name}" for name in gate.groups[group]]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-header", "--tb=short", *files]
    done = subprocess.run(command, env={**os.environ, **gate.environment}, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    last = lines[-1] if lines else "pytest said nothing"
    passed = done.returncode == 0 and re.search(r"\d+ passed", last) is not None
    if not passed:
        print(done.stdout)
    return passed, last.strip("= ")


def judge(gate: Gate, group: int, after: Future[bool] | None = None) -> bool:
    """Runs a group of a gate's tests, ``after`` others, and says how it went."""
    if after is not None:
        after.result()
    start = time.perf_counter()
    passed, said = passes(gate, group)
    verdict = f"{'passed' if passed else 'FAILED'} in {time.perf_counter() - start:.0f} s"
    print(f"({gate.name}) {gate.about}: {verdict}: {said}", flush=True)
    return passed


def main() -> int:
    """Two groups of tests at a time."""
    gates = {gate.name: gate for gate in GATES}
    assert sorted(ORDER) == sorted((gate.name, i) for gate in GATES for i in range(len(gate.groups)))
    with ThreadPoolExecutor(2) as pool:
        found: list[Future[bool]] = []
        for name, group in ORDER:
            found.append(pool.submit(judge, gates[name], group, found[0] if name in AFTER else None))
        failed = {name for (name, _), verdict in zip(ORDER, found, strict=True) if not verdict.result()}
    count = len(GATES) - len(failed)
    print(f"gates passed {count} of {len(GATES)}")
    return count != len(GATES)


if __name__ == "__main__":
    sys.exit(main())
