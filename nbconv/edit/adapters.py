"""Low-rank changes of weights that train in their place and go into them when the model is used or saved (LoRA, Hu 2021).
Only the side of the outputs trains; the other one comes from the weight and stays (LoRA-Edge, 2025), so that a step keeps
few channels of what goes into a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from nbconv.edit.parameters import Parameter, master, one_value, type_of
from nbconv.graph import Graph, Node
from nbconv.graph.dtypes import is_half
from nbconv.graph.infer import number_of
from nbconv.ops.cast import Cast
from nbconv.ops.conv import Conv
from nbconv.ops.linear import Gemm, MatMul
from nbconv.ops.pointwise import Add
from nbconv.passes.straight_through import quantises

State = Mapping[str, np.ndarray]
OVERSAMPLED, ITERATIONS = 8, 3
"""Of subspace iteration: vectors beyond the rank, and turns."""


class Adapted(NamedTuple):
    """A ``graph`` with branches beside its layers; what trains in it, the B's among them; the A's, by name; and what makes
    weights for the graph as it was from a state that has both."""

    graph: Graph
    trained: list[Parameter]
    bases: dict[str, np.ndarray]
    back: Callable[[State], State]


def adapted(graph: Graph, chosen: Sequence[Parameter], rank: int, whole: Collection[str] = (), seed: int = 0) -> Adapted:
    """Gives the weights of convolutions, Gemm and MatMul among ``chosen``, but for the values ``whole``, a change of rank
    ``rank``: their layers add B of A of what they read.

    A weight is a matrix W (outputs, inputs) a group, of a convolution (filters, channels and taps). A (rank, inputs) spans
    what W reads most: its first right singular vectors, found by subspace iteration (Halko 2011) that begins by ``seed``.
    B (outputs, rank) begins as 0. A parameter trains itself where B and A have no fewer numbers than W, where others are
    made of its initializer, and where it is no such weight. ValueError where no weight is left, or one of integers.
    """
    if not isinstance(rank, (int, np.integer)) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"adapters is {rank!r}, wanted a rank, 1 or more")
    graph = one_value(graph, chosen)
    made, readers, constants = graph.producers(), graph.readers(), dict(graph.constants)
    shared = {name for name, count in Counter(p.name for p in chosen).items() if count > 1}
    trained: list[Parameter] = []
    bases: dict[str, np.ndarray] = {}
    forms: dict[str, _Form] = {}
    for p in chosen:
        weight = master(p, graph)
        form = None if p.value in whole or p.name in shared else _form(p, readers[p.value], weight.shape)
        if form is None or rank * (form.outputs + form.inputs) >= form.outputs * form.inputs:
            trained.append(p)
            continue
        if p.value in made and quantises(made[p.value], graph):
            told = f"adapters: the weight {p.name!r} of {p.node.name} is stored as integers"
            raise ValueError(f"{told}, which take no small change: train it whole")
        basis, change = f"{p.value}/lora_a", f"{p.value}/lora_b"
        found = _basis(form.matrices(weight), rank, np.random.default_rng([seed, len(bases)]))
        bases[basis] = form.stored(found, weight.shape[1:])
        zeros = np.zeros((form.groups, form.outputs, rank), type_of(p.value, graph))
        constants[change] = form.stored(zeros, (rank, *[1] * (weight.ndim - 2)))
        trained.append(Parameter(change, change, p.node, p.depth))
        forms[p.value] = form
    if not bases:
        raise ValueError(f"adapters: what trains has no weight, but the head's, that is larger than a change of rank {rank}")

    def back(state: State) -> State:
        found = {name: array for name, array in state.items() if name not in bases}
        for p in chosen:
            if p.value in forms:
                form, weight = forms[p.value], master(p, graph)
                a, b = (form.matrices(state[f"{p.value}/lora_{side}"].astype(np.float64)) for side in "ab")
                found[p.value] = (weight + form.stored(b @ a, weight.shape[1:])).astype(np.float32)
        return found

    nodes = [made for node in graph.nodes for made in _branched(node, forms, graph)]
    return Adapted(graph.derive(nodes, constants), trained, bases, back)


class _Form(NamedTuple):
    """A weight as matrices (groups, outputs, inputs). ``turned``: it is stored with inputs first."""

    groups: int
    outputs: int
    inputs: int
    turned: bool

    def matrices(self, array: np.ndarray) -> np.ndarray:
        """A weight, A or B as it is stored, a matrix a group."""
        array = array.T if self.turned else array
        return array.reshape(self.groups, len(array) // self.groups, -1)

    def stored(self, matrices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The opposite; ``shape``: of its rows, where these are outputs."""
        if self.turned:
            return np.ascontiguousarray(matrices[0].T)
        return matrices.reshape(-1, *shape)


