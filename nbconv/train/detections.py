"""A detector's training: its head for the boxes of data, and how good it is on boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nbconv.edit.detector import find_grids, picture_size
from nbconv.model import Model
from nbconv.train.box_losses import ssd
from nbconv.train.data import Data, whole
from nbconv.train.goals import Goal
from nbconv.vision.anchors import Anchors, anchor_shapes
from nbconv.vision.boxes import Detections
from nbconv.vision.evaluate import average_precisions

LOOKED_AT, SHAPES = 128, 3
"""How many pictures' boxes decide the anchors' shapes, and how many shapes a grid there are."""
LEAST, MOST = 0.01, 100
"""The least probability of a detection that counts for average precision, and how many a picture."""
OVERLAPS = np.arange(0.5, 1, 0.05).tolist()


def prepare(model: Model, data: Data, classes: int | None, grids: Sequence[str], seed: int) -> Anchors:
    """Puts a detector's head on the model's features, whose anchors have shapes as the data's boxes: those of some pictures,
    as they become the model's input. ValueError for data without boxes."""
    count = classes or len(data.classes)
    if count < len(data.classes):
        raise ValueError(f"classes is {classes}, the data have {len(data.classes)}: {', '.join(data.classes)}")
    size = picture_size(model.graph, getattr(whole(data), "size", None))
    found = find_grids(model.graph, size, grids)
    numbers = np.random.default_rng([seed, 0xA2C]).permutation(len(data))[:LOOKED_AT]
    rows = np.asarray(data.read(np.sort(numbers))[1]).reshape(-1, 5)
    boxes = rows[rows[:, 4] >= 0, :4]
    if not len(boxes):
        raise ValueError(f"{len(numbers)} pictures have no boxes: wanted some to learn from")
    return model.add_detector(count, anchor_shapes(boxes, SHAPES * len(found)), size=size, grids=grids, seed=seed)


class Judge:
    """Average precision of what a detector finds in pictures, one batch after another."""

    def __init__(self, anchors: Anchors, goal: Goal) -> None:
        self.anchors, self.goal = anchors, goal
        self.found: list[Detections] = []
        self.boxes: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def add(self, values: Any, rows: np.ndarray) -> None:
        """``values``: the logits by name. ``rows`` (n, most, 5): true boxes as `nbconv.train.data.Boxed` has them."""
        moves, scores = (values[name] for name in self.goal.logits)
        each = np.exp(scores - scores.max(axis=2, keepdims=True))
        for move, score, true in zip(moves, each / each.sum(axis=2, keepdims=True), rows, strict=True):
            self.found.append(self.anchors.detections(move, score, score=LEAST, most=MOST))
            true = true[true[:, 4] >= 0]
            self.boxes.append(true[:, :4])
            self.labels.append(true[:, 4].astype(np.int64) + 1)

    def metrics(self) -> dict[str, float]:
        """``map50``: mAP at an overlap of 0.5; ``map``: its mean over 0.5, 0.55 … 0.95, as COCO has it."""
        each = [*average_precisions(self.found, self.boxes, self.labels, OVERLAPS).values()]
        means = np.mean(each, axis=0) if each else np.zeros(len(OVERLAPS))
        return {"map50": float(means[0]), "map": float(means.mean())}


def judge(data: Data | None, goals: Sequence[Goal]) -> Judge | None:
    """For data of boxes that `Anchors` encode, and a goal of such a head."""
    anchors = getattr(whole(data), "encode", None) if data is not None else None
    goal = next((g for g in goals if g.function is ssd), None)
    return Judge(anchors, goal) if isinstance(anchors, Anchors) and goal is not None else None
