"""What of a model can be trained, without a step: what a `Trainer` would say, and which parameters get a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nbconv.edit.parameters import Constant, Parameter, constants_of, master, norms, stored
from nbconv.edit.selection import integer_nodes
from nbconv.errors import DataDependentError
from nbconv.graph import FLOAT32, Graph, Spec
from nbconv.passes.autodiff import MissingGradients, backprop
from nbconv.train.forward import computed, opened
from nbconv.train.optimizers import SGD
from nbconv.train.recipe import Recipe


class Trainable(NamedTuple):
    """What can be trained."""

    trains: tuple[Parameter, ...]
    others: tuple[Constant, ...]
    """other initializers of floats, and why"""
    missing: tuple[tuple[str, str, str], ...]
    """(node, op, why) of nodes on the way from an output to a parameter that have no gradient"""
    refused: str
    """why a `Trainer` of all parameters does not train; "" where it does"""


def trainable(graph: Graph, feeds: Mapping[str, Spec]) -> Trainable:
    """What can be trained for inputs of these Specs, whose sizes are all known, by a loss of all outputs of floats.
    ModelError for shapes that do not fit."""
    constants = constants_of(graph)
    chosen = tuple(c.parameter for c in constants if not c.why)
    others = [c for c in constants if c.why]
    if told := integer_nodes(graph):
        return Trainable((), tuple(constants), (), told)
    if not chosen:
        return Trainable((), tuple(others), (), "it has no parameters")
    source = opened(graph, Recipe(graph, tuple(graph.outputs), _no_loss, SGD(), chosen, {}, 0))
    made = graph.producers()
    held = {p.value: Spec(master(p, graph).shape, FLOAT32) for p in chosen}
    for node in norms(graph, chosen):
        for name in node.inputs[3:5]:
            origin = stored(name, graph, made)
            assert origin is not None
            held[origin[1]] = Spec(master(Parameter(*origin, node, 0), graph).shape, FLOAT32)
    source.inputs = {**feeds, **held}
    try:
        derived, specs = computed(source)
    except DataDependentError as error:
        return Trainable((), tuple(others), (), f"shapes depend on values: {error}")
    ends = [name for name in derived.outputs if specs[name].dtype.kind == "f"]
    slopes = {f"d/{name}": Spec(specs[name].shape, specs[name].dtype) for name in ends}
    whole = Graph(derived.nodes, {**derived.inputs, **slopes}, dict.fromkeys(ends), derived.constants)
    names = [p.value for p in chosen]
    try:
        _, _, found = backprop(whole, {**specs, **slopes}, {name: f"d/{name}" for name in ends}, names)
    except MissingGradients as error:
        return Trainable(chosen, tuple(others), tuple(error.nodes), "some of its operators have no gradient")
    trains = tuple(p for p in chosen if p.value in found)
    others += [Constant(p, "its gradient is 0", True) for p in chosen if p.value not in found]
    return Trainable(trains, tuple(others), (), "" if trains else "no parameter gets a gradient")


def _no_loss(to: object, values: Mapping[str, str]) -> str:
    raise AssertionError("nothing is trained")
