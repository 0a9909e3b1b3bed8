"""What weights begin with. Each takes (shape, generator) and gives float32; ``shape`` is (out, in, …) as convolutions and
Gemm with transB have it. Formulas are those of `torch.nn.init`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import numpy as np

Initializer = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan in, fan out): how many inputs an output has, and outputs an input."""
    if len(shape) < 2:
        raise ValueError(f"a weight of shape {list(shape)} has no fans, wanted 2 dimensions or more")
    taps = prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def xavier_uniform(shape: tuple[int, ...], rng: np.random.Generator, gain: float = 1.0) -> np.ndarray:
    """U(-a, a), a = gain · sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010)."""
    bound = gain * sqrt(6 / sum(fans(shape)))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def xavier_normal(shape: tuple[int, ...], rng: np.random.Generator, gain: float = 1.0) -> np.ndarray:
    """N(0, s²), s = gain · sqrt(2 / (fan in + fan out)) (Glorot and Bengio 2010)."""
    return (rng.standard_normal(shape) * gain * sqrt(2 / sum(fans(shape)))).astype(np.float32)


def he(shape: tuple[int, ...], rng: np.random.Generator, gain: float = sqrt(2)) -> np.ndarray:
    """N(0, gain² / fan in) (He 2015; `kaiming_normal_`)."""
    return (rng.standard_normal(shape) * gain / sqrt(fans(shape)[0])).astype(np.float32)


def he_uniform(shape: tuple[int, ...], rng: np.random.Generator, gain: float = sqrt(2)) -> np.ndarray:
    """U(-a, a), a = gain · sqrt(3 / fan in) (He 2015; `kaiming_uniform_`)."""
    bound = gain * sqrt(3 / fans(shape)[0])
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def orthogonal(shape: tuple[int, ...], rng: np.random.Generator, gain: float = 1.0) -> np.ndarray:
    """Rows (or columns, where there are more rows) that are orthonormal, times gain (Saxe 2014)."""
    rows, columns = shape[0], prod(shape[1:])
    fans(shape)
    flat = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(flat)
    q = q * np.sign(np.diagonal(r))
    return np.ascontiguousarray(gain * (q.T if rows < columns else q).reshape(shape), np.float32)


def constant(value: float = 0.0) -> Initializer:
    """All ``value``."""
    return lambda shape, rng: np.full(shape, value, np.float32)


INITIALIZERS: dict[str, Initializer] = {
    "xavier_uniform": xavier_uniform,
    "xavier_normal": xavier_normal,
    "he": he,
    "he_uniform": he_uniform,
    "orthogonal": orthogonal,
    "zeros": constant(0.0),
}
"""By name, as `Model.replace_head` takes them."""
