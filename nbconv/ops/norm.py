"""Normalisations."""

from __future__ import annotations

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.lowering import Lowering
from nbconv.ops import spec as want
from nbconv.ops.op import CHANNELS_LAST, NUMPY, Op


def along_channels(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A vector over axis 1, shaped to broadcast against ``x``, in x's type."""
    return v.reshape(-1, *[1] * (x.ndim - 2)).astype(x.dtype, copy=False)


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


class BatchNormalization(Op):
    """(x - mean) / sqrt(var + epsilon) · scale + b, each a vector over x's axis 1; inference only."""

    parameters = (1, 2)

    epsilon: float = 1e-5
    momentum: float = 0.9
    training_mode: int = 0

    def infer(self, x: Spec, scale: Spec, b: Spec, mean: Spec, var: Spec) -> Spec:
        if self.training_mode:
            raise UnsupportedError("training_mode=1 is not supported")
        want.kind("f", x=x, scale=scale, b=b, mean=mean, var=var)
        want.rank(x, 2)
        want.vector(x.shape[1], f"x with {x.shape[1]} channels", scale=scale, b=b, mean=mean, var=var)
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray, scale: np.ndarray, b: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
        scale, b, mean, var = (along_channels(v, x) for v in (scale, b, mean, var))
        with np.errstate(all="ignore"):
            return (x - mean) / np.sqrt(var + x.dtype.type(self.epsilon)) * scale + b

    def flops(self, inputs, outputs) -> int:
        return 2 * outputs[0].size

    def layout(self, inputs, outputs) -> str:
        known = all(spec.constant for spec in inputs[1:])
        return CHANNELS_LAST if known and inputs[0].dtype == np.float32 else NUMPY

    def absorbs(self, inputs, outputs) -> str:
        return "clamp"

    def lower(self, to: Lowering) -> None:
        names, c = to.node.inputs, to.outputs[0].shape[1]

        def factors() -> tuple[np.ndarray, np.ndarray]:
            scale, b, mean, var = (to.value(i).astype(np.float64) for i in range(1, 5))
            s = scale / np.sqrt(var + self.epsilon)
            return s.astype(np.float32), (b - mean * s).astype(np.float32)

        to.step(
            "norm.affine", to.outputs[0].size // c, work=16 * to.outputs[0].size, x=to.input(0), y=to.output(), c=c,
            scale=to.constant(f"{'/'.join(names[1:])}#{self.epsilon}#scale", lambda: factors()[0]),
            shift=to.constant(f"{'/'.join(names[1:])}#{self.epsilon}#shift", lambda: factors()[1]), **to.epilogue.clamp(),
        )  # fmt: skip


class InstanceNormalization(Op):
    """Each plane of x (n, c, …) standardised by itself, times scale (c), plus b (c)."""

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


class LayerNormalization(Op):
    """x standardised over its axes from ``axis`` on, times scale, plus b (both broadcast to x). Also gives the mean and
    the inverse of the standard deviation, of type ``stash_type``, which is the least the statistics are computed in."""

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


class GroupNormalization(Op):
    """Channels of x (n, c, …) in ``num_groups`` groups, each standardised by itself, times scale (c), plus b (c)."""

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


class LRN(Op):
    """x / (bias + alpha / size · Σx²)^beta, the sum over ``size`` channels around each, floor((size-1)/2) of them before."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.rank(x, 2)
        if self.size < 1:
            raise ModelError(f"size is {self.size}, must be positive")
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            square, total, c = x * x, np.zeros(x.shape, x.dtype), x.shape[1]
            before, after = min((self.size - 1) // 2, c), min(self.size // 2, c)
            for shift in range(-before, after + 1):
                lo, hi = max(0, -shift), min(c, c - shift)
                total[:, lo:hi] += square[:, lo + shift : hi + shift]
            return x / (self.bias + self.alpha / self.size * total) ** self.beta

    def flops(self, inputs, outputs) -> int:
        return (self.size + 4) * outputs[0].size

    def layout(self, inputs, outputs) -> str:
        fits = inputs[0].shape[1] <= 4096 and self.size <= 128  # see kernels/cpu/norm.py
        return CHANNELS_LAST if fits and inputs[0].dtype == np.float32 else NUMPY

    def lower(self, to: Lowering) -> None:
        size, c = to.outputs[0].size, to.outputs[0].shape[1]
        to.step(
            "norm.lrn", size // c, work=100 * size, x=to.input(0), y=to.output(), c=c, before=(self.size - 1) // 2,
            after=self.size // 2, alpha=self.alpha / self.size, beta=self.beta, bias=self.bias,
        )  # fmt: skip


class LpNormalization(Op):
    """x divided by its p-norm along ``axis``, 0 where that norm is 0."""

    axis: int = -1
    p: int = 2

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.axis(self.axis, x.rank)
        if self.p not in (1, 2):
            raise ModelError(f"p is {self.p}, wanted 1 or 2")
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            norm = np.abs(x).sum(axis=self.axis, keepdims=True)
            if self.p == 2:
                norm = np.sqrt((x * x).sum(axis=self.axis, keepdims=True))
            return np.where(norm == 0, x.dtype.type(0), x / norm)


class MeanVarianceNormalization(Op):
    """(x - mean) / (standard deviation + 1e-9) over ``axes``."""

    axes: tuple[int, ...] = (0, 2, 3)

    def infer(self, x: Spec) -> Spec:
        want.kind("f", x=x)
        want.axes(self.axes, x.rank)
        return Spec(x.shape, x.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            count = x.dtype.type(np.prod([x.shape[a] for a in self.axes], dtype=np.int64))
            centred = x - x.sum(axis=self.axes, keepdims=True) / count
            deviation = np.sqrt((centred * centred).sum(axis=self.axes, keepdims=True) / count)
            return np.asarray(centred / (deviation + x.dtype.type(1e-9)))
