"""A head that reads earlier layers, too: means over space of what they read, beside its own input (Skip2-LoRA, Matsutani
2024, with whole matrices in place of low-rank ones, which learn better; Head2Toe, Evci 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nbconv.edit.head import Found, locate, read_value, sides_of
from nbconv.edit.parameters import stored
from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.lowering.weights import Weights
from nbconv.ops.global_pool import GlobalAveragePool
from nbconv.ops.reduce import ReduceMean
from nbconv.ops.shape import Concat, Flatten
from nbconv.passes.fold import fold

LAYERS = 16
READERS = ("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul")
OPEN = (97, 64)
"""What sizes that a model leaves open are taken for, to tell channels and axes: of samples, such as no other axis has, and
others."""


class _Source(NamedTuple):
    """A value to read: how many ``channels`` it has, and its ``space``: the axes to take the mean over."""

    value: str
    channels: int
    space: tuple[int, ...]


def widened(graph: Graph, layers: int | Sequence[str] = LAYERS, output: str = "", head: str = "") -> tuple[Graph, list[str]]:
    """(the graph whose head also reads the means over space of earlier values, these values' names).

    ``layers``: what so many layers before the head read, or names of values and of nodes that make them. ``output`` and
    ``head`` say which head, as for `nbconv.edit.head.replace_head`. Its weights for them are 0, so that outputs are what
    they were. ValueError where there is no head, it reads no vector of features a sample, or a name is of no such value.
    """
    found = locate(graph, output, head)
    layer, name = found.layer, found.head.input
    before = _before(graph, name)
    known = _known(graph, before)
    spec = known[name]
    vector = spec.rank == 2 or (layer.op.type == "Conv" and all(d == 1 for d in spec.shape[2:]))
    if not vector or getattr(layer.op, "transA", 0):
        told = f"{layer.name} ({layer.op.type}) reads {name}, {list(spec.shape[1:])} a sample"
        raise ValueError(f"{told}: a head can be widened that reads a vector of features")
    if sum(layer.inputs[1] in node.inputs for node in graph.nodes) > 1:
        raise ValueError(f"the weight {layer.inputs[1]!r} of {layer.name} is used by other nodes, too")
    if f"{layer.outputs[0]}/features" in graph.producers():
        raise ValueError(f"{layer.name} was widened already: name all layers at once")
    able = _sources(graph, before, known, spec)
    able.pop(name, None)
    if not able:
        raise ValueError(f"no layer before the head {layer.name} reads what can be averaged beside its input")
    if isinstance(layers, (int, np.integer)):
        if not 1 <= layers <= len(able):
            raise ValueError(f"layers is {layers}, wanted 1 to {len(able)}: so many stand before the head {layer.name}")
        chosen = list(able.values())[-layers:]
    else:
        names = [layers] if isinstance(layers, str) else layers
        chosen = list(dict.fromkeys(_named(n, graph, able) for n in names))
    return _with(graph, found, chosen, spec.rank == 2), [source.value for source in chosen]


def _with(graph: Graph, found: Found, chosen: list[_Source], flat: bool) -> Graph:
    """The graph whose head reads these, too: as vectors, or with axes of size one behind the channels."""
    layer, made = found.layer, graph.producers()
    slot, wide = layer.inputs[1], f"{layer.outputs[0]}/features"
    nodes, names, constants = [], [found.head.input], dict(graph.constants)
    for i, source in enumerate(chosen):
        mean = f"{wide}/{i}"
        if source.space == tuple(range(2, 2 + len(source.space))) and source.space:
            pooled = f"{mean}/pooled" if flat else mean
            nodes.append(Node(GlobalAveragePool(), (source.value,), (pooled,), pooled))
            if flat:
                nodes.append(Node(Flatten(), (pooled,), (mean,), mean))
        elif source.space:
            constants[f"{mean}/axes"] = np.array(source.space, np.int64)
            nodes.append(Node(ReduceMean(keepdims=0), (source.value, f"{mean}/axes"), (mean,), mean))
        names.append(mean if source.space else source.value)
    nodes.append(Node(Concat(axis=1), tuple(names), (wide,), wide))
    weight = read_value(slot, graph, made)
    along = 1 - sides_of(layer, weight.shape)[0]
    extra = [*weight.shape]
    extra[along] = sum(source.channels for source in chosen)
    constants[slot] = np.concatenate([weight, np.zeros(extra, weight.dtype)], along)
    kept = [n for n in graph.nodes if slot not in n.outputs]
    at = next(i for i, n in enumerate(kept) if n is layer)
    reader = Node(layer.op, (wide, *layer.inputs[1:]), layer.outputs, layer.name)
    return graph.derive([*kept[:at], *nodes, reader, *kept[at + 1 :]], constants)


def _before(graph: Graph, name: str) -> list[Node]:
    """The nodes that a value depends on."""
    wanted, found = {name}, []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(n for n in node.inputs if n)
            found.append(node)
    return found[::-1]


def _known(graph: Graph, nodes: list[Node]) -> dict[str, Spec]:
    """Shapes of what the nodes make, those that the model leaves open taken for some."""
    names = {n for node in nodes for n in node.outputs if n}
    inputs = {}
    for name, spec in graph.inputs.items():
        if not spec.ranked:
            raise ValueError(f"the shapes of features cannot be told: input {name!r} has no declared shape")
        sizes = (d if isinstance(d, int) else OPEN[min(i, 1)] for i, d in enumerate(spec.shape))
        inputs[name] = spec._replace(shape=tuple(sizes))
    part = Graph(nodes, inputs, dict.fromkeys(names), graph.constants)
    try:
        return fold(part, inputs, Weights(), frozenset(names))[1]
    except (ModelError, DataDependentError) as error:
        raise ValueError(f"the shapes of features cannot be told: {error}") from None


def _sources(graph: Graph, nodes: list[Node], known: dict[str, Spec], wanted: Spec) -> dict[str, _Source]:
    """The values that layers read and whose means over space fit beside the head's input."""
    made, found = graph.producers(), {}
    for node in nodes:
        value = node.inputs[0] if node.inputs else ""
        if node.op.type not in READERS or value not in made or value in found or value not in known:
            continue
        spec, last = known[value], node.op.type in ("Gemm", "MatMul")
        if stored(node.inputs[1], graph, made) is None or spec.dtype != wanted.dtype or getattr(node.op, "transA", 0):
            continue
        if spec.shape[0] != wanted.shape[0] or spec.rank < 2 or (wanted.rank > 2 and (last or spec.rank != wanted.rank)):
            continue
        space = range(1, spec.rank - 1) if last else range(2, spec.rank)
        found[value] = _Source(value, spec.shape[-1 if last else 1], tuple(space))
    return found


def _named(name: str, graph: Graph, able: dict[str, _Source]) -> _Source:
    """The source of this name, or the first output of the node of that name."""
    value = next((n.outputs[0] for n in graph.nodes if n.name == name), name)
    if value not in able:
        some = ", ".join(list(able)[-3:])
        raise ValueError(f"{name!r} is no value before the head that a layer reads; the last are {some}")
    return able[value]
