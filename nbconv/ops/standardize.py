"""Normalisations by rows: of instances, layers, groups."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import CHANNELS_LAST, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import ANY, CHANNELS_FIRST, NUMPY, ONLY_FLOAT32, Op, same_dtype
from nbconv.kernels.params import RowAffine
from nbconv.lowering.context import Lowering, Ref
from nbconv.ops.batch_norm import along_channels
from nbconv.ops.cast import CastLike
from nbconv.ops.grad import ExpandLike
from nbconv.ops.pointwise import Add, Mul, Sub
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.shape import Reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


def standardize(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x - mean) · r over ``axes``, the mean, and r = 1 / sqrt(variance + epsilon); the last two with kept axes."""
    with np.errstate(all="ignore"):
        count = x.dtype.type(np.prod([x.shape[a] for a in axes], dtype=np.int64))
        mean = x.sum(axis=axes, keepdims=True) / count
        centred = x - mean
        inverse = 1 / np.sqrt((centred * centred).sum(axis=axes, keepdims=True) / count + x.dtype.type(epsilon))
        return centred * inverse, mean, inverse


def stash_dtype(op: Op, number: int) -> np.dtype:
    """The type in which statistics are computed, at least: ``stash_type``."""
    dtype = want.dtype_of(number)
    if dtype.kind != "f":
        raise ModelError(f"{op.type}: stash_type is {dtype.name}, wanted floating point")
    return dtype


class InstanceNormalization(Op):
    """Each plane of x (n, c, …) standardised by itself, times scale (c), plus b (c)."""

    is_norm = True
    parameters = (1, 2)

    epsilon: float = 1e-5

    def infer(self, x: Spec, scale: Spec, b: Spec) -> Spec:
        dtype = want.one_type("f", x=x, scale=scale, b=b)
        want.rank(x, 3)
        want.vector(x.shape[1], f"x with {x.shape[1]} channels", scale=scale, b=b)
        return Spec(x.shape, dtype)

    def reference(self, x: np.ndarray, scale: np.ndarray, b: np.ndarray) -> np.ndarray:
        y, _, _ = standardize(x, tuple(range(2, x.ndim)), self.epsilon)
        return y * along_channels(scale, x) + along_channels(b, x)

    def flops(self, inputs, outputs) -> int:
        return 6 * outputs[0].size

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and same_dtype(inputs) and inputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        n, c, *size = to.inputs[0].shape
        rows, groups, run = n * c, c, prod(size)
        standardized(to, rows, self.epsilon, groups, run)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        n, c, *_ = to.inputs[0].shape
        return affine_gradient(to, n * c, self.epsilon, (-1, *[1] * (to.inputs[0].rank - 2)))


