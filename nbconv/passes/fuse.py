"""Fewer steps: per-channel arithmetic folded into the weights before it, activations and residual sums into kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.graph.op import NUMPY
from nbconv.graph.symbolic import settled
from nbconv.kernels.params import Activation, Epilogue
from nbconv.lowering.context import Affine
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.inner import ChannelShuffle, Fused, Silu
from nbconv.ops.quantize import EIGHT_BITS
from nbconv.ops.rectifier import HardSwish
from nbconv.passes.fold import Deferred, array

if TYPE_CHECKING:
    from collections.abc import Mapping

CLAMPED = EIGHT_BITS | {FLOAT32}
"""Types that kernels limit before they store them."""
ARITHMETIC = ("Mul", "Div", "Add", "Sub")
"""Operators that may apply a factor or a term a channel."""
PRODUCTS = ("Conv", "ConvTranspose", "Gemm")
"""Operators whose kernels apply a factor and a term a channel."""


def single(graph: Graph, keep: frozenset[str]) -> set[str]:
    """Values that exactly one node reads and nobody else wants."""
    return {name for name, readers in graph.readers().items() if len(readers) == 1} - set(graph.outputs) - keep


def scalar(graph: Graph, specs: Mapping[str, Spec], name: str) -> float | None:
    """The number that a constant of at most one axis holds; None where it is something else."""
    constant = graph.constants.get(name)
    if constant is None or len(constant.shape) > 1 or specs[name].size != 1:
        return None
    return float(array(constant).reshape(()))


def fuse_silu(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """Mul(x, Sigmoid(x)) becomes one op."""
    makers, only = graph.producers(), single(graph, keep)
    replaced: dict[str, Node] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        if node.op.type != "Mul" or node.op.domain:
            continue
        for x, gate in (node.inputs, node.inputs[::-1]):
            maker = makers.get(gate)
            if maker and maker.op.type == "Sigmoid" and maker.inputs == (x,) and gate in only:
                replaced[node.outputs[0]] = Node(Silu(), (x,), node.outputs, node.name)
                dropped.add(gate)
                break
    nodes = [replaced.get(n.outputs[0], n) for n in graph.nodes if n.outputs[0] not in dropped]
    return graph.derive(nodes, provenance=dict.fromkeys(dropped, "fused into the Mul that reads it"))


def fuse_hard_swish(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """x·clip(x + 3, 0, 6)/6, as exporters without HardSwish write it, becomes one op."""
    makers, only = graph.producers(), single(graph, keep)
    replaced: dict[str, Node] = {}
    gone: dict[str, str] = {}
    for node in graph.nodes:
        if (
            node.op.type != "Div"
            or node.op.domain
            or scalar(graph, specs, node.inputs[1]) != 6
            or specs[node.outputs[0]].dtype != FLOAT32
        ):
            continue
        product = makers.get(node.inputs[0])
        if product is None or product.op.type != "Mul" or product.outputs[0] not in only:
            continue
        for x, gate in (product.inputs, product.inputs[::-1]):
            clip = makers.get(gate)
            if clip is None or clip.op.type != "Clip" or gate not in only or clip.inputs[0] not in only:
                continue
            shifted = makers.get(clip.inputs[0])
            limits = clip.op.limits([specs[n] if n else None for n in clip.inputs])  # type: ignore[attr-defined]
            if limits != (0, 6) or shifted is None or shifted.op.type != "Add":
                continue
            if any(a == x and scalar(graph, specs, b) == 3 for a, b in (shifted.inputs, shifted.inputs[::-1])):
                replaced[node.outputs[0]] = Node(HardSwish(), (x,), node.outputs, node.name)
                gone |= {m.outputs[0]: f"fused into {node.outputs[0]}" for m in (product, clip, shifted)}
                break
    nodes = [replaced.get(n.outputs[0], n) for n in graph.nodes if n.outputs[0] not in gone]
    return graph.derive(nodes, provenance=gone)


def fuse_shuffle(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """Reshape (n, g, c/g, h, w), Transpose of its axes 1 and 2, Reshape (n, c, h, w) becomes one op."""
    makers, only = graph.producers(), single(graph, keep)
    replaced: dict[str, Node] = {}
    gone: dict[str, str] = {}
    for node in graph.nodes:
        turned = makers.get(node.inputs[0]) if node.op.type == "Reshape" else None
        split = makers.get(turned.inputs[0]) if turned is not None and turned.op.type == "Transpose" else None
        if turned is None or split is None or split.op.type != "Reshape":
            continue
        if turned.outputs[0] not in only or split.outputs[0] not in only or specs[node.outputs[0]].dtype != FLOAT32:
            continue
        x, middle, y = (specs[v].shape for v in (split.inputs[0], split.outputs[0], node.outputs[0]))
        if turned.op.perm != (0, 2, 1, 3, 4) or x != y or len(x) != 4 or (*middle[:1], *middle[3:]) != (x[0], *x[2:]):  # type: ignore[attr-defined]
            continue
        op = ChannelShuffle(group=middle[1])
        replaced[node.outputs[0]] = Node(op, (split.inputs[0],), node.outputs, node.name)
        gone |= {m.outputs[0]: f"fused into {node.outputs[0]}" for m in (turned, split)}
    nodes = [replaced.get(n.outputs[0], n) for n in graph.nodes if n.outputs[0] not in gone]
    return graph.derive(nodes, provenance=gone)


def fold_affine(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """BatchNormalization, and Mul, Div, Add and Sub with a constant a channel, go into the weights of the convolution or
    normalisation before them: y·s + t of x∗w + b is x∗(w·s) + (b·s + t)."""
    only = single(graph, keep)
    constants: dict[str, Any] = dict(graph.constants)
    nodes: list[Node] = []
    at: dict[str, int] = {}
    gone: dict[str, str] = {}
    for node in graph.nodes:
        makers = [nodes[at[n]] for n in node.inputs if n in only and n in at]
        affine = affine_map(node, specs, constants) if any(_takes_affine(m, specs) for m in makers) else None
        if affine is not None:
            source, scale, shift = affine
            if source in only and source in at:
                merged = _scaled(nodes[at[source]], node, scale, shift, specs, constants)
                if merged is not None:
                    nodes[at[source]] = merged
                    at[node.outputs[0]] = at[source]
                    gone[source] = f"fused into {node.outputs[0]}"
                    continue
        at[node.outputs[0]] = len(nodes)
        nodes.append(node)
    return graph.derive(nodes, constants, gone)


def _takes_affine(maker: Node, specs: dict[str, Spec]) -> bool:
    """Whether a factor and a term a channel may go into a node, as far as its type and rank say."""
    kind = maker.op.type
    if kind in ARITHMETIC or isinstance(maker.op, BatchNormalization):
        return specs[maker.outputs[0]].rank == 4
    return kind in ("Conv", "ConvTranspose")


def _constant_along(axis: int, name: str, out: Spec, constants: dict[str, Any]) -> np.ndarray | None:
    """A constant operand as one float64 for each place along an axis of ``out``, or None when it is something else."""
    constant = constants.get(name)
    if constant is None or len(constant.shape) > len(out.shape) or len(out.shape) < 2:
        return None
    shape = (1,) * (len(out.shape) - len(constant.shape)) + tuple(constant.shape)
    c = out.shape[axis]
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, c):
        return None
    return np.broadcast_to(array(constant).reshape(shape[axis]).astype(np.float64), (c,))


def affine_map(
    node: Node, specs: dict[str, Spec], constants: dict, axis: int = 1
) -> tuple[str, np.ndarray, np.ndarray] | None:
    """(x, scale, shift) when the node computes x·scale + shift with one constant for each place along the axis."""
    out = specs[node.outputs[0]]
    kind = node.op.type
    if node.op.domain or out.dtype != FLOAT32:
        return None
    if isinstance(node.op, BatchNormalization):
        if node.op.training_mode or any(n not in constants for n in node.inputs[1:]):
            return None
        scale, bias, mean, variance = (array(constants[n]).astype(np.float64) for n in node.inputs[1:5])
        scale = scale / np.sqrt(variance + node.op.epsilon)
        return node.inputs[0], scale, bias - mean * scale
    if kind not in ARITHMETIC or len(node.inputs) != 2:
        return None
    x, c = node.inputs
    if x in constants and kind in ("Mul", "Add"):
        x, c = c, x
    if x in constants or specs[x].shape != out.shape:
        return None
    value = _constant_along(axis, c, out, constants)
    if value is None or (kind == "Div" and not value.all()):
        return None
    one, zero = np.ones_like(value), np.zeros_like(value)
    return {
        "Mul": (x, value, zero),
        "Div": (x, 1 / value if kind == "Div" else one, zero),
        "Add": (x, one, value),
        "Sub": (x, one, -value),
    }[kind]


def _scaled(maker: Node, node: Node, scale, shift, specs: dict[str, Spec], constants: dict[str, Any]) -> Node | None:
    """The maker with the affine map of ``node`` folded into its constants, giving the node's output; None if it can't."""
    out = node.outputs[0]
    if maker.op.domain or len(maker.outputs) != 1:
        return None
    previous = affine_map(maker, specs, constants)
    if previous is not None and specs[out].rank == 4:
        x, s, t = previous
        values = {"scale": s * scale, "B": t * scale + shift, "mean": np.zeros_like(s), "var": np.ones_like(s)}
        names = tuple(kept(f"{x}#to#{out}#{k}", v.astype(np.float32), specs, constants) for k, v in values.items())
        return Node(BatchNormalization(epsilon=0.0), (x, *names), node.outputs, node.name)
    if maker.op.type not in ("Conv", "ConvTranspose") or any(n not in constants for n in maker.inputs[1:] if n):
        return None
    w = settled(constants[maker.inputs[1]])
    bias = constants.get((*maker.inputs, "")[2])
    b = array(bias).astype(np.float64) if bias is not None else 0.0
    group = maker.op.group if maker.op.type == "ConvTranspose" else 0  # type: ignore[attr-defined]
    spread = ((w.shape[0], w.shape[1]) if group else (w.shape[0], 1)) + (1,) * (len(w.shape) - 2)
    factor = (
        (np.repeat(scale.reshape(group, -1), w.shape[0] // group, 0) if group else scale).astype(np.float32).reshape(spread)
    )
    names = [maker.inputs[1]]
    if not np.array_equal(scale, np.ones_like(scale)):
        folded = Deferred(w.shape, w.dtype, lambda: array(w) * factor)
        names = [f"{maker.inputs[1]}#{node.op!r}({','.join(n for n in node.inputs if n in constants)})"]
        constants[names[0]] = folded
        specs[names[0]] = Spec(tuple(w.shape), w.dtype, None, True)
    names.append(kept(f"{maker.inputs[0]}#to#{out}#b", (b * scale + shift).astype(np.float32), specs, constants))
    return Node(maker.op, (maker.inputs[0], *names), node.outputs, node.name)


def kept(name: str, value: np.ndarray, specs: dict[str, Spec], constants: dict[str, Any]) -> str:
    constants[name] = value
    specs[name] = Spec(value.shape, value.dtype, value, True)
    return name


def fuse_epilogues(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """Activations, sums with an array of the same shape, and a factor and term a channel after those are done by the kernel
    that makes their input."""
    only = single(graph, keep)
    nodes: list[Node | None] = []
    at: dict[str, int] = {}
    gone: dict[str, str] = {}
    for node in graph.nodes:
        given = tuple(specs[n] if n else None for n in node.inputs)
        fused = _residual(node, nodes, at, only, specs)
        if fused is None:
            epilogue = node.op.epilogue(given) if given and given[0] is not None and given[0].dtype in CLAMPED else None
            where = at.get(node.inputs[0], -1) if node.inputs else -1
            if epilogue is not None and node.inputs[0] in only and where >= 0:
                fused = _absorbed(nodes[where], node, epilogue, specs)
                if fused is not None:
                    nodes[where], at[node.outputs[0]] = fused, where
                    gone[node.inputs[0]] = f"fused into {node.outputs[0]}"
                    continue
            makers = [nodes[at[n]] for n in node.inputs if n in only and n in at]
            products = any(m is not None and _parts(m)[0].type in PRODUCTS for m in makers)
            affine = affine_map(node, specs, graph.constants) if products else None
            if affine is not None and affine[0] in only and affine[0] in at:
                fused = _with_affine(nodes[at[affine[0]]], node, affine, specs)
                if fused is not None:
                    nodes[at[affine[0]]], at[node.outputs[0]] = fused, at[affine[0]]
                    gone[affine[0]] = f"fused into {node.outputs[0]}"
                    continue
        elif fused is not None:
            maker, fused = fused
            gone[maker] = f"fused into {node.outputs[0]}"
            nodes[at[maker]] = None
            node = fused
        at[node.outputs[0]] = len(nodes)
        nodes.append(node)
    return graph.derive([n for n in nodes if n is not None], provenance=gone)


def _can(node: Node, specs: dict[str, Spec]) -> str:
    given = tuple(specs[n] if n else None for n in node.inputs)
    found = tuple(specs[n] for n in node.outputs if n)
    return "" if node.op.layout(given, found) == NUMPY else node.op.absorbs(given, found)


def _absorbed(maker: Node | None, node: Node, epilogue: Epilogue, specs: dict[str, Spec]) -> Node | None:
    """The maker with the node's activation in its epilogue. Further outputs, as a batch normalisation has in training, stay
    what they are."""
    can = _can(maker, specs) if maker is not None else ""
    clamps = epilogue.act == Activation.NONE
    if maker is None or can in ("", "affine") or maker.outputs[0] != node.inputs[0] or (can == "clamp" and not clamps):
        return None
    inner, tail, residual = _parts(maker)
    outputs = (*node.outputs, *maker.outputs[1:])
    return Node(Fused(inner, (*tail, node.op), epilogue, residual), maker.inputs, outputs, node.name)


def _with_affine(maker: Node | None, node: Node, affine: tuple[str, Any, Any], specs: dict[str, Spec]) -> Node | None:
    """The maker, a convolution or Gemm, with the node's factor and term a channel behind its epilogue."""
    if maker is None or _can(maker, specs) not in ("activation", "residual", "affine"):
        return None
    inner, tail, residual = _parts(maker)
    if inner.type not in PRODUCTS or len(maker.outputs) != 1:
        return None
    source, scale, shift = affine
    key = "/".join([repr(node.op), *(n for n in node.inputs if n != source)])
    epilogue = maker.op.fused if isinstance(maker.op, Fused) else Epilogue()
    fused = Fused(inner, (*tail, node.op), epilogue, residual, Affine(key, scale.astype("f4"), shift.astype("f4")))
    return Node(fused, maker.inputs, node.outputs, node.name)


