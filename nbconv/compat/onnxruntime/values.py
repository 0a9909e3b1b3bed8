"""What a session takes and gives: values, where they lie, what a model says of itself."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nbconv.compat.onnxruntime.devices import on_cpu
from nbconv.compat.onnxruntime.errors import InvalidArgument, RuntimeException
from nbconv.compat.onnxruntime.options import lacking
from nbconv.errors import ModelError

_TYPES = {
    "float32": "float", "float64": "double", "object": "string", "float8_e4m3fn": "float8e4m3fn",
    "float8_e4m3fnuz": "float8e4m3fnuz", "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz",
    "float8_e8m0fnu": "float8e8m0", "float4_e2m1fn": "float4e2m1",
}  # fmt: skip


class NodeArg(NamedTuple):
    """An input or output: ``type`` such as "tensor(float)"; a dimension is an int, a name or None (unknown)."""

    name: str
    type: str
    shape: list[int | str | None]

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape!r})"


class ModelMetadata(NamedTuple):
    """What a model's file says of itself; "" (``version``: 2⁶³ - 1) where it does not say."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str]


def type_name(dtype: np.dtype) -> str:
    """onnxruntime's name of an element type: "tensor(float)" for float32."""
    return f"tensor({_TYPES.get(dtype.name, dtype.name)})"


def element_type(kind: Any) -> np.dtype:
    """The NumPy type of an element type given as one, or as TensorProto.DataType's number."""
    from nbconv.graph.infer import dtype_of, number_of

    try:
        return dtype_of(kind if isinstance(kind, int) else number_of(np.dtype(kind)))
    except ModelError:
        raise InvalidArgument(f"element type {kind!r} is not supported") from None


def at(address: int, kind: Any, shape: Sequence[int]) -> np.ndarray:
    """The caller's memory as an array."""
    dtype = element_type(kind)
    data = (ctypes.c_uint8 * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return np.frombuffer(memoryview(data).cast("B"), dtype).reshape(shape)


class OrtValue:
    """A tensor in the CPU's memory, or a list of tensors (a sequence). It shares the array it was made from where that is
    C-contiguous."""

    def __init__(self, value: np.ndarray | list[np.ndarray]) -> None:
        self._items: list[np.ndarray] | None = None
        if isinstance(value, list):
            self._items = [OrtValue(item)._array for item in value]
            self._array = np.empty(0, self._items[0].dtype if self._items else np.float32)
        else:
            element_type(value.dtype)
            self._array = np.require(value, requirements=["C", "A"])

    @classmethod
    def ortvalue_from_numpy(
        cls, numpy_obj: np.ndarray, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        on_cpu(device_type)
        return cls(numpy_obj)

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """A value of zeros. ``element_type``: a NumPy type, or TensorProto.DataType's number."""
        on_cpu(device_type)
        return cls(np.zeros(tuple(shape), _element_type(element_type)))

    def numpy(self) -> np.ndarray:
        """The tensor; RuntimeException where the value is a sequence."""
        if self._items is not None:
            raise RuntimeException("the value is a sequence, not a tensor")
        return self._array

    def _fed(self) -> Any:
        """What a run takes and gives."""
        return self._array if self._items is None else self._items

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)
        return array.copy() if copy and array is self._array else array

    def update_inplace(self, np_arr: np.ndarray | OrtValue) -> None:
        """Copy an array (or a value) of the same shape and type into the value."""
        np_arr = np_arr.numpy() if isinstance(np_arr, OrtValue) else np_arr
        if np_arr.shape != self._array.shape or np_arr.dtype != self._array.dtype:
            raise InvalidArgument(f"got {np_arr.dtype}{list(np_arr.shape)}, wanted {self._array.dtype}{self.shape()}")
        self._array[...] = np_arr

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def data_type(self) -> str:
        """Such as "tensor(float)"."""
        name = type_name(self._array.dtype)
        return name if self._items is None else f"seq({name})"

    def element_type(self) -> int:
        """TensorProto.DataType's number."""
        from nbconv.graph.infer import number_of

        return number_of(self._array.dtype)

    def data_ptr(self) -> int:
        return self._array.ctypes.data

    def tensor_size_in_bytes(self) -> int:
        return self._array.nbytes

    def device_name(self) -> str:
        return "cpu"

    def has_value(self) -> bool:
        return True

    def is_tensor(self) -> bool:
        return self._items is None

    def is_sparse_tensor(self) -> bool:
        return False

    def as_sparse_tensor(self) -> Any:
        raise lacking("SparseTensor: sparse values")

    @classmethod
    def ort_value_from_sparse_tensor(cls, sparse_tensor: Any) -> OrtValue:
        raise lacking("SparseTensor: sparse values")

    def _get_c_value(self) -> OrtValue:
        return self

    @classmethod
    def from_dlpack(cls, data: Any) -> OrtValue:
        """A value that shares the memory of an object with ``__dlpack__``, in the CPU's memory."""
        return cls(np.from_dlpack(data))

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.numpy().__dlpack_device__()

    def is_tensor_sequence(self) -> bool:
        return self._items is not None


_element_type = element_type
