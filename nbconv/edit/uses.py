"""What a model's constants are used for: which of them can be trained, and why others are not."""

from __future__ import annotations

import numpy as np

from nbconv.graph import Graph, Node
from nbconv.graph.dtypes import kind_of
from nbconv.graph.infer import dtype_of
from nbconv.graph.op import Op
from nbconv.passes.straight_through import pairs

ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Min", "Max", "Mod", "Where"))
"""What combines a constant with a value, element by element."""
ANGLES = frozenset(("Sin", "Cos"))
INTEGERS = frozenset(("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "DynamicQuantizeLinear"))
"""ONNX's operators that compute with integers; those of com.microsoft and nbconv begin with QLinear, too."""
NO_FLOATS = frozenset((
    "And", "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "ConstantOfShape", "Equal",
    "EyeLike", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonMaxSuppression", "NonZero", "Not",
    "Or", "Range", "Shape", "Size", "Xor",
))  # fmt: skip
"""What makes integers or truth values, or reads shapes alone."""
MASK = "a mask"
MASKED = -99.0
"""What masks add to scores that do not count is this or less."""


def computes_integers(op: Op) -> bool:
    """Whether an operator computes with integers where a float one could be differentiated."""
    return op.type in INTEGERS or op.type.startswith(("QLinear", "QGemm", "DynamicQuantize", "LookUp"))


class Uses:
    """Facts about a graph's values: ``still``, those made of constants alone; ``raw``, those before the first layer;
    ``alive``, those on which an output depends differentiably; ``stuck``, those of them whose gradient would go through an
    operator that has none."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.made = graph, graph.producers()
        self.readers = graph.readers()
        self._values: dict[str, np.ndarray] = {}
        self.paired = {dq.inputs[0] for dq in pairs(graph)}
        self.still = set(graph.constants)
        for node in graph.nodes:
            if node.op.pure and not node.op.control and self.still.issuperset(n for n in node.inputs if n):
                self.still.update(n for n in node.outputs if n)
        self.layers = [node for node in graph.nodes if self._layer(node)]
        self.raw = self._before()
        self.alive, self.stuck, self._ahead = self._behind()

    def _layer(self, node: Node) -> bool:
        return node.op.is_layer and any(n in self.still for n in node.inputs[:2])

    def is_still(self, node: Node) -> bool:
        """Whether the node's result hangs on constants alone."""
        return any(n in self.still for n in node.outputs if n)

    def _before(self) -> set[str]:
        """The values made of inputs with no layer, norm or table between."""
        found, layers = set(self.graph.inputs), {id(n) for n in self.layers}
        for node in self.graph.nodes:
            if self.is_still(node):
                continue
            reads = [n for n in node.inputs if n]
            looked_up = node.op.type in ("Gather", "GatherND", "GatherElements") and reads[0] in self.still
            weighted = id(node) in layers or looked_up or node.op.is_norm
            if not weighted and any(n in found for n in reads) and all(n in found or n in self.still for n in reads):
                found.update(n for n in node.outputs if n)
        return found

    def _behind(self) -> tuple[set[str], set[str], set[str]]:
        """(alive, stuck, the values that a layer reads or that hang on such)."""
        alive, stuck, ahead = set(self.graph.outputs), set(), set()
        layers = {id(n) for n in self.layers}
        for node in reversed(self.graph.nodes):
            if alive.isdisjoint(node.outputs):
                continue
            if id(node) in layers or not ahead.isdisjoint(node.outputs):
                ahead.update(n for n in node.inputs if n)
            passes = self.passes(node)
            if passes == "no":
                continue
            reads = [n for i, n in enumerate(node.inputs) if n and not (n in self.still and i in node.op.fixed)]
            alive.update(reads)
            if passes == "missing" or not stuck.isdisjoint(node.outputs):
                stuck.update(reads)
        return alive, stuck, ahead

    def passes(self, node: Node) -> str:
        """Whether a gradient goes through a node: "yes", "no", where its result is no float, or "missing", where there is
        none for the operator."""
        op = node.op
        if op.type == "QuantizeLinear":
            return "yes" if node.outputs[0] in self.paired else "no"
        if op.type in ("Cast", "CastLike"):
            kind = getattr(op, "to", 0)
            return "no" if kind and kind_of(dtype_of(kind)) != "f" else "yes"
        if op.type in ANGLES and self.is_still(node):  # of positions
            return "no"
        if type(op).gradient is not Op.gradient:
            return "yes"
        return "no" if op.type in NO_FLOATS or computes_integers(op) else "missing"

    def why(self, node: Node, i: int, reader: Node, slot: int, name: str, array: np.ndarray) -> tuple[str, bool]:
        """Why a constant of floats is no parameter, "" for one that is, and whether it could train where it is named.

        ``node`` is the first that combines it, or what is made of it as its input ``i``, with values of the inputs;
        ``reader`` reads it, as the value ``name``, as input ``slot``; ``array`` is what is stored."""
        for at, k in ((reader, slot), (node, i)):
            if k in at.op.fixed:
                return _setting(at)
        if name not in self.alive:
            return self.dead(name), False
        if name in self.stuck:
            return "an operator behind it has no gradient", False
        if array.size == 0:
            return "it is empty", False
        if array.size == 1:
            return "" if array.ndim and self._bias(node, i) else "one number: a constant of a formula", True
        if node.op.type in ELEMENTWISE:
            return self._table(node, i, evaluated(node.inputs[i], self.graph, self.made, self._values)), True
        return "zeros that fill" if node.op.type == "Concat" and not array.any() else "", True

    def fills(self, node: Node, slot: int, array: np.ndarray) -> bool:
        """Whether these are the ones or zeros of an InstanceNormalization that stands for one of groups of channels, as
        exporters write it: between Reshapes, behind which its own factors and terms are."""
        if node.op.type != "InstanceNormalization" or not (array == (1 if slot == 1 else 0)).all():
            return False
        before, after = self.made.get(node.inputs[0]), self._then(node)
        if before is None or after is None or before.op.type != "Reshape" or after.op.type != "Reshape":
            return False
        behind = self._then(after)
        return behind is not None and behind.op.type == "Mul" and any(n in self.still for n in behind.inputs)

    def _then(self, node: Node) -> Node | None:
        """The one node that reads the node's result."""
        readers = self.readers.get(node.outputs[0], [])
        return readers[0] if len(readers) == 1 else None

    def dead(self, name: str) -> str:
        """Why no output depends on a constant differentiably."""
        todo, seen = [name], {name}
        while todo:
            for node in self.readers.get(todo.pop(0), []):
                if computes_integers(node.op):
                    return f"{node.op.type} computes with integers"
                if self.passes(node) == "no":
                    return f"no gradient goes through {node.op.type}"
                todo += [n for n in node.outputs if n and n not in seen]
                seen.update(node.outputs)
        return "no output depends on it"

    def _bias(self, node: Node, slot: int) -> bool:
        """Whether it is added to a layer's result."""
        if node.op.type not in ("Add", "Sub") or (node.op.type == "Sub" and slot == 0):
            return False
        layer = self.made.get(node.inputs[1 - slot])
        return layer is not None and self._layer(layer)

    def _table(self, node: Node, slot: int, array: np.ndarray) -> str:
        """What is combined element by element with a value, and no weight."""
        others = [n for i, n in enumerate(node.inputs) if n and i != slot and n not in self.still]
        if others and all(n in self.raw for n in others):
            return "it prepares the input: no layer stands before it"
        values = np.unique(np.asarray(array, np.float64))
        if not np.isfinite(values).all() or (values[0] <= MASKED and set(values[1:]) <= {0.0}):
            return MASK
        if node.op.type == "Mul" and set(values) == {0.0, 1.0}:
            return MASK
        if node.op.type == "Where" and values.size == 1:
            return "a number that fills"
        if values.size > 2 and not (values * 2 % 1).any():
            return "whole or half numbers: a grid of places"
        behind = not self._ahead.isdisjoint(node.outputs)
        if not behind and sum(d > 1 for d in array.shape) > 1:
            return "a table behind the last layer: anchors or places"
        if node.op.type == "Mul" and self._turns(node, slot, array):
            return "sines or cosines of a rotation"
        return ""

    def _turns(self, node: Node, slot: int, array: np.ndarray) -> bool:
        """Whether x · cos and another product with sin, of the same shape, are added."""
        if values_alike(array) or np.abs(array.astype(np.float32)).max() > 1:
            return False
        for adder in self.readers.get(node.outputs[0], []):
            for name in adder.inputs if adder.op.type in ("Add", "Sub") else ():
                other = self.made.get(name)
                if other is None or other is node or other.op.type != "Mul":
                    continue
                for factor in other.inputs:
                    a = self.graph.constants.get(factor)
                    if a is not None and a.shape == array.shape and a.dtype == array.dtype:
                        squares = a.astype(np.float64) ** 2 + array.astype(np.float64) ** 2
                        if np.abs(squares - 1).max() < 1e-2:
                            return True
        return False


def evaluated(name: str, graph: Graph, made: dict[str, Node], values: dict[str, np.ndarray]) -> np.ndarray:
    """A value that is made of constants alone; ``values`` keeps those that were."""
    if name in graph.constants:
        return graph.constants[name]
    todo = [name]
    while todo:
        node = made[todo[-1]]
        missing = [n for n in node.inputs if n and n not in graph.constants and n not in values]
        if missing:
            todo += missing
            continue
        given = (graph.constants[n] if n in graph.constants else values[n] if n else None for n in node.inputs)
        found = node.op.reference(*given)
        values.update(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
        todo.pop()
    return values[name]


def values_alike(array: np.ndarray) -> bool:
    """Whether all elements are equal."""
    return bool((array == array.reshape(-1)[0]).all())


def _setting(node: Node) -> tuple[str, bool]:
    if node.op.type == "BatchNormalization":
        return "a running statistic", False
    if node.op.type in ("QuantizeLinear", "DequantizeLinear"):
        return "a scale of quantisation", False
    return f"a setting of {node.op.type}", True
