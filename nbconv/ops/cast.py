"""Changes of type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, NUMPY, Op
from nbconv.lowering.context import Lowering

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


CASTS = {
    (np.dtype(np.bool_), np.dtype(np.float32)): "from_bytes",
    (np.dtype(np.uint8), np.dtype(np.float32)): "from_bytes",
    (np.dtype(np.int64), np.dtype(np.float32)): "from_ints",
    (np.dtype(np.float32), np.dtype(np.bool_)): "to_booleans",
}
"""The kernels of `kernels/cpu/logic.py`, by the types from and to which they change."""


class Cast(Op):
    """Floats become integers toward zero (out of range: as the machine does), anything but 0 becomes True. ``saturate``
    only concerns 8-bit floats."""

    moves = True
    converts = True
    keeps_classes = True

    to: int
    saturate: int = 1

    def infer(self, x: Spec) -> Spec:
        want.kind("fiub", x=x)
        return Spec(x.shape, want.dtype_of(self.to))

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(x).astype(want.dtype_of(self.to))

    def bypass(self, inputs) -> bool:
        return inputs[0].dtype == want.dtype_of(self.to)

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_FIRST if (inputs[0].dtype, outputs[0].dtype) in CASTS else NUMPY

    def lower(self, to: Lowering) -> None:
        to.unary(f"logic.{CASTS[to.inputs[0].dtype, to.outputs[0].dtype]}")

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(CastLike(), to.dy(), to.x()) if to.inputs[0].dtype.kind == "f" else None,)


class CastLike(Op):
    """``x`` in the type of ``like``, as `Cast`."""

    moves = True

    saturate: int = 1

    def infer(self, x: Spec, like: Spec) -> Spec:
        want.kind("fiub", x=x, like=like)
        return Spec(x.shape, like.dtype)

    def reference(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(x).astype(like.dtype)

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_FIRST if (inputs[0].dtype, outputs[0].dtype) in CASTS else NUMPY

    def lower(self, to: Lowering) -> None:
        to.unary(f"logic.{CASTS[to.inputs[0].dtype, to.outputs[0].dtype]}")

    def bypass(self, inputs) -> bool:
        return inputs[0].dtype == inputs[1].dtype

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return to.add(CastLike(), to.dy(), to.x()) if to.inputs[0].dtype.kind == "f" else None, None
