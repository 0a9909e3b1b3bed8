"""The bundled models, what is said of them, and the demo that shows one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv import models
from nbconv.commands import _timed
from nbconv.commands.demo import verdict

FOLDER = Path(__file__).resolve().parent.parent / "models"


def test_files_are_as_the_readme_says() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.M))
    said = {name: checksum for checksum, name in said.items()}
    there = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in FOLDER.iterdir()
        if p.suffix in (".onnx", ".npz", ".png", ".txt")
    }
    assert said == there
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    assert {row[1].strip().strip("`") for row in rows} == set(there)
    for row in rows:
        licences = re.findall(r"`([^`]+\.txt)`", row[4])
        assert licences, f"no licence for {row[1]}"
        assert all((FOLDER / "LICENCES" / name).is_file() for name in licences)


def test_size() -> None:
    assert models.efficientnet_lite0().stat().st_size <= 10_000_000


@pytest.mark.parametrize("name", models.names())
def test_models_load(name: str) -> None:
    model = nbconv.load(models.path(name))
    assert model.inputs[0].name == "input"
    assert model.inputs[0].shape is not None
    assert model.inputs[0].shape[1] == 3


def test_class_names() -> None:
    classes = models.imagenet_classes()
    assert len(classes) == 1000
    assert (classes[0], classes[285], classes[999].split(",")[0]) == ("tench, Tinca tinca", "Egyptian cat", "toilet tissue")


def test_emoji() -> None:
    x, y, classes, held_out = models.emoji()
    assert (x.shape, x.dtype, y.dtype) == ((500, 32, 32, 3), np.uint8, np.int64)
    assert (len(classes), np.bincount(y).tolist(), np.bincount(y[held_out]).tolist()) == (5, [100] * 5, [20] * 5)
    flat = x.reshape(500, -1).astype(np.float32)
    away = [
        np.square(flat[~held_out & (y == label)] - picture).mean(1).min()
        for picture, label in zip(flat[held_out], y[held_out])
    ]
    assert min(away) > 40**2  # no variant of a drawing is on the other side
    assert models.path("emoji.npz").stat().st_size <= 1_000_000


def test_nuclei() -> None:
    x, instances = models.nuclei()
    assert (x.shape, x.dtype, instances.shape, instances.dtype) == ((512, 512), np.uint8, (512, 512), np.uint8)
    assert len(np.unique(instances)) == 126
    assert x[instances > 0].mean() > 2 * x[instances == 0].mean()


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="no bundled model 'resnet': there are blazeface_short_128, efficientnet_lite0"):
        models.path("resnet")
    with pytest.raises(ValueError, match="no bundled model"):
        models.path("../LICENSE")


def test_demo(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "nbconv", "demo", "--runs", "3"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False, cwd=tmp_path)
    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    found = re.findall(r"^  (\w[\w ]*?) +(0\.\d{3})  [▏▎▍▌▋▊▉█]+", text, re.M)
    assert [name for name, _ in found[:3]] == ["Egyptian cat", "tiger cat", "tabby"]
    assert float(found[0][1]) == pytest.approx(0.385, abs=0.01)
    assert re.search(r"^nbconv +\d+\.\d ms   an image, on \d+ threads?$", text, re.M)
    if importlib.util.find_spec("onnxruntime"):
        assert re.search(r"^onnxruntime +\d+\.\d ms   an image, on \d+ threads?: (nbconv|equally)", text, re.M)
    accuracy = dict(re.findall(r"^  (a fresh head|trained) +(\d\.\d{3})  ", text, re.M))
    assert float(accuracy["a fresh head"]) < 0.4 < 0.7 < float(accuracy["trained"])
    assert re.search(r"^same logits +\d\.\de-0\d ", text, re.M)
    assert os.listdir(tmp_path) == ["nbconv-demo.onnx"]
    assert nbconv.load(tmp_path / "nbconv-demo.onnx").graph.outputs["logits"].shape[1] == 5  # pyright: ignore
    assert len(text.splitlines()) <= 24


def test_the_demos_verdict() -> None:
    assert verdict(1.0, 1.25) == "nbconv is 1.25 times as fast"
    assert verdict(1.5, 1.0) == "nbconv takes 1.50 times as long"
    assert verdict(1.0, 1.01) == verdict(1.01, 1.0) == "equally fast"


def test_the_demo_times_each_engine_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process holds two engines, and both take turns."""
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess:
        asked.append(command[3:])
        return subprocess.CompletedProcess(command, 0, "[3.0, 1.0]" if command[3] == "nbconv" else "[5.0, 5.0]", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert _timed.race(["nbconv", "onnxruntime"], 2, 3) == [3.0, 5.0]
    assert asked == [["nbconv", "2", "2"], ["onnxruntime", "2", "2"]] * 2


def test_demo_on_a_terminal_without_unicode(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    out = str(tmp_path / "e.onnx")
    command = [sys.executable, "-m", "nbconv", "demo", "--runs", "1", "--threads", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Egyptian cat   0.38" in done.stdout
    assert b"####" in done.stdout
