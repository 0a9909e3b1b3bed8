"""What losses are made of: nodes for a factor, a sum, a weight a sample; and checks of options that several of them have."""

from __future__ import annotations

import numpy as np

from nbconv.ops.pointwise import Add, Mul
from nbconv.ops.reduce import ReduceMean, ReduceSum
from nbconv.ops.shape import Unsqueeze
from nbconv.train.readings import Adds


def check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, wanted 'mean' or 'sum'")


def reduced(to: Adds, x: str, reduction: str, sample_weights: str | None = None) -> str:
    check_reduction(reduction)
    return to.add((ReduceMean if reduction == "mean" else ReduceSum)(keepdims=0), weighed(to, x, sample_weights))


def weighed(to: Adds, x: str, sample_weights: str | None) -> str:
    """(n, …) times a weight a sample, where there are."""
    if sample_weights is None:
        return x
    spec, have = to.spec(x), to.spec(sample_weights)
    if have.shape != spec.shape[:1]:
        raise ValueError(f"sample weights have shape {list(have.shape)}, wanted {list(spec.shape[:1])}, one a sample")
    if spec.rank > 1:
        axes = to.constant(np.arange(1, spec.rank, dtype=np.int64))
        sample_weights = to.add(Unsqueeze(), sample_weights, axes)
    return to.add(Mul(), x, sample_weights)


def summed(to: Adds, x: str) -> str:
    return to.add(ReduceSum(keepdims=0), x)


def times(to: Adds, x: str, factor: float) -> str:
    return to.add(Mul(), x, to.constant(np.array(factor, to.spec(x).dtype)))


def shifted(to: Adds, x: str, by: float) -> str:
    return to.add(Add(), x, to.constant(np.array(by, to.spec(x).dtype)))


def check_gamma(gamma: float) -> None:
    if not gamma >= 0:
        raise ValueError(f"gamma is {gamma}, wanted 0 or more")
