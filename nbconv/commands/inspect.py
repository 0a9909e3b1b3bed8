"""Show what a model is made of: each node with its output, parameters, FLOPs and memory, and the totals.

A FLOP is one addition or multiplication. MEMORY is the bytes of a node's outputs. Parameters are the elements of the
constant float arrays that a node reads."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from nbconv.commands import _model
from nbconv.commands._text import clip, coloured, count, dims, dump, line_width, plural, size, style, table

if TYPE_CHECKING:
    from nbconv.graph import Graph, Node, Spec
    from nbconv.plan.plan import Plan

STAGES = ("authored", "optimised", "plan")
FUSED = "fused into "
"""How provenance says that another value's step makes this one on its way."""


CONSTANT = "a constant"
"""How it says that a value does not depend on the inputs."""


def add(parser: argparse.ArgumentParser) -> None:
    _model.add_model(parser)
    _model.add_shape(parser)
    _model.add_value(parser)
    parser.add_argument(
        "--stage",
        choices=STAGES,
        default=STAGES[0],
        help="the model as it was authored (default), its graph after all passes, or the plan: what runs, step by step",
    )
    parser.add_argument("--all", action="store_true", help="also list nodes that compute constants")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.epilog = f"""{_model.SHAPES}

examples:
  nbconv inspect model.onnx
  nbconv inspect detector.onnx --shape 1,3,480,640 --stage plan
  nbconv inspect model.onnx --json | jq .totals"""


def run(args: argparse.Namespace) -> int:
    graph = _model.open_graph(args.model)
    shapes, notes = _model.input_shapes(graph, args.shape)
    specs = authored_specs(graph, shapes, notes, _model.given_values(graph, args.value))
    rows = describe(graph, specs)
    plan = None
    if args.stage != "authored":
        from nbconv.model import Model

        plan = _model.whole_plan(Model(graph), args.model, shapes)
    if args.json:
        dump(as_json(args.model, graph, specs, rows, plan, args.stage, notes))
        return 0
    _print_head(args.model, graph, shapes, notes)
    if plan is None:
        _print_nodes(rows, args.all)
        _print_totals(graph, specs, rows)
        return 0
    *table, last = (_optimised(plan) if args.stage == "optimised" else _steps_of(plan)).splitlines()
    print("\n".join(table))
    print(style(last, "bold"))
    gone = fates(graph, plan) if args.stage == "plan" else plan.graph.provenance
    _print_fates({name: gone[name] for name in graph.values() if name in gone})
    return 0


def authored_specs(
    graph: Graph, shapes: dict[str, tuple[int, ...]], notes: list[str], values: dict[str, float]
) -> dict[str, Spec]:
    """The Spec of every value of the graph as it was authored, those that values decide as a run on `plain_feeds` has them.
    ModelError where shapes do not fit."""
    from nbconv.errors import DataDependentError, ModelError
    from nbconv.graph import Spec
    from nbconv.lowering.weights import Weights
    from nbconv.passes.fold import fold

    inputs = {name: Spec(shape, graph.inputs[name].dtype) for name, shape in shapes.items()}
    try:
        _, specs, _ = fold(graph, inputs, Weights(), frozenset(graph.values()))
    except DataDependentError:
        hint = "--value NAME=NUMBER says what an input is"
        notes.append(f"values decide shapes: these are shapes of a run on {_model.PLAIN} ({hint})")
        return _specs_of_a_run(graph, inputs, values)
    except ModelError as error:
        raise type(error)("; ".join([str(error), *notes])) from None
    return specs


def _specs_of_a_run(graph: Graph, inputs: dict[str, Spec], values: dict[str, float]) -> dict[str, Spec]:
    import numpy as np

    from nbconv.errors import ModelError
    from nbconv.graph import Spec
    from nbconv.graph.spec import spec_of
    from nbconv.model import Model

    first = None
    for feeds in _model.plain_feeds(graph, {n: tuple(map(int, s.shape)) for n, s in inputs.items()}, values):
        try:
            made = Model(graph).run(feeds, list(graph.values()))
        except ModelError as error:
            first = first or error
            continue
        known = {**inputs, **{name: spec_of(value) for name, value in graph.constants.items()}}
        return {**known, **{n: Spec(np.shape(y), getattr(y, "dtype", np.dtype(object))) for n, y in made.items()}}
    why = f"values decide shapes, and a run on {_model.PLAIN} ends early: {first}"
    raise ModelError(f"{why} (--value NAME=NUMBER says what an input is)")


