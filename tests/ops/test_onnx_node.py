"""The onnx package's own node tests, fed to `infer` and `reference`: inputs and outputs are what its authors wrote down."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest

from nbconv.converters.onnx import read
from nbconv.errors import ModelError
from nbconv.graph import Spec, spec_of
from nbconv.ops import REGISTRY

onnx: Any = pytest.importorskip("onnx")

SKIPPED = {
    r"STRING|string": "no strings",
    r"if_(seq|opt)|loop1[36]_seq|optional_|sequence_map": "values that are no tensors: runs in stages have them",
    r"dropout_random_old": "opset 11: rewritten at import",
    r"(gru|lstm|rnn)_batchwise": "layout 1: rewritten at import",
    r"split_equal_parts_.*_opset13": "opset 13: rewritten at import",
}
"""Names not run (regular expressions), and why."""


def collect() -> dict:
    """The one-node cases of our ops."""
    from onnx.backend.test.case.node import collect_testcases

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = collect_testcases()
    for row in list[Any](rows):
        node = row.model.graph.node[0]
        if len(row.model.graph.node) == 1 and (node.domain, node.op_type) in REGISTRY:
            found[row.name] = row
    return found


ROWS = collect()


def skipped(name: str) -> str:
    return next((why for pattern, why in SKIPPED.items() if re.search(pattern, name)), "")


def to_array(value) -> np.ndarray:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


@pytest.mark.parametrize("name", [name for name in ROWS if not skipped(name)])
def test_node(name: str) -> None:
    row = ROWS[name]
    node = row.model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: to_array(v) if isinstance(v, onnx.TensorProto) else v for k, v in attributes.items()}
    if any(a.HasField("g") for a in node.attribute):
        op = read(row.model.SerializeToString()).nodes[0].op
    else:
        op = REGISTRY[node.domain, node.op_type](**attributes)
    for inputs, expected in row.data_sets:
        feed = iter(inputs)
        args = [to_array(next(feed)) if given else None for given in node.input]
        specs, got = op.infer(*(None if a is None else spec_of(a) for a in args)), op.reference(*args)
        specs = (specs,) if isinstance(specs, Spec) else specs
        got = got if isinstance(got, tuple) else (got,)
        asked = [i for i, given in enumerate(node.output) if given]
        for i, want in zip(asked, map(to_array, expected), strict=True):
            assert (specs[i].shape, specs[i].dtype) == (got[i].shape, got[i].dtype) == (want.shape, want.dtype)
            np.testing.assert_allclose(got[i], want, rtol=row.rtol, atol=row.atol)


@pytest.mark.parametrize("name", [name for name in ROWS if skipped(name)])
def test_skips_are_needed(name: str) -> None:
    """What passes should not be skipped."""
    with pytest.raises((AssertionError, ModelError, ValueError)):
        test_node(name)


def test_every_pattern_skips_something() -> None:
    assert not [pattern for pattern in SKIPPED if not any(re.search(pattern, name) for name in ROWS)]


def test_most_run() -> None:
    assert sum(not skipped(name) for name in ROWS) > 600
