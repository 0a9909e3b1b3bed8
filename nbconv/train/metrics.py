"""Metrics of classes, from a confusion matrix or from scores. Labels are integers (n, …); scores (n, classes, …)."""

from __future__ import annotations

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int, ignore_index: int | None = None) -> np.ndarray:
    """int64 (classes, classes): how many with label i were taken for j. Of any equal shapes; ``ignore_index`` is a label
    that does not count. ValueError for labels out of range."""
    labels, predicted = np.asarray(labels).ravel(), np.asarray(predicted).ravel()
    if labels.shape != predicted.shape:
        raise ValueError(f"{labels.size} labels and {predicted.size} predictions")
    if ignore_index is not None:
        kept = labels != ignore_index
        labels, predicted = labels[kept], predicted[kept]
    for name, values in (("labels", labels), ("predictions", predicted)):
        if values.size and not (values.min() >= 0 and values.max() < classes):
            raise ValueError(f"{name} from {values.min()} to {values.max()}, there are {classes} classes")
    pairs = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix: np.ndarray) -> float:
    """The share that was right: trace / sum. Of pixels, it is the pixel accuracy."""
    return _over(np.trace(matrix), matrix.sum())


pixel_accuracy = accuracy


def top_k(scores: np.ndarray, labels: np.ndarray, k: int = 5) -> float:
    """The share of samples whose label is among the k highest scores (a tie counts for the label where fewer than k scores
    are higher). NaN is higher than all, and a label whose score it is is among none."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    mine = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
    return float(np.mean((~(scores <= mine)).sum(axis=1) < k)) if labels.size else 0.0


def precision(matrix: np.ndarray) -> np.ndarray:
    """Of each class: right / predicted; 0 where nothing was predicted."""
    return _divided(np.diagonal(matrix), matrix.sum(axis=0))


def recall(matrix: np.ndarray) -> np.ndarray:
    """Of each class: right / there; 0 where there were none."""
    return _divided(np.diagonal(matrix), matrix.sum(axis=1))


def f1(matrix: np.ndarray) -> np.ndarray:
    """Of each class: 2 · right / (there + predicted), the harmonic mean of precision and recall (van Rijsbergen 1979)."""
    return _divided(2 * np.diagonal(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def jaccard(matrix: np.ndarray) -> np.ndarray:
    """Of each class: intersection / union = right / (there + predicted - right) (Jaccard 1912)."""
    right = np.diagonal(matrix)
    return _divided(right, matrix.sum(axis=0) + matrix.sum(axis=1) - right)


def mean_jaccard(matrix: np.ndarray) -> float:
    """The mean of `jaccard` over the classes that were there or predicted."""
    seen = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    return float(jaccard(matrix)[seen].mean()) if seen.any() else 0.0


def softmax(scores: np.ndarray) -> np.ndarray:
    """Of scores (n, classes, …), float64."""
    found = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The area under the ROC curve (Hanley and McNeil 1982): the share of pairs of one that is and one that is not in which
    the first has the higher score, ties half. Of scores (n, k) and booleans alike the mean over those columns that have
    both; NaN where none has, or a score is NaN."""
    if np.isnan(scores).any():
        return float("nan")
    found = []
    for column, true in zip(scores.T, truth.T, strict=True):
        yes = int(true.sum())
        no = len(true) - yes
        if yes and no:
            _, at, counts = np.unique(column, return_inverse=True, return_counts=True)
            ranks = (np.cumsum(counts) - (counts - 1) / 2)[at]
            found.append((ranks[true].sum() - yes * (yes + 1) / 2) / (yes * no))
    return float(np.mean(found)) if found else float("nan")


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)


def _over(a: float, b: float) -> float:
    return float(a / b) if b else 0.0
