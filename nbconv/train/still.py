"""Warnings of weights that an epoch of training left as they were, though others changed: units that are dead, layers that
no gradient reaches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from nbconv.edit.parameters import Parameter
from nbconv.graph import Graph, Node
from nbconv.train.learner import Learner

SAMPLE = 16
"""Numbers of a unit's weights that are looked at, at most."""
STEPS = 10
"""Steps of an epoch from which on it says something."""
DEAD = 0.5
"""Share of a layer's units that are told as dead."""
STILL, MOVED = 1e-6, 1e-3
"""What a layer changes of its weights where no gradient reaches it, at most, and what another does, at least."""
SLOWEST = 1e-2
"""The least factor of a layer's learning rate with which it is judged."""
PASSED = frozenset(("Add", "BatchNormalization", "Cast", "Identity", "MaxPool", "Mul"))
"""Ops between a layer and its rectifier."""


class IdleWeights(UserWarning):
    """Units or layers that are trained did not change in an epoch."""


class Still:
    """What units' weights were when an epoch began, some numbers of each. ``at``: the step."""

    def __init__(self, trainer: Learner) -> None:
        self.trainer, self.at = trainer, trainer.steps
        self.told: set[str] = set()
        self.layers = {p: axis for p in trainer.recipe.chosen if (axis := _outputs_at(p.node, p, trainer)) is not None}
        self.held = {p.value: self._some(p) for p in self.layers}

    def look(self) -> None:
        """At the end of an epoch: warns, once of each layer, and holds what weights are now."""
        now = {p.value: self._some(p) for p in self.layers}
        if self.trainer.steps - self.at >= STEPS:
            self._dead(now)
            self._unreached(now)
        self.held, self.at = now, self.trainer.steps

    def _some(self, p: Parameter) -> np.ndarray:
        """(units, numbers)"""
        units = np.moveaxis(self.trainer.state[p.value], self.layers[p], 0)
        rows = self.trainer.recipe.rows.get(p.value)
        units = (units if rows is None else units[list(rows)]).reshape(-1, max(units[0].size, 1))
        return units[:, :: -(-units.shape[1] // SAMPLE)].astype(np.float32)

    def _dead(self, now: Mapping[str, np.ndarray]) -> None:
        decays = self.trainer.optimizer.weight_decay > 0
        for p in self.layers:
            before, after = self.held[p.value], now[p.value]
            still = _multiples(before, after) if decays else (before == after).all(1)
            count, units = int(still.sum()), len(still)
            if p.name in self.told or not DEAD * units <= count < units or not rectified(p.node, self.trainer.authored):
                continue
            self.told.add(p.name)
            warnings.warn(
                f"{count} of {units} units of {p.node.name or p.name!r} are as before the epoch: no gradient reaches them, "
                "as where the rectifier behind them gives 0 for every sample (dead units); a lower learning rate, another "
                "initialisation or LeakyRelu help",
                IdleWeights,
                stacklevel=4,
            )

    def _unreached(self, now: Mapping[str, np.ndarray]) -> None:
        factors = self.trainer.recipe.factors
        layers = sorted((p for p in self.layers if factors.get(p.value, 1.0) >= SLOWEST), key=lambda p: -p.depth)
        changes = [_change(self.held[p.value], now[p.value]) / factors.get(p.value, 1.0) for p in layers]
        first = next((i for i, change in enumerate(changes) if change > STILL), len(layers))
        if not first or max(changes, default=0.0) < MOVED or layers[0].name in self.told:
            return
        self.told.add(layers[0].name)
        names = ", ".join(repr(p.name) for p in layers[: min(first, 3)]) + (" …" if first > 3 else "")
        warnings.warn(
            f"{first} of {len(layers)} layers hardly change, from the input on: {names} (by {changes[0]:.1g} of their size "
            f"in an epoch, another by {max(changes):.1g}): their gradients vanish on the way; normalisations, shortcuts, "
            "Relu in place of Sigmoid and Tanh, or He and Xavier initialisation help",
            IdleWeights,
            stacklevel=4,
        )


def rectified(node: Node, graph: Graph) -> bool:
    """Whether a rectifier reads what a layer gives, with what it adds."""
    todo, seen = [node.outputs[0]], set()
    while todo:
        name = todo.pop()
        for reader in graph.nodes:
            if name in reader.inputs and id(reader) not in seen:
                seen.add(id(reader))
                if reader.op.type in ("Relu", "Clip"):
                    return True
                todo += reader.outputs[:1] if reader.op.type in PASSED else ()
    return False


def _outputs_at(node: Node, p: Parameter, trainer: Learner) -> int | None:
    """Along which axis of a layer's weight its units lie; None of what is no layer's weight."""
    weight = trainer.state[p.value]
    if node.op.type not in ("Conv", "Gemm", "MatMul") or p.value != node.inputs[1] or not weight.size or weight.ndim < 2:
        return None
    if node.op.type == "MatMul":
        return 1 if weight.ndim == 2 else None
    return 0 if node.op.type == "Conv" or node.op.transB else 1  # pyright: ignore[reportAttributeAccessIssue]


def _multiples(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(units,): those whose weights are, but for a factor, what they were: decayed."""
    size = (before * before).sum(1)
    factor = (before * after).sum(1) / np.where(size > 0, size, 1)
    far = np.abs(after - factor[:, None] * before).max(1)
    return far <= 1e-6 * np.abs(before).max(1)


def _change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.linalg.norm(after - before) / max(float(np.linalg.norm(before)), 1e-30))
