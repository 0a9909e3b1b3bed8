"""A model as training leaves it: to run, to save, to give back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.edit.deploy import deployed, tail
from nbconv.edit.meaning import Meaning, meaning, without
from nbconv.edit.parameters import Parameter
from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from nbconv.model import Model
from nbconv.train.goals import Goal
from nbconv.train.recipe import Recipe, average

if TYPE_CHECKING:
    from nbconv.runtime.cuda.device import State


class Learnt:
    """What a `Learner` makes of its model's weights, as they are after the last finished step; of their averages, where it
    has these."""

    model: Model
    threads: int
    authored: Graph
    goals: tuple[Goal, ...]
    outputs: tuple[str, ...]
    """those that are trained"""
    logits: tuple[str, ...]
    recipe: Recipe
    meaning: Meaning
    """what the model means, as far as the data say it; `save` writes it"""
    measured: tuple[int, dict[str, float]]
    """after how many steps, and what metrics on samples held out were then"""
    _authored: tuple[Parameter, ...]
    _back: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None
    _state: dict[str, np.ndarray]
    _home: State | None
    _steps: int
    _current: tuple[tuple, Model] | None
    _before: list[Graph]
    _lock: threading.RLock  # type: ignore[valid-type]

    def _settle(self) -> None:
        """Let the state be of a whole step."""
        raise NotImplementedError

    @property
    def loss_name(self) -> str:
        """What is made small."""
        if len(self.goals) == 1:
            return self.goals[0].name
        return ", ".join(f"{goal.title}: {goal.name}" for goal in self.goals)

    @property
    def classes(self) -> int:
        """How many classes the trained output has, as the model declares it; 0 where it does not say, or several outputs
        are trained."""
        spec = self.authored.outputs.get(self.outputs[0]) if len(self.outputs) == 1 else None
        axis = self.goals[0].axis or 1
        size = spec.shape[axis] if spec is not None and -len(spec.shape) <= axis < len(spec.shape) else 0
        return size if isinstance(size, int) else 0

    def forget(self) -> None:
        """The state was changed from outside: `current` must look again."""
        self._current = None
        self.measured = -1, {}

    def _metadata(self) -> dict[str, Any]:
        """What is written into a saved model's metadata."""
        return {
            "trained": [p.name for p in self._authored],
            "steps": self._steps,
            "loss": self.loss_name,
            "optimizer": repr(self.recipe.optimizer),
            "seed": self.recipe.seed,
        }

    def graph(self) -> Graph:
        """The model as it is now: the authored graph with the weights of the last finished step."""
        with self._lock:
            self._settle()
            if self._home is not None:
                self._home.fetch()
            state: Mapping[str, np.ndarray] = self._state
            if self.recipe.ema is not None:
                state = {name: state.get(average(name), array) for name, array in state.items()}
            if self._back is not None:
                state = self._back(state)
            graph = deployed(self.authored, self._authored, state, self._metadata())
            graph.metadata = self._told(graph.metadata)
            return graph

    def _told(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """The model's metadata with what the training makes it mean; names of other classes than it has now are gone."""
        try:
            before = meaning(metadata)
        except ModelError:
            before, metadata = Meaning(), without(metadata, *Meaning._fields)
        gone = ["metrics"]
        if before.classes and self.classes not in (0, len(before.classes)):
            gone.append("classes")
        measured = self.measured[1] if self.measured[0] == self._steps else {}
        measured = {name: value for name, value in measured.items() if isfinite(value)}
        return {**without(metadata, *gone), **self.meaning._replace(metrics=measured).written()}

    def current(self, feeds: tuple[str, ...] = (), specs: Mapping[str, Spec] | None = None) -> Model:
        """The model as it is now, to run; with ``feeds`` its part behind these values, of these Specs."""
        with self._lock:
            self._settle()
            key = (self._steps, feeds)
            if self._current is None or self._current[0] != key:
                graph = ended(self.graph(), self.goals)
                if feeds:
                    graph = tail(graph, dict(specs or {}), self.logits)
                self._current = key, self.model._like(graph, self.threads)
            return self._current[1]

    def predict(self, x: Any, batch_size: int = 32) -> Any:
        """The output for ``x`` (an array, or a dict by name), with the weights as they are now; a dict by output where
        several are trained."""
        feeds, model = self._inputs(x), self.current()
        samples = max(len(a) for a in feeds.values())
        parts = [
            model.run({n: a[k : k + batch_size] for n, a in feeds.items()}, self.outputs)
            for k in range(0, samples, batch_size)
        ]
        found = {name: np.concatenate([part[name] for part in parts], self._batch_axis(name)) for name in self.outputs}
        return found if len(found) > 1 else found[self.outputs[0]]

    def _batch_axis(self, output: str) -> int:
        """The axis along which an output counts samples, as its loss was told."""
        options = next((g.options for g in self.goals if g.outputs == (output,)), {})
        return int(options.get("batch_axis", 0))

    def save(self, path: Any, *, fold: bool = False) -> None:
        """Writes the model as it is now, for inference: see `nbconv.edit.export.save`."""
        from nbconv.edit.export import save

        save(self.graph(), path, self.model._source, fold)

    def commit(self) -> None:
        """Puts the weights as they are now into the model, for the runs that begin from here on."""
        self._before.append(self.model.graph)
        self.model._replace(self.graph())

    def rollback(self) -> None:
        """Takes the last `commit` back. ValueError where there is none."""
        if not self._before:
            raise ValueError("nothing was committed")
        self.model._replace(self._before.pop())

    def _inputs(self, x: Any) -> dict[str, np.ndarray]:
        if not isinstance(x, Mapping):
            if len(self.model.inputs) != 1:
                raise ValueError(f"the model has {len(self.model.inputs)} inputs: give a dict of arrays by name")
            x = {self.model.inputs[0].name: x}
        return self.model._feeds(x)


def ended(graph: Graph, goals: tuple[Goal, ...]) -> Graph:
    """The graph with what makes the logits, where it has not that itself."""
    nodes = {node.outputs[0]: node for goal in goals for node in goal.nodes}
    return graph.derive([*graph.nodes, *nodes.values()]) if nodes else graph
