"""Sums and products along an axis as they grow, and sequences turned round."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering
from nbconv.ops.recurrent_cells import check_lengths, reversed_within

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class _Cumulative(Op, abstract=True):
    """y[i] of x[0] … x[i] along ``axis``; ``exclusive``: without x[i]; ``reverse``: from the end."""

    exclusive: int = 0
    reverse: int = 0

    def infer(self, x: Spec, axis: Spec) -> Spec:
        want.kind("fiu", x=x)
        want.scalar(axis, "axis")
        self.along(x, axis)
        return Spec(x.shape, x.dtype)

    def along(self, x: Spec, axis: Spec) -> int:
        """The axis, counted from the front."""
        (found,) = want.integers(axis, "axis")
        return want.axis(found, x.rank)

    def scanned(self, x: np.ndarray, axis: np.ndarray, of: np.ufunc) -> np.ndarray:
        along, none = int(axis.reshape(())), x.dtype.type(of.identity)
        x = np.flip(x, along) if self.reverse else x
        if self.exclusive:
            edge = np.full_like(np.take(x, [0] * min(1, x.shape[along]), along), none)
            x = np.concatenate([edge, np.take(x, range(x.shape[along] - 1), along)], along)
        with np.errstate(all="ignore"):
            y = of.accumulate(x, along, dtype=x.dtype)
        return np.ascontiguousarray(np.flip(y, along) if self.reverse else y)


class CumSum(_Cumulative):
    """Sums of what is before each element along ``axis``, itself among it unless ``exclusive``; ``reverse``: behind it."""

    processor_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    def reference(self, x: np.ndarray, axis: np.ndarray) -> np.ndarray:
        return self.scanned(x, axis, np.add)

    def lower(self, to: Lowering) -> None:
        shape = to.inputs[0].shape
        axis = self.along(*to.inputs)
        to.columns_step(
            "scan.cumulative_sum",
            prod(shape[:axis]),
            shape[axis],
            prod(shape[axis + 1 :]),
            exclusive=int(bool(self.exclusive)),
            backwards=int(bool(self.reverse)),
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return to.add(CumSum(exclusive=self.exclusive, reverse=int(not self.reverse)), to.dy(), to.x(1)), None


class CumProd(_Cumulative):
    """Products of what is before each element along ``axis``, itself among it unless ``exclusive``; ``reverse``: behind."""

    def reference(self, x: np.ndarray, axis: np.ndarray) -> np.ndarray:
        return self.scanned(x, axis, np.multiply)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return to.add(CumProdGrad(exclusive=self.exclusive, reverse=self.reverse), to.dy(), to.x(0), to.x(1)), None


class CumProdGrad(Op):
    """Σ_j dy[j] · the product of y[j] without x[i], for each i."""

    domain = "nbconv"

    exclusive: int = 0
    reverse: int = 0

    def infer(self, dy: Spec, x: Spec, axis: Spec) -> Spec:
        return CumProd().infer(x, axis)

    def reference(self, dy: np.ndarray, x: np.ndarray, axis: np.ndarray) -> np.ndarray:
        along = int(axis.reshape(()))
        turn = -1 if self.reverse else 1
        x, dy = (np.moveaxis(v, along, -1)[..., ::turn] for v in (x, dy))
        n = x.shape[-1]
        dx = np.zeros_like(x)
        with np.errstate(all="ignore"):
            before = np.concatenate([np.ones_like(x[..., :1]), np.multiply.accumulate(x[..., :-1], -1)], -1)[..., :n]
            for i in range(n):  # no division: x may be 0
                behind = np.concatenate([np.ones_like(x[..., :1]), np.multiply.accumulate(x[..., i + 1 :], -1)], -1)
                slopes = dy[..., i + 1 :] if self.exclusive else dy[..., i:]
                dx[..., i] = before[..., i] * (slopes * behind[..., : slopes.shape[-1]]).sum(-1)
        return np.ascontiguousarray(np.moveaxis(dx[..., ::turn], -1, along))


class ReverseSequence(Op):
    """The first ``sequence_lens`` (batch) entries of each sequence along ``time_axis`` in reverse; one of the two axes is 0,
    the other 1."""

    moves = True
    keeps_quantisation = True

    batch_axis: int = 1
    time_axis: int = 0

    def infer(self, x: Spec, sequence_lens: Spec) -> Spec:
        want.kind("fiub", x=x)
        want.rank(x, 2)
        want.kind("i", sequence_lens=sequence_lens)
        if {self.batch_axis, self.time_axis} != {0, 1}:
            raise ModelError(f"batch_axis is {self.batch_axis}, time_axis {self.time_axis}: wanted 0 and 1")
        want.vector(x.shape[self.batch_axis], f"x {x}", sequence_lens=sequence_lens)
        if sequence_lens.value is not None:
            self.places(x.shape, sequence_lens.value)
        return Spec(x.shape, x.dtype)

    def places(self, shape: tuple[int, ...], lengths: np.ndarray) -> np.ndarray:
        """(time, batch): where each entry comes from."""
        steps = shape[self.time_axis]
        check_lengths(lengths, steps, "x")
        return reversed_within(steps, lengths)

    def reference(self, x: np.ndarray, sequence_lens: np.ndarray) -> np.ndarray:
        places = self.places(x.shape, sequence_lens)
        batch = np.arange(x.shape[self.batch_axis])
        return x[places, batch] if self.time_axis == 0 else np.ascontiguousarray(x[batch[:, None], places.T])

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        op = ReverseSequence(batch_axis=self.batch_axis, time_axis=self.time_axis)
        return to.add(op, to.dy(), to.x(1)), None
