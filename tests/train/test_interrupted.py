"""Ctrl-C at every line and at every instruction of a step: state, counter and where `fit` is are of one step."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.train import schedules
from tests.train.models import batch, convolutional, mlp, model

FOLDERS = "train/", "runtime/executor"
WRITING = ("_settle", "write", "span", "run", "keep", "_stepped")


class Interrupt:
    """Raises KeyboardInterrupt at one event, the ``at``-th, of the code of nbconv's files under ``folders``: lines, and
    instructions of the functions `WRITING`."""

    def __init__(self, at: int, folders: tuple[str, ...]) -> None:
        self.at, self.folders, self.seen, self.raised = at, folders, 0, False

    def __call__(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if not any(f"nbconv/{folder}" in frame.f_code.co_filename for folder in self.folders):
            return None
        frame.f_trace_opcodes = frame.f_code.co_name in WRITING
        if event in ("line", "opcode") and not self.raised:
            self.seen += 1
            if self.seen == self.at:
                self.raised = True
                raise KeyboardInterrupt
        return self

    def during(self, act: Callable[[], Any]) -> bool:
        """Whether it was raised."""
        sys.settrace(self)
        try:
            act()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        return self.raised


def contents(trainer: nbconv.Trainer) -> dict[str, bytes]:
    return {n: a.tobytes() for n, a in trainer.state.items()}


@pytest.mark.parametrize("kind", ["norms", "momentum", "two threads", "budget"])
def test_at_every_point_of_a_step(kind: str) -> None:
    graph = mlp() if kind == "momentum" else convolutional()
    x, y = batch(6, (1, 4, 4) if kind == "momentum" else (2, 7, 9))
    optimizer = nbconv.SGD(0.1, momentum=0.9) if kind == "momentum" else nbconv.Adam(0.01)
    trainer = nbconv.Trainer(model(graph), optimizer=optimizer, threads=2 if kind == "two threads" else 1)
    start = {n: a.copy() for n, a in trainer.state.items()}
    wanted = [contents(trainer)]
    for _ in range(2):
        trainer.step(x, y)
        wanted.append(contents(trainer))

    def act() -> None:
        if kind != "budget":
            trainer.step(x, y)
            return
        while trainer.step(x, y, budget_ms=0.5) is None:
            pass

    counted, taken = Interrupt(0, FOLDERS), [0, 0]
    counted.during(act)
    last = range(max(counted.seen - 600, 1), counted.seen + 20)
    points = [*range(1, last[0], 1 + last[0] // 20), *last[:: {"norms": 1, "budget": 23}.get(kind, 7)]]
    for at in points:
        for name, value in start.items():
            trainer.state[name][...] = value
        trainer.steps = 0
        Interrupt(at, FOLDERS).during(act)
        assert contents(trainer) == wanted[trainer.steps], (at, trainer.steps)
        taken[trainer.steps] += 1
        if at % 7 == 0:
            while trainer.steps < 2:
                act()
            assert contents(trainer) == wanted[2], at
        trainer.abandon()
    assert min(taken) > 2, taken  # both were met


def test_at_many_points_of_a_fit() -> None:
    x, y = batch(8)
    data = nbconv.Arrays(x, y)
    graph = mlp()

    def trained(at: int) -> tuple[nbconv.Trainer, bool]:
        trainer = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.1))
        trainer._works = works
        for work in works.values():
            work.step.abandon()
        return trainer, Interrupt(at, ("train/fit", "train/learner", "train/step")).during(
            lambda: trainer.fit(data, epochs=2, batch_size=4, cache=False)
        )

    works: dict = {}
    trainer, _ = trained(0)
    whole, interrupt = dict(trainer.run.history), Interrupt(0, ("train/fit", "train/learner", "train/step"))
    works = {}
    other = nbconv.Trainer(model(graph), optimizer=nbconv.SGD(0.1))
    interrupt.during(lambda: other.fit(data, epochs=2, batch_size=4, cache=False))
    assert contents(other) == contents(trainer) and trainer.steps == 4
    for at in range(1, interrupt.seen, 23):
        works = {}
        cut, raised = trained(at)
        if cut.run is None:
            continue
        assert raised
        assert cut.run.epoch * 2 + cut.run.batch == cut.steps, at
        state = cut.run.state()
        assert state["history"] == {
            n: v[: len(state["history"].get(n, []))] for n, v in whole.items() if n in state["history"]
        }


def test_a_changed_batch_is_refused() -> None:
    rng = np.random.default_rng(3)
    trainer = nbconv.Trainer(model(convolutional()), optimizer=nbconv.SGD(0.1))
    whole = nbconv.Trainer(model(convolutional()), optimizer=nbconv.SGD(0.1))
    x, y = batch(6, (2, 7, 9))
    whole.step(x, y)
    while trainer.step(x, y, budget_ms=0.02) is not None:  # until a step is under way
        trainer = nbconv.Trainer(model(convolutional()), optimizer=nbconv.SGD(0.1))
    for _ in range(20):
        changed, labels = x.copy(), y.copy()
        if rng.random() < 0.5:
            changed.reshape(-1)[rng.integers(changed.size)] += 1
        else:
            k = rng.integers(len(labels))
            labels[k] = (labels[k] + 1) % 3
        with pytest.raises(ValueError, match=r"is not what the step under way began with: call it again with the same"):
            trainer.step(changed, labels, budget_ms=0.02)
    with pytest.raises(ValueError, match="other shapes than the one that the step under way"):
        trainer.step(x[:3], y[:3], budget_ms=0.02)
    while trainer.step(x.copy(), y.copy(), budget_ms=0.02) is None:
        pass
    assert contents(trainer) == contents(whole)
    while trainer.step(x, y, budget_ms=0.02) is not None:
        pass
    trainer.abandon()
    before = trainer.steps
    while trainer.step(x[:3], y[:3], budget_ms=0.02) is None:
        pass
    assert trainer.steps == before + 1


def test_schedules_of_epochs_in_a_loop_of_steps() -> None:
    x, y = batch(8)
    for made in (
        schedules.cosine(4),
        schedules.step(2),
        schedules.exponential(0.5),
        schedules.warm_up(2, schedules.cosine(4)),
    ):
        fitted = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1), schedule=made)
        rates: list[float] = []

        class Rates(nbconv.Callback):
            def batch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
                rates.append(trainer.lr)  # noqa: B023

        fitted.fit((x, y), epochs=4, batch_size=4, callbacks=[Rates()], shuffle=False)
        looped = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1), schedule=made, steps_per_epoch=2)
        for _ in range(4):
            for k in (0, 4):
                looped.step(x[k : k + 4], y[k : k + 4])
        assert contents(looped) == contents(fitted)
        assert len(set(rates)) > 1
        still = nbconv.Trainer(model(mlp()), optimizer=nbconv.SGD(0.1), schedule=made)
        still.step(x, y)
        with pytest.warns(UserWarning, match=f"schedule '{made.by_epoch}' goes by epochs"):  # pyright: ignore
            still.step(x, y)
    with pytest.raises(ValueError, match="steps_per_epoch is 0"):
        nbconv.Trainer(model(mlp()), steps_per_epoch=0)
