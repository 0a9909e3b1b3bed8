"""Callbacks that write what `fit` tells where others look for it: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Any

from nbconv.train.callbacks import Callback
from nbconv.train.learner import Learner


class TensorBoard(Callback):
    """Writes the numbers of each epoch, and with ``every`` the loss and learning rate after so many steps, to an event file
    in ``folder`` that TensorBoard shows. Nothing but NumPy is needed. A resumed training goes on in a file of its own."""

    def __init__(self, folder: str | os.PathLike, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every is {every}, wanted 1 or more")
        self.folder, self.every, self._file = os.fspath(folder), every, None

    def begin(self, trainer: Learner, logs: dict[str, Any]) -> None:
        os.makedirs(self.folder, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(os.path.join(self.folder, name), "xb")  # noqa: SIM115 - until `end`
        self._write(_float64(1, time.time()) + _bytes(3, b"brain.Event:2"))

    def batch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if self.every and trainer.steps % self.every == 0:
            self._scalars(trainer.steps, {"step/loss": logs["loss"], "step/lr": trainer.lr})

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        self._scalars(logs["epoch"] + 1, {f"epoch/{n}": v for n, v in logs.items() if isinstance(v, float)})

    def end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        summary = b"".join(_bytes(1, _bytes(1, name.encode()) + _float32(2, value)) for name, value in values.items())
        self._write(_float64(1, time.time()) + _integer(2, step) + _bytes(5, summary))

    def _write(self, event: bytes) -> None:
        """A record: its length and content, each with a checksum."""
        assert self._file is not None
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked(length) + event + _masked(event))
        self._file.flush()


class MLflow(Callback):
    """Logs the numbers of each epoch to MLflow's active run. Wants the package mlflow."""

    def __init__(self) -> None:
        self._module = _need("mlflow", "MLflow")

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        numbers = {n: v for n, v in logs.items() if isinstance(v, float)}
        self._module.log_metrics(numbers, step=logs["epoch"])


class WandB(Callback):
    """Logs the numbers of each epoch to the run of Weights & Biases that `wandb.init` began. Wants the package wandb."""

    def __init__(self) -> None:
        self._module = _need("wandb", "WandB")

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        self._module.log({n: v for n, v in logs.items() if isinstance(v, float)}, step=logs["epoch"])


def _need(package: str, who: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(f"{who} wants {package}: pip install {package}") from None


# Protocol buffers, as event.proto and summary.proto have them


def _varint(n: int) -> bytes:
    found = bytearray()
    while n > 127:
        found.append(n & 127 | 128)
        n >>= 7
    return bytes([*found, n])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float64(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float32(field: int, value: float) -> bytes:
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        packed = struct.pack("<f", float("inf") if value > 0 else float("-inf"))
    return _varint(field << 3 | 5) + packed


def _table() -> list[int]:
    found = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        found.append(n)
    return found


_CRC = _table()


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
