"""The CUDA kernels that there are, with their PTX: ``python -m tests.cuda.kernels DIR`` writes it for sm_80."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from nbconv.kernels.compile import families, libraries
from nbconv.kernels.ptx import PtxLibrary
from nbconv.kernels.target import GPUS, Target


def _no_compiler() -> str:
    if os.environ.get("NBCONV_TEST_DEVICE") and os.environ.get("NBCONV_KERNELS"):
        return "the kernels are those of NBCONV_KERNELS"  # and numba-cuda, which takes a second, is not imported
    if not find_spec("numba_cuda"):
        return "numba-cuda is not installed: pip install nbconv[cuda]"
    try:
        import_module("nbconv.kernels.cuda._numba")
    except Exception as error:  # what it says when it does not fit NumPy
        return f"numba-cuda cannot be imported: {type(error).__name__}: {error}"
    return ""


COMPILER = _no_compiler()
"""Why kernels cannot be compiled, "" where they can."""
NO_KERNELS = "" if os.environ.get("NBCONV_KERNELS") else COMPILER
"""Why there are none to run, neither compiled now nor before."""
TARGETS = {"sm_75": GPUS["cuda-sm_75"], "sm_80": GPUS["cuda"], "sm_90": GPUS["cuda"]}
"""What a GPU's driver is given, by architecture."""


class Compiled(NamedTuple):
    """A kernel's PTX for one target; ``variant`` is the value of the argument that decides, None where there is one only."""

    family: str
    kernel: str
    variant: int | None
    threads: int
    ptx: str

    def __str__(self) -> str:
        return f"{self.family}.{self.kernel}" + ("" if self.variant is None else f"[{self.variant}]")


def compiled(goal: Target, of: list[str] | None = None) -> Iterator[Compiled]:
    """All kernels of these families (default: all there are) for a target; they are compiled, or found in the cache."""
    names = families(goal) if of is None else of
    for family, library in libraries(names, goal).items():
        assert isinstance(library, PtxLibrary)
        for kernel in library.kernels:
            for variant, launch in library.launches(kernel):
                yield Compiled(family, kernel, variant, launch.threads, library.text(launch))


def write(folder: Path, architecture: str = "sm_80") -> int:
    """Writes every kernel's PTX to a file of its own, ``family.kernel.ptx``; how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for kernel in compiled(TARGETS[architecture]):
        variant = "" if kernel.variant is None else f".{kernel.variant}"
        (folder / f"{kernel.family}.{kernel.kernel}{variant}.ptx").write_text(kernel.ptx)
        count += 1
    return count


if __name__ == "__main__":
    print(f"{write(Path(sys.argv[1]))} kernels written to {sys.argv[1]}")
