"""The layout of each value, and where it must change."""

from __future__ import annotations

from collections.abc import Mapping

from nbconv.graph import CHANNELS_FIRST, CHANNELS_LAST, Graph, Layout, Node, Spec
from nbconv.graph.symbolic import indices
from nbconv.lowering.context import Ref, View
from nbconv.ops.inner import Reorder
from nbconv.passes.inplace import overwritten

Layouts = dict[str, Layout]
"""By value; one that is missing lies as ONNX has it."""
ENDINGS = {CHANNELS_FIRST: "first", CHANNELS_LAST: "last"}
"""How the names of values that were reordered end."""


def choose(graph: Graph, specs: dict[str, Spec], gpu: bool = False) -> tuple[Graph, Layouts]:
    """The graph with a `Reorder` node wherever an op wants a value in another layout, and the layout of each value. Graph
    inputs and outputs, and constants, lie as ONNX has them."""
    layouts: Layouts = {}
    nodes: list[Node] = []
    reordered: dict[tuple[str, Layout], str] = {}

    def found_as(name: str, want: Layout, reader: Node) -> str:
        """The name under which the value lies as ``reader`` wants it."""
        have = layouts.get(name, CHANNELS_FIRST)
        if have is want:
            return name
        if (name, want) not in reordered:
            new = reordered[name, want] = f"{name}#{ENDINGS[want]}"
            at = len(nodes)  # before updates of a state, which come last
            while reader.op.in_place and at and nodes[at - 1].op.in_place and name not in nodes[at - 1].outputs:
                at -= 1
            nodes.insert(at, Node(Reorder(order=want.value), (name,), (new,), new))
            specs[new] = specs[name]
            layouts[new] = want
            reordered[new, have] = name
        return reordered[name, want]

    for node in graph.nodes:
        given, made = specs_of(node, specs)
        wide = [s is not None and s.rank >= 3 and n not in graph.constants for n, s in zip(node.inputs, given, strict=True)]
        wants, results = arranged(node, specs, layouts, gpu) or (
            (CHANNELS_FIRST,) * len(given),
            (CHANNELS_FIRST,) * len(made),
        )
        inputs = tuple(found_as(n, w, node) if may else n for n, w, may in zip(node.inputs, wants, wide, strict=True))
        nodes.append(node if inputs == node.inputs else Node(node.op, inputs, node.outputs, node.name))
        layouts.update(zip((n for n in node.outputs if n), results, strict=True))
    return _with_outputs(graph, nodes, layouts, specs), layouts


def specs_of(node: Node, specs: Mapping[str, Spec]) -> tuple[tuple[Spec | None, ...], tuple[Spec, ...]]:
    """The Specs of a node's inputs, None for one left out, and of the outputs that it names."""
    return tuple(specs[n] if n else None for n in node.inputs), tuple(specs[n] for n in node.outputs if n)


def arranged(
    node: Node, specs: Mapping[str, Spec], layouts: Mapping[str, Layout], gpu: bool
) -> tuple[tuple[Layout, ...], tuple[Layout, ...]] | None:
    """`Op.layouts` of a node: None where no kernel does it, of a processor, or of a GPU."""
    given, made = specs_of(node, specs)
    if gpu and node.op.on_processors(given, made):
        return None
    return node.op.layouts(given, made, tuple(layouts.get(n, CHANNELS_FIRST) for n in node.inputs))


def _with_outputs(graph: Graph, nodes: list[Node], layouts: Layouts, specs: dict[str, Spec]) -> Graph:
    """Outputs turned to lie as ONNX has them, under their own names."""
    renamed = {}
    for name in graph.outputs:
        if layouts.get(name, CHANNELS_FIRST) is CHANNELS_LAST:
            renamed[name] = f"{name}#last"
            specs[renamed[name]] = specs[name]
            layouts[renamed[name]] = CHANNELS_LAST
            layouts[name] = CHANNELS_FIRST
    if not renamed:
        return graph.derive(nodes)
    existing = {n for node in nodes for n in node.outputs}
    new = [
        Node(
            node.op, tuple(renamed.get(n, n) for n in node.inputs), tuple(renamed.get(n, n) for n in node.outputs), node.name
        )
        for node in nodes
        if not (node.op.type == "Reorder" and node.inputs[0] in renamed)
    ]
    first = {f"{name}#first": name for name in renamed if f"{name}#first" in existing}
    if first:
        new = [Node(n.op, tuple(first.get(i, i) for i in n.inputs), n.outputs, n.name) for n in new]
    at = {n: i for i, node in enumerate(new) for n in node.outputs}
    for name, source in sorted(renamed.items(), key=lambda t: -at[t[1]]):
        new.insert(at[source] + 1, Node(Reorder(order=CHANNELS_FIRST.value), (source,), (name,), name))
    return graph.derive(new)


def eliminate_concat(
    graph: Graph, specs: dict[str, Spec], layouts: Layouts, keep: frozenset[str], gpu: bool = False
) -> dict[str, View]:
    """Which values lie in the middle of a wider one, so that nothing is copied: those that are written straight into the
    channels or samples of a Concat, channels that a Split would cut out, and samples that a Slice would. All their readers
    must be able to read them there."""
    return _Elimination(graph, specs, layouts, keep, gpu).views


