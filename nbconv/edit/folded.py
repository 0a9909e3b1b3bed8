"""Whether an exporter folded a model's batch normalisation into its convolutions, which makes it harder to train on."""

from __future__ import annotations

import re
from typing import NamedTuple

from nbconv.graph import Graph, Node

FEWEST, SHARE = 8, 0.8
"""Fewer convolutions than this tell nothing; of more, at least this share must have a bias."""
NAMES = re.compile(r"onnx::Conv_\d+|fused?[_.]?(conv|bn)|folded|batch_?norm|(^|[/._])bn\d*([/._]|$)", re.IGNORECASE)
"""Names that are left behind: torch.onnx calls folded weights onnx::Conv_123; TensorFlow's keep the word."""


class FoldedNorms(NamedTuple):
    """What was looked at, and what it comes to."""

    likely: bool
    convolutions: int
    with_bias: int
    norms: int
    """nodes that normalise"""
    evidence: tuple[str, ...]
    """a sentence for each sign"""


def folded_norms(graph: Graph) -> FoldedNorms:
    """Looks for convolutions with a bias and no normalisation anywhere, where something says that the network was made with
    it: names that exporters leave, filters of one channel each (MobileNet's kind), sums around convolutions (ResNet's),
    swish activations. Networks of before batch normalisation (AlexNet, VGG) have none of these.
    """
    made = graph.producers()
    convolutions = [n for n in graph.nodes if n.op.type in ("Conv", "ConvTranspose") and _stored(n.inputs[1], graph, made)]
    biased = [n for n in convolutions if len(n.inputs) > 2 and n.inputs[2]]
    norms = sum(n.op.is_norm for n in graph.nodes)
    evidence = tuple(sentence for sentence in (_names(biased), *_architecture(graph, biased, made)) if sentence)
    plain = norms == 0 and len(convolutions) >= FEWEST and len(biased) >= SHARE * len(convolutions)
    return FoldedNorms(plain and bool(evidence), len(convolutions), len(biased), norms, evidence)


def _names(biased: list[Node]) -> str:
    named = [n for n in biased if any(NAMES.search(name) for name in (n.name, *n.inputs[1:], *n.outputs))]
    if not named:
        return ""
    return (
        f"{len(named)} of {len(biased)} have names that folding leaves, such as {named[0].inputs[1]!r} of {named[0].name!r}"
    )


def _stored(name: str, graph: Graph, made: dict[str, Node]) -> str | None:
    """The constant that a value is, or is cast or dequantised from."""
    while name not in graph.constants:
        if name not in made or not made[name].op.converts:
            return None
        name = made[name].inputs[0]
    return name


def _architecture(graph: Graph, biased: list[Node], made: dict[str, Node]) -> list[str]:
    """Signs that the network is of a family that has batch normalisation."""
    depthwise = [n for n in biased if _groups(n) > 1 and _groups(n) == _filters(n, graph, made)]
    sums = [n for n in graph.nodes if n.op.type in ("Add", "Sum") and _joins(n, made)]
    swish = [n for n in graph.nodes if n.op.type in ("HardSwish", "Silu") or _is_swish(n, made)]
    told = []
    for nodes, what in (
        (depthwise, "have one filter a channel, as MobileNet and its kin"),
        (sums, "sums join a convolution with what went round it, as in ResNet and its kin"),
        (swish, "activations are swish or hard swish, as in EfficientNet and MobileNetV3"),
    ):
        if len(nodes) >= 2:
            told.append(f"{len(nodes)} {what}")
    return told


def _filters(node: Node, graph: Graph, made: dict[str, Node]) -> int:
    """How many filters a convolution has."""
    return graph.constants[_stored(node.inputs[1], graph, made) or ""].shape[0]


def _groups(node: Node) -> int:
    return getattr(node.op, "group", 1)


def _joins(node: Node, made: dict[str, Node]) -> bool:
    """Whether a convolution's result is added to another value that was computed."""
    makers = [made[n] for n in node.inputs if n in made]
    return len(makers) == len(node.inputs) and any(m.op.type == "Conv" for m in makers)


def _is_swish(node: Node, made: dict[str, Node]) -> bool:
    """x · sigmoid(x) in two nodes."""
    if node.op.type != "Mul" or len(node.inputs) != 2:
        return False
    for i in (0, 1):
        gate = made.get(node.inputs[i])
        if gate is not None and gate.op.type in ("Sigmoid", "HardSigmoid") and gate.inputs[0] == node.inputs[1 - i]:
            return True
    return False
