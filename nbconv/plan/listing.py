"""A plan as text, a line a step: what ``print(plan)`` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nbconv.base.text import aligned, count, dims, filled, plural, size
from nbconv.graph import CHANNELS_LAST
from nbconv.graph.listing import WIDTH, described, ports

if TYPE_CHECKING:
    from nbconv.graph import Graph, Layout, Node, Spec
    from nbconv.kernels.target import Target
    from nbconv.lowering.context import Step

HEAD = ("#", "OP", "IMPLEMENTATION", "KERNEL", "INPUTS", "WEIGHTS", "OUTPUT", "LAYOUT", "BYTES", "NODE")
AXES = {3: ("NCW", "NWC"), 4: ("NCHW", "NHWC"), 5: ("NCDHW", "NDHWC")}
"""How values lie, by rank: as ONNX has them, and channels last."""


class Listed(Protocol):
    """What is shown of a `Plan`, which stands above this module."""

    target: Target
    graph: Graph
    inputs: dict[str, Spec]
    fetch: tuple[str, ...]
    specs: dict[str, Spec]
    constants: dict[str, Any]
    steps: list[Step]
    arrays: dict[str, np.ndarray]

    @property
    def arena(self) -> int: ...
    @property
    def bodies(self) -> Mapping[Node, Mapping[str, Listed]]: ...
    def layout(self, name: str) -> Layout: ...
    def numpy_steps(self) -> list[Node]: ...


def listing(plan: Listed, width: int = WIDTH) -> str:
    """Steps in order: the op with what was fused into it; the row of an implementation list, where there was one to choose
    from; the kernel; the shapes of what it reads and makes, how the result lies, and its bytes. Of constants, those of rank
    2 and more are shown. Where a node takes several steps, the first shows what it reads, and the last its result. Steps of
    bodies stand behind the step that runs them, as 3.0, 3.1. The last line sums up."""
    lines = ports("input ", [f"{name}: {described(spec)}" for name, spec in plan.inputs.items()])
    head, rows, kept = filled(HEAD, _rows(plan))
    lines += aligned(head, rows, [k for k, i in enumerate(kept) if HEAD[i] in ("#", "BYTES")], width, [len(kept) - 1])
    lines += ports("output", [f"{name}: {described(plan.specs[name])}" for name in plan.fetch])
    return "\n".join([*lines, totals(plan)])


def totals(plan: Listed) -> str:
    """One line: steps, operations, memory."""
    plans = _whole(plan)
    numpy = len(plan.numpy_steps())
    steps = plural(sum(len(p.steps) for p in plans), "step") + (f" ({numpy} in NumPy)" if numpy else "")
    made = [(p, n) for p in plans for n in dict.fromkeys(n for step in p.steps for n in step.node.outputs if n)]
    values, constants = sum(p.specs[n].nbytes for p, n in made), sum(a.nbytes for p in plans for a in p.arrays.values())
    memory = f"values of {size(values)} in {size(plan.arena)} of memory, {size(constants)} of constants"
    return f"{plan.target.name}: {steps}, {count(flops(plan))} FLOPs, {memory}"


def flops(plan: Listed) -> int:
    """Floating-point operations of all nodes that steps do."""
    done = {n for step in plan.steps for n in step.node.outputs if n}
    nodes = [node for node in plan.graph.nodes if done & set(node.outputs) and not node.op.moves]
    given = {id(node): tuple(plan.specs[n] if n else None for n in node.inputs) for node in nodes}
    return sum(int(n.op.flops(given[id(n)], tuple(plan.specs[o] for o in n.outputs if o))) for n in nodes)


def _whole(plan: Listed) -> list[Listed]:
    """The plan and those of bodies in it."""
    inner = [body for bodies in plan.bodies.values() for body in bodies.values()]
    return [plan, *(p for body in inner for p in _whole(body))]


def kernel(step: Step) -> str:
    """What does a step: its kernel, or NumPy."""
    family, _, name = step.kernel.partition(".")
    return "numpy" if not step.kernel else name if name == family else step.kernel


def layout(spec: Spec, lies: Layout) -> str:
    """How a value lies: "NHWC"; "" where its rank leaves no choice."""
    axes = AXES.get(spec.rank)
    return axes[lies is CHANNELS_LAST] if axes else ""


def _rows(plan: Listed, within: str = "", indent: str = "") -> list[list[str]]:
    makers, keys = plan.graph.producers(), [next(filter(None, step.node.outputs)) for step in plan.steps]
    last = {key: i for i, key in enumerate(keys)}
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    rows = []
    for i, (key, step) in enumerate(zip(keys, plan.steps, strict=True)):
        node = makers.get(key, step.node)
        row = _row(plan, node, step, first[key] == i, last[key] == i)
        rows.append([f"{within}{i}", indent + node.op.label, *row, node.name])
        for which, body in plan.bodies.get(step.node, {}).items():
            rows.append(["", f"{indent}  {which}:", *[""] * (len(HEAD) - 2)])
            rows += _rows(body, f"{within}{i}.", f"{indent}    ")
    return rows


def _row(plan: Listed, node: Node, step: Step, first: bool, last: bool) -> list[str]:
    """What does a step, and what it reads and makes."""
    given = [(n, plan.specs[n]) for n in node.inputs if n]
    reads = ", ".join(described(spec) for n, spec in given if n not in plan.constants)
    weights = ", ".join(dims(spec.shape) for n, spec in given if n in plan.constants and spec.rank > 1)
    names = [n for n in node.outputs if n]
    outs = [plan.specs[n] for n in names]
    lies = layout(outs[0], plan.layout(names[0]))
    made = [", ".join(map(described, outs)), lies, size(sum(spec.nbytes for spec in outs))] if last else ["", "", ""]
    return [
        step.impl.name if step.impl.candidates else "",
        "programs" if step.node in plan.bodies else kernel(step),
        *([reads, weights] if first else ["", ""]),
        *made,
    ]