def _form(p: Parameter, readers: Sequence[Node], shape: tuple[int, ...]) -> _Form | None:
    """The weight of a layer; None for what is none, or of layers that read it in several ways."""
    ways = {_way(node) if [i for i, n in enumerate(node.inputs) if n == p.value] == [1] else None for node in readers}
    if len(ways) != 1 or len(shape) < 2 or (way := ways.pop()) is None:
        return None
    kind, groups, turned = way
    if kind != "Conv" and len(shape) != 2:
        return None
    return _Form(1, shape[1], shape[0], True) if turned else _Form(groups, shape[0] // groups, prod(shape[1:]), False)


def _way(node: Node) -> tuple[str, int, bool] | None:
    """(operator, groups, whether inputs come first) of a layer that reads a weight."""
    if isinstance(node.op, Conv):
        return "Conv", node.op.group, False
    if isinstance(node.op, Gemm):
        return "Gemm", 1, not node.op.transB
    return ("MatMul", 1, True) if isinstance(node.op, MatMul) else None


def _basis(weight: np.ndarray, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal rows, near the first right singular vectors: float32 (groups, rank, inputs)."""
    across = np.swapaxes(weight, -1, -2)
    count = min(rank + OVERSAMPLED, *weight.shape[-2:])
    q = across @ rng.standard_normal((*weight.shape[:-1], count)).astype(np.float32)
    for _ in range(ITERATIONS):
        q = np.linalg.qr(across @ (weight @ np.linalg.qr(q)[0]))[0]
    turned = np.linalg.svd(weight @ q, full_matrices=False)[2]
    return np.ascontiguousarray((turned @ np.swapaxes(q, -1, -2))[..., :rank, :], np.float32)


def _branched(node: Node, forms: Mapping[str, _Form], graph: Graph) -> list[Node]:
    """A node; a layer with its branch, whose results are added."""
    if len(node.inputs) < 2 or node.inputs[1] not in forms:
        return [node]
    value, y, op = node.inputs[1], node.outputs[0], node.op
    a, b, kind = f"{value}/lora_a", f"{value}/lora_b", type_of(value, graph)
    nodes = []
    if is_half(kind):
        typed = f"{y}/lora_a"
        nodes.append(Node(Cast(to=number_of(kind)), (a,), (typed,), typed))
        a = typed
    down, up = op, MatMul()
    if isinstance(op, Conv):
        up = Conv(group=op.group)
    elif isinstance(op, Gemm):
        down, up = Gemm(transA=op.transA, transB=op.transB), Gemm(alpha=op.alpha, transB=op.transB)
    return [
        *nodes,
        Node(op, node.inputs, (f"{y}/frozen",), node.name),
        Node(down, (node.inputs[0], a), (f"{y}/down",), f"{node.name}/down"),
        Node(up, (f"{y}/down", b), (f"{y}/up",), f"{node.name}/up"),
        Node(Add(), (f"{y}/frozen", f"{y}/up"), (y,), f"{node.name}/adapted"),
    ]
