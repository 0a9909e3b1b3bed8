"""Fine-tuning in one call: new classes for a model, from pictures in folders, a list or arrays."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbconv.base.files import check
from nbconv.model import Model
from nbconv.train import confusion
from nbconv.train.asked import NAMES as asked_names
from nbconv.train.asked import asked
from nbconv.train.augment import Augment
from nbconv.train.callbacks import Callback, EarlyStopping, ModelCheckpoint
from nbconv.train.choosing import Choice
from nbconv.train.fit import History, peak_mb
from nbconv.train.tuning import prepared

NAMES = {"map50": "mAP@50"}
"""What metrics are called where they are told."""


class Report(NamedTuple):
    """What came of it: ``metric`` on the held-out samples before and after (accuracy; of pixels the mean jaccard of classes;
    of boxes mAP@50, of numbers the loss), the confusion matrix after (rows are labels), the names of the classes, seconds,
    the process's peak memory in MB, and what happened by the epoch."""

    before: float
    after: float
    confusion: np.ndarray
    classes: tuple[str, ...]
    seconds: float
    peak_mb: float
    history: History
    metric: str = "accuracy"
    chosen: Choice | None = None
    """what trained, where `nbconv.train.choosing` chose it"""
    metrics: Mapping[str, float] = {}
    """those that were asked for, on the held-out samples after"""

    def __str__(self) -> str:
        name = NAMES.get(self.metric, self.metric)
        more = "".join(f", {n} {value:.4f}" for n, value in self.metrics.items() if n != self.metric)
        return (
            f"held-out {name} {self.before:.4f} before, {self.after:.4f} after{more}; {self.seconds:.1f} s, "
            f"{self.peak_mb:.0f} MB at most"
        )

    def html(self) -> str:
        """The confusion matrix as a page. ValueError where there is none."""
        return confusion.page(self._matrix(), self._names(), str(self))

    def png(self) -> bytes:
        """The confusion matrix as a PNG file's content. ValueError where there is none, ImportError without Pillow."""
        return confusion.png(self._matrix(), self._names(), str(self))

    def _matrix(self) -> np.ndarray:
        if not self.confusion.size:
            raise ValueError(f"there is no confusion matrix, but {self.metric}: one is of a class a sample, or a pixel")
        return self.confusion

    def _names(self) -> list[str]:
        return [*self.classes, *map(str, range(len(self.classes), len(self.confusion)))]


def finetune(
    model: str | os.PathLike | bytes | Model,
    data: Any,
    out: str | os.PathLike | None = None,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    augment: Augment | None = None,
    balance: Any = 0.0,
    patience: int | None = None,
    resume: str | os.PathLike | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    metrics: Any = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    **options: Any,
) -> Report:
    """Teaches a model the classes, masks, boxes or numbers of ``data``, writes it to ``out``, and tells how good it became.

    ``data``: a folder of class sub-folders, or of images/ and masks/; a .csv of path,label lines, an .npz with x and y;
    boxes as COCO (its .json, too), VOC or YOLO have them; (x, y), `Data`, `Splits`. ``options`` are those of
    `nbconv.train.tuning.prepared`: ``task``, ``classes``, ``layers``, ``loss``, ``optimizer``, ``schedule``, ``size``,
    ``mean``, ``std`` …; those of `fit` are ``epochs``, ``batch_size``, ``augment``, ``balance``, ``callbacks``,
    ``progress``, ``metrics``, ``clip_norm``, ``clip_value``. ``patience``: ends after so many epochs in which the held-out
    loss did not become lower, with the best epoch's weights. ``resume``: a checkpoint file, written after each epoch; where
    it is there already the training goes on from it.
    ValueError says what is wrong with data or arguments; then nothing is written.
    """
    begin = time.perf_counter()
    if out is not None:
        check(out)
    wanted = asked(metrics)
    trainer, train, held, last, metric = prepared(model, data, **options)
    if wanted is not None and metric in asked_names and metric not in wanted:
        wanted = (metric, *wanted)
    told = [*callbacks]
    if patience is not None:
        told.append(EarlyStopping("val_loss", patience, restore_best=True))
    if resume is not None:
        check(resume)
        told.append(ModelCheckpoint(resume))
    before = trainer.evaluate(last, batch_size, wanted)[metric]
    history = trainer.fit(
        train, held, epochs=epochs, batch_size=batch_size, augment=augment, balance=balance, callbacks=told, resume=resume,
        progress=progress, metrics=wanted, clip_norm=clip_norm, clip_value=clip_value,
    )  # fmt: skip
    found = trainer.evaluate(last, batch_size, wanted)
    trainer.measured = trainer.steps, {name: value for name, value in found.items() if isinstance(value, float)}
    if out is not None:
        trainer.save(out)
    trainer.commit()
    seconds = time.perf_counter() - begin
    matrix = found.get("confusion", np.zeros((0, 0), np.int64))
    shown = {} if wanted is None else {n: v for n, v in trainer.measured[1].items() if n != "loss"}
    return Report(before, found[metric], matrix, train.classes, seconds, peak_mb(), history, metric, trainer.chosen, shown)
