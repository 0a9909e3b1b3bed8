"""The steps that a learner has planned: one for arrays of each shapes, made when they first come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nbconv.graph import Graph, Spec
from nbconv.train import auto
from nbconv.train.asked import told_of
from nbconv.train.building import Built
from nbconv.train.gathering import Gathered, size
from nbconv.train.goals import by_goal, specs_of
from nbconv.train.learnt import Learnt
from nbconv.train.memory.planned import planned
from nbconv.train.memory.policy import MemoryPolicy
from nbconv.train.optimizers import Optimizer
from nbconv.train.step import TrainingStep
from nbconv.train.updates import hyper_values


class Work(NamedTuple):
    """A planned step."""

    step: TrainingStep
    built: Built
    policy: MemoryPolicy


class Working(Learnt):
    """What a `Learner` does its steps by."""

    optimizer: Optimizer
    micro_batch_norm: bool
    undecided: bool
    """whether it is still to choose what trains"""
    _limit: float | None
    """MiB that a step may take"""
    _tells: tuple[tuple[str, bool], ...]
    _gathered: Gathered
    _works: dict[tuple, Work]

    def _work(self, feeds: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], graph: Graph, rows: int = 0) -> Work:
        """The step for arrays of these shapes, made when they first come."""
        key = self._key(feeds, targets, rows)
        if key not in self._works:
            size(feeds, targets)
            specs = {n: Spec(a.shape, a.dtype) for n, a in feeds.items()}
            recipe = self.recipe._replace(graph=graph)
            built, step, policy = planned(
                recipe,
                specs,
                specs_of(targets),
                self._state,
                self._limit,
                self.micro_batch_norm,
                rows,
                threads=self.threads,
                drop=self.model.weights.drop,
                home=self._home,
                flush_denormals=self.model.flush_denormals,
                exact=self.model.exact,
            )
            self._works[key] = Work(step, built, policy)
            block = max((work.step.block for work in self._works.values()), key=len)
            for work in self._works.values():
                work.step.share(block)
        return self._works[key]

    def clip(self, norm: float | None, value: float | None) -> None:
        """Other limits of gradients, where they are given, for the steps from here on."""
        optimizer = self.optimizer.clipped(norm, value)
        before = self.optimizer.clip_norm, self.optimizer.clip_value
        if (optimizer.clip_norm, optimizer.clip_value) != before:
            self.optimizer = optimizer
            self._replan(optimizer=optimizer)

    def _replan(self, **changes: Any) -> None:
        """Another recipe, for which steps are planned anew; what was begun is given up."""
        self.abandon()
        self.recipe, self._works = self.recipe._replace(**changes), {}

    def tell(self, wants: Mapping[str, bool]) -> None:
        """Lets steps tell what metrics are made of: see `nbconv.train.asked.told_of`."""
        told = tuple(wants.items())
        if told and told != self._tells:
            self._tells = told
            self.recipe = self.recipe._replace(told=partial(told_of, self.goals, dict(wants)))

    def _key(self, feeds: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], rows: int) -> tuple:
        shapes = ((n, a.shape) for n, a in feeds.items())
        return (self._tells, rows, *shapes, *((a.shape, a.dtype.str) for a in targets.values()))

    def forecast(self) -> dict[str, Any]:
        """What the plans of the steps made so far take, in MiB: ``activations_mb`` (with gradients and scratch), and beside
        it ``state_mb``: parameters, statistics and the optimizer's slots. ``micro_batches``: into how many the largest
        step's batch is cut."""
        found = max(self._works.values(), key=lambda work: work.step.memory, default=None)
        state = sum(a.nbytes for a in self._state.values()) / 2**20
        if found is None:
            return {"state_mb": state}
        return {"state_mb": state, "activations_mb": found.step.memory / 2**20, "micro_batches": found.policy.parts}

    def timed(self, feeds: dict[str, np.ndarray], y: Any, graph: Graph, rows: int = 0) -> float:
        """Seconds of a step, but for the writing of the state: it changes nothing."""
        with self._lock:
            self._settle()
            targets = by_goal(self.goals, y)
            if self.undecided:
                auto.decide(self, feeds, targets, rows)
            return self.seconds(feeds, targets, graph, rows)

    def seconds(self, feeds: dict[str, np.ndarray], targets: dict[str, np.ndarray], graph: Graph, rows: int = 0) -> float:
        """`timed`, where it is known what trains."""
        work = self._work(feeds, targets, graph, rows)
        begin = time.perf_counter()
        hyper = hyper_values(self.recipe, self.optimizer.lr, self._steps + 1)
        work.step.prepare({**feeds, **targets}, hyper, check=lambda found: None)
        return time.perf_counter() - begin

    def abandon(self) -> None:
        """Give up the step that was begun with ``budget_ms``, and batches kept for it: nothing of them counts."""
        with self._lock:
            self._gathered.clear()
            for work in self._works.values():
                work.step.abandon()

    def _refuse_another(self, wanted: tuple) -> None:
        """ValueError for a batch of other shapes than the step under way has."""
        begun = next((key for key, work in self._works.items() if work.step.begun), None)
        if begun is not None and begun != wanted:
            raise ValueError(
                "this batch has other shapes than the one that the step under way began with: call it again with the same "
                "batch until it is done, or give it up (abandon)"
            )
