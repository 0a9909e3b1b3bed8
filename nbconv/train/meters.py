"""How metrics are gathered from batches. What was gathered is never changed, but new parts take its place, so that an
interrupt cannot count a batch half or twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbconv.train import losses, metrics, sequences
from nbconv.train.checks import Labels, labels_of
from nbconv.train.goals import Goal
from nbconv.train.readings import fits

BINARY = (losses.binary_cross_entropy, losses.binary_focal, losses.hinge)
"""The losses of scores that say yes above 0."""
OF_CLASSES = ("accuracy", "precision", "recall", "f1", "iou", "jaccard")
OF_NUMBERS = ("mae", "mse", "rmse", "r2")
USUAL = ("accuracy", "precision", "recall", "f1", "jaccard")
"""What is told of labels, where nothing is asked for."""
MOST = 4096
"""Classes up to which there is a confusion matrix."""

Function = Callable[[Any, np.ndarray], float]


class Batch(NamedTuple):
    """What a metric sees: targets, and of the output its scores, or the best class along the classes' axis."""

    goal: Goal
    y: np.ndarray
    scores: np.ndarray | None
    best: np.ndarray | None
    shape: tuple[int, ...]
    """of the scores"""

    def labels(self) -> tuple[Labels, np.ndarray] | None:
        """(labels, what the output tells, as these); None where targets are no classes."""
        found = labels_of(self.goal, self.y, self.shape)
        if found is None:
            return None
        best = self.best if self.best is not None else np.argmax(self._scores(), axis=found.axis)
        return found, found.as_labels(best)

    def _scores(self) -> np.ndarray:
        assert self.scores is not None
        return self.scores

    def columns(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(scores, targets) of an output that has the targets' shape, both (n, …)."""
        scores = self._scores()
        if not fits(self.y.shape, scores.shape):
            raise ValueError(
                f"metric {name}: targets are {list(self.y.shape)}, outputs {list(scores.shape)}: wanted the same"
            )
        return scores, self.y.reshape(scores.shape)


class Meter:
    """How a metric is gathered. ``parts`` are what was gathered so far, at first ``fresh``."""

    name: str
    """of the metrics that it gathers for"""
    scores = True
    """whether scores are wanted, not only the best class"""
    labels = False
    """whether targets must be labels of classes"""
    joins = True
    """whether several batches may be given as one, to the same bits"""
    fresh: Any = None

    def added(self, parts: Any, batch: Batch) -> Any:
        """What is gathered once this batch is, too."""
        raise NotImplementedError

    def results(self, parts: Any) -> dict[str, Any]:
        raise NotImplementedError

    def state(self, parts: Any) -> Any:
        """``parts`` as checkpoints have it."""
        return parts

    def restored(self, state: Any) -> Any:
        return state


class Confusion(Meter):
    """A confusion matrix of the epoch, and what follows from it. Of more than `MOST` classes only the accuracy is known."""

    scores = False

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.name = names, ", ".join(names)
        self.labels = bool(names) and names is not USUAL

    def added(self, parts: Any, batch: Batch) -> Any:
        found = batch.labels()
        if found is None:
            if self.labels:
                raise no_labels(self.name, batch.y.shape)
            return parts
        (labels, classes), told = (found[0].labels, found[0].classes), found[1]
        ignored = batch.goal.options.get("ignore_index")
        if classes > MOST:
            more = [n for n in self.names if n != "accuracy"]
            if self.labels and more:
                raise ValueError(f"metric {more[0]}: there are more than {MOST} classes, wanted accuracy, top5 or auc")
            kept = labels != ignored if ignored is not None else np.ones(labels.shape, bool)
            matrix = np.bincount((labels != told)[kept], minlength=2)
        else:
            matrix = metrics.confusion_matrix(labels, told, classes, ignored)
        return matrix if parts is None else np.add(matrix, parts, out=matrix)

    def results(self, parts: Any) -> dict[str, Any]:
        return of_matrix(parts, self.names)

    def state(self, parts: Any) -> Any:
        if parts is None:
            return None
        at = np.flatnonzero(parts)
        return {"shape": list(parts.shape), "at": at.tolist(), "counts": parts.ravel()[at].tolist()}

    def restored(self, state: Any) -> Any:
        if state is None:
            return None
        parts = np.zeros(state["shape"], np.int64)
        parts.ravel()[state["at"]] = state["counts"]
        return parts


def no_labels(name: str, shape: Sequence[int]) -> ValueError:
    return ValueError(f"metric {name}: targets {list(shape)} are no labels of classes")


def of_matrix(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The metrics of a confusion matrix, and it; of (right, wrong) the accuracy."""
    if matrix.ndim == 1:
        return {"accuracy": float(matrix[0] / matrix.sum()) if matrix.any() else 0.0}
    found: dict[str, Callable[[], float]] = {
        "accuracy": lambda: metrics.accuracy(matrix),
        "precision": lambda: float(metrics.precision(matrix).mean()),
        "recall": lambda: float(metrics.recall(matrix).mean()),
        "f1": lambda: float(metrics.f1(matrix).mean()),
        "jaccard": lambda: metrics.mean_jaccard(matrix),
        "iou": lambda: metrics.mean_jaccard(matrix),
    }
    return {"confusion": matrix, **{name: found[name]() for name in names}}


class YesNo(Meter):
    """Scores above 0 say yes: accuracy of all, the others of those that are, or are taken for, yes."""

    def __init__(self, names: Sequence[str]) -> None:
        self.fresh = [0, 0, 0, 0]
        self.names, self.name = names, ", ".join(names)

    def added(self, parts: Any, batch: Batch) -> Any:
        scores, y = batch.columns(self.names[0])
        told, true = scores > 0, y > 0.5
        both = int((told & true).sum())
        found = [int((~told & ~true).sum()), int(told.sum()) - both, int(true.sum()) - both, both]
        return [a + b for a, b in zip(parts, found, strict=True)]

    def results(self, parts: Any) -> dict[str, Any]:
        no, wrong, missed, yes = parts
        shares = {
            "accuracy": (no + yes, no + yes + wrong + missed),
            "precision": (yes, yes + wrong),
            "recall": (yes, yes + missed),
            "f1": (2 * yes, 2 * yes + wrong + missed),
            "iou": (yes, yes + wrong + missed),
        }
        shares["jaccard"] = shares["iou"]
        return {name: a / b if b else 0.0 for name in self.names for a, b in (shares[name],)}


class Top(Meter):
    """The share of labels that are among the k highest scores."""

    labels = True

    def __init__(self, name: str) -> None:
        self.fresh = [0.0, 0]
        self.name, self.k = name, int(name[3:])

    def added(self, parts: Any, batch: Batch) -> Any:
        found = labels_of(batch.goal, batch.y, batch.shape)
        if found is None:
            raise no_labels(self.name, batch.y.shape)
        scores = batch._scores().transpose(found.order)
        scores, labels = np.moveaxis(scores, 1, -1).reshape(-1, found.classes), found.labels.ravel()
        kept = labels != batch.goal.options.get("ignore_index")
        right = metrics.top_k(scores[kept], labels[kept], self.k) * kept.sum()
        return [parts[0] + round(right), parts[1] + int(kept.sum())]

    def results(self, parts: Any) -> dict[str, Any]:
        return {self.name: parts[0] / parts[1] if parts[1] else 0.0}


class Auc(Meter):
    """The area under the ROC curve of all samples, which are kept: see `metrics.auc`."""

    name, fresh = "auc", ()

    def __init__(self, binary: bool) -> None:
        self.labels = not binary

    def added(self, parts: Any, batch: Batch) -> Any:
        if not self.labels:
            scores, y = batch.columns("auc")
            truth = y > 0.5
        else:
            found = labels_of(batch.goal, batch.y, batch.shape)
            if found is None:
                raise no_labels("auc", batch.y.shape)
            if found.labels.ndim > 1:
                raise ValueError(f"metric auc: labels are {list(batch.y.shape)}, wanted one a sample")
            kept = found.labels != batch.goal.options.get("ignore_index")
            truth = found.labels[kept, None] == np.arange(found.classes)
            scores = metrics.softmax(batch._scores().transpose(found.order)[kept])
        truth = truth.reshape(len(truth), int(np.prod(truth.shape[1:])))
        return *parts, (np.float32(scores).reshape(truth.shape), truth)

    def results(self, parts: Any) -> dict[str, Any]:
        scores, truth = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return {"auc": metrics.auc(scores, truth)}

    def state(self, parts: Any) -> Any:
        return [{"scores": s, "truth": np.float32(t)} for s, t in parts]

    def restored(self, state: Any) -> Any:
        return tuple((part["scores"], part["truth"] > 0.5) for part in state)


class Numbers(Meter):
    """Errors of numbers: means over all elements; r2 of each column, then their mean. Gathered are how many samples there
    were, and of each column sums of errors and of their squares, the mean, and the squared distances from it."""

    joins = False

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.name = names, ", ".join(names)

    def added(self, parts: Any, batch: Batch) -> Any:
        scores, y = (a.astype(np.float64).reshape(len(a), -1) for a in batch.columns(self.names[0]))
        count, mean = len(y), y.mean(axis=0)
        error, spread = scores - y, ((y - mean) ** 2).sum(axis=0)
        found = [count, np.abs(error).sum(axis=0), (error**2).sum(axis=0), mean, spread]
        if parts is None:
            return found
        apart, whole = mean - parts[3], parts[0] + count
        spread = parts[4] + spread + apart**2 * parts[0] * count / whole  # Chan, Golub and LeVeque 1979
        return [whole, parts[1] + found[1], parts[2] + found[2], parts[3] + apart * count / whole, spread]

    def results(self, parts: Any) -> dict[str, Any]:
        count, absolute, squares, _, spread = parts
        size = max(count * absolute.size, 1)
        constant = np.where(squares > 0, 0.0, 1 - squares)
        share = np.where(spread != 0, 1 - squares / np.where(spread != 0, spread, 1), constant)
        found = {
            "mae": absolute.sum() / size,
            "mse": squares.sum() / size,
            "rmse": np.sqrt(squares.sum() / size),
            "r2": share.mean(),
        }
        return {name: float(found[name]) for name in self.names}

    def state(self, parts: Any) -> Any:
        return None if parts is None else [parts[0], *(v.tolist() for v in parts[1:])]

    def restored(self, state: Any) -> Any:
        return None if state is None else [state[0], *(np.array(v) for v in state[1:])]


class Characters(Meter):
    """How much of sequences is read right: 1 - edit distances / labels, over all."""

    name, fresh = "character_accuracy", (0, 0)

    def added(self, parts: Any, batch: Batch) -> Any:
        wrong, whole = sequences.errors(batch.goal.options, batch.y, batch._scores())
        return [parts[0] + wrong, parts[1] + whole]

    def results(self, parts: Any) -> dict[str, Any]:
        return {"character_accuracy": sequences.accuracy(*parts)}


class Own(Meter):
    """A function of the caller's: the mean of what it gives for batches, by their samples."""

    joins = False

    def __init__(self, name: str, function: Function) -> None:
        self.fresh = [0.0, 0]
        self.name, self.function = name, function

    def added(self, parts: Any, batch: Batch) -> Any:
        value = np.asarray(self.function(batch._scores(), batch.y))
        if value.size != 1:
            raise ValueError(f"metric {self.name} gave {value.shape}, wanted a number")
        return [parts[0] + float(value.reshape(())) * len(batch.y), parts[1] + len(batch.y)]

    def results(self, parts: Any) -> dict[str, Any]:
        return {self.name: parts[0] / max(parts[1], 1)}
