"""An ONNX file's bytes as a ModelProto, which is checked as a whole; importer.py reads what is in it."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.checker
import onnx.defs
import onnx.inliner
from google.protobuf.message import DecodeError

from nbconv.converters.guard import check_functions, graphs, texts
from nbconv.converters.proto import strip
from nbconv.converters.weights import Source
from nbconv.errors import ModelError

PREVIEW = ("ai.onnx.preview",)
"""Domains whose operators are written out as the functions that they are."""


def parse(source: Source) -> onnx.ModelProto:
    """The model without its large tensors, functions inlined; ModelError when it is none."""
    try:
        model = onnx.ModelProto.FromString(strip(source.data))
    except (ModelError, DecodeError, RecursionError) as error:
        raise ModelError(f"{source.label} is not an ONNX model: {first_line(error)}") from None
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
    nodes = (node for graph in graphs(model.graph) for node in graph.node if node.domain in PREVIEW)
    written_out = {(node.domain, node.op_type) for node in nodes if _body(node)}
    if not written_out:
        return model
    return onnx.inliner.inline_selected_functions(model, [*written_out], inline_schema_functions=True)


def _body(node: onnx.NodeProto) -> bool:
    """Whether onnx says of which operators a node is made."""
    if not onnx.defs.has(node.op_type, node.domain):
        return False
    schema: Any = onnx.defs.get_schema(node.op_type, node.domain)
    return schema.has_function or schema.has_context_dependent_function


def first_line(error: BaseException) -> str:
    """The first telling line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
