"""Convolutions over one, two or three spatial axes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, NUMPY, Op
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import CONVOLUTIONS, Geometry
from nbconv.lowering.conv.problem import geometry, problem
from nbconv.lowering.implementation import emit
from nbconv.lowering.patches import pad, taps
from nbconv.lowering.window import Window, resolve

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Convolution(Op, abstract=True):
    """What Conv and ConvTranspose share: the attributes, and checks on x, w and b."""

    parameters = (1, 2)

    kernel_shape: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    group: int = 1
    auto_pad: str = "NOTSET"

    def layout(self, inputs, outputs) -> str:
        weights = all(spec is None or spec.constant for spec in inputs[1:3])
        served = inputs[0].rank < 5 and (weights or not inputs[0].constant)  # constants do not lie channels last
        return CHANNELS_LAST if served and inputs[0].dtype == np.float32 else NUMPY

    def layouts(self, inputs, outputs, last) -> Any:
        """Weights that are no constants are read as ONNX has them."""
        if not last or self.layout(inputs, outputs) == NUMPY or inputs[1].constant:
            return None
        return (True, *[False] * (len(inputs) - 1)), (True,)

    def absorbs(self, inputs, outputs) -> str:
        return "residual"

    def writes_strided(self, inputs, outputs) -> bool:
        return True

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0

    def geometry(self, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
        """What implementations are told of a call with an x and a w of these shapes."""
        raise NotImplementedError(self.type)

    def lower(self, to: Lowering) -> None:
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


class Conv(Convolution):
    """x (n, ci, *size), w (co, ci/group, *kernel), b (co) → y (n, co, *out)."""

    batch_inputs = (0,)
    is_layer = True

    def window(self, x: tuple[int, ...], w: tuple[int, ...]) -> Window:
        """The geometry for inputs of these shapes."""
        return resolve(x[2:], w[2:], self.strides, self.dilations, self.pads, self.auto_pad)

    def infer(self, x: Spec, w: Spec, b: Spec | None = None) -> Spec:
        dtype = self.check(x, w, b, w.shape[0] if w.shape else 0)
        ci, co = w.shape[1] * self.group, w.shape[0]
        if x.shape[1] != ci:
            raise ModelError(f"x has {x.shape[1]} channels, w wants {ci}" + (f" ({self.group} groups)" * (self.group > 1)))
        if co % self.group:
            raise ModelError(f"w has {co} output channels, not a multiple of {self.group} groups")
        return want.make((x.shape[0], co, *self.window(x.shape, w.shape).out), dtype)

    def reference(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
        window, g = self.window(x.shape, w.shape), self.group
        n, co, ci = x.shape[0], w.shape[0] // g, w.shape[1]
        y = np.zeros((n, g, co, prod(window.out)), x.dtype)
        kernel = w.reshape(g, co, *w.shape[1:])
        with np.errstate(all="ignore"):
            for tap, seen in taps(pad(x, window), window):
                y += kernel[(..., *tap)] @ seen.reshape(n, g, ci, prod(window.out))
            if b is not None:
                y += b.reshape(g, co, 1)
        return y.reshape(n, g * co, *window.out)

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * prod(inputs[1].shape[1:])

    def geometry(self, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
        return geometry(x, w[1], w[0] // self.group, self.window(x, w), self.group)

    def writes_strided(self, inputs, outputs) -> bool:
        return not self.depthwise(inputs[1])

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and not self.depthwise(inputs[1])

    def absorbs(self, inputs, outputs) -> str:
        return "activation" if self.depthwise(inputs[1]) else "residual"

    def layouts(self, inputs, outputs, last):
        """An image of few channels is padded first, and turned with that."""
        x, w = inputs[:2]
        if not last or self.layout(inputs, outputs) == NUMPY or not self.geometry(x.shape, w.shape).small_channels:
            return super().layouts(inputs, outputs, last)
        return (last[0], *[w.constant] * (len(inputs) - 1)), (True,)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        from nbconv.ops.conv_grad import conv_gradient

        return conv_gradient(self, to)
