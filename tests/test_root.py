"""Two copies of nbconv never mix, and what is kept of models is kept under all code that it depends on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nbconv.kernels.target import GPUS, TARGETS, host
from nbconv.runtime.plan_cache import PlanCache

PARTS = ("kernels", "converters", "models")
EDITABLE = """
import importlib.util, sys
class Finder:  # as setuptools makes for an editable install
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        root, _, part = {root!r}, *name.partition(".")[1:]
        if name.partition(".")[0] != "nbconv" or part not in ("", "kernels", "converters", "models"):
            return None
        return importlib.util.spec_from_file_location(name, f"{{root}}/{{part or 'nbconv'}}/__init__.py")
sys.meta_path.append(Finder)
"""
ALL = "import nbconv, nbconv.kernels.store, nbconv.converters.onnx, nbconv.models"
CODE = "from nbconv.runtime.digests import code; print(code())"


def sources(part: str) -> Path:
    package = importlib.util.find_spec("nbconv" if part == "nbconv" else f"nbconv.{part}")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent


def copy(root: Path, within: str = "") -> Path:
    """A copy of nbconv's sources: a checkout, or with ``within`` as they are installed."""
    ignored = shutil.ignore_patterns("__pycache__", "prebuilt", "*.onnx", "*.npz", "*.png", *PARTS)
    shutil.copytree(sources("nbconv"), root / "nbconv", ignore=ignored)
    for part in PARTS:
        shutil.copytree(sources(part), root / within / part, ignore=ignored)
    return root


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("checkouts")
    return copy(base / "one"), copy(base / "other")


def python(text: str, folder: Path, cache: Path | None = None) -> subprocess.CompletedProcess:
    """``python -c`` in that folder, where nothing is installed but NumPy."""
    environment = {**os.environ, "PYTHONPATH": str(Path(np.__file__).parent.parent)}
    environment["NBCONV_CACHE"] = str(cache or folder / "cache")
    return subprocess.run([sys.executable, "-S", "-c", text], capture_output=True, text=True, cwd=folder, env=environment)


def message(done: subprocess.CompletedProcess) -> str:
    """The last line of an ImportError."""
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: "), done.stderr
    return last


def test_a_checkout_that_is_installed(checkouts: tuple[Path, Path], tmp_path: Path) -> None:
    one, _ = checkouts
    (tmp_path / "link").symlink_to(one)
    for folder in (one, tmp_path, tmp_path / "link"):
        done = python(EDITABLE.format(root=str(one)) + ALL + "; print(nbconv.__path__[0])", folder, tmp_path)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).samefile(one / "nbconv")


def test_another_checkout_is_installed(checkouts: tuple[Path, Path]) -> None:
    one, other = checkouts
    for text in ("import nbconv", "import nbconv.kernels.store", ALL):
        said = message(python(EDITABLE.format(root=str(one)) + text, other))
        assert f"{other / 'nbconv'}," in said
        assert f"{one / 'kernels'}:" in said
        assert f"pip install -e {other}" in said


@pytest.mark.parametrize("part", ["converters", "models"])
def test_each_package_is_looked_at(checkouts: tuple[Path, Path], tmp_path: Path, part: str) -> None:
    one, other = checkouts
    shutil.copytree(other, tmp_path / "third")
    (tmp_path / "third/nbconv/kernels").symlink_to("../kernels")
    done = python(
        EDITABLE.format(root=str(one)) + f"import nbconv; print('so far'); import nbconv.{part}", tmp_path / "third"
    )
    assert done.stdout == "so far\n"
    assert f"{one / part}:" in message(done)


def test_packages_that_are_links(checkouts: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(checkouts[0], tmp_path / "linked")
    for part in PARTS:
        (tmp_path / "linked/nbconv" / part).symlink_to(f"../{part}")
    done = python(ALL, tmp_path / "linked")
    assert done.returncode == 0, done.stderr


def test_a_checkout_that_is_not_installed(checkouts: tuple[Path, Path]) -> None:
    said = message(python("import nbconv", checkouts[0]))
    assert f"pip install -e {checkouts[0]}" in said


def test_installed(checkouts: tuple[Path, Path], tmp_path: Path) -> None:
    """As a wheel, and in an archive: packages fit, and the digest of the code is that of all files. A checkout's is that of
    the wheel made from it, so that a cache can be filled there."""
    site = copy(tmp_path / "site", "nbconv")
    checkout = python(EDITABLE.format(root=str(checkouts[0])) + CODE, checkouts[0]).stdout
    archive = tmp_path / "app.zip"
    found = []
    for change in (None, "nbconv/new/deeper/__init__.py"):
        if change:
            (site / change).parent.mkdir(parents=True)
            (site / change).write_text("VALUE = 1\n")
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(site.rglob("*.py")):
                file.write(path, path.relative_to(site))
        for where in (site, archive):
            done = python(f"import sys; sys.path.insert(0, {str(where)!r})\n{ALL}\n{CODE}", tmp_path)
            assert done.returncode == 0, done.stderr
            found.append(done.stdout.strip())
    assert len(set(found)) == 4 and found[0] == checkout.strip()
    assert all(len(digest) == 64 for digest in found)


CHANGES = """
import os, time
from pathlib import Path
from nbconv.runtime import digests
def digest():
    digests._code.clear()
    return digests.code()
now = time.time_ns
time.time_ns = lambda: now() + 3_000_000_000  # files count as settled: digests are remembered
found = [digest()]
for folder in "nbconv nbconv/passes nbconv/new nbconv/new/deeper kernels/new kernels/cpu converters/new".split():
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "notes.txt").write_text("no code")
    assert digest() == digest() == found[-1], folder
    for text in "first", "other":
        Path(folder, "added.py").write_text(text)
        found.append(digest())
        assert digest() == found[-1]
print(*found)
"""


def test_new_code_changes_the_key(checkouts: tuple[Path, Path], tmp_path: Path) -> None:
    """Wherever a module lies; where the checkout lies makes no difference."""
    root = shutil.copytree(checkouts[0], tmp_path / "copy")
    done = python(EDITABLE.format(root=str(root)) + CHANGES, root, tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert len(set(found)) == len(found) == 15
    assert all(len(digest) == 64 for digest in found)
    assert list((tmp_path / "kept/files").glob("*.code")), "nothing was remembered"
    again = python(EDITABLE.format(root=str(checkouts[0])) + CODE, checkouts[0], tmp_path / "kept").stdout.strip()
    assert again == found[0]


def test_each_field_of_a_target_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBCONV_CACHE", str(tmp_path))
    goal = host()
    other = {int: 3, str: "x", bool: not goal.winograd, frozenset: frozenset("x"), tuple: ((1, 2, 3.0),)}
    changed = [goal._replace(**{field: other[type(value)]}) for field, value in goal._asdict().items() if field != "tf32"]
    goals = [*TARGETS.values(), *GPUS.values(), *changed, goal._replace(tf32=True)]
    assert len({PlanCache("model", each)._folder for each in goals}) == len(goals)
    assert PlanCache("model", goal)._folder == PlanCache("model", goal._replace(needs=frozenset(sorted(goal.needs))))._folder