def _residual(
    node: Node, nodes: list, at: dict[str, int], only: set[str], specs: dict[str, Spec]
) -> tuple[str, Node] | None:
    """(fused away, the maker of one operand with the other as its residual) for a sum of two arrays of one shape. A constant
    with channels never lies channels last, so it is no residual."""
    if node.op.type not in ("Add", "Sum") or len(node.inputs) != 2 or node.inputs[0] == node.inputs[1]:
        return None
    if specs[node.inputs[0]].shape != specs[node.inputs[1]].shape:
        return None
    for name in sorted(node.inputs, key=lambda n: -at.get(n, -1)):
        maker = nodes[at[name]] if name in at and name in only else None
        other = node.inputs[0] if name == node.inputs[1] else node.inputs[1]
        if specs[other].constant and specs[other].rank >= 3:
            continue
        if maker is not None and len(maker.outputs) == 1 and _can(maker, specs) == "residual":
            inner, tail, _ = _parts(maker)
            fused = Fused(inner, (*tail, node.op), Epilogue(), True)
            return name, Node(fused, (*maker.inputs, other), node.outputs, node.name)
    return None


def _parts(node: Node) -> tuple[Any, tuple, bool]:
    if isinstance(node.op, Fused):
        return node.op.inner, node.op.tail, node.op.residual
    return node.op, (), False
