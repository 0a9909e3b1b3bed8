"""TensorProto and TensorShapeProto as nbconv's: where the data is, which shape, which type, all of it checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from nbconv.converters.proto import read_note
from nbconv.converters.weights import Place
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import OBJECT
from nbconv.graph.dtypes import BITS, is_added, unpacked
from nbconv.graph.infer import dtype_of

T = onnx.TensorProto


def dims_of(name: str, kind: Any) -> tuple[int | str | None, ...]:
    """A declared shape: ints, names, or None for what is not told (converters write -1 and "?" for it too)."""
    dims = []
    for d in kind.shape.dim:
        if d.HasField("dim_value"):
            if d.dim_value < -1:
                raise ModelError(f"{name!r} is declared with a dimension of {d.dim_value}")
            dims.append(None if d.dim_value == -1 else d.dim_value)
        else:
            dims.append(None if d.dim_param in ("", "?") else d.dim_param)
    return tuple(dims)


def place_of(name: str, tensor: onnx.TensorProto) -> Place:
    """Where a tensor's data is, checked against its shape and type."""
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise ModelError(f"{name}: the shape {list(shape)} has a negative dimension")
    if tensor.data_type not in T.DataType.values() or tensor.data_type == 0:
        raise ModelError(f"{name}: {tensor.data_type} is no element type")
    dtype = dtype_of(tensor.data_type)
    if tensor.HasField("segment"):
        raise UnsupportedError("tensors in segments are not supported")
    place = Place(shape, dtype)
    if tensor.data_location == T.EXTERNAL:
        if dtype == OBJECT:
            raise UnsupportedError("strings in another file are not supported")
        return _external(name, tensor, place)
    note = read_note(tensor.doc_string)
    if dtype == OBJECT:
        return place._replace(array=_strings(name, tensor, place))
    field = "raw_data" if tensor.HasField("raw_data") else _typed_field(tensor.data_type)
    if note is not None:
        fits = note.field in ("raw_data", _typed_field(tensor.data_type)) and note.length == place.nbytes
        have, place = f"{note.length} bytes of {note.field}", place._replace(offset=note.offset)
    elif field == "raw_data":
        fits, have = len(tensor.raw_data) == place.nbytes, f"{len(tensor.raw_data)} bytes of raw_data"
        if fits:
            array = _raw(tensor.raw_data, dtype, math.prod(shape))
            place = place._replace(array=array.reshape(shape))
    else:
        values = getattr(tensor, field)
        count = place.nbytes if dtype.name in BITS else math.prod(shape)
        fits, have = len(values) == count, f"{len(values)} values of {field}"
        if fits:
            place = place._replace(array=_typed(values, field, dtype, math.prod(shape)).reshape(shape))
    if not fits:
        raise ModelError(f"{name}: {dtype.name}{list(shape)} wants {place.nbytes} bytes, it has {have}")
    return place


def _strings(name: str, tensor: onnx.TensorProto, place: Place) -> np.ndarray:
    """The values of a tensor of strings."""
    texts = [text.decode("utf-8", "replace") for text in tensor.string_data]
    if len(texts) != math.prod(place.shape):
        raise ModelError(f"{name}: string{list(place.shape)} wants {math.prod(place.shape)} values, it has {len(texts)}")
    array = np.empty(len(texts), OBJECT)
    array[:] = texts
    return array.reshape(place.shape)


def _external(name: str, tensor: onnx.TensorProto, place: Place) -> Place:
    entries: dict[str, Any] = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", place.nbytes))
    except ValueError:
        raise ModelError(
            f"{name}: offset {entries.get('offset')!r}, length {entries.get('length')!r} are no numbers"
        ) from None
    if not entries.get("location"):
        raise ModelError(f"{name}: its data is in another file, but which is not said")
    if length != place.nbytes:
        raise ModelError(f"{name}: {place.dtype.name}{list(place.shape)} wants {place.nbytes} bytes, length says {length}")
    return place._replace(file=entries["location"], offset=offset)


def _typed_field(number: int) -> str:
    """The field of TensorProto that holds a type's values one by one."""
    fields = {
        T.FLOAT: "float_data",
        T.DOUBLE: "double_data",
        T.INT64: "int64_data",
        T.UINT32: "uint64_data",
        T.UINT64: "uint64_data",
    }
    return fields.get(number, "int32_data")  # pyright: ignore[reportArgumentType, reportCallIssue]


def _raw(data: bytes, dtype: np.dtype, size: int) -> np.ndarray:
    if dtype.name in BITS:
        return unpacked(np.frombuffer(data, np.uint8), dtype, size)
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)


def _typed(values: Any, field: str, dtype: np.dtype, size: int) -> np.ndarray:
    if dtype == np.float16 or is_added(dtype):  # stored as its bits
        bits = np.array(values, np.int32).astype(np.uint16 if dtype.itemsize == 2 else np.uint8)
        return unpacked(bits, dtype, size) if dtype.name in BITS else bits.view(dtype)
    wide = {"int32_data": np.int32, "int64_data": np.int64, "uint64_data": np.uint64}.get(field, dtype)
    return np.array(values, wide).astype(dtype)
