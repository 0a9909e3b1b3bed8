"""Models on a GPU: devices, programs bound to one, and the workspaces that run them.

A device is an object with the methods of `Device`. The NVIDIA driver is one (`driver.Driver`); tests have others, which
interpret the same PTX. Nothing here is imported before a model is loaded with ``device="cuda"``.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbconv.cuda.device import Device

_devices: dict[str, Device] = {}
_lock = threading.Lock()


def find(name: str) -> Device:
    """The GPU of this name: "cuda" (the first) or "cuda:1"; "cuda:tf32" or "cuda:1:tf32" for products of numbers rounded to
    TF32, on tensor cores. ValueError for another name, DeviceError where it is not there or has no such tensor cores."""
    found = re.fullmatch(r"cuda(?::(\d{1,4}))?(:tf32)?", name)
    if found is None:
        raise ValueError(f"device {name!r} is not available, wanted 'cpu', 'cuda', 'cuda:1' or 'cuda:tf32'")
    number, tf32 = int(found[1] or 0), found[2] or ""
    with _lock:
        key = f"cuda:{number}{tf32}"
        if key not in _devices:
            from nbconv.cuda.driver import Driver

            _devices[key] = Driver(number, tf32=bool(tf32))
        return _devices[key]
