"""An application written for onnxruntime, rapidocr-onnxruntime, reads the same text with its one import changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import nbconv.ort

rapidocr: Any = pytest.importorskip("rapidocr_onnxruntime")
pytest.importorskip("onnxruntime")

LINES = (
    ("Kernels compiled ahead", 44),
    ("Total: 1,284.50 EUR, 2024-03-17", 30),
    ("the quick brown fox jumps over it", 24),
    ("EXIT 42 left", 60),
    ("small print: no refunds", 18),
)
NAMES = ("GraphOptimizationLevel", "InferenceSession", "SessionOptions", "get_available_providers", "get_device")
"""What the application imports from onnxruntime, all of it in one statement."""


def picture(width: int, height: int) -> np.ndarray:
    """Lines of text in several sizes: uint8 (height, width, 3), BGR."""
    image = Image.new("RGB", (width, height), (245, 240, 230))
    draw = ImageDraw.Draw(image)
    for i, (text, size) in enumerate(LINES):
        draw.text((30 + 12 * i, 20 + 78 * i), text, fill=(20, 20, 40 + 30 * i), font=ImageFont.load_default(size=size))
    return np.asarray(image)[:, :, ::-1].copy()


def read(*pictures: np.ndarray) -> list:
    ocr = rapidocr.RapidOCR()
    return [ocr(picture)[0] for picture in pictures]


def test_same_text(monkeypatch) -> None:
    upright = picture(900, 420)
    pictures = (upright, upright[::-1, ::-1].copy(), upright[:180, :640])
    want = read(*pictures)
    module = rapidocr.utils.infer_engine
    for name in NAMES:
        monkeypatch.setattr(module, name, getattr(nbconv.ort, name))
    got = read(*pictures)
    assert len(want[0]) == len(LINES)
    assert "".join(text for _, text, _ in want[0]).replace(" ", "").startswith("Kernelscompiledahead")
    for lines, others in zip(got, want, strict=True):
        assert len(lines) == len(others) > 1
        assert [text for _, text, _ in lines] == [text for _, text, _ in others]
        np.testing.assert_allclose([box for box, _, _ in lines], [box for box, _, _ in others], rtol=0, atol=1)
        np.testing.assert_allclose([s for _, _, s in lines], [s for _, _, s in others], rtol=0, atol=1e-3)


INSTALLED = """
import nbconv.ort
nbconv.ort.install()
import sys
from rapidocr_onnxruntime import RapidOCR
from tests.test_rapidocr import picture
session = sys.modules["onnxruntime"].InferenceSession
assert session is nbconv.ort.InferenceSession is sys.modules["rapidocr_onnxruntime"].utils.infer_engine.InferenceSession
print("".join(text for _, text, _ in RapidOCR()(picture(900, 420)[:180, :640])[0]).replace(" ", ""))
"""


def test_unchanged() -> None:
    """`nbconv.ort.install()` before it is imported is all that it needs."""
    command = [sys.executable, "-W", "ignore", "-c", INSTALLED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("Kernelscompiledahead")


def test_no_other_name_is_imported() -> None:
    """The list of names above is the application's own."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(rapidocr.utils.infer_engine))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "onnxruntime"]
    assert [alias.name for node in froms for alias in node.names] == list(NAMES)
