"""LSTM with weights stored as 8-bit integers, as onnxruntime's dynamic quantisation makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import FLOAT32, Op
from nbconv.ops.recurrent import LSTM

STORED = (np.dtype(np.int8), np.dtype(np.uint8))


def rounded(x: np.ndarray) -> np.ndarray:
    """x by the 8-bit integers that stand for it best: of all of it where it has three axes, else of each row; in float64.
    The scale is that of DynamicQuantizeLinear."""
    axes, x = (None if x.ndim == 3 else 1), x.astype(FLOAT32)
    low, high = (of.reduce(x, axis=axes, keepdims=True, initial=0) for of in (np.minimum, np.maximum))
    scale = np.where(high == low, np.float32(1), (high - low) / np.float32(255))
    zero = np.rint(np.clip(-low / scale, 0, 255))
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero).astype(np.float64) * scale


class DynamicQuantizeLSTM(LSTM):
    """`LSTM` of W (directions, inputs, 4 · hidden) and R (directions, hidden, 4 · hidden) as int8 or uint8, with a scale and
    a zero point a direction, or a column of it; x, and h in each step, are rounded to 8 bits before they meet them: x as a
    whole, h a sequence by itself."""

    domain = "com.microsoft"
    parameters = ()
    gradient = Op.gradient

    def infer(self, *inputs: Spec | None) -> tuple[Spec, ...]:
        if len(inputs) != 12 or any(inputs[i] is None for i in (0, 1, 2, 8, 9, 10, 11)):
            raise ModelError("X, W, R and their scales and zero points must be given")
        x, w, r, *rest = inputs[:8]
        assert x is not None and w is not None and r is not None
        turned = []
        for name, spec, scale, zero in (("W", w, *inputs[8:10]), ("R", r, *inputs[10:12])):
            assert scale is not None and zero is not None
            want.rank(spec, 3, 3, name)
            if spec.dtype not in STORED or zero.dtype != spec.dtype:
                raise ModelError(f"{name} is {spec}, its zero point {zero}: wanted both int8, or both uint8")
            for what, of in ((f"{name}_scale", scale), (f"{name}_zero_point", zero)):
                if of.shape not in ((spec.shape[0],), (spec.shape[0], spec.shape[2])):
                    raise ModelError(f"{what} is {of}, {name} is {spec}: wanted one a direction, or one a column")
            turned.append(Spec((spec.shape[0], spec.shape[2], spec.shape[1]), x.dtype))
        want.one_type("f", X=x, W_scale=inputs[8], R_scale=inputs[10])
        return super().infer(x, *turned, *rest)

    def seen(self, x: np.ndarray) -> np.ndarray:
        return rounded(x)

    def reference(self, *inputs: Any) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):
            w, r = (self.weights(inputs[1], *inputs[8:10]), self.weights(inputs[2], *inputs[10:12]))
            wide = (v if v is None or v.dtype.kind != "f" else v.astype(np.float64) for v in (inputs[0], w, r, *inputs[3:8]))
            found = self.run(tuple(wide), None)
        return tuple(y.astype(inputs[0].dtype) for y in found)

    @staticmethod
    def weights(stored: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """W or R as `LSTM` has it."""
        spread = [v.reshape(len(stored), 1, -1).astype(np.float64) for v in (zero, scale)]
        return ((stored - spread[0]) * spread[1]).swapaxes(1, 2)

    def has_kernel(self, inputs: Sequence[Any], outputs: Sequence[Spec]) -> bool:
        return False

    lower = Op.lower
