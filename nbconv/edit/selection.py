"""Which of a model's parameters a user means to train, or to keep as they are."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from nbconv.edit.detector import MOVES, PREFIX, SCORES
from nbconv.edit.head import find_head
from nbconv.edit.kinds import biases, scales_of_norms
from nbconv.edit.parameters import Constant, Parameter, constants_of, parameters
from nbconv.edit.uses import computes_integers
from nbconv.graph import Graph

KINDS = {"bias": biases, "norm": scales_of_norms}
NONE = {
    "bias": "beside its head the model adds no parameter to channels: no layer has a bias; trainable='head' is the same",
    "norm": "the model has no normalisation with a scale or an offset (exporters fold them into convolutions): "
    "trainable='bias' trains the biases that folding leaves",
}
QDQ = "train the model in QDQ form, with QuantizeLinear and DequantizeLinear around operators on floats"


def select(
    graph: Graph, trainable: str | Iterable[str], frozen: frozenset[str] = frozenset(), output: str = ""
) -> list[Parameter]:
    """The parameters that ``trainable`` names: "all", "head" (those of the classifier), "last:k" (of the last k layers),
    "bias" (what is added to channels, and the head: BitFit, Zaken 2021, and TinyTL, Cai 2020), "norm" (scales and offsets
    of normalisations, and the head), or globs over names of parameters and of nodes; a glob that fits none of these means
    initializers of floats that are otherwise none (see `nbconv.edit.parameters.constants_of`). ``frozen`` names parameters
    to leave alone. ValueError where nothing is left, the model has none of a kind, a glob fits nothing, or what it fits
    computes with integers or has no gradient."""
    constants = constants_of(graph)
    known = [found.parameter for found in constants if not found.why]
    if trainable == "all":
        if told := integer_nodes(graph):
            raise ValueError(f"trainable 'all': {told}")
        chosen = known
    elif trainable == "head":
        chosen = _of_head(graph, known, output)
    elif isinstance(trainable, str) and trainable in KINDS:
        chosen = _of_kind(graph, known, trainable, output)
    elif isinstance(trainable, str) and trainable.startswith("last:"):
        count = _count(trainable)
        chosen = [p for p in known if p.depth < count]
    else:
        globs = [trainable] if isinstance(trainable, str) else list(trainable)
        chosen = []
        for glob in globs:
            fits = [p for p in known if fnmatchcase(p.name, glob) or fnmatchcase(p.node.name, glob)]
            chosen += fits or _others(glob, constants)
        chosen = [c.parameter for c in constants if c.parameter in chosen]
    chosen = [p for p in chosen if p.value not in frozen and p.name not in frozen]
    if not chosen:
        integers = f"; {told}" if (told := integer_nodes(graph)) else ""
        counts = f"{len(known)} parameters, {len(frozen)} frozen"
        raise ValueError(f"trainable {trainable!r} leaves nothing to train: {counts}{integers}")
    return chosen


def _of_head(graph: Graph, known: list[Parameter], output: str) -> list[Parameter]:
    if output in (MOVES, SCORES):
        return [p for p in known if p.name.startswith(PREFIX)]
    head = find_head(graph, output)
    names = {name for name in (head.weight, head.bias) if name}
    return [p for p in known if p.value in names or p.name in names]


def _of_kind(graph: Graph, known: list[Parameter], kind: str, output: str) -> list[Parameter]:
    """Parameters of a kind, and of the head, where the model has one. ValueError where there are no others."""
    try:
        head = _of_head(graph, known, output)
    except ValueError:
        head = []
    mine = KINDS[kind](graph, known)
    if all(p in head for p in mine):
        raise ValueError(f"trainable {kind!r}: {NONE[kind]}")
    return [p for p in known if p in mine or p in head]


def _others(glob: str, constants: list[Constant]) -> list[Parameter]:
    """Initializers that train only where their name is given."""
    fits = [c for c in constants if fnmatchcase(c.parameter.name, glob)]
    if not fits:
        some = ", ".join(c.parameter.name for c in [c for c in constants if not c.why][-3:])
        raise ValueError(f"trainable {glob!r} fits no parameter; the last are {some}")
    able = [c.parameter for c in fits if c.able]
    if not able:
        raise ValueError(f"trainable {glob!r}: {fits[0].parameter.name} cannot train: {fits[0].why}")
    return able


def integer_nodes(graph: Graph) -> str:
    """A sentence about the operators that compute with integers, "" without such."""
    kinds = sorted({n.op.type for n in graph.nodes if computes_integers(n.op)})
    if not kinds:
        return ""
    return f"{', '.join(kinds)} compute with integers and have no gradient: {QDQ}"


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
