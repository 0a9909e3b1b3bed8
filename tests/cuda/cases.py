"""The ops' calls (CASES of tests/ops) on a device without a GPU, and the launches that they make there."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pickle
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import nbconv.cuda
from nbconv.cuda.device import Device
from nbconv.kernels.compile import families, libraries
from nbconv.kernels.store import cache_folder
from nbconv.kernels.target import target
from tests.check import Case
from tests.cuda.larger import LARGER
from tests.cuda.recordings import Recorder, Recording

FOLDER = Path(__file__).parent.parent / "ops"


def calls() -> Iterator[tuple[str, Case]]:
    """All rows of the ops' tables, and those of `LARGER`, with the file's name."""
    for file in sorted(FOLDER.glob("test_*.py")):
        module = importlib.import_module(f"tests.ops.{file.stem}")
        for name, table in sorted(vars(module).items()):
            if isinstance(table, list) and name.endswith("CASES"):
                yield from ((file.stem, row) for row in table if isinstance(row, Case))
    yield from (("larger", row) for row in LARGER)


@contextlib.contextmanager
def standing_in(device: Device) -> Iterator[None]:
    """A device that stands for "cuda:0"."""
    before = dict(nbconv.cuda._devices)
    nbconv.cuda._devices["cuda:0"] = device
    try:
        yield
    finally:
        nbconv.cuda._devices.clear()
        nbconv.cuda._devices.update(before)


@functools.cache
def recordings() -> dict[tuple[str, str, int], list[Recording]]:
    """Some launches of each kernel, as the ops' calls made them on the interpreter. They are kept in the cache: what they
    depend on is in their name."""
    path = _place()
    if path is not None and path.exists():
        return pickle.loads(path.read_bytes())
    kept = _record()
    if path is not None:
        part = path.with_suffix(".part")
        part.write_bytes(pickle.dumps(kept))
        part.replace(path)
    return kept


def _record() -> dict[tuple[str, str, int], list[Recording]]:
    from tests.cuda.harness import check_on_device

    device = Recorder()
    with standing_in(device):
        for _, row in calls():
            check_on_device(row)
    return device.kept


def _place() -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    goal = target("cuda")
    keys = [library.key for _, library in sorted(libraries(families(goal), goal).items())]
    sources = [p.read_bytes() for p in sorted([*FOLDER.glob("*.py"), *Path(__file__).parent.glob("*.py")])]
    return Path(folder, f"launches-{sha256(repr(keys).encode() + b''.join(sources)).hexdigest()[:32]}.pickle")
