"""Plans made once for many sizes of inputs: passes and lowering are traced, and done again as formulas.

What passes make of a graph seldom depends on the sizes of its inputs, but what they decide does read them. So a `Template`
runs them on symbols (`nbconv.graph.symbolic`): it holds the derived graph, a formula for the size of each value, and what
was decided. Sizes for which all would be decided alike have this graph, without a pass. Its nodes are lowered likewise, each
with formulas of its own, since a step depends on its node's sizes alone. Where no template or formula fits, the passes or
the node's `lower` run: as they are, where tracing them was of no use.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.base import machine
from nbconv.graph import OBJECT, Graph, Node, Spec
from nbconv.graph.op import Op
from nbconv.graph.symbolic import Formula, Symbol, Trace, dtype_of, has_symbols
from nbconv.lowering.context import Lowering, Ref, View
from nbconv.lowering.step import Step, Work
from nbconv.lowering.weights import Weights
from nbconv.passes.layout import arranged, eliminate_concat, specs_of
from nbconv.plan.derive import Derived, derive
from nbconv.plan.plan import Constants, Outline, Plan, guard, host_step

if TYPE_CHECKING:
    from nbconv.kernels.target import Target

MOST_KINDS = 4
"""Sets of results, ranks and fixed sizes that have templates; those not used for longest go first."""
MOST_TEMPLATES = 8
"""Templates of a kind; what they do not fit is planned without."""
MOST_FORMULAS = 16
"""Ways to lower a node that are kept."""
VAIN = 2
"""Traces that held for one size only, after which no more are made."""


class Templates:
    """The templates of one graph, on a processor."""

    def __init__(self, graph: Graph, weights: Weights, target: Target) -> None:
        self._graph, self._weights, self._target = graph, weights, target
        self._kinds: OrderedDict[tuple, _Kind] = OrderedDict()
        self._threads, self._until = 1, 0.0

    def plan(self, inputs: dict[str, Spec], fetch: tuple[str, ...]) -> Plan:
        """The plan for inputs of these Specs, as `Plan` makes it; of steps of a kernel it does not say what they were chosen
        for. The first one of a kind is made without a template: most models have one."""
        threads = self._available_threads()
        free = [[type(d) is not int for d in self._declared(name, spec)] for name, spec in inputs.items()]
        sizes, key = [], [fetch, threads]
        for (name, spec), axes in zip(inputs.items(), free, strict=True):
            sizes += [d for d, f in zip(spec.shape, axes, strict=True) if f]
            key.append((name, spec.dtype, tuple(None if f else d for d, f in zip(spec.shape, axes, strict=True))))
        key = tuple(key)
        kind = self._kinds.get(key)
        outline = None
        if kind is None:
            self._kinds[key] = _Kind(bool(sizes) and not any(node.op.control for node in self._graph.nodes))
            if len(self._kinds) > MOST_KINDS:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(key)
            outline = kind.outline(self, inputs, free, sizes, fetch, threads)
        plan = Plan(self._graph, inputs, self._weights, fetch, self._target, threads=threads, outline=outline)
        if kind is not None and kind.tried:  # it was no error of the model's
            kind.vain, kind.tried = kind.vain + 1, False
        return plan

    def _available_threads(self) -> int:
        """As it was a second ago, at most: the system is slow to say."""
        now = time.monotonic()
        if now >= self._until:
            self._threads, self._until = machine.available_threads(), now + 1
        return self._threads

    def _declared(self, name: str, spec: Spec) -> tuple:
        """The sizes of an input as the model has them, an int where one is fixed."""
        declared = self._graph.inputs[name]
        return declared.shape if declared.ranked else (None,) * spec.rank

    def trace(
        self, inputs: dict[str, Spec], free: list[list[bool]], sizes: list[int], fetch: tuple[str, ...], threads: int
    ) -> Template:
        """A template made for these sizes."""
        with Trace(sizes) as trace:
            symbols = iter(trace.inputs)
            given = {
                name: spec._replace(shape=tuple(next(symbols) if f else d for d, f in zip(spec.shape, axes, strict=True)))
                for (name, spec), axes in zip(inputs.items(), free, strict=True)
            }
            derived = derive(self._graph, given, self._weights, fetch, integers=self._target)
            return Template(trace, derived, fetch, self._target, threads)


class _Kind:
    """The templates of inputs that differ in free sizes."""

    def __init__(self, usable: bool) -> None:
        self._usable, self.vain, self.tried = usable, 0, False
        self._templates: list[Template] = []

    def outline(self, all: Templates, inputs: dict[str, Spec], free: list, sizes: list[int], *rest: Any) -> Outline | None:
        """A plan's, of a template that fits or of a new one; None where there is none."""
        if not self._usable or self.vain >= VAIN:
            return None
        self.tried = False
        for i, template in enumerate(self._templates):
            values = template.formula.values(sizes)
            if values is not None:
                if i:
                    self._templates.insert(0, self._templates.pop(i))
                return template.outline(values, inputs)
        if len(self._templates) >= MOST_TEMPLATES:
            return None
        self.tried = True
        try:
            template = all.trace(inputs, free, sizes, *rest)
            values = template.formula.values(sizes)
            if template.narrow or values is None:
                return None
            outline = template.outline(values, inputs)
        except Exception:  # planning without a template says what is wrong, if anything is
            return None
        self.tried = False
        self._templates.insert(0, template)
        return outline


