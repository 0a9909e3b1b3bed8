"""Gate (d): every kernel's PTX on the interpreter, as the ops' calls use it, against the reference in float64; with bounds,
alignment, races, barriers and reads of unwritten memory checked."""

from __future__ import annotations

import pytest

from tests.check import Case
from tests.cuda.kernels import NO_KERNELS
from tests.cuda.larger import Net

pytestmark = pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS)


@pytest.fixture(scope="module")
def device(gpu):
    """The GPU, or the interpreter with all that it checks. What that launches serves other gates, too, once all calls were
    right."""
    from tests.cuda.cases import keep, standing_in
    from tests.cuda.recordings import Recorder

    standing = gpu or Recorder(check=True, uninitialised=True)
    standing.right = 0
    with standing_in(standing):
        yield standing
    if gpu is None and standing.right == len(rows()):
        keep(standing.kept)


def rows() -> list[tuple[str, Case | Net]]:
    if NO_KERNELS:
        return []
    from tests.cuda.cases import calls

    return list(calls())


@pytest.mark.parametrize("table, row", rows(), ids=[f"{i}-{row}" for i, (_, row) in enumerate(rows())])
def test_ops(device, table, row):
    from tests.cuda.harness import check_on_device

    check_on_device(table, row)
    device.right += 1
