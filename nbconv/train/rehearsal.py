"""What a training would do and cost, measured on a batch or two; nothing is changed."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from nbconv.train.data import Data, as_data, batches, order
from nbconv.train.evaluation import Features
from nbconv.train.fit import cached
from nbconv.train.learner import Learner

TRIES = 3


class Rehearsal(NamedTuple):
    """``trained`` and ``parameters``: how many numbers train, of how many, and the ``names`` of those tensors; ``samples``,
    ``held``: how many to train on, and held out; ``steps`` an epoch; ``activations_mb`` and ``state_mb`` as
    `Learner.forecast` has them; ``step_s``, ``read_s``: seconds of a step, and to read a batch; ``once_s``: of what is
    computed once and kept, the frozen part for all samples (0: it is not kept); ``epoch_s``: of an epoch, validation
    included."""

    trained: int
    parameters: int
    names: tuple[str, ...]
    samples: int
    held: int
    steps: int
    activations_mb: float
    state_mb: float
    step_s: float
    read_s: float
    once_s: float
    epoch_s: float

    def __str__(self) -> str:
        shown = ", ".join(self.names[:6]) + (f" and {len(self.names) - 6} more" if len(self.names) > 6 else "")
        once = f"\nonce     {self.once_s:.1f} s for the frozen part of all samples, which is kept" if self.once_s else ""
        return (
            f"trains   {self.trained:,} of {self.parameters:,} parameters: {shown}\n"
            f"data     {self.samples:,} samples to train on, {self.held:,} held out; {self.steps:,} steps an epoch\n"
            f"memory   {self.activations_mb:.1f} MiB for a step, {self.state_mb:.1f} MiB of parameters and optimizer's state"
            f"{once}\nepoch    {self.epoch_s:.1f} s: {self.step_s * 1e3:.1f} ms a step, {self.read_s * 1e3:.1f} ms to read "
            "a batch"
        )


def rehearse(trainer: Learner, train: Data, held: Data | None, batch_size: int, augment: Any = None) -> Rehearsal:
    """Plans a step and times the part of it that writes to nothing; `fit` would do the same ones."""
    train = as_data(train, trainer.model) or train
    held = held and as_data(held, trainer.model)
    rows, batch_size = batch_size * (trainer.accumulate > 1), batch_size * trainer.accumulate
    steps = -(-len(train) // batch_size)
    numbers = order(train, 0, trainer.seed)[: 2 * batch_size]
    options: dict[str, Any] = {"augment": augment, "seed": trainer.seed, "classes": trainer.classes}
    begin = time.perf_counter()
    x, y = next(iter(batches(train, numbers[:batch_size], batch_size, **options)))
    read = time.perf_counter() - begin
    trainer.choose(x, y, rows)
    graph, feeds, once = trainer.recipe.graph, trainer._inputs(x), 0.0
    if augment is None:
        part = train.part(numbers[:batch_size])
        cached(trainer, part, None, batch_size, False, float("inf"))  # makes the plan
        begin = time.perf_counter()
        short, kept, _ = cached(trainer, part, None, batch_size, False, float("inf"))
        seconds = time.perf_counter() - begin
        if isinstance(kept, Features):
            graph, feeds, y = short, kept.arrays, kept.labels
            once = seconds / len(part) * (len(train) + (len(held) if held is not None else 0))
    step = min(trainer.timed(feeds, y, graph, rows) for _ in range(TRIES))
    whole = trainer.forecast()
    check = 0.0
    if held is not None and not once:
        some = held.part(np.arange(min(batch_size, len(held))))
        begin = time.perf_counter()
        xs, _ = some.batch(np.arange(len(some)))
        trainer.current().run(trainer._inputs(xs))
        check = (time.perf_counter() - begin) / len(some) * len(held)
    constants, places = trainer.authored.constants.values(), trainer.recipe.rows
    return Rehearsal(
        sum(trainer.state[p.value][list(places.get(p.value, ())) or ...].size for p in trainer.parameters),
        sum(a.size for a in constants if a.dtype.kind == "f" and a.size > 1),
        tuple(p.name for p in trainer.parameters),
        len(train),
        len(held) if held is not None else 0,
        steps,
        whole.get("activations_mb", 0.0),
        whole["state_mb"],
        step,
        0.0 if once else read,
        once,
        steps * max(step, 0.0 if once else read) + check,
    )
