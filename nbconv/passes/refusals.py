"""What ops refuse, found when a model is read: each node's `infer` sees the types and shapes that the model declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbconv.errors import UnsupportedError
from nbconv.graph import OBJECT, Graph, Node, Spec
from nbconv.graph.bodies import SMALL, with_values
from nbconv.graph.spec import spec_of
from nbconv.passes.fold import live

TRIAL = 256
"""The size taken for a dimension that is not known; 1 for the first, the batch."""
Told = Callable[[str], "Spec | None"]
"""What else is known of a value."""


def trial(shape: tuple[Any, ...], dtype: np.dtype) -> Spec:
    """A Spec with sizes for the dimensions that have none."""
    return Spec(tuple(d if isinstance(d, int) else 1 if i == 0 else TRIAL for i, d in enumerate(shape)), dtype)


def refusals(graph: Graph, told: Told = lambda name: None) -> list[tuple[str, str, str]]:
    """(node, operator, what) for each node, those of bodies too, whose op refuses it for its attributes, or for the types or
    values of its inputs, as far as these are known before a run. ``told`` is asked for values that nodes do not tell."""
    found: list[tuple[str, str, str]] = []
    inputs = {name: trial(spec.shape, spec.dtype) for name, spec in graph.inputs.items() if spec.ranked and not spec.type}
    _walk(graph, inputs, told, found)
    return list(dict.fromkeys(found))


def _walk(graph: Graph, around: dict[str, Spec], told: Told, found: list[tuple[str, str, str]]) -> None:
    specs = {**around, **{name: spec_of(value) for name, value in graph.constants.items()}}
    for node in live(graph):
        given = tuple(specs.get(n) or told(n) if n else None for n in node.inputs)
        if node.op.bodies():
            _bodies(node, given, specs, told, found)
        elif all(
            spec.dtype != OBJECT if spec is not None else not name for spec, name in zip(given, node.inputs, strict=True)
        ):
            try:
                specs.update(_made(node, given))
            except UnsupportedError as error:
                found.append((node.name, node.op.type, str(error)))
            except (ValueError, IndexError, OverflowError, TypeError, ArithmeticError):
                continue  # of the trial's sizes, mostly; a plan tells what is wrong


def _made(node: Node, given: tuple[Spec | None, ...]) -> dict[str, Spec]:
    """The Specs of a node's outputs, with the values of small ones that constants decide."""
    made = node.op.infer(*given)
    made = (made,) if isinstance(made, Spec) else tuple(made)
    small = all(s is None or s.value is None or s.nbytes <= SMALL for s in given)
    made = with_values(node, given, made, SMALL if small else -1)
    return {name: spec for name, spec in zip(node.outputs, made, strict=False) if name}


def _bodies(
    node: Node, given: tuple[Spec | None, ...], specs: dict[str, Spec], told: Told, found: list[tuple[str, str, str]]
) -> None:
    taken = node.op.inlined(given) if all(spec is not None for spec in given) else ""
    for which, body in node.op.bodies().items():
        if taken in ("", which):
            own = {
                name: trial(s.shape, s.dtype)
                for name, s in body.inputs.items()
                if s.ranked and not s.type and (s.shape or s.dtype != np.float32)
            }
            outside = {name: spec for name, spec in specs.items() if name not in body.inputs}
            _walk(body, {**outside, **own}, told, found)
