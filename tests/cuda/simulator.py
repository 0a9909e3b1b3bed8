"""Launches in Numba's simulator: Python functions on arrays. The process must have been started with
``NUMBA_ENABLE_CUDASIM=1``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tests.cuda.recordings import Recording, differs, numbers

TYPES = {"float32*": np.float32, "int64*": np.int64, "uint8*": np.uint8}


def replay(recording: Recording) -> str:
    """Do a launch in the simulator, in one block that does all units: what differs from what was recorded."""
    from nbconv.kernels.cuda._family import variants
    from nbconv.kernels.cuda._numba import WARP, kernels_of, simulate, width
    from nbconv.kernels.cuda._simulated import Pointer

    function = kernels_of(recording.family)[recording.kernel]
    function = variants(function)[1][recording.variant][1]
    buffers = [held.copy() for held in recording.before]
    kinds = iter(k for k, v in zip(recording.kinds, recording.arguments, strict=True) if isinstance(v, tuple))

    def pointer(buffer: int, offset: int) -> Any:
        kind = np.dtype(TYPES[next(kinds)])
        held = buffers[buffer]
        begin = offset % kind.itemsize
        whole = held[begin : begin + (held.nbytes - begin) // kind.itemsize * kind.itemsize].view(kind)
        return Pointer(whole, offset // kind.itemsize)

    given = numbers(recording, pointer)
    for i, (value, kind) in enumerate(zip(recording.arguments, recording.kinds, strict=True)):
        if kind in TYPES and value == 0:
            given[i] = None
        elif kind == "float32":
            given[i] = np.float32(given[i])
    threads = width(function) if width(function) > WARP else WARP
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        simulate(function, 1, threads, given)
    return differs(recording, buffers)
