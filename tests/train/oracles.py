"""The losses by their definitions, in float64 NumPy: oracles for values, and by differences for gradients."""

from __future__ import annotations

from typing import Any

import numpy as np


def log_softmax(x: np.ndarray) -> np.ndarray:
    z = x - x.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def reduced(each: np.ndarray, reduction: str) -> float:
    return float(each.mean() if reduction == "mean" else each.sum())


def hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """(n, …) to (n, classes, …); a label that is no class has 0 throughout."""
    return np.moveaxis((labels[..., None] == np.arange(classes)).astype(np.float64), -1, 1)


def wide(weights: Any, x: np.ndarray) -> np.ndarray:
    if weights is None:
        return np.ones((1, x.shape[1], *[1] * (x.ndim - 2)))
    return np.asarray(weights, np.float64).reshape(1, -1, *[1] * (x.ndim - 2))


def cross_entropy(x, t, weights=None, ignore_index=None, label_smoothing=0.0, reduction="mean") -> float:
    classes = x.shape[1]
    labels = t.ndim == x.ndim - 1
    kept = np.ones(t.shape) if not labels or ignore_index is None else (t != ignore_index).astype(np.float64)
    one = hot(t, classes) * kept[:, None] if labels else t
    w = wide(weights, x)
    smooth = (1 - label_smoothing) * one + label_smoothing / classes * (kept[:, None] if labels else 1)
    each = -(smooth * w * log_softmax(x)).sum()
    return float(each if reduction == "sum" else each / ((one * w).sum() if labels else x.size / classes))


def focal(x, t, gamma=2.0, weights=None, ignore_index=None, reduction="mean") -> float:
    one = hot(t, x.shape[1]) * (1 if ignore_index is None else (t != ignore_index)[:, None]) * wide(weights, x)
    log_p = log_softmax(x)
    total = -(one * (1 - np.exp(log_p)) ** gamma * log_p).sum()
    return float(total if reduction == "sum" else total / one.sum())


def binary_cross_entropy(x, t, pos_weight=1.0, weights=None, reduction="mean") -> float:
    p = np.asarray(pos_weight, np.float64)
    p = p.reshape(1, -1, *[1] * (x.ndim - 2)) if p.size > 1 else p.reshape(())
    each = p * t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)
    return reduced(each * (1 if weights is None else wide(weights, x)), reduction)


def binary_focal(x, t, gamma=2.0, alpha=0.25, reduction="mean") -> float:
    p = 1 / (1 + np.exp(-x))
    a, b = (1, 1) if alpha is None else (alpha, 1 - alpha)
    each = a * t * (1 - p) ** gamma * np.logaddexp(0, -x) + b * (1 - t) * p**gamma * np.logaddexp(0, x)
    return reduced(each, reduction)


def hinge(x, t, margin=1.0, reduction="mean") -> float:
    return reduced(np.maximum(0, margin - t * x), reduction)


def multiclass_hinge(x, t, margin=1.0, reduction="mean") -> float:
    one = hot(t, x.shape[1])
    gaps = np.maximum(0, margin - (x * one).sum(axis=1, keepdims=True) + x) * (1 - one)
    each = gaps.sum(axis=1) / x.shape[1]
    return reduced(each, reduction)


def mse(x, t, reduction="mean") -> float:
    return reduced((x - t) ** 2, reduction)


def l1(x, t, reduction="mean") -> float:
    return reduced(np.abs(x - t), reduction)


def huber(x, t, delta=1.0, reduction="mean") -> float:
    d = np.abs(x - t)
    return reduced(np.where(d <= delta, d * d / 2, delta * (d - delta / 2)), reduction)


def smooth_l1(x, t, beta=1.0, reduction="mean") -> float:
    d = np.abs(x - t)
    return reduced(np.where(d < beta, d * d / 2 / beta, d - beta / 2), reduction)


def dice(x, t, ignore_index=None, smooth=1.0, activation=None) -> float:
    labels = t.ndim == x.ndim - 1
    soft = labels if activation is None else activation == "softmax"
    p = np.exp(log_softmax(x)) if soft else 1 / (1 + np.exp(-x))
    kept = 1.0 if ignore_index is None else (t != ignore_index)[:, None]
    one, p = (hot(t, x.shape[1]) * kept if labels else t), p * kept
    axes = tuple(range(2, x.ndim))
    score = (2 * (p * one).sum(axis=axes) + smooth) / (p.sum(axis=axes) + one.sum(axis=axes) + smooth)
    return float(1 - score.mean())
