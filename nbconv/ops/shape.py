"""Ops that relabel, rearrange, join and cut; blocks stand in blocks.py, what picks by index or makes values in gather.py
and constant.py."""

from __future__ import annotations

from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, ONLY_FLOAT32, STORED, Op
from nbconv.graph.symbolic import apply, indices, whole
from nbconv.lowering.context import Lowering
from nbconv.ops.grad import SliceGrad

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

ALL = "fiubn"
MAX_PIECES = 1 << 16
"""A Split into more is taken for a broken model."""


class Relabel(Op, abstract=True):
    """The same elements in the same order under another shape: nothing moves."""

    moves = True
    keeps_quantisation = True
    rearranges = True

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        """The one of its size with as many elements before it."""
        x, y = inputs[0].shape, outputs[0].shape
        return next((b for b, d in enumerate(y) if d == x[axis] and prod(y[:b]) == prod(x[:axis])), None)

    def bypass(self, inputs) -> bool:
        found = self.infer(*inputs)
        return isinstance(found, Spec) and found.shape == inputs[0].shape

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_FIRST

    def lower(self, to: Lowering) -> None:
        to.alias()

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        shape = to.constant(np.array(to.inputs[0].shape, np.int64))
        return (to.add(Reshape(allowzero=1), to.dy(), shape), *[None] * (len(to.inputs) - 1))


