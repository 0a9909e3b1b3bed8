"""The op harness on a device: each row of the ops' tables through a model, against the reference."""

from __future__ import annotations

import pytest

from nbconv.ops import packing
from tests.check import Case, answer
from tests.kernels.harness import check_kernels


def check_on_device(table: str, row: Case, device: str = "cuda:0") -> None:
    """What `check_kernels` holds of the row's call on the CPU holds on the device; ``table``: where the row stands."""
    outputs = row.options.get("outputs", 1)
    if table == "tf32":
        device += ":tf32"
    with pytest.MonkeyPatch.context() as patch:
        if table in ("tiles", "tf32"):
            patch.setattr(packing, "PROCESSORS", 1)
        check_kernels(row.op, row.inputs, answer(row.op, row.inputs)[:outputs], device)
