"""A factor and a term a channel go into the weights of the convolution behind them, where what is before them has none."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.graph.symbolic import settled
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.conv import Conv
from nbconv.passes.fold import Deferred, array
from nbconv.passes.fuse import ARITHMETIC, affine_map, single


def fold_inputs(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """w∗(x·s + t) + b of a convolution without padding is (w·s)∗x + (Σ w·t + b): batch normalisations in front of
    convolutions, as in InceptionNeXt and MaxViT."""
    makers, only = graph.producers(), single(graph, keep)
    constants: dict[str, Any] = dict(graph.constants)
    replaced: dict[str, Node] = {}
    gone: dict[str, str] = {}
    for node in graph.nodes:
        maker = makers.get(node.inputs[0]) if type(node.op) is Conv and node.inputs[0] in only else None
        if maker is None or not (isinstance(maker.op, BatchNormalization) or maker.op.type in ARITHMETIC):
            continue
        if not _plain(node, constants):
            continue
        affine = affine_map(maker, specs, constants)
        if affine is not None and affine[0] not in gone:
            replaced[node.outputs[0]] = _scaled(node, maker, *affine, specs, constants)
            gone[node.inputs[0]] = f"fused into {node.outputs[0]}"
    if not replaced:
        return graph
    nodes = [replaced.get(n.outputs[0], n) for n in graph.nodes if n.outputs[0] not in gone]
    return graph.derive(nodes, constants, gone)


def _plain(node: Node, constants: dict[str, Any]) -> bool:
    """Whether a convolution has constant weights, and no padding."""
    op: Any = node.op
    bare = op.auto_pad in ("NOTSET", "VALID") and not any(op.pads or ())
    return bare and all(n in constants for n in node.inputs[1:] if n)


def _scaled(
    node: Node, maker: Node, x: str, scale: np.ndarray, shift: np.ndarray, specs: dict[str, Spec], constants: dict[str, Any]
) -> Node:
    """The convolution of x with the factors and terms of ``maker`` in its weights."""
    _, w, bias = (*node.inputs, "")[:3]
    weights, addends, group = settled(constants[w]), constants.get(bias), node.op.group  # type: ignore[attr-defined]
    co, ci, *kernel = weights.shape

    def spread(v: np.ndarray) -> np.ndarray:
        """One for each input channel of each output channel."""
        return np.repeat(v.reshape(group, 1, ci), co // group, 1).reshape(co, ci, *[1] * len(kernel))

    def product() -> np.ndarray:
        return (array(weights) * spread(scale)).astype(np.float32)

    def total() -> np.ndarray:
        found = (array(weights) * spread(shift)).reshape(co, -1).sum(1)
        return (found if addends is None else found + array(addends)).astype(np.float32)

    key = f"#behind {maker.op!r}({','.join(n for n in maker.inputs if n in constants)})"
    names = (f"{w}{key}", f"{w}{key}#{bias}#b")
    for name, shape, make in ((names[0], tuple(weights.shape), product), (names[1], (co,), total)):
        constants[name] = Deferred(shape, FLOAT32, make)
        specs[name] = Spec(shape, FLOAT32, None, True)
    return Node(node.op, (x, *names), node.outputs, node.name)
