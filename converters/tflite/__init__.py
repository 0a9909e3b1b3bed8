"""TFLite models as ONNX: `is_tflite`, `convert`.

A file's first subgraph becomes nodes of ONNX, which nbconv's importer reads: so that every command takes a ``.tflite`` file,
and what is saved is ONNX. Inputs and outputs keep TFLite's shapes, (N, H, W, C) for images, and its element types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbconv.converters.weights import Source

if TYPE_CHECKING:
    import onnx

IDENTIFIER = b"TFL3"

REFUSED = "nbconv.tflite"
"""Domain of a node that stands for an operator that is refused; its attribute ``problem`` says why."""


def is_tflite(data: memoryview) -> bool:
    """Whether a file's bytes begin as a TFLite model's do (an ONNX file's never: protobuf has no such field)."""
    return bytes(data[4:8]) == IDENTIFIER


def convert(source: Source) -> onnx.ModelProto:
    """The model as ONNX; nodes of the domain `REFUSED` stand for what is not supported. ModelError where it is
    damaged, ImportError without the tflite package."""
    from nbconv.converters.tflite.model import convert

    return convert(source)
