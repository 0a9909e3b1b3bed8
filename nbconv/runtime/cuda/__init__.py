"""Models on a GPU: devices, programs bound to one, and the workspaces that run them.

A device is an object with the methods of `Device`. The NVIDIA driver is one (`driver.Driver`); tests have others, which
interpret the same PTX. Nothing here is imported before a model is loaded with ``device="cuda"``.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbconv.runtime.cuda.device import Device

_devices: dict[str, Device] = {}
_lock = threading.Lock()


def parse(name: str) -> tuple[int, bool]:
    """(number, whether tensor cores multiply numbers rounded to TF32) of a GPU's name: "cuda" (the first), "cuda:1",
    "cuda:tf32" or "cuda:1:tf32". ValueError for another name."""
    found = re.fullmatch(r"cuda(?::(\d{1,4}))?(:tf32)?", name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"device {name!r} is not available, wanted 'cpu', 'cuda', 'cuda:1' or 'cuda:tf32'")
    return int(found[1] or 0), bool(found[2])


def find(name: str) -> Device:
    """The GPU of a name that `parse` reads. DeviceError where it is not there or has no such tensor cores."""
    number, tf32 = parse(name)
    with _lock:
        key = f"cuda:{number}{':tf32' * tf32}"
        if key not in _devices:
            from nbconv.runtime.cuda.driver import Driver

            _devices[key] = Driver(number, tf32=tf32)
        return _devices[key]
