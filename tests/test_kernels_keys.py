"""When the key of a kernel library changes, and what it is made of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from nbconv.kernels import store
from nbconv.kernels.target import TARGETS, host


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "package"
    (folder / "cpu").mkdir(parents=True)
    for name, text in {
        "_numba.py": "",
        "elf.py": "",
        "cpu/__init__.py": "",
        "cpu/_simd.py": "W = 8\n",
        "cpu/gemm.py": "from nbconv.kernels.cpu._simd import W\n",
        "cpu/conv.py": "from nbconv.kernels.cpu.gemm import tile\n",
        "cpu/pool.py": "from nbconv.kernels.cpu import (\n    conv,\n)\n",
        "cpu/norm.py": "from nbconv.kernels.window import x\n",
        "cpu/deep/tile.py": "x = 1\n",
        "common/window.py": "x = 1\n",
        "window.py": "x = 1\n",
        "compile.py": "from nbconv.kernels.cpu.gemm import tile\n",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(store, "FOLDER", str(folder))
    return folder


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("cpu/norm.py", "norm"),
        ("cpu/pool.py", "pool"),
        ("cpu/conv.py", "conv pool"),
        ("cpu/gemm.py", "conv gemm pool"),
        ("cpu/_simd.py", "conv gemm norm pool"),
        ("_numba.py", "conv gemm norm pool"),
        ("elf.py", "conv gemm norm pool"),
        ("cpu/deep/tile.py", "conv gemm norm pool"),
        ("cpu/deep/new.py", "conv gemm norm pool"),
        ("common/window.py", "conv gemm norm pool"),
        ("window.py", "norm"),
        ("compile.py", ""),
    ],
)
def test_a_key_changes_with_each_source_it_depends_on(package, file, changed):
    families = [m for m in store.modules() if m[0] != "_"]
    assert families == ["conv", "gemm", "norm", "pool"]
    goal = TARGETS["x86-64-v3"]
    before = {f: store.Sources().key(f, goal) for f in families}
    assert len(set(before.values())) == 4
    assert before == {f: store.Sources().key(f, goal) for f in families}
    with open(package / file, "a") as f:
        f.write("# a comment\n")
    after = {f: store.Sources().key(f, goal) for f in families}
    assert [f for f in families if before[f] != after[f]] == changed.split()


def test_a_key_changes_with_the_target_and_the_abi(package, monkeypatch):
    goal = TARGETS["x86-64-v3"]
    others = [*TARGETS.values(), goal._replace(lanes=4), goal._replace(gemm=(("float32", goal.tile()._replace(rows=5)),))]
    others += [
        goal._replace(cpu="haswell"),
        goal._replace(features="+x"),
        goal._replace(os="other"),
        goal._replace(triple="y"),
    ]
    others += [goal._replace(registers=1), goal._replace(needs=frozenset("x"))]
    keys = [store.Sources().key("conv", t) for t in others]
    assert {*keys} == {store.Sources().key("conv", t._replace(chunk=1, winograd=False, tf32=True)) for t in others}
    monkeypatch.setattr(store, "LOOP_ABI", store.LOOP_ABI + 1)
    keys += [store.Sources().key("conv", goal)]
    assert len(set(keys)) == len(others) + 1


def test_keys_cover_what_families_import():
    """Every module of the kernels that is loaded once all families are, but what only runs or describes them."""
    code = (
        "import sys, json; from nbconv.kernels import _numba, store, target, compile as c\n"
        "for family in c.families(): _numba.kernels_of(family, target.host())\n"
        "print(json.dumps([m[15:].replace('.', '/') + '.py' for m in sys.modules if m.startswith('nbconv.')]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name for name in json.loads(out) if name in store._listing()}
    covered = {name for family in store.modules() for name in store.Sources().files(family, host())}
    assert "cpu/_tile.py" in loaded
    assert loaded - covered == {"compile.py", "library.py", "load.py", "store.py", "target.py"}


def test_toolchain_is_read_without_importing_it():
    pytest.importorskip("numba")
    code = "from nbconv.kernels import store; import sys; print(store.toolchain(), 'numba' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    from importlib.metadata import version

    assert out.strip() == f"{ {'numba': version('numba'), 'llvmlite': version('llvmlite')} } False"


def test_no_toolchain(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert store.toolchain() is None


def test_sources_are_read_from_a_zip(tmp_path):
    """The package as a zip on the path: keys are the same as from the folder."""
    site = tmp_path / "site" / "nbconv"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("")
    ignored = shutil.ignore_patterns("__pycache__", "prebuilt")
    shutil.copytree(store.FOLDER, site / "kernels", ignore=ignored)
    shutil.make_archive(str(tmp_path / "app"), "zip", tmp_path / "site")
    code = (
        "from nbconv.kernels import store, target as t; assert store.FOLDER.startswith({0!r}), store.FOLDER;"
        "print([store.Sources().key(f, t.TARGETS['aarch64']) for f in store.modules()])"
    )
    out = []
    for path in (tmp_path / "site", tmp_path / "app.zip"):
        environment = {**os.environ, "PYTHONPATH": str(path)}
        command = [sys.executable, "-c", code.format(str(path))]
        out.append(subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path).stdout)
    assert out[0] == out[1]
    assert "None" not in out[0]