class LayerNormalization(Op):
    """x standardised over its axes from ``axis`` on, times scale, plus b (both broadcast to x). Also gives the mean and
    the inverse of the standard deviation, of type ``stash_type``, which is the least the statistics are computed in."""

    is_cheap = True
    is_norm = True
    parameters = (1, 2)

    axis: int = -1
    epsilon: float = 1e-5
    stash_type: int = 1

    def infer(self, x: Spec, scale: Spec, b: Spec | None = None) -> tuple[Spec, Spec, Spec]:
        dtype = want.one_type("f", x=x, scale=scale, b=b)
        axis = want.axis(self.axis, x.rank)
        want.broadcast_to(scale.shape, x.shape, "scale")
        if b is not None:
            want.broadcast_to(b.shape, x.shape, "b")
        row = (*x.shape[:axis], *[1] * (x.rank - axis))
        stash = stash_dtype(self, self.stash_type)
        return Spec(x.shape, dtype), Spec(row, stash), Spec(row, stash)

    def reference(self, x: np.ndarray, scale: np.ndarray, b: np.ndarray | None = None):
        stash = stash_dtype(self, self.stash_type)
        wide = x.astype(np.promote_types(x.dtype, stash), copy=False)
        y, mean, inverse = standardize(wide, tuple(range(self.axis % x.ndim, x.ndim)), self.epsilon)
        y = y.astype(x.dtype, copy=False) * scale
        return y if b is None else y + b, mean.astype(stash), inverse.astype(stash)

    def flops(self, inputs, outputs) -> int:
        return 6 * outputs[0].size

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    def has_kernel(self, inputs, outputs) -> bool:
        x, axis = inputs[0], want.axis(self.axis, inputs[0].rank)
        given = [s for s in inputs[1:] if s is not None]
        plain = all(s.size == 1 for s in given) or all(s.shape == x.shape[axis:] for s in given)
        return super().has_kernel(inputs, outputs) and same_dtype((*inputs, *outputs)) and plain and x.size > 0

    def lower(self, to: Lowering) -> None:
        rows = prod(to.inputs[0].shape[: want.axis(self.axis, to.inputs[0].rank)])
        single = to.inputs[1].size == 1  # for a whole row
        if single or any(to.node.outputs[1:]):
            standardized(to, rows, self.epsilon, 1, to.outputs[0].size // rows if single else 1)
            return
        scale, shifted = to.input(1), to.has(2)
        to.step(
            "normalize.layer",
            rows,
            work=32 * to.outputs[0].size,
            x=to.input(0),
            y=to.output(),
            affine=RowAffine(scale, to.input(2) if shifted else scale, 1, 1, 1, int(shifted)),
            n=to.outputs[0].size // rows,
            epsilon=self.epsilon,
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x = to.inputs[0]
        rows = prod(x.shape[: want.axis(self.axis, x.rank)])
        dx, *others = affine_gradient(to, rows, self.epsilon, None) if to.dy() else (None,) * len(to.inputs)
        parts = [dx, *(part(to, rows) for i, part in ((1, through_mean), (2, through_inverse)) if to.dy(i) and to.wants(0))]
        parts = [p for p in parts if p is not None]
        total = parts[0] if parts else None
        for p in parts[1:]:
            total = to.add(Add(), str(total), p)
        return total, *others


class GroupNormalization(Op):
    """Channels of x (n, c, …) in ``num_groups`` groups, each standardised by itself, times scale (c), plus b (c)."""

    is_cheap = True
    is_norm = True
    parameters = (1, 2)

    num_groups: int
    epsilon: float = 1e-5
    stash_type: int = 1

    def infer(self, x: Spec, scale: Spec, b: Spec) -> Spec:
        dtype = want.one_type("f", x=x, scale=scale, b=b)
        want.rank(x, 3)
        if self.num_groups < 1 or x.shape[1] % self.num_groups:
            raise ModelError(f"x has {x.shape[1]} channels, not a multiple of {self.num_groups} groups")
        want.vector(x.shape[1], f"x with {x.shape[1]} channels", scale=scale, b=b)
        stash_dtype(self, self.stash_type)
        return Spec(x.shape, dtype)

    def reference(self, x: np.ndarray, scale: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide = x.astype(np.promote_types(x.dtype, stash_dtype(self, self.stash_type)), copy=False)
        grouped = wide.reshape(x.shape[0], self.num_groups, x.shape[1] // self.num_groups, *x.shape[2:])
        y, _, _ = standardize(grouped, tuple(range(2, grouped.ndim)), self.epsilon)
        return y.reshape(x.shape).astype(x.dtype, copy=False) * along_channels(scale, x) + along_channels(b, x)

    def flops(self, inputs, outputs) -> int:
        return 6 * outputs[0].size

    kernel_dtypes = ONLY_FLOAT32

    def layout(self, inputs, outputs) -> str:
        """One group has all that belongs together side by side, however it lies."""
        served = self.has_kernel(inputs, outputs) and same_dtype(inputs) and inputs[0].size > 0
        return NUMPY if not served else ANY if self.num_groups == 1 else CHANNELS_FIRST

    def lower(self, to: Lowering) -> None:
        n, c, *size = to.inputs[0].shape
        if to.layout(to.node.inputs[0]) is CHANNELS_LAST:
            mean, inverse = moments(to, to.input(0), n, c * prod(size), self.epsilon)
            affine = RowAffine(to.input(1), to.input(2), 1, 1, 1, 1)
            normalized(to, mean, inverse, affine, n * prod(size), prod(size))
            return
        rows, groups, run = n * self.num_groups, self.num_groups, prod(size)
        standardized(to, rows, self.epsilon, groups, run)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        rows = to.inputs[0].shape[0] * self.num_groups
        return affine_gradient(to, rows, self.epsilon, (-1, *[1] * (to.inputs[0].rank - 2)))


class Standardize(Op):
    """x, seen as so many ``rows``, each less its mean and divided by sqrt(its variance + epsilon)."""

    domain = "nbconv"

    rows: int
    epsilon: float

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        if x.size % max(self.rows, 1):
            raise ModelError(f"x is {x}: it has no {self.rows} equal rows")
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return standardize(x.reshape(self.rows, -1), (1,), self.epsilon)[0].reshape(x.shape)

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and inputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        standardized(to, self.rows, self.epsilon, 1, 0)


class StandardizeGrad(Op):
    """r · (dy - mean(dy) - s · mean(dy · s)), where s = Standardize(x) and r what it multiplied by; means over each row."""

    domain = "nbconv"

    rows: int
    epsilon: float

    def infer(self, dy: Spec, x: Spec) -> Spec:
        dtype = want.one_type("f", dy=dy, x=x)
        if dy.shape != x.shape or x.size % max(self.rows, 1):
            raise ModelError(f"dy is {dy}, x is {x}: wanted one shape of {self.rows} equal rows")
        return Spec(x.shape, dtype)

    def reference(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        s, _, inverse = standardize(x.reshape(self.rows, -1), (1,), self.epsilon)
        dy, count = dy.reshape(s.shape), s.dtype.type(max(s.shape[1], 1))
        with np.errstate(all="ignore"):
            mean, along = (v.sum(axis=1, keepdims=True) / count for v in (dy, dy * s))
            return (inverse * (dy - mean - s * along)).reshape(x.shape)

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and inputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        n = to.inputs[1].size // self.rows
        mean, inverse = moments(to, to.input(1), self.rows, n, self.epsilon)
        to.step(
            "normalize.standardize_grad",
            self.rows,
            writes=("dx",),
            work=32 * to.inputs[1].size,
            dy=to.input(0),
            x=to.input(1),
            mean=mean,
            inverse=inverse,
            dx=to.output(),
            n=n,
        )


def moments(to: Lowering, x: Ref, rows: int, n: int, epsilon: float) -> tuple[Ref, Ref]:
    """A step that finds the mean and the inverse deviation of each row; where they lie."""
    mean, inverse = to.floats(rows), to.floats(rows)
    to.step(
        "normalize.moments",
        rows,
        writes=("mean", "inverse"),
        work=16 * rows * n,
        x=x,
        mean=mean,
        inverse=inverse,
        n=n,
        epsilon=epsilon,
    )
    return mean, inverse


def standardized(to: Lowering, rows: int, epsilon: float, groups: int, run: int) -> None:
    """The steps of a normalisation by rows: moments, then the scale and shift. Row r has the scales of group r % groups,
    one for each ``run`` of its elements; with run 0 there are none."""
    n = to.outputs[0].size // rows
    mean, inverse = moments(to, to.input(0), rows, n, epsilon)
    for name, source in zip(to.node.outputs[1:], (mean, inverse), strict=False):
        if name:
            to.copy(source, Ref(name), (rows,), (1,), (1,))
    scaled, shifted = run > 0, run > 0 and to.has(2)
    scale, shift = to.input(1) if scaled else mean, to.input(2) if shifted else mean
    normalized(to, mean, inverse, RowAffine(scale, shift, groups, run or n, int(scaled), int(shifted)), rows, 1)


def normalized(to: Lowering, mean: Ref, inverse: Ref, affine: RowAffine, rows: int, sharing: int) -> None:
    """The step that scales and shifts rows of the input, of which so many share a mean."""
    to.step(
        "normalize.normalize",
        rows,
        work=16 * to.outputs[0].size,
        x=to.input(0),
        mean=mean,
        inverse=inverse,
        affine=affine,
        y=to.output(),
        n=to.outputs[0].size // rows,
        sharing=sharing,
    )


def through_mean(to: Backward, rows: int) -> str:
    """The gradient of x through LayerNormalization's mean: dmean / n."""
    n = to.constant(np.array(rows / to.inputs[0].size, to.inputs[0].dtype))
    return to.add(ExpandLike(), to.add(Mul(), to.add(CastLike(), to.dy(1), to.x()), n), to.x())


def through_inverse(to: Backward, rows: int) -> str:
    """The gradient of x through LayerNormalization's inverse deviation r: -dr · r³ · (x - mean) / n."""
    x = to.x()
    mean, r, dr = (to.add(CastLike(), v, x) for v in (to.y(1), to.y(2), to.dy(2)))
    n = to.constant(np.array(-rows / to.inputs[0].size, to.inputs[0].dtype))
    factor = to.add(Mul(), to.add(Mul(), dr, n), to.add(Mul(), r, to.add(Mul(), r, r)))
    return to.add(Mul(), to.add(Sub(), x, mean), factor)


def affine_gradient(to: Backward, rows: int, epsilon: float, along: tuple[int, ...] | None) -> tuple[str | None, ...]:
    """The gradients of x, scale and shift of a normalisation by rows; ``along`` is the shape in which the scale broadcasts
    to x, where that is not its own."""
    dy, scale = to.dy(), to.x(1)
    if along is not None:
        scale = to.add(Reshape(), scale, to.constant(np.array(along, np.int64)))
    dx = dscale = dshift = None
    if to.wants(0):
        dx = to.add(StandardizeGrad(rows=rows, epsilon=epsilon), to.add(Mul(), dy, scale), to.x(0))
    axes = None if along is None else to.constant(np.array([i for i in range(to.inputs[0].rank) if i != 1], np.int64))

    def total(v: str, i: int) -> str:
        return to.reduced(v, i) if axes is None else to.add(ReduceSum(keepdims=0), v, axes)

    if to.wants(1):
        dscale = total(to.add(Mul(), dy, to.add(Standardize(rows=rows, epsilon=epsilon), to.x(0))), 1)
    if to.wants(2):
        dshift = total(dy, 2)
    return (dx, dscale, dshift)[: len(to.inputs)]
