"""What `nbconv doctor` finds out about a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbconv.commands import _model

if TYPE_CHECKING:
    from nbconv.graph import Graph, Node, Spec
    from nbconv.kernels.target import Target
    from nbconv.model import Model
    from nbconv.plan.plan import Plan
    from nbconv.runtime.executor import Ready
    from nbconv.runtime.staged import Done


def examine(path: str, shapes: list[str], values: list[str], goal: Target | None = None) -> dict[str, Any]:
    """What is unsupported (``problems``), how many ``steps`` a run has, those that NumPy or onnx.reference does, those on
    kernels that are known to be slow, ``stages``: where planning waits for a value, ``unplanned``: why the steps are not
    known, ``copies``, for the target of a GPU: values and bytes that cross over, and ``training``: what trains, what does
    not and why, what has no gradient, and whether batch normalisation was folded away. ModelError for a file that is no
    valid model."""
    from nbconv.converters.onnx import survey
    from nbconv.errors import DataDependentError, ModelError
    from nbconv.kernels import KernelError

    try:
        problems = survey(path)
    except ModelError as error:
        raise type(error)(str(error) if path in str(error) else f"{path}: {error}") from None
    found: dict[str, Any] = {
        "problems": [p._asdict() for p in problems],
        "steps": None,
        "numpy_steps": [],
        "slow_steps": [],
        "stages": None,
        "unplanned": "",
        "training": None,
        "optional_inputs": [],
    }
    if problems:
        return found
    notes: list[str] = []
    try:
        model = _model.open_model(path)
    except (ValueError, KernelError) as error:
        found["unplanned"] = str(error)
        return found
    found["optional_inputs"] = [port.name for port in model.optional_inputs]
    _model.given_shapes(model.graph, shapes)  # what is no shape of the model's is the caller's error, not a finding
    given = _model.given_values(model.graph, values)
    try:
        sizes, notes = _model.input_shapes(model.graph, shapes)
        try:
            plans, alone = [model.plan(sizes, target=goal)], []
        except DataDependentError as error:
            if goal is not None:
                raise ModelError(f"{error}; planned while it runs, on a GPU too: see the report without --device") from None
            run = _in_stages(model, sizes, given)
            plans, alone = run.plans, list(run.alone.values())
            found["stages"] = {"plans": len(plans), "nodes": list(run.waits.values())}
    except (ValueError, KernelError, ArithmeticError, MemoryError) as error:
        found["unplanned"] = "; ".join([str(error), *notes])
        return found
    found["steps"] = sum(len(plan.steps) for plan in plans) + len(alone)
    found["numpy_steps"] = [_numpy(n, plan) for plan in plans for n in plan.numpy_steps()] + alone
    found["slow_steps"] = [s for plan in plans for s in _slow(plan)]
    if goal is not None:
        found["copies"] = _copies(plans[0])
    found["training"] = _training(model.graph, sizes if found["stages"] is None else None)
    return found


FEW = 256
"""Bytes of a step's inputs and outputs together that no kernel would do faster."""


def _numpy(node: Node, plan: Plan) -> dict[str, Any]:
    given, made = ([plan.specs[n] for n in names if n] for names in (node.inputs, node.outputs))
    return _step(node, given, made)


def _step(node: Node, given: list[Any], made: list[Any]) -> dict[str, Any]:
    """A step that no kernel does: what computes it and why, its outputs (Specs) and their bytes."""
    told = {"node": node.name, "op": node.op.type, "by": node.op.evaluator, "why": _why(node, given, made)}
    return {**told, "outputs": ", ".join(map(str, made)), "bytes": sum(spec.nbytes for spec in made)}


def _why(node: Node, given: list[Any], made: list[Any]) -> str:
    """Why no kernel does the step: what docs/onnx.md says under "What NumPy does"."""
    op = node.op
    if op.in_numpy:
        return op.in_numpy
    if sum(spec.nbytes for spec in (*given, *made)) <= FEW:
        return "a few numbers, which no kernel would make faster"
    if op.evaluator != "NumPy":
        return "nbconv has no code for it"
    return "no kernel yet"


def _slow(plan: Plan) -> list[dict[str, Any]]:
    found = [{"node": s.node.name, "op": s.node.op.label, "why": s.impl.slow} for s in plan.steps if s.impl.slow]
    return found + [row for body in plan._inner() for row in _slow(body)]