class _Made(NamedTuple):
    """One way to lower a node: its steps, whose numbers are constants or places in what the formula gives."""

    formula: Formula
    steps: list[tuple[Step, int | None, int | None, list[tuple[str, int, Ref | None]]]]
    """a step, where its units and chunk are, and its arguments that depend on sizes: where they are, or what offset is"""
    aliases: dict[str, str]
    scratches: dict[str, int]
    sized: list[tuple[str, int]]
    """scratch memory and where its size is"""
    constants: dict[str, np.ndarray]
    tables: list[tuple[str, int]]
    """tables and where they are"""
    slots: int


class _Part:
    """A node of a template."""

    def __init__(self, node: Node, role: str, sizes: list[int]) -> None:
        self.node, self.role, self.sizes = node, role, sizes
        self.made: list[_Made] = []
        self.vain = 0
        self.guarded = type(node.op).guard is not Op.guard
        self.take: Callable[[Sequence[int]], Any] = itemgetter(*sizes) if sizes else lambda values: ()
        if len(sizes) == 1:
            self.take = lambda values, at=sizes[0]: (values[at],)


class Template:
    """The derived graph of a class of shapes, with formulas for all sizes in it."""

    def __init__(self, trace: Trace, derived: Derived, fetch: tuple[str, ...], target: Target, threads: int) -> None:
        self.derived, self._target, self._threads = derived, target, threads
        graph, specs, layouts = derived.graph, derived.specs, derived.layouts
        if any(dtype_of(constant) == OBJECT for constant in graph.constants.values()):
            raise TypeError("a constant that holds sizes")
        self._views = eliminate_concat(graph, specs, layouts, frozenset(fetch))
        roles = []
        for node in graph.nodes:
            if all(spec.size == 0 for spec in specs_of(node, specs)[1]):
                roles.append("")
            else:
                roles.append("host" if arranged(node, specs, layouts, False) is None else "kernels")
        self.narrow = trace.narrow
        self._sized = {name: c for name, c in graph.constants.items() if type(c) is Symbol}
        """constants that sizes decide"""
        found = [*self._sized.values(), *(d for spec in specs.values() for d in (*spec.shape, spec.value))]
        places = [d.at for d in found if type(d) is Symbol]
        places += [s.at for view in self._views.values() for s in (view.ref.offset, view.pitch) if type(s) is Symbol]
        self.formula, self._moved = trace.end(places)
        self._parts = [_Part(node, role, self._sizes_of(node)) for node, role in zip(graph.nodes, roles, strict=True)]
        self._outline_specs()

    def _outline_specs(self) -> None:
        """Specs that depend on sizes, each once."""
        self._fixed: dict[str, Spec] = {}
        self._names: list[str] = []
        self._which: list[int] = []
        self._makers: list[tuple[Spec, list[int]]] = []
        """a Spec, and where the sizes are that it has; of one of its own, -1 less that"""
        self._valued: list[tuple[str, Spec, int]] = []
        """what sizes decide, and where it is; its shape is fixed"""
        known: dict[tuple, int] = {}
        for name, spec in self.derived.specs.items():
            if type(spec.value) is Symbol:
                self._valued.append((name, spec, self._moved[spec.value.at]))
                continue
            if not has_symbols(spec.shape):
                self._fixed[name] = spec
                continue
            places = tuple(self._moved[d.at] if type(d) is Symbol else -1 - d for d in spec.shape)
            key = (places, *spec[1:]) if spec.value is None else (name,)
            if key not in known:
                known[key] = len(self._makers)
                self._makers.append((spec, [*places]))
            self._names.append(name)
            self._which.append(known[key])

    def _sizes_of(self, node: Node) -> list[int]:
        """Where the sizes are that lowering a node may read."""
        names = [n for n in (*node.inputs, *node.outputs) if n]
        specs = [self.derived.specs[n] for n in names]
        found = [d for spec in specs for d in (*spec.shape, spec.value)]
        found += [self._sized[n] for n in names if n in self._sized]
        for view in (self._views[n] for n in names if n in self._views):
            found += [view.ref.offset, view.pitch]
        return [*dict.fromkeys(self._moved[d.at] for d in found if type(d) is Symbol)]

    def outline(self, values: list[Any], inputs: dict[str, Spec]) -> Outline:
        """A plan's, for what the formula gives."""
        made = [Spec(tuple([values[p] if p >= 0 else -1 - p for p in places]), *spec[1:]) for spec, places in self._makers]
        specs = {**self._fixed, **dict(zip(self._names, [made[i] for i in self._which], strict=True)), **inputs}
        for name, spec, place in self._valued:
            specs[name] = spec._replace(value=values[place])
        derived = self.derived._replace(specs=specs)
        if self._sized:
            sized = {name: values[self._moved[symbol.at]] for name, symbol in self._sized.items()}
            graph = derived.graph
            derived = derived._replace(graph=graph.derive(graph.nodes, {**graph.constants, **sized}))
        outline = Outline(derived, {}, [], {}, {}, 0)
        slots = 0
        for part in self._parts:
            if part.role == "host":
                outline.steps.append(host_step(part.node))
            elif part.role:
                if part.guarded:
                    guard(part.node, specs, outline.steps)
                slots = max(slots, self._lowered(part, part.take(values), outline))
        return outline._replace(slots=slots)

    def _lowered(self, part: _Part, sizes: Sequence[int], outline: Outline) -> int:
        """Adds what the node is lowered to; how many threads it may have, as `Lowering.slots`."""
        for i, made in enumerate(part.made):
            values = made.formula.values(sizes)
            if values is not None:
                if i:
                    part.made.insert(0, part.made.pop(i))
                return _fill(made, values, outline)
        if len(part.made) < MOST_FORMULAS and part.vain < VAIN:
            try:
                with Trace(sizes) as trace:
                    made = _made(*self._lower(part, trace.inputs), trace)
                values = None if trace.narrow else made.formula.values(sizes)
                if values is not None:
                    part.made.insert(0, made)
                    return _fill(made, values, outline)
            except Exception:  # it is lowered without a trace
                pass
            part.vain += 1
        to, added = self._lower(part, sizes)
        outline.steps.extend(to.steps)
        outline.aliases.update(to.aliases)
        outline.scratches.update(to.scratches)
        outline.constants.update(added)
        return to.slots

    def _lower(self, part: _Part, sizes: Sequence[Any]) -> tuple[Lowering, dict[str, Any]]:
        """The node lowered for these sizes, and the constants that this added."""
        node, of = part.node, dict(zip(part.sizes, sizes, strict=True))

        def now(size: Any) -> Any:
            return of[self._moved[size.at]] if type(size) is Symbol else size

        names = {n for n in (*node.inputs, *node.outputs) if n}
        specs = {}
        for n in names:
            spec = self.derived.specs[n]
            specs[n] = spec._replace(shape=tuple(map(now, spec.shape)), value=now(spec.value))
        views = {}
        for n in names & self._views.keys():
            (name, offset, dtype), pitch = self._views[n]
            views[n] = View(Ref(name, now(offset), dtype), now(pitch))
        added: dict[str, Any] = {}
        known = self.derived.graph.constants
        constants = Constants({n: now(known[n]) for n in node.inputs if n in known}, added)
        given, found = specs_of(node, specs)
        own = not self._sized.keys().isdisjoint(node.inputs)  # what is made of these is another's for other sizes
        weights = Weights() if own else self.derived.weights_of(node)
        to = Lowering(
            node, node.op, given, found, self.derived.layouts, constants, weights, self._target, self._threads, views
        )
        to.described = False
        node.op.lower(to)
        return to, added


