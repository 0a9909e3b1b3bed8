"""Low-rank changes of weights that train in their place and go into them when the model is used or saved (LoRA, Hu 2021;
only the side of the outputs trains, and the other one comes from the weight, as in LoRA-Edge, 2025)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from nbconv.edit.parameters import Parameter, master, type_of
from nbconv.graph import Graph, Node
from nbconv.graph.infer import number_of
from nbconv.ops.cast import Cast
from nbconv.ops.linear import MatMul
from nbconv.ops.pointwise import Add
from nbconv.ops.shape import Reshape
from nbconv.passes.straight_through import quantises

State = Mapping[str, np.ndarray]
ADAPTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OVERSAMPLED, ITERATIONS = 8, 3


class Adapted(NamedTuple):
    """A ``graph`` whose weights are W + B·A; what trains in it, the B's among them; the A's, by name; and what makes weights
    for the graph as it was from a state that has both."""

    graph: Graph
    trained: list[Parameter]
    bases: dict[str, np.ndarray]
    back: Callable[[State], State]


def adapted(graph: Graph, chosen: Sequence[Parameter], rank: int, whole: Collection[str] = (), seed: int = 0) -> Adapted:
    """Gives the weights of convolutions, Gemm and MatMul among ``chosen``, but for the values ``whole``, a change of rank
    ``rank``.

    A weight is a matrix W (rows, columns) a group, of a convolution (filters, channels and taps). A (rank, columns) spans
    what W reads most: its first right singular vectors, found by subspace iteration (Halko 2011) that begins by ``seed``.
    B (rows, rank) begins as 0. Where B and A have no fewer numbers than W, and for all that is no such weight, the parameter
    trains itself. ValueError where no weight is left, or one is stored as integers.
    """
    if not isinstance(rank, (int, np.integer)) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"adapters is {rank!r}, wanted a rank, 1 or more")
    made, constants = graph.producers(), dict(graph.constants)
    trained: list[Parameter] = []
    added: dict[str, list[Node]] = {}
    bases: dict[str, np.ndarray] = {}
    for p in chosen:
        weight = master(p, graph)
        groups, rows, columns = _matrix(p, weight.shape)
        if p.value in whole or rank * (rows + columns) >= rows * columns:
            trained.append(p)
            continue
        if p.value in made and quantises(made[p.value], graph):
            told = f"adapters: the weight {p.name!r} of {p.node.name} is stored as integers"
            raise ValueError(f"{told}, which take no small change: train it whole")
        lead = (groups,) if groups > 1 else ()
        basis, change = f"{p.value}/lora_a", f"{p.value}/lora_b"
        bases[basis] = _basis(weight.reshape(*lead, rows, columns), rank, np.random.default_rng([seed, len(bases)]))
        constants[change] = np.zeros((*lead, rows, rank), np.float32)
        constants[f"{p.value}/shape"] = np.array(weight.shape, np.int64)
        trained.append(Parameter(change, change, p.node, p.depth))
        added[p.value] = _sum(p, graph, change, basis)
    if not bases:
        raise ValueError(f"adapters: what trains has no weight, but the head's, that is larger than a change of rank {rank}")

    def back(state: State) -> State:
        found = {name: array for name, array in state.items() if name not in bases}
        for p in chosen:
            if p.value in added:
                weight = master(p, graph)
                change = state[f"{p.value}/lora_b"].astype(np.float64) @ state[f"{p.value}/lora_a"].astype(np.float64)
                found[p.value] = (weight + change.reshape(weight.shape)).astype(np.float32)
        return found

    return Adapted(graph.derive(_with(graph.nodes, added), constants), trained, bases, back)


def _matrix(p: Parameter, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A weight as (groups, rows, columns); none where it is not a layer's."""
    kind = p.node.op.type
    if kind not in ADAPTS or len(shape) < 2:
        return 1, 0, 0
    if kind in ("Conv", "ConvTranspose"):
        groups = getattr(p.node.op, "group", 1)
        return groups, shape[0] // groups, prod(shape[1:])
    return prod(shape[:-2]), shape[-2], shape[-1]


def _basis(weight: np.ndarray, rank: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal rows, near the first right singular vectors: float32 (…, rank, columns)."""
    across = np.swapaxes(weight, -1, -2)
    count = min(rank + OVERSAMPLED, *weight.shape[-2:])
    q = across @ rng.standard_normal((*weight.shape[:-1], count)).astype(np.float32)
    for _ in range(ITERATIONS):
        q = np.linalg.qr(across @ (weight @ np.linalg.qr(q)[0]))[0]
    turned = np.linalg.svd(weight @ q, full_matrices=False)[2]
    return np.ascontiguousarray((turned @ np.swapaxes(q, -1, -2))[..., :rank, :], np.float32)


def _sum(p: Parameter, graph: Graph, change: str, basis: str) -> list[Node]:
    """The nodes that make W + B·A, in W's type."""
    names = [f"{p.value}/{what}" for what in ("product", "change", "typed", "adapted")]
    kind = type_of(p.value, graph)
    return [
        Node(MatMul(), (change, basis), (names[0],), names[0]),
        Node(Reshape(), (names[0], f"{p.value}/shape"), (names[1],), names[1]),
        Node(Cast(to=number_of(kind)), (names[1],), (names[2],), names[2]),
        Node(Add(), (p.value, names[2]), (names[3],), names[3]),
    ]


def _with(nodes: Sequence[Node], added: Mapping[str, list[Node]]) -> list[Node]:
    """The nodes, with those that make a weight before the first that reads it; all read it as it was made."""
    found: list[Node] = []
    todo = dict(added)
    for node in nodes:
        for name in node.inputs:
            found += todo.pop(name, [])
        inputs = tuple(f"{n}/adapted" if n in added else n for n in node.inputs)
        found.append(node if inputs == node.inputs else Node(node.op, inputs, node.outputs, node.name))
    return found
