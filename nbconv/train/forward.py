"""The forward part of a training step: a model's graph with its parameters as inputs, in micro-batches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nbconv.edit.parameters import norms, one_value, type_of
from nbconv.errors import DataDependentError, ModelError, UnsupportedError
from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.graph.dtypes import is_half
from nbconv.graph.infer import number_of
from nbconv.lowering.weights import Weights
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.cast import Cast
from nbconv.passes.fold import array, fold
from nbconv.passes.layers import join_layers
from nbconv.passes.promote import promote
from nbconv.passes.straight_through import straight_through
from nbconv.train.dropout import with_dropout
from nbconv.train.memory.policy import MemoryPolicy, depending, frozen, split
from nbconv.train.recipe import STEP, Recipe


class Indivisible(ModelError):
    """A batch that cannot be cut into micro-batches."""


def widened(name: str) -> str:
    """The name of logits of half precision in float32."""
    return f"{name}/float32"


def samples_in(feeds: Mapping[str, Spec]) -> int:
    """How many samples a batch of these Specs has."""
    return min((s.shape[0] if s.shape else 1 for s in feeds.values()), default=1)


def forward(
    recipe: Recipe, feeds: Mapping[str, Spec], held: Mapping[str, Spec], policy: MemoryPolicy
) -> tuple[Graph, dict[str, Spec]]:
    """The forward part up to the logits, in micro-batches, or its frozen part in halves."""
    source = _active_dropout(opened(recipe.graph, recipe), recipe)

    def folded(rows: int) -> tuple[Graph, dict[str, Spec]]:
        mine = {n: s._replace(shape=(rows, *s.shape[1:])) if rows else s for n, s in feeds.items()}
        source.inputs = {**mine, STEP: Spec((), np.dtype(np.int64))}
        source.inputs.update({n: s for n, s in held.items() if not n.startswith("slot")})
        graph, specs = computed(source)
        return join_layers(graph, specs), specs

    try:
        graph, specs = folded(0)
    except DataDependentError as error:
        raise UnsupportedError(f"{error}; a model whose shapes depend on values cannot be trained") from None
    inner = depending(graph, (*feeds, STEP)) - {*feeds, STEP}  # not what makes weights of weights
    parts, samples = policy.parts, samples_in(feeds)
    if parts == 1:
        inner, parts = frozen(graph, specs, feeds, [p.value for p in recipe.chosen]), 2
    if not inner or (samples % parts and not policy.rows) or samples == 1:
        return graph, specs
    rows = policy.rows or samples // parts
    sizes = [rows] * (samples // rows) + [samples % rows] * (samples % rows > 0)
    found = split(graph, specs, folded, source.constants, feeds, inner, sizes)
    if found is None and policy.parts > 1:
        raise Indivisible("the model's values do not all have a first axis that counts samples")
    return found or (graph, specs)


def opened(graph: Graph, recipe: Recipe) -> Graph:
    """The graph with trained parameters and running statistics as inputs, in float32, batch normalisations and dropouts
    that train at work."""
    names = {p.value for p in recipe.chosen}
    graph = straight_through(one_value(graph, recipe.chosen), names)
    training = {id(n) for n in norms(graph, recipe.chosen)}
    names.update(name for node in graph.nodes if id(node) in training for name in node.inputs[3:5])
    half = {p.value: dtype for p in recipe.chosen if is_half(dtype := type_of(p.value, graph))}
    nodes = [Node(Cast(to=number_of(dtype)), (name,), (f"{name}/half",)) for name, dtype in half.items()]
    for node in graph.nodes:
        inputs = tuple(f"{n}/half" if n in half else n for n in node.inputs)
        if not names.isdisjoint(node.outputs):
            continue
        if id(node) in training:
            assert isinstance(node.op, BatchNormalization)
            momentum = node.op.momentum if recipe.bn_momentum is None else recipe.bn_momentum
            op = BatchNormalization(epsilon=node.op.epsilon, momentum=momentum, training_mode=1)
            y = node.outputs[0]
            node = Node(op, inputs, (y, f"{y}/running_mean", f"{y}/running_var"), node.name)
        nodes.append(node if inputs == node.inputs else Node(node.op, inputs, node.outputs, node.name))
    constants = {name: value for name, value in graph.constants.items() if name not in names}
    return Graph(nodes, dict(graph.inputs), dict.fromkeys(recipe.logits), constants, graph.name)


def computed(source: Graph) -> tuple[Graph, dict[str, Spec]]:
    """The graph, all of whose sizes are known, as a step computes it: folded, in float32, its outputs too (`widened`)."""
    graph, specs, _ = fold(source, dict(source.inputs), Weights(), frozenset(source.outputs))
    half = [name for name in source.outputs if is_half(specs[name].dtype)]
    if half:
        ends = [Node(Cast(to=number_of(FLOAT32)), (name,), (widened(name),)) for name in half]
        graph = graph.derive([*graph.nodes, *ends])
        graph.outputs = dict.fromkeys(widened(name) if name in half else name for name in source.outputs)
        specs.update({widened(name): specs[name]._replace(dtype=FLOAT32) for name in half})
    promoted = promote(graph, specs, rounds=False)
    if promoted is not graph:
        graph, specs, _ = fold(promoted, dict(source.inputs), Weights(), frozenset(promoted.outputs))
    return graph.derive(graph.nodes, {n: array(c) for n, c in graph.constants.items()}), specs


def _active_dropout(graph: Graph, recipe: Recipe) -> Graph:
    """Dropout drops only where everything behind it trains: in frozen parts it is what it is at inference."""
    if not any(n.op.type == "Dropout" for n in graph.nodes):
        return graph
    frozen_behind: set[str] = set()
    for node in reversed(graph.nodes):
        closed = any(i < len(node.inputs) and node.inputs[i] in graph.constants for i in node.op.parameters[:1])
        if closed or not frozen_behind.isdisjoint(node.outputs):
            frozen_behind.update(n for n in node.inputs if n)
    idle = {id(n) for n in graph.nodes if n.op.type == "Dropout" and n.outputs[0] in frozen_behind}
    kept = [n for n in graph.nodes if id(n) not in idle]
    same = {n.outputs[0]: n.inputs[0] for n in graph.nodes if id(n) in idle}

    def origin(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    nodes = [Node(n.op, tuple(map(origin, n.inputs)), n.outputs, n.name) for n in kept]
    return with_dropout(graph.derive(nodes), STEP, recipe.seed)
