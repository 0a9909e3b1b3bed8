"""A step that changes no parameter is told, with its reason: nothing is learnt by it."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nbconv.graph import Graph
from nbconv.model import Model
from nbconv.train.building import Built

SAMPLE = 256
"""Elements of a parameter that are looked at from step to step."""
CHECKS = 8
"""How often all parameters are looked at."""
EVERY = 16
"""After so many steps, one of so many is looked at."""


class UnchangedParameters(UserWarning):
    """A training step left every parameter as it was."""


class Watch:
    """Looks at ``state``, whose parameters are ``names``, before and after each step. All are looked at until one is found
    that changes; later a few elements of that one, now and then."""

    def __init__(self, state: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        self.state, self.names = state, sorted(names, key=lambda n: state[n].size)
        self._witness, self._left, self._steps = "", CHECKS, 0

    def before(self, brief: bool) -> dict[str, bytes | int]:
        """What parameters hold now; ``brief``: there is no time to look at all of them."""
        self._steps += 1
        if self._witness:
            looked_at = self._steps <= EVERY or self._steps % EVERY == 0
            return {self._witness: self._sample()} if looked_at else {}
        if brief or not self._left:
            return {}
        return {n: zlib.crc32(self.state[n].data) for n in self.names}

    def after(self, held: Mapping[str, bytes | int], why: Callable[[], str]) -> None:
        """Warns, once, where all parameters hold what they ``held``; ``why`` says the reason."""
        if not held:
            return
        if self._witness:
            if held[self._witness] == self._sample():
                self._witness = ""
            return
        self._left -= 1
        self._witness = next((n for n in self.names if zlib.crc32(self.state[n].data) != held[n]), "")
        if not self._witness:
            self._left = 0
            count = f"all {len(self.names)} parameters" if len(self.names) > 1 else "the parameter"
            warnings.warn(f"the step left {count} as before: {why()}", UnchangedParameters, stacklevel=4)

    def _sample(self) -> bytes:
        return self.state[self._witness].reshape(-1)[:SAMPLE].tobytes()


def gradients(built: Built, given: Mapping[str, np.ndarray], like: Callable[[Graph], Model]) -> dict[str, np.ndarray]:
    """The gradients of parameters, by their values' names, before they are clipped; ``given`` and ``like`` as `reason`."""
    names = list(dict.fromkeys(built.gradients.values()))
    found = _run(built, names, given, like)
    return {value: found[name] for value, name in built.gradients.items()}


def nonfinite(built: Built, given: Mapping[str, np.ndarray], like: Callable[[Graph], Model], loss: bool) -> str:
    """What is not finite beside a loss that is none: parameters by name; with a ``loss`` that is finite, which gradient."""
    names = {p.value: p.name for p in built.trained}
    if not loss:
        lost = [name for value, name in names.items() if not np.isfinite(given[value]).all()]
        if not lost:
            return "; a lower learning rate (trainer.lr_find suggests one) or clip_norm may help"
        more = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        return f"; {lost[0]!r}{more} holds NaN or infinity, by an earlier step: clip_norm=… looks at gradients before a step"
    found = gradients(built, given, like)
    for p in sorted(built.trained, key=lambda p: p.depth):  # backprop carries NaN from there to layers before
        wrong = int(np.count_nonzero(~np.isfinite(found[p.value])))
        if wrong:
            return f"the gradient of {p.name!r} holds NaN or infinity ({wrong} of {found[p.value].size} numbers)"
    most = max(found, key=lambda value: float(np.abs(found[value]).max(initial=0)))
    return f"the norm of gradients is beyond float32, most of it that of {names[most]!r},"


def _run(
    built: Built, names: list[str], given: Mapping[str, np.ndarray], like: Callable[[Graph], Model]
) -> dict[str, np.ndarray]:
    wanted, nodes = set(names), []
    for node in reversed(built.graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            nodes.append(node)
            wanted.update(n for n in node.inputs if n)
    inputs = {n: s for n, s in built.graph.inputs.items() if n in wanted}
    graph = Graph(nodes[::-1], inputs, dict.fromkeys(names), built.graph.constants)
    return like(graph).run({n: given[n] for n in inputs}, names)


def reason(built: Built, given: Mapping[str, np.ndarray], like: Callable[[Graph], Model], lr: float) -> str:
    """Why a step changes nothing; ``given`` has all that its graph reads, ``like`` makes a model of a graph."""
    if not built.trained:
        return "no gradient reaches them from the loss"
    made = built.graph.producers()
    found = _run(built, list(dict.fromkeys(made[built.updates[p.value]].inputs[1] for p in built.trained)), given, like)
    largest = max(float(np.abs(g).max(initial=0.0)) for g in found.values())
    if largest == 0:
        return "all their gradients are 0"
    return f"updates are below what float32 can add: the greatest gradient is {largest:.2g}, the learning rate {lr:.2g}"
