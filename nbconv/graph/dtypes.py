"""Element types that NumPy lacks: bfloat16, float8 and those of few bits, from the ml_dtypes package, which is imported only
when a model has one."""

from __future__ import annotations

import importlib
from functools import cache

import numpy as np

from nbconv.errors import UnsupportedError

ADDED = {
    16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz",
    21: "uint4", 22: "int4", 23: "float4_e2m1fn", 24: "float8_e8m0fnu", 25: "uint2", 26: "int2",
}  # fmt: skip
"""Their names by ONNX's TensorProto.DataType numbers."""

BITS = {"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2}
"""Bits of an element in a file, where several share a byte (the first one in its lowest bits); an array has one a byte."""

SINCE = {"bfloat16": 22, "float4_e2m1fn": 23, "float8_e8m0fnu": 24, "uint2": 25, "int2": 25}
"""The opsets from which on operators (for bfloat16: all) take these; the others are older than our inner one."""

FLOAT16 = np.dtype(np.float16)


@cache
def added(name: str) -> np.dtype:
    """The type of this name; UnsupportedError where the ml_dtypes package is not there, or lacks it."""
    try:
        return np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
    except (ImportError, AttributeError):
        raise UnsupportedError(f"element type {name} needs a newer ml_dtypes package") from None


def is_added(dtype: np.dtype) -> bool:
    """Whether it is none of NumPy's own."""
    return dtype.isbuiltin == 2


def is_half(dtype: np.dtype) -> bool:
    """Whether it is float16 or bfloat16: arithmetic on it is float32's, and what comes out is rounded."""
    return dtype == FLOAT16 or (dtype.isbuiltin == 2 and dtype.name == "bfloat16")


def kind_of(dtype: np.dtype) -> str:
    """NumPy's letter for what a type's values are; bfloat16 is an "f", and "n" (narrow) what is stored and not computed
    with."""
    if dtype.isbuiltin != 2:
        return dtype.kind
    return "f" if dtype.name == "bfloat16" else "n"


def text_of(dtype: np.dtype) -> str:
    """The type as text, for files and keys; `from_text` reads it."""
    return dtype.name if dtype.isbuiltin == 2 else dtype.str


def from_text(text: str) -> np.dtype:
    """`text_of` undone; TypeError for what is no type."""
    return added(text) if text in ADDED.values() else np.dtype(text)


def packed_size(dtype: np.dtype, size: int) -> int:
    """Bytes of so many elements in a file."""
    return -(-size * BITS.get(dtype.name, 8) // 8) if is_added(dtype) and dtype.itemsize == 1 else size * dtype.itemsize


def unpacked(data: np.ndarray, dtype: np.dtype, size: int) -> np.ndarray:
    """So many elements of a type of `BITS`, from a file's bytes."""
    bits = BITS[dtype.name]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (data[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)[:size].view(dtype)


def packed(array: np.ndarray) -> bytes:
    """An array's bytes as a file has them."""
    bits = BITS.get(array.dtype.name) if is_added(array.dtype) else None
    if bits is None:
        return array.tobytes()
    fields = np.zeros(packed_size(array.dtype, array.size) * 8 // bits, np.uint8)
    fields[: array.size] = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & np.uint8((1 << bits) - 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(fields.reshape(-1, 8 // bits) << shifts, axis=1).astype(np.uint8).tobytes()
