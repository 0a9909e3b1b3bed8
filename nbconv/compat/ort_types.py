"""What `nbconv.ort` hands out and takes: options, exceptions, values, bindings, under onnxruntime's names."""

from __future__ import annotations

import ctypes
import enum
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from nbconv.errors import ModelError, UnsupportedError

_TYPES = {
    "float32": "float", "float64": "double", "float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz", "float8_e8m0fnu": "float8e8m0",
    "float4_e2m1fn": "float4e2m1",
}  # fmt: skip


class Fail(ModelError):
    """A run, or loading, failed."""


class InvalidArgument(ModelError):
    """An argument is wrong: a name, rank, size or element type that the model does not have."""


class NoSuchFile(ModelError, FileNotFoundError):
    """The model's file does not exist."""


class InvalidProtobuf(ModelError):
    """The bytes are no ONNX model."""


class InvalidGraph(ModelError):
    """The model is ONNX, but not a valid one."""


class NotImplemented(UnsupportedError):
    """The model uses an operator, attribute or type that nbconv lacks."""


def translated(error: ModelError, kind: type[ModelError]) -> ModelError:
    """An error under onnxruntime's name: ``kind``, but NotImplemented for what nbconv lacks."""
    return (NotImplemented if isinstance(error, UnsupportedError) else kind)(str(error))


class RuntimeException(ModelError):
    """Here for ``except`` clauses: nbconv raises `Fail`."""


class NoModel(ModelError):
    """Here for ``except`` clauses: never raised."""


class EPFail(ModelError):
    """Here for ``except`` clauses: never raised."""


class EngineError(ModelError):
    """Here for ``except`` clauses: never raised."""


class _Choice(enum.Enum):
    def __int__(self) -> int:
        return self.value

    __index__ = __int__


class GraphOptimizationLevel(_Choice):
    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(_Choice):
    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class ExecutionOrder(_Choice):
    DEFAULT = 0
    PRIORITY_BASED = 1
    MEMORY_EFFICIENT = 2