def describe(graph: Graph, specs: dict[str, Spec]) -> list[dict[str, Any]]:
    """A row for each node. A constant that several nodes read counts where it is read first."""
    counted: set[str] = set()
    rows = []
    for node in graph.nodes:
        given = tuple(specs[n] if n else None for n in node.inputs)
        outs = [specs[n] for n in node.outputs if n]
        constant = all(spec.constant for spec in outs)
        own = [] if constant else [n for n in _parameters(node, specs) if n not in counted]
        counted.update(own)
        rows.append(
            {
                "name": node.name,
                "op": node.op.type,
                "attributes": {k: _plain(v) for k, v in node.op.attributes().items()},
                "inputs": list(node.inputs),
                "outputs": [{"name": n, **spec_json(specs[n])} for n in node.outputs if n],
                "parameters": sum(specs[n].size for n in own),
                "flops": 0 if constant or node.op.moves else int(node.op.flops(given, tuple(outs))),
                "memory": sum(spec.nbytes for spec in outs),
                "constant": constant,
            }
        )
    return rows


def _parameters(node: Node, specs: dict[str, Spec]) -> list[str]:
    from nbconv.graph.dtypes import kind_of

    given = [(n, specs[n]) for i, n in enumerate(node.inputs) if n and i not in node.op.settings]
    return [n for n, spec in given if spec.constant and kind_of(spec.dtype) == "f" and spec.size > 1]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return f"{value.dtype} array {list(value.shape)}"
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no infinity


def spec_json(spec: Spec) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": list(spec.shape), "dtype": spec.dtype.name}
    return {**found, "quantisation": spec.quantisation._asdict()} if spec.quantisation else found


def totals(graph: Graph, specs: dict[str, Spec], rows: list[dict[str, Any]]) -> dict[str, int]:
    """Sums over nodes; ``weights`` are the bytes of the constants as the file stores them."""
    return {
        "nodes": len(rows),
        "constant_nodes": sum(r["constant"] for r in rows),
        "parameters": sum(r["parameters"] for r in rows),
        "flops": sum(r["flops"] for r in rows),
        "memory": sum(r["memory"] for r in rows if not r["constant"]),
        "weights": sum(a.nbytes for a in graph.constants.values()),
    }


