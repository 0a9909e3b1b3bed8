"""Convolutions of one value whose results are added become one, whose weights are their sum: networks that are trained with
such branches are meant to be reparameterised (Ding 2021, RepVGG)."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.graph.symbolic import settled
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.conv import Conv
from nbconv.passes.fold import Deferred, array
from nbconv.passes.fuse import affine_map, kept, single


class Branch(NamedTuple):
    """A convolution by weights that are constants, or a factor and a term a channel, which is one of 1×1 taps."""

    node: Node
    shape: tuple[int, ...]
    """of its weights, where it has some"""
    begin: tuple[int, ...]
    end: tuple[int, ...]
    """the padding"""


def merge_branches(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """Add or Sub of convolutions of one value, where one's window has the other's, becomes one; so does that of a
    convolution and a batch normalisation of its input."""
    only = single(graph, keep)
    constants: dict[str, Any] = dict(graph.constants)
    nodes: list[Node | None] = []
    at: dict[str, int] = {}
    gone: dict[str, str] = {}
    for node in graph.nodes:
        names = node.inputs
        if node.op.type in ("Add", "Sub") and len({*names}) == 2 and all(n in only and n in at for n in names):
            left, right = (nodes[at[n]] for n in names)
            if left is not None and right is not None and left.inputs[0] == right.inputs[0]:
                merged = _merged(left, right, node, specs, constants)
                if merged is not None:
                    for name in names:
                        nodes[at[name]] = None
                        gone[name] = f"fused into {node.outputs[0]}"
                    node = merged
        at[node.outputs[0]] = len(nodes)
        nodes.append(node)
    return graph.derive([n for n in nodes if n is not None], constants, gone) if gone else graph


def _merged(left: Node, right: Node, node: Node, specs: dict[str, Spec], constants: dict[str, Any]) -> Node | None:
    """The sum of two branches as one convolution, None where it is none."""
    one, two = _branch(left, specs, constants), _branch(right, specs, constants)
    if one is None or two is None or specs[left.outputs[0]].shape != specs[right.outputs[0]].shape:
        return None
    signed = [(one, 1.0), (two, -1.0 if node.op.type == "Sub" else 1.0)]
    (big, sign), (small, other) = sorted(signed, key=lambda t: -prod(t[0].shape))
    op = big.node.op
    if not isinstance(op, Conv) or (small.shape and not _alike(big, small)):
        return None
    if not small.shape and any(s != 1 for s in op.strides or ()):
        return None
    size = small.shape[2:] or (1,) * (len(big.shape) - 2)
    at = tuple(b - s for b, s in zip(big.begin, small.begin or (0,) * len(size), strict=True))
    if any(a < 0 or a + s > k for a, s, k in zip(at, size, big.shape[2:], strict=True)):
        return None
    w = _weights(big, sign, small, other, at, size, specs, constants)
    b = sign * _bias(big, specs, constants) + other * _bias(small, specs, constants)
    x = big.node.inputs[0]
    b = kept(f"{x}#to#{node.outputs[0]}#b", np.asarray(b, np.float32), specs, constants)
    return Node(op, (x, w, b), node.outputs, big.node.name)


def _branch(node: Node, specs: dict[str, Spec], constants: dict[str, Any]) -> Branch | None:
    op = node.op
    if isinstance(op, BatchNormalization):
        return Branch(node, (), (), ()) if affine_map(node, specs, constants) is not None else None
    if type(op) is not Conv or op.auto_pad != "NOTSET" or any(d != 1 for d in op.dilations or ()):
        return None
    if any(n not in constants for n in node.inputs[1:] if n):
        return None
    shape = specs[node.inputs[1]].shape
    pads = op.pads or (0,) * (2 * (len(shape) - 2))
    return Branch(node, shape, pads[: len(shape) - 2], pads[len(shape) - 2 :])


def _alike(big: Branch, small: Branch) -> bool:
    """Whether two convolutions do the same but for their windows."""
    ops = [branch.node.op for branch in (big, small) if isinstance(branch.node.op, Conv)]
    strides = {tuple(op.strides or (1,) * len(big.begin)) for op in ops}
    return len(strides) == 1 and len({op.group for op in ops}) == 1 and big.shape[:2] == small.shape[:2]


def _weights(
    big: Branch,
    sign: float,
    small: Branch,
    other: float,
    at: tuple[int, ...],
    size: tuple[int, ...],
    specs: dict[str, Spec],
    constants: dict[str, Any],
) -> str:
    """The name of ``sign`` times the larger weights plus ``other`` times the smaller ones, from the taps ``at`` on."""
    first, second = settled(constants[big.node.inputs[1]]), None
    factors = np.zeros(0)
    if small.shape:
        second = settled(constants[small.node.inputs[1]])
    else:
        affine = affine_map(small.node, specs, constants)
        assert affine is not None
        factors = affine[1]
    inside = (..., *(slice(a, a + s) for a, s in zip(at, size, strict=True)))

    def make() -> np.ndarray:
        w = sign * array(first).astype(np.float64)
        if second is not None:
            w[inside] += other * array(second)
        else:
            channels = np.arange(len(w))
            w[(channels, channels % w.shape[1], *at)] += other * factors
        return w.astype(np.float32)

    added = small.node.inputs[1] if small.shape else f"{small.node.op!r}({','.join(small.node.inputs[1:])})"
    name = f"{big.node.inputs[1]}*{sign}+{added}*{other}@{','.join(map(str, at))}"
    constants[name] = Deferred(tuple(first.shape), first.dtype, make)
    specs[name] = Spec(tuple(first.shape), first.dtype, None, True)
    return name


def _bias(branch: Branch, specs: dict[str, Spec], constants: dict[str, Any]) -> Any:
    if not branch.shape:
        affine = affine_map(branch.node, specs, constants)
        assert affine is not None
        return affine[2]
    name = (*branch.node.inputs, "")[2]
    return array(constants[name]).astype(np.float64) if name else np.zeros(branch.shape[0])
