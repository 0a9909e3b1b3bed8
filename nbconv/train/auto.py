"""`trainable="auto"`: a trainer that chooses on its first batch what it trains, and checks by plans that it fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any

import numpy as np

from nbconv.edit.parameters import master
from nbconv.edit.selection import select
from nbconv.graph import FLOAT32, Spec
from nbconv.train.choosing import Choice, Chooser
from nbconv.train.memory.policy import MIB, TooLarge, mebibytes

Learner = Any
"""A `nbconv.train.learner.Learner`."""
Arrays = dict[str, np.ndarray]
TRIES = 8
"""Choices that are planned at most."""
CLOSE = 0.93
"""Share of a budget that is enough of it."""
KEPT = (
    "recipe", "chosen", "undecided", "measured", "_authored", "_current", "_home", "_limit", "_state", "_watch", "_works",
)  # fmt: skip
"""What a choice decides of a learner."""
STEPS = 3
"""Steps of which the fastest is the time of one."""


def check(trainable: str | Iterable[str], memory_mb: float | None, step_ms: float | None, repair: bool) -> None:
    """ValueError for arguments of `Learner` that do not go together."""
    if trainable == "auto":
        if memory_mb is None and step_ms is None:
            raise ValueError("trainable='auto' wants a budget: memory_mb=, step_ms=, or both")
        if repair:
            raise ValueError("repair=True wants to know what trains: not with trainable='auto'")
    elif step_ms is not None:
        raise ValueError(f"step_ms is for trainable='auto', which chooses by it; trainable is {trainable!r}")
    if step_ms is not None and not step_ms > 0:
        raise ValueError(f"step_ms is {step_ms}, wanted a positive number")


def decide(learner: Learner, feeds: Arrays, targets: Arrays, rows: int = 0) -> None:
    """Chooses what the learner trains: the most that keeps its budgets, by plans of a step on this batch, which may be
    gathered from batches of so many ``rows``. ModelError or ValueError where the head alone does not, with the least; then
    it is as before."""
    known, head = select(learner.authored, "all", learner.model.frozen), learner.parameters
    held = {p.value: Spec(master(p, learner.authored).shape, FLOAT32) for p in known}
    like = partial(learner.model._like, threads=learner.threads)
    chooser = Chooser(learner.recipe, known, head, feeds, targets, held, like)
    kept = {name: getattr(learner, name) for name in KEPT}
    try:
        adopt(learner, _most(learner, chooser, feeds, targets, rows))
        learner._work(feeds, targets, learner.recipe.graph, rows)
    except BaseException as error:
        nbytes = error.nbytes + slots(learner) if isinstance(error, TooLarge) else 0
        for name, value in kept.items():
            setattr(learner, name, value)
        if not nbytes:
            raise
        raise TooLarge(
            f"a step of the head alone needs {mebibytes(nbytes)} MiB for activations, gradients, scratch and "
            f"the optimizer's slots, memory_mb is {learner.memory_mb:g}: smaller batches need less",
            nbytes,
            nbytes,
        ) from None


def _most(learner: Learner, chooser: Chooser, feeds: Arrays, targets: Arrays, rows: int) -> Choice:
    """The largest choice that keeps the budgets; the head alone, where values must be computed again even for that."""
    best = chooser.choose(0, 0)
    least, found = chooser.cost(best), _measured(learner, best, feeds, targets, rows)
    budget = inf if learner.memory_mb is None else learner.memory_mb * MIB, learner.step_ms or inf
    if found[1] > budget[1]:
        raise ValueError(f"step_ms is {budget[1]:g}: a step of the head alone takes {found[1]:.1f} ms")
    if found[0] > budget[0]:
        return best
    aims = [have if most == inf else have * most / took for have, most, took in zip(least, budget, found, strict=True)]
    aims = [inf if most == inf else aim for aim, most in zip(aims, budget, strict=True)]
    low, high = [*least], [inf, inf]
    for _ in range(TRIES):
        choice = chooser.choose(*aims)
        if choice == best:
            break
        found = _measured(learner, choice, feeds, targets, rows)
        shares = [a / b for a, b in zip(found, budget, strict=True)]
        k = int(np.argmax(shares))
        if shares[k] <= 1:
            best, low = choice, [*aims]
            if shares[k] >= CLOSE or len(choice.layers) == choice.candidates:
                break
        else:
            high[k] = aims[k]
        aims[k] = min(aims[k] / shares[k] * 0.99, (low[k] + high[k]) / 2)
    return best


def _measured(learner: Learner, choice: Choice, feeds: Arrays, targets: Arrays, rows: int) -> tuple[float, float]:
    """(bytes, milliseconds) of a step that trains this; the time where it has a budget."""
    adopt(learner, choice)
    learner._limit = None
    given = feeds, targets, learner.recipe.graph, rows
    work = learner._work(*given)
    nbytes = work.step.memory + slots(learner)
    if learner.step_ms is None:
        return nbytes, 0.0
    return nbytes, 1e3 * min(learner.seconds(*given) for _ in range(STEPS))


@contextmanager
def adopting(learner: Learner, told: Any) -> Iterator[None]:
    """Trains what a checkpoint says was chosen, where the learner is to choose; after an exception it is as before."""
    if learner.trainable != "auto" or told is None:
        yield
        return
    kept = {name: getattr(learner, name) for name in KEPT}
    try:
        adopt(learner, Choice.read(told))
        yield
    except BaseException:
        for name, value in kept.items():
            setattr(learner, name, value)
        raise


def slots(learner: Learner) -> int:
    """Bytes of the optimizer's slots."""
    return sum(a.nbytes for n, a in learner._state.items() if n.startswith("slot"))


def limit(learner: Learner) -> float | None:
    """MiB that are left for the activations, gradients and scratch of a step."""
    return None if learner.memory_mb is None else max(learner.memory_mb - slots(learner) / MIB, 1e-3)


def adopt(learner: Learner, choice: Choice) -> None:
    """Trains this from here on; what else trained is as it began. ValueError where the model has other parameters."""
    known = {p.value: p for p in select(learner.authored, "all", learner.model.frozen)}
    if not known.keys() >= {*choice.parameters, *choice.rows}:
        raise ValueError("what was chosen is of another model")
    for name, rows in choice.rows.items():
        if name not in choice.parameters or not all(0 <= k < len(master(known[name], learner.authored)) for k in rows):
            raise ValueError("what was chosen is of another model")
    chosen = tuple(known[n] for n in choice.parameters)
    learner._state = {p.value: master(p, learner.authored) for p in chosen}
    factors = {p.value: learner.lr_decay**p.depth for p in chosen}
    learner.recipe = learner.recipe._replace(chosen=chosen, factors=factors, rows=choice.rows)
    learner._authored, learner.chosen, learner.undecided = chosen, choice, False
    learner._begin()
    learner.forget()
    learner._limit = limit(learner)
