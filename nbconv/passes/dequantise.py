"""Convolutions of integers that are slower than those of floats, as these: dequantised before, and quantised behind."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.graph.op import NUMPY
from nbconv.graph.symbolic import apply, settled
from nbconv.lowering.conv import Geometry, integer_cost, plain_cost
from nbconv.ops.conv import Conv
from nbconv.ops.integer_conv import QLinearConv, channels
from nbconv.ops.quantize import DequantizeLinear, QuantizeLinear
from nbconv.passes.fold import Deferred, array

if TYPE_CHECKING:
    from nbconv.kernels.target import Target


def dequantise(graph: Graph, specs: dict[str, Spec], target: Target, decided: set[str]) -> tuple[Graph, set[str]]:
    """Each QLinearConv by floats where costs say so; results are within one step of those by integers. With ``decided``,
    the constants that input shapes decide, and those made of them."""
    chosen = {node.outputs[0] for node in graph.nodes if isinstance(node.op, QLinearConv) and _slow(node, specs, target)}
    if not chosen:
        return graph, decided
    constants: dict[str, Any] = dict(graph.constants)
    nodes: list[Node] = []
    floats: dict[tuple[str, ...], str] = {}
    for node in graph.nodes:
        if node.outputs[0] not in chosen:
            nodes.append(node)
            continue
        x, scales = node.inputs[0], node.inputs[:3]
        if scales not in floats:
            floats[scales] = _value(f"{x}#floats{len(floats)}", specs[x].shape, specs)
            nodes.append(Node(DequantizeLinear(), scales, (floats[scales],), floats[scales]))
        made = _parameters(node, specs, constants)
        if not decided.isdisjoint(node.inputs[1:]):
            decided = decided.union(made)
        named = [floats[scales], *made]
        y = _value(f"{node.outputs[0]}#floats", specs[node.outputs[0]].shape, specs)
        nodes.append(Node(Conv(**node.op.attributes()), tuple(named), (y,), node.name))
        nodes.append(Node(QuantizeLinear(), (y, *node.inputs[6:8]), node.outputs, f"{node.name}#integers"))
    return graph.derive(nodes, constants), decided


def _slow(node: Node, specs: dict[str, Spec], target: Target) -> bool:
    """Whether floats are faster: kernels of integers do the node, and those of floats could."""
    op, given = node.op, tuple(specs[n] if n else None for n in node.inputs)
    assert isinstance(op, QLinearConv)
    if op.layout(given, (specs[node.outputs[0]],)) == NUMPY:
        return False
    x, w, zero = given[0], given[3], given[5]
    assert x is not None and w is not None and zero is not None and zero.value is not None
    symmetric = bool((zero.value == (128 if w.dtype == np.uint8 else 0)).all())
    return settled(apply(partial(_slower, target, symmetric), op.geometry(x, w)))


def _slower(target: Target, symmetric: bool, geometry: Geometry) -> bool:
    return integer_cost(geometry, target, symmetric) > plain_cost(geometry, target)


def _value(name: str, shape: tuple[int, ...], specs: dict[str, Spec]) -> str:
    specs[name] = Spec(shape, FLOAT32)
    return name


def _parameters(node: Node, specs: dict[str, Spec], constants: dict[str, Any]) -> list[str]:
    """The names of weights and bias as floats."""
    w, scale, zero, *_ = node.inputs[3:]
    shape = specs[w].shape
    sources = [settled(constants[n]) for n in (w, scale, zero)]

    def weights() -> np.ndarray:
        values, s, z = map(array, sources)
        s, z = (channels(v, len(shape), 0).astype(np.float32) for v in (s, z))
        return (values.astype(np.float32) - z) * s

    names = [f"{w}#floats({scale},{zero})"]
    constants[names[0]] = Deferred(shape, FLOAT32, weights)
    specs[names[0]] = Spec(shape, FLOAT32, None, True)
    if len(node.inputs) > 8 and node.inputs[8]:
        b = array(constants[node.inputs[8]]).astype(np.float64)
        s = array(constants[node.inputs[1]]).astype(np.float64).reshape(()) * array(constants[scale]).astype(np.float64)
        names.append(f"{node.inputs[8]}#floats({node.inputs[1]},{scale})")
        constants[names[1]] = np.asarray(b * s.reshape(-1), np.float32)
        specs[names[1]] = Spec(b.shape, FLOAT32, constants[names[1]], True)
    return names