class _Elimination:
    def __init__(self, graph: Graph, specs: dict[str, Spec], layouts: Layouts, keep: frozenset[str], gpu: bool) -> None:
        self.gpu = gpu
        self.specs, self.layouts, self.keep = specs, layouts, keep
        self.makers, self.readers = graph.producers(), graph.readers()
        self.views: dict[str, View] = {}
        for y, x in overwritten(graph, specs).items():
            if y not in keep and self.layout(x) is self.layout(y):
                self.views[y] = self.view(x)
        for node in reversed(graph.nodes):  # a Concat that is part of another comes after it
            if self.of_channels(node, "Concat"):
                self.concat(node)
            elif node.op.type == "Concat" and node.op.axis == 0:  # type: ignore[attr-defined]
                self.concat_samples(node)
        for node in graph.nodes:
            if node.op.type == "Slice":
                self.slice_samples(node)
            if self.of_channels(node, "Split") and node.inputs[0] not in graph.constants:
                self.split(node, self.spot(node.inputs[0]))

    def layout(self, name: str) -> Layout:
        return self.layouts.get(name, CHANNELS_FIRST)

    def view(self, name: str) -> View:
        """Where a value lies: in itself, unless it was found to lie in another."""
        return self.views.get(name) or View(Ref(name, 0, self.specs[name].dtype), 0)

    def spot(self, name: str) -> View:
        """Where a value lies that lies channels last."""
        ref, pitch = self.view(name)
        return View(ref, pitch or self.specs[name].shape[1])

    def of_channels(self, node: Node, kind: str) -> bool:
        """Whether the node is an op of this type along the channels of values that lie channels last."""
        name = node.inputs[0] if kind == "Split" else node.outputs[0]
        axes = (1, 1 - self.specs[name].rank) if name in self.specs else ()
        return node.op.type == kind and self.layout(name) is CHANNELS_LAST and node.op.axis in axes  # type: ignore[attr-defined]

    def concat(self, node: Node) -> None:
        place, at, i = self.spot(node.outputs[0]), 0, 0
        while i < len(node.inputs):
            name = node.inputs[i]
            maker = self.makers.get(name)
            if maker is not None and self.of_channels(maker, "Split"):  # all pieces, in order: what is split goes there
                pieces, whole = maker.outputs, maker.inputs[0]
                fits = node.inputs[i : i + len(pieces)] == pieces and all(map(self.seen, pieces))
                if fits and self.movable(whole, node):
                    self.views[whole] = View(place.ref.at(at), place.pitch)
                    i, at = i + len(pieces), at + self.specs[whole].shape[1]
                    continue
            if self.movable(name, node):
                self.views[name] = View(place.ref.at(at), place.pitch)
            i, at = i + 1, at + self.specs[name].shape[1]

    def split(self, node: Node, place: View) -> None:
        at = 0
        for name in node.outputs:
            if not name:
                return  # the channels of a piece without a name are not known here
            if self.specs[name].size and name not in self.views and self.seen(name):
                self.views[name] = View(place.ref.at(at), place.pitch)
            at += self.specs[name].shape[1]

    def concat_samples(self, node: Node) -> None:
        place, at = self.view(node.outputs[0]), 0
        for name in node.inputs:
            maker, size = self.makers.get(name), self.specs[name].size
            alone = maker is not None and (len(maker.outputs) == 1 or maker.op.type == "Split")
            free = maker is not None and alone and name not in self.views and node.inputs.count(name) == 1
            if free and maker is not None and size and self.runs(maker) and self.apart(name):
                self.views[name] = View(place.ref.at(at), 0)
            at += size

    def slice_samples(self, node: Node) -> None:
        """A Slice of the outermost axis takes what lies in one piece."""
        x, y = node.inputs[0], node.outputs[0]
        cut, *rest = node.op.cuts(tuple(self.specs[n] if n else None for n in node.inputs))  # type: ignore[attr-defined]
        size, *others = self.specs[x].shape
        start, end, step = indices(cut, size)
        whole = all(indices(c, d) == (0, d, 1) for c, d in zip(rest, others, strict=True))
        if not whole or step != 1 or start >= end or self.specs[x].constant or y in self.views or not self.apart(y):
            return
        place = self.view(x)
        if place.pitch == 0 and self.layout(x) is self.layout(y):
            self.views[y] = View(place.ref.at(start * (self.specs[x].size // size)), 0)

    def apart(self, name: str) -> bool:
        """Whether the value may lie, in one piece, at an offset of another."""
        return name not in self.keep and all(self.runs(reader) for reader in self.readers.get(name, []))

    def runs(self, node: Node) -> bool:
        """Whether a kernel does the node, which asks where its values lie."""
        return arranged(node, self.specs, self.layouts, self.gpu) is not None

    def seen(self, name: str) -> bool:
        """Whether all who want the value can read it in the middle of another."""
        if name in self.keep or self.layout(name) is not CHANNELS_LAST:
            return False
        for reader in self.readers.get(name, []):
            given, found = specs_of(reader, self.specs)
            if not all(reader.op.reads_strided(given, found, i) for i, n in enumerate(reader.inputs) if n == name):
                return False
        return True

    def movable(self, name: str, node: Node) -> bool:
        """Whether the value can be made in the Concat ``node``."""
        maker = self.makers.get(name)
        if maker is None or name in self.views or len(maker.outputs) != 1 or node.inputs.count(name) > 1:
            return False
        given, _ = specs_of(maker, self.specs)
        made = self.of_channels(maker, "Concat") or maker.op.writes_strided(given, (self.specs[name],))
        return made and self.specs[name].size > 0 and self.seen(name)
