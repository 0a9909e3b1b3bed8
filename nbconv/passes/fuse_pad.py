"""A Pad whose readers could pad by themselves goes into their windows, and nothing is copied."""

from __future__ import annotations

from operator import ge
from typing import Any

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.ops.pad import Pad
from nbconv.passes.fold import array
from nbconv.passes.fuse import single

NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Abs", "Softmax", "Exp", "Sqrt")
"""Operators whose results are not negative; behind one, a maximum over zeros is that over padding."""


def fuse_pad(graph: Graph, specs: dict[str, Spec], keep: frozenset[str], decided: set[str]) -> Graph:
    """Zeros round the planes of an image go into the `pads` of its Convs, and of an AveragePool that counts padding; -inf
    into a MaxPool's, as do zeros where nothing is negative. ``decided`` has the constants that input shapes decide, whose
    Pads stay."""
    pads = [node for node in graph.nodes if node.op.type == "Pad" and not node.op.domain]
    if not pads:
        return graph
    makers, readers, only = graph.producers(), graph.readers(), single(graph, keep)
    replaced: dict[str, Node] = {}
    gone: dict[str, str] = {}
    for node in pads:
        y = node.outputs[0]
        around = _around(node, graph, specs, decided)
        if around is None or y in graph.outputs or y in keep:
            continue
        x, _, constant = (*node.inputs, "", "")[:3]
        value = array(graph.constants[constant]).item() if constant else 0
        maker = makers.get(x)
        if value == 0 and maker is not None and maker.op.type in NOT_NEGATIVE:
            wide = {"Conv", "AveragePool", "MaxPool"}
        else:
            wide = {"Conv", "AveragePool"} if value == 0 else {"MaxPool"} if value == -np.inf else set()
        padded: list[Node | None] = [_padded(reader, node, around, wide) for reader in readers[y]]
        found = [reader for reader in padded if reader is not None]
        if padded and len(found) == len(padded):
            replaced.update((reader.outputs[0], reader) for reader in found)
            gone[y] = f"fused into {found[0].outputs[0]}" if y in only else "fused into its readers"
    nodes = [replaced.get(n.outputs[0], n) for n in graph.nodes if n.outputs[0] not in gone]
    return graph.derive(nodes, provenance=gone) if gone else graph


def _around(node: Node, graph: Graph, specs: dict[str, Spec], decided: set[str]) -> tuple[tuple[int, int], ...] | None:
    """How many cells a Pad by a constant adds before and after each spatial axis; None where it does something else."""
    assert isinstance(node.op, Pad)
    names = [name for name in node.inputs[1:] if name]
    if node.op.mode != "constant" or any(name not in graph.constants or name in decided for name in names):
        return None
    inputs = [specs[name] if name else None for name in node.inputs]
    around = node.op.around(inputs)
    if len(around) < 3 or around[:2] != ((0, 0), (0, 0)) or any(min(axis) < 0 for axis in around):
        return None
    return around[2:]


def _padded(reader: Node, pad: Node, around: tuple[tuple[int, int], ...], wide: set[str]) -> Node | None:
    """The reader with the padding in its own window, None where that would change what it computes."""
    op: Any = reader.op
    if op.type not in wide or op.domain or reader.inputs.count(pad.outputs[0]) != 1 or reader.inputs[0] != pad.outputs[0]:
        return None
    own = op.pads or (0,) * (2 * len(around))
    if op.auto_pad == "VALID":
        own = (0,) * (2 * len(around))
    elif op.auto_pad != "NOTSET":
        return None
    total = tuple(p + a for p, a in zip(own, [a for a, _ in around] + [b for _, b in around], strict=True))
    more: dict[str, Any] = {"pads": total, "auto_pad": "NOTSET"}
    if op.type != "Conv":
        if op.ceil_mode or len(reader.outputs) > 1:
            return None
        if op.type == "MaxPool" and (any(d != 1 for d in op.dilations or ()) or any(map(ge, total, op.kernel_shape * 2))):
            return None  # a window may see the padding alone
        if op.type == "AveragePool":
            if any(own) and not op.count_include_pad:
                return None
            more["count_include_pad"] = 1
    inputs = tuple(pad.inputs[0] if name == pad.outputs[0] else name for name in reader.inputs)
    return Node(type(op)(**{**op.attributes(), **more}), inputs, reader.outputs, reader.name)
