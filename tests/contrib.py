"""Models of onnxruntime's own operators, and what they are held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from nbconv.converters.onnx import read, write
from nbconv.model import load

ort: Any = pytest.importorskip("onnxruntime")

MS = "com.microsoft"
KINDS = {np.dtype(t): n for t, n in (("f4", 1), ("u1", 2), ("i1", 3), ("i4", 6), ("i8", 7), ("?", 9))}


def model(
    nodes: list, inputs: dict[str, np.ndarray], outputs: dict[str, int], constants: dict[str, Any], opset: int = 17
) -> bytes:
    """A model of these nodes. Inputs are declared without their sizes."""
    graph = helper.make_graph(
        nodes, "contrib",
        [helper.make_tensor_value_info(n, KINDS[v.dtype], [f"{n}{i}" for i in range(v.ndim)]) for n, v in inputs.items()],
        [helper.make_tensor_value_info(n, kind, None) for n, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def peer(content: bytes | str, level: str = "ORT_DISABLE_ALL", saved: Path | None = None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    return ort.InferenceSession(content, options, ["CPUExecutionProvider"])


def agree(content: bytes, feeds: dict[str, np.ndarray], want: list[np.ndarray], names: list[str], steps: int = 1) -> None:
    """nbconv's results against onnxruntime's: floats as CNNs' are held, integers within ``steps``."""
    got = load(content).run(feeds)
    for name, expected in zip(names, want, strict=True):
        y = got[name]
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype), name
        if y.dtype.kind == "f":
            np.testing.assert_allclose(y, expected, rtol=1e-3, atol=2e-4, err_msg=name)
        else:
            apart = np.abs(y.astype(np.int64) - expected.astype(np.int64)).max(initial=0)
            assert apart <= steps, f"{name}: {apart} apart"


def both(content: bytes, feeds: dict[str, np.ndarray], steps: int = 1) -> None:
    session = peer(content)
    names = [o.name for o in session.get_outputs()]
    want = session.run(None, feeds)
    agree(content, feeds, want, names, steps)
    proto = ModelProto.FromString(content)
    for info, y in zip(proto.graph.output, want, strict=True):
        for size in y.shape:
            info.type.tensor_type.shape.dim.add(dim_value=size)
    agree(write(read(proto.SerializeToString())), feeds, want, names, steps)  # what was read can be written


Draw = Callable[..., np.ndarray]


def floats(rng: np.random.Generator) -> Draw:
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def sizes(rng: np.random.Generator, count: int, low: int = 1, high: int = 9) -> list[int]:
    return [int(v) for v in rng.integers(low, high, count)]


def node(kind: str, inputs: str, outputs: str = "y", domain: str = MS, **attributes: Any) -> Any:
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), domain=domain, name=f"{kind}_{outputs.split()[0]}", **attributes)


def onnx_node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return node(kind, inputs, outputs, "", **attributes)


def ints(rng: np.random.Generator, kind: Any, *shape: int) -> np.ndarray:
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max + 1, shape).astype(kind)
