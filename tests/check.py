"""The harness for ops: `check_op` holds one call against everything that knows the answer.

A family's file keeps a static table of calls and tests each; test_coverage.py fails for an op that is in none:

    CASES = [case(Relu(), [-1.0, 0.0, 2.0], expect=[0.0, 0.0, 2.0]), case(Conv(), r(2, 3, 7, 5), r(4, 3, 3, 2))]
    test_cases = run_cases(CASES)
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest

from nbconv.graph import Spec, spec_of
from nbconv.ops import Op
from tests.gradients import check_gradient
from tests.kernels.harness import check_kernels

RTOL = {np.dtype(np.float16): 5e-3, np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-5}
"""Allowed error by element type, as a fraction of the greatest finite element expected."""


class Case(NamedTuple):
    """One call of an op, and what `check_op` is told of it."""

    op: Op
    inputs: tuple[np.ndarray | None, ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        shapes = ["-" if x is None else "x".join(map(str, x.shape)) or "scalar" for x in self.inputs]
        return f"{self.op!r} {' '.join(shapes)}"


def array(x: Any) -> np.ndarray | None:
    """An input as written in a table: lists of floats become float32, of integers int64, of bools bool."""
    if x is None or isinstance(x, np.ndarray):
        return x
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype == np.float64 else x


def case(op: Op, *inputs: Any, **options: Any) -> Case:
    """A row of a CASES table; ``options`` are check_op's."""
    return Case(op, tuple(array(x) for x in inputs), options)


def run_cases(cases: list[Case]) -> Callable:
    """The test function that runs a table."""

    @pytest.mark.parametrize("row", cases, ids=[f"{i}-{row}" for i, row in enumerate(cases)])
    def test(row: Case) -> None:
        check_op(row.op, *row.inputs, **row.options)

    return test


def sampler(seed: int) -> Callable[..., np.ndarray]:
    """``r = sampler(1); r(2, 3)`` draws a new normal array: float32, unless ``dtype`` says else; integers from -9 to 9."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, dtype: Any = np.float32) -> np.ndarray:
        dtype = np.dtype(dtype)
        if dtype.kind == "b":
            return rng.random(shape) < 0.5
        if dtype.kind in "iu":
            return rng.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype)
        return rng.standard_normal(shape).astype(dtype)

    return draw


def check_op(
    op: Op, *inputs: Any, outputs: int = 1, expect: Any = None, rtol: float | None = None, differs: str = "", steps: int = 0
) -> None:
    """Checks one call: ``infer`` against what comes out, ``reference`` against ``expect`` (one array, or a tuple of them,
    written down by hand from the ONNX text; lists take the output's type), against onnxruntime, and in float64 against
    float32; then the kernels (tests/kernels/harness.py) and the gradients (tests/gradients.py).

    ``outputs``: how many outputs are asked for. ``differs``: why onnxruntime's answer is not looked at. ``steps``: by how
    much its integers may differ.
    """
    given = tuple(array(x) for x in inputs)
    for x in given:
        if x is not None:
            x.setflags(write=False)
    again = type(op)(**op.attributes())
    assert repr(again) == repr(op)

    got = answer(op, given)[:outputs]
    if expect is not None:
        known = expect if isinstance(expect, tuple) else (expect,)
        for y, e in zip(got, known, strict=True):
            with np.errstate(over="ignore"):
                e = e if isinstance(e, np.ndarray) else np.asarray(e).astype(y.dtype)
            close(y, e, rtol, "the value written down")
    if not differs:
        peer = onnxruntime_answer(op, given, [y.dtype for y in got])
        for y, e in zip(got, peer or got, strict=True):
            close(y, e, rtol, "onnxruntime", steps)
    check_float64(op, given, got, rtol)
    check_kernels(op, given, got)
    check_gradient(op, given, outputs)


def as_tuple(x: Any) -> tuple:
    return x if type(x) is tuple else (x,)


def answer(op: Op, inputs: tuple[np.ndarray | None, ...]) -> tuple[np.ndarray, ...]:
    """The reference's outputs, after comparing them to what ``infer`` says of all of them."""
    specs: tuple[Spec, ...] = as_tuple(op.infer(*(None if x is None else spec_of(x) for x in inputs)))
    got = as_tuple(op.reference(*inputs))
    assert [(type(y), y.dtype, y.shape) for y in got] == [(np.ndarray, s.dtype, s.shape) for s in specs]
    return got


def close(got: np.ndarray, want: np.ndarray, rtol: float | None, source: str, steps: int = 0) -> None:
    """Same shape, type, NaNs and infinities; floats within rtol·max|want|, integers within ``steps``, all else equal."""
    assert got.shape == want.shape, f"shape {got.shape}, {source} has {want.shape}"
    assert got.dtype == want.dtype, f"type {got.dtype}, {source} has {want.dtype}"
    if got.dtype.kind in "iu" and steps:
        apart = np.abs(got.astype(np.int64) - want.astype(np.int64))
        assert apart.max(initial=0) <= steps, f"{apart.max()} apart, against {source}"
        return
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, err_msg=f"against {source}")
        return
    finite = np.abs(want[np.isfinite(want)])
    scale = float(finite.max()) if finite.size else 0.0
    np.testing.assert_allclose(
        got, want, rtol=0, atol=(RTOL[got.dtype] if rtol is None else rtol) * scale, err_msg=f"against {source}"
    )


