"""What `fit` tells of its progress, and what may stop it or change its course."""

from __future__ import annotations

import csv
import os
import re
import sys
import time
from math import inf, isfinite
from typing import Any

from nbconv.base.files import replace
from nbconv.train import checkpoint
from nbconv.train.learner import Learner


class Callback:
    """What `fit` tells of its progress: derive from it, and do what you like in any of these methods. Each gets the trainer
    and a dict of what there is to know; ``trainer.stop = True`` ends after the epoch, "now" at once.

    A callback with something to remember gives it as `state`, which checkpoints keep: a dict of what JSON can say, and of
    float32 arrays (or dicts of these). `restore` gets it back before `begin`. Callbacks are found again by their classes, in
    the order in which they were given. One that is ``last`` is told after all others: it sees what they have done."""

    last = False

    def begin(self, trainer: Learner, logs: dict[str, Any]) -> None:
        """Before the first step: ``epochs``, ``steps`` (0 where unknown)."""

    def batch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        """After a step: ``loss``, ``mean`` since the epoch began, ``epoch``, ``batch``."""

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        """After an epoch: ``epoch``, ``loss``, metrics of training, ``lr``, and all of these but ``lr`` as ``val_…`` where
        there is validation data."""

    def end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        """At the end, however it came: ``whole`` is False where an exception or Ctrl-C brought it."""

    def takes(self, trainer: Learner, error: ArithmeticError) -> bool:
        """Whether a loss that is not finite ends the training quietly."""
        return False

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


USUAL = ("loss", "val_loss", "val_accuracy", "val_map50")
"""What an epoch's line tells, where no metrics were asked for."""
RISING = ("accuracy", "f1", "precision", "recall", "jaccard", "iou", "auc", "r2", "map50", "map")
"""What the names of metrics end in that are better the higher they are."""


