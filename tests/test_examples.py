"""The programs in examples/ run, and do what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nbconv
from nbconv.models import photograph

FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_length_and_mention(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 60
    assert f"[{file.name}]" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_classify() -> None:
    first, *others = run("classify.py").splitlines()
    assert re.fullmatch(r"0\.38\d  Egyptian cat", first)
    assert len(others) == 4
    assert run("classify.py", str(photograph())).splitlines()[0] == first


def test_detect_faces(tmp_path: Path) -> None:
    """A cat is no human face; the picture is written all the same."""
    assert run("detect_faces.py", str(photograph()), str(tmp_path / "out.png")) == ""
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_web_service() -> None:
    command = [sys.executable, str(FOLDER / "web_service.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            with urllib.request.urlopen(url, photograph().read_bytes(), timeout=60) as answer:
                assert json.load(answer)["classes"][0] == "Egyptian cat"
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url, b"no picture", timeout=60)
            with refused.value as answer:
                assert refused.value.code == 400
                assert "not a picture" in json.load(answer)["error"]
        finally:
            process.kill()


def test_finetune(tmp_path: Path) -> None:
    out = tmp_path / "emoji.onnx"
    found = re.search(r"(0\.\d\d) before, (0\.\d\d) after", run("finetune.py", str(out), "--epochs", "5"))
    assert found is not None
    assert float(found[1]) < 0.5 < float(found[2])
    assert nbconv.load(out).outputs[0].shape[1] == 5  # pyright: ignore


def test_train_between_requests() -> None:
    text = run("train_between_requests.py", "12")
    found = re.search(r"12 steps between (\d+) requests; loss (\d\.\d\d) at first, (\d\.\d\d) at last", text)
    assert found is not None
    assert int(found[1]) > 12  # a step takes several calls
    assert float(found[3]) < float(found[2])


def test_onnxruntime_dropin() -> None:
    lines = run("onnxruntime_dropin.py").splitlines()
    assert lines[0] == "input  input: tensor(float) [1, 3, 64, 64]"
    assert [line.split(": ")[1] for line in lines[1:]] == ["float32 [1, 4, 27, 27]", "float32 [1, 2, 27, 27]"]


def test_layers() -> None:
    assert run("layers.py").split() == [
        "Conv0", "BatchNormalization1", "Relu2", "Conv3", "GlobalAveragePool4", "Flatten5", "(2,", "10)"
    ]  # fmt: skip


def test_drawings(tmp_path: Path) -> None:
    run("drawings.py", str(tmp_path / "out.png"))
    assert Image.open(tmp_path / "out.png").size == (256, 128)


FALLS = r"loss (\d+\.\d\d) at first, (\d+\.\d\d) at last; "


@pytest.mark.parametrize(
    ("name", "steps", "less", "told"),
    [
        ("segment_nuclei", 12, 0.7, r"Jaccard (\d\.\d{3}), in \d+ s"),
        ("detect_shapes", 12, 0.7, r"mAP@50 (\d\.\d{3}), in \d+ s"),
        ("captcha", 20, 0.4, r"'\w*' is '63M43'\ncharacters read: (\d\.\d{3}), in \d+ s"),
    ],
)
def test_training_from_scratch(name: str, steps: int, less: float, told: str, tmp_path: Path) -> None:
    """Shortly: what it prints, and that the loss falls."""
    out = tmp_path / ("out.onnx" if name == "captcha" else "out.png")
    found = re.fullmatch(FALLS + told, run(f"{name}.py", str(steps), str(out)).strip())
    assert found is not None
    assert float(found[2]) < less * float(found[1])
    if name == "captcha":
        assert nbconv.load(out).run({"x": np.zeros((2, 1, 32, 128), np.float32)})["scores"].shape == (2, 32, 21)
    else:
        assert Image.open(out).size == ((384, 512) if name == "segment_nuclei" else (768, 128))
