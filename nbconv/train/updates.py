"""What a training step makes of the state: clipping and the optimizer, running statistics, averages; and the state that
training begins with."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from nbconv.edit.parameters import Parameter, master, norms, stored
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.builder import Builder
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.nary import Min
from nbconv.ops.optimizer import SGDUpdate
from nbconv.ops.pointwise import Add, Div, Mul, Sqrt, Sub
from nbconv.ops.rectifier import Clip
from nbconv.ops.reduce import ReduceSum
from nbconv.train.optimizers import Optimizer
from nbconv.train.recipe import STEP, Recipe, average, slot


def updated(
    to: Builder,
    recipe: Recipe,
    gradients: dict[str, str],
    logits: Graph,
    specs: Mapping[str, Spec],
    held: Mapping[str, Spec],
) -> tuple[dict[str, str], str]:
    """Adds the new value of each state, which has these Specs (``held``), and the norm of gradients, "" where it is not
    limited. ``logits``: the forward part, with the ``specs`` of its values."""
    updates, norm = _optimized(to, recipe, gradients, held)
    updates.update(_statistics(to, logits, specs, held))
    updates.update(_averages(to, updates, held) if recipe.ema is not None else {})
    return updates, norm


def _optimized(
    to: Builder, recipe: Recipe, gradients: dict[str, str], held: Mapping[str, Spec]
) -> tuple[dict[str, str], str]:
    """Adds clipping and the optimizer: the new value of each state, and the norm of gradients where it is limited."""
    optimizer = recipe.optimizer
    hyper = tuple(f"hyper/{name}" for name in optimizer.scalars(optimizer.lr, 1))
    for name in hyper:
        to.input(name, Spec((), np.dtype(np.float32)))
    gradients, norm = _clipped(to, optimizer, gradients)
    updates: dict[str, str] = {}
    for p in recipe.chosen:
        if p.value not in gradients:
            continue
        op = optimizer.make(recipe.factors.get(p.value, 1.0), group_options(optimizer, p), recipe.rows.get(p.value, ()))
        slots = [slot(p.value, i) for i in range(op.slots)]
        for name in slots:
            to.input(name, held[name])
        made = to.add_many(op, 1 + op.slots, p.value, gradients[p.value], *slots, *hyper)
        updates.update(zip([p.value, *slots], made, strict=True))
    return updates, norm


def group_options(optimizer: Optimizer, parameter: Parameter) -> dict[str, float]:
    """The options of the last group that the parameter's name fits."""
    found: dict[str, float] = {}
    for pattern, options in optimizer.groups.items():
        if fnmatchcase(parameter.name, pattern):
            found = options
    return found


def _clipped(to: Builder, optimizer: Optimizer, gradients: dict[str, str]) -> tuple[dict[str, str], str]:
    norm = ""

    def number(value: float) -> str:
        return to.constant(np.array(value, np.float32))

    if optimizer.clip_value is not None:
        low, high = number(-optimizer.clip_value), number(optimizer.clip_value)
        gradients = {n: to.add(Clip(), g, low, high) for n, g in gradients.items()}
    if optimizer.clip_norm is not None and gradients:
        total = ""
        for g in gradients.values():
            part = to.add(ReduceSum(keepdims=0), to.add(Mul(), g, g))
            total = to.add(Add(), total, part) if total else part
        norm = to.add(Add(), to.add(Sqrt(), total), number(1e-6))
        factor = to.add(Min(), to.add(Div(), number(optimizer.clip_norm), norm), number(1.0))
        gradients = {n: to.add(Mul(), g, factor) for n, g in gradients.items()}
    return gradients, norm


