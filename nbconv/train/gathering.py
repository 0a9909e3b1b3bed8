"""Batches of which a step takes several (gradient accumulation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nbconv.train.goals import Goal, by_goal
from nbconv.train.targets import joined, samples

Arrays = dict[str, np.ndarray]


class Gathered:
    """Batches that wait for the others of their step, which takes ``count``."""

    def __init__(self, goals: tuple[Goal, ...], count: int) -> None:
        self.goals, self.count = goals, count
        self.batches: list[tuple[Arrays, Any]] = []

    def whole(self, feeds: Arrays, y: Any) -> tuple[Arrays, Any, int] | None:
        """What the step takes, where this is its last batch: inputs and targets of all of them, and how many samples the
        largest has. Before, the batch is copied and kept, and there is None. ValueError for one that is no batch, or that
        does not go with those before it; it is not kept."""
        found = by_goal(self.goals, y)
        size(feeds, found)
        if self.batches:
            self._fits(feeds, found)
        if len(self.batches) + 1 < self.count:
            self.batches.append(({n: a.copy() for n, a in feeds.items()}, joined([y])))
            return None
        batches = [*self.batches, (feeds, y)]
        whole = {n: np.concatenate([x[n] for x, _ in batches]) if a.ndim else a for n, a in feeds.items()}
        return whole, joined([y for _, y in batches]), max(samples(y) for _, y in batches)

    def _fits(self, feeds: Arrays, targets: Arrays) -> None:
        x, y = self.batches[0]
        before = {**x, **by_goal(self.goals, y)}
        for name, a in {**feeds, **targets}.items():
            b = before.get(name, a)
            if (a.shape[1:], a.dtype) != (b.shape[1:], b.dtype):
                told = "targets" if name in targets else f"input {name!r}"
                raise ValueError(
                    f"{told}: {a.dtype} {list(a.shape)} came, {b.dtype} {list(b.shape)} in the batch that waits for a step "
                    "with this one: wanted the same but for the samples (abandon() forgets that batch)"
                )

    def clear(self) -> None:
        self.batches.clear()


def size(feeds: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> int:
    """How many samples a batch has. ValueError where it has none, or other targets than samples."""
    count = max((len(a) for a in feeds.values() if a.ndim), default=0)
    if count == 0:
        raise ValueError("the batch is empty")
    for y in targets.values():
        if y.ndim and len(y) != count:
            raise ValueError(f"{len(y)} targets for {count} samples")
    return count
