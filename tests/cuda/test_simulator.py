"""Gate (a): every kernel in Numba's simulator, on small launches that were right on the interpreter."""

from __future__ import annotations

import os

import pytest

from nbconv.kernels.compile import families
from nbconv.kernels.target import target
from tests.cuda.cases import recordings
from tests.cuda.kernels import COMPILER
from tests.cuda.recordings import Recording, smallest

WHY = COMPILER or ("" if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else "NUMBA_ENABLE_CUDASIM=1 is not set")
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


def launches() -> list[Recording]:
    return [] if WHY else list(smallest(recordings()).values())


@pytest.mark.parametrize("recording", launches(), ids=lambda r: f"{r.family}.{r.kernel}[{r.variant}]")
def test_kernels_in_the_simulator(recording):
    from tests.cuda.simulator import replay

    assert replay(recording) == ""


def test_every_kernel_is_there():
    """No kernel lacks a launch."""
    from nbconv.kernels.compile import libraries

    wanted = {
        (family, kernel, i)
        for family, library in libraries(families(target("cuda")), target("cuda")).items()
        for kernel in library.kernels
        for i in range(len(library.launches(kernel)))  # type: ignore[attr-defined]
    }
    assert wanted - smallest(recordings()).keys() == set()
