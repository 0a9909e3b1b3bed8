"""How good a trainer's model is on data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nbconv.graph import Graph, Spec
from nbconv.graph.builder import Builder
from nbconv.graph.dtypes import is_half
from nbconv.train.asked import Meters, named
from nbconv.train.data import Data, as_batches, as_data, whole
from nbconv.train.detections import judge
from nbconv.train.goals import Goal, by_goal, specs_of
from nbconv.train.learner import Learner
from nbconv.train.targets import samples


def evaluate(trainer: Learner, given: Any, batch_size: int, wanted: tuple[Any, ...] | None = None) -> dict[str, Any]:
    """See `Trainer.evaluate`; ``wanted`` as `asked` gives it."""
    meters = Meters(trainer.goals, wanted)
    data = as_data(given, trainer.model)
    source = ((*pair, None) for pair in as_batches(given)) if data is None else _in_order(data, batch_size)
    boxes = judge(data, trainer.goals)
    begin = data.begins_at if isinstance(data, Features) else ()
    totals, count = {goal.key: 0.0 for goal in trainer.goals}, 0
    for x, y, known in source:
        size = samples(y)
        if not size:
            continue
        targets, found = by_goal(trainer.goals, y), scores(trainer, x, begin)
        for goal in trainer.goals:
            mine, logits = targets[goal.targets], found[goal.logits[-1]]
            trainer._check(goal, mine, logits.shape)
            totals[goal.key] += _loss(trainer, goal, found, mine) * size
        told = {f"{goal.targets}/{i}": found[n] for goal in trainer.goals for i, n in enumerate(goal.logits)}
        meters.put(count, targets, told, {n: a.shape for n, a in found.items()})
        meters.count()  # at once: whoever gives batches may use their arrays again
        if boxes is not None and known is not None:
            boxes.add(found, known)
        count += size
    if not count:
        raise ValueError("there is nothing to evaluate on")
    result: dict[str, Any] = {"loss": sum(goal.weight * totals[goal.key] for goal in trainer.goals) / count}
    metrics = meters.results()
    if len(totals) > 1:
        metrics = {key: {"loss": totals[key] / count, **told} for key, told in metrics.items()}
    return {**result, **named(trainer.goals, metrics), **(boxes.metrics() if boxes is not None else {})}


def _in_order(data: Data, batch_size: int) -> Iterator[tuple[Any, Any, Any]]:
    for k in range(0, len(data), batch_size):
        yield data.known(np.arange(k, min(k + batch_size, len(data))))


def scores(trainer: Learner, x: Any, begin: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The logits for a batch, the model's input, or features; those of half precision as float32."""
    specs = {n: Spec((None, *a.shape[1:]), a.dtype) for n, a in x.items()} if begin else {}
    model, feeds = trainer.current(begin, specs), x if begin else trainer._inputs(x)
    found = model.run(feeds, trainer.logits)
    return {n: a.astype(np.float32) if is_half(a.dtype) else a for n, a in found.items()}


def _loss(trainer: Learner, goal: Goal, scores: Mapping[str, np.ndarray], y: np.ndarray) -> float:
    given = {**{n: scores[n] for n in goal.logits}, goal.targets: y}
    key = (goal.targets, *((a.shape, a.dtype.str) for a in given.values()))
    if key not in trainer.loss_models:
        ports = specs_of(given)
        to = Builder(Graph([], ports, {}, {}), ports)
        name = goal.loss(to, {})
        trainer.loss_models[key] = name, trainer.model._like(to.graph((name,)), trainer.threads)
    name, model = trainer.loss_models[key]
    return float(model.run(given)[name].reshape(()))


class Features(Data):
    """What the frozen part makes of data, kept: ``arrays`` by the names of values."""

    encode: Any = None
    """what made targets of boxes, see `nbconv.train.data.Boxed`"""

    def __init__(
        self, arrays: dict[str, np.ndarray], labels: np.ndarray, classes: tuple[str, ...], boxes: np.ndarray | None = None
    ) -> None:
        self.arrays, self.labels, self.classes, self.boxes = arrays, labels, classes, boxes
        self.begins_at = tuple(arrays)

    def known(self, numbers: np.ndarray) -> Any:
        boxes = None if self.boxes is None else self.boxes[numbers]
        return {n: a[numbers] for n, a in self.arrays.items()}, self.weighed(self.labels[numbers], numbers), boxes


def features(trainer: Learner, data: Data, names: tuple[str, ...], batch_size: int, limit: float) -> Features | None:
    """The frozen part's values for all samples; None where they are not one a sample, or take more than ``limit`` bytes."""
    arrays: dict[str, np.ndarray] = {}
    labels: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    for k in range(0, len(data), batch_size):
        numbers = np.arange(k, min(k + batch_size, len(data)))
        x, y, read = data.known(numbers)
        labels.append(y)
        boxes.append(read)
        found = trainer.model.run(trainer._inputs(x), list(names))
        for name, value in found.items():
            if value.ndim < 1 or len(value) != len(numbers) or not (value.dtype == np.float32 or is_half(value.dtype)):
                return None
            if name not in arrays:
                arrays[name] = np.empty((len(data), *value.shape[1:]), value.dtype)
                if sum(a.nbytes for a in arrays.values()) > limit:
                    return None
            arrays[name][numbers] = value
    known = getattr(data, "labels", None)
    encode = getattr(whole(data), "encode", None)
    rows = None if encode is None else np.concatenate(boxes)
    found = Features(arrays, np.concatenate(labels) if known is None else known, data.classes, rows)
    found.weights, found.encode = data.weights, encode
    return found
