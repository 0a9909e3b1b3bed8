"""Ops that make values from attributes, shapes or bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec, spec_of
from nbconv.graph import infer as want
from nbconv.graph.op import Op


class Constant(Op):
    """The one attribute that is given."""

    moves = True

    value: np.ndarray | None = None
    value_float: float | None = None
    value_floats: tuple[float, ...] | None = None
    value_int: int | None = None
    value_ints: tuple[int, ...] | None = None

    def infer(self) -> Spec:
        return spec_of(self.reference())

    def reference(self) -> np.ndarray:
        given = [name for name in self.fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ModelError(f"Constant wants one attribute, got {', '.join(given) or 'none'}")
        value = getattr(self, given[0])
        if given[0] == "value":
            return value
        return np.array(value, np.float32 if "float" in given[0] else np.int64)


class ConstantOfShape(Op):
    """An array of this shape, full of ``value`` (one element; float32 0 by default)."""

    moves = True

    value: np.ndarray | None = None

    def fill(self) -> np.ndarray:
        value = np.zeros(1, np.float32) if self.value is None else self.value
        if value.size != 1:
            raise ModelError(f"value has {value.size} elements, wanted one")
        return value.reshape(())

    def infer(self, shape: Spec) -> Spec:
        return want.make(want.integers(shape, "shape"), self.fill().dtype)

    def reference(self, shape: np.ndarray) -> np.ndarray:
        value = self.fill()
        return np.full(tuple(int(d) for d in shape.ravel()), value, value.dtype)


class Shape(Op):
    """x's shape from axis ``start`` up to ``end``, int64; known as soon as x's shape is."""

    moves = True

    start: int = 0
    end: int | None = None

    def infer(self, x: Spec) -> Spec:
        return spec_of(self.dims(x.shape))

    def dims(self, shape: tuple[int, ...]) -> np.ndarray:
        """The answer for this shape; both bounds are clamped to the rank."""
        n = len(shape)
        start, end = (min(max(v + n if v < 0 else v, 0), n) for v in (self.start, n if self.end is None else self.end))
        return np.array(shape[start:end], np.int64)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return self.dims(x.shape)

    def known(self, *inputs: Any) -> tuple[np.ndarray, ...] | None:
        return (self.dims(inputs[0].shape),)


class Size(Op):
    """How many elements x has, an int64 scalar; known as soon as x's shape is."""

    moves = True

    def infer(self, x: Spec) -> Spec:
        return spec_of(np.array(x.size, np.int64))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.array(x.size, np.int64)

    def known(self, *inputs: Any) -> tuple[np.ndarray, ...] | None:
        return (np.asarray(inputs[0].size, np.int64),)


class Range(Op):
    """start, start + delta, … before limit."""

    moves = True

    def infer(self, start: Spec, limit: Spec, delta: Spec) -> Spec:
        dtype = want.one_type("fi", start=start, limit=limit, delta=delta)
        bounds = []
        for name, spec in (("start", start), ("limit", limit), ("delta", delta)):
            want.scalar(spec, name)
            bounds.append(want.known(spec, name))
        return want.make((self.count(*bounds),), dtype)

    def count(self, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> int:
        """max(ceil((limit - start) / delta), 0)."""
        first, last, step = start.item(), limit.item(), delta.item()
        if step == 0:
            raise ModelError("delta is 0")
        try:
            n = -((first - last) // step) if isinstance(step, int) else math.ceil((last - first) / step)
        except (OverflowError, ValueError):
            raise ModelError(f"start {first}, limit {last}, delta {step} make no finite range") from None
        return max(n, 0)

    def reference(self, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
        steps = np.arange(self.count(start, limit, delta)).astype(start.dtype)
        return (start.reshape(()) + steps * delta.reshape(())).astype(start.dtype, copy=False)
