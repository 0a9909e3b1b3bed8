"""Half precision computed in float32: a model's float16 and bfloat16 values stay float32 between the nodes that compute.

What is fetched, and what a node wants as the model has it, is rounded to the model's type: a Cast in the model still rounds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.graph.dtypes import is_half
from nbconv.graph.half import any_half, takes_float32
from nbconv.graph.infer import number_of
from nbconv.graph.op import NUMPY
from nbconv.ops.cast import Cast, Change

SINGLE = number_of(FLOAT32)


def promote(graph: Graph, specs: Mapping[str, Spec], rounds: bool = True) -> Graph:
    """The graph with float32 in the place of float16 and bfloat16 wherever nodes compute; ``specs`` are those of all values.
    It is the same graph where there is nothing to do.

    An authored value keeps its name and type, behind a Cast that stays only where somebody reads it. Nodes that only move
    float16 (or choose among it, where a kernel does) move float16 still, unless they stand behind one that computes.
    ``rounds``: whether the model's own Casts to half precision round for what computes with their results; where it is
    trained they do not, and neither do its gradients.
    """
    if not any(is_half(dtype) for dtype in {spec.dtype for spec in specs.values()}):
        return graph
    return _Promotion(graph, specs, rounds).graph()


class _Promotion:
    """A graph being rewritten, node by node."""

    def __init__(self, graph: Graph, specs: Mapping[str, Spec], rounds: bool) -> None:
        self._graph, self._specs, self._rounds = graph, specs, rounds
        self._nodes: list[Node] = []
        self._wide: dict[str, str] = {}
        """half-precision values → what they are in float32"""
        self._computed: dict[str, str] = {}
        """those of them that are not rounded → the same, where a node makes them"""
        self._rounded: dict[str, str] = {}
        """computed values → their rounded values in float32"""

    def graph(self) -> Graph:
        for node in self._graph.nodes:
            given = tuple(self._specs[n] if n else None for n in node.inputs)
            if any_half(given) and not node.op.control:
                self._add(node, given)
            else:
                self._nodes.append(node)
                if not self._rounds and isinstance(node.op, Change) and given[0].dtype == FLOAT32:  # type: ignore[union-attr]
                    self._passes(node, node.inputs[0])
        told = {value: f"{wide}, in float32" for value, wide in self._computed.items()}
        return self._graph.derive(self._nodes, provenance=told)

    def _add(self, node: Node, given: tuple[Spec | None, ...]) -> None:
        found = node.infer(given)
        computed = any(n in self._computed for n in node.inputs)
        if isinstance(node.op, Change):
            wide = found[0].dtype in (FLOAT32, np.float64) and is_half(given[0].dtype)  # type: ignore[union-attr]
            inputs = (self._in_float32(node.inputs[0]), *node.inputs[1:]) if wide else node.inputs
            self._nodes.append(Node(node.op, inputs, node.outputs, node.name))
            if not self._rounds and is_half(given[0].dtype):  # type: ignore[union-attr]
                self._passes(node, self._in_float32(node.inputs[0]))
        elif (not computed and _stays(node, given, found)) or not takes_float32(node.op.infer, given, found):
            self._nodes.append(node)
        else:
            exact = not any(is_half(spec.dtype) for spec in found[: len(node.outputs)])
            read = self._rounded_in_float32 if exact else self._in_float32
            inputs = (read(n) if s is not None and is_half(s.dtype) else n for n, s in zip(node.inputs, given, strict=True))
            made = dict.fromkeys(n for n, s in zip(node.outputs, found, strict=False) if n and is_half(s.dtype))
            names = {name: self._name(name) for name in made}
            outputs = tuple(names.get(n, n) for n in node.outputs)
            self._nodes.append(Node(node.op, tuple(inputs), outputs, node.name))
            for name, wide_name in names.items():
                self._wide[name] = self._computed[name] = wide_name
                back = Cast(to=number_of(self._specs[name].dtype))
                self._nodes.append(Node(back, (wide_name,), (name,), name))

    def _passes(self, node: Node, wide: str) -> None:
        """Take this for what a Cast to half precision makes, in float32."""
        if is_half(self._specs[node.outputs[0]].dtype):
            self._wide[node.outputs[0]] = self._computed[node.outputs[0]] = wide

    def _in_float32(self, name: str) -> str:
        """The value in float32, not rounded where it was computed."""
        if name not in self._wide:
            self._wide[name] = self._cast(name)
        return self._wide[name]

    def _rounded_in_float32(self, name: str) -> str:
        """The value as the model has it, in float32: for what decides something by it."""
        if name not in self._computed:
            return self._in_float32(name)
        if name not in self._rounded:
            self._rounded[name] = self._cast(name)
        return self._rounded[name]

    def _cast(self, name: str) -> str:
        made = self._name(name, ".rounded" if name in self._computed else "")
        self._nodes.append(Node(Cast(to=SINGLE), (name,), (made,), made))
        return made

    def _name(self, name: str, suffix: str = "") -> str:
        made = f"{name}{suffix}.float32"
        while made in self._specs:
            made += "'"
        return made


def _stays(node: Node, given: tuple[Spec | None, ...], found: tuple[Spec, ...]) -> bool:
    """Whether the node does no arithmetic on its half-precision inputs, and has a kernel for them as they are."""
    named = tuple(s for n, s in zip(node.outputs, found, strict=False) if n)
    halves = {s.dtype for s in given if s is not None and is_half(s.dtype)}
    return halves == {np.dtype(np.float16)} and node.op.layout(given, named) != NUMPY
