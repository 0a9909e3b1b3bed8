"""What sorts."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, RANKED, Op
from nbconv.lowering.context import Lowering
from nbconv.ops.gather import GatherElementsGrad

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class TopK(Op):
    """The k greatest elements along ``axis`` (the least with ``largest=0``) in their order, and their places, int64.

    Of equal elements the one that stands first comes first. NaN counts as greatest, as in NumPy and PyTorch. ``sorted=0``
    leaves the order open: it is the same here.
    """

    processor_dtypes, kernel_layout = RANKED, CHANNELS_FIRST

    axis: int = -1
    largest: int = 1
    sorted: int = 1

    def infer(self, x: Spec, k: Spec) -> tuple[Spec, Spec]:
        want.kind("fiu", x=x)
        axis = want.axis(self.axis, x.rank)
        want.scalar(k, "k")
        (count,) = want.integers(k, "k")
        if not 0 <= count <= x.shape[axis]:
            raise ModelError(f"k is {count}, axis {axis} of x {x} has {x.shape[axis]}")
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        return Spec(shape, x.dtype), Spec(shape, want.INT64)

    def reference(self, x: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axis, count = self.axis % x.ndim, int(k.reshape(()))
        if self.largest:  # from the back, so that a stable sort leaves the first of equals at the end
            order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
        else:
            order = np.argsort(x, axis, kind="stable")
        places = order[tuple(slice(count if a == axis else None) for a in range(x.ndim))].astype(np.int64)
        return np.take_along_axis(x, places, axis), places

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and outputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        x, axis = to.inputs[0], want.axis(self.axis, to.inputs[0].rank)
        (k,) = want.integers(to.inputs[1], "k")
        outer, n, inner = prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :])
        values, places = (bool(name) for name in (*to.node.outputs, "")[:2])
        to.step(
            f"rank.top_k_{x.dtype.name}",
            outer * inner,
            work=8 * x.size,
            writes=("values", "places"),
            x=to.input(0),
            values=to.output(0) if values else to.scratch(x.dtype, outer * k * inner),
            places=to.output(int(values)) if places else to.scratch(want.INT64, outer * k * inner),
            n=n,
            k=k,
            inner=inner,
            largest=int(bool(self.largest)),
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x, dy = to.inputs[0], to.dy(0)
        if dy is None:
            return None, None
        return to.add(GatherElementsGrad(axis=want.axis(self.axis, x.rank), shape=x.shape), dy, to.y(1)), None
