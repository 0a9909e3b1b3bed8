"""Dropout, in inference and in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.base.random import bits, stream_key
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ANY, CHANNELS_FIRST, FLOAT32, NUMPY, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Dropout(Op):
    """The identity, as in inference; the mask is all True. With ``training_mode`` x / (1 - ratio), where each element is 0
    with probability ``ratio``: others in each run, unless there is a seed."""

    fixed = (1,)
    pure = False
    moves = True
    keeps_classes = True

    seed: int | None = None

    def infer(self, x: Spec, ratio: Spec | None = None, training_mode: Spec | None = None) -> tuple[Spec, Spec]:
        want.kind("f", x=x, ratio=ratio)
        want.kind("b", training_mode=training_mode)
        want.scalar(ratio, "ratio")
        want.scalar(training_mode, "training_mode")
        if training_mode is not None:
            want.known(training_mode, "training_mode")
        return Spec(x.shape, x.dtype), Spec(x.shape, want.BOOL)

    def reference(self, x: np.ndarray, ratio: np.ndarray | None = None, training_mode: np.ndarray | None = None):
        share = 0.5 if ratio is None else float(ratio.reshape(()))
        if training_mode is None or not training_mode.any() or share == 0:
            return x, np.ones(x.shape, np.bool_)
        if not 0 <= share < 1:
            raise ModelError(f"ratio is {share}, wanted from 0 up to 1")
        seed = None if self.seed is None else self.seed % 2**32  # NumPy has no others
        kept = np.random.RandomState(seed).uniform(0, 1, x.shape) >= share
        return np.where(kept, x * x.dtype.type(1 / (1 - share)), x.dtype.type(0)), kept

    @staticmethod
    def trains(inputs) -> bool:
        """Whether elements are dropped."""
        return len(inputs) > 2 and inputs[2] is not None and bool(inputs[2].value is None or inputs[2].value.any())

    def bypass(self, inputs) -> bool:
        return not self.trains(inputs)

    def layout(self, inputs, outputs) -> str:
        return ANY if len(outputs) == 1 and not self.trains(inputs) else NUMPY

    def lower(self, to: Lowering) -> None:
        to.alias()

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        if self.trains(to.inputs):
            raise UnsupportedError("training_mode is true, where a Trainer sees to that Dropout drops")
        return (to.dy(), *[None] * (len(to.inputs) - 1))


class TrainingDropout(Op):
    """x / (1 - ratio), with each element 0 with probability ``ratio`` (Srivastava 2014, Dropout). Which are, the seed, the
    stream (a number for the node), the ``step`` and the element's place in x decide: the gradient, and whoever computes
    it again, finds the same mask. ``step`` is a scalar, int64 or float32."""

    domain = "nbconv"

    ratio: float = 0.5
    seed: int = 0
    stream: int = 0

    def infer(self, x: Spec, step: Spec) -> Spec:
        want.kind("f", x=x)
        want.kind("if", step=step)
        want.scalar(step, "step")
        if not 0 <= self.ratio < 1:
            raise ModelError(f"ratio is {self.ratio}, wanted from 0 up to 1")
        return Spec(x.shape, x.dtype)

    @property
    def threshold(self) -> int:
        """Words below it drop an element."""
        return int(self.ratio * 2**32)

    def reference(self, x: np.ndarray, step: np.ndarray) -> np.ndarray:
        word = bits(self.seed, self.stream, int(step.reshape(())), x.size).reshape(x.shape)
        return np.where(word >= np.uint64(self.threshold), x * x.dtype.type(1 / (1 - self.ratio)), x.dtype.type(0))

    def layout(self, inputs, outputs) -> str:
        fits = inputs[0].dtype in ONLY_FLOAT32 and inputs[1].dtype in (np.int64, FLOAT32)
        return CHANNELS_FIRST if fits else NUMPY

    def lower(self, to: Lowering) -> None:
        n, chunk = to.outputs[0].size, to.target.chunk
        to.step(
            "dropout.dropout",
            -(-n // chunk),
            work=64 * n,
            x=to.input(0),
            y=to.output(),
            step=to.input(1),
            float_step=to.input(1),
            real=int(to.inputs[1].dtype.kind == "f"),
            n=n,
            chunk=chunk,
            key=stream_key(self.seed, self.stream),
            threshold=self.threshold,
            scale=1 / (1 - self.ratio),
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return to.add(TrainingDropout(**self.attributes()), to.dy(), to.x(1)), None
