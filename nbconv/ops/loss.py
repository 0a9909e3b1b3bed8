"""Losses of class labels."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Layout, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, CHANNELS_LAST, NUMPY, ONLY_FLOAT32, Op
from nbconv.kernels.params import ClassWeights, Scores
from nbconv.lowering.context import Lowering, Ref
from nbconv.ops.pointwise import Add
from nbconv.ops.softmax import LogSoftmaxGrad

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward

CHUNK = 256
"""Positions that a unit of the kernels does."""


class OfLabels(Op, abstract=True):
    """What losses of labels share: scores (n, classes, …), labels (n, …) from 0 to classes - 1 or ``ignore_index``, weights
    (classes). The kernels give NaN for a label out of range, `reference` a ModelError."""

    ignore_index: int | None = None
    reduction: str = "mean"

    def check(self, scores: Spec, labels: Spec, weights: Spec | None) -> np.dtype:
        """The scores' type, or an error that says what does not fit."""
        if self.reduction not in ("none", "mean", "sum"):
            raise ModelError(f"reduction is {self.reduction!r}, wanted none, mean or sum")
        dtype = want.one_type("f", scores=scores, weights=weights)
        want.kind("i", labels=labels)
        want.rank(scores, 2, name="scores")
        if labels.shape != (scores.shape[0], *scores.shape[2:]):
            raise ModelError(f"labels are {labels}, scores {scores}: wanted {[scores.shape[0], *scores.shape[2:]]}")
        want.vector(scores.shape[1], f"scores of {scores.shape[1]} classes", weights=weights)
        return dtype

    def shares(self, classes: int, labels: np.ndarray, weights: np.ndarray | None, dtype: np.dtype) -> tuple:
        """(labels with 0 for those ignored, the weight of each position, 0 where ignored)."""
        kept = np.ones(labels.shape, bool) if self.ignore_index is None else labels != self.ignore_index
        safe = np.where(kept, labels, 0)
        if safe.size and not (safe.min() >= 0 and safe.max() < classes):
            raise ModelError(f"labels from {safe.min()} to {safe.max()}, there are {classes} classes")
        share = kept.astype(dtype) if weights is None else np.where(kept, weights[safe], 0).astype(dtype)
        return safe, share

    def picked(self, logp: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """The reduced loss, of log-probabilities."""
        safe, share = self.shares(logp.shape[1], labels, weights, logp.dtype)
        with np.errstate(all="ignore"):
            loss = -np.take_along_axis(logp, safe[:, None], axis=1)[:, 0] * share
            loss = np.where(share == 0, logp.dtype.type(0), loss)
            if self.reduction == "none":
                return loss
            total = loss.sum(dtype=logp.dtype)
            return np.asarray(total if self.reduction == "sum" else total / share.sum(dtype=logp.dtype))

    def factors(self, dy: np.ndarray, share: np.ndarray) -> np.ndarray:
        """What each position's loss counts for in the gradient."""
        with np.errstate(all="ignore"):
            return dy * (share / share.sum(dtype=share.dtype) if self.reduction == "mean" else share)

    def steps(self, to: Lowering, logp: Ref, y: Ref, layout: Layout) -> None:
        """The kernels that make ``y`` of log-probabilities."""
        shape = to.inputs[0].shape
        n, size = shape[0] * prod(shape[2:]), prod(shape[2:])
        share = to.floats(n)
        each = y if self.reduction == "none" else to.floats(n)
        to.step(
            "loss.pick",
            -(-n // CHUNK),
            writes=("share", "y"),
            work=32 * n,
            logp=logp,
            labels=to.input(1),
            weighting=self.weighting(to, 2),
            share=share,
            y=each,
            n=n,
            chunk=CHUNK,
            scores=self.scores(shape, size, layout),
        )
        if self.reduction != "none":
            to.step("loss.total", 1, work=8 * n, each=each, share=share, y=y, n=n, mean=int(self.reduction == "mean"))

    def weighting(self, to: Lowering, i: int) -> ClassWeights:
        """What labels weigh, with the weights in input i."""
        given, ignored = to.has(i), self.ignore_index
        return ClassWeights(to.input(i) if given else None, int(given), int(ignored is not None), ignored or 0)

    @staticmethod
    def scores(shape: tuple[int, ...], size: int, layout: Layout) -> Scores:
        """Where the scores of this shape lie."""
        classes = shape[1]
        pixel, apart = (classes, 1) if layout is CHANNELS_LAST or size == 1 else (1, size)
        return Scores(classes, size, classes * size, pixel, apart)

    @staticmethod
    def served(scores: Spec, labels: Spec) -> bool:
        """Whether there are kernels for these types."""
        return scores.dtype in ONLY_FLOAT32 and labels.dtype == np.int64 and scores.size > 0

    def layout(self, inputs, outputs) -> str:
        scores, labels = inputs[:2] if inputs[1].dtype.kind == "i" else inputs[1:3]
        return CHANNELS_FIRST if self.served(scores, labels) else NUMPY


class SoftmaxCrossEntropyLoss(OfLabels):
    """-weight · log softmax(scores) at the label, over classes along axis 1; ``mean`` divides by the weights' sum. Also
    gives log softmax(scores)."""

    def infer(self, scores: Spec, labels: Spec, weights: Spec | None = None) -> tuple[Spec, Spec]:
        dtype = self.check(scores, labels, weights)
        return Spec(labels.shape if self.reduction == "none" else (), dtype), Spec(scores.shape, dtype)

    def reference(self, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None):
        with np.errstate(all="ignore"):
            z = scores - scores.max(axis=1, keepdims=True, initial=-np.inf)
            logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return self.picked(logp, labels, weights), logp

    def layouts(self, inputs, outputs, given):
        if not self.served(inputs[0], inputs[1]):
            return None
        return (given[0], *[CHANNELS_FIRST] * (len(inputs) - 1)), (CHANNELS_FIRST, given[0])[: len(outputs)]

    def lower(self, to: Lowering) -> None:
        shape, layout = to.inputs[0].shape, to.layout(to.node.inputs[0])
        named = [bool(name) for name in (*to.node.outputs, "")[:2]]
        logp = Ref(to.node.outputs[1]) if named[1] else to.floats(prod(shape))
        size = prod(shape[2:])
        outer, inner = (shape[0] * size, 1) if layout is CHANNELS_LAST else (shape[0], size)
        to.columns_step("softmax.log_softmax", outer, shape[1], inner, y=logp)
        if named[0]:
            self.steps(to, logp, Ref(to.node.outputs[0]), layout)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        parts = []
        if to.dy(0) and to.wants(0):
            grad = SoftmaxCrossEntropyLossGrad(**self.attributes())
            parts.append(to.add(grad, to.dy(), to.y(1), to.x(1), *(to.x(i) for i in (2,) if to.has(2))))
        if to.dy(1) and to.wants(0):
            parts.append(to.add(LogSoftmaxGrad(axis=1), to.dy(1), to.y(1)))
        dx = to.add(Add(), *parts) if len(parts) == 2 else next(iter(parts), None)
        return (dx, *[None] * (len(to.inputs) - 1))


class NegativeLogLikelihoodLoss(OfLabels):
    """-weight · scores at the label, the scores being log-probabilities; ``mean`` divides by the weights' sum."""

    def infer(self, scores: Spec, labels: Spec, weights: Spec | None = None) -> Spec:
        dtype = self.check(scores, labels, weights)
        return Spec(labels.shape if self.reduction == "none" else (), dtype)

    def reference(self, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return self.picked(scores, labels, weights)

    def layouts(self, inputs, outputs, given):
        if not self.served(inputs[0], inputs[1]):
            return None
        return (given[0], *[CHANNELS_FIRST] * (len(inputs) - 1)), (CHANNELS_FIRST,)

    def lower(self, to: Lowering) -> None:
        self.steps(to, to.input(0), to.output(), to.layout(to.node.inputs[0]))

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        grad = NegativeLogLikelihoodLossGrad(**self.attributes())
        dx = to.add(grad, to.dy(), to.x(0), to.x(1), *(to.x(i) for i in (2,) if to.has(2))) if to.wants(0) else None
        return (dx, *[None] * (len(to.inputs) - 1))


class NegativeLogLikelihoodLossGrad(OfLabels):
    """-weight · dy at the label, 0 elsewhere; with ``mean`` divided by the weights' sum."""

    domain = "nbconv"
    soft: ClassVar[bool] = False

    def infer(self, dy: Spec, logp: Spec, labels: Spec, weights: Spec | None = None) -> Spec:
        dtype = self.check(logp, labels, weights)
        if dy.shape != (labels.shape if self.reduction == "none" else ()):
            raise ModelError(f"dy is {dy}, labels are {labels}, reduction is {self.reduction}")
        return Spec(logp.shape, dtype)

    def reference(
        self, dy: np.ndarray, logp: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
    ) -> np.ndarray:
        safe, share = self.shares(logp.shape[1], labels, weights, logp.dtype)
        with np.errstate(all="ignore"):
            dx = np.exp(logp) if self.soft else np.zeros_like(logp)
            np.put_along_axis(dx, safe[:, None], np.take_along_axis(dx, safe[:, None], axis=1) - 1, axis=1)
            return dx * self.factors(dy, share)[:, None]

    def layouts(self, inputs, outputs, given):
        if not self.served(inputs[1], inputs[2]):
            return None
        return (CHANNELS_FIRST, given[1], *[CHANNELS_FIRST] * (len(inputs) - 2)), (given[1],)

    def lower(self, to: Lowering) -> None:
        shape, layout = to.inputs[1].shape, to.layout(to.node.inputs[1])
        n, size = shape[0] * prod(shape[2:]), prod(shape[2:])
        factor, scores = to.floats(n), self.scores(shape, size, layout)
        fewest = 1 if scores.apart == 1 else to.target.lanes
        chunk = CHUNK // to.gpu_split(1, CHUNK // fewest)
        to.step(
            "loss.factors",
            1,
            writes=("factor",),
            work=16 * n,
            dy=to.input(0),
            labels=to.input(2),
            weighting=self.weighting(to, 3),
            factor=factor,
            n=n,
            classes=shape[1],
            mean=int(self.reduction == "mean"),
            each=int(self.reduction == "none"),
        )
        to.step(
            "loss.labels_grad",
            -(-n // chunk),
            writes=("dx",),
            work=64 * n * shape[1],
            logp=to.input(1),
            labels=to.input(2),
            factor=factor,
            dx=to.output(),
            n=n,
            chunk=chunk,
            scores=scores,
            soft=int(self.soft),
        )


class SoftmaxCrossEntropyLossGrad(NegativeLogLikelihoodLossGrad):
    """weight · dy · (softmax - [j = label]), from log softmax; with ``mean`` divided by the weights' sum."""

    domain = "nbconv"
    soft = True


class OneHotLike(Op):
    """Labels (n, …) as an array like scores (n, classes, …): ``on`` at the label's class, else ``off``. The label
    ``ignore``, and any that is no class, has 0 throughout."""

    domain = "nbconv"

    on: float = 1.0
    off: float = 0.0
    ignore: int = -1

    def infer(self, labels: Spec, scores: Spec) -> Spec:
        want.kind("i", labels=labels)
        want.rank(scores, 2, name="scores")
        if labels.shape != (scores.shape[0], *scores.shape[2:]):
            raise ModelError(f"labels are {labels}, scores {scores}: wanted {[scores.shape[0], *scores.shape[2:]]}")
        return Spec(scores.shape, scores.dtype)

    def reference(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        classes = scores.shape[1]
        at = np.arange(classes).reshape(-1, *[1] * (scores.ndim - 2)) == labels[:, None]
        known = ((labels >= 0) & (labels < classes) & (labels != self.ignore))[:, None]
        return np.where(known, np.where(at, self.on, self.off), 0).astype(scores.dtype)

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_FIRST if OfLabels.served(inputs[1], inputs[0]) else NUMPY

    def layouts(self, inputs, outputs, given):
        if not OfLabels.served(inputs[1], inputs[0]):
            return None
        return (CHANNELS_FIRST, given[1]), (given[1],)

    def lower(self, to: Lowering) -> None:
        shape = to.inputs[1].shape
        n, size = shape[0] * prod(shape[2:]), prod(shape[2:])
        to.step(
            "loss.one_hot",
            -(-n // CHUNK),
            work=8 * n * shape[1],
            labels=to.input(0),
            y=to.output(),
            n=n,
            chunk=CHUNK,
            scores=OfLabels.scores(shape, size, to.layout(to.node.inputs[1])),
            on=self.on,
            off=self.off,
            ignore=self.ignore,
        )

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        return None, None
