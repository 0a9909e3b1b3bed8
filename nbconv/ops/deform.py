"""DeformConv: a convolution whose taps are moved by offsets, read between cells and weighed by a mask."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.kernels import params
from nbconv.kernels.sampling_params import Offsets
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv.indirect_gemm import taps_steps, weights
from nbconv.lowering.conv.operands import Image
from nbconv.lowering.conv.problem import geometry
from nbconv.lowering.repack import channels_last
from nbconv.lowering.window import Window, flat, resolve, sliding
from nbconv.ops.conv import channel_sum
from nbconv.ops.linear import MatMul, reshape, turned
from nbconv.ops.sample import FAR
from nbconv.ops.shape import Transpose

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Corner(NamedTuple):
    """One of the cells around each sample of a tap: arrays (n, offset groups, pixels)."""

    cell: np.ndarray
    """its number in the plane"""
    inside: np.ndarray
    weight: np.ndarray
    slopes: list[np.ndarray]
    """of the weight by the offset along each axis"""


class Deformed(Op, abstract=True):
    """What DeformConv and its gradients share: the attributes, and what a tap reads."""

    image: ClassVar[int] = 0
    offset: ClassVar[int]
    mask: ClassVar[int]
    """where x, offset and mask are among the inputs"""
    kernel_dtypes = ONLY_FLOAT32

    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    group: int = 1
    offset_group: int = 1
    kernel_shape: tuple[int, ...] | None = None

    def window(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
        """The geometry over an x of this spatial size, without offsets."""
        return resolve(size, kernel, self.strides, self.dilations, self.pads)

    def has_kernel(self, inputs, outputs) -> bool:
        sized = all(s is None or s.size > 0 for s in (*inputs, *outputs))
        return super().has_kernel(inputs, outputs) and inputs[self.image].rank == 4 and sized

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_LAST if self.has_kernel(inputs, outputs) else NUMPY

    def step(self, to: Lowering, kernel: str, rows: int, units: int, **more: Any) -> None:
        """One step of a kernel of `kernels/cpu/deform.py`; columns are of so many ``rows``."""
        x, masked = to.inputs[self.image], to.has(self.mask)
        window = self.window(x.shape[2:], self.kernel_shape or to.inputs[1].shape[2:])
        (h, w), (oh, ow) = x.shape[2:], window.out
        ld = x.shape[1] if x.constant else to.ld(self.image)
        to.step(
            f"deform.{kernel}",
            units,
            work=20 * x.shape[0] * oh * ow * rows,
            offset=to.input(self.offset),
            mask=to.input(self.mask if masked else self.offset),
            image=params.Image(h, w, ld, x.shape[1], rows, oh, ow),
            window=sliding(*flat(window)),
            offsets=Offsets(self.group, self.offset_group, int(masked)),
            **more,
        )

    def corners(self, size: tuple[int, ...], offset: np.ndarray) -> Iterator[tuple[int, Corner]]:
        """Each tap with each corner of the cell that its samples lie in; NaN lies far from x."""
        window, rank = self.window(size, self.kernel_shape or ()), len(size)
        taps, pixels = prod(window.kernel), prod(window.out)
        moved = offset.reshape(len(offset), self.offset_group, taps, rank, pixels)
        for t, tap in enumerate(np.ndindex(*window.kernel)):
            starts = np.meshgrid(
                *(
                    np.arange(out) * s - begin + k * d
                    for out, s, begin, k, d in zip(window.out, window.strides, window.begin, tap, window.dilations)
                ),
                indexing="ij",
            )
            places = [start.reshape(-1) + moved[:, :, t, a] for a, start in enumerate(starts)]
            places = [np.clip(np.where(np.isnan(p), -FAR, p), -FAR, FAR) for p in places]
            low = [np.floor(p) for p in places]
            for which in product((0, 1), repeat=rank):
                along = [(p - f if up else 1 - (p - f)) for p, f, up in zip(places, low, which, strict=True)]
                cells = [f.astype(np.int64) + up for f, up in zip(low, which, strict=True)]
                inside = np.all([(c >= 0) & (c < d) for c, d in zip(cells, size, strict=True)], axis=0)
                number = np.zeros_like(cells[0])
                for c, d in zip(cells, size, strict=True):
                    number = number * d + np.clip(c, 0, d - 1)
                slopes = [
                    np.prod([w for b, w in enumerate(along) if b != a], axis=0) * (1 if which[a] else -1)
                    for a in range(rank)
                ]
                yield t, Corner(number, inside, np.prod(along, axis=0), slopes)

    def read(self, x: np.ndarray, corner: Corner) -> np.ndarray:
        """What a corner reads of x: (n, offset groups, channels, pixels), 0 outside."""
        planes = x.reshape(len(x), self.offset_group, -1, prod(x.shape[2:]))
        seen = np.take_along_axis(planes, corner.cell[:, :, None], axis=3)
        return np.where(corner.inside[:, :, None], seen, 0)

    def columns(self, x: np.ndarray, offset: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """(n, offset groups, channels, taps, pixels), weighed by the mask."""
        taps, out = prod(self.kernel_shape or ()), self.window(x.shape[2:], self.kernel_shape or ()).out
        y = np.zeros((len(x), self.offset_group, x.shape[1] // self.offset_group, taps, prod(out)), x.dtype)
        with np.errstate(all="ignore"):
            for t, corner in self.corners(x.shape[2:], offset):
                y[..., t, :] += self.read(x, corner) * corner.weight[:, :, None].astype(x.dtype)
            if mask is not None:
                y *= mask.reshape(len(x), self.offset_group, 1, taps, prod(out))
        return y


class DeformConv(Deformed):
    """x (n, ci, *size), w (co, ci/group, *kernel), offset (n, offset_group · taps · axes, *out), b (co), mask (n,
    offset_group · taps, *out) → y (n, co, *out): each tap of each pixel reads x linearly between cells, its offset away from
    where Conv does, and 0 outside of x."""

    batch_inputs = (0, 2, 4)
    is_layer = True
    parameters = (1, 3)
    offset, mask = 2, 4

    def infer(self, x: Spec, w: Spec, offset: Spec, b: Spec | None = None, mask: Spec | None = None) -> Spec:
        dtype = want.one_type("f", x=x, w=w, offset=offset, b=b, mask=mask)
        want.rank(x, 3)
        want.rank(w, x.rank, x.rank, "w")
        if self.kernel_shape is not None and self.kernel_shape != w.shape[2:]:
            raise ModelError(f"kernel_shape {list(self.kernel_shape)} is not that of w {list(w.shape)}")
        if min(self.group, self.offset_group) < 1 or x.shape[1] % self.offset_group or w.shape[0] % self.group:
            raise ModelError(f"x {x} and w {w} do not fit {self.group} groups and {self.offset_group} of offsets")
        if x.shape[1] != w.shape[1] * self.group:
            raise ModelError(f"x has {x.shape[1]} channels, w wants {w.shape[1] * self.group}")
        want.vector(w.shape[0], f"with {w.shape[0]} output channels it", b=b)
        out, samples = self.window(x.shape[2:], w.shape[2:]).out, self.offset_group * prod(w.shape[2:])
        for name, spec, count in (("offset", offset, samples * (x.rank - 2)), ("mask", mask, samples)):
            if spec is not None and spec.shape != (x.shape[0], count, *out):
                raise ModelError(f"{name} is {spec}, wanted {[x.shape[0], count, *out]}")
        return want.make((x.shape[0], w.shape[0], *out), dtype)

    def shared(self, kernel: tuple[int, ...]) -> dict[str, Any]:
        """The attributes, of a kernel of this shape."""
        return {**{name: getattr(self, name) for name in Deformed.fields}, "kernel_shape": kernel}

    def reference(self, x, w, offset, b=None, mask=None) -> np.ndarray:
        samples = DeformColumns(**self.shared(w.shape[2:])).columns(x, offset, mask)
        samples = samples.reshape(len(x), self.group, -1, samples.shape[-1])
        with np.errstate(all="ignore"):
            y = w.reshape(self.group, w.shape[0] // self.group, -1) @ samples
            y = y.reshape(len(x), w.shape[0], *self.window(x.shape[2:], w.shape[2:]).out)
            return y if b is None else y + b.reshape(-1, *[1] * (x.ndim - 2))

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size * prod(inputs[1].shape[1:])

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and not inputs[0].constant

    def layouts(self, inputs, outputs, given) -> Any:
        if not self.has_kernel(inputs, outputs):
            return None
        return (CHANNELS_LAST, *[CHANNELS_FIRST] * (len(inputs) - 1)), (CHANNELS_LAST,)

    def absorbs(self, inputs, outputs) -> str:
        return "residual"

    def writes_strided(self, inputs, outputs) -> bool:
        return self.has_kernel(inputs, outputs)

    def lower(self, to: Lowering) -> None:
        """A column of samples a pixel, then a product with the weights, as that of a 1×1 convolution."""
        x, w, (oh, ow) = to.inputs[0], to.inputs[1], to.outputs[0].shape[2:]
        window, c = self.window(x.shape[2:], w.shape[2:]), x.shape[1]
        k = prod(w.shape[2:]) * c
        samples = to.floats(x.shape[0] * oh * ow * k)
        self.step(to, "columns", k, x.shape[0] * oh, x=to.input(0), y=samples)
        g = geometry(x.shape, c // self.group, w.shape[0] // self.group, window, self.group)
        one = (1, 1, 1, 0)
        source = Image(samples, oh, ow, k, k // self.group)
        taps_steps(to, g, weights(to, g), (oh, ow), one, one, source=source, bias_input=3)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x, w, mask = to.inputs[0], to.inputs[1], to.x(4) if to.has(4) else ""
        fields, groups, n = self.shared(w.shape[2:]), self.group, x.shape[0]
        pixels, co, taps = prod(to.outputs[0].shape[2:]), w.shape[0] // groups, prod(w.shape[2:])
        k, dy = taps * w.shape[1], reshape(to, to.dy(), (n, groups, co, pixels))
        found: list[str | None] = [None] * 5
        if to.wants(1):
            samples = to.add(DeformColumns(**fields), to.x(0), to.x(2), mask)
            samples = reshape(to, to.add(Transpose(perm=(2, 0, 1, 3)), samples), (groups, n * pixels, k))
            slopes = reshape(to, to.add(Transpose(perm=(1, 2, 0, 3)), dy), (groups, co, n * pixels))
            dw = reshape(to, to.add(MatMul(), slopes, samples), (groups, co, taps, w.shape[1]))
            found[1] = reshape(to, turned(to, dw), w.shape)
        if to.wants(0) or to.wants(2) or (mask and to.wants(4)):
            across = turned(to, reshape(to, to.x(1), (groups, co, w.shape[1], taps)))
            slopes = reshape(to, to.add(Transpose(perm=(1, 0, 3, 2)), dy), (groups, n * pixels, co))
            slopes = to.add(MatMul(), slopes, reshape(to, across, (groups, co, k)))
            slopes = to.add(Transpose(perm=(1, 2, 0, 3)), reshape(to, slopes, (groups, n, pixels, k)))
            found[0], found[2], dmask = to.add_many(DeformColumnsGrad(**fields), 3, slopes, to.x(0), to.x(2), mask)
            found[4] = dmask if mask else None
        if to.has(3) and to.wants(3):
            found[3] = channel_sum(to, to.dy())
        return tuple(found[: len(to.inputs)])


class DeformColumns(Deformed):
    """x, offset, mask → (n, pixels, groups, taps · channels): what each tap of a DeformConv reads."""

    domain = "nbconv"
    offset, mask = 1, 2

    def infer(self, x: Spec, offset: Spec, mask: Spec | None = None) -> Spec:
        dtype = want.one_type("f", x=x, offset=offset, mask=mask)
        kernel = self.kernel_shape or ()
        rows = x.shape[1] // self.group * prod(kernel)
        return want.make((x.shape[0], prod(self.window(x.shape[2:], kernel).out), self.group, rows), dtype)

    def reference(self, x: np.ndarray, offset: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        y = self.columns(x, offset, mask)
        y = y.reshape(len(x), self.group, -1, *y.shape[-2:]).transpose(0, 4, 1, 3, 2)
        return y.reshape(*y.shape[:3], -1)

    def layouts(self, inputs, outputs, given) -> Any:
        if not self.has_kernel(inputs, outputs):
            return None
        return (CHANNELS_LAST, *[CHANNELS_FIRST] * (len(inputs) - 1)), (CHANNELS_FIRST,)

    def lower(self, to: Lowering) -> None:
        (n, _, groups, rows), oh = to.outputs[0].shape, to.inputs[1].shape[2]
        self.step(to, "columns", groups * rows, n * oh, x=channels_last(to, 0), y=to.output())


class DeformColumnsGrad(Deformed):
    """The gradient of `DeformColumns`, x, offset, mask → (dx, doffset, dmask)."""

    domain = "nbconv"
    image, offset, mask = 1, 2, 3

    def infer(self, dy: Spec, x: Spec, offset: Spec, mask: Spec | None = None) -> tuple[Spec, Spec, Spec]:
        dtype = want.one_type("f", dy=dy, x=x, offset=offset, mask=mask)
        samples = (x.shape[0], offset.shape[1] // (x.rank - 2), *offset.shape[2:])
        return Spec(x.shape, dtype), Spec(offset.shape, dtype), Spec(samples, dtype)

    def reference(self, dy, x, offset, mask=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, rank, taps = len(x), x.ndim - 2, prod(self.kernel_shape or ())
        slope = dy.reshape(n, -1, self.group, taps, x.shape[1] // self.group).transpose(0, 2, 4, 3, 1)
        slope = slope.reshape(n, self.offset_group, -1, taps, dy.shape[1])
        weigh = np.ones(1, x.dtype) if mask is None else mask.reshape(n, self.offset_group, 1, taps, -1)
        weighed = slope * weigh
        dx = np.zeros((n, self.offset_group, slope.shape[2], prod(x.shape[2:])), x.dtype)
        doffset = np.zeros((n, self.offset_group, taps, rank, dy.shape[1]), x.dtype)
        dmask = np.zeros((n, self.offset_group, taps, dy.shape[1]), x.dtype)
        lead = tuple(np.indices(dx.shape[:3])[..., None])
        for t, corner in self.corners(x.shape[2:], offset):
            seen = self.read(x, corner)
            weight = np.where(corner.inside, corner.weight, 0)[:, :, None]
            cells = np.broadcast_to(corner.cell[:, :, None], seen.shape)
            np.add.at(dx, (*lead, cells), weighed[..., t, :] * weight)
            for a in range(rank):
                doffset[:, :, t, a] += (weighed[..., t, :] * seen).sum(axis=2) * corner.slopes[a]
            dmask[:, :, t] += (slope[..., t, :] * seen).sum(axis=2) * corner.weight
        shape = (n, self.offset_group * taps, *offset.shape[2:])
        return dx.reshape(x.shape), doffset.reshape(offset.shape), dmask.reshape(shape)

    def layouts(self, inputs, outputs, given) -> Any:
        if not self.has_kernel(inputs, outputs):
            return None
        first = [CHANNELS_FIRST] * (len(inputs) - 2)
        return (CHANNELS_FIRST, CHANNELS_LAST, *first), (CHANNELS_LAST, CHANNELS_FIRST, CHANNELS_FIRST)[: len(outputs)]

    def lower(self, to: Lowering) -> None:
        (n, c, *_), (_, _, groups, rows), oh = to.inputs[1].shape, to.inputs[0].shape, to.inputs[2].shape[2]
        named = iter(range(len(to.outputs)))
        dx, doffset, dmask = (to.output(next(named)) if name else None for name in (*to.node.outputs, "", "")[:3])
        if dx:
            self.step(to, "columns_grad", groups * rows, n * -(-c // to.target.lanes), writes=("dx",), dy=to.input(0), dx=dx)
        if doffset or dmask:
            self.step(
                to,
                "offset_grad",
                groups * rows,
                n * oh,
                writes=("doffset", "dmask"),
                dy=to.input(0),
                x=channels_last(to, 1),
                doffset=doffset or to.floats(to.inputs[2].size),
                dmask=dmask or to.floats(to.inputs[2].size // 2),
            )
