"""The op harness on a device: each row of the ops' tables through a model, against the reference."""

from __future__ import annotations

from tests.check import Case, answer
from tests.kernels.harness import check_kernels


def check_on_device(row: Case, device: str = "cuda:0") -> None:
    """What `check_kernels` holds of the row's call on the CPU holds on the device."""
    outputs = row.options.get("outputs", 1)
    check_kernels(row.op, row.inputs, answer(row.op, row.inputs)[:outputs], device)
