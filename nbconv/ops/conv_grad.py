"""Gradients of convolutions. What flows to x is a transposed convolution (a convolution, for a transposed one); what flows
to w is a product over pixels, `ConvGradWeight`."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, NUMPY, Op
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import WEIGHT_GRADIENTS, Geometry
from nbconv.lowering.conv.problem import geometry, problem
from nbconv.lowering.conv.weight_grad import channel_sums, small_channels
from nbconv.lowering.implementation import emit
from nbconv.lowering.patches import pad, taps
from nbconv.lowering.window import Window, resolve
from nbconv.ops.conv import Conv, Convolution
from nbconv.ops.conv_transpose import ConvTranspose
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.shape import Slice

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


def window_fields(window: Window, group: int) -> dict:
    """A window as the fields of a convolution."""
    return {"strides": window.strides, "dilations": window.dilations, "pads": (*window.begin, *window.end), "group": group}


def conv_gradient(op: Conv, to: Backward) -> tuple[str | None, ...]:
    """For x, w and b of a Conv."""
    x, w, dy = to.inputs[0], to.inputs[1], to.dy()
    fields = window_fields(op.window(x.shape, w.shape), op.group)
    dx = to.add(ConvGradInput(size=x.shape[2:], **fields), dy, to.x(1)) if to.wants(0) else None
    dw = db = None
    if to.wants(1):
        grad = ConvGradWeight(kernel_shape=w.shape[2:], **fields)
        dw, db = (*to.add_many(grad, 1 + to.wants(2), to.x(0), dy), None)[:2]
    elif to.wants(2):
        db = channel_sum(to, dy)
    return (dx, dw, db)[: len(to.inputs)]


def transposed_gradient(op: ConvTranspose, to: Backward) -> tuple[str | None, ...]:
    """For x, w and b of a ConvTranspose: each cell of x met the cells of y that a window of its convolution meets."""
    x, w, dy = to.inputs[0], to.inputs[1], to.dy()
    window = op.window(x.shape, w.shape)
    end = tuple(
        max((size - 1) * s + d * (k - 1) + 1 - out - b, 0)
        for size, k, s, d, b, out in zip(
            x.shape[2:], window.kernel, window.strides, window.dilations, window.begin, window.out, strict=True
        )
    )
    back = window._replace(end=end)
    fields = window_fields(back, op.group)
    dx = dw = None
    if to.wants(0):
        dx = to.add(Conv(**fields), dy, to.x(1))
        if to.spec(dx).shape != x.shape:  # y reaches further than the kernel
            n = len(back.kernel)
            bounds = (to.constant(np.array(v, np.int64)) for v in ([0] * n, x.shape[2:], range(2, 2 + n)))
            dx = to.add(Slice(), dx, *bounds)
    if to.wants(1):
        dw = to.add(ConvGradWeight(kernel_shape=w.shape[2:], **fields), dy, to.x(0))
    return (dx, dw, channel_sum(to, dy) if to.wants(2) else None)[: len(to.inputs)]


def channel_sum(to: Backward, dy: str) -> str:
    """dy summed over all but its channels."""
    axes = [i for i in range(to.spec(dy).rank) if i != 1]
    return to.add(ReduceSum(keepdims=0), dy, to.constant(np.array(axes, np.int64)))


class ConvGradInput(ConvTranspose):
    """dy (n, co, *out), w (co, ci/group, *kernel) → dx (n, ci, *size): the transpose of the convolution whose fields these
    are, over an x of that size."""

    is_layer = False
    domain = "nbconv"

    size: tuple[int, ...]

    def window(self, x: tuple[int, ...], w: tuple[int, ...]) -> Window:
        n = len(self.size)
        pads = self.pads or (0,) * (2 * n)
        ones = (1,) * n
        return Window(w[2:], self.strides or ones, self.dilations or ones, pads[:n], pads[n:], self.size)

    gradient = Op.gradient


class ConvGradWeight(Convolution):
    """x (n, ci, *size), dy (n, co, *out) → dw (co, ci/group, *kernel) = Σ over pixels of dy times what its window saw of x,
    and db (co) = Σ dy. Windows of x beyond those that dy has count for nothing."""

    batch_sums = (0, 1)
    domain = "nbconv"
    parameters = ()

    kernel_shape: tuple[int, ...]  # pyright: ignore[reportIncompatibleVariableOverride]

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
        return want.make((dy.shape[1], x.shape[1] // self.group, *self.kernel_shape), dtype), Spec((dy.shape[1],), dtype)

    def reference(self, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        window, g = self.window(x.shape, dy.shape), self.group
        n, ci, co, cells = x.shape[0], x.shape[1] // g, dy.shape[1] // g, prod(dy.shape[2:])
        dw = np.zeros((g, co, ci, *self.kernel_shape), x.dtype)
        slopes = dy.reshape(n, g, co, cells)
        with np.errstate(all="ignore"):
            for tap, seen in taps(pad(x, window), window):
                dw[(..., *tap)] = np.matmul(slopes, seen.reshape(n, g, ci, cells).swapaxes(2, 3)).sum(axis=0)
            return dw.reshape(g * co, ci, *self.kernel_shape), dy.sum(axis=(0, *range(2, dy.ndim)))

    def layout(self, inputs, outputs) -> str:
        served = inputs[0].rank < 5 and inputs[0].dtype == np.float32 and inputs[0].size and inputs[1].size
        return CHANNELS_LAST if served else NUMPY

    def flops(self, inputs, outputs) -> int:
        return 2 * inputs[1].size * prod(outputs[0].shape[1:])

    def absorbs(self, inputs, outputs) -> str:
        return ""

    def writes_strided(self, inputs, outputs) -> bool:
        return False

    def reads_strided(self, inputs, outputs, i) -> bool:
        return False

    def geometry(self, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
        """``w``: dy's shape."""
        return geometry(x, x[1] // self.group, w[1] // self.group, self.window(x, w), self.group)

    def layouts(self, inputs, outputs, last) -> Any:
        if not last or self.layout(inputs, outputs) == NUMPY:
            return None
        small = small_channels(self.geometry(inputs[0].shape, inputs[1].shape))
        return (last[0] if small else True, True), (False,) * len(outputs)

    def lower(self, to: Lowering) -> None:
        if len(to.outputs) > 1:
            channel_sums(to)
        emit(to, WEIGHT_GRADIENTS, problem(to, self.geometry(to.inputs[0].shape, to.inputs[1].shape)))