def as_json(
    path: str, graph: Graph, specs: dict[str, Spec], rows: list[dict], plan: Plan | None, stage: str, notes: list[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": path,
        "name": graph.name,
        "metadata": graph.metadata,
        "inputs": [{"name": n, "declared": list(s.shape), **spec_json(specs[n])} for n, s in graph.inputs.items()],
        "outputs": [
            {"name": n, "declared": list(s.shape) if s else None, **spec_json(specs[n])} for n, s in graph.outputs.items()
        ],
        "nodes": rows,
        "totals": totals(graph, specs, rows),
        "notes": notes,
    }
    if plan is not None and stage == "optimised":
        found["optimised"] = {
            "nodes": [_node_json(node, plan) for node in plan.graph.nodes],
            "values": plan.graph.provenance,
        }
    elif plan is not None:
        found["plan"] = {
            "target": plan.target.name,
            "arena": plan.arena,
            "steps": _steps(graph, plan),
            "values": fates(graph, plan),
        }
    return found


def _node_json(node: Node, plan: Plan) -> dict[str, Any]:
    op = getattr(node.op, "inner", node.op)
    outputs = [
        {"name": n, **spec_json(plan.specs[n]), "channels_last": plan.layout(n) == "channels_last"}
        for n in node.outputs
        if n
    ]
    attributes = {k: _plain(v) for k, v in op.attributes().items()}
    return {
        "name": node.name,
        "op": node.op.label,
        "attributes": attributes,
        "inputs": list(node.inputs),
        "outputs": outputs,
    }


def _steps(graph: Graph, plan: Plan) -> list[dict[str, Any]]:
    """The plan's steps; ``ops`` are those of the model that a step does, the first its kernel's own."""
    makers = graph.producers()
    done: dict[str, list[str]] = {}
    for name in graph.values():
        done.setdefault(_settled(name, plan), []).append(makers[name].op.type)
    found = []
    for i, step in enumerate(plan.steps):
        name = step.node.outputs[0]
        own = name.removesuffix("#last")
        found.append(
            {
                "step": i,
                "value": name,
                "node": step.node.name or name,
                "ops": [step.node.op.type] if step.node.op.type == "Reorder" else done.get(own, [step.node.op.type]),
                "implementation": step.impl.name if step.impl.candidates else None,
                "kernel": step.kernel or ("programs" if step.node.op.control else "numpy"),
                "units": step.units,
                **spec_json(plan.specs[name]),
                "bytes": plan.specs[name].nbytes,
                "offset": plan.offsets.get(plan.root(name)),
                "channels_last": plan.layout(name) == "channels_last",
            }
        )
    return found


def _settled(name: str, plan: Plan) -> str:
    """The value whose step makes this one: itself, or what it was fused into."""
    for _ in range(len(plan.graph.provenance)):
        fate = plan.graph.provenance.get(name, "")
        if not fate.startswith(FUSED):
            break
        name = fate.removeprefix(FUSED)
    return name


def fates(graph: Graph, plan: Plan) -> dict[str, str]:
    """Where each value that the model's nodes make went."""
    made: dict[str, list[int]] = {}
    for i, step in enumerate(plan.steps):
        for name in step.node.outputs:
            made.setdefault(name.removesuffix("#last"), []).append(i)
    found = {}
    for name in graph.values():
        steps = made.get(name)
        if steps:
            found[name] = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
        elif name in plan.graph.provenance:
            found[name] = plan.graph.provenance[name]
            steps = made.get(_settled(name, plan))
            if steps and found[name].startswith(FUSED):
                found[name] = f"step {steps[-1]}, {found[name]}"
        elif plan.root(name) != name:
            found[name] = f"{plan.root(name)} under another shape"
        else:
            found[name] = "not needed"
    return found


def _print_head(path: str, graph: Graph, shapes: dict[str, tuple[int, ...]], notes: list[str]) -> None:
    print(style(clip(f"{path}: {graph.name}"), "bold"))
    for name, spec in graph.inputs.items():
        fixed = all(isinstance(d, int) for d in spec.shape)
        taken = "" if fixed else f", here {dims(shapes[name])}"
        print(clip(f"input   {name}: {spec.dtype.name} {dims(spec.shape)}{taken}"))
    for name, spec in graph.outputs.items():
        print(clip(f"output  {name}: {spec.dtype.name} {dims(spec.shape)}" if spec else f"output  {name}"))
    for key, value in graph.metadata.items():
        print(style(clip(f"{key}: {value}"), "dim"))
    for note in notes:
        print(style(f"note: {note}", "yellow"))
    print()


def _print_nodes(rows: list[dict[str, Any]], everything: bool) -> None:
    from nbconv.graph import Quantisation

    shown = [r for r in rows if everything or not r["constant"]]
    cells = []
    for r in shown:
        outs = r["outputs"]
        text = dims(outs[0]["shape"]) + (f" and {len(outs) - 1} more" if len(outs) > 1 else "") if outs else "-"
        if outs and outs[0]["dtype"] != "float32":
            text += f" {outs[0]['dtype']}"
        if outs and "quantisation" in outs[0]:
            text += f" [{Quantisation(**outs[0]['quantisation'])}]"
        op = r["op"] + (" (constant)" if r["constant"] else "")
        figures = (count(r["parameters"]) if r["parameters"] else "", count(r["flops"]) if r["flops"] else "")
        cells.append((r["name"], op, text, *figures, size(r["memory"])))
    table(("NODE", "OP", "OUTPUT", "PARAMETERS", "FLOPS", "MEMORY"), cells, right=(3, 4, 5))
    if len(shown) < len(rows):
        print(style(f"{plural(len(rows) - len(shown), 'node')} more compute constants (--all lists them)", "dim"))


def _print_totals(graph: Graph, specs: dict[str, Spec], rows: list[dict[str, Any]]) -> None:
    t = totals(graph, specs, rows)
    print()
    sums = f"{count(t['parameters'])} parameters in {size(t['weights'])}, {count(t['flops'])} FLOPs"
    print(style(f"{plural(t['nodes'], 'node')}, {sums}, {size(t['memory'])} in all values", "bold"))


def _optimised(plan: Plan) -> str:
    from nbconv.graph.listing import listing
    from nbconv.plan.listing import layout

    layouts = {name: layout(spec, plan.layout(name)) for name, spec in plan.specs.items()}
    return listing(plan.graph, plan.specs, layouts, _width())


def _steps_of(plan: Plan) -> str:
    from nbconv.plan.listing import listing

    return listing(plan, _width())


def _width() -> int:
    """A listing's: a terminal's, else as wide as ``print`` makes it."""
    from nbconv.graph.listing import WIDTH

    return line_width() if coloured() else WIDTH


def _print_fates(found: dict[str, str]) -> None:
    """Where the model's values are that nothing makes alone; constants are only counted."""
    gone = {name: fate for name, fate in found.items() if FUSED in fate or not fate.startswith("step")}
    constants = [name for name, fate in gone.items() if fate == CONSTANT]
    if gone:
        print()
        told = f", {len(constants)} of them constants" if constants else ""
        print(style(f"{plural(len(gone), 'value')} of the model that nothing makes alone{told}", "bold"))
    if len(constants) < len(gone):
        table(("VALUE", "WHERE IT WENT"), [(name, fate) for name, fate in gone.items() if fate != CONSTANT])
