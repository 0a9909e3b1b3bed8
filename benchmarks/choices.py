"""What to train of a model, where memory and time are few: ways beside each other, three seeds each.

    python benchmarks/choices.py [FOLDER] [--ways head,bias] [--tasks emoji,digits] [--seeds 0 1 2]

An ImageNet classifier (the bundled EfficientNet-Lite0) learns two other things from few samples: five kinds of emoji, which
nbconv carries, and the digits of FOLDER's mnist10k.npz (x uint8 (n, 28, 28), y). Rows are ways to train (`WAYS`). Columns:
accuracy on what is held out (mean and standard deviation over the seeds), MiB of activations, gradients and scratch of a
step on pictures with the optimizer's slots, milliseconds of such a step, and seconds of all: choosing, planning, training.
"auto as last:3" has the memory of last:3 as its budget. docs/training.md has the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

import nbconv
from benchmarks.engines import some_of
from nbconv import models
from nbconv.graph import Graph, Node, Spec
from nbconv.ops import lookup
from nbconv.train.schedules import one_cycle

SEEDS = (0, 1, 2)
BATCH, EPOCHS = 16, 6
TRIES = 5
"""Steps of which the fastest is the time of one."""


class Task(NamedTuple):
    """What is to be learnt, from few samples, at pictures of ``size`` by ``size``."""

    name: str
    train: nbconv.Data
    held: nbconv.Data
    classes: int
    size: int

    def model(self, seed: int, threads: int | None) -> nbconv.Model:
        """The classifier with a fresh head. All that it does to pictures but the last mean is local, so that other sizes
        will do."""
        graph = nbconv.load(models.efficientnet_lite0()).graph
        name, spec = next(iter(graph.inputs.items()))
        graph.inputs = {name: Spec((*spec.shape[:2], self.size, self.size), spec.dtype)}
        model = nbconv.Model(graph, threads=threads)
        model.replace_head(self.classes, seed=seed)
        return model


class Result(NamedTuple):
    """What came of a way."""

    accuracy: float
    memory_mb: float
    step_ms: float


Way = Callable[[Task, int, int | None], Result]
"""Trains a task's model, given the seed and the threads."""


def trained(
    trainable: str, rate: float, norms: bool = False, within: str = "", widen: int = 0, adapters: int | None = None
) -> Way:
    """A way that `Trainer` has. ``norms``: with batch normalisations, as the classifier had; ``within``: what takes the
    memory that is the budget; ``widen``: how many earlier layers the head reads, too; ``adapters``: their rank."""

    def way(task: Task, seed: int, threads: int | None) -> Result:
        model, options = task.model(seed, threads), {} if adapters is None else {"adapters": adapters}
        if norms:
            model = nbconv.Model(with_norms(model, task.train.batch(np.arange(100))[0]), threads=threads)
        if widen:
            model.widen_head(widen)
        if within:
            options["memory_mb"] = memory(started(model, within, rate, seed), task)
        trainer = started(model, trainable, rate, seed, len(task.train), **options)
        trainer.fit(task.train, epochs=EPOCHS, batch_size=BATCH)
        return judged(trainer, task)

    return way


