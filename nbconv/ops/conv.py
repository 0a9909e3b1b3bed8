"""Convolutions over one, two or three spatial axes, and transposed ones. What flows to x is a transposed convolution (a
convolution, for a transposed one); what flows to w is a product over pixels, `ConvGradWeight`."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import Op
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import Geometry
from nbconv.lowering.conv.depthwise import TURNED as INPUT_GRADIENT
from nbconv.lowering.conv.depthwise_volume import lower_depthwise, lower_depthwise_transposed
from nbconv.lowering.conv.problem import geometry, problem
from nbconv.lowering.conv.volume import is_padded, lower_volume
from nbconv.lowering.conv.volume_transposed import lower_volume_transposed
from nbconv.lowering.implementation import emit
from nbconv.lowering.patches import pad, reach, taps
from nbconv.lowering.window import Window, resolve
from nbconv.ops.conv_weight_grad import ConvGradWeight
from nbconv.ops.convolution import Convolution
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.shape import Slice

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


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
        return inputs[0].rank < 5 and not self.per_channel(inputs[1])

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and inputs[0].rank < 5 and not self.depthwise(inputs[1])

    def absorbs(self, inputs, outputs) -> str:
        alone = self.depthwise(inputs[1]) if inputs[0].rank == 5 else self.per_channel(inputs[1])
        return "activation" if alone else "residual"

    def per_channel(self, w: Spec) -> bool:
        """Whether each channel has filters of its own, one or several."""
        return self.group > 1 and w.shape[1] == 1

    def layouts(self, inputs, outputs, given):
        """An image of few channels is read as it lies, or turned while it is padded; so is a volume with padding."""
        found = super().layouts(inputs, outputs, given)
        if found is None:
            return found
        x, w = inputs[0].shape, inputs[1].shape
        copied = is_padded(self.window(x, w)) if len(x) == 5 else self.geometry(x, w).small_channels
        return ((given[0], *found[0][1:]), found[1]) if copied else found

    def lower(self, to: Lowering) -> None:
        if to.inputs[0].rank < 5:
            super().lower(to)
            return
        window = self.window(to.inputs[0].shape, to.inputs[1].shape)
        if self.depthwise(to.inputs[1]):
            lower_depthwise(to, window)
        else:
            lower_volume(to, window, self.group)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return conv_gradient(self, to)


def conv_gradient(op: Conv, to: Backward) -> tuple[str | None, ...]:
    """For x, w and b of a Conv."""
    x, w, dy = to.inputs[0], to.inputs[1], to.dy()
    fields = window_fields(op.window(x.shape, w.shape), op.group)
    dx = to.add(ConvGradInput(size=x.shape[2:], **fields), dy, to.x(1)) if to.wants(0) else None
    dw = db = None
    if to.wants(1):
        channels = to.rows(1) if op.group == 1 and w.rank < 5 else ()
        grad = ConvGradWeight(kernel_shape=w.shape[2:], channels=channels, **fields)
        dw, *rest = to.add_many(grad, 1 + (to.wants(2) and not channels), to.x(0), dy)
        db = rest[0] if rest else channel_sum(to, dy) if to.wants(2) else None
    elif to.wants(2):
        db = channel_sum(to, dy)
    return (dx, dw, db)[: len(to.inputs)]


def window_fields(window: Window, group: int) -> dict:
    """A window as the fields of a convolution."""
    return {"strides": window.strides, "dilations": window.dilations, "pads": (*window.begin, *window.end), "group": group}


def channel_sum(to: Backward, dy: str) -> str:
    """dy summed over all but its channels."""
    axes = [i for i in range(to.spec(dy).rank) if i != 1]
    return to.add(ReduceSum(keepdims=0), dy, to.constant(np.array(axes, np.int64)))


class ConvTranspose(Convolution):
    """x (n, ci, *size), w (ci, co/group, *kernel), b (co) → y (n, co, *out): every x cell adds its multiple of the kernel
    at steps of ``strides``; ``pads`` are cropped from the result."""

    batch_inputs = (0,)
    is_layer = True

    output_shape: tuple[int, ...] | None = None
    output_padding: tuple[int, ...] | None = None

    def window(self, x: tuple[int, ...], w: tuple[int, ...]) -> Window:
        """The geometry for inputs of these shapes; ``begin`` and ``end`` are what is cropped (negative never: a larger
        ``output_shape`` than the kernel reaches is filled with b at the end), ``out`` the output's size."""
        n = len(x) - 2
        strides, dilations = self.strides or (1,) * n, self.dilations or (1,) * n
        pads, extra = self.pads or (0,) * (2 * n), self.output_padding or (0,) * n
        # Only the attributes' lengths and signs matter here: the window slides over a size that always fits.
        resolve((1 << 40,) * n, w[2:], strides, dilations, pads, self.auto_pad)
        if len(extra) != n or min(extra) < 0:
            raise ModelError(f"output_padding {list(extra)} wants {n} entries, none negative")
        natural = tuple(
            (size - 1) * s + d * (k - 1) + 1 + e
            for size, k, s, d, e in zip(x[2:], w[2:], strides, dilations, extra, strict=True)
        )
        same = self.auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if self.output_shape is not None:
            out = self.output_shape[-n:]
            if len(self.output_shape) not in (n, n + 2) or min(out) < 1:
                raise ModelError(f"output_shape {list(self.output_shape)} wants {n} entries, all positive")
        elif same:
            out = tuple(size * s for size, s in zip(x[2:], strides, strict=True))
        else:
            pads = (0,) * (2 * n) if self.auto_pad == "VALID" else pads
            out = tuple(a - b - e for a, b, e in zip(natural, pads[:n], pads[n:], strict=True))
            if any(size < 1 for size in out):
                raise ModelError(f"pads {list(pads)} leave nothing of an output of size {list(natural)}")
            return Window(w[2:], tuple(strides), tuple(dilations), pads[:n], pads[n:], out)
        total = tuple(max(a - o, 0) for a, o in zip(natural, out, strict=True))
        half, rest = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begin, end = (half, rest) if self.auto_pad == "SAME_UPPER" else (rest, half)
        return Window(w[2:], tuple(strides), tuple(dilations), begin, end, out)

    def infer(self, x: Spec, w: Spec, b: Spec | None = None) -> Spec:
        co = w.shape[1] * self.group if w.rank > 1 else 0
        dtype = self.check(x, w, b, co)
        if x.shape[1] != w.shape[0]:
            raise ModelError(f"x has {x.shape[1]} channels, w wants {w.shape[0]}")
        if x.shape[1] % self.group:
            raise ModelError(f"x has {x.shape[1]} channels, not a multiple of {self.group} groups")
        if 0 in x.shape[2:]:
            raise ModelError(f"x is {x}: a spatial axis is empty")
        return want.make((x.shape[0], co, *self.window(x.shape, w.shape).out), dtype)

    def reference(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
        window, g = self.window(x.shape, w.shape), self.group
        n, ci, co, size = x.shape[0], x.shape[1] // g, w.shape[1], x.shape[2:]
        # The whole canvas: what the kernel reaches, and what is cropped or filled up to `out`.
        span = tuple(
            max((i - 1) * s + d * (k - 1) + 1, b + o)
            for i, k, s, d, b, o in zip(size, window.kernel, window.strides, window.dilations, window.begin, window.out)
        )
        y = np.zeros((n, g * co, *span), x.dtype)
        kernel = w.reshape(g, ci, *w.shape[1:]).swapaxes(1, 2)
        columns = x.reshape(n, g, ci, prod(size))
        spread = window._replace(out=size)
        with np.errstate(all="ignore"):
            for tap in np.ndindex(*window.kernel):
                part = kernel[(..., *tap)] @ columns
                y[(slice(None), slice(None), *reach(tap, spread))] += part.reshape(n, g * co, *size)
            y = y[(slice(None), slice(None), *(slice(b, b + o) for b, o in zip(window.begin, window.out, strict=True)))]
            return y + (0 if b is None else b.reshape(-1, *[1] * len(size)))

    def flops(self, inputs, outputs) -> int:
        return 2 * inputs[0].size * prod(inputs[1].shape[1:])

    def geometry(self, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
        return geometry(x, w[0] // self.group, w[1], self.window(x, w), self.group, transposed=True)

    def disjoint(self, inputs) -> bool:
        """Whether the kernels that x's cells add do not overlap, and tile y."""
        return inputs[0].rank < 5 and self.geometry(inputs[0].shape, inputs[1].shape).disjoint

    def absorbs(self, inputs, outputs) -> str:
        if self.depthwise(inputs[1]):
            return "activation" if inputs[0].rank == 5 else ""
        return "activation" if self.disjoint(inputs) else "residual"

    def writes_strided(self, inputs, outputs) -> bool:
        return inputs[0].rank < 5 and not self.depthwise(inputs[1]) and not self.disjoint(inputs)

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and inputs[0].rank < 5 and not self.depthwise(inputs[1])

    def lower(self, to: Lowering) -> None:
        if to.inputs[0].rank < 5:
            super().lower(to)
            return
        window = self.window(to.inputs[0].shape, to.inputs[1].shape)
        if self.depthwise(to.inputs[1]):
            lower_depthwise_transposed(to, window)
        else:
            lower_volume_transposed(to, window, self.group)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return transposed_gradient(self, to)


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

    def lower(self, to: Lowering) -> None:
        if to.inputs[0].rank < 5 and self.depthwise(to.inputs[1]):
            found = problem(to, self.geometry(to.inputs[0].shape, to.inputs[1].shape))
            if INPUT_GRADIENT.fits(found):
                emit(to, (INPUT_GRADIENT,), found)
                return
        super().lower(to)

    gradient = Op.gradient
