"""Steps that hold programs: what the plans of bodies are made of, and how their programs become a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.graph.bodies import body_of, free, own_inputs
from nbconv.plan.call import Body, CallStep
from nbconv.plan.host import Binding
from nbconv.plan.program import Program
from nbconv.plan.repeat import Carried, RepeatStep, Scanned

if TYPE_CHECKING:
    from nbconv.ops.control import Turns

Place = Callable[[str, Spec], Binding]
"""Where a step has the scratch memory of this name (see `scratches`)."""


class Part(NamedTuple):
    """What a body's plan is made of."""

    graph: Graph
    inputs: dict[str, Spec]
    fetch: tuple[str, ...]


def holds(node: Node, given: tuple[Spec | None, ...]) -> bool:
    """Whether a step can hold the programs of the node's bodies, for inputs of these Specs."""
    return node.op.control == "if" or (node.op.control == "repeat" and node.op.turns(given) is not None)  # type: ignore[attr-defined]


def parts(node: Node, specs: Mapping[str, Spec], constants: Mapping[str, Any]) -> dict[str, Part]:
    """What the plans of the node's bodies are made of, by attribute."""
    found = {}
    for which in node.op.bodies():
        body = body_of(node, which)
        known = {**body.constants, **{n: constants[n] for n in free(body) if n in constants}}
        read = {n: specs[n] for n in free(body) if n not in known}
        inputs = {n: Spec(s.shape, s.dtype, quantisation=s.quantisation) for n, s in read.items()}
        made = [*body.outputs]
        if node.op.control == "if":
            fetch = tuple(n for n, outer in zip(made, node.outputs, strict=False) if outer)
        else:
            turns = _turns(node, specs)
            for name, spec in zip(body.inputs, turns.given, strict=True):
                if spec.value is None:
                    inputs[name] = spec
                else:
                    known[name] = spec.value
            fetch = tuple(made[i] for i in _fetched(node, turns))
        found[which] = Part(Graph(body.nodes, inputs, body.outputs, known, body.name), inputs, fetch)
    return found


def scratches(node: Node, specs: Mapping[str, Spec], arena: int) -> dict[str, int]:
    """Scratch memory of the node's step by name, in bytes: the bodies' arena, of so many, and what turns need."""
    sizes = {"scratch": max(1, arena)}
    if node.op.control == "repeat":
        sizes |= {name: max(1, spec.nbytes) for name, spec in _own(node, _turns(node, specs)).items()}
    return sizes


def held(
    node: Node,
    specs: Mapping[str, Spec],
    programs: Mapping[str, tuple[Program, dict[str, Spec]]],
    arena: Binding,
    bind: Callable[[str], Binding],
    place: Place,
) -> CallStep | RepeatStep:
    """The node's step: ``programs`` are those of its bodies with their inputs, ``bind`` says where outer values lie."""
    if node.op.control == "if":
        outputs = [bind(n) for n in node.outputs if n]
        bodies = [Body(program, {n: bind(n) for n in inputs}, outputs) for program, inputs in programs.values()]
        return CallStep(node.op.control, bodies, [bind(n) for n in own_inputs(node)], arena)
    turns, own = _turns(node, specs), own_inputs(node)
    ((which, (program, inputs)),) = programs.items()
    names = [*body_of(node, which).inputs]
    scratch, results = _own(node, turns), {i: k for k, i in enumerate(_fetched(node, turns))}
    head = 1 if turns.looped else 0
    first_in, first_out = 2 * head, head
    slices_in, rows_out = first_in + turns.carried, first_out + turns.carried

    def mine(name: str) -> Binding | None:
        return place(name, scratch[name]) if name in scratch else None

    def sure(name: str) -> Binding:
        return place(name, scratch[name])

    around = {n: bind(n) for n in inputs if n not in names}
    carried = []
    for i in range(turns.carried):
        last = mine(f"last{i}") or bind(node.outputs[i])
        carried.append(
            Carried(names[first_in + i], results[first_out + i], bind(own[first_in + i]), last, sure(f"other{i}"))
        )
    scanned = []
    for i, (axis, back) in enumerate(turns.reads):
        scanned.append(Scanned(names[slices_in + i], bind(own[slices_in + i]), axis, bool(back), mine(f"read{i}")))
    for i, (axis, back) in enumerate(turns.writes):
        if rows_out + i in results:
            whole = bind(node.outputs[turns.carried + i])
            scanned.append(Scanned(results[rows_out + i], whole, axis, bool(back), mine(f"written{i}")))
    if not turns.looped:
        return RepeatStep(program, around, arena, carried, scanned, turns.number)
    most, start = (bind(n) if n else None for n in (*own, "", "")[:2])
    number = (names[0], sure("number"))
    again = (results[0], sure("again")) if _asks(turns) else None
    return RepeatStep(program, around, arena, carried, scanned, turns.number, most, start, number, again)


def _turns(node: Node, specs: Mapping[str, Spec]) -> Turns:
    turns = node.op.turns(tuple(specs[n] if n else None for n in node.inputs))  # type: ignore[attr-defined]
    assert turns is not None
    return turns


def _fetched(node: Node, turns: Turns) -> list[int]:
    """The body's outputs that a turn makes: a condition that is asked, what is carried, and what is wanted of the rest."""
    head = 1 if turns.looped else 0
    asked = [0] if _asks(turns) else []
    rest = [head + i for i, name in enumerate(node.outputs) if name and i >= turns.carried]
    return [*asked, *range(head, head + turns.carried), *rest]


def _own(node: Node, turns: Turns) -> dict[str, Spec]:
    """What turns need scratch memory for."""
    head = 1 if turns.looped else 0
    own = {f"other{i}": turns.made[head + i] for i in range(turns.carried)}
    own |= {f"last{i}": turns.made[head + i] for i in range(turns.carried) if not (*node.outputs, *[""] * turns.carried)[i]}
    first = len(turns.given) - len(turns.reads)
    own |= {f"read{i}": turns.given[first + i] for i, (axis, _) in enumerate(turns.reads) if axis}
    first = head + turns.carried
    own |= {f"written{i}": turns.made[first + i] for i, (axis, _) in enumerate(turns.writes) if axis}
    if turns.looped:
        own["number"] = turns.given[0]
    if _asks(turns):
        own["again"] = Spec(turns.made[0].shape, np.dtype(np.bool_))
    return own


def _asks(turns: Turns) -> bool:
    """Whether a condition of the body says when the turns end."""
    always = turns.looped and turns.made[0].value is not None and bool(turns.made[0].value.reshape(()))
    return turns.looped and turns.number is None and not always
