"""The gradient by a convolution's weights."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, NUMPY, ONLY_FLOAT32
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import WEIGHT_GRADIENTS, Geometry
from nbconv.lowering.conv.problem import geometry, problem
from nbconv.lowering.conv.volume_weight_grad import lower_volume_weight_grad
from nbconv.lowering.conv.weight_grad import channel_sums, small_channels
from nbconv.lowering.implementation import emit
from nbconv.lowering.patches import pad, taps
from nbconv.lowering.repack import pick_channels
from nbconv.lowering.window import Window, resolve
from nbconv.ops.convolution import Convolution


class ConvGradWeight(Convolution):
    """x (n, ci, *size), dy (n, co, *out) → dw (co, ci/group, *kernel) = Σ over pixels of dy times what its window saw of x,
    and db (co) = Σ dy. Windows of x beyond those that dy has count for nothing. ``channels``: of one group, the channels of
    dy that count, in rising order, as if it had no others; none means all."""

    batch_sums = (0, 1)
    domain = "nbconv"
    parameters = ()

    kernel_shape: tuple[int, ...]  # pyright: ignore[reportIncompatibleVariableOverride]
    channels: tuple[int, ...] = ()

    def window(self, x: tuple[int, ...], dy: tuple[int, ...]) -> Window:
        """The geometry, of as many outputs as dy has."""
        found = resolve(x[2:], self.kernel_shape, self.strides, self.dilations, self.pads, self.auto_pad)
        return found._replace(out=tuple(dy[2:]))

    def infer(self, x: Spec, dy: Spec) -> tuple[Spec, Spec]:
        dtype = want.one_type("f", x=x, dy=dy)
        want.rank(x, 3, 5)
        window = resolve(x.shape[2:], self.kernel_shape, self.strides, self.dilations, self.pads, self.auto_pad)
        fits = dy.rank == x.rank and dy.shape[0] == x.shape[0] and all(a <= b for a, b in zip(dy.shape[2:], window.out))
        if not fits or x.shape[1] % self.group or dy.shape[1] % self.group:
            raise ModelError(
                f"dy is {dy}, of x {x} its windows are {[x.shape[0], '…', *window.out]} in {self.group} group(s)"
            )
        co = dy.shape[1]
        if self.channels:
            if self.group > 1 or x.rank > 4:
                raise ModelError("channels are chosen of convolutions of one group over images alone")
            co = want.rising(self.channels, co, "channels")
        return want.make((co, x.shape[1] // self.group, *self.kernel_shape), dtype), Spec((co,), dtype)

    def reference(self, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        window, g = self.window(x.shape, dy.shape), self.group
        dy = dy[:, list(self.channels)] if self.channels else dy
        n, ci, co, cells = x.shape[0], x.shape[1] // g, dy.shape[1] // g, prod(dy.shape[2:])
        dw = np.zeros((g, co, ci, *self.kernel_shape), x.dtype)
        slopes = dy.reshape(n, g, co, cells)
        with np.errstate(all="ignore"):
            for tap, seen in taps(pad(x, window), window):
                dw[(..., *tap)] = np.matmul(slopes, seen.reshape(n, g, ci, cells).swapaxes(2, 3)).sum(axis=0)
            return dw.reshape(g * co, ci, *self.kernel_shape), dy.sum(axis=(0, *range(2, dy.ndim)))

    def layout(self, inputs, outputs) -> str:
        served = inputs[0].dtype in ONLY_FLOAT32 and inputs[0].size and inputs[1].size
        return CHANNELS_LAST if served else NUMPY

    def flops(self, inputs, outputs) -> int:
        of = len(self.channels) / inputs[1].shape[1] if self.channels else 1
        return int(2 * inputs[1].size * of) * prod(outputs[0].shape[1:])

    def on_processors(self, inputs, outputs) -> bool:
        return super().on_processors(inputs, outputs) or bool(self.channels)

    def absorbs(self, inputs, outputs) -> str:
        return ""

    def writes_strided(self, inputs, outputs) -> bool:
        return False

    def reads_strided(self, inputs, outputs, i) -> bool:
        return False

    def geometry(self, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
        """``w``: dy's shape."""
        return geometry(x, x[1] // self.group, w[1] // self.group, self.window(x, w), self.group)

    def layouts(self, inputs, outputs, given) -> Any:
        if self.layout(inputs, outputs) == NUMPY:
            return None
        small = inputs[0].rank < 5 and small_channels(self.geometry(inputs[0].shape, inputs[1].shape))
        return (given[0] if small else CHANNELS_LAST, CHANNELS_LAST), (CHANNELS_FIRST,) * len(outputs)

    def lower(self, to: Lowering) -> None:
        if to.inputs[0].rank == 5:
            lower_volume_weight_grad(to, self.window(to.inputs[0].shape, to.inputs[1].shape), self.group)
            return
        if self.channels:
            pick_channels(to, 1, self.channels)
        if len(to.outputs) > 1:
            channel_sums(to)
        emit(to, WEIGHT_GRADIENTS, problem(to, self.geometry(to.inputs[0].shape, to.inputs[1].shape)))
