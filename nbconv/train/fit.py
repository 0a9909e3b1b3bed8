"""Training by the epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nbconv.base.files import replace
from nbconv.edit.deploy import frontier, tail
from nbconv.graph import Graph, Spec
from nbconv.train import advice, checkpoint
from nbconv.train.asked import Meters, asked, named
from nbconv.train.augment import Augment
from nbconv.train.callbacks import Callback, Progress, need_matplotlib
from nbconv.train.data import (
    Balance,
    Data,
    as_batches,
    as_data,
    augmented,
    batches,
    class_weighted,
    gathered,
    order,
    prefetch,
    wanted,
)
from nbconv.train.described import described
from nbconv.train.evaluation import Features, evaluate, features
from nbconv.train.learner import Learner, NonFiniteLoss, Told
from nbconv.train.learnt import ended
from nbconv.train.schedules import Named, Plateau
from nbconv.train.still import Still
from nbconv.train.targets import samples


class History(dict):
    """What happened: name ("loss", "accuracy", "val_loss", "val_accuracy", "lr") to a list with a number an epoch.
    ``report``: seconds, whether features were cached, peak memory, what the plan forecast."""

    report: dict[str, Any]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.report = {}


def fit(
    trainer: Learner,
    train: Any,
    validation: Any = None,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    callbacks: Sequence[Callback] = (),
    augment: Augment | None = None,
    shuffle: bool = True,
    balance: Balance = 0.0,
    class_weight: Any = None,
    cache: bool | str = "auto",
    cache_mb: float = 1024,
    resume: str | os.PathLike | None = None,
    progress: bool = False,
    metrics: Any = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> History:
    """Trains until ``epochs`` epochs are done, those before a ``resume`` counted; what happened in all of them.

    ``train``: (x, y), `Data` (`nbconv.Arrays`, `nbconv.image_folder`, …), or an iterable of batches, which is gone through
    once an epoch. ``validation``: the same, or the share of ``train`` to hold out. ``balance``: see
    `nbconv.train.data.order`. ``class_weight``: what the loss of each class's samples counts, "balanced" for all classes
    alike, a dict by class, or one a class. Weights of samples are the third of (x, y, weights) and of batches; they count in
    training, not in validation.
    ``cache``: whether what the frozen part makes of each sample is computed once and kept, up to ``cache_mb``: "auto" does
    where it can; it excludes augmentation, which changes the samples. ``resume``: a checkpoint to go on from, if it is there
    (the same data and arguments give the same bits as without the stop). ``progress``: a bar (tqdm's, where installed).
    ``metrics``: what is told of each epoch beside the loss, of training and of validation ("val_…"): names or functions, see
    docs/training.md. Those of training are of what the steps computed, with the weights that they began with.

    ``clip_norm``, ``clip_value``: limits of gradients, from here on in place of the optimizer's.

    NonFiniteLoss ends it, unless a callback is TerminateOnNaN. Ctrl-C ends it between two steps' states: the trainer is as
    after the last whole step.
    """
    if cache is True and augment is not None:
        raise ValueError("cached features and augmentation exclude each other: features are of unchanged samples")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs is {epochs} and batch_size {batch_size}, wanted 1 or more")
    trainer.clip(clip_norm, clip_value)
    begin = time.perf_counter()
    data = as_data(train, trainer.model, "train")
    if isinstance(validation, float):
        if data is None:
            raise ValueError("an iterable has no share to hold out: give validation data")
        data, validation = data.split(validation, trainer.seed)
    if data is not None and hasattr(data, "labels"):
        trainer.expect(data.labels)
    advice.shared_files(data, validation)
    advice.shared_samples(data, validation)
    known = described(data, trainer.authored, trainer.goals)._asdict()
    if class_weight is not None:
        if data is None:
            raise ValueError("class_weight wants (x, y) or Data: batches can have weights as their third part")
        data = class_weighted(data, class_weight)
    trainer.meaning = trainer.meaning._replace(**{name: value for name, value in known.items() if value})
    told: list[Callback] = [*callbacks, *([Progress()] if progress else [])]
    steps = -(-len(data) // (batch_size * trainer.accumulate)) if data is not None else 0
    if isinstance(trainer.schedule, Named):
        trainer.named_schedule = trainer.schedule
    if trainer.named_schedule is not None:
        trainer.schedule = trainer.named_schedule.over(epochs, steps)
    wanted_metrics = asked(metrics)
    run = _Run(trainer, sorted(told, key=lambda callback: callback.last), batch_size, wanted_metrics)
    if resume is not None and os.path.exists(resume):
        run.restore(checkpoint.load(trainer, resume))
    if data is not None and trainer.undecided:
        numbers = order(data, 0, trainer.seed, shuffle, balance)[: batch_size * trainer.accumulate]
        trainer.choose(*data.batch(numbers), run.rows)
    graph = trainer.recipe.graph
    if cache and augment is None and data is not None:
        graph, data, validation = cached(trainer, data, validation, batch_size, cache is True, cache_mb * 2**20)
    source = train if data is None else data
    run.still = Still(trainer) if trainer.model.device == "cpu" else None
    trainer.stop = False
    trainer.run = run
    whole = False
    try:
        run.begin(epochs=epochs, steps=steps)
        while run.epoch < epochs and not trainer.stop:
            stream = _stream(trainer, source, run, batch_size, augment, shuffle, balance)
            run.go_through(stream, graph, steps)
            if trainer.stop == "now":
                break
            run.finish(validation)
        whole = True
    finally:
        run.tell("end", whole=whole)
    run.history.report = {
        "seconds": time.perf_counter() - begin,
        "cached": isinstance(data, Features),
        "peak_mb": peak_mb(),
        **trainer.forecast(),
    }
    return run.history


WAIT = 1 << 16
"""Numbers of targets and of outputs that are gathered before metrics count them."""


class _Place(NamedTuple):
    """Where a fit is: the epoch, the batch in it, the sum of its losses and of samples. It changes as a whole."""

    epoch: int = 0
    batch: int = 0
    total: float = 0.0
    samples: int = 0


class _Run:
    """A fit: where it is, and what happened before."""

    def __init__(
        self, trainer: Learner, callbacks: list[Callback], batch_size: int, metrics: tuple[Any, ...] | None = None
    ) -> None:
        self.trainer, self.callbacks, self.batch_size, self.metrics = trainer, callbacks, batch_size, metrics
        self.meters = Meters(trainer.goals, metrics, costly=False)
        trainer.tell(self.meters.wants)
        self.place = _Place()
        self.rows = batch_size if trainer.accumulate > 1 else 0
        """samples of a batch, of which a step takes several, where the data do not come in batches"""
        self.history = History()
        self.still: Still | None = None

    @property
    def epoch(self) -> int:
        return self.place.epoch

    @property
    def batch(self) -> int:
        return self.place.batch

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        told = [(type(c).__name__, c.state()) for c in self.callbacks]
        return {
            **self.place._asdict(),
            "history": dict(self.history),
            "batch_size": self.batch_size,
            "accumulate": self.trainer.accumulate,
            "meters": self.meters.state() if self.batch else None,
            "callbacks": [[name, state] for name, state in told if state],
        }

    def restore(self, kept: dict[str, Any]) -> None:
        if not kept:
            return
        if kept["batch_size"] != self.batch_size:
            raise ValueError(f"the checkpoint was written with batch_size {kept['batch_size']}, this is {self.batch_size}")
        before, now = kept.get("accumulate", 1), self.trainer.accumulate
        if before != now:
            raise ValueError(f"the checkpoint was written with accumulate {before}, this is {now}")
        self.place = _Place(*(kept[n] for n in _Place._fields))
        self.history = History(kept["history"])
        if kept.get("meters") is not None:
            self.meters.restore(kept["meters"])
        states = list(kept["callbacks"])
        for callback in self.callbacks:
            k = next((k for k, (name, _) in enumerate(states) if name == type(callback).__name__), None)
            if k is not None:
                callback.restore(states.pop(k)[1])

    def begin(self, **logs: Any) -> None:
        """Tells the beginning; where one raises, neither it nor those after it are told the end."""
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback.begin(self.trainer, logs)
            self.callbacks.append(callback)

    def tell(self, what: str, /, **logs: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, what)(self.trainer, logs)

    def go_through(self, stream: Iterator[Any], graph: Graph, steps: int) -> None:
        """The rest of the epoch."""
        trainer = self.trainer
        try:
            for x, y, *largest in stream:
                rows = largest[0] if largest else self.rows
                trainer.epoch = self.epoch + (self.batch / steps if steps else 0.0)
                feeds = x if graph is not trainer.recipe.graph else trainer._inputs(x)
                try:
                    loss = trainer.advance(feeds, y, graph, rows=rows, then=partial(self._stepped, self.place, y))
                    self.meters.count(WAIT)
                except NonFiniteLoss as error:
                    if not any(c.takes(trainer, error) for c in self.callbacks):
                        raise
                    trainer.stop = "now"
                    return
                mean = self.place.total / self.place.samples
                self.tell("batch_end", loss=loss, mean=mean, epoch=self.epoch, batch=self.batch)
                if trainer.stop == "now":
                    return
        finally:
            stream.close()  # type: ignore[attr-defined]

    def _stepped(self, before: _Place, y: Any, loss: float, told: Told) -> None:
        """A step was taken: said with the step's counter, so that a Ctrl-C cannot come between."""
        count = samples(y)
        if self.meters.meters:
            self.meters.put(before.batch, *told)
        total = before.total + loss * count
        self.place = _Place(before.epoch, before.batch + 1, total, before.samples + count)

    def finish(self, validation: Any) -> None:
        """The end of an epoch: validation, history, callbacks."""
        trainer = self.trainer
        if not self.place.samples:
            raise ValueError("the data gave no batch")
        epoch = self.epoch
        logs: dict[str, Any] = {"loss": self.place.total / self.place.samples}
        logs |= {n: v for n, v in named(trainer.goals, self.meters.results()).items() if isinstance(v, float)}
        logs["lr"] = trainer.lr
        if validation is not None:
            found = evaluate(trainer, validation, self.batch_size, self.metrics)
            numbers = {n: v for n, v in found.items() if isinstance(v, float)}
            trainer.measured = trainer.steps, numbers
            logs |= {f"val_{n}": v for n, v in numbers.items()}
        for name, value in logs.items():
            self.history.setdefault(name, [])[epoch:] = [value]
        advice.rising(self.history["loss"], logs["lr"])
        if self.still is not None:
            self.still.look()
        if isinstance(trainer.schedule, Plateau):
            trainer.schedule.seen(logs.get("val_loss", logs["loss"]))
        self.meters.clear()
        self.place = _Place(epoch + 1)
        trainer.epoch = float(self.epoch)
        self.tell("epoch_end", epoch=epoch, **logs)


def _stream(
    trainer: Learner, source: Any, run: _Run, batch_size: int, augment: Augment | None, shuffle: bool, balance: Balance
) -> Iterator[Any]:
    """The batches that remain of this epoch, read ahead; those that come as batches with what `gathered` tells of them."""
    if not isinstance(source, Data):
        pairs: Iterator[Any] = as_batches(source)
        if augment is not None:
            layout = wanted(trainer.model).layout
            pairs = augmented(pairs, augment, seed=trainer.seed, epoch=run.epoch, classes=trainer.classes, layout=layout)
        pairs = gathered(pairs, trainer.accumulate)
        return prefetch(pair for k, pair in enumerate(pairs) if k >= run.batch)
    batch_size *= trainer.accumulate
    numbers = order(source, run.epoch, trainer.seed, shuffle, balance)
    if isinstance(source, Features):
        starts = range(run.batch * batch_size, len(numbers), batch_size)
        return (source.batch(numbers[k : k + batch_size]) for k in starts)
    options: dict[str, Any] = {"augment": augment, "seed": trainer.seed, "epoch": run.epoch, "classes": trainer.classes}
    return prefetch(batches(source, numbers, batch_size, start=run.batch, **options))


def cached(
    trainer: Learner, data: Data, validation: Any, batch_size: int, must: bool, limit: float
) -> tuple[Graph, Data, Any]:
    """(the graph that is left to train, features in place of data, and of validation data), where that is possible."""
    graph = trainer.recipe.graph
    names = frontier(ended(trainer.authored, trainer.goals), trainer._authored, trainer.logits)  # what the model has, too
    whole = graph, data, validation
    if not names or not set(names).isdisjoint(graph.inputs):
        if must:
            raise ValueError("there is nothing to cache: the first layer trains")
        return whole
    kept = features(trainer, data, names, batch_size, limit)
    if kept is None:
        if must:
            raise ValueError(f"the features {', '.join(names)} are not one array a sample, or more than cache_mb")
        return whole
    held = as_data(validation, trainer.model, "validation") if validation is not None else None
    if held is not None:
        validation = features(trainer, held, names, batch_size, limit) or validation
    specs = {n: Spec((None, *a.shape[1:]), a.dtype) for n, a in kept.arrays.items()}
    return tail(graph, specs, trainer.logits), kept, validation


def lr_find(
    trainer: Learner, train: Any, *, least: float = 1e-6, most: float = 1.0, steps: int = 100, batch_size: int = 32
) -> Rates:
    """A learning rate to begin with (Smith 2017, Cyclical Learning Rates): ``steps`` steps at rates that rise from ``least``
    to ``most`` by a factor, until the loss is four times its least; the trainer is then as before. Gives ``lr`` and ``loss``
    (lists, the loss smoothed), and ``suggestion``: the rate where the smoothed loss falls fastest; its `Rates.plot` draws
    them."""
    data = as_data(train, trainer.model, "train")
    if data is None:
        raise ValueError("lr_find wants (x, y) or Data")
    size, rows = batch_size * trainer.accumulate, batch_size * (trainer.accumulate > 1)
    trainer.choose(*data.batch(order(data, 0, trainer.seed)[:size]), rows)
    kept, graph = {n: np.array(a) for n, a in trainer.state.items()}, trainer.recipe.graph
    counters = trainer.steps, trainer.epoch, trainer.schedule, trainer.lr_scale
    rates, values, smooth = [], [], 0.0
    trainer.tell(Meters(trainer.goals, costly=False).wants)  # the steps that `fit` takes
    try:
        trainer.schedule = lambda step, epoch: 1.0
        for k in range(steps):
            rate = least * (most / least) ** (k / max(steps - 1, 1))
            trainer.lr_scale = rate / trainer.optimizer.lr
            per = max(-(-len(data) // size), 1)
            numbers = order(data, k // per, trainer.seed)[k % per * size :][:size]
            x, y = data.batch(numbers)
            try:
                loss = trainer.advance(trainer._inputs(x), y, graph, rows=rows)
            except NonFiniteLoss:
                break
            smooth = 0.9 * smooth + 0.1 * loss
            rates.append(rate)
            values.append(smooth / (1 - 0.9 ** (k + 1)))
            if values[-1] > 4 * min(values):
                break
    finally:
        for name, value in kept.items():
            trainer.state[name][...] = value
        trainer.steps, trainer.epoch, trainer.schedule, trainer.lr_scale = counters
        trainer.forget()
    if len(values) < 3:
        raise ValueError(f"the loss went up at once, after {len(values)} steps: give a smaller least than {least:g}")
    slope = np.gradient(np.array(values), np.log(rates))
    return Rates({"lr": rates, "loss": values, "suggestion": rates[int(slope.argmin())]})


class Rates(dict[str, Any]):
    """What `lr_find` found: ``lr``, ``loss``, ``suggestion``."""

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the loss by the rate as a PNG. ImportError without matplotlib."""
        need_matplotlib("plot")
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(self["lr"], self["loss"])
        axes.axvline(self["suggestion"], linestyle="--", label=f"suggestion {self['suggestion']:.2g}")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss, smoothed")
        axes.legend()
        replace(path, lambda file: figure.savefig(file, format="png", dpi=120))


def peak_mb() -> float:
    """The most memory this process has had, in MB (0 where the system does not say)."""
    try:
        import resource
        import sys

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    except ImportError:
        return 0.0
