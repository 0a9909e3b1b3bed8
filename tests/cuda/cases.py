"""The ops' calls (CASES of tests/ops) on a device without a GPU, and the launches that they make there."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pickle
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbconv.runtime.cuda
from nbconv.base.files import replace
from nbconv.kernels.compile import families, libraries
from nbconv.kernels.store import cache_folder
from nbconv.kernels.target import target
from tests.check import Case
from tests.cuda.devices import TensorCores
from tests.cuda.larger import LARGER, SPLIT, TF32, TILES, WINOGRAD, Net
from tests.cuda.recordings import Recorder, Recording

FOLDER = Path(__file__).parent.parent / "ops"


def calls() -> Iterator[tuple[str, Case | Net]]:
    """All rows of the tables of larger.py, of `WINOGRAD` for both sizes, and the ops' tables, with the table's name."""
    yield from (("larger", row) for row in LARGER)
    yield from (("tiles", row) for row in TILES)
    yield from (("split", row) for row in SPLIT)
    yield from (("tf32", row) for row in TF32)
    yield from ((f"winograd {size}", row) for size in (4, 2) for row in WINOGRAD)
    for file in sorted(FOLDER.glob("test_*.py")):
        module = importlib.import_module(f"tests.ops.{file.stem}")
        for name, table in sorted(vars(module).items()):
            if isinstance(table, list) and name.endswith("CASES"):
                # control flow runs on the CPU alone
                yield from ((file.stem, row) for row in table if isinstance(row, Case) and not row.op.bodies())


@contextlib.contextmanager
def standing_in(device: Any) -> Iterator[None]:
    """A device that stands for "cuda:0", with tensor cores."""
    before = dict(nbconv.runtime.cuda._devices)
    nbconv.runtime.cuda._devices |= {"cuda:0": device, "cuda:0:tf32": TensorCores(device)}
    try:
        yield
    finally:
        nbconv.runtime.cuda._devices.clear()
        nbconv.runtime.cuda._devices.update(before)


@functools.cache
def recordings() -> dict[tuple[str, str, int], list[Recording]]:
    """Some launches of each kernel, as the ops' calls made them on the interpreter: `test_kernels` has kept them in the
    cache, else they are made now."""
    path = _place()
    if path is not None and path.exists():
        return pickle.loads(path.read_bytes())
    from tests.cuda.harness import check_on_device

    device = Recorder()
    with standing_in(device):
        for table, row in calls():
            check_on_device(table, row)
    keep(device.kept)
    return device.kept


def keep(kept: dict[tuple[str, str, int], list[Recording]]) -> None:
    """Keeps launches for other processes."""
    path = _place()
    if path is not None:
        replace(path, lambda file: pickle.dump(kept, file))


def _place() -> Path | None:
    """Where launches are kept: the name says what they depend on."""
    folder = cache_folder()
    if folder is None:
        return None
    goal, here = target("cuda"), Path(__file__).parent
    keys = [library.key for _, library in sorted(libraries(families(goal), goal).items())]
    files = [*FOLDER.glob("*.py"), *(here / f"{name}.py" for name in ("larger", "recordings", "harness", "cases"))]
    text = repr(keys).encode() + b"".join(p.read_bytes() for p in sorted(files))
    return Path(folder, f"launches-{sha256(text).hexdigest()[:32]}.pickle")
