"""Gradients of convolutions. What flows to x is a transposed convolution (a convolution, for a transposed one); what flows
to w is a product over pixels, `ConvGradWeight`."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.kernels.params import ConvImage, DenseImage, GradBlocking, Pixels, TapStrides
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.packing import ceil, padded
from nbconv.lowering.patches import pad, taps
from nbconv.lowering.repack import channels_last
from nbconv.lowering.window import Window, flat, plane, resolve, sliding
from nbconv.ops.conv import Conv, Convolution, Image
from nbconv.ops.conv_transpose import ConvTranspose
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.shape import Slice

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

PARTIAL = 8 << 20
"""Bytes of all parts of a gradient that are held before they are added."""
SIDES = 384 << 10
"""Bytes of a chunk of pixels, of both sides."""
MERGED = 8
"""Rows that a unit of `merge` in kernels/cuda/conv_grad.py adds."""
MAX_PIXELS = 512
"""Limit of kernels/cpu/conv_grad.py."""


def geometry(window: Window, group: int) -> dict:
    """A window as the fields of a convolution."""
    return {"strides": window.strides, "dilations": window.dilations, "pads": (*window.begin, *window.end), "group": group}


def conv_gradient(op: Conv, to: Backward) -> tuple[str | None, ...]:
    """For x, w and b of a Conv."""
    x, w, dy = to.inputs[0], to.inputs[1], to.dy()
    fields = geometry(op.window(x.shape, w.shape), op.group)
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
    fields = geometry(back, op.group)
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
        served = inputs[0].rank < 5 and inputs[0].dtype in ONLY_FLOAT32 and inputs[0].size and inputs[1].size
        return CHANNELS_LAST if served else NUMPY

    def flops(self, inputs, outputs) -> int:
        return 2 * inputs[1].size * prod(outputs[0].shape[1:])

    def absorbs(self, inputs, outputs) -> str:
        return ""

    def writes_strided(self, inputs, outputs) -> bool:
        return False

    def reads_strided(self, inputs, outputs, i) -> bool:
        return False

    def few(self, c: int) -> bool:
        """Whether a window's row, which lies in one piece, serves as its channels: they are few, and all taps neighbours."""
        across = 1 if self.dilations is None else self.dilations[-1]
        return self.group == 1 and c < 8 and self.kernel_shape[-1] > 1 and across == 1

    def layouts(self, inputs, outputs, given) -> Any:
        if self.layout(inputs, outputs) == NUMPY:
            return None
        image = given[0] if self.few(inputs[0].shape[1]) else CHANNELS_LAST
        return (image, CHANNELS_LAST), (CHANNELS_FIRST,) * len(outputs)

    def lower(self, to: Lowering) -> None:
        x, dy = to.inputs
        down, across = flat(self.window(x.shape, dy.shape))
        if len(to.outputs) > 1:
            self.lower_sums(to)
        if self.group > 1 and x.shape[1] == dy.shape[1] == self.group:
            self.lower_depthwise(to, down, across)
        elif self.few(x.shape[1]):
            kernel = down[0], across[0]
            image = Conv.padded_image(self, to, down, across)  # type: ignore[arg-type]
            self.lower_product(to, image, (*down[:3], 0), (1, across[1], 1, 0), kernel)
        else:
            (h, w), c = plane(x.shape), x.shape[1]
            self.lower_product(
                to, Image(channels_last(to, 0), h, w, c, c // self.group), down[:4], across[:4], (down[0], across[0])
            )

    def lower_product(self, to: Lowering, image: Image, down, across, kernel: tuple[int, int]) -> None:
        """Parts of the sum, then their sum, turned to lie as w does; of one group, some channels of dy at a time."""
        dy, g = to.inputs[1], self.group
        (oh, ow), co = plane(dy.shape), dy.shape[1]
        og, cg, m, count = co // g, image.cg, dy.shape[0] * oh * ow, down[0] * across[0]
        full = ceil(padded(og, to.target.lanes, to.columns), to.columns) * to.columns
        size = g * count * cg * full
        columns = min(full, max(to.columns, to.target.sums // (4 * count * cg) // to.columns * to.columns))
        blocks = to.gpu_split(g * ceil(og, columns), ceil(count * cg, to.target.tile().rows))
        chunk = 2 * to.target.pixels or max(64, min(MAX_PIXELS, SIDES // (4 * (cg + columns))))
        parts = max(1, min(ceil(to.target.units, blocks), PARTIAL // (4 * size), ceil(m, chunk)))
        pixels = ceil(m, parts)
        chunk = ceil(pixels, ceil(pixels, chunk))
        parts = ceil(m, pixels)
        # a row of the window holds kw·ci "channels", the taps outermost: as many taps of ci channels
        taps, ci = kernel[0] * kernel[1], to.inputs[0].shape[1] // g
        for first, last in self.pieces(to, og, columns, 4 * parts * count * cg) if g == 1 else [(0, og)]:
            n = last - first
            blocks = to.gpu_split(g * ceil(n, columns), ceil(count * cg, to.target.tile().rows))
            full = ceil(padded(n, to.target.lanes, to.columns), to.columns) * to.columns
            size = g * count * cg * full
            sums = to.floats(parts * size)
            to.step(
                "conv_grad.conv_grad_weight", parts * blocks, work=2 * m * count * cg * g * n, x=image.ref,
                dy=channels_last(to, 1).at(first), y=sums,
                zeros=to.constant(f"#zeros{cg}", lambda: np.zeros(cg, np.float32)),
                image=ConvImage(m, image.h, image.w, image.ldx, cg, oh, ow, co, n), window=sliding(down, across),
                blocking=GradBlocking(g, parts, pixels, min(columns, full), chunk, full),
            )  # fmt: skip
            strides = TapStrides(1, taps, ci * taps, og * ci * taps)
            self.merge(to, sums, parts, taps, ci, n, full, size, strides, to.output().at(first * ci * taps), g)

    @staticmethod
    def pieces(to: Lowering, n: int, columns: int, nbytes: int) -> list[tuple[int, int]]:
        """As `Lowering.pieces`, in whole blocks of columns, so that each sum is what it is in one piece."""
        found = to.pieces(n, nbytes)
        step = ceil(found[0][1], columns) * columns
        return [(i, min(n, i + step)) for i in range(0, n, step)]

    @staticmethod
    def merge(to, x: Ref, parts, taps, cg, og, full, step, strides: TapStrides, y: Ref, groups=1) -> None:
        """The step that adds parts: see `merge` in kernels/cpu/conv_grad.py."""
        to.step(
            "conv_grad.merge", to.gpu_split(groups * ceil(og, to.target.lanes), ceil(taps * cg, MERGED)),
            work=8 * parts * step, x=x, y=y, parts=parts, taps=taps, cg=cg, og=og, padded=full, step=step,
            strides=strides,
        )  # fmt: skip

    def lower_depthwise(self, to: Lowering, down, across) -> None:
        """One filter a channel."""
        x, dy, lanes = to.inputs[0], to.inputs[1], to.target.lanes
        (h, w), (oh, ow), c, n = plane(x.shape), plane(dy.shape), x.shape[1], x.shape[0]
        kh, taps, full = down[0], down[0] * across[0], ceil(c, lanes) * lanes
        rows = ceil(n * oh, min(ceil(2 * to.target.units, to.gpu_split(1, 2 * full // lanes * kh)), n * oh))
        parts = ceil(n * oh, rows)
        sums = to.floats(parts * taps * full)
        to.step(
            "conv_grad.depthwise_grad_weight", to.gpu_split(parts, full // lanes * kh), work=8 * dy.size * taps,
            x=channels_last(to, 0), dy=channels_last(to, 1), y=sums,
            n=n, image=DenseImage(h, w, c, oh, ow), window=sliding(down, across), rows=rows, padded=full,
        )  # fmt: skip
        self.merge(to, sums, parts, taps, 1, c, full, taps * full, TapStrides(1, 0, taps, 0), to.output())

    def lower_sums(self, to: Lowering) -> None:
        """db."""
        c, lanes = to.inputs[1].shape[1], to.target.lanes
        total, full = to.inputs[1].size // c, ceil(c, lanes) * lanes
        pixels = ceil(total, min(ceil(2 * to.target.units, to.gpu_split(1, 4 * full // lanes)), ceil(total, 64)))
        parts = ceil(total, pixels)
        sums = to.floats(parts * full)
        to.step(
            "conv_grad.channel_sums", to.gpu_split(parts, full // lanes), work=8 * total * c, x=channels_last(to, 1), y=sums,
            split=Pixels(pixels, total, c), padded=full,
        )  # fmt: skip
        self.merge(to, sums, parts, 1, 1, c, full, full, TapStrides(0, 0, 1, 0), to.output(1))