class _Watch(Callback):
    """What those share that look for the best value of ``monitor``. ``mode``: "min", "max", or "auto": max where the name
    ends in one of `RISING`, or is top5 or alike."""

    def __init__(self, monitor: str, mode: str, least: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode is {mode!r}, wanted auto, min or max")
        if mode == "auto":
            rises = monitor.endswith(RISING) or re.search(r"(^|_)top\d+$", monitor)
            mode = "max" if rises else "min"
        self.monitor, self.mode, self.least = monitor, mode, least
        self.best, self.bad = (inf if mode == "min" else -inf), 0

    def better(self, logs: dict[str, Any]) -> bool:
        """Whether this is the best so far, by more than ``least``; counts epochs that were not."""
        if self.monitor not in logs:
            raise ValueError(f"{type(self).__name__} watches {self.monitor!r}, there is {', '.join(logs)}")
        value = logs[self.monitor]
        good = value < self.best - self.least if self.mode == "min" else value > self.best + self.least
        self.best, self.bad = (value, 0) if good else (self.best, self.bad + 1)
        return good

    def state(self) -> dict[str, Any]:
        return {"best": self.best if isfinite(self.best) else None, "bad": self.bad}

    def restore(self, state: dict[str, Any]) -> None:
        self.bad = state["bad"]
        if state["best"] is not None:
            self.best = state["best"]


class EarlyStopping(_Watch):
    """Stops where ``monitor`` has not become better by ``least`` for ``patience`` epochs; ``restore_best`` takes the weights
    of the best epoch back (Prechelt 1998) when the training has ended, not after Ctrl-C or an error. Checkpoints keep
    them."""

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 3,
        least: float = 0.0,
        mode: str = "auto",
        restore_best: bool = False,
    ) -> None:
        super().__init__(monitor, mode, least)
        self.patience, self.restore_best = patience, restore_best
        self._kept: dict[str, Any] | None = None
        self._stopped = False

    def begin(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if self._stopped:
            trainer.stop = True
        self._stopped = False

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if self.better(logs):
            if self.restore_best:
                self._kept = {n: a.copy() for n, a in trainer.state.items()}
        elif self.bad >= self.patience:
            trainer.stop = True

    def state(self) -> dict[str, Any]:
        return {**super().state(), **({} if self._kept is None else {"kept": self._kept})}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        if self.restore_best:
            self._kept = state.get("kept")
        self._stopped = self.bad >= self.patience

    def end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if self._kept is not None and logs.get("whole", True):
            for name, value in self._kept.items():
                trainer.state[name][...] = value
            trainer.forget()


class ModelCheckpoint(_Watch):
    """Writes a checkpoint to ``path`` after each epoch ("{epoch}" in it is the epoch, from 1), with ``best_only`` where
    ``monitor`` is the best so far; with ``every`` also after so many steps."""

    last = True

    def __init__(
        self,
        path: str | os.PathLike,
        monitor: str = "val_loss",
        best_only: bool = False,
        mode: str = "auto",
        every: int | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.path, self.best_only, self.every = os.fspath(path), best_only, every

    def batch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if self.every and trainer.steps % self.every == 0:
            self._write(trainer, logs["epoch"])

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if not self.best_only or self.better(logs):
            self._write(trainer, logs["epoch"])

    def _write(self, trainer: Learner, epoch: int) -> None:
        checkpoint.save(trainer, self.path.replace("{epoch}", str(epoch + 1)), {})


class ReduceLROnPlateau(_Watch):
    """Multiplies the learning rate by ``factor`` where ``monitor`` has not become better for more than ``patience``
    epochs."""

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 3,
        least: float = 0.0,
        mode: str = "auto",
        lowest: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, least)
        if not 0 < factor < 1:
            raise ValueError(f"factor is {factor}, wanted a number between 0 and 1")
        self.factor, self.patience, self.lowest = factor, patience, lowest

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if not self.better(logs) and self.bad > self.patience:
            trainer.lr_scale = max(trainer.lr_scale * self.factor, self.lowest / trainer.optimizer.lr)
            self.bad = 0


class TerminateOnNaN(Callback):
    """Ends the training where a loss is not finite, with the weights as they were before."""

    def takes(self, trainer: Learner, error: ArithmeticError) -> bool:
        print(f"training ends: {error}", file=sys.stderr)
        return True


class CSVLogger(Callback):
    """Writes a line an epoch to a CSV file; a resumed training adds to it."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        fresh = logs["epoch"] == 0 or not os.path.exists(self.path)
        with open(self.path, "w" if fresh else "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(logs)
            writer.writerow(logs.values())


class LearningCurve(Callback):
    """Draws losses and accuracies by the epoch into a PNG, after each. Wants matplotlib."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        need_matplotlib("LearningCurve")

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

        history = trainer.run.history
        figure = Figure(figsize=(9, 3.5), layout="constrained")
        for axes, ending in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for name, values in history.items():
                if name.endswith(ending):
                    axes.plot(range(1, len(values) + 1), values, label=name)
            axes.set_xlabel("epoch")
            axes.set_ylabel(ending)
            if axes.lines:
                axes.legend()
        replace(self.path, lambda file: figure.savefig(file, format="png", dpi=120))


def need_matplotlib(who: str) -> None:
    """ImportError that says what to do, unless matplotlib is there."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ImportError(f"{who} wants matplotlib: pip install 'nbconv[train]'")


class Progress(Callback):
    """A bar on a terminal, tqdm's where it is installed; elsewhere on standard error a line an epoch."""

    def begin(self, trainer: Learner, logs: dict[str, Any]) -> None:
        self.epochs, self.steps, self.bar, self.shown = logs["epochs"], logs["steps"], None, 0.0
        if not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm

            self.bar = tqdm(total=self.epochs * self.steps or None, unit="step", file=sys.stderr, leave=False)
        except ImportError:
            pass

    def batch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        text = f"epoch {logs['epoch'] + 1}/{self.epochs} loss {logs['mean']:.4f}"
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_description_str(text)
        elif sys.stderr.isatty() and time.monotonic() - self.shown > 0.1:
            self.shown = time.monotonic()
            sys.stderr.write(f"\r{text} step {logs['batch']}/{self.steps or '?'}\x1b[K")
            sys.stderr.flush()

    def epoch_end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        asked = trainer.run.metrics is not None
        told = [n for n in logs if n not in ("epoch", "lr") and (asked or n in USUAL)]
        numbers = " ".join(f"{n} {logs[n]:.4f}" for n in told)
        text = f"epoch {logs['epoch'] + 1}/{self.epochs} {numbers}"
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            sys.stderr.write(f"{chr(13) if sys.stderr.isatty() else ''}{text}{' ' * 12 if sys.stderr.isatty() else ''}\n")

    def end(self, trainer: Learner, logs: dict[str, Any]) -> None:
        if self.bar is not None:
            self.bar.close()
