"""Regions of images as images of one size: RoiAlign, MaxRoiPool."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.kernels import params
from nbconv.lowering.context import Lowering
from nbconv.lowering.repack import channels_last
from nbconv.ops.pool import EXACT

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

LARGE = 2.0**20
"""Cells: a region that begins or ends beyond them is none."""


class Along(NamedTuple):
    """A region's samples along one axis: (bins, samples) each."""

    low: np.ndarray
    high: np.ndarray
    part: np.ndarray
    """how far from ``low``"""
    inside: np.ndarray


class Regions(Op, abstract=True):
    """What RoiAlign and its gradient share: the attributes, and where the samples lie."""

    kernel_dtypes = ONLY_FLOAT32

    coordinate_transformation_mode: str = "half_pixel"
    mode: str = "avg"
    output_height: int = 1
    output_width: int = 1
    sampling_ratio: int = 0
    spatial_scale: float = 1.0

    def check(self, x: tuple[int, ...], rois: Spec, batch_indices: Spec) -> None:
        """ModelError for what does not fit."""
        want.kind("f", rois=rois)
        want.kind("i", batch_indices=batch_indices)
        if self.mode not in ("avg", "max"):
            raise ModelError(f"mode is {self.mode!r}, wanted avg or max")
        if self.coordinate_transformation_mode not in ("half_pixel", "output_half_pixel"):
            raise ModelError(
                f"coordinate_transformation_mode is {self.coordinate_transformation_mode!r}, wanted half_pixel or "
                "output_half_pixel"
            )
        if min(self.output_height, self.output_width) < 1:
            raise ModelError(f"the output is {self.output_height}×{self.output_width}")
        if len(x) != 4 or batch_indices.rank != 1 or rois.shape != (*batch_indices.shape, 4):
            raise ModelError(f"x is {list(x)}, rois {rois}, batch_indices {batch_indices}: wanted rank 4, (r, 4), (r)")
        if 0 in x[2:]:
            raise ModelError(f"x is {list(x)}: nothing to sample along an empty axis")

    @property
    def half(self) -> bool:
        """Whether cells' centres lie half a cell from their corners."""
        return self.coordinate_transformation_mode == "half_pixel"

    def along(self, begin: np.floating, end: np.floating, size: int, out: int) -> Along | None:
        """The samples along an axis of this size; None for no region."""
        kind = type(begin)
        with np.errstate(all="ignore"):
            first, last = (v * kind(self.spatial_scale) - kind(0.5 if self.half else 0) for v in (begin, end))
        if not (abs(first) < LARGE and abs(last) < LARGE):
            return None
        length = last - first if self.half else max(last - first, kind(1))
        step = length / kind(out)
        count = self.sampling_ratio if self.sampling_ratio > 0 else max(int(np.ceil(step)), 0)
        bins, samples = np.arange(out, dtype=kind)[:, None], np.arange(count, dtype=kind)
        v = first + bins * step + (samples + kind(0.5)) * step / kind(max(count, 1))
        inside = (v >= -1) & (v <= size)
        v = np.where(inside, np.maximum(v, 0), 0)
        low = np.minimum(v.astype(np.int64), size - 1)
        high = np.minimum(low + 1, size - 1)
        return Along(low, high, np.where(high > low, v - low, 0), inside)

    def regions(
        self, shape: tuple[int, ...], rois: np.ndarray, batches: np.ndarray
    ) -> Iterator[tuple[int, int, Along | None, Along | None]]:
        """(region, image, down, across) of each; no axes where there is no such region, or image."""
        for r, (b, roi) in enumerate(zip(batches, rois, strict=True)):
            down = self.along(roi[1], roi[3], shape[2], self.output_height)
            across = self.along(roi[0], roi[2], shape[3], self.output_width)
            there = 0 <= b < shape[0] and down is not None and across is not None
            yield (r, int(b), down, across) if there else (r, int(b), None, None)

    def layouts(self, inputs, outputs, given) -> Any:
        if not self.has_kernel(inputs, outputs):
            return None
        return (*[CHANNELS_LAST] * (len(inputs) - 2), CHANNELS_FIRST, CHANNELS_FIRST), (CHANNELS_LAST,)

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_LAST if self.has_kernel(inputs, outputs) else NUMPY

    def has_kernel(self, inputs, outputs) -> bool:
        served = super().has_kernel(inputs, outputs) and all(s.size > 0 for s in (*inputs, *outputs))
        return served and inputs[-2].dtype in self.kernel_dtypes and inputs[-1].dtype == np.int64

    def on_processors(self, inputs, outputs) -> bool:
        return True


