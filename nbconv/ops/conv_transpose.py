"""Transposed convolutions over one, two or three spatial axes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.lowering.conv import Geometry
from nbconv.lowering.conv.problem import geometry
from nbconv.lowering.patches import reach
from nbconv.lowering.window import Window, resolve
from nbconv.ops.conv import Convolution

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

    def geometry(self, x: tuple[int, ...], w: tuple[int, ...]) -> Geometry:
        return geometry(x, w[0] // self.group, w[1], self.window(x, w), self.group, transposed=True)

    def disjoint(self, inputs) -> bool:
        """Whether the kernels that x's cells add do not overlap, and tile y."""
        return self.geometry(inputs[0].shape, inputs[1].shape).disjoint

    def absorbs(self, inputs, outputs) -> str:
        if self.depthwise(inputs[1]):
            return ""
        return "activation" if self.disjoint(inputs) else "residual"

    def writes_strided(self, inputs, outputs) -> bool:
        return not self.depthwise(inputs[1]) and not self.disjoint(inputs)

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and not self.depthwise(inputs[1])

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        from nbconv.ops.conv_grad import transposed_gradient

        return transposed_gradient(self, to)
