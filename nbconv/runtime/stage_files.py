"""Stages of runs as files, beside a model's programs: a fresh process goes through them without the graph, the passes, and
all ops but those that NumPy does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbconv.graph import OBJECT, Graph, Node
from nbconv.plan.host import decode_attribute, encode_attribute
from nbconv.runtime import ports
from nbconv.runtime.executor import Ready
from nbconv.runtime.plan_cache import PlanCache
from nbconv.runtime.staged import Stage, Waiting

MOST = 1 << 20
"""Bytes of constants that a stage may bring beside its program."""


class StageFiles:
    """What is kept of one model's stages. ``ready`` gives what runs the program under a key; None where it was not kept.
    As in `PlanCache`, nothing raises for files that are missing, damaged or full."""

    def __init__(self, cache: PlanCache, ready: Callable[[Any], Ready | None]) -> None:
        self._cache, self._ready = cache, ready

    def read(self, key: tuple) -> Stage | bool | None:
        """What was kept under the key; None where nothing was, or what does not fit."""
        kept = self._cache.note(named(key))
        if kept is None or isinstance(kept, bool):
            return kept
        try:
            ready = self._ready(named(key)) if kept["program"] else None
            if kept["program"] and ready is None:
                return None
            known = {name: decode_attribute(value) for name, value in kept["known"].items()}
            passed = None if kept["passed"] is None else tuple(kept["passed"])
            waiting = [_decoded(one) for one in kept["waiting"]]
            stage = Stage(tuple(kept["path"]), ready, waiting, known, frozenset(kept["decided"]), passed)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ImportError):
            return None
        return stage if _whole(stage) else None

    def write(self, key: tuple, stage: Stage | bool) -> None:
        """Keep it, if its program was kept, and its nodes can be made again from their attributes."""
        if isinstance(stage, bool):
            self._cache.keep_note(named(key), stage)
            return
        waiting = [_encoded(one) for one in stage.waiting]
        known = stage.known.values()
        if None in waiting or any(x.dtype == OBJECT for x in known) or sum(x.nbytes for x in known) > MOST:
            return
        if stage.ready is not None and not self._cache.has_program(named(key)):
            return
        self._cache.keep_note(
            named(key),
            {
                "path": stage.path, "program": stage.ready is not None, "waiting": waiting,
                "known": {name: encode_attribute(np.asarray(x)) for name, x in stage.known.items()},
                "decided": sorted(stage.decided), "passed": stage.passed,
            },
        )  # fmt: skip


def named(key: tuple) -> tuple:
    """The key of a stage among those of a model's files."""
    return ("stage", key)


def _encoded(waiting: Waiting) -> dict[str, Any] | None:
    from nbconv.ops import family_of

    node, family = waiting.node, family_of(waiting.node.op, bodies=True)
    if family is None:
        return None
    attributes = {n: _graph(v) if isinstance(v, Graph) else encode_attribute(v) for n, v in node.op.attributes().items()}
    return {
        "family": family, "domain": node.op.domain, "type": node.op.type, "attributes": attributes,
        "inputs": node.inputs, "outputs": node.outputs, "name": node.name, "own": waiting.own, "ports": waiting.ports,
    }  # fmt: skip


def _graph(body: Graph) -> dict[str, Any]:
    """What an op asks of its body: what it wants and gives."""
    return {"inputs": ports.encode(body.inputs), "outputs": ports.encode(body.outputs)}


def _decoded(kept: dict[str, Any]) -> Waiting:
    from nbconv.ops import of_family

    attributes = {}
    for name, value in kept["attributes"].items():
        if isinstance(value, dict) and "outputs" in value:
            inputs, outputs = (ports.decode(value[k]) for k in ("inputs", "outputs"))
            attributes[name] = Graph([], inputs, outputs, {})  # type: ignore[arg-type]
        else:
            attributes[name] = decode_attribute(value)
    op = of_family(kept["family"], kept["type"], kept["domain"])(**attributes)
    node = Node(op, tuple(kept["inputs"]), tuple(kept["outputs"]), kept["name"])
    bodies = {which: (tuple(reads), tuple(makes)) for which, (reads, makes) in kept["ports"].items()}
    if bodies.keys() != op.bodies().keys() or not any(node.outputs):
        raise ValueError(f"{node.name}: bodies {[*bodies]}")
    return Waiting(node, tuple(kept["own"]), bodies)


def _whole(stage: Stage) -> bool:
    """Whether names are texts and known values arrays."""
    names = [*(stage.passed or ()), *stage.decided, *stage.known]
    for one in stage.waiting:
        names += [*one.node.inputs, *one.node.outputs, *one.own, one.node.name]
        names += [name for reads, makes in one.ports.values() for name in (*reads, *makes)]
    return all(isinstance(n, str) for n in names) and all(isinstance(x, np.ndarray) for x in stage.known.values())
