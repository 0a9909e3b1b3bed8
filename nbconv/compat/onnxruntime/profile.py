"""A session's profile, as onnxruntime writes it: events of the Trace Event Format, times in microseconds.

Loading and runs are timed as they happen. nbconv does a run in one piece, so its steps are timed when the profile ends, each
alone, for the last run's inputs, and stand in the place of that run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.errors import DataDependentError

if TYPE_CHECKING:
    from nbconv.graph import Spec
    from nbconv.lowering.step import Step
    from nbconv.model import Model
    from nbconv.plan.plan import Plan

RUNS = 5
"""Times that each step is run."""


class Profile:
    """Events of one session. ``start``: when it began, by `time.monotonic_ns`."""

    def __init__(self, prefix: str) -> None:
        self.start = time.monotonic_ns()
        self._path = f"{prefix}_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{self.start // 1_000_000 % 1000}.json"
        self._events: list[dict[str, Any]] = []
        self._last: tuple[int, Mapping[str, Any]] | None = None

    def add(self, name: str, begin: int, category: str = "Session") -> None:
        """An event from ``begin`` (by `time.monotonic_ns`) until now."""
        self._add(name, category, begin, time.monotonic_ns() - begin, {})

    def ran(self, begin: int, feeds: Mapping[str, Any]) -> None:
        """A run of these inputs."""
        self.add("model_run", begin)
        self._last = begin, feeds

    def _add(self, name: str, category: str, begin: int, duration: float, arguments: dict[str, Any]) -> None:
        self._events.append(
            {
                "cat": category,
                "pid": os.getpid(),
                "tid": threading.get_native_id(),
                "dur": int(duration / 1000),
                "ts": (begin - self.start) // 1000,
                "ph": "X",
                "name": name,
                "args": arguments,
            }
        )

    def write(self, model: Model) -> str:
        """Write the file, and its path. OSError where it cannot be written."""
        if self._last:
            self._nodes(model, *self._last)
        with open(self._path, "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(event) for event in self._events) + "\n]\n")
        return self._path

    def _nodes(self, model: Model, begin: int, feeds: Mapping[str, Any]) -> None:
        """An event for each step; none for a model that is planned while it runs."""
        from nbconv.runtime.executor import time_steps, workspace

        given = {name: np.require(x, requirements=["C", "A"]) for name, x in feeds.items()}
        try:
            plan = model.plan({name: x.shape for name, x in given.items()})
        except DataDependentError:
            return
        program = model.bound(plan)
        space, results = workspace(program), [np.empty(shape, dtype) for _, shape, dtype in program.results]
        space.run(given, results, model.threads)
        times = np.median(time_steps(space, given, results, model.threads, RUNS), 0) * 1e9
        for i, (step, duration) in enumerate(zip(plan.steps, times, strict=True)):
            name = f"{step.node.name or step.node.outputs[0]}_kernel_time"
            self._add(name, "Node", begin, duration, _about(plan, step, i))
            begin += int(duration)


def _about(plan: Plan, step: Step, number: int) -> dict[str, Any]:
    """What onnxruntime says of a node: its operator, and sizes and types of what it reads and makes."""

    def typed(specs: list[Spec]) -> list[dict[str, list[int]]]:
        from nbconv.compat.onnxruntime.values import type_name

        return [{type_name(s.dtype)[7:-1]: [int(d) for d in s.shape if isinstance(d, int)]} for s in specs]

    node = step.node
    reads = [n for n in node.inputs if n]
    made = [plan.specs[n] for n in node.outputs if n]
    return {
        "op_name": getattr(node.op, "inner", node.op).type,
        "provider": "CPUExecutionProvider",
        "node_index": str(number),
        "parameter_size": str(sum(plan.specs[n].nbytes for n in reads if plan.specs[n].constant)),
        "activation_size": str(sum(plan.specs[n].nbytes for n in reads if not plan.specs[n].constant)),
        "output_size": str(sum(s.nbytes for s in made)),
        "input_type_shape": typed([plan.specs[n] for n in reads]),
        "output_type_shape": typed(made),
    }