def _statistics(to: Builder, graph: Graph, specs: Mapping[str, Spec], held: Mapping[str, Spec]) -> dict[str, str]:
    """New running statistics, where the state has them. ONNX's running variance takes in the batch's variance as it is;
    PyTorch's, as here, the unbiased one, n / (n - 1) of it."""
    updates: dict[str, str] = {}
    found: dict[tuple[str, str], list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, BatchNormalization) and node.op.training_mode and node.inputs[3] in held:
            found.setdefault((node.inputs[3], node.inputs[4]), []).append(node)
    for (mean, variance), nodes in found.items():
        op = nodes[0].op
        assert isinstance(op, BatchNormalization)
        counts = [int(np.prod(s)) // max(s[1], 1) for s in (specs[node.inputs[0]].shape for node in nodes)]
        count = min(counts)
        if count == 1:
            told = "takes its statistics from one value a channel, so that nothing before it learns: larger batches do"
            warnings.warn(f"{nodes[0].name} (BatchNormalization) {told}", stacklevel=2)
        if max(counts) > count:
            shares = [c / sum(counts) for c in counts]
            updates[mean] = _weighted(to, [node.outputs[1] for node in nodes], shares)
            shares = [s * c / max(c - 1, 1) for s, c in zip(shares, counts, strict=True)]
            old = to.add(Mul(), variance, to.constant(np.array(op.momentum * (sum(shares) - 1), np.float32)))
            updates[variance] = to.add(Sub(), _weighted(to, [node.outputs[2] for node in nodes], shares), old)
            continue
        updates[mean] = _mean(to, [node.outputs[1] for node in nodes])
        unbiased = count / max(count - 1, 1)
        old = to.add(Mul(), variance, to.constant(np.array(op.momentum * (unbiased - 1), np.float32)))
        new = to.add(Mul(), _mean(to, [n.outputs[2] for n in nodes]), to.constant(np.array(unbiased, np.float32)))
        updates[variance] = to.add(Sub(), new, old)
    return updates


def _weighted(to: Builder, names: list[str], shares: list[float]) -> str:
    """The sum of what micro-batches of several sizes found, each times its share."""
    total = ""
    for name, share in zip(names, shares, strict=True):
        part = to.add(Mul(), name, to.constant(np.array(share, np.float32)))
        total = to.add(Add(), total, part) if total else part
    return total


def _averages(to: Builder, updates: Mapping[str, str], held: Mapping[str, Spec]) -> dict[str, str]:
    """New averages of what is updated: a + (1 - decay) · (new - a)."""
    rate = to.input("hyper/average", Spec((), np.dtype(np.float32)))
    found = {}
    for value, new in updates.items():
        name = average(value)
        if name in held:
            to.input(name, held[name])
            found[name] = to.add(SGDUpdate(weight_decay=-1.0), name, new, rate)  # the rate is decay - 1
    return found


def _mean(to: Builder, names: list[str]) -> str:
    """The mean of what the micro-batches found."""
    total = names[0]
    for name in names[1:]:
        total = to.add(Add(), total, name)
    return total if len(names) == 1 else to.add(Mul(), total, to.constant(np.array(1 / len(names), np.float32)))


def initial_state(recipe: Recipe, masters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Slots of the optimizer for the parameters, and averages: name to array."""
    found = {}
    for p in recipe.chosen:
        shape = masters[p.value].shape
        if p.value in recipe.rows:
            shape = (len(recipe.rows[p.value]), *shape[1:])
        for i, value in enumerate(recipe.optimizer.initial()):
            found[slot(p.value, i)] = np.full(shape, value, np.float32)
    if recipe.ema is not None:
        found.update({average(name): array.copy() for name, array in masters.items() if not name.startswith("slot")})
    return found


def statistics(graph: Graph, chosen: Iterable[Parameter]) -> dict[str, np.ndarray]:
    """The running statistics that will change."""
    found = {}
    made = graph.producers()
    for node in norms(graph, list(chosen)):
        for name in node.inputs[3:5]:
            origin = stored(name, graph, made)
            if origin is None:
                raise ValueError(f"{node.name} (BatchNormalization): its statistics {name!r} are computed, not stored")
            found[name] = master(Parameter(*origin, node, 0), graph)
    return found


def hyper_values(recipe: Recipe, lr: float, step: int) -> dict[str, Any]:
    """What is fed beside the data at a step, counted from 1."""
    scalars = recipe.optimizer.scalars(lr, step)
    if recipe.ema is not None:
        scalars = {**scalars, "average": min(recipe.ema, (1 + step) / (10 + step)) - 1}
    return {
        STEP: np.array(step, np.int64),
        **{f"hyper/{n}": np.array(v, np.float32) for n, v in scalars.items()},
    }
