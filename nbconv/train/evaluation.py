"""How good a trainer's model is on data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nbconv.graph import Graph, Spec
from nbconv.graph.builder import Builder
from nbconv.graph.dtypes import is_half
from nbconv.train import metrics
from nbconv.train.data import Data, as_batches, as_data
from nbconv.train.learner import Learner


def evaluate(trainer: Learner, given: Any, batch_size: int) -> dict[str, Any]:
    """See `Trainer.evaluate`."""
    data = as_data(given, trainer.model)
    source: Iterator[Any] = as_batches(given) if data is None else _in_order(data, batch_size)
    begin = data.begins_at if isinstance(data, Features) else ()
    total, count, matrix = 0.0, 0, None
    ignored = trainer.loss_options.get("ignore_index")
    for x, y in source:
        y = np.asarray(y)
        logits = scores(trainer, x, begin)
        trainer._check_labels(y, logits.shape[1] if logits.ndim > 1 else 1)
        total += _loss(trainer, logits, y) * len(y)
        count += len(y)
        if y.dtype.kind in "iub" and logits.ndim == y.ndim + 1 and logits.shape[1] > 1:
            classes = logits.shape[1]
            found = metrics.confusion_matrix(y, logits.argmax(axis=1), classes, ignored)
            matrix = found if matrix is None else matrix + found
    if not count:
        raise ValueError("there is nothing to evaluate on")
    result: dict[str, Any] = {"loss": total / count}
    if matrix is not None:
        result |= {
            "accuracy": metrics.accuracy(matrix),
            "confusion": matrix,
            "precision": float(metrics.precision(matrix).mean()),
            "recall": float(metrics.recall(matrix).mean()),
            "f1": float(metrics.f1(matrix).mean()),
            "jaccard": metrics.mean_jaccard(matrix),
        }
    return result


def _in_order(data: Data, batch_size: int) -> Iterator[tuple[Any, np.ndarray]]:
    for k in range(0, len(data), batch_size):
        yield data.batch(np.arange(k, min(k + batch_size, len(data))))


def scores(trainer: Learner, x: Any, begin: tuple[str, ...]) -> np.ndarray:
    """The logits for a batch, the model's input, or features; those of half precision as float32."""
    specs = {n: Spec((None, *a.shape[1:]), a.dtype) for n, a in x.items()} if begin else {}
    model, feeds = trainer.current(begin, specs), x if begin else trainer._inputs(x)
    found = model.run(feeds, [trainer.authored_logits])[trainer.authored_logits]
    return found.astype(np.float32) if is_half(found.dtype) else found


def _loss(trainer: Learner, logits: np.ndarray, y: np.ndarray) -> float:
    y = y.astype(np.int64 if y.dtype.kind in "iub" else np.float32)
    ports = {"logits": Spec(logits.shape, logits.dtype), "targets": Spec(y.shape, y.dtype)}
    key = (logits.shape, y.shape, y.dtype.str)
    if key not in trainer.loss_models:
        to = Builder(Graph([], ports, {}, {}), ports)
        name = trainer.recipe.loss(to, "logits", "targets")
        trainer.loss_models[key] = name, trainer.model._like(to.graph((name,)), trainer.threads)
    name, model = trainer.loss_models[key]
    return float(model.run({"logits": logits, "targets": y})[name].reshape(()))


class Features(Data):
    """What the frozen part makes of data, kept: ``arrays`` by the names of values."""

    def __init__(self, arrays: dict[str, np.ndarray], labels: np.ndarray, classes: tuple[str, ...]) -> None:
        self.arrays, self.labels, self.classes = arrays, labels, classes
        self.begins_at = tuple(arrays)

    def batch(self, numbers: np.ndarray) -> Any:
        return {n: a[numbers] for n, a in self.arrays.items()}, self.labels[numbers]


def features(trainer: Learner, data: Data, names: tuple[str, ...], batch_size: int, limit: float) -> Features | None:
    """The frozen part's values for all samples; None where they are not one a sample, or take more than ``limit`` bytes."""
    arrays: dict[str, np.ndarray] = {}
    labels: list[np.ndarray] = []
    for k in range(0, len(data), batch_size):
        numbers = np.arange(k, min(k + batch_size, len(data)))
        x, y = data.batch(numbers)
        labels.append(y)
        found = trainer.model.run(trainer._inputs(x), list(names))
        for name, value in found.items():
            if value.ndim < 1 or len(value) != len(numbers) or not (value.dtype == np.float32 or is_half(value.dtype)):
                return None
            if name not in arrays:
                arrays[name] = np.empty((len(data), *value.shape[1:]), value.dtype)
                if sum(a.nbytes for a in arrays.values()) > limit:
                    return None
            arrays[name][numbers] = value
    return Features(arrays, np.concatenate(labels), data.classes)
