"""Targets of several losses, as data that have one array of targets hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class Targets:
    """Targets of several losses: arrays by the names of outputs, with one sample each along the first axis."""

    def __init__(self, arrays: Mapping[Any, Any]) -> None:
        self.arrays: dict[Any, np.ndarray] = {key: np.asarray(a) for key, a in arrays.items()}
        sizes = {key: len(a) if a.ndim else 0 for key, a in self.arrays.items()}
        if len(set(sizes.values())) != 1:
            told = ", ".join(f"{size} for {key!r}" for key, size in sizes.items())
            raise ValueError(f"targets by output are {told or 'none'}: wanted one a sample for each")
        self.count = next(iter(sizes.values()))

    ndim, dtype, shape = 0, np.dtype(object), ()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, numbers: Any) -> Targets:
        return Targets({key: a[numbers] for key, a in self.arrays.items()})

    def __iter__(self) -> Iterator[Targets]:
        raise TypeError("targets of several losses are no sequence")


class Weighted:
    """Targets, an array or `Targets`, and a weight for each sample's loss, float32 (n,)."""

    def __init__(self, targets: Any, weights: Any) -> None:
        self.targets, self.weights = targets, np.asarray(weights, np.float32)
        count = samples(targets)
        if self.weights.shape != (count,):
            raise ValueError(f"sample weights have shape {list(self.weights.shape)}, wanted [{count}], one a sample")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all()):
            raise ValueError("sample weights are not all finite numbers of 0 or more")

    def __len__(self) -> int:
        return len(self.weights)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.targets, dtype)


def joined(parts: Sequence[Any]) -> Any:
    """Targets of several batches as one's: arrays, dicts of arrays by output, `Targets` or `Weighted`, all alike."""
    if any(isinstance(part, Weighted) for part in parts):
        parts = [p if isinstance(p, Weighted) else Weighted(p, np.ones(samples(p), np.float32)) for p in parts]
        return Weighted(joined([p.targets for p in parts]), np.concatenate([p.weights for p in parts]))
    given = [part.arrays if isinstance(part, Targets) else part for part in parts]
    if not isinstance(given[0], Mapping):
        return np.concatenate([np.asarray(part) for part in given])
    return {key: np.concatenate([np.asarray(part[key]) for part in given]) for key in given[0]}


def samples(y: Any) -> int:
    """How many samples targets are for: an array, or a dict of arrays by output."""
    return len(Targets(y) if isinstance(y, Mapping) else y)
