"""Applications that are frozen into an executable: what PyInstaller makes of one, and what is found again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nbconv.runtime import digests

ROOT = Path(__file__).resolve().parent.parent
APP = """
import sys
import numpy as np
import nbconv

model = nbconv.load(sys.argv[1])
y = model.run({"x": np.arange(8, dtype=np.float32)})["y"]
print(y.tolist(), [m for m in ("numba", "onnx") if m in sys.modules])
"""


def relu(path: Path) -> Path:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8]) for name in "xy"]
    nodes = [helper.make_node("Sub", ["x", "four"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    four = onnx.numpy_helper.from_array(np.array(4, np.float32), "four")
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [four])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.skipif(find_spec("PyInstaller") is None, reason="PyInstaller is not installed")
def test_pyinstaller(tmp_path: Path) -> None:
    """The application runs with no options for nbconv; its second start finds what the first kept, and compiles and parses
    nothing."""
    site = tmp_path / "site" / "nbconv"
    ignore = shutil.ignore_patterns("__pycache__", "prebuilt")
    shutil.copytree(ROOT / "nbconv", site, ignore=ignore)
    for name in ("kernels", "converters", "models"):
        shutil.copytree(ROOT / name, site / name, ignore=ignore)
    app = tmp_path / "app.py"
    app.write_text(APP)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    hook = ["--additional-hooks-dir", str(site / "_pyinstaller")]  # the entry point of what is installed is found without
    out = ["--distpath", str(tmp_path / "dist"), "--workpath", str(tmp_path / "build"), "--specpath", str(tmp_path)]
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", *hook, *out, str(app)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = relu(tmp_path / "relu.onnx")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = []
    for _ in range(2):
        command = [str(tmp_path / "dist" / "app" / "app"), str(model)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip())
    assert said[0].startswith("[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]")
    assert said[1] == "[0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0] []"


def test_code_of_which_only_a_part_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where only some of the sources lie in the folder, as with a hook of one's own, the executable stands for the code."""
    whole = tmp_path / "app"
    whole.write_bytes(b"an executable")
    part = [("nbconv/kernels/cpu/conv.py", str(ROOT / "kernels" / "cpu" / "conv.py"))]
    assert ("nbconv/model.py", str(ROOT / "nbconv" / "model.py")) in digests._code_files()
    monkeypatch.setattr(digests, "_sources", lambda folder, package, apart=(): part)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(whole))
    assert digests._code_files() == [("nbconv", str(whole))]
    monkeypatch.delattr(sys, "frozen")
    assert digests._code_files() == []
