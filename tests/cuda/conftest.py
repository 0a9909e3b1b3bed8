"""What the tests run on: the GPU that ``NBCONV_TEST_DEVICE`` names ("cuda", "cuda:1"), or a stand-in for its driver that
interprets the kernels' PTX.

With a GPU only tests that it makes different run: those that use one of these fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nbconv.errors import DeviceError
from nbconv.runtime.cuda import find
from nbconv.runtime.cuda.driver import Driver
from tests.cuda.cases import standing_in
from tests.cuda.devices import GPU, Counted
from tests.cuda.fake_driver import FakeDriver

HERE = Path(__file__).parent
ON_GPU = frozenset(f"test_{name}.py" for name in ("benchmark", "commands", "executor", "gpu", "kernels", "winograd"))
"""Files with tests that a GPU makes different. Where there is one, the others are not imported: they compile kernels."""


def pytest_configure(config: pytest.Config) -> None:
    """Nothing begins where the GPU is not there."""
    if GPU:
        try:
            find(GPU)
        except (DeviceError, ValueError) as error:
            raise pytest.UsageError(f"NBCONV_TEST_DEVICE={GPU}: {error}") from None


def pytest_report_header(config: pytest.Config) -> str | None:
    return f"tests of CUDA on {find(GPU)!r}" if GPU else None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    gate = GPU and collection_path.parent == HERE and collection_path.suffix == ".py" and collection_path.name not in ON_GPU
    return True if gate else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if GPU:
        other = [i for i in items if HERE in i.path.parents and "gpu" not in getattr(i, "fixturenames", ())]
        config.hook.pytest_deselected(items=other)
        items[:] = [i for i in items if i not in other]


@pytest.fixture(scope="session")
def gpu() -> Counted | None:
    """The GPU, None where there is none."""
    return Counted(find(GPU)) if GPU else None


@pytest.fixture
def device(gpu: Counted | None) -> Iterator[Counted]:
    """What "cuda" is in a test."""
    standing = gpu or Counted(Driver(0, FakeDriver()))
    standing.clear()
    with standing_in(standing):
        yield standing
