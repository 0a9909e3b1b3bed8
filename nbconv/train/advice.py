"""Warnings that say what is wrong with a training, and what to do."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from nbconv.train.data import Data, Part

ROSE = 3.0
"""How many times its first epoch's loss an epoch's loss may be."""


PRINT = 256
"""Numbers of a sample that are compared, at most."""
BLOCK = 256
"""Samples that are read at once."""
DISTINCT = 0.95
"""Share of samples that differ, from which on equal ones tell something."""
SHARED = 0.05
"""Share of the validation data that may be in the training data."""


def shared_files(train: Data | None, held: Any) -> None:
    """Warns where files are trained on and validated on."""
    both = _files(train) & _files(held)
    if both:
        some = ", ".join(sorted(both)[:3]) + (" …" if len(both) > 3 else "")
        warnings.warn(
            f"{len(both)} files are in the training data and in the validation data, which then says nothing of others: "
            f"{some}",
            stacklevel=3,
        )


def shared_samples(train: Data | None, held: Any) -> None:
    """Warns where many of the samples that are validated on, in arrays, are trained on, too. Data in which samples are often
    equal tell nothing."""
    if held is None:
        return
    (seen, count), (mine, checked) = _prints(train), _prints(held[0] if isinstance(held, tuple) else held)
    if not seen or not mine or len(seen) < DISTINCT * count or len(mine) < DISTINCT * checked:
        return
    both = len(seen & mine)
    if both > SHARED * checked:
        warnings.warn(
            f"{both} of {checked} samples of the validation data are in the training data, too: it says nothing of others",
            stacklevel=3,
        )


def _prints(data: Any) -> tuple[set[int], int]:
    """(what tells samples in an array from each other: hashes of some of each one's numbers; how many samples there are)."""
    numbers: np.ndarray | None = None
    while isinstance(data, Part):
        numbers = data.numbers if numbers is None else data.numbers[numbers]
        data = data.whole
    x = data if isinstance(data, np.ndarray) else getattr(data, "x", None)
    if not isinstance(x, np.ndarray) or x.ndim < 2 or x.dtype == object:
        return set(), 0
    numbers = np.arange(len(x)) if numbers is None else numbers
    size = int(np.prod(x.shape[1:]))
    places = np.unravel_index(np.arange(0, size, -(-size // PRINT) or 1), x.shape[1:])
    found: set[int] = set()
    for k in range(0, len(numbers), BLOCK):
        found.update(hash(row.tobytes()) for row in x[(numbers[k : k + BLOCK, None], *places)])
    return found, len(numbers)


def _files(data: Any) -> set[str]:
    numbers: np.ndarray | None = None
    while isinstance(data, Part):
        numbers = data.numbers if numbers is None else data.numbers[numbers]
        data = data.whole
    paths = getattr(data, "paths", None)
    if not isinstance(paths, list):
        return set()
    chosen = paths if numbers is None else [paths[int(i)] for i in numbers]
    return {os.path.realpath(p) for p in chosen if isinstance(p, (str, os.PathLike))}


def rising(losses: list[float], rate: float) -> None:
    """Warns, once, where the loss of the last epoch is far above the first one's."""
    above = [loss > ROSE * losses[0] > 0 for loss in losses]
    if above[-1] and not any(above[:-1]):
        warnings.warn(
            f"the loss rises, from {losses[0]:.4g} to {losses[-1]:.4g}: the learning rate {rate:.3g} may be too high; "
            "trainer.lr_find(data) suggests one, and clip_norm of an optimizer keeps steps short",
            stacklevel=3,
        )
