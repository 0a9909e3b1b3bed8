"""Gate (d): every kernel's PTX on the interpreter, as the ops' calls use it, against the reference in float64; with bounds,
alignment, races, barriers and reads of unwritten memory checked."""

from __future__ import annotations

import pytest

from tests.check import Case
from tests.cuda.kernels import COMPILER

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)


@pytest.fixture(scope="module")
def device():
    from tests.cuda.cases import standing_in
    from tests.cuda.devices import InterpreterDevice

    device = InterpreterDevice(check=True, uninitialised=True)
    with standing_in(device):
        yield device


def rows() -> list[Case]:
    if COMPILER:
        return []
    from tests.cuda.cases import calls

    return [row for _, row in calls()]


@pytest.mark.parametrize("row", rows(), ids=[f"{i}-{row}" for i, row in enumerate(rows())])
def test_ops(device, row):
    from tests.cuda.harness import check_on_device

    check_on_device(row)
