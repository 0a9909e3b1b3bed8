"""Fine-tuning in one call: new classes for a model, from pictures in folders, a list or arrays."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import numpy as np

from nbconv.base.files import check
from nbconv.edit.meaning import Picture, meaning
from nbconv.model import Model, load
from nbconv.train import confusion
from nbconv.train.augment import Augment
from nbconv.train.data import Splits, classified, read_data, wanted
from nbconv.train.fit import History, peak_mb
from nbconv.train.optimizers import Adam, Optimizer
from nbconv.train.trainer import Trainer


class Report(NamedTuple):
    """What came of it: accuracy on the held-out samples before and after, the confusion matrix after (rows are labels), the
    names of the classes, seconds, the process's peak memory in MB, and what happened by the epoch."""

    before: float
    after: float
    confusion: np.ndarray
    classes: tuple[str, ...]
    seconds: float
    peak_mb: float
    history: History

    def __str__(self) -> str:
        return (
            f"held-out accuracy {self.before:.4f} before, {self.after:.4f} after; {self.seconds:.1f} s, "
            f"{self.peak_mb:.0f} MB at most"
        )

    def html(self) -> str:
        """The confusion matrix as a page."""
        return confusion.page(self.confusion, self._names(), str(self))

    def png(self) -> bytes:
        """The confusion matrix as a PNG file's content. ImportError without Pillow."""
        return confusion.png(self.confusion, self._names(), str(self))

    def _names(self) -> list[str]:
        return [*self.classes, *map(str, range(len(self.classes), len(self.confusion)))]


def finetune(
    model: str | os.PathLike | bytes | Model,
    data: Any,
    out: str | os.PathLike | None = None,
    *,
    classes: int | None = None,
    layers: str = "head",
    epochs: int = 10,
    batch_size: int = 32,
    optimizer: Optimizer | None = None,
    lr_decay: float = 1.0,
    held_out: float = 0.2,
    augment: Augment | None = None,
    size: tuple[int, int] | None = None,
    mean: Any = None,
    std: Any = None,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Report:
    """Teaches a classifier the classes of ``data``, writes it to ``out``, and tells how good it became.

    ``data``: a folder of class sub-folders, a .csv of path,label lines, an .npz with x and y, (x, y), `Data`, `Splits`.
    The model's classifier is replaced by one for ``classes`` (default: those of the data). ``layers``: "head", "last:k" or
    "all". ``held_out``: the share of each class that is kept for the report; data in splits have theirs: a validation part
    is watched, a test part is what the report is of. ``size``, ``mean``, ``std``: how pictures become the model's input (by
    default its height and width, and as its metadata say, else pixel / 255; arrays of floats are taken as they are), and
    refused where `Data` has others. ``optimizer``: Adam by default. ``threads`` and
    ``device``: as `nbconv.load` takes them, where ``model`` is no Model.
    ValueError says what is wrong with data or arguments; then nothing is written.
    """
    begin = time.perf_counter()
    if out is not None:
        check(out)
    model = model if isinstance(model, Model) else load(model, threads=threads, device=device)
    pictures = _pictures(model, data)
    size = size or (pictures.size if pictures.size and wanted(model).size is None else None)
    mean, std = (pictures.mean if mean is None else mean), (pictures.std if std is None else std)
    given = read_data(data, size, mean, std)
    parts = given if isinstance(given, Splits) else None
    samples = classified(given["train"] if isinstance(given, Splits) else given).bound(wanted(model))
    count = classes or len(samples.classes) or int(samples.labels.max()) + 1
    model.replace_head(count, seed=seed)
    if parts and parts.held is not None and parts.last is not None:
        train, held, last = samples, classified(parts.held), classified(parts.last)
    else:
        train, held = samples.split(held_out, seed)
        last = held
    if not len(held):
        raise ValueError(f"there are {len(samples)} samples, wanted two or more of a class: some to train on, some held out")
    rate = 1e-3 if layers == "head" else 3e-4
    trainer = Trainer(model, "cross_entropy", optimizer or Adam(rate), layers, lr_decay=lr_decay, seed=seed)
    before = trainer.evaluate(last, batch_size)["accuracy"]
    history = trainer.fit(train, held, epochs=epochs, batch_size=batch_size, augment=augment, progress=progress)
    found = trainer.evaluate(last, batch_size)
    trainer.measured = trainer.steps, {name: value for name, value in found.items() if isinstance(value, float)}
    if out is not None:
        trainer.save(out)
    trainer.commit()
    seconds = time.perf_counter() - begin
    return Report(before, found["accuracy"], found["confusion"], samples.classes, seconds, peak_mb(), history)


def _pictures(model: Model, data: Any) -> Picture:
    """How the model's metadata say that its pictures are made, where these data are files of pictures."""
    files = isinstance(data, (str, os.PathLike)) and not str(data).lower().endswith(".npz")
    return (meaning(model.graph.metadata).input or Picture()) if files else Picture()
