"""What `finetune` trains, made ready: the model with a new head, the data in parts, the trainer."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbconv.edit.meaning import TASKS, Picture, meaning
from nbconv.model import Model, load
from nbconv.train.data import Data, Splits, classified, encoded, read_data, wanted, whole
from nbconv.train.detections import prepare
from nbconv.train.optimizers import Adam, Optimizer
from nbconv.train.schedules import Schedule
from nbconv.train.trainer import Trainer

METRICS = {"classify": "accuracy", "segment": "jaccard", "detect": "map50", "regress": "loss"}
"""By task, what it is judged by."""
LOSSES = {"classify": "cross_entropy", "segment": "cross_entropy", "detect": "ssd", "regress": "mse"}

FEW = ("head", "bias", "norm", "auto")
"""What trains few parameters, at a higher rate than many."""


class Tuning(NamedTuple):
    """A trainer, and the data to train it, to watch it, and to tell its result of."""

    trainer: Trainer
    train: Data
    held: Data
    last: Data
    metric: str


def prepared(
    model: str | os.PathLike | bytes | Model,
    data: Any,
    *,
    task: str = "auto",
    classes: int | None = None,
    layers: str | Iterable[str] = "head",
    widen: int = 0,
    loss: Any = None,
    loss_options: Any = None,
    optimizer: Optimizer | None = None,
    schedule: Schedule | str | None = None,
    lr_decay: float = 1.0,
    held_out: float = 0.2,
    size: tuple[int, int] | None = None,
    mean: Any = None,
    std: Any = None,
    channels: int | None = None,
    layout: str | None = None,
    memory_mb: float | None = None,
    step_ms: float | None = None,
    repair: bool = False,
    grids: Sequence[str] = (),
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    **more: Any,
) -> Tuning:
    """A trainer of a model with a new head for data, and these in parts.

    ``task``: "classify", "segment" (a class a pixel), "detect" (boxes), "regress" (numbers), or "auto", what the data are
    of. A detector's head goes on ``grids``, features by name, see `Model.add_detector`. ``classes``: how many the new head
    has (default: those of the data). ``layers``: what trains, "head", "last:k", "bias", "norm", "all", "auto" (what
    ``memory_mb`` and ``step_ms`` leave room for), or globs.
    ``widen``: how many earlier layers the new head reads, too (`Model.widen_head`).
    ``held_out``: the share of each class that is kept for the report; data in splits have theirs: a validation part is
    watched, a test part is what the report is of.
    ``size``, ``mean``, ``std``, ``channels``, ``layout``: how pictures become the model's input (by default its height and
    width, and as its metadata say, else pixel / 255; arrays of floats are taken as they are), and refused where `Data` has
    others.
    ``loss``: by default cross-entropy, of numbers mse. ``optimizer``: Adam by default. ``threads`` and ``device``: as
    `nbconv.load` takes them, where ``model`` is no Model. The others, and ``more``, are `Trainer`'s.
    """
    if task not in ("auto", *TASKS):
        raise ValueError(f"task is {task!r}, wanted auto, {', '.join(TASKS)}")
    model = model if isinstance(model, Model) else load(model, threads=threads, device=device)
    pictures, fixed = _pictures(model, data), wanted(model).size
    if size is not None and fixed is not None and tuple(size) != tuple(fixed):
        raise ValueError(
            f"size is {size[0]}x{size[1]}, and the model takes pictures of {fixed[0]}x{fixed[1]} alone: leave size out"
        )
    size = size or (pictures.size if pictures.size and fixed is None else None)
    mean, std = (pictures.mean if mean is None else mean), (pictures.std if std is None else std)
    kind = "values" if task == "regress" and _table(data) else None
    given = read_data(data, size, mean, std, channels=channels, layout=layout, kind=kind)
    first = given["train"] if isinstance(given, Splits) else given
    task = _task(first) if task == "auto" else task
    samples = _fitting(first, task).bound(wanted(model))
    if isinstance(given, Splits) and given.held is not None and given.last is not None:
        train, held, last = samples, _fitting(given.held, task), _fitting(given.last, task)
    else:
        train, held = samples.split(held_out, seed)
        last = held
    if not len(held):
        _look_for_files(samples)
        raise ValueError(f"there are {len(samples)} samples, wanted two or more of a class: some to train on, some held out")
    rate = 1e-3 if layers in FEW or task == "detect" else 3e-4
    if grids and task != "detect":
        raise ValueError(f"grids is {', '.join(grids)}, which a detector's head goes on, and the task is {task!r}")
    if task == "detect":
        if loss not in (None, LOSSES[task]):
            raise ValueError(f"loss is {loss!r}, and that of a detector is 'ssd': leave loss out")
        if widen:
            raise ValueError(f"widen is {widen}, and a detector's head reads grids: name these")
        anchors = prepare(model, train, classes, grids, seed)
        train, held, last = (encoded(part, anchors) for part in (train, held, last))
    else:
        model.replace_head(_outputs(samples, task, classes), seed=seed)
        if widen:
            model.widen_head(widen)
    trainer = Trainer(
        model, loss or LOSSES[task], optimizer or Adam(rate), layers, schedule=schedule, loss_options=loss_options,
        lr_decay=lr_decay, memory_mb=memory_mb, step_ms=step_ms, repair=repair, seed=seed, **more,
    )  # fmt: skip
    return Tuning(trainer, train, held, last, METRICS[task])


def _pictures(model: Model, data: Any) -> Picture:
    """How the model's metadata say that its pictures are made, where these data are files of pictures."""
    files = isinstance(data, (str, os.PathLike)) and not str(data).lower().endswith(".npz")
    return (meaning(model.graph.metadata).input or Picture()) if files else Picture()