class _Watch:
    """What a run that is planned in stages does: its plans, bodies' among them, the steps that were done alone and by no
    kernel, and where planning waited."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.plans: list[Plan] = []
        self.alone: dict[tuple[str, ...], dict[str, Any]] = {}
        self.waits: dict[tuple[str, ...], dict[str, Any]] = {}

    def planned(
        self, graph: Graph, inputs: dict[str, Spec], fetch: tuple[str, ...], varying: frozenset[str], key: tuple
    ) -> Ready:
        from nbconv.plan.plan import Plan
        from nbconv.runtime.executor import Ready

        plan = Plan(graph, inputs, self.model.weights, fetch, self.model._target(), varying=varying)
        self.plans.append(plan)
        return Ready(self.model.bound(plan))

    def done(self, done: Done) -> None:
        from nbconv.errors import DataDependentError
        from nbconv.graph import Spec

        def spec(value: Any) -> Spec | None:
            return Spec(value.shape, value.dtype) if hasattr(value, "dtype") else None

        node = done.node
        if done.how == "numpy" and node.op.evaluator:
            arrays = ([spec(v) for v in values if spec(v)] for values in (done.given, done.made))
            self.alone.setdefault(node.outputs, _step(node, *arrays))
        try:
            node.op.infer(*map(spec, done.given))
            why = "one of its inputs is no tensor"
        except DataDependentError as error:
            why = str(error)
        except (ValueError, TypeError, AttributeError):
            why = "its inputs decide shapes"
        self.waits.setdefault(node.outputs, {"node": node.name, "op": node.op.label, "why": why})


def _in_stages(model: Model, sizes: dict[str, tuple[int, ...]], values: dict[str, float]) -> _Watch:
    """A run with the first of `_model.plain_feeds` that it takes. ModelError where it takes none."""
    from nbconv.errors import ModelError
    from nbconv.runtime.kept import Kept
    from nbconv.runtime.planned import PLAN_BYTES
    from nbconv.runtime.staged import Staged

    first = ""
    for feeds in _model.plain_feeds(model.graph, sizes, values):
        watch = _Watch(model)
        try:
            gpu, inputs = model._device is not None, tuple(model.graph.inputs)
            staged = Staged(lambda: model.graph, inputs, watch.planned, model._arenas, Kept(PLAN_BYTES), watch.done, gpu)
            staged.run(feeds, tuple(model.graph.outputs), model.threads)
        except ModelError as error:
            first = first or str(error)
        else:
            return watch
    why = f"it is planned while it runs, as values decide shapes, and a run on {_model.PLAIN} ends early: {first}"
    raise ModelError(f"{why} (--value NAME=NUMBER says what an input is)")


def _copies(plan: Plan) -> dict[str, int]:
    """How many values cross over in a run on a GPU, and their bytes: inputs, results, and what steps on the CPU work on."""
    from nbconv.runtime.cuda.placement import transfers

    moved = transfers(plan)
    names = [name for up, down in moved.before.values() for name in (*up, *down)]
    names += [name for name in plan.results if name not in moved.results]
    return {"values": len(names), "bytes": sum(plan.nbytes(name) for name in names)}


def _training(graph: Graph, sizes: dict[str, tuple[int, ...]] | None) -> dict[str, Any]:
    """What can be trained, and what stands in the way: nodes without a gradient, operators on integers, shapes that values
    decide (``sizes`` None), batch normalisation that was folded away."""
    from nbconv.edit.folded import folded_norms
    from nbconv.edit.parameters import constants_of
    from nbconv.graph import Spec
    from nbconv.train.trainable import Trainable, trainable

    if sizes is None:
        found = Trainable((), tuple(constants_of(graph)), (), "shapes depend on values")
    else:
        found = trainable(graph, {n: Spec(sizes[n], s.dtype) for n, s in graph.inputs.items()})

    def row(name: str) -> dict[str, Any]:
        return {"name": name, "shape": list(graph.constants[name].shape)}

    return {
        "trainable": len(found.trains),
        "numbers": sum(graph.constants[p.name].size for p in found.trains),
        "refused": found.refused,
        "parameters": [row(p.name) for p in found.trains],
        "untrained": [{**row(c.parameter.name), "why": c.why or found.refused} for c in found.others],
        "missing_gradients": [{"node": node, "op": op, "why": why} for node, op, why in found.missing],
        "batch_norm_folded": folded_norms(graph)._asdict(),
    }
