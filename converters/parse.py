"""An ONNX file's bytes as a ModelProto, which is checked as a whole; importer.py reads what is in it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.inliner
import onnx.shape_inference
from google.protobuf.message import DecodeError

from nbconv.converters.guard import MOST_NODES, check_functions, graphs, texts
from nbconv.converters.opset import RULES
from nbconv.converters.proto import strip
from nbconv.converters.tensors import dims_of
from nbconv.converters.tflite.kind import is_tflite
from nbconv.converters.weights import Source
from nbconv.errors import ModelError
from nbconv.graph.infer import dtype_of
from nbconv.ops import REGISTRY

LARGEST_FUNCTION = 200
"""Nodes of ONNX's own functions, at most."""


def parse(source: Source) -> onnx.ModelProto:
    """The model without its large tensors, functions inlined, ONNX's own too; a TFLite model as ONNX. ModelError when it is
    none."""
    if is_tflite(source.data):
        from nbconv.converters.tflite.model import convert

        return convert(source)
    try:
        model = onnx.ModelProto.FromString(strip(source.data))
    except (ModelError, DecodeError, RecursionError) as error:
        told = f"is not an ONNX model: {first_line(error)}"
        if source.label.endswith(".tflite"):
            told = "is not a TFLite model (no TFL3 at byte 4), or cut off: get the file again"
        raise ModelError(f"{source.label} {told}") from None
    for wrong, why in (
        (not model.HasField("graph"), "it has no graph"),
        (not model.HasField("ir_version"), "it has no ir_version"),
        (model.ir_version > onnx.IR_VERSION, f"IR version {model.ir_version} is unknown, the newest is {onnx.IR_VERSION}"),
    ):
        if wrong:
            raise ModelError(f"{source.label} is not an ONNX model: {why}")
    for text in texts(model):
        if isinstance(text, bytes):  # what protobuf gives for a string that is not UTF-8
            raise ModelError(f"{source.label} is not an ONNX model: the name {text[:40]!r} is not UTF-8")
    if model.functions:
        check_functions(model)
        try:
            model = onnx.inliner.inline_local_functions(model)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{source.label}: its functions cannot be inlined: {first_line(error)}") from None
    return expanded(model)


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with ONNX's own function bodies in place of operators that nbconv has no class for (Attention,
    RMSNormalization …), so that kernels do what they are made of. Where onnx cannot tell a node's body, the node stays."""
    versions = {_domain(entry.domain): entry.version for entry in model.opset_import}
    wanted, count = set(), 0
    for graph in graphs(model.graph):
        for node in graph.node:
            key = _domain(node.domain), node.op_type
            if key in REGISTRY or (not key[0] and node.op_type in RULES) or key[0] not in versions:
                continue
            if onnx.defs.has(node.op_type, versions[key[0]], key[0]):
                schema: Any = onnx.defs.get_schema(node.op_type, versions[key[0]], key[0])
                if schema.has_function:  # whose text refers to attributes, those left out too
                    given = {a.name for a in node.attribute}
                    defaults = [a.default_value for name, a in schema.attributes.items() if name not in given]
                    node.attribute.extend(a for a in defaults if a.type)
                if schema.has_function or schema.has_context_dependent_function:
                    wanted.add(key)
                    count += 1
    if count * LARGEST_FUNCTION > MOST_NODES:
        return model
    try:
        return onnx.inliner.inline_selected_functions(model, sorted(wanted), False, True) if wanted else model
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return model


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def inferred_outputs(source: Source) -> dict[str, tuple[tuple[int | str | None, ...] | None, np.dtype | None]]:
    """(shape, element type) of each output of a model as onnx infers them, without names that the inference makes up; None
    for what it cannot tell."""
    model = parse(source)
    infos = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    names = {d.dim_param for info in infos for d in info.type.tensor_type.shape.dim}
    with suppress(Exception):  # whatever onnx makes of the model, its own declarations stay
        model = onnx.shape_inference.infer_shapes(model)
    found: dict[str, Any] = {}
    for info in model.graph.output:
        kind = info.type.tensor_type
        shape = dims_of(info.name, kind) if kind.HasField("shape") else None
        if shape is not None:
            shape = tuple(d if isinstance(d, int) or d in names else None for d in shape)
        try:
            found[info.name] = shape, dtype_of(kind.elem_type)
        except ModelError:
            found[info.name] = shape, None
    return found


def first_line(error: BaseException) -> str:
    """The first telling line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