def started(
    model: nbconv.Model, trainable: str, rate: float, seed: int, samples: int = BATCH, **options: float
) -> nbconv.Trainer:
    schedule = one_cycle(EPOCHS * -(-samples // BATCH))
    return nbconv.Trainer(
        model, optimizer=nbconv.Adam(rate), trainable=trainable, schedule=schedule, bn_momentum=0.9, seed=seed, **options
    )


def with_norms(model: nbconv.Model, x: np.ndarray) -> Graph:
    """A batch normalisation behind each convolution, which on pictures like ``x`` changes nothing."""
    names = [node.outputs[0] for node in model.graph.nodes if node.op.type == "Conv"]
    found = model.run({model.inputs[0].name: x}, names)
    nodes, constants = [], dict(model.graph.constants)
    for node in model.graph.nodes:
        y = node.outputs[0]
        if y not in found:
            nodes.append(node)
            continue
        mean, var = found[y].mean((0, 2, 3)), found[y].var((0, 2, 3)) + 1e-3
        for name, value in (("scale", np.sqrt(var)), ("shift", mean), ("mean", mean), ("var", var)):
            constants[f"{y}/{name}"] = value.astype(np.float32)
        inputs = (f"{y}/plain", *(f"{y}/{name}" for name in ("scale", "shift", "mean", "var")))
        nodes += [
            Node(node.op, node.inputs, inputs[:1], node.name),
            Node(lookup("BatchNormalization")(epsilon=0.0), inputs, (y,), f"{node.name}/norm"),
        ]
    return model.graph.derive(nodes, constants)


def memory(trainer: nbconv.Trainer, task: Task) -> float:
    """MiB of activations, gradients and scratch of a step on a batch of pictures, and of the optimizer's slots."""
    x, y = task.train.batch(np.arange(BATCH))
    trainer.timed(trainer._inputs(x), y, trainer.recipe.graph)
    slots = sum(a.nbytes for name, a in trainer.state.items() if name.startswith("slot")) / 2**20
    return trainer.forecast()["activations_mb"] + slots


def judged(trainer: nbconv.Trainer, task: Task) -> Result:
    """Accuracy, and what a step on a batch of pictures takes (not of features that were kept)."""
    accuracy, needs = trainer.evaluate(task.held)["accuracy"], memory(trainer, task)
    x, y = task.train.batch(np.arange(BATCH))
    seconds = min(trainer.timed(trainer._inputs(x), y, trainer.recipe.graph) for _ in range(TRIES))
    return Result(accuracy, needs, seconds * 1e3)


WAYS: dict[str, Way] = {
    "head": trained("head", 3e-3),
    "last:3": trained("last:3", 1e-3),
    "auto as last:3": trained("auto", 3e-3, within="last:3"),
    "last:9": trained("last:9", 1e-3),
    "auto as last:9": trained("auto", 3e-3, within="last:9"),
    "bias": trained("bias", 3e-3),
    "norm": trained("norm", 3e-3, norms=True),
    "all": trained("all", 1e-3),
    "last:6 adapters 16": trained("last:6", 3e-3, adapters=16),
    "last:12 adapters 16": trained("last:12", 3e-3, adapters=16),
    "head wide 16": trained("head", 1e-3, widen=16),
    "head wide 32": trained("head", 1e-3, widen=32),
}
"""By the name of its row."""


def emoji(folder: Path | None, seed: int) -> Task:
    """Five kinds of emoji: 250 drawings to train on, 250 held out, which of them by the seed."""
    pictures = models.emoji()
    train, held = nbconv.Arrays(pictures.x, pictures.y, size=(96, 96), mean=127, std=128).split(0.5, seed)
    return Task("emoji", train, held, len(pictures.classes), 96)


def digits(folder: Path | None, seed: int) -> Task:
    """Ten digits, white on black: 250 to train on, by the seed, 1,000 held out."""
    if folder is None:
        raise ValueError("digits want FOLDER, which has mnist10k.npz")
    with np.load(folder / "mnist10k.npz") as file:
        x, y = file["x"], file["y"].astype(np.int64)
    data = nbconv.Arrays(np.repeat(x[..., None], 3, axis=-1), y, size=(64, 64), mean=127, std=128)
    some = np.random.default_rng(seed).choice(len(x) - 1000, 250, replace=False)
    return Task("digits", data.part(some), data.part(np.arange(len(x) - 1000, len(x))), 10, 64)


TASKS = {"emoji": emoji, "digits": digits}


def table(tasks: Sequence[Task], ways: Sequence[str], seeds: Sequence[int], threads: int | None) -> None:
    heads = ("accuracy", "sd", "MiB a step", "ms a step", "seconds")
    first = tasks[0]
    print(f"{first.name + f', {len(first.train)} samples, {first.size} pixels':36}" + "".join(f"{h:>12}" for h in heads))
    for name in ways:
        results, seconds = [], []
        for seed, task in zip(seeds, tasks, strict=True):
            begin = time.perf_counter()
            results.append(WAYS[name](task, seed, threads))
            seconds.append(time.perf_counter() - begin)
        accuracy = [r.accuracy for r in results]
        memory, fastest = max(r.memory_mb for r in results), min(r.step_ms for r in results)
        spread = f"{statistics.mean(accuracy):12.3f}{statistics.pstdev(accuracy):12.3f}"
        numbers = f"{spread}{memory:12.1f}{fastest:12.1f}{statistics.mean(seconds):12.1f}"
        print(f"{name:36}{numbers}", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="has mnist10k.npz; without it there are no digits")
    parser.add_argument("--ways", type=some_of(WAYS), default=",".join(WAYS), help="separated by commas")
    parser.add_argument("--tasks", type=some_of(TASKS), help="separated by commas (default: all that can be had)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("-t", "--threads", type=int)
    args = parser.parse_args()
    for name in args.tasks or [n for n in TASKS if n != "digits" or args.folder]:
        table([TASKS[name](args.folder, seed) for seed in args.seeds], args.ways, args.seeds, args.threads)


if __name__ == "__main__":
    main()
