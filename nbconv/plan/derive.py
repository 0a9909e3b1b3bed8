"""From an authored graph to the one that is lowered, for one set of input shapes: all passes, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nbconv.graph import Graph, Layout, Node, Spec
from nbconv.graph.dtypes import kind_of
from nbconv.lowering.weights import Weights
from nbconv.passes.branches import merge_branches
from nbconv.passes.dequantise import dequantise
from nbconv.passes.fold import fold
from nbconv.passes.fuse import fold_affine, fuse_epilogues, fuse_hard_swish, fuse_shuffle, fuse_silu
from nbconv.passes.fuse_pad import fuse_pad
from nbconv.passes.gelu import fuse_gelu
from nbconv.passes.inputs import fold_inputs
from nbconv.passes.layout import choose
from nbconv.passes.linear import fold_columns, turn_sums
from nbconv.passes.norms import fuse_group_norm, fuse_layer_norm
from nbconv.passes.products import fuse_scaled_products
from nbconv.passes.promote import promote
from nbconv.passes.quantise import fuse_quantised
from nbconv.passes.signs import keep_signs

if TYPE_CHECKING:
    from nbconv.kernels.target import Target

FUSIONS = (
    fuse_silu, fuse_hard_swish, fuse_shuffle, fuse_gelu, fuse_layer_norm, fuse_group_norm, fuse_scaled_products,
    fold_columns, turn_sums, fold_affine,
)  # fmt: skip
"""What exporters write in several nodes becomes one, and arithmetic with constants goes into weights."""


class Derived(NamedTuple):
    """What the passes make of an authored graph for one set of input shapes."""

    graph: Graph
    specs: dict[str, Spec]
    layouts: dict[str, Layout]
    """how each value lies, where that is not as ONNX has it"""
    weights: Weights
    """where constants made from those that input shapes decide are kept: the model's own where there are none"""
    varying: set[str]
    """constants that input shapes decide"""
    shared: Weights
    """the model's own"""
    fixed: set[str]
    """constants that no shape decides"""
    floats: bool
    """whether input shapes decide some of floats, which passes may have made an affine map of"""

    def weights_of(self, node: Node) -> Weights:
        """Where what the node makes of its constants is kept: with the model's, unless shapes may decide one of them."""
        if self.weights is self.shared:
            return self.shared
        read = {n for n in node.inputs if n in self.graph.constants}
        affine = self.floats and getattr(node.op, "affine", None) is not None
        return self.shared if read <= self.fixed and not affine else self.weights


def derive(
    graph: Graph,
    inputs: dict[str, Spec],
    weights: Weights,
    fetch: tuple[str, ...],
    varying: frozenset[str] = frozenset(),
    gpu: bool = False,
    integers: Target | None = None,
) -> Derived:
    """The graph that is lowered. ``fetch`` names the values to compute: outputs, or any other, which is then not fused
    away; ``varying`` constants that shapes decided; ``gpu``: whether a GPU's kernels do it; ``integers``: the
    processor that computes with integers what stands between them, None where floats are wanted."""
    wanted, shared = frozenset(fetch), weights
    graph = Graph(
        graph.nodes, graph.inputs, dict.fromkeys(fetch), graph.constants, graph.name, graph.metadata, graph.provenance
    )
    if integers is not None:
        graph = fuse_quantised(graph, wanted)
    graph, specs, decided = fold(graph, inputs, weights, wanted, varying)
    promoted = promote(graph, specs)
    if promoted is not graph:
        graph, specs, decided = fold(promoted, inputs, weights, wanted, varying | decided)
    if integers is not None:
        graph, decided = dequantise(graph, specs, integers, decided)
    if decided:
        weights = Weights()
    floats = any(kind_of(specs[name].dtype) == "f" for name in decided)
    fixed = graph.constants.keys() - decided
    graph = fuse_pad(graph, specs, wanted, decided)
    for fuse in FUSIONS:
        graph = fuse(graph, specs, wanted)
    merged = merge_branches(graph, specs, wanted)
    graph = merged if merged is graph else fold_affine(merged, specs, wanted)
    graph = fold_inputs(graph, specs, wanted)
    graph = keep_signs(fuse_epilogues(graph, specs, wanted))
    graph, layouts = choose(graph, specs, gpu)
    if not floats:  # then the passes made all of their constants of others
        fixed = graph.constants.keys() - decided
    return Derived(graph, specs, layouts, weights, decided, shared, fixed, floats)
