"""One call of a kernel, on arrays, outside of any plan."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from nbconv.kernels.compile import libraries
from nbconv.kernels.params import flat

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def call(kernel: str, units: int, **arguments: Any) -> None:
    """``family.kernel`` on this thread, all of its units. Arguments by the kernel's names: integers, floats, C-contiguous
    arrays of the types that it takes, NamedTuples of parameters. KernelError where it cannot be had."""
    family, name = kernel.split(".")
    library = libraries([family])[family]
    given, words = flat(arguments), np.zeros(64, np.int64)
    for i, (argument, kind) in enumerate(library.arguments(name)):
        value = given[argument]
        if isinstance(value, np.ndarray):
            words[i] = value.ctypes.data
        elif kind == "float32":
            words[i] = int(np.array(value, np.float32).view(np.uint32))
        else:
            words[i] = value
    _ENTRY(library.address(name))(words.ctypes.data, 0, units, 0)
