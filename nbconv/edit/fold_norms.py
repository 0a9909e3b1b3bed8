"""Batch normalisations of inference, put into the layers before them."""

from __future__ import annotations

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import FLOAT32, Graph, Node
from nbconv.graph.dtypes import is_half

LAYERS = ("Conv", "ConvTranspose", "Gemm")


def folded(graph: Graph) -> Graph:
    """The graph with each BatchNormalization that alone reads a layer's result (of a convolution or Gemm) put into that
    layer: w · s and (b - mean) · s + shift, with s = scale / sqrt(var + epsilon), computed in float64. Weights may be
    computed of constants, as exporters write them that fold none. ModelError where there are some and none can be."""
    readers, made, known = graph.readers(), graph.producers(), _Known(graph)
    constants, replaced, gone = dict(graph.constants), {}, set()
    for node in graph.nodes:
        if node.op.type != "BatchNormalization" or getattr(node.op, "training_mode", 0):
            continue
        layer, behind = made.get(node.inputs[0]), node.inputs[0]
        while layer is not None and layer.op.type == "Identity" and _alone(behind, readers, graph):
            behind = layer.inputs[0]
            layer = made.get(behind)
        if layer is None or layer.op.type not in LAYERS or not _alone(behind, readers, graph):
            continue
        found = _scaled(node, layer, known)
        if found is None:
            continue
        kind = known.get(layer.inputs[1]).dtype  # type: ignore[union-attr]
        kind = kind if is_half(kind) else FLOAT32
        names = (f"{layer.inputs[1]}/folded/{layer.name}", f"{layer.inputs[1]}/bias/{layer.name}")
        constants.update(zip(names, (a.astype(kind) for a in found), strict=True))
        replaced[id(layer)] = Node(layer.op, (layer.inputs[0], *names), node.outputs[:1], layer.name)
        gone.add(id(node))
    if not replaced and any(n.op.type == "BatchNormalization" for n in graph.nodes):
        raise ModelError("no batch normalisation stands alone behind a layer with stored weights: nothing to fold")
    nodes = [replaced.get(id(n), n) for n in graph.nodes if id(n) not in gone]
    return graph.derive(_read(nodes, graph), constants)


def _alone(name: str, readers: dict[str, list[Node]], graph: Graph) -> bool:
    return len(readers.get(name, ())) == 1 and name not in graph.outputs


def _scaled(node: Node, layer: Node, known: _Known) -> tuple[np.ndarray, np.ndarray] | None:
    """The layer's weight and bias with the normalisation in them, float64; None where they are not constant."""
    given = [known.get(n) for n in (*node.inputs[1:5], *filter(None, layer.inputs[1:]))]
    if any(a is None for a in given):
        return None
    scale, shift, mean, var, w, *rest = (np.asarray(a, np.float64) for a in given)
    s, op = scale / np.sqrt(var + getattr(node.op, "epsilon", 1e-5)), layer.op
    if op.type == "Conv":
        w = w * s.reshape(-1, *[1] * (w.ndim - 1))
    elif op.type == "ConvTranspose":
        group = getattr(op, "group", 1)
        w = (w.reshape(group, -1, *w.shape[1:]) * s.reshape(group, 1, w.shape[1], *[1] * (w.ndim - 2))).reshape(w.shape)
    else:
        w = w * (s[:, None] if getattr(op, "transB", 0) else s)
    b: np.ndarray | float = rest[0] if rest else 0.0
    if op.type == "Gemm":
        if rest and (getattr(op, "beta", 1.0) != 1.0 or (rest[0].ndim == 2 and rest[0].shape[0] != 1)):
            return None
        b = np.broadcast_to(rest[0].reshape(-1), s.shape) if rest else 0.0
        if getattr(op, "beta", 1.0) != 1.0:  # the bias that it gets would be scaled
            return None
    return w, (b - mean) * s + shift


class _Known:
    """Values that constants alone decide."""

    def __init__(self, graph: Graph) -> None:
        self.constants, self.made = graph.constants, graph.producers()
        self.found: dict[str, np.ndarray | None] = {}

    def get(self, name: str) -> np.ndarray | None:
        """The value of a name; None where it depends on an input."""
        if name in self.constants:
            return self.constants[name]
        if name not in self.found:
            self.found[name] = None
            node = self.made.get(name)
            if node is not None and node.op.type == "CastLike":
                self.found[name] = _cast_to_any(self.get(node.inputs[0]))
            elif node is not None and node.inputs and not node.op.bodies():
                given = [self.get(n) if n else None for n in node.inputs]
                if all(a is not None or not n for a, n in zip(given, node.inputs, strict=True)):
                    results = node.op.reference(*given)
                    results = results if isinstance(results, tuple) else (results,)
                    self.found.update(zip(node.outputs, results, strict=False))
        return self.found[name]


def _cast_to_any(value: np.ndarray | None) -> np.ndarray | None:
    """The value, where every type of floats has it: small whole numbers, such as the zeros of a bias that is none."""
    if value is None or value.dtype.kind != "f" or not (np.abs(value) <= 256).all() or (value != np.rint(value)).any():
        return None
    return value


def _read(nodes: list[Node], graph: Graph) -> list[Node]:
    """The nodes less those that nobody reads any more, and read before."""
    before = {n for node in graph.nodes for n in (*node.inputs, *graph.outputs)}
    kept: list[Node] = []
    wanted = set(graph.outputs)
    for node in reversed(nodes):
        idle = any(n in before for n in node.outputs) and wanted.isdisjoint(node.outputs)
        if not idle:
            kept.append(node)
            wanted.update(n for n in node.inputs if n)
    return kept[::-1]
