"""Numba's simulator as a device: whole models in it. The process must have been started with ``NUMBA_ENABLE_CUDASIM=1``.

``python -m tests.cuda.simulated`` runs LeNet-5 on small pictures and trains it three steps, held to the CPU; with argument
``efficientnet``, EfficientNet-Lite0. A thread of the simulator is a thread of Python: LeNet-5 takes four minutes.
"""

from __future__ import annotations

import sys
import warnings
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np

import nbconv
import nbconv.runtime.cuda
from nbconv import models
from nbconv.kernels.ptx import Launch, PtxLibrary
from tests.cuda.devices import InterpreterDevice
from tests.cuda.memory import BASE
from tests.cuda.simulator import TYPES
from tests.cuda.whole import at_side, compared, lenet5, trained


class SimulatorDevice(InterpreterDevice):
    """`InterpreterDevice`, but for its launches: a kernel is its Python function, in one block that does all units."""

    def load(self, library: PtxLibrary, kernel: str, launch: Launch) -> Any:
        from nbconv.kernels.cuda._family import variants
        from nbconv.kernels.cuda._numba import kernels_of

        number = [found for _, found in library.launches(kernel)].index(launch)
        return variants(kernels_of(library.family)[kernel])[1][number][1]

    def launcher(
        self, function: Any, blocks: int, threads: int, words: np.ndarray, kinds: tuple[str, ...]
    ) -> Callable[[Any], None]:
        from nbconv.kernels.cuda._numba import WARP, simulate, width

        def launch(stream: object) -> None:
            floats = words.astype(np.uint32).view(np.float32)
            given = [
                self._pointer(int(w), TYPES[k]) if k in TYPES else f if k == "float32" else int(w)
                for k, w, f in zip(kinds, words, floats, strict=True)
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                simulate(function, 1, max(width(function), WARP), given)

        return launch

    def _pointer(self, address: int, kind: Any) -> Any:
        from nbconv.kernels.cuda._simulated import Pointer

        if address == 0:
            return None
        memory = self.machine.memory
        base = memory.addresses[bisect_right(memory.addresses, address) - 1]
        size, dtype = memory.sizes[base], np.dtype(kind)
        held = memory.bytes[base - BASE : base - BASE + size // dtype.itemsize * dtype.itemsize].view(dtype)
        return Pointer(held, (address - base) // dtype.itemsize)


def main() -> None:
    nbconv.runtime.cuda._devices["cuda:0"] = SimulatorDevice()
    if sys.argv[1:] == ["efficientnet"]:  # 32 is the least that its windows allow
        compared("EfficientNet-Lite0", at_side(nbconv.load(models.path("efficientnet_lite0")).graph, 32), 32, 1e-4)
        return
    compared("LeNet-5", lenet5(side=12), 12, 1e-5)
    trained(lenet5(side=12), 12)


if __name__ == "__main__":
    main()
