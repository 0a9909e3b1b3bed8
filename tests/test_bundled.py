"""The bundled models, what is said of them, and the demo that shows one."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nbconv
from nbconv import models

FOLDER = Path(__file__).resolve().parent.parent / "models"


def test_files_are_as_the_readme_says() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.M))
    said = {name: checksum for checksum, name in said.items()}
    there = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in FOLDER.iterdir() if p.suffix in (".onnx", ".png", ".txt")
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


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="no bundled model 'resnet': there are blazeface_short_128, efficientnet_lite0"):
        models.path("resnet")
    with pytest.raises(ValueError, match="no bundled model"):
        models.path("../LICENSE")


def test_demo() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "nbconv", "demo", "--runs", "3"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    found = re.findall(r"^  (\w[\w ]*?) +(0\.\d{3})  [▏▎▍▌▋▊▉█]+", text, re.M)
    assert [name for name, _ in found[:3]] == ["Egyptian cat", "tiger cat", "tabby"]
    assert float(found[0][1]) == pytest.approx(0.385, abs=0.01)
    assert re.search(r"^each image +\d+\.\d ms", text, re.M)
    assert len(text.splitlines()) <= 24


def test_demo_on_a_terminal_without_unicode() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "nbconv", "demo", "--runs", "1", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Egyptian cat   0.38" in done.stdout
    assert b"####" in done.stdout
