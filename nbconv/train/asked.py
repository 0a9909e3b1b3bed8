"""Metrics as they are asked for, of all batches of an epoch: of training steps' own outputs, and of evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nbconv.ops.reduce import ArgMax
from nbconv.train import losses
from nbconv.train.checks import class_order
from nbconv.train.goals import CLASSES, HEADS, LOSSES, Goal
from nbconv.train.meters import (
    BINARY,
    OF_CLASSES,
    OF_NUMBERS,
    USUAL,
    Auc,
    Batch,
    Characters,
    Confusion,
    Meter,
    Numbers,
    Own,
    Top,
    YesNo,
    no_labels,
)  # fmt: skip

NAMES = (*OF_CLASSES, "top5", "auc", *OF_NUMBERS, "character_accuracy")
"""What metrics can be asked for by name; top5 with any number."""
OTHERS = ("loss", "lr", "epoch", "confusion", "map", "map50")
"""What an epoch and an evaluation have beside metrics, and under the same names."""

Function = Callable[[Any, np.ndarray], float]
Asked = str | Function | tuple[str, Function]


def asked(given: Iterable[Asked] | str | None) -> tuple[str | tuple[str, Function], ...] | None:
    """Metrics as they are asked for: names, and (name, function). ValueError for others."""
    if given is None:
        return None
    given = given.split(",") if isinstance(given, str) else given
    found: list[str | tuple[str, Function]] = []
    for one in given:
        if isinstance(one, str) and (one in NAMES or re.fullmatch("top[1-9][0-9]*", one)):
            found.append(one)
        elif callable(one):
            found.append((getattr(one, "__name__", type(one).__name__), one))
        elif isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and callable(one[1]):
            found.append(one)
        else:
            raise ValueError(f"metric {one!r}: wanted {', '.join(NAMES)}, a function, or (name, function)")
    names = [one if isinstance(one, str) else one[0] for one in found]
    twice = next((n for n in names if names.count(n) > 1 or n in OTHERS or n.startswith("val_")), None)
    if twice is not None:
        raise ValueError(f"metric {twice!r} is there already: another name is wanted")
    return tuple(found)


def _meters(goal: Goal, wanted: Sequence[str | tuple[str, Function]] | None, costly: bool) -> list[Meter]:
    """The meters of a goal. ``costly``: also those that are usual in evaluation, not in training."""
    classes = (goal.function in CLASSES or goal.function not in LOSSES.values()) and len(goal.outputs) == 1
    if wanted is None:
        usual: list[Meter] = [Confusion(USUAL)] if classes else []
        return usual + ([Characters()] if goal.function is losses.ctc and costly else [])
    names, able = [n for n in wanted if isinstance(n, str)], _able(goal)
    names = [n for n in names if n in able or (n.startswith("top") and "top5" in able)]
    found: list[Meter] = []
    mine = [n for n in names if n in OF_CLASSES]
    if mine or (classes and costly):
        found.append(YesNo(mine) if goal.function in BINARY else Confusion(mine))
    mine = [n for n in names if n in OF_NUMBERS]
    found += [Numbers(mine)] if mine else []
    found += [Top(n) for n in names if n.startswith("top")]
    found += [Auc(goal.function in BINARY)] if "auc" in names else []
    found += [Characters()] if "character_accuracy" in names else []
    return found + [Own(*one) for one in wanted if not isinstance(one, str)]


def _able(goal: Goal) -> tuple[str, ...]:
    """The metrics that targets of a goal have."""
    if goal.function is losses.ctc:
        return ("character_accuracy",)
    if goal.function in HEADS or len(goal.outputs) > 1:
        return ()
    if goal.function in BINARY:
        return (*OF_CLASSES, "auc")
    if goal.function in CLASSES:
        return (*OF_CLASSES, "top5", "auc")
    return OF_NUMBERS if goal.function in LOSSES.values() else (*OF_CLASSES, "top5", "auc", *OF_NUMBERS)


class Meters:
    """All metrics of a trainer's ``goals``. ``wanted``: what `asked` gave; None: the usual ones. ``costly``: also those that
    take too long for training. ValueError for one that no goal has."""

    def __init__(self, goals: tuple[Goal, ...], wanted: tuple[Any, ...] | None = None, *, costly: bool = True) -> None:
        self.goals = goals
        for name in wanted or ():
            kind = "top5" if isinstance(name, str) and name.startswith("top") else name
            if isinstance(name, str) and not any(kind in _able(goal) for goal in goals):
                able = dict.fromkeys(n for goal in goals for n in _able(goal))
                told = f"wanted {', '.join(able)} or a function" if able else "wanted a function"
                raise ValueError(f"metric {name!r} is none of {', '.join(goal.name for goal in goals)}: {told}")
        self.meters = [(goal, meter) for goal in goals for meter in _meters(goal, wanted, costly)]
        self._fresh = tuple(meter.fresh for _, meter in self.meters)
        self.clear()
        self.wants = {goal.targets: any(m.scores for g, m in self.meters if g is goal) for goal, _ in self.meters}
        """By the targets' names of goals that have metrics: whether scores are wanted, or the best classes do."""

    def put(
        self, number: int, targets: Mapping[str, np.ndarray], found: Mapping[str, Any], shapes: Mapping[str, Any]
    ) -> None:
        """A batch; told again with the same ``number``, it takes the place of itself. ``found``: what `told_of` names."""
        self._seen[1][number] = targets, found, shapes

    def count(self, least: int = 0) -> None:
        """Counts what was put, once it is ``least`` numbers: then many small batches cost as one. The first batch is counted
        at once, so that metrics which cannot be are refused then."""
        waiting = self._seen[1]
        if not waiting:
            return
        if least and self._seen[0] is not self._fresh:
            targets, found, _ = next(reversed(waiting.values()))
            self._size += sum(a.size for a in (*targets.values(), *found.values()))
            if self._size < least:
                return
        self._size = 0
        each = list(waiting.values())
        joined = self._joined(each)
        parts = []
        for (goal, meter), part in zip(self.meters, self._seen[0], strict=True):
            for given in joined if meter.joins else each:
                part = self._added(goal, meter, part, *given)
            parts.append(part)
        self._seen = tuple(parts), {}

    def _joined(self, each: list[Any]) -> list[Any]:
        """Batches as one, where all that they hold counts samples along its first axis, and is alike in the others."""
        kinds = {
            tuple((n, a.dtype, a.ndim, a.shape[1:]) for part in (targets, found) for n, a in part.items())
            for targets, found, _ in each
        }
        scalars = any(not shape for shape in each[0][2].values())
        if len(each) == 1 or len(kinds) > 1 or scalars or any(goal.options.get("batch_axis", 0) for goal in self.goals):
            return each
        targets, found = ({n: np.concatenate([g[i][n] for g in each]) for n in each[0][i]} for i in (0, 1))
        shapes = {n: (sum(g[2][n][0] for g in each), *shape[1:]) for n, shape in each[0][2].items()}
        return [(targets, found, shapes)]

    @staticmethod
    def _added(goal: Goal, meter: Meter, part: Any, targets: Any, found: Any, shapes: Any) -> Any:
        best = found.get(f"{goal.targets}/best")
        scores = [found.get(f"{goal.targets}/{i}") for i in range(len(goal.logits))]
        if best is None and scores[-1] is None:  # steps tell no best class where targets are no labels
            if meter.labels:
                raise no_labels(meter.name, targets[goal.targets].shape)
            return part
        given: Any = scores[0] if len(scores) == 1 else tuple(scores)
        return meter.added(part, Batch(goal, targets[goal.targets], given, best, tuple(shapes[goal.logits[-1]])))

    def results(self) -> dict[Any, dict[str, Any]]:
        """By the keys of goals: metrics by name, of all that was put since the beginning or `clear`."""
        self.count()
        found: dict[Any, dict[str, Any]] = {goal.key: {} for goal in self.goals}
        for (goal, meter), part in zip(self.meters, self._seen[0], strict=True):
            found[goal.key] |= {} if part is meter.fresh else meter.results(part)
        return found

    def clear(self) -> None:
        self._seen, self._size = (self._fresh, {}), 0

    def state(self) -> list[Any]:
        """What a checkpoint keeps."""
        self.count()
        return [[meter.name, meter.state(part)] for (_, meter), part in zip(self.meters, self._seen[0], strict=True)]

    def restore(self, state: list[Any]) -> None:
        """What `state` told. ValueError where that was of other metrics."""
        before, now = [name for name, _ in state], [meter.name for _, meter in self.meters]
        if before != now:
            told = (", ".join(filter(None, names)) or "none" for names in (before, now))
            raise ValueError("the checkpoint was written in an epoch with metrics {}, these are {}".format(*told))
        self._seen = tuple(m.restored(s) for (_, m), (_, s) in zip(self.meters, state, strict=True)), {}


def told_of(goals: tuple[Goal, ...], wants: Mapping[str, bool], to: Any, values: Mapping[str, str]) -> dict[str, str]:
    """Adds what metrics want of a step, and names it: "targets/best" the class of the highest score, "targets/0" scores;
    ``values`` renames logits."""
    found = {}
    for goal in goals:
        if goal.targets not in wants:
            continue
        logits = [values.get(n, n) for n in goal.logits]
        if wants[goal.targets]:
            found.update({f"{goal.targets}/{i}": n for i, n in enumerate(logits)})
            continue
        spec = to.spec(goal.targets)
        order = class_order(goal, spec.dtype, spec.shape, to.spec(logits[0]).shape)
        if order is not None:
            found[f"{goal.targets}/best"] = to.add(ArgMax(axis=order[1], keepdims=0), logits[0])
    return found


def named(goals: tuple[Goal, ...], found: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any]:
    """Results by name; of several goals with the goal's before it."""
    return {
        f"{goal.title}_{name}" if len(goals) > 1 else name: value
        for goal in goals
        for name, value in found[goal.key].items()
    }
