"""An ONNX file's bytes as a ModelProto, which is checked as a whole; importer.py reads what is in it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnx.shape_inference
from google.protobuf.message import DecodeError

from nbconv.converters.guard import check_functions, texts
from nbconv.converters.proto import strip
from nbconv.converters.tensors import dims_of
from nbconv.converters.weights import Source
from nbconv.errors import ModelError
from nbconv.graph.infer import DTYPES


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
    return model


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
        found[info.name] = shape, DTYPES.get(kind.elem_type)
    return found


def first_line(error: BaseException) -> str:
    """The first telling line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
