"""The five gates that CUDA kernels pass without a GPU: ``python -m tests.cuda.gates`` (or ``make cuda-gates``).

Each is some test files; one where nothing ran has not passed. The last line says ``gates passed 5 of 5``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple


class Gate(NamedTuple):
    """What a gate is, its test files, and the environment that they want. ``apart``: each file may run beside the others."""

    name: str
    about: str
    files: tuple[str, ...]
    environment: dict[str, str] = {}
    apart: bool = False

    def parts(self) -> list[Gate]:
        """What is run by itself."""
        return [self._replace(files=(file,)) for file in self.files] if self.apart else [self]


GATES = (
    Gate("a", "kernels in Numba's simulator", ("test_simulator.py",), {"NUMBA_ENABLE_CUDASIM": "1"}),
    Gate("b", "ptxas: no spills, stack, local, generic or double", ("test_ptxas.py",)),
    Gate("c", "machine code of the main loops", ("test_sass.py",)),
    Gate(
        "d", "PTX interpreted: numbers, bounds, races, conflicts",
        (
            "test_interpreter.py", "test_instructions.py", "test_races.py", "test_compiled.py", "test_kernels.py",
            "test_executor.py", "test_commands.py", "test_gpu.py", "test_driver.py", "test_signatures.py",
            "test_benchmark.py", "test_tiles.py", "test_winograd.py", "test_ptx_manifest.py",
        ),
    ),
    Gate("e", "mutants of kernels are caught", ("test_mutants.py", "test_mutants_shared.py"), apart=True),
)  # fmt: skip


def passes(gate: Gate) -> tuple[bool, str]:
    """Whether a gate's tests pass, and pytest's closing line."""
    files = [f"tests/cuda/{name}" for name in gate.files]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-header", "--tb=short", *files]
    done = subprocess.run(command, env={**os.environ, **gate.environment}, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    last = lines[-1] if lines else "pytest said nothing"
    passed = done.returncode == 0 and re.search(r"\d+ passed", last) is not None
    if not passed:
        print(done.stdout)
    return passed, last.strip("= ")


def judge(gate: Gate) -> bool:
    """Runs a gate and says how it went."""
    start = time.perf_counter()
    passed, said = passes(gate)
    verdict = f"{'passed' if passed else 'FAILED'} in {time.perf_counter() - start:.0f} s"
    print(f"({gate.name}) {gate.about}: {verdict}: {said}", flush=True)
    return passed


def main() -> int:
    """Two gates at a time: (a) and (e) do again what (d) has launched, so they come after it."""
    gates = {gate.name: gate for gate in GATES}
    failed = set()
    with ThreadPoolExecutor(2) as pool:
        for together in (("d", "b"), ("e", "a", "c")):
            parts = [part for name in together for part in gates[name].parts()]
            failed |= {part.name for part, passed in zip(parts, pool.map(judge, parts), strict=True) if not passed}
    count = len(GATES) - len(failed)
    print(f"gates passed {count} of {len(GATES)}")
    return count != len(GATES)


if __name__ == "__main__":
    sys.exit(main())
