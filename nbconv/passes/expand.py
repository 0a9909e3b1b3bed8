"""An op as other ops that do it, where these have kernels (`Op.expand`).

Names say all that a value depends on, so that what is made of a model's weights on the way is the same in every plan, and
shared like the weights.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np

from nbconv.graph import Node, Spec, spec_of
from nbconv.graph.op import Op
from nbconv.ops import lookup


class _Expansion:
    """`nbconv.graph.backward.Expansion` for one node."""

    def __init__(self, node: Node, given: tuple[Spec | None, ...], found: tuple[Spec, ...]) -> None:
        self.node, self.inputs, self.outputs = node, given, found
        self.specs: dict[str, Any] = {name: spec for name, spec in zip(node.inputs, given, strict=True) if name}
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: dict[str, Node] = {}
        self._scope = next(name for name in node.outputs if name)

    def has(self, i: int) -> bool:
        return i < len(self.node.inputs) and bool(self.node.inputs[i])

    def x(self, i: int = 0) -> str:
        return self.node.inputs[i]

    def spec(self, name: str) -> Spec:
        return self.specs[name]

    def add(self, op: Op, *inputs: str) -> str:
        name = self._name(op.type, repr((op, inputs)).encode())
        if name not in self.nodes:
            node = self.nodes[name] = Node(op, inputs, (name,))
            self.specs[name] = node.infer(tuple(self.specs[n] if n else None for n in inputs))[0]
        return name

    def constant(self, value: Any) -> str:
        value = np.asarray(value)
        name = self._name("constant", repr((value.dtype.str, value.shape)).encode() + value.tobytes())
        self.constants[name], self.specs[name] = value, spec_of(value)
        return name

    def _name(self, what: str, key: bytes) -> str:
        return f"{self._scope}/{what}~{blake2b(key, digest_size=6).hexdigest()}"


def expanded(
    node: Node, given: tuple[Spec | None, ...], found: tuple[Spec, ...]
) -> tuple[list[Node], dict[str, np.ndarray]]:
    """(nodes that make the node's first output, constants that they read) by the op's `expand`; no nodes without one."""
    if type(node.op).expand is Op.expand or any(spec.size == 0 for spec in found):
        return [], {}
    to = _Expansion(node, given, found)
    made = node.op.expand(to)
    if made is None:
        return [], {}
    output = node.outputs[0]
    if made not in to.nodes:
        return [Node(lookup("Identity")(), (made,), (output,), node.name)], to.constants
    names = {made: output}
    return [
        Node(n.op, tuple(names.get(i, i) for i in n.inputs), (names.get(n.name, n.name),), names.get(n.name, n.name))
        for n in to.nodes.values()
    ], to.constants
