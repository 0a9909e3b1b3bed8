"""Connectionist temporal classification: the loss of a sequence of labels whose places are not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, ONLY_FLOAT32, Op
from nbconv.kernels.ctc_params import Alignment
from nbconv.lowering.context import Lowering

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class _Aligned(Op, abstract=True):
    """What the loss and its gradient share: scores (batch, steps, classes), or with ``time_major`` (steps, batch, classes);
    labels (batch, most), those of a sequence first, ``pad`` behind; ``lengths`` (batch): how many steps count."""

    processor_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST
    place: ClassVar[int] = 0
    """of the scores among the inputs"""

    blank: int = 0
    pad: int = -1
    reduction: str = "mean"
    time_major: int = 0
    zero_infinity: int = 0

    def check(self, scores: Spec, labels: Spec, lengths: Spec | None) -> Spec:
        """The Spec of the loss, or an error that says what does not fit."""
        if self.reduction not in ("none", "mean", "sum"):
            raise ModelError(f"reduction is {self.reduction!r}, wanted none, mean or sum")
        want.kind("f", scores=scores)
        want.kind("i", labels=labels, lengths=lengths)
        want.rank(scores, 3, 3, "scores")
        want.rank(labels, 2, 2, "labels")
        batch = scores.shape[1 if self.time_major else 0]
        if labels.shape[0] != batch:
            axes = "(steps, batch, classes)" if self.time_major else "(batch, steps, classes)"
            raise ModelError(f"labels are {labels}, scores {scores}: wanted labels of shape [{batch}, most], scores {axes}")
        want.vector(batch, f"scores of a batch of {batch}", lengths=lengths)
        if not 0 <= self.blank < scores.shape[2]:
            raise ModelError(f"blank is {self.blank}, there are {scores.shape[2]} classes")
        return Spec((batch,) if self.reduction == "none" else (), scores.dtype)

    def has_kernel(self, inputs, outputs) -> bool:
        scores, *integers = inputs[self.place :]
        whole = all(s is None or s.dtype == want.INT64 for s in integers)
        return super().has_kernel((scores,), outputs) and whole

    def sizes(self, to: Lowering, scores: Spec, labels: Spec) -> Alignment:
        """What the kernels are told."""
        lanes, (rows, columns, classes) = to.target.lanes, scores.shape
        steps, batch = (rows, columns) if self.time_major else (columns, rows)
        step, sample = (batch * classes, classes) if self.time_major else (classes, steps * classes)
        pitch = (-(-(2 * labels.shape[1] + 1) // lanes) + 2) * lanes
        return Alignment(
            batch, steps, classes, labels.shape[1], step, sample, self.blank, self.pad, pitch, int(bool(self.zero_infinity))
        )

    def counts(self, classes: int, labels: np.ndarray) -> np.ndarray:
        """How many labels each sequence has."""
        there = labels != self.pad
        count = there.sum(1)
        if (there != (np.arange(labels.shape[1]) < count[:, None])).any():
            raise ModelError(f"labels stand behind the padding {self.pad}")
        found = labels[there]
        if found.size and not (found.min() >= 0 and found.max() < classes and (found != self.blank).all()):
            raise ModelError(
                f"labels from {found.min()} to {found.max()}, wanted 0 to {classes - 1} without the blank {self.blank}"
            )
        return count

    def steps_of(self, scores: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        """How many steps of each sequence count; ``scores`` are (steps, batch, classes)."""
        if lengths is None:
            return np.full(scores.shape[1], len(scores))
        if lengths.size and not (lengths.min() >= 0 and lengths.max() <= len(scores)):
            raise ModelError(f"lengths from {lengths.min()} to {lengths.max()}, there are {len(scores)} steps")
        return lengths

    def share(self, count: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """What the loss of each sequence counts for."""
        whole = np.maximum(count, 1) * len(count) if self.reduction == "mean" else np.ones(len(count))
        return (1 / whole).astype(dtype)

    def forward(self, scores: np.ndarray, labels: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """(log-probabilities (steps, batch, classes); those of what each state shows; alpha of equations 6 and 7, in
        logarithms (steps, batch, states), the loss of each sequence; where a state may follow the one two before it)."""
        scores = scores if self.time_major else scores.transpose(1, 0, 2)
        count, steps = self.counts(scores.shape[2], labels), self.steps_of(scores, lengths)
        batch, states = len(labels), 2 * labels.shape[1] + 1
        with np.errstate(all="ignore"):
            z = scores - scores.max(axis=2, keepdims=True, initial=-np.inf)
            logp = z - np.log(np.exp(z).sum(axis=2, keepdims=True))
            path = np.full((batch, states), self.blank)
            path[:, 1::2] = np.where(labels == self.pad, self.blank, labels)
            exist = np.arange(states) < 2 * count[:, None] + 1
            jumps = exist & (path != self.blank)
            jumps[:, :2] = False
            jumps[:, 2:] &= path[:, 2:] != path[:, :-2]
            shown = np.where(exist, np.take_along_axis(logp, path[None], axis=2), -np.inf).astype(scores.dtype)
            alpha = np.full(shown.shape, -np.inf, scores.dtype)
            alpha[:1, :, :2] = shown[:1, :, :2]
            for t in range(1, len(scores)):
                a = np.pad(alpha[t - 1], ((0, 0), (2, 0)), constant_values=-np.inf)
                alpha[t] = _log_add(a[:, 2:], a[:, 1:-1], np.where(jumps, a[:, :-2], -np.inf)) + shown[t]
            last = np.maximum(steps - 1, 0), np.arange(batch)
            ends = np.pad(alpha, ((0, 0), (0, 0), (1, 0)), constant_values=-np.inf)
            if len(scores):
                loss = -np.logaddexp(ends[(*last, 2 * count)], ends[(*last, 2 * count + 1)])
            else:
                loss = np.zeros(batch, scores.dtype)
            loss = np.where(steps == 0, np.where(count == 0, 0, np.inf), loss).astype(scores.dtype)
        return logp, shown, alpha, loss, jumps


class CTCLoss(_Aligned):
    """-ln of the probability of the labels, by all alignments with softmax(scores), as equation 12 of Graves et al. (2006)
    has it, and `torch.nn.functional.ctc_loss` of the scores' log-softmax. ``mean`` divides each by how many labels there
    are, then takes the mean; it is infinite where there are too few steps, 0 there with ``zero_infinity``. The kernels give
    NaN for labels or lengths out of range, `reference` a ModelError."""

    domain = "nbconv"

    def infer(self, scores: Spec, labels: Spec, lengths: Spec | None = None) -> Spec:
        return self.check(scores, labels, lengths)

    def reference(self, scores: np.ndarray, labels: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        loss = self.forward(scores, labels, lengths)[3]
        loss = np.where(np.isposinf(loss), 0, loss).astype(loss.dtype) if self.zero_infinity else loss
        if self.reduction == "none":
            return loss
        with np.errstate(all="ignore"):
            return np.asarray((loss * self.share(self.counts(scores.shape[2], labels), loss.dtype)).sum(dtype=loss.dtype))

    def lower(self, to: Lowering) -> None:
        sizes = self.sizes(to, *to.inputs[:2])
        none, batch = self.reduction == "none", sizes.batch
        each, share = to.output() if none else to.floats(batch), to.floats(batch)
        to.step(
            "ctc.loss",
            batch,
            writes=("each", "share", "scratch"),
            work=40 * batch * sizes.steps * (sizes.pitch + sizes.classes),
            x=to.input(0),
            labels=to.input(1),
            lengths=to.input(2) if to.has(2) else None,
            each=each,
            share=share,
            scratch=to.floats_per_thread(4 * sizes.pitch),
            sizes=sizes,
            mean=int(self.reduction == "mean"),
        )
        if not none:
            to.step("ctc.total", 1, work=8 * batch, each=each, share=share, y=to.output(), n=batch)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        given = [to.x(i) for i in range(len(to.inputs)) if to.has(i)]
        dx = to.add(CTCLossGrad(**self.attributes()), to.dy(), *given) if to.wants(0) else None
        return (dx, *[None] * (len(to.inputs) - 1))


class CTCLossGrad(_Aligned):
    """dy · (softmax(scores) - the probability that a path of the labels shows the class at the step): equation 16 of Graves
    et al. (2006); 0 behind a sequence's length. NaN where the loss is infinite, 0 with ``zero_infinity``."""

    domain = "nbconv"
    place = 1

    def infer(self, dy: Spec, scores: Spec, labels: Spec, lengths: Spec | None = None) -> Spec:
        loss = self.check(scores, labels, lengths)
        if (dy.shape, dy.dtype) != (loss.shape, loss.dtype):
            raise ModelError(f"dy is {dy}, the loss {loss}")
        return Spec(scores.shape, scores.dtype)

    def reference(
        self, dy: np.ndarray, scores: np.ndarray, labels: np.ndarray, lengths: np.ndarray | None = None
    ) -> np.ndarray:
        logp, shown, alpha, loss, jumps = self.forward(scores, labels, lengths)
        count, steps = self.counts(scores.shape[2], labels), self.steps_of(logp, lengths)
        states, batch = shown.shape[2], np.arange(len(labels))
        ends = np.full((len(batch), states), -np.inf, scores.dtype)
        ends[batch, 2 * count] = 0
        ends[batch, np.maximum(2 * count - 1, 0)] = 0
        path = np.full((len(batch), states), self.blank)
        path[:, 1::2] = np.where(labels == self.pad, self.blank, labels)
        dx, beta = np.zeros_like(logp), ends
        with np.errstate(all="ignore"):
            factor = dy * self.share(count, scores.dtype)
            for t in range(len(logp) - 1, -1, -1):
                beta = np.where(np.equal(steps - 1, t)[:, None], ends, beta)
                likely = np.exp(alpha[t] + beta + loss[:, None])
                dx[t] = np.exp(logp[t])
                np.subtract.at(dx[t], (batch[:, None], path), likely)
                b = np.pad(beta + shown[t], ((0, 0), (0, 2)), constant_values=-np.inf)
                jump = np.where(np.pad(jumps, ((0, 0), (0, 2)))[:, 2:], b[:, 2:], -np.inf)
                beta = _log_add(b[:, :-2], b[:, 1:-1], jump)
            dx = dx * factor[:, None]
        without = np.isposinf(loss)
        dx[:, without] = 0 if self.zero_infinity else np.nan
        dx[np.arange(len(dx))[:, None] >= steps] = 0
        return dx if self.time_major else np.ascontiguousarray(dx.transpose(1, 0, 2))

    def lower(self, to: Lowering) -> None:
        sizes = self.sizes(to, *to.inputs[1:3])
        to.step(
            "ctc.loss_grad",
            sizes.batch,
            writes=("dx", "scratch"),
            work=120 * sizes.batch * sizes.steps * (sizes.pitch + sizes.classes),
            dy=to.input(0),
            x=to.input(1),
            labels=to.input(2),
            lengths=to.input(3) if to.has(3) else None,
            dx=to.output(),
            scratch=to.floats_per_thread((sizes.steps + 4) * sizes.pitch + sizes.steps),
            sizes=sizes,
            each=int(self.reduction == "none"),
            mean=int(self.reduction == "mean"),
        )


def _log_add(*parts: np.ndarray) -> np.ndarray:
    """ln Σ e^part."""
    top = np.max(parts, axis=0)
    top = np.where(np.isneginf(top), 0, top).astype(top.dtype)
    return np.log(sum(np.exp(p - top) for p in parts)) + top
