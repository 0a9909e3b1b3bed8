"""What losses of detectors choose, and what they hold constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering
from nbconv.ops.shape import Relabel

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class HardNegatives(Op):
    """1 for the anchors whose loss counts, else 0 (Liu et al., 2016, "Hard negative mining").

    ``loss`` and ``labels`` (batch, anchors). All with a label above 0 count, and of those with the label 0 the ones with the
    greatest loss: ``ratio`` for each of the former in the picture, ``least`` at least; of equal ones the first, NaN last.
    """

    domain = "nbconv"
    processor_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    ratio: int = 3
    least: int = 0

    def infer(self, loss: Spec, labels: Spec) -> Spec:
        want.kind("f", loss=loss)
        want.kind("i", labels=labels)
        want.rank(loss, 2, 2, "loss")
        if labels.shape != loss.shape:
            raise ModelError(f"labels are {labels}, the loss is {loss}: wanted one shape")
        if self.ratio < 0 or self.least < 0:
            raise ModelError(f"ratio is {self.ratio}, least {self.least}: wanted 0 or more")
        return Spec(loss.shape, loss.dtype)

    def reference(self, loss: np.ndarray, labels: np.ndarray) -> np.ndarray:
        negative = labels == 0
        wanted = np.maximum(self.ratio * (labels > 0).sum(axis=1), self.least)
        keys = np.where(negative, np.where(np.isnan(loss), -np.inf, loss), -np.inf)
        order = np.lexsort((np.isnan(loss), -keys, ~negative))
        place = np.argsort(order, axis=1, kind="stable")
        return ((labels > 0) | (negative & (place < wanted[:, None]))).astype(loss.dtype)

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and inputs[1].dtype == want.INT64

    def lower(self, to: Lowering) -> None:
        batch, n = to.inputs[0].shape
        to.step(
            "select.hardest",
            batch,
            work=64 * batch * n,
            loss=to.input(0),
            labels=to.input(1),
            y=to.output(),
            n=n,
            ratio=self.ratio,
            least=self.least,
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return None, None


class Held(Relabel):
    """The identity, whose gradient is 0."""

    domain = "nbconv"

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (None,)
