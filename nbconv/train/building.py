"""The graph of a training step: a model's graph, the loss, gradients, and what updates the state."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from nbconv.edit.parameters import Parameter, master, norms, one_value, stored, type_of
from nbconv.errors import DataDependentError, ModelError, UnsupportedError
from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.graph.builder import Builder
from nbconv.graph.dtypes import is_half
from nbconv.graph.infer import number_of
from nbconv.lowering.weights import Weights
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.cast import Cast
from nbconv.ops.nary import Min
from nbconv.ops.optimizer import SGDUpdate
from nbconv.ops.pointwise import Add, Div, Mul, Sqrt, Sub
from nbconv.ops.rectifier import Clip
from nbconv.ops.reduce import ReduceSum
from nbconv.passes.autodiff import backprop
from nbconv.passes.fold import array, fold
from nbconv.passes.fuse_relu_bn_grad import fuse_relu_bn_grad
from nbconv.passes.layers import join_layers
from nbconv.passes.masks import with_masks
from nbconv.passes.promote import promote
from nbconv.passes.rematerialise import rematerialise, sums_early
from nbconv.passes.segments import Segments
from nbconv.passes.straight_through import straight_through
from nbconv.train.dropout import with_dropout
from nbconv.train.memory.policy import USUAL, MemoryPolicy, again, depending, frozen, split
from nbconv.train.optimizers import Optimizer

STEP = "hyper/step"
"""The input that counts steps, int64, from 1."""
LABELS = "hyper/targets"
"""The input that holds targets; of several losses, what its names begin with."""


class Indivisible(ModelError):
    """A batch that cannot be cut into micro-batches."""


class Recipe(NamedTuple):
    """What is to be trained, and how."""

    graph: Graph
    logits: tuple[str, ...]
    """what losses are computed of"""
    loss: Callable[[Any, Mapping[str, str]], str]
    """adds the loss, of values by the names of the logits and of the targets"""
    optimizer: Optimizer
    chosen: tuple[Parameter, ...]
    factors: Mapping[str, float]
    """what the learning rate of each parameter is multiplied by"""
    seed: int
    bn_momentum: float | None = None
    """what batch normalisation keeps of its running statistics, where it is not what the model says"""
    ema: float | None = None
    """what averages of the weights keep of themselves at a step"""
    told: Callable[[Any, Mapping[str, str]], dict[str, str]] | None = None
    """adds what else a step tells, by names of its own"""
    rows: Mapping[str, tuple[int, ...]] = {}
    """of some parameters the places along their first axis that train"""


class Built(NamedTuple):
    """A training step as a graph, and what goes in and out."""

    graph: Graph
    loss: str
    updates: dict[str, str]
    trained: tuple[Parameter, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """of the logits, by name"""
    told: Mapping[str, str] = {}
    """the values of what else it tells"""
    gradients: Mapping[str, str] = {}
    """of parameters, before they are clipped"""
    norm: str = ""
    """of all gradients together, where it is limited"""


def slot(value: str, i: int) -> str:
    """The name under which an optimizer's slot i of a parameter is kept."""
    return f"slot{i}/{value}"


def average(value: str) -> str:
    """The name under which the average of a parameter or statistic is kept."""
    return f"slot/average/{value}"


def widened(name: str) -> str:
    """The name of logits of half precision in float32."""
    return f"{name}/float32"


