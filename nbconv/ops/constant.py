"""Ops that make values from attributes, shapes or bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec, spec_of
from nbconv.graph import infer as want
from nbconv.graph.infer import INT64
from nbconv.graph.op import CHANNELS_FIRST, ONLY_FLOAT32, STORED, Op
from nbconv.graph.symbolic import apply, shape_of
from nbconv.lowering.context import Lowering
from nbconv.ops.linear import reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward, Expansion


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
    kernel_layout = CHANNELS_FIRST

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

    def has_kernel(self, inputs, outputs) -> bool:
        return outputs[0].dtype in STORED | ONLY_FLOAT32

    def on_processors(self, inputs, outputs) -> bool:
        return outputs[0].dtype not in ONLY_FLOAT32

    def lower(self, to: Lowering) -> None:
        to.fill(to.output(), to.outputs[0].size, self.fill().item())


class EyeLike(Op):
    """Ones where column - row is ``k``, else 0, in x's shape; of the element type ``dtype``, by default x's. Known as soon
    as x's shape is."""

    moves = True

    dtype: int | None = None
    k: int = 0

    def infer(self, x: Spec) -> Spec:
        want.rank(x, 2, 2)
        return Spec(x.shape, x.dtype if self.dtype is None else want.dtype_of(self.dtype))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.eye(x.shape[0], x.shape[1], self.k, self.infer(Spec(x.shape, x.dtype)).dtype)

    def known(self, *inputs: Any) -> tuple[np.ndarray, ...] | None:
        return (np.eye(inputs[0].shape[0], inputs[0].shape[1], self.k, self.infer(inputs[0]).dtype),)


class OneHot(Op):
    """values[1] where the new axis's coordinate is the index, which counts from the back where it is negative, else
    values[0]; the new axis, of size ``depth``, is ``axis`` of the result."""

    fixed = (2,)
    moves = True

    axis: int = -1

    def infer(self, indices: Spec, depth: Spec, values: Spec) -> Spec:
        want.kind("fiu", indices=indices, depth=depth)
        want.kind("fiub", values=values)
        want.scalar(depth, "depth")
        want.vector(2, "OneHot", values=values)
        axis = want.axis(self.axis, indices.rank + 1)
        count = int(want.known(depth, "depth").reshape(()))
        return want.make((*indices.shape[:axis], count, *indices.shape[axis:]), values.dtype)

    def reference(self, indices: np.ndarray, depth: np.ndarray, values: np.ndarray) -> np.ndarray:
        axis, count = self.axis % (indices.ndim + 1), int(depth.reshape(()))
        which = np.expand_dims(indices.astype(np.int64), axis)
        which = np.where(which < 0, which + count, which)
        here = np.arange(count).reshape(-1, *[1] * (indices.ndim - axis))
        return np.where(here == which, values[1], values[0])

    def expand(self, to: Expansion) -> str | None:
        """The value that a comparison of indices with coordinates, counted from both ends, chooses."""
        from nbconv.ops.cast import Cast
        from nbconv.ops.gather import Gather
        from nbconv.ops.logic import Equal, Or, Where

        indices, axis, count = to.inputs[0], want.axis(self.axis, to.inputs[0].rank + 1), to.outputs[0].shape[self.axis]
        which = to.x() if indices.dtype == want.INT64 else to.add(Cast(to=want.number_of(want.INT64)), to.x())
        which = reshape(to, which, (*indices.shape[:axis], 1, *indices.shape[axis:]))
        here = np.arange(count).reshape(-1, *[1] * (indices.rank - axis))
        masks = (to.add(Equal(), which, to.constant(places)) for places in (here, here - count))
        on, off = (to.add(Gather(), to.x(2), to.constant(np.array(i))) for i in (1, 0))
        return to.add(Where(), to.add(Or(), *masks), on, off)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """Σ dy over the places of each value."""
        from nbconv.ops.pointwise import Mul
        from nbconv.ops.reduce import ReduceSum
        from nbconv.ops.shape import Concat

        dtype = to.inputs[2].dtype
        parts = []
        for pair in ((1, 0), (0, 1)):
            mask = to.add(OneHot(axis=self.axis), to.x(0), to.x(1), to.constant(np.array(pair, dtype)))
            total = to.add(ReduceSum(keepdims=0), to.add(Mul(), to.dy(), mask))
            parts.append(reshape(to, total, (1,)))
        return None, None, to.add(Concat(axis=0), *parts)


class Shape(Op):
    """x's shape from axis ``start`` up to ``end``, int64; known as soon as x's shape is."""

    moves = True

    start: int = 0
    end: int | None = None

    def infer(self, x: Spec) -> Spec:
        found = self.dims(x.shape)
        return Spec(shape_of(found), INT64, found, True)

    def dims(self, shape: tuple[int, ...]) -> np.ndarray:
        """The answer for this shape; both bounds are clamped to the rank."""
        n = len(shape)
        start, end = (min(max(v + n if v < 0 else v, 0), n) for v in (self.start, n if self.end is None else self.end))
        return apply(_vector, shape[start:end])

    def reference(self, x: np.ndarray) -> np.ndarray:
        return self.dims(x.shape)

    def known(self, *inputs: Any) -> tuple[np.ndarray, ...] | None:
        return (self.dims(inputs[0].shape),)


def _vector(sizes: tuple[int, ...]) -> np.ndarray:
    return np.array(sizes, np.int64)


def _scalar(size: int) -> np.ndarray:
    return np.array(size, np.int64)


class Size(Op):
    """How many elements x has, an int64 scalar; known as soon as x's shape is."""

    moves = True

    def infer(self, x: Spec) -> Spec:
        return Spec((), INT64, apply(_scalar, x.size), True)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.array(x.size, np.int64)

    def known(self, *inputs: Any) -> tuple[np.ndarray, ...] | None:
        return (apply(_scalar, inputs[0].size),)


class Range(Op):
    """start, start + delta, … before limit."""

    fixed = (0, 1, 2)
    moves = True
    in_numpy = "numbers by position, made once their count is known"

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
