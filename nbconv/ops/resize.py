"""Resize: interpolation, an axis at a time."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ANY, CHANNELS_LAST, FLOAT32, NUMPY, ONLY_FLOAT32, STORED, Op
from nbconv.graph.symbolic import apply
from nbconv.kernels.params import Image
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.mix import by_rows, mix, transposed
from nbconv.lowering.window import plane
from nbconv.ops.gather import emit_gather
from nbconv.ops.grad import Mix

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

MODES = ("nearest", "linear", "cubic")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",  # of opsets before 13
)
POLICIES = ("stretch", "not_larger", "not_smaller")


class Axis(NamedTuple):
    """How one axis is resized."""

    size: int
    """input size"""
    out: int
    """output size"""
    scale: np.float32
    start: float
    """roi, as fractions of the input"""
    end: float
    length: float
    """output size, which scales can make a fraction"""


class Resize(Op):
    """Each output cell is a weighted sum of input cells, the weights a product over axes (ONNX Resize-19).

    Coordinates are computed in float32 whatever x's type is, as other runtimes do: which cell is the nearest hangs on it.
    Where scales make a size that is no whole number, align_corners takes the fraction, as ONNX's suite and reference do;
    PyTorch and onnxruntime take the whole.
    """

    fixed = (1, 2)
    settings = (1, 2, 3)
    keeps_quantisation = True

    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED

    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: int = 0
    extrapolation_value: float = 0.0
    antialias: int = 0
    axes: tuple[int, ...] | None = None
    keep_aspect_ratio_policy: str = "stretch"

    def infer(self, x: Spec, roi: Spec | None = None, scales: Spec | None = None, sizes: Spec | None = None) -> Spec:
        want.kind("fiu", x=x)
        for name, value, choice in (
            ("mode", self.mode, MODES),
            ("nearest_mode", self.nearest_mode, NEAREST),
            ("coordinate_transformation_mode", self.coordinate_transformation_mode, COORDINATES),
            ("keep_aspect_ratio_policy", self.keep_aspect_ratio_policy, POLICIES),
        ):
            if value not in choice:
                raise ModelError(f"{name} is {value!r}, wanted {', '.join(choice)}")
        given = {"scales": scales, "sizes": sizes} | ({"roi": roi} if self.crops else {})
        values = {name: None if spec is None else want.known(spec, name) for name, spec in given.items()}
        found = self.geometry(x.shape, **values)
        shape = tuple(found[i].out if i in found else d for i, d in enumerate(x.shape))
        if any(d and not s for i, (s, d) in enumerate(zip(x.shape, shape, strict=True)) if i in found):
            raise ModelError(f"x is {x}: nothing to interpolate along an empty axis")
        return want.make(shape, x.dtype)

    @property
    def crops(self) -> bool:
        """Whether a roi says which part of x is resized."""
        return self.coordinate_transformation_mode == "tf_crop_and_resize"

    def geometry(
        self, shape: tuple[int, ...], scales: np.ndarray | None, sizes: np.ndarray | None, roi: np.ndarray | None = None
    ) -> dict[int, Axis]:
        """The axes that are resized, and how, for an x of this shape; ModelError for inputs that do not fit. An empty
        array counts as left out."""
        scales, sizes, roi = (None if v is None or v.size == 0 else v.ravel() for v in (scales, sizes, roi))
        axes = tuple(range(len(shape))) if self.axes is None else want.axes(self.axes, len(shape))
        crop = self.crops
        if not axes:
            return {}
        if (scales is None) == (sizes is None):
            raise ModelError("Resize wants either scales or sizes")
        if crop and (roi is None or roi.size != 2 * len(axes)):
            raise ModelError(f"tf_crop_and_resize wants a roi of {2 * len(axes)} entries")
        if crop and roi is not None and not np.isfinite(roi).all():
            raise ModelError(f"roi {roi.tolist()} must be finite")
        n, name, given = len(axes), "sizes" if scales is None else "scales", scales if sizes is None else sizes
        assert given is not None
        if given.size != n:
            raise ModelError(f"{name} {given.tolist()} has {given.size} entries, {n} axes want {n}")
        if not (np.isfinite(given).all() and (given > 0).all()):
            raise ModelError(f"{name} {given.tolist()} must be positive")
        starts, ends = (roi[:n], roi[n:]) if crop and roi is not None else (np.zeros(n), np.ones(n))
        if sizes is not None:
            out = [int(s) for s in sizes]
            ratio = [apply(_ratio, s, shape[a]) for s, a in zip(out, axes, strict=True)]
            if self.keep_aspect_ratio_policy != "stretch":
                have, ratio = np.array([shape[a] for a in axes], np.float32), np.array(ratio)
                best = ratio.min() if self.keep_aspect_ratio_policy == "not_larger" else ratio.max()
                ratio = [best] * n
                out = [int(np.floor(best * h + np.float32(0.5))) for h in have]
        else:
            assert scales is not None
            ratio = [*scales.astype(np.float32)]
            parts = (ends - starts).astype(np.float32)
            out = [apply(_scaled, shape[a], *by) for a, *by in zip(axes, parts, ratio, strict=True)]
        length = out
        if scales is not None:
            length = [apply(_length, o, r, shape[a]) for o, r, a in zip(out, ratio, axes, strict=True)]
        return {a: Axis(shape[a], out[i], ratio[i], float(starts[i]), float(ends[i]), length[i]) for i, a in enumerate(axes)}

    def coordinates(self, axis: Axis) -> np.ndarray:
        """Where in the input each output cell along an axis lies: float32 (out)."""
        size, out, scale, start, end, length = axis
        x, half, how = np.arange(out, dtype=np.float32), np.float32(0.5), self.coordinate_transformation_mode
        if how == "asymmetric":
            return x / scale
        if how == "tf_half_pixel_for_nn":
            return (x + half) / scale
        if how == "align_corners":
            return x * np.float32(size - 1) / np.float32(length - 1 if out > 1 else 1)
        if how == "tf_crop_and_resize":
            first, last = np.float32(start), np.float32(end)
            if out == 1:
                return np.full(1, half * (first + last) * np.float32(size - 1))
            return first * np.float32(size - 1) + x * ((last - first) * np.float32(size - 1) / np.float32(out - 1))
        if how == "pytorch_half_pixel" and out == 1:
            return np.zeros(1, np.float32)
        shift = np.float32(0)
        if how == "half_pixel_symmetric":
            adjustment = np.float32(out) / (scale * np.float32(size))
            shift = np.float32(size) / 2 * (1 - adjustment)
        return shift + (x + half) / scale - half

    def weights(self, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        """The input cells, int64 (out, k), and their weights, float64 (out, k), that make each output cell along an axis."""
        x, last = self.coordinates(axis), axis.size - 1
        if self.mode == "nearest":
            near = {
                "round_prefer_floor": lambda: np.ceil(x - np.float32(0.5)),
                "round_prefer_ceil": lambda: np.floor(x + np.float32(0.5)),
                "floor": lambda: np.floor(x),
                "ceil": lambda: np.ceil(x),
            }[self.nearest_mode]()
            return np.clip(near.astype(np.int64), 0, last)[:, None], np.ones((len(x), 1))
        if self.mode == "linear" and not self.smooths(axis):
            x = np.clip(x, 0, last)
            with np.errstate(invalid="ignore"):
                low = np.clip(np.floor(x).astype(np.int64), 0, last)  # of NaN, too
            part = (x - low.astype(np.float32)).astype(np.float64)
            return np.stack([low, np.minimum(low + 1, last)], 1), np.stack([1 - part, part], 1)
        stretch = float(axis.scale) if self.smooths(axis) else 1.0
        reach = ceil((1 if self.mode == "linear" else 2) / stretch)
        near = np.floor(x).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
        d = np.abs(x.astype(np.float64)[:, None] - near) * stretch
        weight = np.maximum(1 - d, 0) if self.mode == "linear" else cubic(d, self.cubic_coeff_a)
        if self.exclude_outside:
            weight = np.where((near < 0) | (near > last), 0, weight)
        if self.exclude_outside or stretch < 1:
            with np.errstate(invalid="ignore"):
                weight /= weight.sum(axis=1, keepdims=True)
        return np.clip(near, 0, last), weight

    def smooths(self, axis: Axis) -> bool:
        """Whether the filter along an axis is as wide as the output cells are in the input."""
        return bool(self.antialias and self.mode != "nearest" and axis.scale < 1)

    def outside(self, axis: Axis) -> np.ndarray:
        """Which output cells along an axis lie outside of x, where a roi says where they lie: bool (out)."""
        at = self.coordinates(axis)
        return (at < 0) | (at > axis.size - 1) if self.crops else np.zeros(len(at), np.bool_)

    def reference(self, x: np.ndarray, roi=None, scales=None, sizes=None) -> np.ndarray:
        y = x if x.dtype.kind == "f" or self.mode == "nearest" else x.astype(np.float64)
        outside = np.zeros((1,) * x.ndim, np.bool_)
        with np.errstate(all="ignore"):
            for i, axis in self.geometry(x.shape, scales, sizes, roi).items():
                if self.keeps(axis):
                    continue
                cells, weight = self.weights(axis)
                along = [1] * x.ndim
                along[i] = axis.out
                if self.mode == "nearest":
                    y = np.take(y, cells[:, 0], axis=i)
                else:
                    parts = zip(cells.T, weight.T.astype(y.dtype), strict=True)
                    y = np.sum([np.take(y, cell, axis=i) * w.reshape(along) for cell, w in parts], axis=0)
                outside = outside | self.outside(axis).reshape(along)
            if outside.any():
                y = np.where(outside, np.asarray(self.extrapolation_value, y.dtype), y)
            return np.asarray(y).astype(x.dtype, copy=False)

    def keeps(self, axis: Axis) -> bool:
        """Whether an axis stays as it is."""
        return not self.crops and axis.out == axis.size and axis.scale == 1

    def flops(self, inputs, outputs) -> int:
        taps = {"nearest": 0, "linear": 2, "cubic": 4}.get(self.mode, 0)
        return 2 * taps * 2 * outputs[0].size  # as for two axes, the usual case

    def quantisation(self, inputs, outputs):
        moved = self.mode == "nearest" and not self.crops
        return super().quantisation(inputs, outputs) if moved else None

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        return None if axis in self._axes(inputs) else axis

    def _axes(self, inputs) -> dict[int, Axis]:
        roi, scales, sizes = (None if s is None else s.value for s in (*inputs, None, None, None)[1:4])
        found = self.geometry(inputs[0].shape, scales, sizes, roi if self.crops else None)
        return {a: axis for a, axis in found.items() if not self.keeps(axis)}

    def has_kernel(self, inputs, outputs) -> bool:
        kinds = self.kernel_dtypes | (self.processor_dtypes if self.mode == "nearest" else frozenset())
        return inputs[0].dtype in kinds and outputs[0].size > 0

    def layout(self, inputs, outputs) -> str:
        """Images by tables of rows and columns, which want them channels last; others an axis at a time."""
        if not self.has_kernel(inputs, outputs):
            return NUMPY
        axes = self._axes(inputs)
        image = inputs[0].rank in (3, 4) and all(a >= 2 for a in axes)
        two = self.mode != "cubic" and not self.crops and not any(self.smooths(axis) for axis in axes.values())
        return CHANNELS_LAST if image and two else ANY

    def writes_strided(self, inputs, outputs) -> bool:
        return self.layout(inputs, outputs) == CHANNELS_LAST

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and self.layout(inputs, outputs) == CHANNELS_LAST

    def lower(self, to: Lowering) -> None:
        if self.layout(to.inputs, to.outputs) == CHANNELS_LAST:
            self.lower_image(to)
        else:
            self.lower_axes(to)

    def lower_image(self, to: Lowering) -> None:
        """One step of a kernel of `kernels/cpu/resize.py`."""
        x, y = to.inputs[0], to.outputs[0]
        axes, (h, w), (oh, ow) = self._axes(to.inputs), plane(x.shape), plane(y.shape)
        down = axes.get(2 if x.rank == 4 else -1, Axis(h, oh, np.float32(1), 0, 1, oh))
        across = axes.get(x.rank - 1, Axis(w, ow, np.float32(1), 0, 1, ow))
        c = x.shape[1]
        arguments: dict[str, Any] = {"x": to.input(0), "y": to.output()}
        arguments["image"] = Image(h, w, to.ld(0), c, to.pitch or c, oh, ow)
        for name, axis in (("row", down), ("column", across)):
            cells, weights = apply(self.tables, axis)
            arguments[f"{name}s"] = to.table(f"{name}s", cells)
            if self.mode == "linear":
                arguments[f"{name}_weights"] = to.table(f"{name}_weights", weights)
        size = x.dtype.itemsize
        kernel = f"resize.{self.mode}" if size == FLOAT32.itemsize else f"elements.nearest_{size}"
        to.step(kernel, to.gpu_split(y.shape[0] * oh, ow), work=16 * y.size, **arguments)

    def tables(self, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        """`weights` as kernels read them."""
        cells, weights = self.weights(axis)
        return np.ascontiguousarray(cells.astype(np.int64)), np.ascontiguousarray(weights.astype(np.float32))

    def lower_axes(self, to: Lowering) -> None:
        """An axis after the other, those that shrink first; then what lies outside of x is filled."""
        axes, order = self._axes(to.inputs), to.layout(to.node.outputs[0]).order(to.inputs[0].rank)
        if not axes:
            to.alias()
            return
        shape = {i: to.inputs[0].shape[i] for i in order}
        source = to.input(0)
        for k, i in enumerate(sorted(axes, key=lambda i: turn(order.index(i), axes[i]))):
            size, shape[i] = shape[i], axes[i].out
            n = prod(shape.values())
            target = to.output() if k == len(axes) - 1 else to.scratch(to.outputs[0].dtype, n)
            before, behind = (
                prod(shape[a] for a in part) for part in (order[: order.index(i)], order[order.index(i) + 1 :])
            )
            self.lower_axis(to, i, axes[i], source, target, (before, size, behind))
            source = target
        for i, axis in axes.items() if self.extrapolation_value or self.mode == "nearest" else ():
            fill_outside(to, i, np.flatnonzero(self.outside(axis)), self.extrapolation_value)

    def lower_axis(self, to: Lowering, i: int, axis: Axis, x: Ref, y: Ref, shape: tuple[int, int, int]) -> None:
        """One step from x (outer, size, inner) to y (outer, out, inner)."""
        cells, weights = self.weights(axis)
        outer, size, inner = shape
        if self.mode != "nearest":
            mix(to, x, y, (outer, size, inner), **by_rows(cells, weights, self.outside(axis)), name=f"axis{i}_")
            return
        emit_gather(to, outer, cells[:, 0].astype(np.int64), len(cells), size, inner, x, y, f"axis{i}_cells")

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """Each axis in turn, by the transpose of its weights."""
        dx = to.dy()
        for i, axis in sorted(self._axes(to.inputs).items(), key=lambda t: t[1].size / max(t[1].out, 1)):
            cells, weights = self.weights(axis)
            weights = np.where(self.outside(axis)[:, None], 0, weights)
            dx = to.add(Mix(axis=i, **transposed(cells, weights, axis.size)), dx)
        return (dx, *[None] * (len(to.inputs) - 1))


def _ratio(out: int, size: int) -> np.floating:
    """How much longer an axis becomes."""
    return np.float32(out) / np.float32(max(size, 1))


def _scaled(size: int, part: np.floating, ratio: np.floating) -> int:
    """How long this part of an axis becomes."""
    return int(np.floor(np.float32(size) * part * ratio))


def _length(out: int, ratio: np.floating, size: int) -> float:
    """What a scale makes of a size, or the output's size where float32's rounding is all that parts them."""
    length = float(ratio) * size
    return out if abs(length - out) <= 1e-6 * length else length


def cubic(d: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel at distances d ≥ 0."""
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0))


def turn(place: int, axis: Axis) -> tuple[float, int]:
    """By which axes are put in order: what shrinks goes first, of equals what leaves the longest rows to copy."""
    ratio = axis.out / axis.size
    return ratio, place if ratio < 1 else -place


def fill_outside(to: Lowering, i: int, cells: np.ndarray, value: float) -> None:
    """Fill these cells of the output along axis i."""
    y, strides = to.outputs[0], to.out_strides()
    for run in np.split(cells, np.flatnonzero(np.diff(cells) > 1) + 1) if len(cells) else ():
        shape = tuple(len(run) if a == i else d for a, d in enumerate(y.shape))
        one = to.table("outside", np.array([value], y.dtype))
        to.copy(one, to.output().at(int(run[0]) * strides[i]), shape, (0,) * y.rank, strides)
