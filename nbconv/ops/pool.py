"""Pooling over windows that slide: MaxPool, AveragePool, LpPool, and their gradients (whole planes: global_pool.py)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.kernels import params
from nbconv.lowering.context import Lowering
from nbconv.lowering.patches import pad, reach, taps
from nbconv.lowering.repack import channels_last
from nbconv.lowering.step import Work
from nbconv.lowering.window import STRIP, Window, along_space, depth, flat, in_space, plane, resolve, seen_by, sliding
from nbconv.ops.pointwise import Abs, AbsGrad, DivOrZero, Mul

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

EXACT = 2**24
"""Up to here float32 has every integer."""


class Pool(Op, abstract=True):
    """x (n, c, *size) → (n, c, *out), a channel at a time; attributes as in ONNX."""

    accepts: ClassVar[str] = "f"
    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_LAST

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0

    def window(self, shape: tuple[int, ...]) -> Window:
        """The geometry over an input of this shape."""
        return resolve(
            shape[2:], self.kernel_shape, self.strides, self.dilations, self.pads, self.auto_pad, bool(self.ceil_mode)
        )

    def infer(self, x: Spec) -> Spec | tuple[Spec, ...]:
        want.kind(self.accepts, x=x)
        want.rank(x, 3)
        return want.make((*x.shape[:2], *self.window(x.shape).out), x.dtype)

    def flops(self, inputs, outputs) -> int:
        return outputs[0].size * prod(self.kernel_shape)

    def lower_window(self, to: Lowering, kernel: str, **more: Any) -> None:
        """One step of a kernel of `kernels/cpu/pool.py`."""
        x, y = to.inputs[0], to.outputs[0]
        (oh, ow), c, (down, across) = plane(y.shape), x.shape[1], flat(self.window(x.shape))
        to.step(
            kernel,
            to.gpu_split(y.shape[0] * oh, ow),
            work=8 * self.flops(to.inputs, to.outputs),
            x=to.input(0),
            y=to.output(),
            image=params.Image(*plane(x.shape), to.ld(0), c, to.pitch or c, oh, ow),
            window=sliding(down, across),
            does=Work(seen=seen_by(down, across)),
            **more,
        )

    def lower_volume(self, to: Lowering, kernel: str, **more: Any) -> None:
        """One step of a kernel of `kernels/cpu/volume.py`, for up to three axes."""
        (n, c, *size), window = to.inputs[0].shape, self.window(to.inputs[0].shape)
        (d, h, w), (od, oh, ow), axes = in_space(size), in_space(window.out), along_space(window)
        to.step(
            f"volume.{kernel}",
            n * od * oh,
            work=8 * self.flops(to.inputs, to.outputs),
            x=to.input(0),
            y=to.output(),
            image=params.Image(h, w, c, c, c, oh, ow),
            window=sliding(axes[1], axes[2]),
            depth=depth(axes[0], d, od),
            clamp=to.epilogue.clamp(),
            **more,
        )

    def is_volume(self, inputs, outputs) -> bool:
        """Whether only processors have the kernel, that for volumes, places and norms."""
        return inputs[0].rank == 5 or len(outputs) > 1

    def on_processors(self, inputs, outputs) -> bool:
        return super().on_processors(inputs, outputs) or self.is_volume(inputs, outputs)

    def has_kernel(self, inputs, outputs) -> bool:
        kinds = self.kernel_dtypes if self.is_volume(inputs, outputs) else self.kernel_dtypes | self.processor_dtypes
        return inputs[0].dtype in kinds and inputs[0].rank < 6 and outputs[0].dtype == inputs[0].dtype

    def writes_strided(self, inputs, outputs) -> bool:
        return self.layout(inputs, outputs) != NUMPY and not self.is_volume(inputs, outputs)

    def reads_strided(self, inputs, outputs, i) -> bool:
        return self.writes_strided(inputs, outputs)


def fields(op: Pool) -> dict[str, Any]:
    """The geometry of a pool."""
    return {name: getattr(op, name) for name in Pool.fields}


def lower_planes(op: Pool, to: Lowering, shape: tuple[int, ...], kernel: str, **more) -> None:
    """One step of a gradient over x of this shape, whose units are planes, a vector of channels wide: windows overlap, and a
    plane has one owner. (On a GPU they are strips of a plane's rows, whose cells ask their windows.)"""
    (n, c, *size), window = shape, op.window(shape)
    (d, h, w), (od, oh, ow), axes = in_space(size), in_space(window.out), along_space(window)
    if len(size) == 3:
        kernel, more = f"volume_grad.{kernel}", {"depth": depth(axes[0], d, od), **more}
    else:
        kernel = f"pool_grad.{kernel}"
    to.step(
        kernel,
        to.gpu_split(n * -(-c // to.target.lanes), h * -(-w // STRIP)),
        work=16 * n * c * (od * oh * ow * prod(window.kernel) + d * h * w),
        writes=("dx",),
        dx=to.output(),
        image=params.DenseImage(h, w, c, oh, ow),
        window=sliding(axes[1], axes[2]),
        **more,
    )


class MaxPool(Pool):
    """The maximum of each window, padding left out; NaN where a window holds one (ONNX leaves that open).

    The second output holds, int64, where in the flattened x each maximum stands (the first of equals, in row-major order
    of the window); ``storage_order=1`` numbers each plane's cells column by column.
    """

    batch_inputs = (0,)
    accepts = "fiu"
    processor_dtypes = frozenset(np.dtype(t) for t in ("float16", "int8", "uint8"))
    keeps_quantisation = True
    storage_order: int = 0

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        return axis if axis < 2 else None

    def infer(self, x: Spec) -> tuple[Spec, Spec]:
        y = super().infer(x)
        assert isinstance(y, Spec)
        return y, Spec(y.shape, want.INT64)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        window = self.window(x.shape)
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        y = np.full((*x.shape[:2], *window.out), lowest, x.dtype)
        place = np.full(y.shape, -1, np.int64)
        cells = prod(x.shape[2:])
        number = np.arange(cells).reshape(x.shape[2:], order="F" if self.storage_order else "C")
        numbers = pad(number[None, None], window, -1)
        for (_, seen), (_, cell) in zip(taps(pad(x, window, lowest), window), taps(numbers, window), strict=True):
            better = (cell >= 0) & ((seen > y) | ((seen != seen) & (y == y)) | (place < 0))
            y = np.where(better, seen, y)
            place = np.where(better, cell, place)
        plane = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(window.out))
        return y, place + plane * cells

    def absorbs(self, inputs, outputs) -> str:
        return "clamp" if inputs[0].dtype in self.kernel_dtypes and len(outputs) == 1 else ""

    def numbers(self, size: tuple[int, ...]) -> tuple[int, int, int]:
        """By how much the numbers of cells rise along depth, height and width, in a plane of this size."""
        d, h, w = in_space(size)
        return (1, d, d * h) if self.storage_order else (h * w, w, 1)

    def has_kernel(self, inputs, outputs) -> bool:
        """Its kernel counts the cells of a window in float32."""
        served = super().has_kernel(inputs, outputs)
        if not served or len(outputs) == 1:
            return served
        size, window = inputs[0].shape[2:], self.window(inputs[0].shape)
        last = [(k - 1) * d for k, d in zip(window.kernel, window.dilations, strict=True)]
        return sum(i * n for i, n in zip(last, self.numbers(size)[-len(size) :], strict=True)) <= EXACT

    def lower(self, to: Lowering) -> None:
        dtype, size = to.inputs[0].dtype, to.inputs[0].shape[2:]
        if len(to.outputs) > 1:
            nz, ny, nx = self.numbers(size)
            self.lower_volume(to, "max_pool_places", places=to.output(1), nz=nz, ny=ny, nx=nx, writes=("y", "places"))
            return
        if len(size) == 3:
            self.lower_volume(to, "max_pool")
            return
        if dtype not in self.processor_dtypes:
            self.lower_window(to, "pool.max_pool", clamp=to.epilogue.clamp())
            return
        lowest = np.array(-np.inf if dtype.kind == "f" else np.iinfo(dtype).min, dtype)
        self.lower_window(to, f"order.max_pool_{dtype.name}", lowest=int(lowest.view(f"i{dtype.itemsize}")))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return (to.add(MaxPoolGrad(**fields(self)), to.dy(), to.x()),)


class MaxPoolGrad(Pool):
    """dy (n, c, *out), x (n, c, *size) → dx: each dy goes to the cell that held the maximum, the first of equals; a NaN is
    one."""

    batch_inputs = (0, 1)
    domain = "nbconv"

    def infer(self, dy: Spec, x: Spec) -> Spec:  # pyright: ignore[reportIncompatibleMethodOverride]
        dtype = want.one_type("f", dy=dy, x=x)
        out = (*x.shape[:2], *self.window(x.shape).out)
        if dy.shape != out:
            raise ModelError(f"dy is {dy}, of x {x} its windows are {list(out)}")
        return Spec(x.shape, dtype)

    def reference(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        _, place = MaxPool(**self.attributes()).reference(x)
        dx = np.zeros((x.shape[0] * x.shape[1], prod(x.shape[2:])), dy.dtype)
        cell = place.reshape(len(dx), prod(place.shape[2:])) - np.arange(len(dx))[:, None] * dx.shape[1]
        plane, window = np.nonzero(cell >= 0)  # a window in the padding has none
        np.add.at(dx, (plane, cell[plane, window]), dy.reshape(cell.shape)[plane, window])
        return dx.reshape(x.shape)

    def has_kernel(self, inputs, outputs) -> bool:
        return inputs[0].dtype in self.kernel_dtypes and inputs[0].rank < 6 and inputs[0].size > 0

    def writes_strided(self, inputs, outputs) -> bool:
        return False

    def reads_strided(self, inputs, outputs, i) -> bool:
        return False

    def lower(self, to: Lowering) -> None:
        lower_planes(self, to, to.inputs[1].shape, "max_pool_grad", dy=channels_last(to, 0), x=channels_last(to, 1))


class AveragePool(Pool):
    """The mean of each window: of its cells inside x, or, with ``count_include_pad``, inside x and its stated padding."""

    batch_inputs = (0,)
    keeps_classes = True

    count_include_pad: int = 0

    def reference(self, x: np.ndarray) -> np.ndarray:
        window = self.window(x.shape)
        y = np.zeros((*x.shape[:2], *window.out), x.dtype)
        with np.errstate(all="ignore"):
            for _, seen in taps(pad(x, window), window):
                y += seen
            return y / self.counts(x.shape).astype(x.dtype)

    def counts(self, shape: tuple[int, ...]) -> np.ndarray:
        """By how many cells each output divides: int64 (*out)."""
        window = self.window(shape)
        total = np.ones((), np.int64)
        for size, k, s, d, begin, end, out in zip(shape[2:], *window, strict=True):
            cell = np.arange(out)[:, None] * s + np.arange(k) * d - begin
            low, high = (-begin, size + end) if self.count_include_pad else (0, size)
            total = total[..., None] * ((cell >= low) & (cell < high)).sum(axis=1)
        return total

    def absorbs(self, inputs, outputs) -> str:
        return "clamp"

    def lower(self, to: Lowering) -> None:
        if to.inputs[0].rank == 5:
            self.lower_volume(to, "average_pool", **divisor(self, to.inputs[0].shape, self.count_include_pad))
            return
        by = divisor(self, to.inputs[0].shape, self.count_include_pad)
        self.lower_window(to, "pool.average_pool", **by, clamp=to.epilogue.clamp())

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        grad = AveragePoolGrad(size=to.inputs[0].shape[2:], count_include_pad=self.count_include_pad, **fields(self))
        return (to.add(grad, to.dy()),)


def divisor(op: Pool, shape: tuple[int, ...], count_include_pad: int) -> dict[str, Any]:
    """What kernels divide the sums of a pool's windows over this shape by, as arguments."""
    size = in_space(shape[2:])
    d, h, w = (n + axis.end for n, axis in zip(size, along_space(op.window(shape)), strict=True))
    by = {"divisor": params.Divisor(h, w, int(bool(count_include_pad)))}
    return by | {"padded_d": d} if len(shape) == 5 else by


class AveragePoolGrad(Pool):
    """dy (n, c, *out) → dx (n, c, *size): each dy, divided as `AveragePool` divides (unless ``divided`` is 0), goes to all
    cells of its window."""

    batch_inputs = (0, 1)
    domain = "nbconv"

    size: tuple[int, ...]
    count_include_pad: int = 0
    divided: int = 1

    def infer(self, dy: Spec) -> Spec:  # pyright: ignore[reportIncompatibleMethodOverride]
        want.kind("f", dy=dy)
        shape = (*dy.shape[:2], *self.size)
        if dy.rank != len(shape) or dy.shape[2:] != self.window(shape).out:
            raise ModelError(f"dy is {dy}, over {list(self.size)} its windows are {list(self.window(shape).out)}")
        return Spec(shape, dy.dtype)

    def reference(self, dy: np.ndarray) -> np.ndarray:
        shape = (*dy.shape[:2], *self.size)
        window = self.window(shape)
        span = [
            max((out - 1) * s + d * (k - 1) + 1, b + size)
            for k, s, d, b, _, out, size in zip(*window, self.size, strict=True)
        ]
        with np.errstate(all="ignore"):
            if self.divided:
                pool = AveragePool(count_include_pad=self.count_include_pad, **fields(self))
                dy = dy / pool.counts(shape).astype(dy.dtype)
            wide = np.zeros((*dy.shape[:2], *span), dy.dtype)
            for tap in np.ndindex(*window.kernel):
                wide[(slice(None), slice(None), *reach(tap, window))] += dy
        return wide[(slice(None), slice(None), *(slice(b, b + n) for b, n in zip(window.begin, self.size)))]

    def has_kernel(self, inputs, outputs) -> bool:
        return inputs[0].dtype in self.kernel_dtypes and inputs[0].rank < 6 and inputs[0].size > 0

    def writes_strided(self, inputs, outputs) -> bool:
        return False

    def reads_strided(self, inputs, outputs, i) -> bool:
        return False

    def lower(self, to: Lowering) -> None:
        shape, dy = to.outputs[0].shape, channels_last(to, 0)
        lower_planes(
            self,
            to,
            shape,
            "average_pool_grad",
            dy=dy,
            **divisor(self, shape, self.count_include_pad),
            divided=self.divided,
        )


class LpPool(Pool):
    """The p-norm of each window."""

    p: int = 2

    def infer(self, x: Spec) -> Spec | tuple[Spec, ...]:
        check_norm(self.p)
        return super().infer(x)

    def reference(self, x: np.ndarray) -> np.ndarray:
        window = self.window(x.shape)
        y = np.zeros((*x.shape[:2], *window.out), x.dtype)
        with np.errstate(all="ignore"):
            for _, seen in taps(pad(np.abs(x) ** self.p, window), window):
                y += seen
            return y ** x.dtype.type(1 / self.p)

    def is_volume(self, inputs, outputs) -> bool:
        return True

    def absorbs(self, inputs, outputs) -> str:
        return "clamp"

    def lower(self, to: Lowering) -> None:
        self.lower_volume(to, "lp_pool", p=self.p)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        spread = AveragePoolGrad(size=to.inputs[0].shape[2:], divided=0, **fields(self))
        return (powers(to, self.p, lambda v: to.add(spread, v)),)


def check_norm(p: int) -> None:
    """ModelError unless there is a p-norm."""
    if p < 1:
        raise ModelError(f"p is {p}, must be positive")


def powers(to: Backward, p: int, spread: Callable[[str], str]) -> str:
    """dx = x · |x|^(p - 2) · spread(dy / y^(p - 1)), what flows through a p-norm; 0 where y is 0."""
    v, x = to.dy(), to.x()
    for _ in range(p - 1):
        v = to.add(DivOrZero(), v, to.y())
    v = spread(v)
    if p == 1:
        return to.add(AbsGrad(), v, x)
    size = to.add(Abs(), x) if p > 2 else ""
    for _ in range(p - 2):
        v = to.add(Mul(), v, size)
    return to.add(Mul(), v, x)
