"""What tells a TFLite file, and what stands for an operator of one that is refused."""

from __future__ import annotations

IDENTIFIER = b"TFL3"

REFUSED = "nbconv.tflite"
"""Domain of a node in place of an operator that is refused; its attribute ``problem`` says why."""


def is_tflite(data: memoryview) -> bool:
    """Whether a file's bytes begin as a TFLite model's do: where its root is, then the identifier. (In an ONNX file a name
    may stand there, behind what would be an offset beyond its end.)"""
    return bytes(data[4:8]) == IDENTIFIER and int.from_bytes(data[:4], "little") < len(data)