def _look_for_files(data: Data) -> None:
    """FileNotFoundError for a picture that is not there."""
    for path in getattr(whole(data), "paths", ()):
        if isinstance(path, (str, os.PathLike)) and not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _table(data: Any) -> bool:
    return isinstance(data, (str, os.PathLike)) and str(data).lower().endswith(".csv")


def _task(data: Data) -> str:
    """What the targets are."""
    labels = getattr(data, "labels", None)
    masks = data.kind == "mask" or (labels is not None and labels.ndim == 3 and labels.dtype.kind == "i")
    if masks or data.kind == "boxes":
        return "segment" if masks else "detect"
    return "regress" if data.kind == "values" else "classify"


def _fitting(data: Data, task: str) -> Data:
    """The data, if their targets are the task's; ValueError says what they are."""
    labels = getattr(data, "labels", None)
    if task == "classify":
        return classified(data)
    if task == "segment" and _task(data) != "segment":
        raise ValueError("task is 'segment', and the targets are no masks: wanted a class a pixel, int64 (n, h, w)")
    if task == "detect" and data.kind != "boxes":
        raise ValueError("task is 'detect', and the targets are no boxes: wanted COCO's, VOC's or YOLO's, or data of boxes")
    if task == "regress" and (labels is None or labels.dtype.kind not in "fi" or labels.ndim > 2):
        raise ValueError("task is 'regress', and the targets are no numbers: wanted float32 (n,) or (n, outputs)")
    return data


def _outputs(data: Data, task: str, classes: int | None) -> int:
    """How many the new head has."""
    if task == "regress":
        if classes is not None:
            raise ValueError("classes are of no use where numbers are learnt")
        return 1 if data.labels.ndim == 1 else data.labels.shape[1]
    if classes or data.classes:
        return classes or len(data.classes)
    if getattr(data, "labels", None) is None:
        raise ValueError("the data do not name their classes: say how many there are, classes=…")
    ignored = data.labels[data.labels != 255] if task == "segment" else data.labels
    return int(np.max(ignored, initial=0)) + 1
