"""What convolutions, transposed ones and their gradients share."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import CONVOLUTIONS, Geometry
from nbconv.lowering.conv.problem import problem
from nbconv.lowering.implementation import emit


class Convolution(Op, abstract=True):
    """What Conv and ConvTranspose share: the attributes, and checks on x, w and b."""

    parameters = (1, 2)
    keeps_sign = False
    """Whether sums of numbers that are not negative must not be: `nbconv.passes.signs` says so of some."""

    kernel_shape: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    group: int = 1
    auto_pad: str = "NOTSET"

    def layout(self, inputs, outputs) -> str:
        weights = all(spec is None or spec.constant for spec in inputs[1:3])
        served = weights or not inputs[0].constant  # constants do not lie channels last
        if inputs[0].rank == 5:
            served = not inputs[0].constant and inputs[0].size and inputs[1].size and outputs[0].size
        return CHANNELS_LAST if served and inputs[0].dtype in ONLY_FLOAT32 else NUMPY

    def on_processors(self, inputs, outputs) -> bool:
        return inputs[0].rank == 5

    def layouts(self, inputs, outputs, given) -> Any:
        """Weights that are no constants are read as ONNX has them."""
        if self.layout(inputs, outputs) == NUMPY:
            return None
        return (CHANNELS_LAST, *[CHANNELS_FIRST] * (len(inputs) - 1)), (CHANNELS_LAST,)

    def absorbs(self, inputs, outputs) -> str:
        return "residual"

    def geometry(self, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
        """What implementations are told of a call with an x and a w of these shapes."""
        raise NotImplementedError(self.type)

    def lower(self, to: Lowering) -> None:
        if self.keeps_sign:
            to.packed_limit = 0.0  # no algorithm with transformed weights
        emit(to, CONVOLUTIONS, problem(to, self.geometry(to.inputs[0].shape, to.inputs[1].shape)))

    def depthwise(self, w: Spec) -> bool:
        """Whether each channel has a filter of its own, and one only."""
        return self.group > 1 and w.shape[:2] == (self.group, 1)

    def check(self, x: Spec, w: Spec, b: Spec | None, co: int) -> np.dtype:
        """The element type of a well-formed call with ``co`` output channels; ModelError or UnsupportedError else."""
        dtype = want.one_type("f", x=x, w=w, b=b)
        want.rank(x, 3, 5)
        want.rank(w, x.rank, x.rank, "w")
        if self.kernel_shape is not None and self.kernel_shape != w.shape[2:]:
            raise ModelError(f"kernel_shape {list(self.kernel_shape)} is not that of w {list(w.shape)}")
        if self.group < 1:
            raise ModelError(f"group is {self.group}, must be positive")
        want.vector(co, f"with {co} output channels it", b=b)
        return dtype
