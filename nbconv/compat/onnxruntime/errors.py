"""onnxruntime's exceptions: here they are ModelErrors, and so ValueErrors, too."""

from __future__ import annotations

from typing import ClassVar

from nbconv.errors import ModelError, UnsupportedError


class Status(ModelError):
    """An error with onnxruntime's number and name, which its text begins with."""

    status: ClassVar[tuple[int, str]] = (1, "FAIL")

    def __str__(self) -> str:
        number, name = self.status
        return f"[ONNXRuntimeError] : {number} : {name} : {super().__str__()}"


class Fail(Status):
    """A run, or loading, failed."""


class InvalidArgument(Status):
    """An argument is wrong: a name, rank, size or element type that the model does not have."""

    status = (2, "INVALID_ARGUMENT")


class NoSuchFile(Status, FileNotFoundError):
    """The model's file does not exist."""

    status = (3, "NO_SUCHFILE")


class NoModel(Status):
    """Here for ``except`` clauses: never raised."""

    status = (4, "NO_MODEL")


class EngineError(Status):
    """Here for ``except`` clauses: never raised."""

    status = (5, "ENGINE_ERROR")


class RuntimeException(Status):
    """Kernels cannot be had: they do not compile, or nothing can compile them."""

    status = (6, "RUNTIME_EXCEPTION")


class InvalidProtobuf(Status):
    """The bytes are no ONNX model."""

    status = (7, "INVALID_PROTOBUF")


class ModelLoaded(Status):
    """Here for ``except`` clauses: never raised."""

    status = (8, "MODEL_LOADED")


class NotImplemented(Status, UnsupportedError):
    """The model uses an operator, attribute or type that nbconv lacks, or the program a part of onnxruntime."""

    status = (9, "NOT_IMPLEMENTED")


class InvalidGraph(Status):
    """The model is ONNX, but not a valid one."""

    status = (10, "INVALID_GRAPH")


class EPFail(Status):
    """Here for ``except`` clauses: never raised."""

    status = (11, "EP_FAIL")


def translated(error: ModelError, kind: type[Status]) -> Status:
    """An error under onnxruntime's name: ``kind``, but NotImplemented for what nbconv lacks."""
    return (NotImplemented if isinstance(error, UnsupportedError) else kind)(str(error))