def matrix(axis: Along, size: int, dtype: np.dtype) -> np.ndarray:
    """(bins, size): the mean over an axis's samples as weights of cells."""
    found = np.zeros((len(axis.low), size), dtype)
    bins = np.broadcast_to(np.arange(len(found))[:, None], axis.low.shape)
    np.add.at(found, (bins, axis.low), np.where(axis.inside, 1 - axis.part, 0))
    np.add.at(found, (bins, axis.high), np.where(axis.inside, axis.part, 0))
    return found / max(axis.low.shape[1], 1)


def corners(down: Along, across: Along) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows, columns, weights) of the four cells around each sample: (bins, bins, samples, samples), by broadcasting."""
    inside = down.inside[:, None, :, None] & across.inside[None, :, None, :]
    for low_y in (True, False):
        for low_x in (True, False):
            rows = (down.low if low_y else down.high)[:, None, :, None]
            columns = (across.low if low_x else across.high)[None, :, None, :]
            wy = (1 - down.part if low_y else down.part)[:, None, :, None]
            wx = (1 - across.part if low_x else across.part)[None, :, None, :]
            yield rows, columns, np.where(inside, wy * wx, 0)


class RoiAlign(Regions):
    """x (n, c, h, w), rois (r, 4) as (x1, y1, x2, y2), batch_indices (r) → (r, c, output_height, output_width): in each bin
    the mean of samples between cells, or ("max") the greatest of the weighed cells around them. NaN for a region that is not
    finite, or of an image that there is not."""

    fixed = (1,)

    def infer(self, x: Spec, rois: Spec, batch_indices: Spec) -> Spec:
        want.kind("f", x=x)
        self.check(x.shape, rois, batch_indices)
        return want.make((rois.shape[0], x.shape[1], self.output_height, self.output_width), x.dtype)

    def reference(self, x: np.ndarray, rois: np.ndarray, batch_indices: np.ndarray) -> np.ndarray:
        y = np.full((len(rois), x.shape[1], self.output_height, self.output_width), np.nan, x.dtype)
        for r, b, down, across in self.regions(x.shape, rois, batch_indices):
            if down is None or across is None:
                continue
            if self.mode == "avg":
                y[r] = matrix(down, x.shape[2], x.dtype) @ x[b] @ matrix(across, x.shape[3], x.dtype).T
            else:
                parts = [x[b][:, rows, columns] * weight.astype(x.dtype) for rows, columns, weight in corners(down, across)]
                y[r] = np.max(parts, axis=0).max(axis=(3, 4)) if parts[0].size else 0
        return y

    def flops(self, inputs, outputs) -> int:
        return 8 * outputs[0].size * max(self.sampling_ratio, 1) ** 2

    def lower(self, to: Lowering) -> None:
        (n, c, h, w), (r, _, oh, ow) = to.inputs[0].shape, to.outputs[0].shape
        to.step(
            "roi.roi_align",
            r * oh,
            work=8 * self.flops(to.inputs, to.outputs),
            x=channels_last(to, 0),
            rois=to.input(1),
            batches=to.input(2),
            y=to.output(),
            image=params.Image(h, w, c, c, c, oh, ow),
            n=n,
            scale=self.spatial_scale,
            half=int(self.half),
            sampling=self.sampling_ratio,
            greatest=int(self.mode == "max"),
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        grad = RoiAlignGrad(**{name: getattr(self, name) for name in Regions.fields})
        return to.add(grad, to.dy(), to.x(0), to.x(1), to.x(2)), None, None


class RoiAlignGrad(Regions):
    """dy (r, c, oh, ow), x, rois, batch_indices → dx: each dy to the cells that its bin read, by their weights, or to the
    greatest, the first of equals."""

    domain = "nbconv"

    def infer(self, dy: Spec, x: Spec, rois: Spec, batch_indices: Spec) -> Spec:
        dtype = want.one_type("f", dy=dy, x=x)
        self.check(x.shape, rois, batch_indices)
        if dy.shape != (rois.shape[0], x.shape[1], self.output_height, self.output_width):
            raise ModelError(f"dy is {dy}, it is not of x {x} and rois {rois}")
        return Spec(x.shape, dtype)

    def reference(self, dy: np.ndarray, x: np.ndarray, rois: np.ndarray, batch_indices: np.ndarray) -> np.ndarray:
        dx = np.zeros(x.shape, dy.dtype)
        for r, b, down, across in self.regions(x.shape, rois, batch_indices):
            if down is None or across is None:
                continue
            if self.mode == "avg":
                dx[b] += matrix(down, x.shape[2], x.dtype).T @ dy[r] @ matrix(across, x.shape[3], x.dtype)
            elif down.low.size and across.low.size:
                found = list(corners(down, across))
                parts = np.stack([x[b][:, rows, columns] * w for rows, columns, w in found], axis=-1)
                flat = parts.reshape(*parts.shape[:3], -1)  # samples, and the cells around each
                best = flat.argmax(axis=-1)[..., None]
                rows, columns, weights = (
                    np.stack([np.broadcast_to(t[k], parts.shape[1:5]) for t in found], axis=-1).reshape(flat.shape[1:])
                    for k in range(3)
                )
                at = [np.take_along_axis(np.broadcast_to(t, flat.shape), best, -1)[..., 0] for t in (rows, columns, weights)]
                channels = np.arange(x.shape[1])[:, None, None]
                np.add.at(dx[b], (np.broadcast_to(channels, at[0].shape), at[0], at[1]), dy[r] * at[2])
        return dx

    def has_kernel(self, inputs, outputs) -> bool:
        return self.mode == "avg" and super().has_kernel(inputs, outputs)

    def layouts(self, inputs, outputs, given) -> Any:
        """x is not read: its shape is all that is wanted."""
        found = super().layouts(inputs, outputs, given)
        return found and ((found[0][0], given[1], *found[0][2:]), found[1])

    def lower(self, to: Lowering) -> None:
        (n, c, h, w), (r, _, oh, ow) = to.outputs[0].shape, to.inputs[0].shape
        to.step(
            "roi.roi_align_grad",
            n * -(-c // to.target.lanes),
            work=64 * to.inputs[0].size * max(self.sampling_ratio, 1) ** 2,
            writes=("dx",),
            dy=channels_last(to, 0),
            rois=to.input(2),
            batches=to.input(3),
            dx=to.output(),
            image=params.DenseImage(h, w, c, oh, ow),
            regions=r,
            scale=self.spatial_scale,
            half=int(self.half),
            sampling=self.sampling_ratio,
        )


class MaxRoiPool(Op):
    """x (n, c, h, w), rois (r, 5) as (image, x1, y1, x2, y2) → (r, c, *pooled_shape): the maximum of each bin of a region,
    whose corners are rounded to cells; 0 for a bin without cells, NaN for a region that is not finite, or of an image that
    there is not."""

    fixed = (1,)
    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_LAST

    pooled_shape: tuple[int, ...]
    spatial_scale: float = 1.0

    def infer(self, x: Spec, rois: Spec) -> Spec:
        want.one_type("f", x=x, rois=rois)
        want.rank(x, 4, 4)
        if rois.rank != 2 or rois.shape[1] != 5 or len(self.pooled_shape) != 2 or min(self.pooled_shape) < 1:
            raise ModelError(f"rois are {rois}, pooled_shape {list(self.pooled_shape)}: wanted (r, 5) and two sizes")
        return want.make((rois.shape[0], x.shape[1], *self.pooled_shape), x.dtype)

    def bins(self, x: tuple[int, ...], roi: np.ndarray) -> Iterator[tuple[int, int, int, slice, slice]] | None:
        """(image, i, j, rows, columns) of each bin; None for no region."""
        with np.errstate(all="ignore"):
            corners = roi[1:] * roi.dtype.type(self.spatial_scale)
        if not (np.abs(corners) < LARGE).all() or not 0 <= roi[0] < x[0]:
            return None
        x1, y1, x2, y2 = (int(v) for v in np.copysign(np.floor(np.abs(corners) + 0.5), corners))
        rows = spans(y1, y2, x[2], self.pooled_shape[0])
        columns = spans(x1, x2, x[3], self.pooled_shape[1])
        return ((int(roi[0]), i, j, down, across) for i, down in enumerate(rows) for j, across in enumerate(columns))

    def reference(self, x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        y = np.full((len(rois), x.shape[1], *self.pooled_shape), np.nan, x.dtype)
        for r, roi in enumerate(rois):
            for b, i, j, rows, columns in self.bins(x.shape, roi) or ():
                cells = x[b, :, rows, columns]
                y[r, :, i, j] = cells.max(axis=(1, 2)) if cells.size else 0
        return y

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and all(s.size > 0 for s in (*inputs, *outputs))

    def on_processors(self, inputs, outputs) -> bool:
        return True

    def layouts(self, inputs, outputs, given) -> Any:
        if not self.has_kernel(inputs, outputs):
            return None
        return (CHANNELS_LAST, CHANNELS_FIRST), (CHANNELS_LAST,)

    def flops(self, inputs, outputs) -> int:
        return inputs[0].size

    def lower(self, to: Lowering) -> None:
        (n, c, h, w), (r, _, oh, ow) = to.inputs[0].shape, to.outputs[0].shape
        to.step(
            "roi.max_roi_pool",
            r * oh,
            work=16 * r * c * h * w,
            x=channels_last(to, 0),
            rois=to.input(1),
            y=to.output(),
            image=params.Image(h, w, c, c, c, oh, ow),
            n=n,
            scale=self.spatial_scale,
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        grad = MaxRoiPoolGrad(pooled_shape=self.pooled_shape, spatial_scale=self.spatial_scale)
        return to.add(grad, to.dy(), to.x(0), to.x(1)), None


def spans(begin: int, end: int, size: int, out: int) -> list[slice]:
    """The cells of each bin along an axis."""
    step = np.float32(max(end - begin + 1, 1)) / np.float32(out)
    cells = np.arange(out, dtype=np.float32)
    first = np.clip(np.floor(cells * step).astype(int) + begin, 0, size)
    last = np.clip(np.ceil((cells + 1) * step).astype(int) + begin, 0, size)
    return [slice(int(a), int(max(a, b))) for a, b in zip(first, last, strict=True)]


class MaxRoiPoolGrad(MaxRoiPool):
    """dy (r, c, *pooled_shape), x, rois → dx: each dy to the cell that held the maximum, the first of equals."""

    domain = "nbconv"

    def infer(self, dy: Spec, x: Spec, rois: Spec) -> Spec:  # pyright: ignore[reportIncompatibleMethodOverride]
        dtype = want.one_type("f", dy=dy, x=x, rois=rois)
        if dy.shape != MaxRoiPool(**self.attributes()).infer(x, rois).shape:
            raise ModelError(f"dy is {dy}, it is not of x {x} and rois {rois}")
        return Spec(x.shape, dtype)

    def reference(self, dy: np.ndarray, x: np.ndarray, rois: np.ndarray) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        dx = np.zeros(x.shape, dy.dtype)
        channels = np.arange(x.shape[1])
        for r, roi in enumerate(rois):
            for b, i, j, rows, columns in self.bins(x.shape, roi) or ():
                cells = x[b, :, rows, columns]
                if cells.size:
                    at = np.unravel_index(cells.reshape(len(channels), -1).argmax(axis=1), cells.shape[1:])
                    np.add.at(dx[b], (channels, at[0] + rows.start, at[1] + columns.start), dy[r, :, i, j])
        return dx

    def has_kernel(self, inputs, outputs) -> bool:
        """Its kernel counts a plane's cells in float32."""
        return super().has_kernel(inputs, outputs) and prod(inputs[1].shape[2:]) <= EXACT

    def layouts(self, inputs, outputs, given) -> Any:
        found = super().layouts(inputs, outputs, given)
        return found and ((CHANNELS_LAST, *found[0]), found[1])

    def lower(self, to: Lowering) -> None:
        (n, c, h, w), (r, _, oh, ow) = to.outputs[0].shape, to.inputs[0].shape
        to.step(
            "roi.max_roi_pool_grad",
            n * -(-c // to.target.lanes),
            work=32 * (to.inputs[1].size + r * c * h * w),
            writes=("dx",),
            dy=channels_last(to, 0),
            x=channels_last(to, 1),
            rois=to.input(2),
            dx=to.output(),
            image=params.DenseImage(h, w, c, oh, ow),
            regions=r,
            scale=self.spatial_scale,
        )

    gradient = Op.gradient
