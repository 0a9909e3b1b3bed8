"""Devices and memory as onnxruntime names them; what is there is the CPU's."""

from __future__ import annotations

import enum
from typing import Any

from nbconv.compat.onnxruntime.errors import InvalidArgument
from nbconv.compat.onnxruntime.options import lacking, without_effect

_NUMBERS = {"cpu": 0, "gpu": 1, "cuda": 1, "dml": 1, "webgpu": 1, "npu": 2, "cann": 2}


def on_cpu(device_type: str) -> None:
    """InvalidArgument for a device's name other than "cpu"."""
    if device_type.lower() != "cpu":
        raise InvalidArgument(f"device {device_type!r} is not available, wanted 'cpu'")


class OrtAllocatorType(enum.IntEnum):
    INVALID = -1
    ORT_DEVICE_ALLOCATOR = 0
    ORT_ARENA_ALLOCATOR = 1


class OrtMemType(enum.IntEnum):
    CPU_INPUT = -2
    CPU_OUTPUT = -1
    DEFAULT = 0


class OrtDevice:
    """A device by numbers: ``OrtDevice(type, memory, id)``, or with a vendor's before the id. Only the CPU can be used."""

    def __init__(self, device_type: int, memory: int = 0, *rest: int) -> None:
        if len(rest) > 2:
            raise TypeError(f"OrtDevice takes at most 4 numbers, got {2 + len(rest)}")
        self._type, self._memory = int(device_type), int(memory)
        self._vendor, self._id = (0, *rest)[-2:] if rest else (0, 0)

    @staticmethod
    def make(ort_device_name: str, device_id: int, vendor_id: int = -1) -> OrtDevice:
        """A device by its name: "cpu", or one that is not there. ValueError for no name of one."""
        number = _NUMBERS.get(ort_device_name.lower())
        if number is None:
            raise ValueError(f"Unsupported device type: {ort_device_name}")
        return OrtDevice(number, 0, max(vendor_id, 0), device_id)

    def device_id(self) -> int:
        return self._id

    def device_type(self) -> int:
        return self._type

    def device_mem_type(self) -> int:
        return self._memory

    def device_vendor_id(self) -> int:
        return self._vendor

    def _get_c_device(self) -> OrtDevice:
        return self

    @staticmethod
    def cpu() -> int:
        return 0

    @staticmethod
    def cuda() -> int:
        return 1

    gpu = dml = webgpu = cuda

    @staticmethod
    def npu() -> int:
        return 2

    cann = npu

    @staticmethod
    def default_memory() -> int:
        return 0


class OrtMemoryInfo:
    """What memory is called, how it is allocated, of which device. Nothing here allocates by it."""

    def __init__(self, name: str, allocator: OrtAllocatorType, id: int, memory: OrtMemType) -> None:
        self.name, self.id = name, id
        self.allocator_type, self.mem_type = OrtAllocatorType(allocator), OrtMemType(memory)

    def __repr__(self) -> str:
        return f"OrtMemoryInfo(name={self.name!r}, id={self.id})"


class OrtArenaCfg:
    """How onnxruntime's arena grows: a dict of numbers, or the four of them. nbconv's is planned ahead."""

    def __init__(self, *numbers: Any) -> None:
        self.numbers = numbers


def create_and_register_allocator(memory_info: OrtMemoryInfo, arena: OrtArenaCfg | None) -> None:
    """Has no effect, and warns of it."""
    without_effect("create_and_register_allocator", "a run's memory is planned ahead, as one block that the model keeps")


class SparseTensor:
    """onnxruntime's sparse tensors, which nbconv lacks: NotImplemented where one is made."""

    def __init__(self, *arguments: Any) -> None:
        raise lacking("SparseTensor: sparse values")

    @classmethod
    def sparse_coo_from_numpy(cls, *arguments: Any, **options: Any) -> SparseTensor:
        raise lacking("SparseTensor: sparse values")

    sparse_csr_from_numpy = sparse_coo_from_numpy