def check_float64(op: Op, inputs: tuple[np.ndarray | None, ...], single: tuple[np.ndarray, ...], rtol: float | None) -> None:
    """float64 in gives float64 out, near the float32 answer (`Cast` and statistics have their type from an attribute)."""
    if not any(x is not None and x.dtype == np.float32 for x in inputs):
        return
    wide = tuple(x.astype(np.float64) if x is not None and x.dtype == np.float32 else x for x in inputs)
    for i, (y, e) in enumerate(zip(answer(op, wide), single, strict=False)):
        if e.dtype == np.float32 and i == 0 and op.type != "Cast":
            assert y.dtype == np.float64, f"float64 in, {y.dtype} out"
        with np.errstate(over="ignore"):
            y = y.astype(e.dtype)
        close(y, e, 1e-4 if rtol is None else 10 * rtol, "float32")


def onnxruntime_answer(op: Op, inputs: tuple[np.ndarray | None, ...], dtypes: list[np.dtype]) -> list[np.ndarray] | None:
    """onnxruntime's outputs for the op as a model of one node, or None where it is not installed or has no such kernel."""
    if find_spec("onnxruntime") is None or op.domain not in ("", "com.microsoft"):
        return None
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(node_model(op, inputs, dtypes), options, ["CPUExecutionProvider"])
    except NoKernel:
        return None
    feed = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    return [np.asarray(y) for y in session.run(None, feed)]


def node_model(op: Op, inputs: tuple[np.ndarray | None, ...], dtypes: list[np.dtype]) -> bytes:
    """A serialized ONNX model of this one node; its inputs are x0, x1 …, its outputs, of these types, y0, y1 …"""
    from onnx import helper, numpy_helper

    from nbconv.converters.exporter import _graph
    from nbconv.graph import OPSET, Graph
    from nbconv.graph.bodies import captured

    attributes: dict[str, Any] = {
        k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else _graph(v, OPSET) if isinstance(v, Graph) else v
        for k, v in op.attributes().items()
    }
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)][: len(inputs) - len(captured(op.bodies().values()))]
    outs = [f"y{i}" for i in range(len(dtypes))]
    kind = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [helper.make_node(op.type, names, outs, domain=op.domain, **attributes)],
        "one_node",
        [helper.make_tensor_value_info(f"x{i}", kind(x.dtype), x.shape) for i, x in enumerate(inputs) if x is not None],
        [helper.make_tensor_value_info(name, kind(d), None) for name, d in zip(outs, dtypes, strict=True)],
    )
    opsets = [helper.make_opsetid("", OPSET), *([helper.make_opsetid(op.domain, 1)] if op.domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
