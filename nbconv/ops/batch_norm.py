"""Batch normalisation, at inference and in training, and its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import FLOAT32, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op, same_dtype
from nbconv.kernels.params import BatchNorm, ChannelAffine, Moments, Pixels, Running
from nbconv.lowering.context import Lowering, Ref
from nbconv.lowering.packing import ceil
from nbconv.lowering.repack import channels_last

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

PART = 128 << 10
"""Bytes of x that a part of a sum reads: they are read twice, and stay in a core's cache."""
PARTS = 256
"""Most parts of a sum."""
SPAN = 128
"""Channels of a pixel that a unit of `affine` in kernels/cuda/norm.py does."""


def along_channels(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A vector over axis 1, shaped to broadcast against ``x``, in x's type."""
    return v.reshape(-1, *[1] * (x.ndim - 2)).astype(x.dtype, copy=False)


def but_channels(x: np.ndarray) -> tuple[int, ...]:
    """All axes but 1."""
    return (0, *range(2, x.ndim))


class BatchNormalization(Op):
    """(x - mean) / sqrt(var + epsilon) · scale + b, each a vector over x's axis 1.

    With ``training_mode`` mean and variance are those of x (variance over all n elements, not n - 1), and further outputs
    are the running ones, input · momentum + x's · (1 - momentum), and, beyond ONNX, x's own mean and variance.
    """

    fixed = (3, 4)
    batch_inputs = (0,)
    is_cheap = True
    is_norm = True
    parameters = (1, 2)

    epsilon: float = 1e-5
    momentum: float = 0.9
    training_mode: int = 0

    def infer(self, x: Spec, scale: Spec, b: Spec, mean: Spec, var: Spec) -> Spec | tuple[Spec, ...]:
        want.kind("f", x=x, scale=scale, b=b, mean=mean, var=var)
        want.rank(x, 2)
        want.vector(x.shape[1], f"x with {x.shape[1]} channels", scale=scale, b=b, mean=mean, var=var)
        y = Spec(x.shape, x.dtype)
        if not self.training_mode:
            return y
        own = Spec((x.shape[1],), x.dtype)
        return y, Spec(mean.shape, mean.dtype), Spec(var.shape, var.dtype), own, own

    def reference(self, x: np.ndarray, scale: np.ndarray, b: np.ndarray, mean: np.ndarray, var: np.ndarray):
        with np.errstate(all="ignore"):
            if not self.training_mode:
                return self.normalized(x, scale, b, mean, var)
            over, count = but_channels(x), x.dtype.type(x.size // max(x.shape[1], 1))
            own = x.sum(axis=over) / count
            spread = ((x - along_channels(own, x)) ** 2).sum(axis=over) / count
            y = self.normalized(x, scale, b, own, spread)
            m = mean.dtype.type(self.momentum)
            running = mean * m + own.astype(mean.dtype) * (1 - m), var * m + spread.astype(var.dtype) * (1 - m)
            return y, *running, own, spread

    def normalized(self, x: np.ndarray, scale, b, mean, var) -> np.ndarray:
        """y for this mean and variance."""
        scale, b, mean, var = (along_channels(v, x) for v in (scale, b, mean, var))
        return (x - mean) / np.sqrt(var + x.dtype.type(self.epsilon)) * scale + b

    def flops(self, inputs, outputs) -> int:
        return (8 if self.training_mode else 2) * outputs[0].size

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_LAST

    def has_kernel(self, inputs, outputs) -> bool:
        return same_dtype(inputs) and super().has_kernel(inputs, outputs) and inputs[0].size > 0

    def writes_strided(self, inputs, outputs) -> bool:
        return self.layout(inputs, outputs) == CHANNELS_LAST

    def reads_strided(self, inputs, outputs, i) -> bool:
        return i == 0 and not self.training_mode and self.layout(inputs, outputs) == CHANNELS_LAST

    def absorbs(self, inputs, outputs) -> str:
        return "clamp"

    def lower(self, to: Lowering) -> None:
        names, c = to.node.inputs, to.outputs[0].shape[1]
        vectors = ceil(c, to.target.lanes)

        def known() -> tuple[np.ndarray, np.ndarray]:
            scale, b, mean, var = (to.value(i).astype(np.float64) for i in range(1, 5))
            s = scale / np.sqrt(var + self.epsilon)
            return s.astype(np.float32), (b - mean * s).astype(np.float32)

        if self.training_mode:
            scale, shift = self.lower_statistics(to, vectors)
        elif all(spec.constant for spec in to.inputs[1:]):
            scale = to.constant(f"{'/'.join(names[1:])}#{self.epsilon}#scale", lambda: known()[0])
            shift = to.constant(f"{'/'.join(names[1:])}#{self.epsilon}#shift", lambda: known()[1])
        else:
            scale, shift = to.floats(c), to.floats(c)
            to.step(
                "batch_norm.factors",
                vectors,
                work=32 * c,
                scale=to.input(1),
                b=to.input(2),
                moments=Moments(to.input(3), to.input(4)),
                affine=ChannelAffine(scale, shift),
                c=c,
                epsilon=self.epsilon,
                writes=("affine.factor", "affine.shift"),
            )
        to.step(
            "norm.affine",
            to.gpu_split(to.outputs[0].size // c, ceil(c, SPAN)),
            work=16 * to.outputs[0].size,
            x=channels_last(to, 0),
            y=to.output(),
            ldx=to.ld(0),
            c=c,
            ldy=to.pitch or c,
            scale=scale,
            shift=shift,
            clamp=to.epilogue.clamp(),
        )

    def lower_statistics(self, to: Lowering, vectors: int) -> tuple[Ref, Ref]:
        """The steps that find x's mean and variance; where lie what x is to be multiplied with and what added."""
        pixels, full, count = split(to, to.inputs[0])
        c = pixels.c
        parts, scale, shift = to.floats(2 * count * full), to.floats(c), to.floats(c)
        to.step(
            "batch_norm.moments",
            to.gpu_split(count, full // to.target.lanes),
            work=16 * to.inputs[0].size,
            x=channels_last(to, 0),
            y=parts,
            split=pixels,
            padded=full,
        )
        names = dict(zip(("new_mean", "new_var", "mean", "var"), to.node.outputs[1:], strict=False))
        made = {name: Ref(names[name]) if names.get(name) else to.floats(c) for name in _STATISTICS}
        to.step(
            "batch_norm.statistics",
            vectors,
            work=16 * count * c,
            writes=("running.new_mean", "running.new_var", "moments.mean", "moments.var", "affine.factor", "affine.shift"),
            parts=parts,
            scale=to.input(1),
            b=to.input(2),
            running=Running(to.input(3), to.input(4), made["new_mean"], made["new_var"], self.momentum),
            moments=Moments(made["mean"], made["var"]),
            affine=ChannelAffine(scale, shift),
            count=count,
            split=pixels,
            padded=full,
            epsilon=self.epsilon,
        )
        return scale, shift

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """In training, x's mean and variance depend on x; no gradient flows to the running ones."""
        dy, dx, dscale, db = to.dy(), None, None, None
        if dy is None:
            return (None,) * 5
        mean, var = (to.y(3), to.y(4)) if self.training_mode else (to.x(3), to.x(4))
        if self.training_mode or to.wants(1) or to.wants(2):
            dscale, db = to.add_many(BatchNormalizationGradScale(epsilon=self.epsilon), 2, dy, to.x(0), mean, var)
        if to.wants(0) and self.training_mode:
            dx = to.add(
                BatchNormalizationGradInput(epsilon=self.epsilon), dy, to.x(0), to.x(1), mean, var, str(dscale), str(db)
            )
        elif to.wants(0):
            nothing = to.constant(np.zeros(to.inputs[1].shape, to.inputs[1].dtype))
            dx = to.add(BatchNormalization(epsilon=self.epsilon), dy, to.x(1), nothing, nothing, var)
        return dx, dscale if to.wants(1) else None, db if to.wants(2) else None, None, None


_STATISTICS = ("new_mean", "new_var", "mean", "var")


def split(to: Lowering, x: Spec) -> tuple[Pixels, int, int]:
    """(how x's pixels are split, floats of a row of sums, parts) of a sum over x's pixels."""
    c = x.shape[1]
    total = x.size // c
    pixels = max(ceil(total, PARTS), min(total, to.target.pixels or max(16, PART // (FLOAT32.itemsize * c))))
    return Pixels(pixels, total, c), ceil(c, to.target.lanes) * to.target.lanes, ceil(total, pixels)


class BatchNormalizationGradScale(Op):
    """dy, x (n, c, …), mean, var (c) → dscale (c) = Σ dy · (x - mean) / sqrt(var + epsilon), db (c) = Σ dy. With
    ``rectified`` a sixth value y is given, and dy counts where y is positive only (the Relu behind it, undone)."""

    batch_sums = (0, 1, 4)
    domain = "nbconv"

    epsilon: float = 1e-5
    rectified: int = 0

    def infer(self, dy: Spec, x: Spec, mean: Spec, var: Spec, y: Spec | None = None) -> tuple[Spec, Spec]:
        check(dy, x, y)
        want.vector(x.shape[1], f"x with {x.shape[1]} channels", mean=mean, var=var)
        own = Spec((x.shape[1],), x.dtype)
        return own, own

    def reference(self, dy: np.ndarray, x: np.ndarray, mean: np.ndarray, var: np.ndarray, y: np.ndarray | None = None):
        with np.errstate(all="ignore"):
            dy, over = dy if y is None else np.where(y <= 0, 0, dy), but_channels(x)
            along = (dy * (x - along_channels(mean, x))).sum(axis=over)
            return along / np.sqrt(var + x.dtype.type(self.epsilon)), dy.sum(axis=over)

    def flops(self, inputs, outputs) -> int:
        return 4 * inputs[0].size

    def layout(self, inputs, outputs) -> str:
        return served(inputs)

    def lower(self, to: Lowering) -> None:
        pixels, full, count = split(to, to.inputs[1])
        c = pixels.c
        parts, made = to.floats(2 * count * full), [Ref(n) if n else to.floats(c) for n in to.node.outputs]
        to.step(
            "batch_norm.grad_sums",
            to.gpu_split(count, full // to.target.lanes),
            work=16 * to.inputs[1].size,
            writes=("parts",),
            dy=channels_last(to, 0),
            y=channels_last(to, 4) if self.rectified else None,
            x=channels_last(to, 1),
            mean=to.input(2),
            parts=parts,
            split=pixels,
            padded=full,
            rectified=self.rectified,
        )
        to.step(
            "batch_norm.grad_merge",
            ceil(c, to.target.lanes),
            work=16 * count * c,
            writes=("dscale", "db"),
            parts=parts,
            var=to.input(3),
            dscale=made[0],
            db=made[1] if len(made) > 1 else to.floats(c),
            count=count,
            c=c,
            padded=full,
            epsilon=self.epsilon,
        )


class BatchNormalizationGradInput(Op):
    """scale · r · (dy - db / N - (x - mean) · r · dscale / N), r = 1 / sqrt(var + epsilon), N elements a channel: what flows
    to x where mean and variance are its own. ``rectified`` as in `BatchNormalizationGradScale`. ``count`` is N where x and
    dy are some of the samples only; 0 says that they are all."""

    batch_inputs = (0, 1, 7)
    domain = "nbconv"

    epsilon: float = 1e-5
    rectified: int = 0
    count: int = 0

    def infer(self, dy: Spec, x: Spec, scale: Spec, mean: Spec, var: Spec, dscale: Spec, db: Spec, y: Spec | None = None):
        check(dy, x, y)
        vectors = {"scale": scale, "mean": mean, "var": var, "dscale": dscale, "db": db}
        want.vector(x.shape[1], f"x with {x.shape[1]} channels", **vectors)
        return Spec(x.shape, x.dtype)

    def reference(self, dy, x, scale, mean, var, dscale, db, y=None) -> np.ndarray:
        with np.errstate(all="ignore"):
            dy = dy if y is None else np.where(y <= 0, 0, dy)
            scale, mean, var, dscale, db = (along_channels(v, x) for v in (scale, mean, var, dscale, db))
            n, r = x.dtype.type(self.count or x.size // max(x.shape[1], 1)), 1 / np.sqrt(var + x.dtype.type(self.epsilon))
            return scale * r * (dy - db / n - (x - mean) * r * dscale / n)

    def flops(self, inputs, outputs) -> int:
        return 6 * inputs[0].size

    def layout(self, inputs, outputs) -> str:
        return served(inputs)

    def lower(self, to: Lowering) -> None:
        pixels, full, count = split(to, to.inputs[1])
        to.step(
            "batch_norm.grad_input",
            to.gpu_split(count, full // to.target.lanes),
            work=24 * to.inputs[1].size,
            writes=("dx",),
            dy=channels_last(to, 0),
            y=channels_last(to, 7) if self.rectified else None,
            x=channels_last(to, 1),
            norm=BatchNorm(to.input(2), to.input(3), to.input(4), self.epsilon),
            dscale=to.input(5),
            db=to.input(6),
            dx=to.output(),
            split=pixels,
            count=self.count or pixels.total,
            rectified=self.rectified,
        )


def check(dy: Spec, x: Spec, y: Spec | None) -> None:
    """ModelError unless dy and y are like x."""
    want.one_type("f", dy=dy, x=x)
    want.rank(x, 2)
    if dy.shape != x.shape or (y is not None and y.shape != x.shape):
        raise ModelError(f"dy is {dy}, x is {x}{'' if y is None else f', y is {y}'}: wanted one shape")


def served(inputs) -> str:
    """The layout of the gradients' kernels."""
    fits = same_dtype(inputs) and inputs[0].dtype in ONLY_FLOAT32 and inputs[0].size
    return CHANNELS_LAST if fits else NUMPY
