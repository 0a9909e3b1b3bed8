"""Gate (d): every kernel's PTX on the interpreter, as the ops' calls use it, against the reference in float64; with bounds,
alignment, races, barriers and reads of unwritten memory checked."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from tests.check import Case
from tests.cuda.kernels import COMPILER
from tests.cuda.larger import Net

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)


@pytest.fixture(scope="module")
def device():
    """The interpreter, or with ``NBCONV_TEST_DEVICE=cuda`` the GPU that is there. What the interpreter launches serves other
    gates, too, once all calls were right."""
    if os.environ.get("NBCONV_TEST_DEVICE") == "cuda":
        yield SimpleNamespace(right=0)
        return
    from tests.cuda.cases import keep, standing_in
    from tests.cuda.recordings import Recorder

    device = Recorder(check=True, uninitialised=True)
    with standing_in(device):
        yield device
    if device.right == len(rows()):
        keep(device.kept)


def rows() -> list[tuple[str, Case | Net]]:
    if COMPILER:
        return []
    from tests.cuda.cases import calls

    return list(calls())


@pytest.mark.parametrize("table, row", rows(), ids=[f"{i}-{row}" for i, (_, row) in enumerate(rows())])
def test_ops(device, table, row):
    from tests.cuda.harness import check_on_device

    check_on_device(table, row)
    device.right += 1