def _made(to: Lowering, added: Mapping[str, Any], trace: Trace) -> _Made:
    """What a node was lowered to on symbols."""
    wanted: list[int] = []

    def at(value: Any) -> int | None:
        if type(value) is not Symbol:
            return None
        place = trace.place(value)
        wanted.append(place)
        return place

    steps = []
    for step in to.steps:
        sized = []
        for name, value in step.arguments.items():
            if type(value) is Ref and type(value.offset) is Symbol:
                sized.append((name, at(value.offset), value))
            elif type(value) is Symbol:
                sized.append((name, at(value), None))
        steps.append((step, at(step.units), at(step.chunk), sized))
    scratches = [(name, at(size)) for name, size in to.scratches.items()]
    tables = [(name, at(value)) for name, value in added.items()]
    formula, moved = trace.end(wanted)

    def new(place: int | None) -> int | None:
        return None if place is None else moved[place]

    return _Made(
        formula,
        [
            (_without_symbols(step), new(units), new(chunk), [(n, moved[p], r) for n, p, r in sized])
            for step, units, chunk, sized in steps
        ],
        to.aliases,
        {name: to.scratches[name] for name, place in scratches if place is None},
        [(name, moved[place]) for name, place in scratches if place is not None],
        {name: added[name] for name, place in tables if place is None},
        [(name, moved[place]) for name, place in tables if place is not None],
        to.slots,
    )


def _without_symbols(step: Step) -> Step:
    """The step, without what only reports read."""
    impl = step.impl._replace(problem=None) if has_symbols(step.impl.problem) else step.impl
    return step._replace(impl=impl, work=Work() if has_symbols(step.work) else step.work)


def _fill(made: _Made, values: list[Any], outline: Outline) -> int:
    """Adds the steps with the numbers of a formula."""
    _, kernel_steps, aliases, scratches, sized, constants, tables, slots = made
    for step, units, chunk, changed in kernel_steps:
        node, kernel, n, c, arguments, impl, work, reads, writes = step
        if changed:
            arguments = arguments.copy()
            for name, place, ref in changed:
                arguments[name] = values[place] if ref is None else Ref(ref.name, values[place], ref.dtype)
        n, c = n if units is None else values[units], c if chunk is None else values[chunk]
        outline.steps.append(Step(node, kernel, n, c, arguments, impl, work, reads, writes))
    outline.aliases.update(aliases)
    outline.scratches.update(scratches)
    for name, place in sized:
        outline.scratches[name] = values[place]
    outline.constants.update(constants)
    for name, place in tables:
        outline.constants[name] = values[place]
    return slots
