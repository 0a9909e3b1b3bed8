"""Wrong options and files of commands: one line that says what came and what was wanted, before anything is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nbconv.cli import main
from tests.models import small_model


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("gradcheck m.onnx --seed -1", "argument --seed: '-1': wanted an integer, 0 or more"),
        ("compare m.onnx --seed x", "argument --seed: 'x': wanted an integer, 0 or more"),
        ("compare m.onnx --input x=bad.npy", "--input x: bad.npy has shape [1, 3], wanted float32("),
        ("doctor m.onnx --shape 1,3", "--shape 1,3: wanted 4 positive numbers, x is float32("),
        ("doctor m.onnx --shape z=1,3", "--shape z=1,3: the model has no input 'z', its inputs are x"),
        ("profile m.onnx --html none/a.html", "none/a.html: No such file or directory"),
        ("profile m.onnx --trace .", ".: Is a directory"),
        ("run m.onnx bad.npy -o none/a.npz", "none/a.npz: No such file or directory"),
        ("demo -o none/m.onnx", "none/m.onnx: No such file or directory"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(small_model().SerializeToString())
    np.save("bad.npy", np.zeros((1, 3), np.float32))
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"nbconv: {message}") and err.count("\n") == 1, err
    assert not out
