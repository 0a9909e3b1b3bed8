"""Ops that surround and repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec, spec_of
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, ONLY_FLOAT32, STORED, Op
from nbconv.lowering.context import Lowering
from nbconv.lowering.mix import transposed
from nbconv.ops.grad import Mix
from nbconv.ops.shape import ALL, Reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class Pad(Op):
    """Adds cells around x (negative: crops), by a constant, a reflection without the edge, the edge, or from the other end.

    ``pads`` holds the begins of all (or ``axes``') axes, then the ends.
    """

    fixed = (2,)
    moves = True
    keeps_quantisation = True

    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED

    mode: str = "constant"

    def spread(self, shape: tuple[int, ...], pads, axes=None) -> tuple[tuple[int, int], ...]:
        """(before, after) of each axis; ModelError for what does not fit."""
        if self.mode not in ("constant", "reflect", "edge", "wrap"):
            raise ModelError(f"mode is {self.mode!r}, wanted constant, reflect, edge or wrap")
        at = range(len(shape)) if axes is None else want.axes(axes, len(shape))
        pads = [int(p) for p in pads]
        if len(pads) != 2 * len(at):
            raise ModelError(f"pads {pads} has {len(pads)} entries, {len(at)} axes want {2 * len(at)}")
        found = [(0, 0)] * len(shape)
        for i, a in enumerate(at):
            before, after = pads[i], pads[i + len(at)]
            left = shape[a] + min(before, 0) + min(after, 0)
            if left < 0:
                raise ModelError(f"pads ({before}, {after}) crop more than axis {a} of {list(shape)} has")
            if left == 0 and self.mode != "constant" and max(before, after) > 0:
                raise ModelError(f"mode {self.mode} has nothing to repeat along axis {a} of {list(shape)}")
            found[a] = (before, after)
        return tuple(found)

    def around(self, inputs) -> tuple[tuple[int, int], ...]:
        """(before, after) for each axis, from the Specs of the inputs."""
        axes = (*inputs, None, None)[3]
        return self.spread(
            inputs[0].shape, want.integers(inputs[1], "pads"), None if axes is None else want.integers(axes, "axes")
        )

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        return axis if self.around(inputs)[axis] == (0, 0) else None

    def infer(self, x: Spec, pads: Spec, constant_value: Spec | None = None, axes: Spec | None = None) -> Spec:
        dtype = want.one_type(ALL, x=x, constant_value=constant_value)
        want.scalar(constant_value, "constant_value")
        spread = self.around((x, pads, constant_value, axes))
        return want.make([d + b + a for d, (b, a) in zip(x.shape, spread, strict=True)], dtype)

    def reference(self, x: np.ndarray, pads: np.ndarray, constant_value=None, axes=None) -> np.ndarray:
        spread = self.spread(x.shape, pads.ravel(), None if axes is None else axes.ravel())
        kept = x[tuple(slice(max(-b, 0), d - max(-a, 0)) for d, (b, a) in zip(x.shape, spread, strict=True))]
        widths = [(max(b, 0), max(a, 0)) for b, a in spread]
        if not widths:  # which NumPy refuses
            return x.copy()
        if self.mode != "constant":
            return np.pad(kept, widths, mode=self.mode)  # pyright: ignore[reportArgumentType, reportCallIssue]
        value = 0 if constant_value is None else constant_value.reshape(())
        return np.pad(kept, widths, constant_values=value)

    def has_kernel(self, inputs, outputs) -> bool:
        value = (*inputs, None)[2]
        known = self.mode != "constant" or value is None or value.value is not None
        return super().has_kernel(inputs, outputs) and known

    def on_processors(self, inputs, outputs) -> bool:
        return self.mode != "constant" or super().on_processors(inputs, outputs)

    def bypass(self, inputs) -> bool:
        return not any(want.integers(inputs[1], "pads"))

    def lower(self, to: Lowering) -> None:
        x, y = to.inputs[0], to.outputs[0]
        spread = self.around(to.inputs)
        if self.mode == "constant":
            value = to.value(2) if to.has(2) else None
            to.fill(to.output(), y.size, 0 if value is None else value.reshape(()).item())
        here, there = to.strides(0), to.out_strides()
        source = sum(max(-b, 0) * s for (b, _), s in zip(spread, here, strict=True))
        target = sum(max(b, 0) * s for (b, _), s in zip(spread, there, strict=True))
        kept = tuple(d + min(b, 0) + min(a, 0) for d, (b, a) in zip(x.shape, spread, strict=True))
        if min(kept, default=1) > 0:
            to.copy(to.input(0).at(source), to.output().at(target), kept, here, there)
        for axis in range(x.rank) if self.mode != "constant" else ():
            self.repeat(to, axis, kept, spread)

    def repeat(self, to: Lowering, axis: int, kept: tuple[int, ...], spread: tuple[tuple[int, int], ...]) -> None:
        """Copies within the output, of which the axes before this one are full, and the others where x lies: from there to
        both ends of this axis."""
        y, strides = to.outputs[0].shape, to.out_strides()
        begins = [0 if a <= axis else max(before, 0) for a, (before, _) in enumerate(spread)]
        origin = sum(b * s for b, s in zip(begins, strides, strict=True))
        step, low = strides[axis], max(spread[axis][0], 0)
        for first, count, source, by in repeated(self.mode, low, low + kept[axis], y[axis]):
            shape = tuple(count if a == axis else y[a] if a < axis else kept[a] for a in range(len(y)))
            steps = tuple(by * step if a == axis else s for a, s in enumerate(strides))
            here, there = (to.output().at(origin + place * step) for place in (source, first))
            to.copy(here, there, shape, steps, strides)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x, spread = to.inputs[0], self.around(to.inputs)
        dvalue = None
        if self.mode == "constant":
            from nbconv.ops.pointwise import Sub
            from nbconv.ops.reduce import ReduceSum

            back = [-b for b, _ in spread] + [-a for _, a in spread]
            inside = to.add(Pad(), to.dy(), to.constant(np.array(back, np.int64)))
            if to.wants(2):
                everything, kept = (to.add(ReduceSum(keepdims=0), v) for v in (to.dy(), inside))
                shape = to.constant(np.array(to.inputs[2].shape, np.int64))
                dvalue = to.add(Reshape(), to.add(Sub(), everything, kept), shape)
            return (inside, None, dvalue, None)[: len(to.inputs)]
        dx = to.dy()
        for axis, (d, (before, after)) in enumerate(zip(x.shape, spread, strict=True)):
            if before or after:
                cells = self.reference(np.arange(d), np.array([before, after]))
                dx = to.add(Mix(axis=axis, **transposed(cells, np.ones(len(cells)), d)), dx)
        return (dx, *[None] * (len(to.inputs) - 1))


def repeated(mode: str, low: int, high: int, size: int) -> list[tuple[int, int, int, int]]:
    """(first, count, source, by): how an axis of this size is filled from its cells ``low`` to ``high``, which are there:
    ``count`` cells from ``first`` on are those from ``source`` on, ``by`` apart. What is filled may be a source then."""
    period = high - low
    if mode == "edge" or period == 1:
        return [(0, low, low, 0)] * (low > 0) + [(high, size - high, high - 1, 0)] * (size > high)
    found = []
    while low > 0 or high < size:
        whole = (high - low) // period * period
        most = high - low - 1 if mode == "reflect" else whole
        n, low = min(low, most), low - min(low, most)
        if n:
            found.append((low, n, low + 2 * n, -1) if mode == "reflect" else (low, n, low + whole, 1))
        n = min(size - high, most)
        if n:
            found.append((high, n, high - 2, -1) if mode == "reflect" else (high, n, high - whole, 1))
        high += n
    return found


class Expand(Op):
    """x broadcast with ``shape`` (both ways: a 1 in ``shape`` keeps x's dimension)."""

    kernel_dtypes, processor_dtypes, kernel_layout = ONLY_FLOAT32, STORED, CHANNELS_FIRST

    moves = True
    keeps_quantisation = True

    def infer(self, x: Spec, shape: Spec) -> Spec:
        want.kind(ALL, x=x)
        return want.make(want.broadcast(x.shape, want.integers(shape, "shape")), x.dtype)

    def reference(self, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
        return np.broadcast_to(x, want.broadcast(x.shape, tuple(int(d) for d in shape.ravel())))

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        there = axis + outputs[0].rank - inputs[0].rank
        return there if outputs[0].shape[there] == inputs[0].shape[axis] else None

    def bypass(self, inputs) -> bool:
        return self.infer(*inputs).shape == inputs[0].shape

    def lower(self, to: Lowering) -> None:
        x = to.operand(0)
        to.copy(x.ref, to.output(), to.outputs[0].shape, x.strides, to.out_strides())

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return to.reduced(to.dy(), 0), None


class Tile(Op):
    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED

    moves = True
    keeps_quantisation = True

    def infer(self, x: Spec, repeats: Spec) -> Spec:
        want.kind(ALL, x=x)
        times = want.integers(repeats, "repeats")
        if len(times) != x.rank or min(times, default=0) < 0:
            raise ModelError(f"repeats {list(times)} wants {x.rank} entries, none negative")
        return want.make([d * t for d, t in zip(x.shape, times, strict=True)], x.dtype)

    def reference(self, x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        return np.tile(x, tuple(int(t) for t in repeats.ravel()))

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        return axis if want.integers(inputs[1], "repeats")[axis] == 1 else None

    def bypass(self, inputs) -> bool:
        return all(t == 1 for t in want.integers(inputs[1], "repeats"))

    def lower(self, to: Lowering) -> None:
        x, here, there = to.inputs[0], to.strides(0), to.out_strides()
        times = want.integers(to.inputs[1], "repeats")
        shape = tuple(v for d, t in zip(x.shape, times, strict=True) for v in (t, d))
        source = tuple(v for s in here for v in (0, s))
        target = tuple(v for d, s in zip(x.shape, there, strict=True) for v in (d * s, s))
        to.copy(to.input(0), to.output(), shape, source, target)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """The copies along each axis stand one behind the other: dy is folded there and summed."""
        dx, shape = to.dy(), to.inputs[0].shape
        times = want.integers(to.inputs[1], "repeats")
        for axis, (d, t) in enumerate(zip(shape, times, strict=True)):
            if t != 1:
                cells = np.tile(np.arange(d), t)
                dx = to.add(Mix(axis=axis, **transposed(cells, np.ones(len(cells)), d)), dx)
        return dx, None


class CenterCropPad(Op):
    """x with the middle of the sizes in ``shape`` along ``axes`` (all by default): what is larger is cropped, what is
    smaller gets zeros around it, of an odd number one more at the end."""

    moves = True
    keeps_quantisation = True
    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED

    axes: tuple[int, ...] | None = None

    def infer(self, x: Spec, shape: Spec) -> Spec:
        want.kind("fiub", x=x)
        sizes = want.integers(shape, "shape")
        axes = tuple(range(x.rank)) if self.axes is None else want.axes(self.axes, x.rank)
        if len(sizes) != len(axes):
            raise ModelError(f"shape {list(sizes)} has {len(sizes)} entries, {len(axes)} axes want {len(axes)}")
        found = list(x.shape)
        for axis, size in zip(axes, sizes, strict=True):
            found[axis] = size
        return want.make(found, x.dtype)

    def reference(self, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
        y = np.zeros(self.infer(Spec(x.shape, x.dtype), spec_of(shape)).shape, x.dtype)
        source, target = middles(x.shape, y.shape)
        y[target] = x[source]
        return y

    def quantisation(self, inputs, outputs):
        """Zeros stand for what the zero point does not."""
        smaller = all(a <= b for a, b in zip(outputs[0].shape, inputs[0].shape, strict=True))
        return super().quantisation(inputs, outputs) if smaller else None

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        return axis if inputs[0].shape[axis] == outputs[0].shape[axis] else None

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and outputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        x, y, xs, ys = to.inputs[0].shape, to.outputs[0].shape, to.strides(0), to.out_strides()
        if any(a > b for a, b in zip(y, x, strict=True)):
            to.fill(to.output(), to.outputs[0].size)
        source, target = middles(x, y)
        shape = tuple(s.stop - s.start for s in source)
        if min(shape, default=1):
            begin, end = (sum(s.start * d for s, d in zip(t, by, strict=True)) for t, by in ((source, xs), (target, ys)))
            to.copy(to.input(0).at(begin), to.output().at(end), shape, xs, ys)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return to.add(CenterCropPad(), to.dy(), to.constant(np.array(to.inputs[0].shape, np.int64))), None


def middles(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What of an array of the one shape goes where in one of the other, middle to middle."""
    source = tuple(slice(max(a - b, 0) // 2, max(a - b, 0) // 2 + min(a, b)) for a, b in zip(x, y, strict=True))
    target = tuple(slice(max(b - a, 0) // 2, max(b - a, 0) // 2 + min(a, b)) for a, b in zip(x, y, strict=True))
    return source, target
