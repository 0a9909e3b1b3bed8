"""Values that may lie where others lie that nobody reads any more."""

from __future__ import annotations

from collections.abc import Container, Mapping

from nbconv.graph import Graph, Node, Spec
from nbconv.graph.symbolic import indices
from nbconv.ops.convolution import Convolution
from nbconv.ops.grad import UnaryGrad
from nbconv.ops.pointwise import Add, Binary
from nbconv.passes.segments import samples_of


def overwritten(graph: Graph, specs: Mapping[str, Spec], known: Container[str] = ()) -> dict[str, str]:
    """Values, put together of parts along their first axis, that may lie where another value lies: each part is made
    element by element of the same part of that, which nobody reads any more. ``known``: values made elsewhere."""
    at = {n: i for i, node in enumerate(graph.nodes) for n in node.outputs if n}
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for n in node.inputs:
            readers.setdefault(n, []).append(i)
    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.op.type != "Concat" or node.op.axis != 0 or node.outputs[0] in graph.outputs:  # type: ignore[attr-defined]
            continue
        makers = [at.get(n, -1) for n in node.inputs]
        for slot in range(len(graph.nodes[makers[0]].inputs) if min(makers) >= 0 else 0):
            x = _source(graph, at, specs, node, makers, slot)
            able = (
                x and (x in known or (x in at and owns(graph.nodes[at[x]]))) and x not in {*graph.outputs, *found.values()}
            )
            if x and able and _free(graph, readers, specs, node, makers, x):
                found[node.outputs[0]] = x
                break
    return found


def owns(node: Node) -> bool:
    """Whether what the node makes has memory of its own: it is no other name for what it reads, or a piece of that."""
    if node.op.type == "Concat":
        return node.op.axis == 0  # type: ignore[attr-defined]
    return bool(node.op.batch_inputs) or isinstance(node.op, (UnaryGrad, Binary))


def _source(
    graph: Graph, at: Mapping[str, int], specs: Mapping[str, Spec], whole: Node, makers: list[int], slot: int
) -> str | None:
    """The value of whose parts the parts of ``whole`` are made, as this input, element by element."""
    source, row = None, 0
    for name, maker in zip(whole.inputs, makers, strict=True):
        node = graph.nodes[maker]
        rows = specs[name].shape[0]
        if not isinstance(node.op, (UnaryGrad, Add)) or slot >= len(node.inputs) or len(node.outputs) != 1:
            return None
        part = graph.nodes[at[node.inputs[slot]]] if node.inputs[slot] in at else None
        if part is None or part.op.type != "Slice" or _rows(part, specs) != (row, row + rows):
            return None
        others = [graph.nodes[at[n]] for i, n in enumerate(node.inputs) if i != slot and n in at]
        if any(isinstance(other.op, Convolution) or specs[other.outputs[0]].shape != specs[name].shape for other in others):
            return None  # a convolution that adds: it writes what it has before it reads the other
        if part.inputs[0] != (source or part.inputs[0]) or specs[part.inputs[0]].shape != specs[whole.outputs[0]].shape:
            return None
        source, row = part.inputs[0], row + rows
    return source


def _rows(node: Node, specs: Mapping[str, Spec]) -> tuple[int, int] | None:
    """The rows that a Slice takes, if it takes whole ones."""
    cut, *rest = node.op.cuts(tuple(specs[n] if n else None for n in node.inputs))  # type: ignore[attr-defined]
    size, *others = specs[node.inputs[0]].shape
    start, end, step = indices(cut, size)
    whole = step == 1 and all(indices(c, d) == (0, d, 1) for c, d in zip(rest, others, strict=True))
    return (start, end) if whole else None


def _free(
    graph: Graph, readers: Mapping[str, list[int]], specs: Mapping[str, Spec], whole: Node, makers: list[int], x: str
) -> bool:
    """Whether nobody reads a part of x after the same part of ``whole`` is made."""
    rows = specs[whole.inputs[0]].shape[0]
    for i in readers[x]:
        node = graph.nodes[i]
        if node.op.type != "Slice":
            held = node.op.type in ("Concat", "Split", "Identity")  # others may lie in x, or x in others
            if held or i > makers[0] or samples_of(node, specs, specs[x].shape[0]) is None:
                return False
            continue
        taken = _rows(node, specs)
        if taken is None:
            return False
        last = max(readers.get(node.outputs[0], [i]))
        there = [m for k, m in enumerate(makers) if taken[0] < (k + 1) * rows and k * rows < taken[1]]
        if node.outputs[0] in graph.outputs or any(last > m for m in there):
            return False
    return True
