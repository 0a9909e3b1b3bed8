"""Transposed convolutions over one, two or three spatial axes: convolutions, one for each phase of the strides."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Node, Spec
from nbconv.graph import infer as want
from nbconv.kernels.params import DenseImage, Scatter
from nbconv.lowering import repack, winograd
from nbconv.lowering.context import Lowering
from nbconv.lowering.packing import ceil
from nbconv.lowering.patches import reach
from nbconv.lowering.repack import WeightStrides, varies
from nbconv.lowering.window import STRIP, Window, flat, plane, resolve, sliding
from nbconv.ops.conv import GROUPS, Convolution

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


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
            if min(out) < 1:
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

    def apart(self, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...]) -> bool:
        """Whether the kernels that x's cells add do not overlap, and tile y. (Kernels of one cell need no such care.)"""
        axes = flat(self.window(x, w))
        fits = all(axis[0] == axis[1] and axis[2] == 1 and axis[3] == 0 for axis in axes)
        fits = fits and any(axis[0] > 1 for axis in axes)
        return fits and self.group == 1 and plane(y) == tuple(d * axis[0] for d, axis in zip(plane(x), axes, strict=True))

    def absorbs(self, inputs, outputs) -> str:
        if self.depthwise(inputs[1]):
            return ""
        return "activation" if self.apart(inputs[0].shape, inputs[1].shape, outputs[0].shape) else "residual"

    def writes_strided(self, inputs, outputs) -> bool:
        return not self.depthwise(inputs[1]) and not self.apart(inputs[0].shape, inputs[1].shape, outputs[0].shape)

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and not self.depthwise(inputs[1])

    def lower_apart(self, to: Lowering, kh: int, kw: int) -> None:
        """One product that makes all cells of every kernel, which are then put in their places."""
        x, w, y = to.inputs[0], to.inputs[1], to.outputs[0]
        n, (h, width), co = x.shape[0], plane(x.shape), y.shape[1]
        cells = to.floats(n * h * width * kh * kw * co)

        def weights() -> np.ndarray:
            return to.value(1).reshape(w.shape[0], co, kh, kw).transpose(0, 2, 3, 1)

        one, ci = (1, 1, 1, 0), w.shape[0]
        ws = WeightStrides(0, 0, 0, 0, kh * kw * co, 1, 1, 1, ci)
        if varies(to, 1):  # as (ci, kh, kw, co) first: columns are equally spaced then
            turned = to.floats(w.size)
            to.copy(to.input(1), turned, (ci, kh * kw, co), (w.size // ci, 1, kh * kw), (w.size // ci, co, 1))
            to.node = Node(to.node.op, (to.node.inputs[0], turned.name, *to.node.inputs[2:]), to.node.outputs, to.node.name)
        self.lower_taps(to, "apart", weights, ws, (h, width), 1, one, one, Scatter(h, width), wide=(cells, kh * kw * co))
        there = to.out_strides() if y.rank == 4 else (*to.out_strides()[:2], 0, to.out_strides()[2])
        (yn, yc, yh, yw), here = there, kh * kw * co
        to.copy(
            cells, to.output(), (n, h, width, kh, kw, co), (h * width * here, width * here, here, kw * co, co, 1),
            (yn, yh * kh, yw * kw, yh, yw, yc),
        )  # fmt: skip

    def lower(self, to: Lowering) -> None:
        """Output cells whose row and column leave the same remainders by the strides meet the same taps, and read x at
        stride 1: each such phase is a convolution of its own."""
        x, w, y = to.inputs[0], to.inputs[1], to.outputs[0]
        down, across = flat(self.window(x.shape, w.shape))
        kernel, (oh, ow), g = (down[0], across[0]), plane(y.shape), self.group
        if self.apart(x.shape, w.shape, y.shape):
            self.lower_apart(to, *kernel)
            return
        if self.depthwise(w):
            self.lower_depthwise(to, down, across)
            return
        if g <= GROUPS and down[:3] == across[:3] == (3, 1, 1) and x.rank == 4:
            size = winograd.choose(to, x.shape[0], oh, ow, x.shape[1] // g, y.shape[1] // g, g)
            if size:
                self.lower_winograd(to, size, 2 - down[3], 2 - across[3], turned=True)
                return

        for p in range(min(down[1], oh)):
            ky, vertical = _phase(p, down)
            for q in range(min(across[1], ow)):
                kx, horizontal = _phase(q, across)

                def weights(ky: list[int] = ky, kx: list[int] = kx) -> np.ndarray:
                    full = to.value(1).reshape(g, w.shape[0] // g, w.shape[1], *kernel)
                    some = full[:, :, :, ky][..., kx].transpose(0, 3, 4, 1, 2)
                    return some.reshape(g, len(ky) * len(kx), *full.shape[1:3])

                v, h = vertical, horizontal
                if not ky or not kx:  # no tap reaches these cells: a zero tap in the padding leaves the bias
                    v, h = (1, 1, 1, 1 << 30), (1, 1, 1, 0)
                size = -(-(oh - p) // down[1]), -(-(ow - q) // across[1])
                key = f"transposed{g}.{p}.{q}.{down[1:4]}.{across[1:4]}"
                scatter = Scatter(oh, ow, down[1], across[1], p, q)
                ws = _lying(w.shape, g, kernel, ky, kx)
                self.lower_taps(to, key, weights, ws, size, v[0] * h[0], v, h, scatter)

    def depthwise(self, w: Spec) -> bool:
        """Whether each channel has a filter of its own, and one only."""
        return self.group > 1 and w.shape[:2] == (self.group, 1)

    def lower_depthwise(self, to: Lowering, down, across) -> None:
        """One step of `depthwise_transposed` in kernels/cpu/conv_grad.py."""
        x, y, c = to.inputs[0], to.outputs[0], to.inputs[0].shape[1]
        (h, w), (oh, ow), lanes = plane(y.shape), plane(x.shape), to.target.lanes
        taps, full = down[0] * across[0], ceil(c, lanes) * lanes
        zeros = to.constant(f"#zeros{full}", lambda: np.zeros(full, np.float32))
        to.step(
            "conv_grad.depthwise_transposed", to.gpu_split(y.shape[0] * h, full // lanes * ceil(w, STRIP)),
            work=4 * self.flops(to.inputs, to.outputs), dy=to.input(0),
            w=repack.rows(to, to.input(1), taps, c, 1, taps, full),
            b=repack.rows(to, to.input(2), 1, c, 0, 1, full) if to.has(2) else zeros, y=to.output(),
            image=DenseImage(h, w, c, oh, ow), window=sliding(down, across), padded=full,
        )  # fmt: skip

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        from nbconv.ops.conv_grad import transposed_gradient

        return transposed_gradient(self, to)


def _lying(w: tuple[int, ...], g: int, kernel: tuple[int, int], ky: list[int], kx: list[int]) -> WeightStrides:
    """The taps ky × kx of a transposed convolution's weights (ci, co/group, kh, kw)."""
    taps = kernel[0] * kernel[1]
    if not ky or not kx:
        return WeightStrides(0, 0, 0, 0, 0, 0, 0, 0, 0)
    down, across = (v[1] - v[0] if len(v) > 1 else 1 for v in (ky, kx))
    base, cg = ky[0] * kernel[1] + kx[0], w[0] // g
    return WeightStrides(base, cg * w[1] * taps, down * kernel[1], across, w[1] * taps, taps, len(ky), len(kx), cg)


def _phase(p: int, axis: tuple[int, int, int, int, int]) -> tuple[list[int], tuple[int, int, int, int]]:
    """The taps of a transposed convolution that meet output cells p, p + stride, …, and the (kernel, stride, dilation,
    begin) with which they slide over x: cell p + stride·i and tap k meet x at i + (p + begin - k·dilation) / stride."""
    kernel, stride, dilation, begin, _ = axis
    taps = [k for k in range(kernel) if (p + begin - k * dilation) % stride == 0]
    if not taps:
        return taps, (1, 1, 1, 0)
    step = taps[1] - taps[0] if len(taps) > 1 else 1
    first = (p + begin - taps[0] * dilation) // stride
    return taps, (len(taps), 1, -(step * dilation // stride), -first)
