"""Parts of a tensor: SLICE by sizes, STRIDED_SLICE by ends, strides and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nbconv.converters.tflite.builder import Builder
from nbconv.converters.tflite.movement import LARGEST, moved
from nbconv.converters.tflite.reader import Operator
from nbconv.errors import ModelError, UnsupportedError


def slice_(to: Builder, node: Operator) -> None:
    x, begin, size = node.inputs[:3]
    starts, sizes = to.known(begin), to.known(size)
    real, order = moved(to, node), to.order(x)
    if starts is None or sizes is None:
        first, count = to.indices(begin), to.indices(size)
        rest = to.add("Equal", count, to.integers([-1]))
        last = to.add("Where", rest, to.integers([LARGEST]), to.add("Add", first, count))
        to.put(node.outputs[0], to.add("Slice", to.get(x, real=real), first, last), real=real)
        return
    at, cut = to.whole(begin, "begin"), to.whole(size, "size")
    if len(at) != to.tensors[x].rank or len(cut) != len(at):
        raise ModelError(f"its begin {at} and size {cut} do not fit an input of rank {to.tensors[x].rank}")
    ends = [LARGEST if c == -1 else a + c for a, c in zip(at, cut, strict=True)]
    axes = to.axes(range(len(at)), len(at), order)
    made = to.add("Slice", to.get(x, order, real), *(to.integers(v) for v in (at, ends, axes)))
    to.put(node.outputs[0], made, order, real)


class Cut(NamedTuple):
    """What is taken of an axis: a start and an end, None where the model computes them, and the stride."""

    axis: int
    place: int
    """in the operator's begin, end and strides"""
    start: int | None
    end: int | None
    stride: int
    one: bool
    """a single index, whose axis goes"""


def strided_slice(to: Builder, node: Operator) -> None:
    o, (x, begin, end, strides) = node.options("StridedSliceOptions"), node.inputs[:4]
    if o.EllipsisMask():
        raise UnsupportedError("an ellipsis mask is not supported")
    steps = to.whole(strides, "strides")
    first, last = _bounds(to, begin, len(steps)), _bounds(to, end, len(steps))
    cuts: list[Cut] = []
    new, place = [], 0
    for i, (b, e, s) in enumerate(zip(first, last, steps, strict=True)):
        bit = 1 << i
        if o.NewAxisMask() & bit:
            new.append(place)
            place += 1
            continue
        if s == 0:
            raise ModelError("a stride is 0")
        one = bool(o.ShrinkAxisMask() & bit)
        if one:
            e, s = None if b is None else b + 1 if b != -1 else LARGEST, 1
        else:
            b = (0 if s > 0 else LARGEST) if o.BeginMask() & bit else b
            e = (LARGEST if s > 0 else -LARGEST) if o.EndMask() & bit else e
            place += 1
        cuts.append(Cut(len(cuts), i, b, e, s, one))
    if getattr(o, "Offset", bool)():
        raise UnsupportedError("ends that count from the start are not supported")
    real, gone = moved(to, node), [c.axis for c in cuts if c.one]
    order = to.order(x) if not new and not gone else None
    axes = to.axes([c.axis for c in cuts], to.tensors[x].rank, order)
    starts = _vector(to, [c.start for c in cuts], begin, cuts)
    ends = _vector(to, [c.end for c in cuts], end, cuts)
    if any(c.one and c.start is None for c in cuts):
        ends = _after(to, starts, ends, cuts)
    made = to.add("Slice", to.get(x, order, real), starts, ends, to.integers(axes), to.integers([c.stride for c in cuts]))
    made = to.add("Squeeze", made, to.integers(gone)) if gone else made
    made = to.add("Unsqueeze", made, to.integers(new)) if new else made
    to.put(node.outputs[0], made, order, real)


def _bounds(to: Builder, t: int, count: int) -> Sequence[int | None]:
    found = [None] * count if to.known(t) is None else to.whole(t, "bounds")
    if len(found) != count:
        raise ModelError(f"it has {count} strides, and {len(found)} bounds")
    return found


def _vector(to: Builder, values: Sequence[int | None], t: int, cuts: Sequence[Cut]) -> str:
    """Numbers as they are known, the others as tensor ``t`` has them at the cuts' places."""
    known = [v for v in values if v is not None]
    if len(known) == len(values):
        return to.integers(known)
    computed = to.add("Gather", to.indices(t), to.integers([c.place for c in cuts]))
    if not known:
        return computed
    which = to.constant(np.array([v is not None for v in values]))
    return to.add("Where", which, to.integers([v or 0 for v in values]), computed)


def _after(to: Builder, starts: str, ends: str, cuts: Sequence[Cut]) -> str:
    """The ends, those of single indices behind their starts."""
    following = to.add("Add", starts, to.integers([1]))
    following = to.add("Where", to.add("Equal", starts, to.integers([-1])), to.integers([LARGEST]), following)
    return to.add("Where", to.constant(np.array([c.one for c in cuts])), following, ends)


RULES = {"SLICE": slice_, "STRIDED_SLICE": strided_slice}
