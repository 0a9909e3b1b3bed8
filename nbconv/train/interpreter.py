"""A training step whose loss and gradients the engine computes and whose updates NumPy does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nbconv.graph import Graph, Spec
from nbconv.model import Model
from nbconv.ops.optimizer import Update


class TrainingStep:
    """See `nbconv.train.step.TrainingStep`."""

    def __init__(
        self, graph: Graph, feeds: Mapping[str, Spec], state: dict[str, np.ndarray], updates: Mapping[str, str],
        outputs: tuple[str, ...], *, threads: int = 1, **_: Any,
    ) -> None:  # fmt: skip
        self.state, self.updates, self.outputs = state, dict(updates), outputs
        late: set[str] = set()
        self.last = []
        for node in graph.nodes:
            if isinstance(node.op, Update):
                late.update(node.outputs)
                self.last.append(node)
        made = {*graph.values(), *graph.inputs, *graph.constants}
        wanted = {n for node in self.last for n in node.inputs if n in made} | set(outputs) | set(updates.values()) - late
        self.fetch = [n for n in graph.values() if n in wanted and n not in late]
        first = Graph([n for n in graph.nodes if n not in self.last], graph.inputs, dict.fromkeys(self.fetch), graph.constants)
        self.model = Model(first, threads=threads)
        self.constants = graph.constants

    def run(
        self, feeds: Mapping[str, Any], hyper: Mapping[str, Any], check: Callable[[dict], None] | None = None
    ) -> dict[str, np.ndarray]:
        given = {**self.state, **feeds, **{n: np.asarray(v) for n, v in hyper.items()}}
        values = {**self.constants, **given, **self.model.run({n: given[n] for n in self.model.graph.inputs}, self.fetch)}
        outputs = {n: np.asarray(values[n]) for n in self.outputs}
        if check is not None:
            check(outputs)
        for node in self.last:
            values.update(zip(node.outputs, node.op.reference(*(values[n] for n in node.inputs)), strict=True))
        for name, value in self.updates.items():
            self.state[name][...] = values[value]
        return outputs
