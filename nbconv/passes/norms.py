"""Normalisations, as exporters without their operators write them, become one op."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.ops.reduce import ReduceMean
from nbconv.ops.shape import Transpose
from nbconv.ops.standardize import GroupNormalization, InstanceNormalization, LayerNormalization
from nbconv.passes.fold import array
from nbconv.passes.fuse import affine_map, kept, scalar, single


class Standard(NamedTuple):
    """What makes (x - mean) / sqrt(variance + epsilon) over some axes, and the values on the way to it."""

    x: str
    axes: tuple[int, ...]
    epsilon: float
    last: Node
    inside: tuple[str, ...]


def fuse_layer_norm(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, and where they follow Mul and Add, become LayerNormalization: over
    the last axes, or over the channels, which are turned to be the last axis for it."""
    roots = [node for node in graph.nodes if node.op.type == "Sqrt" and not node.op.domain]
    if not roots or not any(isinstance(node.op, ReduceMean) for node in graph.nodes):
        return graph
    look = _Look(graph, specs, keep)
    for root in roots:
        found = look.standard(root)
        if found is not None:
            look.layer(found)
    return look.derived()


def fuse_group_norm(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """Reshape to (n, groups, …), InstanceNormalization, Reshape back, and where they follow a factor and a term a channel,
    become GroupNormalization."""
    if not any(isinstance(node.op, InstanceNormalization) for node in graph.nodes):
        return graph
    look = _Look(graph, specs, keep)
    for node in graph.nodes:
        if isinstance(node.op, InstanceNormalization):
            look.group(node)
    return look.derived()


class _Look:
    """A graph in which such expressions are looked for, and what is found."""

    def __init__(self, graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> None:
        self.graph, self.specs = graph, specs
        self.makers, self.readers, self.only = graph.producers(), graph.readers(), single(graph, keep)
        self.wanted = keep | set(graph.outputs)
        self.constants: dict[str, Any] = dict(graph.constants)
        self.replaced: dict[str, list[Node]] = {}
        self.gone: dict[str, str] = {}

    def derived(self) -> Graph:
        """The graph with what was found."""
        if not self.replaced:
            return self.graph
        nodes: list[Node] = []
        for node in self.graph.nodes:
            if node.outputs[0] not in self.gone:
                nodes += self.replaced.get(node.outputs[0], [node])
        return self.graph.derive(nodes, self.constants, self.gone)

    def maker(self, name: str, *kinds: str) -> Node | None:
        """What makes a value, if it is one of these operators."""
        node = self.makers.get(name)
        return node if node is not None and node.op.type in kinds and not node.op.domain else None

    def standard(self, root: Node) -> Standard | None:
        """What divides by this square root, where all of it is such an expression that nobody else reads from."""
        added = self.maker(root.inputs[0], "Add")
        if added is None or self.specs[root.outputs[0]].dtype != FLOAT32 or root.outputs[0] not in self.only:
            return None
        last = self.readers[root.outputs[0]][0]
        if last.op.type != "Div" or last.inputs[1] != root.outputs[0] or last.op.domain:
            return None
        for variance, other in (added.inputs, added.inputs[::-1]):
            mean, epsilon = self.maker(variance, "ReduceMean"), scalar(self.graph, self.specs, other)
            square = self.maker(mean.inputs[0], "Pow", "Mul") if mean is not None else None
            if mean is None or square is None or epsilon is None:
                continue
            power = scalar(self.graph, self.specs, square.inputs[1])
            if not (power == 2 if square.op.type == "Pow" else square.inputs[0] == square.inputs[1]):
                continue
            subs = [self.maker(name, "Sub") for name in (square.inputs[0], last.inputs[0])]
            middles = [self.maker(s.inputs[1], "ReduceMean") if s is not None else None for s in subs]
            one, two = middles
            if subs[0] is None or subs[1] is None or one is None or two is None:
                continue
            x = subs[0].inputs[0]
            axes = [self.axes(m) for m in (mean, one, two)]
            if any(n != x for n in (subs[1].inputs[0], one.inputs[0], two.inputs[0])) or axes[0] is None or len({*axes}) > 1:
                continue
            between = (root, added, mean, square, *subs, one, two)
            inside = tuple(dict.fromkeys(n.outputs[0] for n in between if n is not None))
            known = {*inside, last.outputs[0]}
            if any(r.outputs[0] not in known for n in inside for r in self.readers[n]) or not self.wanted.isdisjoint(inside):
                return None
            return Standard(x, axes[0], epsilon, last, inside)
        return None

    def axes(self, mean: Node) -> tuple[int, ...] | None:
        """The axes of a mean that keeps them, where they are known."""
        given = tuple(self.specs[n] if n else None for n in mean.inputs)
        if not mean.op.keepdims or (given[1:] and given[1] is not None and given[1].value is None):  # type: ignore[attr-defined]
            return None
        return mean.op._over(given)  # type: ignore[attr-defined]

    def layer(self, found: Standard) -> None:
        """LayerNormalization in the place of the expression."""
        x, rank = self.specs[found.x], self.specs[found.x].rank
        channels = found.axes == (1,) and rank >= 3
        if not found.axes or (not channels and found.axes != (*range(rank - len(found.axes), rank),)):
            return
        shape = tuple(x.shape[a] for a in found.axes)
        last, inside = found.last, list(found.inside)
        node = self.next(last, "Mul")
        scale = self.along(node, last.outputs[0], shape, channels)
        if node is not None and scale is not None:
            inside.append(last.outputs[0])
            last = node
        node = self.next(last, "Add")
        shift = self.along(node, last.outputs[0], shape, channels)
        if node is not None and shift is not None:
            inside.append(last.outputs[0])
            last = node
        if scale is None:  # of one element: the row may be of another size in the next run
            scale = np.ones(1, np.float32) if shift is None else np.ones_like(shift)
        y = last.outputs[0]
        names = [self.keep(f"{y}#scale", scale), *([self.keep(f"{y}#shift", shift)] if shift is not None else [])]
        op = LayerNormalization(axis=-len(found.axes), epsilon=found.epsilon)
        if channels:
            turned, made = f"{found.x}#to#{y}#turned", f"{y}#turned"
            spec = Spec((*x.shape[:1], *x.shape[2:], x.shape[1]), x.dtype)
            self.specs[turned] = self.specs[made] = spec
            self.replaced[y] = [
                Node(Transpose(perm=(0, *range(2, rank), 1)), (found.x,), (turned,), turned),
                Node(op, (turned, *names), (made,), last.name),
                Node(Transpose(perm=(0, rank - 1, *range(1, rank - 1))), (made,), (y,), y),
            ]
        else:
            self.replaced[y] = [Node(op, (found.x, *names), (y,), last.name)]
        self.gone |= dict.fromkeys(inside, f"fused into {y}")

    def group(self, node: Node) -> None:
        """GroupNormalization in the place of an InstanceNormalization between two Reshapes."""
        before = self.maker(node.inputs[0], "Reshape")
        after = self.next(node, "Reshape")
        if before is None or after is None or before.outputs[0] not in self.only or after.inputs[0] != node.outputs[0]:
            return
        x, y = self.specs[before.inputs[0]], self.specs[after.outputs[0]]
        n, groups, *_ = self.specs[node.inputs[0]].shape
        if x.shape != y.shape or x.rank < 3 or x.dtype != FLOAT32 or n != x.shape[0] or type(groups) is not int:
            return
        c = x.shape[1]
        if type(c) is not int or groups < 1 or c % groups or any(name not in self.constants for name in node.inputs[1:]):
            return
        scale, shift = (np.repeat(array(self.constants[name]).astype(np.float64), c // groups) for name in node.inputs[1:])
        last, inside = after, [before.outputs[0], node.outputs[0]]
        while (then := self.next(last, "Mul", "Add")) is not None:
            affine = affine_map(then, self.specs, self.constants)
            if affine is None or affine[0] != last.outputs[0]:
                break
            inside.append(last.outputs[0])
            last, scale, shift = then, scale * affine[1], shift * affine[1] + affine[2]
        z = last.outputs[0]
        names = (self.keep(f"{z}#scale{c}", scale), self.keep(f"{z}#shift{c}", shift))
        op = GroupNormalization(num_groups=groups, epsilon=node.op.epsilon)  # type: ignore[attr-defined]
        self.replaced[z] = [Node(op, (before.inputs[0], *names), (z,), node.name)]
        self.gone |= dict.fromkeys(inside, f"fused into {z}")

    def next(self, node: Node, *kinds: str) -> Node | None:
        """The one node that reads the node's output, if it is one of these operators."""
        if node.outputs[0] not in self.only:
            return None
        reader = self.readers[node.outputs[0]][0]
        return reader if reader.op.type in kinds and not reader.op.domain else None

    def along(self, node: Node | None, x: str, shape: tuple[int, ...], channels: bool) -> np.ndarray | None:
        """The node's other operand, where it is a constant of one element for each place along the normalised axes."""
        if node is None:
            return None
        name = node.inputs[1] if node.inputs[0] == x else node.inputs[0]
        constant, rank = self.constants.get(name), self.specs[x].rank
        if constant is None or len(constant.shape) > rank or self.specs[node.outputs[0]].shape != self.specs[x].shape:
            return None
        wanted = (*shape, *[1] * (rank - 2)) if channels else shape
        full = (1,) * (rank - len(constant.shape)) + tuple(constant.shape)
        if full != (1,) * (rank - len(wanted)) + wanted:
            return None
        return array(constant).reshape(full[rank - len(wanted) :][: len(shape)]).astype(np.float32)

    def keep(self, name: str, value: np.ndarray) -> str:
        return kept(name, value.astype(np.float32), self.specs, self.constants)