def opened(graph: Graph, recipe: Recipe) -> Graph:
    """The graph with trained parameters and running statistics as inputs, in float32, batch normalisations and dropouts
    that train at work."""
    names = {p.value for p in recipe.chosen}
    graph = straight_through(one_value(graph, recipe.chosen), names)
    training = {id(n) for n in norms(graph, recipe.chosen)}
    names.update(name for node in graph.nodes if id(node) in training for name in node.inputs[3:5])
    half = {p.value: dtype for p in recipe.chosen if is_half(dtype := type_of(p.value, graph))}
    nodes = [Node(Cast(to=number_of(dtype)), (name,), (f"{name}/half",)) for name, dtype in half.items()]
    for node in graph.nodes:
        inputs = tuple(f"{n}/half" if n in half else n for n in node.inputs)
        if not names.isdisjoint(node.outputs):
            continue
        if id(node) in training:
            assert isinstance(node.op, BatchNormalization)
            momentum = node.op.momentum if recipe.bn_momentum is None else recipe.bn_momentum
            op = BatchNormalization(epsilon=node.op.epsilon, momentum=momentum, training_mode=1)
            y = node.outputs[0]
            node = Node(op, inputs, (y, f"{y}/running_mean", f"{y}/running_var"), node.name)
        nodes.append(node if inputs == node.inputs else Node(node.op, inputs, node.outputs, node.name))
    constants = {name: value for name, value in graph.constants.items() if name not in names}
    return Graph(nodes, dict(graph.inputs), dict.fromkeys(recipe.logits), constants, graph.name)


class Differentiated(NamedTuple):
    """A loss and its gradients, of which a step is made."""

    graph: Graph
    specs: dict[str, Spec]
    forward: int
    """how many nodes come first that are the forward part"""
    logits: Graph
    """the forward part up to the logits"""
    values: dict[str, str]
    """of the logits, in float32, by name"""
    loss: str
    gradients: dict[str, str]
    told: Mapping[str, str]
    """the values of what else the step tells"""


def differentiated(
    recipe: Recipe,
    feeds: Mapping[str, Spec],
    targets: Mapping[str, Spec],
    state: Mapping[str, np.ndarray],
    policy: MemoryPolicy = USUAL,
    gpu: bool = False,
) -> Differentiated:
    """Loss and gradients for feeds of these Specs, in micro-batches. ``state`` has an array for each parameter, statistic
    and slot. ``gpu``: for a GPU, whose kernels know no masks and no gradients of some channels alone.

    ModelError says what does not fit, MissingGradients which nodes have no gradient.
    """
    graph, specs = _forward(recipe, feeds, _specs(state), policy)
    values = {n: widened(n) if widened(n) in specs else n for n in recipe.logits}
    to = Builder(graph, specs)
    for name, spec in targets.items():
        to.input(name, spec)
    loss = recipe.loss(to, values)
    if to.spec(loss).size != 1:
        raise ModelError(f"the loss is {to.spec(loss)}, wanted a scalar")
    one = to.constant(np.ones(to.spec(loss).shape, np.float32))
    told = recipe.told(to, values) if recipe.told else {}
    forward = to.graph((loss, *dict.fromkeys(told.values())))
    chosen = [p.value for p in recipe.chosen]
    whole, specs, gradients = backprop(forward, to.specs, {loss: one}, chosen, recipe.rows, not gpu)
    count = len(forward.nodes)
    if not gpu:
        whole, specs, count = with_masks(whole, specs, count)
    return Differentiated(sums_early(whole, count), specs, count, graph, values, loss, gradients, told)


def build(
    recipe: Recipe,
    feeds: Mapping[str, Spec],
    targets: Mapping[str, Spec],
    state: Mapping[str, np.ndarray],
    policy: MemoryPolicy = USUAL,
    gpu: bool = False,
) -> Built:
    """The step in which what is cheap is computed again, or with micro-batches much: see `differentiated`."""
    of = differentiated(recipe, feeds, targets, state, policy, gpu)
    chosen = again(of.logits, [p.value for p in recipe.chosen], of.values.values(), policy)
    return finished(recipe, of, rematerialise(of.graph, of.specs, of.forward, chosen), state)


def segmented(of: Differentiated, feeds: Mapping[str, Spec]) -> Segments:
    """Its backward part in segments, of whose `Segments.graph` `finished` makes a step."""
    whole = fuse_relu_bn_grad(of.graph, frozenset(of.gradients.values()))
    return Segments(whole, dict(of.specs), of.forward, samples_in(feeds))


