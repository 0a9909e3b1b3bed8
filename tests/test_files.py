"""Files that are whole or not there: what users write with commands, when the disk is full and when a process was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nbconv
from nbconv.base import files
from nbconv.cli import main
from tests.train.models import batch, mlp


def test_what_killed_processes_left_goes(tmp_path: Path) -> None:
    """Only theirs, and only what is of this file; its name may hold what a pattern would."""
    path = tmp_path / "m[1].onnx"
    path.write_bytes(b"old")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine, other = f".m[1].onnx.{os.getpid()}-00000000.part", f".m[1].onnx.{os.getppid()}-00000000.part"
    strange = ".m1.onnx.1-00000000.part"
    for name in (f".m[1].onnx.{dead.pid}-00000000.part", mine, other, strange):
        (tmp_path / name).write_bytes(b"left")

    def put(file) -> None:
        files.replace(path, lambda inner: inner.write(b"inner"))  # another thread's, say: it lets this one's file be
        file.write(b"new")

    files.replace(path, put)
    assert path.read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == sorted(["m[1].onnx", other, strange])


def test_what_is_no_regular_file_is_written_to() -> None:
    files.replace(os.devnull, lambda file: file.write(b"x"))
    assert not Path(os.devnull).is_file()


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "none" / "m.onnx"
    with pytest.raises(FileNotFoundError) as caught:
        files.replace(path, lambda file: file.write(b""))
    assert caught.value.filename == str(path)
    with pytest.raises(IsADirectoryError) as caught:
        files.replace(tmp_path, lambda file: file.write(b""))
    assert caught.value.filename == str(tmp_path)


class Full:
    """A file on a full disk."""

    def __init__(self, file) -> None:
        self.file = file

    def write(self, data) -> int:
        self.file.write(bytes(data)[:9])
        raise OSError(28, "No space left on device")

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


@pytest.mark.parametrize(
    "command",
    [
        "finetune m.onnx d.npz -o /dev/null --std 1 --epochs 1 --html",
        "finetune m.onnx d.npz -o /dev/null --std 1 --epochs 1 --png",
        "profile m.onnx --runs 1 --html",
        "profile m.onnx --runs 1 --trace",
        "run m.onnx x.npy -o",
    ],
)
def test_a_full_disk_leaves_the_old_report(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = batch(60, classes=4)
    nbconv.save(mlp(), "m.onnx")
    np.savez("d.npz", x=x, y=y)
    np.save("x.npy", x[:1])
    Path("report").write_text("old")
    before = sorted(os.listdir())
    whole = lambda path, mode: open(path, mode) if mode == "wb" else Full(open(path, mode))  # noqa: E731, SIM115
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", whole, raising=False)
        assert main([*command.split(), "report"]) == 2
    assert "nbconv: report: No space left on device" in capsys.readouterr().err
    assert sorted(os.listdir()) == before
    assert Path("report").read_text() == "old"
    assert main([*command.split(), "report"]) == 0
    assert Path("report").read_bytes()[:3] != b"old"
