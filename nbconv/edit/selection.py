"""Which of a model's parameters a user means to train, or to keep as they are."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from nbconv.edit.head import find_head
from nbconv.edit.parameters import Parameter, parameters
from nbconv.graph import Graph


def select(
    graph: Graph, trainable: str | Iterable[str], frozen: frozenset[str] = frozenset(), output: str = ""
) -> list[Parameter]:
    """The parameters that ``trainable`` names: "all", "head" (those of the classifier), "last:k" (of the last k layers), or
    globs over names of parameters and of nodes. ``frozen`` names parameters to leave alone. ValueError where nothing is
    left, or a glob fits nothing."""
    known = parameters(graph)
    if trainable == "all":
        chosen = known
    elif trainable == "head":
        head = find_head(graph, output)
        names = {name for name in (head.weight, head.bias) if name}
        chosen = [p for p in known if p.value in names or p.name in names]
    elif isinstance(trainable, str) and trainable.startswith("last:"):
        count = _count(trainable)
        chosen = [p for p in known if p.depth < count]
    else:
        globs = [trainable] if isinstance(trainable, str) else list(trainable)
        chosen = []
        for glob in globs:
            fits = [p for p in known if fnmatchcase(p.name, glob) or fnmatchcase(p.node.name, glob)]
            if not fits:
                some = ", ".join(p.name for p in known[-3:])
                raise ValueError(f"trainable {glob!r} fits no parameter; the last are {some}")
            chosen += fits
        chosen = [p for p in known if p in chosen]
    chosen = [p for p in chosen if p.value not in frozen and p.name not in frozen]
    if not chosen:
        raise ValueError(f"trainable {trainable!r} leaves nothing to train: {len(known)} parameters, {len(frozen)} frozen")
    return chosen


def _count(text: str) -> int:
    digits = text.removeprefix("last:")
    if not digits.isdigit() or int(digits) < 1:
        raise ValueError(f"trainable is {text!r}, wanted last:1, last:2, …")
    return int(digits)


def until(graph: Graph, name: str) -> frozenset[str]:
    """The parameters that ``name`` (of a node, value or parameter) hangs on, its own included: what `Model.freeze` keeps."""
    made = graph.producers()
    nodes = [n for n in graph.nodes if n.name == name or name in n.outputs or name in n.inputs[1:]]
    if not nodes:
        raise ValueError(f"the model has no node, value or parameter {name!r}")
    todo, seen = [nodes[0]], set()
    while todo:
        node = todo.pop()
        if id(node) not in seen:
            seen.add(id(node))
            todo += [made[n] for n in node.inputs if n in made]
    return frozenset(p.value for p in parameters(graph) if id(p.node) in seen)