class _Options:
    """Attributes that are set to values of their own type only, and string entries by key."""

    _defaults: dict[str, Any] = {}
    _entries: dict[str, str]

    def __init__(self) -> None:
        for name, value in self._defaults.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_entries", {})

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._defaults:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        kind = type(self._defaults[name])
        if kind in (int, bool):
            value = kind(operator.index(value))
        elif not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r}, wanted {kind.__name__}")
        object.__setattr__(self, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _add(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"an entry's key and value are strings, got {key!r} and {value!r}")
        self._entries[key] = value

    def _get(self, key: str) -> str:
        if key not in self._entries:
            raise RuntimeError(f"{type(self).__name__} does not have configuration with key: {key}")
        return self._entries[key]


class SessionOptions(_Options):
    """Options of an `InferenceSession`.

    With an effect: ``intra_op_num_threads`` (0: as many as affinity and the cgroup allow), ``optimized_model_filepath``
    (the model is written there as nbconv read it, before its own optimisations), ``add_free_dimension_override_by_name``.
    Accepted and without one, because nbconv always fuses, plans its memory ahead, gives the same bits in every run and
    writes no profile: all others, session config entries among them. Messages go to Python's logger "nbconv".
    """

    _defaults = {
        "enable_cpu_mem_arena": True,
        "enable_mem_pattern": True,
        "enable_mem_reuse": True,
        "enable_profiling": False,
        "execution_mode": ExecutionMode.ORT_SEQUENTIAL,
        "execution_order": ExecutionOrder.DEFAULT,
        "graph_optimization_level": GraphOptimizationLevel.ORT_ENABLE_ALL,
        "inter_op_num_threads": 0,
        "intra_op_num_threads": 0,
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "optimized_model_filepath": "",
        "profile_file_prefix": "onnxruntime_profile_",
        "use_deterministic_compute": False,
        "use_per_session_threads": True,
    }
    intra_op_num_threads: int
    optimized_model_filepath: str
    _free: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_free", {})

    def add_session_config_entry(self, key: str, value: str) -> None:
        self._add(key, value)

    def get_session_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Give the symbolic dimension ``name`` of the model's inputs a size."""
        self._free[name] = operator.index(size)

    def register_custom_ops_library(self, path: str) -> None:
        raise Fail(f"{path}: libraries of custom operators made for onnxruntime cannot be used")


class RunOptions(_Options):
    """Options of one run. ``terminate=True`` makes a run that starts fail; one that has started is not stopped. The others
    have no effect."""

    _defaults = {
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "only_execute_path_to_fetches": False,
        "terminate": False,
    }
    terminate: bool

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._get(key)


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


def _on_cpu(device_type: str) -> None:
    if device_type.lower() != "cpu":
        raise InvalidArgument(f"device {device_type!r} is not available, wanted 'cpu'")


def _at(address: int, kind: Any, shape: Sequence[int]) -> np.ndarray:
    """The caller's memory as an array."""
    dtype = element_type(kind)
    data = (ctypes.c_uint8 * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return np.frombuffer(memoryview(data).cast("B"), dtype).reshape(shape)


class OrtValue:
    """A tensor in the CPU's memory. It shares the array it was made from where that is C-contiguous."""

    def __init__(self, array: np.ndarray) -> None:
        element_type(array.dtype)
        self._array = np.require(array, requirements=["C", "A"])

    @classmethod
    def ortvalue_from_numpy(
        cls, numpy_obj: np.ndarray, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        _on_cpu(device_type)
        return cls(numpy_obj)

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """A value of zeros. ``element_type``: a NumPy type, or TensorProto.DataType's number."""
        _on_cpu(device_type)
        return cls(np.zeros(tuple(shape), _element_type(element_type)))

    def numpy(self) -> np.ndarray:
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self._array if dtype is None else self._array.astype(dtype, copy=False)
        return array.copy() if copy and array is self._array else array

    def update_inplace(self, np_arr: np.ndarray) -> None:
        """Copy an array of the same shape and type into the value."""
        if np_arr.shape != self._array.shape or np_arr.dtype != self._array.dtype:
            raise InvalidArgument(f"got {np_arr.dtype}{list(np_arr.shape)}, wanted {self._array.dtype}{self.shape()}")
        self._array[...] = np_arr

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def data_type(self) -> str:
        """Such as "tensor(float)"."""
        return type_name(self._array.dtype)

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
        return True

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return False


_element_type = element_type


class Session(Protocol):
    """What an `IOBinding` asks of an `InferenceSession`: its inputs and outputs by name."""

    _wanted: dict[str, NodeArg]
    _made: dict[str, NodeArg]


class IOBinding:
    """Inputs and outputs bound to memory, for `InferenceSession.run_with_iobinding`. A bound output is computed; where it is
    bound without memory, each run makes a new array."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._inputs: dict[str, OrtValue] = {}
        self._outputs: dict[str, OrtValue | None] = {}
        self._results: list[OrtValue] = []

    def bind_cpu_input(self, name: str, arr_on_cpu: np.ndarray) -> None:
        self._input(name, OrtValue(arr_on_cpu))

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Read an input from the caller's memory, which must stay while the binding is used."""
        _on_cpu(device_type)
        self._input(name, OrtValue(_at(buffer_ptr, element_type, shape)))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        self._input(name, ortvalue)

    def _input(self, name: str, value: OrtValue) -> None:
        if name not in self._session._wanted:
            raise InvalidArgument(f"Invalid input name: {name}")
        self._inputs[name] = value

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Compute an output, into the caller's memory where ``buffer_ptr`` gives it."""
        _on_cpu(device_type)
        if buffer_ptr is None:
            self._output(name, None)
        elif element_type is None or shape is None:
            raise InvalidArgument("element_type and shape are wanted with buffer_ptr")
        else:
            self._output(name, OrtValue(_at(buffer_ptr, element_type, shape)))

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        self._output(name, ortvalue)

    def _output(self, name: str, value: OrtValue | None) -> None:
        if name not in self._session._made:
            raise InvalidArgument(f"Invalid output name:{name}")
        self._outputs[name] = value

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, in the order they were bound."""
        return list(self._results)

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [value.numpy().copy() for value in self._results]

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._outputs.clear()
        self._results = []

    def synchronize_inputs(self) -> None:
        """Nothing is ever on its way."""

    def synchronize_outputs(self) -> None:
        """Nothing is ever on its way."""
