"""What `trainable="auto"` trains: layers and channels by Fisher information a byte and an operation, on the user's own batch
(Kwon et al., "TinyTrain", 2024, arXiv 2307.09988), as many as fit a budget of memory and time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbconv.edit.kinds import biases
from nbconv.edit.parameters import Parameter, norms, type_of
from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.builder import Builder
from nbconv.graph.dtypes import is_half
from nbconv.model import Model
from nbconv.ops.pointwise import Mul
from nbconv.ops.reduce import ReduceSum
from nbconv.passes.autodiff import backprop
from nbconv.passes.masks import with_masks
from nbconv.train.forward import computed, opened, widened
from nbconv.train.memory.estimate import CALL, MOVED
from nbconv.train.memory.policy import depending
from nbconv.train.recipe import STEP, Recipe

OVERWRITE = ("ReluGrad", "ClipGrad", "MaskedGrad", "Add", "Mul")
"""What may write its result over what it reads, beside cheap operators."""
SHARES = (1.0, 0.5, 0.25, 0.125)
"""Shares of a layer's output channels that may train."""


class Layer(NamedTuple):
    """A layer whose weight may train: the ``node``, its ``weight``, the value ``y`` it makes and the axis of that value's
    channels; ``sliced``: whether some of its channels may train without the others."""

    node: Node
    weight: Parameter
    y: str
    axis: int
    sliced: bool


class Trained(NamedTuple):
    """A layer that was chosen: how many of its output channels train, of how many, and why: its ``fisher`` information, the
    numbers and operations of its weight gradient at full, and the ``score`` made of these."""

    layer: str
    weight: str
    value: str
    channels: int
    of: int
    fisher: float
    numbers: int
    operations: int
    score: float


