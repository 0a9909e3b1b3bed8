"""Facts about this machine that reports state."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbconv.model import Model


def cpu_name() -> str:
    """The processor's name and how many there are."""
    name = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Model", "Processor"):
                    name = value.strip()
                    break
    except OSError:
        name = platform.processor()
    return f"{name or platform.machine()}, {os.cpu_count()} logical processors"


def gpu_name(model: Model) -> str | None:
    """The GPU that a model runs on, by number and make: "cuda:0 (NVIDIA A100)". None on the CPU."""
    device = model._device
    return None if device is None else f"{device.name} ({device.model})"


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each distribution, without importing it; None where it is not installed."""
    from importlib import metadata

    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
