"""Which values lie channels last, and where their order must change."""

from __future__ import annotations

from nbconv.graph import Graph, Node, Spec
from nbconv.lowering import Ref, Spot
from nbconv.ops.inner import Layout
from nbconv.ops.op import ANY, CHANNELS_LAST


def choose(graph: Graph, specs: dict[str, Spec]) -> tuple[Graph, dict[str, bool]]:
    """The graph with a `Layout` node wherever an op wants a value in the other order, and whether each value lies channels
    last. Graph inputs and outputs, and constants, lie as ONNX has them."""
    last: dict[str, bool] = {}
    nodes: list[Node] = []
    turned: dict[tuple[str, bool], str] = {}

    def lying(name: str, want: bool) -> str:
        """The name under which the value lies as wanted."""
        if last.get(name, False) == want:
            return name
        if (name, want) not in turned:
            new = turned[name, want] = f"{name}#{'last' if want else 'first'}"
            nodes.append(Node(Layout(last=int(want)), (name,), (new,), new))
            specs[new] = specs[name]
            last[new] = want
            turned[new, not want] = name
        return turned[name, want]

    for node in graph.nodes:
        given = tuple(specs[n] if n else None for n in node.inputs)
        found = tuple(specs[n] for n in node.outputs if n)
        wide = [
            n for n, s in zip(node.inputs, given, strict=True) if s is not None and s.rank >= 3 and n not in graph.constants
        ]
        placed = node.op.place(given, found, tuple(last.get(n, False) for n in node.inputs))
        if placed is not None:
            wants, results = placed
        else:
            mode = node.op.layout(given, found)
            turn = mode == CHANNELS_LAST or (mode == ANY and any(last.get(n, False) for n in wide))
            wants = tuple(turn and n in wide for n in node.inputs)
            results = tuple(turn and s.rank >= 3 for s in found)
        inputs = tuple(lying(n, w) if n in wide else n for n, w in zip(node.inputs, wants, strict=True))
        nodes.append(node if inputs == node.inputs else Node(node.op, inputs, node.outputs, node.name))
        for name, result in zip((n for n in node.outputs if n), results, strict=True):
            last[name] = result
    return _with_outputs(graph, nodes, last, specs), last


def _with_outputs(graph: Graph, nodes: list[Node], last: dict[str, bool], specs: dict[str, Spec]) -> Graph:
    """Outputs turned to lie as ONNX has them, under their own names."""
    renamed = {}
    for name in graph.outputs:
        if last.get(name, False):
            renamed[name] = f"{name}#last"
            specs[renamed[name]] = specs[name]
            last[renamed[name]] = True
            last[name] = False
    if not renamed:
        return graph.derive(nodes)
    existing = {n for node in nodes for n in node.outputs}
    new = [
        Node(
            node.op, tuple(renamed.get(n, n) for n in node.inputs), tuple(renamed.get(n, n) for n in node.outputs), node.name
        )
        for node in nodes
        if not (node.op.type == "Layout" and node.inputs[0] in renamed)
    ]
    first = {f"{name}#first": name for name in renamed if f"{name}#first" in existing}
    if first:
        new = [Node(n.op, tuple(first.get(i, i) for i in n.inputs), n.outputs, n.name) for n in new]
    at = {n: i for i, node in enumerate(new) for n in node.outputs}
    for name, source in sorted(renamed.items(), key=lambda t: -at[t[1]]):
        new.insert(at[source] + 1, Node(Layout(last=0), (source,), (name,), name))
    return graph.derive(new)


def join(graph: Graph, specs: dict[str, Spec], last: dict[str, bool], keep: frozenset[str]) -> dict[str, Spot]:
    """Which values are written straight into the channels of the Concat that alone reads them."""
    makers, readers = graph.producers(), graph.readers()
    placed: dict[str, Spot] = {}
    for node in graph.nodes:
        out = node.outputs[0]
        if node.op.type != "Concat" or not last.get(out) or node.op.axis not in (1, 1 - specs[out].rank):  # type: ignore[attr-defined]
            continue
        total, at = specs[out].shape[1], 0
        for name in node.inputs:
            maker = makers.get(name)
            if (
                maker is not None
                and len(readers[name]) == 1
                and name not in keep
                and len(maker.outputs) == 1
                and last.get(name)
            ):
                given = tuple(specs[n] if n else None for n in maker.inputs)
                if specs[name].size and maker.op.pitched(given, (specs[name],)):
                    placed[name] = Spot(Ref(out).at(at), total)
            at += specs[name].shape[1]
    return placed