class Reshape(Relabel):
    """In ``shape``, 0 keeps x's dimension (unless ``allowzero``) and one -1 is what is left."""

    keeps_classes = True

    allowzero: int = 0

    def infer(self, x: Spec, shape: Spec) -> Spec:
        want.kind(ALL, x=x)
        return want.make(self.target(x.shape, want.integers(shape, "shape")), x.dtype)

    def target(self, have: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that ``shape`` means for an x of shape ``have``; ModelError when it does not fit."""

        def wrong(why: str = "") -> ModelError:
            return ModelError(f"x of shape {list(have)} cannot take the shape {list(asked)}{why}")

        asked = shape
        if shape.count(-1) > 1 or any(d < -1 for d in shape) or (self.allowzero and 0 in shape and -1 in shape):
            raise wrong()
        if not self.allowzero:
            if any(d == 0 and i >= len(have) for i, d in enumerate(shape)):
                raise wrong(": a 0 stands past x's last axis")
            shape = tuple(have[i] if d == 0 else d for i, d in enumerate(shape))
        if -1 in shape:
            rest = prod(d for d in shape if d != -1)
            if rest == 0 or prod(have) % rest:
                raise wrong()
            shape = tuple(prod(have) // rest if d == -1 else d for d in shape)
        if prod(shape) != prod(have):
            raise wrong()
        return shape

    def reference(self, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
        return x.reshape(self.target(x.shape, tuple(int(d) for d in shape.ravel())))


class Flatten(Relabel):
    """To a matrix: the axes before ``axis``, and the others."""

    keeps_classes = True

    axis: int = 1

    def infer(self, x: Spec) -> Spec:
        want.kind(ALL, x=x)
        if not -x.rank <= self.axis <= x.rank:
            raise ModelError(f"axis {self.axis} is out of range for rank {x.rank}")
        axis = self.axis + x.rank if self.axis < 0 else self.axis
        return Spec((prod(x.shape[:axis]), prod(x.shape[axis:])), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        axis = self.axis + x.ndim if self.axis < 0 else self.axis
        return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


class Squeeze(Relabel):
    """Drops the ``axes``, all of size 1; without them every axis of size 1."""

    keeps_classes = True

    def infer(self, x: Spec, axes: Spec | None = None) -> Spec:
        want.kind(ALL, x=x)
        return Spec(self.target(x.shape, None if axes is None else want.integers(axes, "axes")), x.dtype)

    def target(self, have: tuple[int, ...], axes: tuple[int, ...] | None) -> tuple[int, ...]:
        if axes is None:
            return tuple(d for d in have if d != 1)
        axes = want.axes(axes, len(have))
        for a in axes:
            if have[a] != 1:
                raise ModelError(f"axis {a} of x {list(have)} is {have[a]}, only 1 can be squeezed")
        return tuple(d for i, d in enumerate(have) if i not in axes)

    def reference(self, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        return x.reshape(self.target(x.shape, None if axes is None else tuple(int(a) for a in axes.ravel())))


class Unsqueeze(Relabel):
    """Puts in axes of size 1, at these places of the result."""

    def infer(self, x: Spec, axes: Spec) -> Spec:
        want.kind(ALL, x=x)
        return Spec(self.target(x.shape, want.integers(axes, "axes")), x.dtype)

    def target(self, have: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
        rank = len(have) + len(axes)
        at, rest = want.axes(axes, rank), iter(have)
        return tuple(1 if i in at else next(rest) for i in range(rank))

    def reference(self, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return x.reshape(self.target(x.shape, tuple(int(a) for a in axes.ravel())))


class Transpose(Op):
    """``perm`` names, for each axis of the result, the axis of x; by default the reverse order."""

    moves = True
    keeps_quantisation = True
    rearranges = True

    kernel_dtypes, processor_dtypes, kernel_layout = ONLY_FLOAT32, STORED, CHANNELS_FIRST

    perm: tuple[int, ...] | None = None

    def infer(self, x: Spec) -> Spec:
        want.kind(ALL, x=x)
        perm = tuple(range(x.rank))[::-1] if self.perm is None else self.perm
        if sorted(perm) != list(range(x.rank)):
            raise ModelError(f"perm {list(perm)} is no permutation of x's {x.rank} axes")
        return Spec(tuple(x.shape[p] for p in perm), x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(self.perm)

    def order(self, rank: int) -> tuple[int, ...]:
        return tuple(range(rank))[::-1] if self.perm is None else self.perm

    def kept_axis(self, axis, inputs, outputs) -> int:
        return self.order(inputs[0].rank).index(axis)

    def layouts(self, inputs, outputs, given):
        """As x lies; the result so that nothing moves, where that is possible."""
        x, y = inputs[0], outputs[0]
        if not self.has_kernel(inputs, outputs):
            return None
        here = [a for a in given[0].order(x.rank) if x.shape[a] != 1]
        turned = [a for a in CHANNELS_LAST.physical(self.order(x.rank)) if x.shape[a] != 1] if y.rank >= 3 else None
        return given, (CHANNELS_LAST if here == turned else CHANNELS_FIRST,)

    def lower(self, to: Lowering) -> None:
        x = to.inputs[0]
        order, steps = self.order(x.rank), to.strides(0)
        strides = tuple(steps[a] for a in order)
        there = to.out_strides()
        if all(d == 1 or a == b for d, a, b in zip(to.outputs[0].shape, strides, there, strict=True)):
            to.alias()
        else:
            to.copy(to.input(0), to.output(), to.outputs[0].shape, strides, there)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        order = self.order(to.inputs[0].rank)
        return (to.add(Transpose(perm=tuple(int(i) for i in np.argsort(order))), to.dy()),)


class Concat(Op):
    is_cheap = True
    moves = True
    keeps_quantisation = True
    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED

    axis: int

    def infer(self, *inputs: Spec) -> Spec:
        if not inputs:
            raise ModelError("Concat has no inputs")
        dtype = want.one_type(ALL, **{f"input {i}": x for i, x in enumerate(inputs)})
        first = inputs[0]
        axis = want.axis(self.axis, first.rank)
        for i, x in enumerate(inputs):
            if x.rank != first.rank or any(a != b for j, (a, b) in enumerate(zip(x.shape, first.shape)) if j != axis):
                raise ModelError(f"input {i} is {x}, input 0 is {first}: they differ outside axis {axis}")
        return want.make((*first.shape[:axis], sum(x.shape[axis] for x in inputs), *first.shape[axis + 1 :]), dtype)

    def quantisation(self, inputs, outputs):
        alike = all(x.quantisation == inputs[0].quantisation for x in inputs)
        return super().quantisation(inputs, outputs) if alike else None

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        return axis if axis != want.axis(self.axis, inputs[0].rank) else None

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        return np.concatenate(inputs, axis=self.axis)

    def reads_strided(self, inputs, outputs, i) -> bool:
        return True

    def lower(self, to: Lowering) -> None:
        there, at = to.out_strides(), 0
        axis = want.axis(self.axis, to.outputs[0].rank)
        for i, x in enumerate(to.inputs):
            assert x is not None
            place = to.output().at(at * there[axis])
            pitch = 0 if axis == 0 else to.pitch or to.outputs[0].shape[1 % x.rank]
            if x.size and not to.is_view(to.node.inputs[i], place, pitch):
                to.copy(to.input(i), place, x.shape, to.strides(i), there)
            at += x.shape[axis]

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        axis, dy = want.axis(self.axis, to.outputs[0].rank), to.dy()
        sizes = [x.shape[axis] for x in to.inputs]
        if all(to.wants(i) for i in range(len(sizes))):
            split = to.constant(np.array(sizes, np.int64))
            return to.add_many(Split(axis=axis), len(sizes), dy, split)
        ends = list(accumulate(sizes))
        return tuple(
            to.add(Slice(), dy, *(to.constant(np.array([v], np.int64)) for v in (end - size, end, axis)))
            if to.wants(i)
            else None
            for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
        )


class Split(Op):
    """Pieces along ``axis``: of the sizes in ``split``, or ``num_outputs`` equal ones of which the last may be smaller."""

    moves = True
    keeps_quantisation = True

    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED

    axis: int = 0
    num_outputs: int | None = None

    def sizes(self, size: int, split: tuple[int, ...] | None) -> tuple[int, ...]:
        """How large each piece of an axis of this size is."""
        if split is None:
            if self.num_outputs is None or self.num_outputs < 1:
                raise ModelError("Split wants its input split, or a positive attribute num_outputs")
            piece = -(-size // self.num_outputs)
            last = size - piece * (self.num_outputs - 1)
            if last < 0 or self.num_outputs > MAX_PIECES:
                raise ModelError(f"an axis of size {size} does not split into {self.num_outputs}")
            split = (*[piece] * (self.num_outputs - 1), last)
        if not split or sum(split) != size or min(split) < 0:
            raise ModelError(f"pieces {list(split)} do not make up an axis of size {size}")
        return split

    def infer(self, x: Spec, split: Spec | None = None) -> tuple[Spec, ...]:
        want.kind(ALL, x=x)
        axis = want.axis(self.axis, x.rank)
        sizes = self.sizes(x.shape[axis], None if split is None else want.integers(split, "split"))
        return tuple(Spec((*x.shape[:axis], s, *x.shape[axis + 1 :]), x.dtype) for s in sizes)

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        return axis if axis != want.axis(self.axis, inputs[0].rank) else None

    def reference(self, x: np.ndarray, split: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        sizes = self.sizes(x.shape[self.axis], None if split is None else tuple(int(s) for s in split.ravel()))
        return tuple(np.split(x, list(accumulate(sizes))[:-1], axis=self.axis))

    def reads_strided(self, inputs, outputs, i) -> bool:
        return True

    def lower(self, to: Lowering) -> None:
        x = to.inputs[0]
        here, at, axis = to.strides(0), 0, want.axis(self.axis, x.rank)
        sizes = self.sizes(x.shape[axis], None if len(to.inputs) < 2 else want.integers(to.inputs[1], "split"))
        named = [name for name in to.node.outputs if name]
        for name, size in zip(to.node.outputs, sizes, strict=False):
            if name and size:
                i, place = named.index(name), to.input(0).at(at * here[axis])
                if x.rank < 3 or not to.is_view(name, place, to.ld(0)):
                    to.copy(place, to.output(i), to.outputs[i].shape, here, to.out_strides(i))
            at += size

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        dys = [to.dy(i) for i in range(len(to.node.outputs))]
        parts = [dy or to.constant(np.zeros(s.shape, s.dtype)) for dy, s in zip(dys, to.outputs, strict=True)]
        return (to.add(Concat(axis=self.axis), *parts), *[None] * (len(to.inputs) - 1))


def _count(start: int, stop: int, step: int) -> int:
    return len(range(start, stop, step))


class Slice(Op):
    """Numpy's basic slicing along ``axes``; starts and ends count from the back when negative, and are clamped."""

    kernel_dtypes, processor_dtypes = ONLY_FLOAT32, STORED

    moves = True
    keeps_quantisation = True

    def slices(self, shape: tuple[int, ...], starts, ends, axes=None, steps=None) -> tuple[slice, ...]:
        """One slice an axis, from the inputs as sequences of integers; ModelError for what does not fit."""
        starts, ends = [whole(v) for v in starts], [whole(v) for v in ends]
        axes = range(len(starts)) if axes is None else axes
        steps = [1] * len(starts) if steps is None else [whole(v) for v in steps]
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise ModelError(f"starts, ends, axes and steps differ in length: {starts}, {ends}, {list(axes)}, {steps}")
        found = [slice(None)] * len(shape)
        for a, start, end, step in zip(want.axes(axes, len(shape)), starts, ends, steps, strict=True):
            if step == 0:
                raise ModelError("steps has a 0")
            size = shape[a]
            start, end = (v + size if v < 0 else v for v in (start, end))
            low, high = (0, size) if step > 0 else (-1, size - 1)
            start, end = min(max(start, 0), high), min(max(end, low), high)
            found[a] = slice(start, None if end < 0 else end, step) if size else slice(0, 0)
        return tuple(found)

    def infer(self, x: Spec, starts: Spec, ends: Spec, axes: Spec | None = None, steps: Spec | None = None) -> Spec:
        want.kind(ALL, x=x)
        given = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        values = [None if spec is None else want.integers(spec, name) for name, spec in given.items()]
        found = self.slices(x.shape, *values)
        return Spec(tuple(apply(_count, *indices(s, d)) for s, d in zip(found, x.shape, strict=True)), x.dtype)

    def reference(self, x: np.ndarray, starts, ends, axes=None, steps=None) -> np.ndarray:
        vectors = (None if v is None else v.ravel() for v in (starts, ends, axes, steps))
        return x[self.slices(x.shape, *vectors)]

    def bypass(self, inputs) -> bool:
        return all(s in (slice(None), slice(0, d, 1)) for s, d in zip(self.cuts(inputs), inputs[0].shape, strict=True))

    def cuts(self, inputs) -> tuple[slice, ...]:
        """One slice an axis, from the Specs of the inputs."""
        given = [None if spec is None else want.integers(spec, "slice") for spec in inputs[1:]]
        return self.slices(inputs[0].shape, *given)

    def kept_axis(self, axis, inputs, outputs) -> int | None:
        return axis if self.cuts(inputs)[axis] in (slice(None), slice(0, inputs[0].shape[axis], 1)) else None

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0

    def lower(self, to: Lowering) -> None:
        x, here, offset = to.inputs[0], list(to.strides(0)), 0
        for a, (cut, size) in enumerate(zip(self.cuts(to.inputs), x.shape, strict=True)):
            start, _, step = indices(cut, size)
            offset += start * here[a]
            here[a] *= step
        if to.is_view(to.node.outputs[0], to.input(0).at(offset), 0):
            return
        to.copy(to.input(0).at(offset), to.output(), to.outputs[0].shape, tuple(here), to.out_strides())

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        shape = to.inputs[0].shape
        cuts = [cut.indices(d) for cut, d in zip(self.cuts(to.inputs), shape, strict=True)]
        starts, steps = tuple(c[0] for c in cuts), tuple(c[2] for c in cuts)
        dx = to.add(SliceGrad(shape=shape, starts=starts, steps=steps), to.dy())
        return (dx, *[None] * (len(to.inputs) - 1))
