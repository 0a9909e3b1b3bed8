"""What a training makes a model mean: see `nbconv.edit.meaning`."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbconv.edit.ends import ending
from nbconv.edit.meaning import Meaning, Picture
from nbconv.graph import Graph
from nbconv.train.data import Arrays, Data, Pictures, whole
from nbconv.train.goals import Goal

CLASSES = ("cross_entropy", "multiclass_hinge", "focal", "dice")
NUMBERS = ("mse", "l1", "huber")


def described(data: Data | None, graph: Graph, goals: tuple[Goal, ...]) -> Meaning:
    """The meaning that a model has after it was trained on data: empty where nothing says it."""
    origin = None if data is None else whole(data)
    classes = tuple(getattr(data, "classes", ()) or ())
    if len(goals) != 1:
        return Meaning(classes=classes, input=_picture(origin))
    goal = goals[0]
    return Meaning(_task(data, graph, goal), classes, _picture(origin), _output(graph, goal))


def _task(data: Data | None, graph: Graph, goal: Goal) -> str:
    kind = getattr(data, "kind", "auto")
    spec = graph.outputs.get(goal.outputs[0])
    rank = len(spec.shape) if spec is not None and spec.ranked else 0
    targets = np.ndim(getattr(data, "labels", 0))
    if kind == "boxes":
        return "detect"
    if kind == "mask" or (goal.name in CLASSES and (rank == 4 or targets == 3)):
        return "segment"
    if kind == "label" or (goal.name in CLASSES and rank == 2):
        return "classify"
    return "regress" if goal.name in NUMBERS else ""


def _output(graph: Graph, goal: Goal) -> str:
    try:
        found = ending(graph, goal.outputs[0], "")
    except ValueError:  # what the output is computed of is neither
        return ""
    if found is None:
        return "logits" if goal.name in CLASSES else ""
    return "" if found.node.op.type == "LogSoftmax" else "probabilities"


def _picture(data: Any) -> Picture | None:
    """How pictures were read; None for data that are none, or were prepared elsewhere."""
    if isinstance(data, Arrays):
        if not data.pictures:
            return None
        inner = data.size or data.x.shape[1:3]
        channels = data.channels or (3 if data.x.ndim == 4 and data.x.shape[3] == 3 else 1)
        how = ("stretch", "bilinear")
    elif isinstance(data, Pictures) or hasattr(data, "reading"):
        inner, channels = data.size, data.channels or 3
        how = (getattr(data, "resize", "crop"), "bicubic")
    else:
        return None
    mean, std = (tuple(float(v) for v in np.atleast_1d(value)) for value in (data.mean, data.std))
    if channels not in (1, 3) or any(len(numbers) not in (1, channels) for numbers in (mean, std)):
        return None
    size = None if inner is None else (int(inner[0]), int(inner[1]))
    layout = data.layout if data.layout in ("NCHW", "NHWC") else None
    return Picture(size, channels, mean, std, "RGB", layout, *how)
