"""A graph as text, a line a node: what ``print(graph)`` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nbconv.base.text import aligned, clip, dims, filled, plural, size

if TYPE_CHECKING:
    from nbconv.graph.node import Node
    from nbconv.graph.spec import Spec

WIDTH = 140
HEAD = ("#", "OP", "INPUTS", "OUTPUT", "LAYOUT", "ATTRIBUTES", "NODE")
MOST = 8
"""Lines that inputs take, and that outputs take."""
NEUTRAL = {"strides": 1, "dilations": 1, "pads": 0}
"""What an attribute is everywhere where it says nothing."""


class Listed(Protocol):
    """What is shown of a `Graph`, which stands above this module."""

    name: str
    nodes: list[Node]
    inputs: dict[str, Spec]
    outputs: dict[str, Spec | None]
    constants: dict[str, np.ndarray]


def listing(
    graph: Listed, specs: Mapping[str, Spec] | None = None, layouts: Mapping[str, str] | None = None, width: int = WIDTH
) -> str:
    """Inputs, nodes, outputs, sums. %3 is what node 3 makes, %3:1 its second output, %3.0 what the first node of its body
    makes. A constant stands as its shape, or as its value where that is short; what a node computes from constants alone
    stands where it is read. ``specs`` of values, and ``layouts`` of some, are shown where they are known."""
    known = {**graph.inputs, **{n: s for n, s in graph.outputs.items() if s is not None}, **(specs or {})}
    names: dict[str, str] = {}
    rows = _rows(graph, names, known, layouts or {})
    lines = ports("input ", [f"{name}: {described(known[name])}" for name in graph.inputs])
    head, rows, kept = filled(HEAD, rows)
    lines += aligned(
        head, rows, right=(0,), width=width, cuts=[k for k, i in enumerate(kept) if HEAD[i] in ("INPUTS", "NODE")]
    )
    told = {name: f": {described(known[name])}" if name in known else "" for name in graph.outputs}
    lines += ports("output", [f"{name} = {names.get(name, name)}{told[name]}" for name in graph.outputs])
    hidden = len(graph.nodes) - sum(row[0].startswith("%") and "." not in row[0] for row in rows)
    nodes = plural(len(graph.nodes), "node") + (f" ({hidden} of them compute constants)" if hidden else "")
    sizes = [_nbytes(value) for value in _constants(graph)]
    return "\n".join([*lines, f"{graph.name}: {nodes}, {plural(len(sizes), 'constant')} of {size(sum(sizes))}"])


def _rows(
    graph: Listed, names: dict[str, str], known: Mapping[str, Spec], layouts: Mapping[str, str], within="%", indent=""
) -> list[list[str]]:
    """A row a node, and those of its bodies behind it. ``names``: what values are called, which gets those of this graph."""
    names.update((name, _constant(value)) for name, value in graph.constants.items())
    rows = []
    for i, node in enumerate(graph.nodes):
        bodies = node.op.bodies()
        reads = ", ".join(names.get(n, n) if n else "-" for n in node.inputs)
        made = [n for n in node.outputs if n]
        if (
            node.inputs
            and not bodies
            and len(made) == 1
            and made[0] not in graph.outputs
            and _inlined(node.inputs, graph, names)
        ):
            names[made[0]] = reads if node.op.converts else clip(f"{node.op.label}({reads})", 40)
            continue
        names.update({n: f"{within}{i}:{k}" if k else f"{within}{i}" for k, n in enumerate(made)})
        shapes = ", ".join(described(known[n]) for n in made if n in known)
        lies = ", ".join(layouts[n] for n in made if layouts.get(n))
        attributes = getattr(node.op, "inner", node.op).attributes()
        told = _attributes({k: v for k, v in attributes.items() if k not in bodies})
        rows.append([f"{within}{i}", indent + node.op.label, reads, shapes, lies, told, node.name])
        for which, body in bodies.items():
            results: dict[str, str] = dict(names)
            inner = _rows(body, results, known, layouts, f"{within}{i}.", f"{indent}    ")
            ends: list[str] = list(body.outputs)
            gives = ", ".join(results.get(n, n) for n in ends)
            rows += [
                ["", f"{indent}  {which}:", *[""] * (len(HEAD) - 2)],
                *inner,
                ["", f"{indent}    gives", gives, *[""] * 4],
            ]
    return rows


def ports(what: str, texts: list[str]) -> list[str]:
    """A line for each input or output; of many, for the first ones."""
    shown = texts if len(texts) <= MOST else [*texts[: MOST - 1], f"and {len(texts) - MOST + 1} more"]
    return [f"{what}  {text}" for text in shown]


def described(spec: Spec) -> str:
    """1×3×224×224, with the element type where it is not float32, and what integers stand for where that is known."""
    shape = dims(spec.shape) if spec.dtype == np.float32 else f"{dims(spec.shape)} {spec.dtype.name}"
    return f"{shape} [{spec.quantisation}]" if spec.quantisation else shape


def _inlined(inputs: tuple[str, ...], graph: Listed, names: Mapping[str, str]) -> bool:
    """Whether only constants are read, or what was computed from them."""
    return all(not n or n in graph.constants or not names.get(n, "%").startswith("%") for n in inputs)


def _constant(value: Any) -> str:
    """A constant's one value, or few integers, or its shape."""
    if isinstance(value, np.ndarray) and value.size == 1:
        found = value.reshape(()).item()
        return f"{found:.6g}" if isinstance(found, float) else str(found)
    if isinstance(value, np.ndarray) and value.ndim == 1 and 0 < value.size <= 8 and value.dtype.kind in "iu":
        return str(value.tolist()).replace(" ", "")
    return f"[{dims(value.shape)}]"


def _constants(graph: Listed) -> list[Any]:
    """The constants that nodes read, and those of bodies."""
    used = {n for node in graph.nodes for n in node.inputs} | graph.outputs.keys()
    inner = [body for node in graph.nodes for body in node.op.bodies().values()]
    return [v for n, v in graph.constants.items() if n in used] + [v for body in inner for v in _constants(body)]


def _nbytes(value: Any) -> int:
    return int(np.prod(value.shape, dtype=np.int64)) * value.dtype.itemsize


def _attributes(attributes: Mapping[str, Any]) -> str:
    told = {k: v for k, v in attributes.items() if k not in NEUTRAL or set(v) != {NEUTRAL[k]}}
    return clip(" ".join(f"{name}={_plain(value)}" for name, value in told.items()), 52)


def _plain(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name}[{dims(value.shape)}]"
    if isinstance(value, tuple):
        return ",".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