class Choice(NamedTuple):
    """What was chosen: ``parameters`` that train, ``rows`` (by the parameter's value, the output channels that do, where not
    all), the ``layers`` in the order in which they were taken, and how many layers there were to choose from. The head
    trains always, and the biases of all layers that gradients pass."""

    parameters: tuple[str, ...]
    rows: dict[str, tuple[int, ...]]
    layers: tuple[Trained, ...]
    candidates: int

    @staticmethod
    def read(told: Any) -> Choice:
        """What a checkpoint keeps of one. ValueError for what is none."""
        try:
            layers = tuple(Trained(**layer) if isinstance(layer, dict) else Trained(*layer) for layer in told["layers"])
            rows = {name: tuple(map(int, places)) for name, places in told["rows"].items()}
            if any(not places or sorted(set(places)) != [*places] for places in rows.values()):
                raise ValueError
            return Choice(tuple(map(str, told["parameters"])), rows, layers, int(told["candidates"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError("the checkpoint does not say what was chosen to train") from None

    def __str__(self) -> str:
        head = (
            f"the head, {len(self.layers)} of {self.candidates} layers before it, {len(self.parameters)} parameters in all"
        )
        lines = [
            f"  {t.layer}: {t.channels} of {t.of} channels; Fisher information {t.fisher:.2g} for {t.numbers:,} numbers and "
            f"{t.operations / 1e6:.1f} million operations"
            for t in self.layers
        ]
        return "\n".join([head, *lines])


def layers_of(graph: Graph, known: Sequence[Parameter], head: Sequence[Parameter]) -> list[Layer]:
    """Those that may be chosen: products with a weight of their own, not the head's."""
    found, seen = [], {p.value for p in head}
    for p in known:
        node = p.node
        if p.value in seen or not node.op.is_layer or len(node.inputs) < 2 or node.inputs[1] != p.value:
            continue
        seen.add(p.value)
        shape = graph.constants[p.name].shape
        turned = node.op.type == "Gemm" and bool(getattr(node.op, "transB", 0))
        plain = node.op.type == "Conv" and getattr(node.op, "group", 1) == 1 and 2 < len(shape) < 5
        sliced = (turned or plain) and not is_half(type_of(p.value, graph))
        axis = -1 if node.op.type in ("Gemm", "MatMul") else 1
        found.append(Layer(node, p, node.outputs[0], axis, sliced))
    return found


def informations(
    recipe: Recipe,
    layers: Sequence[Layer],
    feeds: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    like: Callable[[Graph], Model],
) -> dict[str, np.ndarray]:
    """By y of each layer, the Fisher information of its channels: 1/2n Σ over samples of (Σ y · dy)². Samples are taken one
    at a time, or all at once where the model takes no batches of one. ``like`` makes a model of a graph."""
    count = max(len(a) for a in feeds.values() if a.ndim)
    arrays = {**feeds, **targets}
    parted = [name for name, a in arrays.items() if a.ndim and len(a) == count]
    try:
        return _informations(recipe, layers, arrays, set(targets), parted, count, 1, like)
    except (ModelError, ValueError):
        return _informations(recipe, layers, arrays, set(targets), parted, count, count, like)


def _informations(recipe, layers, arrays, targets, parted, count, size, like) -> dict[str, np.ndarray]:
    def some(k: int) -> dict[str, np.ndarray]:
        return {n: np.ascontiguousarray(a[k : k + size]) if n in parted else a for n, a in arrays.items()}

    specs = {n: Spec(a.shape, a.dtype) for n, a in some(0).items()}
    graph, names = _fisher_graph(
        recipe, layers, {n: s for n, s in specs.items() if n not in targets}, {n: specs[n] for n in targets}
    )
    model: Model = like(graph)
    total: dict[str, Any] = dict.fromkeys(names, 0.0)
    step = {STEP: np.array(1, np.int64)} if STEP in graph.inputs else {}
    for k in range(0, count, size):
        found = model.run({**some(k), **step})
        for y, name in names.items():
            total[y] = total[y] + found[name].astype(np.float64)
    return {y: np.asarray(t) / (2 * count) for y, t in total.items()}


def _fisher_graph(
    recipe: Recipe, layers: Sequence[Layer], feeds: Mapping[str, Spec], targets: Mapping[str, Spec]
) -> tuple[Graph, dict[str, str]]:
    """(the graph that computes them, the name of each result by y)."""
    forward, specs, loss = loss_graph(recipe._replace(chosen=(), rows={}), feeds, targets, {})
    to = Builder(forward, specs)
    one = to.constant(np.ones(to.spec(loss).shape, np.float32))
    made = {n for node in forward.nodes for n in node.outputs}
    ys = [layer.y for layer in layers if layer.y in made]
    whole, specs, gradients = backprop(to.graph((loss,)), to.specs, {loss: one}, ys)
    to, names = Builder(whole, specs, "fisher/"), {}
    for layer in layers:
        if layer.y not in gradients:
            continue
        rank = specs[layer.y].rank
        x = to.add(Mul(), layer.y, gradients[layer.y])
        inner = [k for k in range(1, rank) if k != layer.axis % rank]
        if inner:
            x = to.add(ReduceSum(keepdims=0), x, to.constant(np.array(inner, np.int64)))
        names[layer.y] = to.add(ReduceSum(keepdims=0), to.add(Mul(), x, x), to.constant(np.array([0], np.int64)))
    graph = to.graph()
    graph.outputs = dict.fromkeys(names.values())
    return graph, names


def loss_graph(
    recipe: Recipe, feeds: Mapping[str, Spec], targets: Mapping[str, Spec], held: Mapping[str, Spec]
) -> tuple[Graph, dict[str, Spec], str]:
    """(the forward part up to the loss, the Specs of its values, the loss); ``held``: Specs of what trains."""
    source = opened(recipe.graph, recipe)
    source.inputs = {**feeds, STEP: Spec((), np.dtype(np.int64)), **held}
    graph, specs = computed(source)
    to = Builder(graph, specs)
    for name, spec in targets.items():
        to.input(name, spec)
    loss = recipe.loss(to, {n: widened(n) if widened(n) in specs else n for n in recipe.logits})
    return to.graph((loss,)), to.specs, loss


class Cost(NamedTuple):
    """Of a step: ``nbytes`` of activations, gradients and the optimizer's slots, and ``work``, the floating-point operations
    in whose time it is done."""

    nbytes: float
    work: float


class Costs:
    """What a step takes that trains some of ``chosen``, by estimate, without planning it. ``held``: Specs of what trains;
    ``slots``: how many numbers the optimizer keeps for one."""

    def __init__(
        self, recipe: Recipe, chosen: Sequence[Parameter], feeds: Mapping[str, Spec], targets: Mapping[str, Spec],
        held: Mapping[str, Spec], slots: int,
    ) -> None:  # fmt: skip
        whole = recipe._replace(chosen=tuple(chosen), rows={})
        forward, specs, loss = loss_graph(whole, feeds, targets, held)
        to = Builder(forward, specs)
        one = to.constant(np.ones(to.spec(loss).shape, np.float32))
        self.names = [p.value for p in chosen]
        self.graph, self.specs, self.gradients = backprop(to.graph((loss,)), to.specs, {loss: one}, self.names)
        self.forward, self.loss, self.slots, self.feeds = len(forward.nodes), loss, slots, set(feeds)
        self._work = {id(n): self._of(n) for n in self.graph.nodes}

    def _of(self, node: Node) -> float:
        given = tuple(self.specs[n] if n else None for n in node.inputs)
        found = tuple(self.specs[n] for n in node.outputs if n)
        return CALL + node.op.flops(given, found) + MOVED * sum(s.size for s in (*given, *found) if s is not None)

    def step(self, shares: Mapping[str, float]) -> Cost:
        """Of one that trains these parameters, of each this share of its first axis."""
        ends = {self.gradients[n]: share for n, share in shares.items() if n in self.gradients}
        wanted, nodes, work = {self.loss, *ends}, [], 0.0
        for k in range(len(self.graph.nodes) - 1, -1, -1):
            node = self.graph.nodes[k]
            if wanted.isdisjoint(node.outputs):
                continue
            share = max((ends.get(n, 0.0) for n in node.outputs), default=0.0) or 1.0
            if node.op.type == "ConvGradWeight" and node.outputs[0] not in ends:
                node = Node(ReduceSum(), node.inputs[1:2], node.outputs[1:2], node.name)
                work += self._of(node)
            else:
                work += share * self._work[id(node)]
            nodes.append((k, node))
            wanted.update(n for n in node.inputs if n)
        nodes.reverse()
        count = sum(k < self.forward for k, _ in nodes)
        graph = Graph([n for _, n in nodes], self.graph.inputs, dict.fromkeys([self.loss, *ends]), self.graph.constants)
        masked, specs, count = with_masks(graph, self.specs, count)
        sizes = {n: specs[n].nbytes * ends.get(n, 1.0) for node in masked.nodes for n in node.outputs if n}
        frozen = depending(masked, self.feeds) - depending(masked, shares)
        read = {n for node in masked.nodes if not frozen.issuperset(node.outputs) for n in node.inputs}
        sizes.update({n: sizes[n] / 2 for n in frozen - read if n in sizes})  # its batch is done in halves
        slots = self.slots * sum(sizes[n] for n in ends)
        return Cost(_peak(masked, sizes) + slots, work)


def _peak(graph: Graph, sizes: Mapping[str, float]) -> float:
    """Most bytes of values at a time, where those that are done element by element lie where one that they read lay."""
    last = {name: k for k, node in enumerate(graph.nodes) for name in node.inputs}
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    live = most = 0.0
    for k, node in enumerate(graph.nodes):
        made = sum(sizes[n] for n in node.outputs if n)
        gone = sum(sizes[n] for n in dict.fromkeys(node.inputs) if n in sizes and last[n] == k)
        over = min(gone, made) if node.op.is_cheap or node.op.rearranges or node.op.type in OVERWRITE else 0.0
        most = max(most, live + made - over)
        live += made - gone - sum(sizes[n] for n in node.outputs if n and n not in last)
    return most


class Chooser:
    """Ranks the layers of a model on a batch, and chooses as many as fit."""

    def __init__(
        self, recipe: Recipe, known: Sequence[Parameter], head: Sequence[Parameter], feeds: Mapping[str, np.ndarray],
        targets: Mapping[str, np.ndarray], held: Mapping[str, Spec], like: Callable[[Graph], Model],
    ) -> None:  # fmt: skip
        graph = recipe.graph
        self.head = list(head)
        layers = layers_of(graph, known, head)
        found = informations(recipe, layers, feeds, targets, like)
        self.layers = [layer for layer in layers if layer.y in found]
        self.fisher = {layer.weight.value: found[layer.y] for layer in self.layers}
        trained = {id(n) for n in norms(graph, known)}
        weights = [layer.weight for layer in self.layers]
        self.biases = [p for p in biases(graph, known) if id(p.node) not in trained and p not in head]
        self.all = [p for p in known if p in head or p in weights or p in self.biases]
        given, wanted = ({n: Spec(a.shape, a.dtype) for n, a in arrays.items()} for arrays in (feeds, targets))
        mine = {p.value: held[p.value] for p in self.all}
        self.costs = Costs(recipe, self.all, given, wanted, mine, recipe.optimizer.op.slots)
        self.numbers = {p.value: mine[p.value].size for p in weights}
        self.operations = {layer.weight.value: self._operations(layer) for layer in self.layers}
        self.scores = self._scores()

    def _operations(self, layer: Layer) -> int:
        specs = self.costs.specs
        return layer.node.op.flops(tuple(specs[n] if n else None for n in layer.node.inputs), (specs[layer.y],))

    def _scores(self) -> dict[str, float]:
        """Fisher information over numbers and operations, both as shares of the most."""
        most = max(self.numbers.values(), default=1), max(self.operations.values(), default=1) or 1
        return {
            n: float(f.sum()) / (self.numbers[n] / most[0]) / max(self.operations[n] / most[1], 1e-9)
            for n, f in self.fisher.items()
        }

    def choose(self, nbytes: float, work: float) -> Choice:
        """Layers from the best score on, of each the largest share that fits with those before it."""
        taken: dict[str, float] = {}
        for layer in sorted(self.layers, key=lambda layer: -self.scores[layer.weight.value]):
            name = layer.weight.value
            for share in SHARES if layer.sliced else SHARES[:1]:
                cost = self.costs.step(self._shares({**taken, name: share}))
                if cost.nbytes <= nbytes and cost.work <= work:
                    taken[name] = share
                    break
        return self._choice(taken)

    def cost(self, choice: Choice) -> Cost:
        """By estimate, of a step."""
        shares = {t.value: t.channels / t.of for t in choice.layers}
        return self.costs.step(self._shares(shares))

    def _deepest(self, taken: Iterable[str]) -> int:
        return max((layer.weight.depth for layer in self.layers if layer.weight.value in taken), default=0)

    def _shares(self, taken: Mapping[str, float]) -> dict[str, float]:
        """Of all that trains with these weights: the head, and biases that gradients pass."""
        depth = self._deepest(taken)
        small = [p.value for p in self.biases if p.depth <= depth] if taken else []
        return {**dict.fromkeys((p.value for p in self.head), 1.0), **dict.fromkeys(small, 1.0), **taken}

    def _choice(self, taken: Mapping[str, float]) -> Choice:
        rows, told = {}, []
        by = {layer.weight.value: layer for layer in self.layers}
        for name, share in taken.items():
            layer, f = by[name], self.fisher[name]
            count = len(f)
            k = max(1, round(share * count))
            if k < count:
                rows[name] = tuple(sorted(np.argsort(-f, kind="stable")[:k].tolist()))
            told.append(
                Trained(
                    layer.node.name, layer.weight.name, name, k, count, float(f.sum()), self.numbers[name],
                    self.operations[name], self.scores[name],
                )
            )  # fmt: skip
        shares = self._shares(taken)
        return Choice(tuple(p.value for p in self.all if p.value in shares), rows, tuple(told), len(self.layers))