def finished(recipe: Recipe, of: Differentiated, whole: Graph, state: Mapping[str, np.ndarray]) -> Built:
    """The step of this graph, which is that of `differentiated` with some of its values computed again."""
    held = _specs(state)
    to = Builder(whole, of.specs, "update/")
    updates, norm = _updated(to, recipe, of.gradients, held)
    updates.update(_statistics(to, of.logits, of.specs, held))
    updates.update(_averages(to, updates, held) if recipe.ema is not None else {})
    result = to.graph()
    outputs: list[str] = [of.loss, *of.told.values(), *filter(None, [norm]), *updates.values()]
    result.outputs = dict.fromkeys(outputs)
    trained = tuple(p for p in recipe.chosen if p.value in of.gradients)
    shapes = {n: of.specs[v].shape for n, v in of.values.items()}
    return Built(result, of.loss, updates, trained, shapes, of.told, of.gradients, norm)


def samples_in(feeds: Mapping[str, Spec]) -> int:
    """How many samples a batch of these Specs has."""
    return min((s.shape[0] if s.shape else 1 for s in feeds.values()), default=1)


def _specs(state: Mapping[str, np.ndarray]) -> dict[str, Spec]:
    return {n: Spec(a.shape, a.dtype) for n, a in state.items()}


def computed(source: Graph) -> tuple[Graph, dict[str, Spec]]:
    """The graph, all of whose sizes are known, as a step computes it: folded, in float32, its outputs too (`widened`)."""
    graph, specs, _ = fold(source, dict(source.inputs), Weights(), frozenset(source.outputs))
    half = [name for name in source.outputs if is_half(specs[name].dtype)]
    if half:
        ends = [Node(Cast(to=number_of(FLOAT32)), (name,), (widened(name),)) for name in half]
        graph = graph.derive([*graph.nodes, *ends])
        graph.outputs = dict.fromkeys(widened(name) if name in half else name for name in source.outputs)
        specs.update({widened(name): specs[name]._replace(dtype=FLOAT32) for name in half})
    promoted = promote(graph, specs, rounds=False)
    if promoted is not graph:
        graph, specs, _ = fold(promoted, dict(source.inputs), Weights(), frozenset(promoted.outputs))
    return graph.derive(graph.nodes, {n: array(c) for n, c in graph.constants.items()}), specs


