"""onnx's own backend tests through `nbconv.backend`: what its authors wrote down, against the kernels."""

from __future__ import annotations

import re
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test import BackendTest
from onnx.backend.test.loader import load_model_tests

import nbconv.backend
from nbconv.errors import ModelError, UnsupportedError
from nbconv.ops import REGISTRY
from nbconv.ops.spec import DTYPES
from tests import models

SKIPPED = {
    r"linear_blocked": "no blocked quantisation",
    r"training_dropout|batchnorm.*training": "inference only",
    r"resize_.*antialias": "no antialias yet",
    r"mod_.*float.*_fmod_0": "newer than opset 21, which wants fmod=1 for floats",
    r"not_[234]d": "opset 1",
    r"resize_downsample_scales_(linear|cubic)_align_corners": (
        "its value takes the fractional length for length_resized; the text and onnxruntime take the output's length"
    ),
    r"causal_conv_with_state_silu_fp16_expanded": "its value is one function's; the steps it is expanded to round to float16",
}
"""Names not run of models whose operators we have (regular expressions), and why."""


def skipped(name: str) -> str:
    return next((why for pattern, why in SKIPPED.items() if re.search(pattern, name)), "")


def collect() -> Iterator[tuple[str, Callable]]:
    """onnx's tests for the CPU: those of one node, or of what a function expands to, of those that
    `ours_alone` lets in, and all that come as files (their runner asks `is_compatible` first)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = BackendTest(nbconv.backend, __name__).test_cases  # pyright: ignore[reportArgumentType]
        ours = {row.name for row in load_model_tests(kind="node") if row.model is not None and ours_alone(row.model)}
    for suite in cases.values():
        for name in dir(suite):
            if name.startswith("test_") and name.endswith("_cpu"):
                if "NodeModel" in suite.__name__ and name.removesuffix("_cpu") not in ours:
                    continue
                yield name, getattr(suite, name)


def ours_alone(model: onnx.ModelProto) -> bool:
    """Whether we have the model's operators and the element types of its inputs and outputs."""
    known = all((node.domain, node.op_type) in REGISTRY or node.op_type == "Constant" for node in model.graph.node)
    return known and all(value.type.tensor_type.elem_type in DTYPES for value in (*model.graph.input, *model.graph.output))


CASES = dict(collect())


@pytest.mark.parametrize("name", [name for name in CASES if not skipped(name)])
def test_onnx(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ONNX_MODELS", str(tmp_path))  # where the runner writes
    try:
        CASES[name](None)
    except unittest.SkipTest as why:  # an older opset, or an operator that we lack
        pytest.skip(str(why))


def test_skips_are_needed() -> None:
    """A pattern that skips nothing should go."""
    assert not [pattern for pattern in SKIPPED if not any(re.search(pattern, name) for name in CASES)]


def test_most_run() -> None:
    assert sum(not skipped(name) for name in CASES) > 1000