def _forward(
    recipe: Recipe, feeds: Mapping[str, Spec], held: Mapping[str, Spec], policy: MemoryPolicy
) -> tuple[Graph, dict[str, Spec]]:
    """The forward part up to the logits, in micro-batches, or its frozen part in halves."""
    source = _active_dropout(opened(recipe.graph, recipe), recipe)

    def folded(rows: int) -> tuple[Graph, dict[str, Spec]]:
        mine = {n: s._replace(shape=(rows, *s.shape[1:])) if rows else s for n, s in feeds.items()}
        source.inputs = {**mine, STEP: Spec((), np.dtype(np.int64))}
        source.inputs.update({n: s for n, s in held.items() if not n.startswith("slot")})
        graph, specs = computed(source)
        return join_layers(graph, specs), specs

    try:
        graph, specs = folded(0)
    except DataDependentError as error:
        raise UnsupportedError(f"{error}; a model whose shapes depend on values cannot be trained") from None
    inner = depending(graph, (*feeds, STEP)) - {*feeds, STEP}  # not what makes weights of weights
    parts, samples = policy.parts, samples_in(feeds)
    if parts == 1:
        inner, parts = frozen(graph, specs, feeds, [p.value for p in recipe.chosen]), 2
    if not inner or (samples % parts and not policy.rows) or samples == 1:
        return graph, specs
    rows = policy.rows or samples // parts
    sizes = [rows] * (samples // rows) + [samples % rows] * (samples % rows > 0)
    found = split(graph, specs, folded, source.constants, feeds, inner, sizes)
    if found is None and policy.parts > 1:
        raise Indivisible("the model's values do not all have a first axis that counts samples")
    return found or (graph, specs)


def _active_dropout(graph: Graph, recipe: Recipe) -> Graph:
    """Dropout drops only where everything behind it trains: in frozen parts it is what it is at inference."""
    if not any(n.op.type == "Dropout" for n in graph.nodes):
        return graph
    frozen_behind: set[str] = set()
    for node in reversed(graph.nodes):
        closed = any(i < len(node.inputs) and node.inputs[i] in graph.constants for i in node.op.parameters[:1])
        if closed or not frozen_behind.isdisjoint(node.outputs):
            frozen_behind.update(n for n in node.inputs if n)
    idle = {id(n) for n in graph.nodes if n.op.type == "Dropout" and n.outputs[0] in frozen_behind}
    kept = [n for n in graph.nodes if id(n) not in idle]
    same = {n.outputs[0]: n.inputs[0] for n in graph.nodes if id(n) in idle}

    def origin(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    nodes = [Node(n.op, tuple(map(origin, n.inputs)), n.outputs, n.name) for n in kept]
    return with_dropout(graph.derive(nodes), STEP, recipe.seed)


def _updated(to: Builder, recipe: Recipe, gradients: dict[str, str], held: Mapping[str, Spec]) -> tuple[dict[str, str], str]:
    """Adds clipping and the optimizer: the new value of each state, and the norm of gradients where it is limited."""
    optimizer = recipe.optimizer
    hyper = tuple(f"hyper/{name}" for name in optimizer.scalars(optimizer.lr, 1))
    for name in hyper:
        to.input(name, Spec((), np.dtype(np.float32)))
    gradients, norm = _clipped(to, optimizer, gradients)
    updates: dict[str, str] = {}
    for p in recipe.chosen:
        if p.value not in gradients:
            continue
        op = optimizer.make(recipe.factors.get(p.value, 1.0), group_options(optimizer, p), recipe.rows.get(p.value, ()))
        slots = [slot(p.value, i) for i in range(op.slots)]
        for name in slots:
            to.input(name, held[name])
        made = to.add_many(op, 1 + op.slots, p.value, gradients[p.value], *slots, *hyper)
        updates.update(zip([p.value, *slots], made, strict=True))
    return updates, norm


def group_options(optimizer: Optimizer, parameter: Parameter) -> dict[str, float]:
    """The options of the last group that the parameter's name fits."""
    found: dict[str, float] = {}
    for pattern, options in optimizer.groups.items():
        if fnmatchcase(parameter.name, pattern):
            found = options
    return found


def _clipped(to: Builder, optimizer: Optimizer, gradients: dict[str, str]) -> tuple[dict[str, str], str]:
    norm = ""

    def number(value: float) -> str:
        return to.constant(np.array(value, np.float32))

    if optimizer.clip_value is not None:
        low, high = number(-optimizer.clip_value), number(optimizer.clip_value)
        gradients = {n: to.add(Clip(), g, low, high) for n, g in gradients.items()}
    if optimizer.clip_norm is not None and gradients:
        total = ""
        for g in gradients.values():
            part = to.add(ReduceSum(keepdims=0), to.add(Mul(), g, g))
            total = to.add(Add(), total, part) if total else part
        norm = to.add(Add(), to.add(Sqrt(), total), number(1e-6))
        factor = to.add(Min(), to.add(Div(), number(optimizer.clip_norm), norm), number(1.0))
        gradients = {n: to.add(Mul(), g, factor) for n, g in gradients.items()}
    return gradients, norm


def _statistics(to: Builder, graph: Graph, specs: Mapping[str, Spec], held: Mapping[str, Spec]) -> dict[str, str]:
    """New running statistics, where the state has them. ONNX's running variance takes in the batch's variance as it is;
    PyTorch's, as here, the unbiased one, n / (n - 1) of it."""
    updates: dict[str, str] = {}
    found: dict[tuple[str, str], list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, BatchNormalization) and node.op.training_mode and node.inputs[3] in held:
            found.setdefault((node.inputs[3], node.inputs[4]), []).append(node)
    for (mean, variance), nodes in found.items():
        op = nodes[0].op
        assert isinstance(op, BatchNormalization)
        counts = [int(np.prod(s)) // max(s[1], 1) for s in (specs[node.inputs[0]].shape for node in nodes)]
        count = min(counts)
        if count == 1:
            told = "takes its statistics from one value a channel, so that nothing before it learns: larger batches do"
            warnings.warn(f"{nodes[0].name} (BatchNormalization) {told}", stacklevel=2)
        if max(counts) > count:
            shares = [c / sum(counts) for c in counts]
            updates[mean] = _weighted(to, [node.outputs[1] for node in nodes], shares)
            shares = [s * c / max(c - 1, 1) for s, c in zip(shares, counts, strict=True)]
            old = to.add(Mul(), variance, to.constant(np.array(op.momentum * (sum(shares) - 1), np.float32)))
            updates[variance] = to.add(Sub(), _weighted(to, [node.outputs[2] for node in nodes], shares), old)
            continue
        updates[mean] = _mean(to, [node.outputs[1] for node in nodes])
        unbiased = count / max(count - 1, 1)
        old = to.add(Mul(), variance, to.constant(np.array(op.momentum * (unbiased - 1), np.float32)))
        new = to.add(Mul(), _mean(to, [n.outputs[2] for n in nodes]), to.constant(np.array(unbiased, np.float32)))
        updates[variance] = to.add(Sub(), new, old)
    return updates


def _weighted(to: Builder, names: list[str], shares: list[float]) -> str:
    """The sum of what micro-batches of several sizes found, each times its share."""
    total = ""
    for name, share in zip(names, shares, strict=True):
        part = to.add(Mul(), name, to.constant(np.array(share, np.float32)))
        total = to.add(Add(), total, part) if total else part
    return total


def _averages(to: Builder, updates: Mapping[str, str], held: Mapping[str, Spec]) -> dict[str, str]:
    """New averages of what is updated: a + (1 - decay) · (new - a)."""
    rate = to.input("hyper/average", Spec((), np.dtype(np.float32)))
    found = {}
    for value, new in updates.items():
        name = average(value)
        if name in held:
            to.input(name, held[name])
            found[name] = to.add(SGDUpdate(weight_decay=-1.0), name, new, rate)  # the rate is decay - 1
    return found


def _mean(to: Builder, names: list[str]) -> str:
    """The mean of what the micro-batches found."""
    total = names[0]
    for name in names[1:]:
        total = to.add(Add(), total, name)
    return total if len(names) == 1 else to.add(Mul(), total, to.constant(np.array(1 / len(names), np.float32)))


def initial_state(recipe: Recipe, masters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Slots of the optimizer for the parameters, and averages: name to array."""
    found = {}
    for p in recipe.chosen:
        shape = masters[p.value].shape
        if p.value in recipe.rows:
            shape = (len(recipe.rows[p.value]), *shape[1:])
        for i, value in enumerate(recipe.optimizer.initial()):
            found[slot(p.value, i)] = np.full(shape, value, np.float32)
    if recipe.ema is not None:
        found.update({average(name): array.copy() for name, array in masters.items() if not name.startswith("slot")})
    return found


def statistics(graph: Graph, chosen: Iterable[Parameter]) -> dict[str, np.ndarray]:
    """The running statistics that will change."""
    found = {}
    made = graph.producers()
    for node in norms(graph, list(chosen)):
        for name in node.inputs[3:5]:
            origin = stored(name, graph, made)
            if origin is None:
                raise ValueError(f"{node.name} (BatchNormalization): its statistics {name!r} are computed, not stored")
            found[name] = master(Parameter(*origin, node, 0), graph)
    return found


def hyper_values(recipe: Recipe, lr: float, step: int) -> dict[str, Any]:
    """What is fed beside the data at a step, counted from 1."""
    scalars = recipe.optimizer.scalars(lr, step)
    if recipe.ema is not None:
        scalars = {**scalars, "average": min(recipe.ema, (1 + step) / (10 + step)) - 1}
    return {
        STEP: np.array(step, np.int64),
        **{f"hyper/{n}": np.array(v, np.float32) for n, v in scalars.items()},
    }
