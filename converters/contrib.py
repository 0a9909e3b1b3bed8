"""Operators that onnxruntime adds to ONNX's (domain com.microsoft), as its optimizer saves them, rewritten when a model is
read: into ONNX's own where these mean the same, so that kernels, gradients and the exporter are theirs.

What has no such form is a class of that domain in `nbconv.ops`. The texts are onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import nbconv.ops
from nbconv.converters.draft import Draft, OpsetContext, Rule
from nbconv.converters.opset import grid_sample
from nbconv.errors import ModelError, UnsupportedError

DOMAIN = "com.microsoft"
INNER = "nbconv"
"""The domain of what passes make, which no file may name."""


def check(kind: str, domain: str) -> None:
    """UnsupportedError unless nodes of this type and domain, which ONNX does not define, are read."""
    if (domain, kind) in RULES or (domain not in ("", INNER) and (domain, kind) in nbconv.ops.REGISTRY):
        return
    name = f"{domain}.{kind}" if domain else kind
    why = " (a layout for one machine: onnxruntime's level 'extended' saves none)" if domain == f"{DOMAIN}.nchwc" else ""
    raise UnsupportedError(f"operator {name} is not supported{why}")


def rewrite(draft: Draft, context: OpsetContext) -> list[Draft] | None:
    """The nodes that mean what ``draft`` means; None for a node of ONNX's own."""
    rule = RULES.get((draft.domain, draft.type))
    found = rule(draft, context) if rule else [draft] if draft.domain else None
    for made in found or ():
        while made.inputs and not made.inputs[-1]:
            made.inputs.pop()
    return found


class _Chain:
    """Nodes that take a draft's place, one after another; the last of them are given its name."""

    def __init__(self, draft: Draft, context: OpsetContext) -> None:
        self.draft, self.context = draft, context
        self.nodes: list[Draft] = []

    def add(self, type: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        """A node of ONNX's; the name of its first output."""
        made = outputs or [self.context.unique(f"{self.draft.outputs[0]}_{type.lower()}")]
        self.nodes.append(Draft(type, list(inputs), made, attributes, made[0]))
        return made[0]

    def number(self, what: str, value: float, like: str) -> str:
        """A constant of another value's element type."""
        name = self.context.constant(f"{self.draft.name}_{what}", np.array(value, np.float32))
        return self.add("CastLike", name, like)

    def done(self, value: str) -> list[Draft]:
        """The nodes, the value being the draft's first output."""
        last = next(node for node in self.nodes if value in node.outputs)
        last.outputs[last.outputs.index(value)] = self.draft.outputs[0]
        for node in self.nodes:
            node.inputs = [self.draft.outputs[0] if name == value else name for name in node.inputs]
        last.name = self.draft.name
        return self.nodes


def _required(draft: Draft, count: int) -> None:
    if not all(draft.input(i) for i in range(count)) or not draft.outputs or not draft.outputs[0]:
        raise ModelError(f"{draft.name} ({draft.type}): wants {count} inputs and an output, has {draft.inputs}")


# Convolutions and products with an activation

ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Sigmoid": (), "Tanh": (), "Softplus": (), "Softsign": (), "HardSwish": (),
    "LeakyRelu": ("alpha",), "Elu": ("alpha",), "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma"), "Clip": ("min", "max"),
}  # fmt: skip
"""What is fused behind others → its parameters."""


def _activated(chain: _Chain, x: str, kind: str | None, given: dict[str, float]) -> str:
    """The activation of x."""
    if not kind:
        return x
    if kind not in ACTIVATIONS:
        raise UnsupportedError(f"the activation {kind!r} is not supported")
    if kind == "Clip":
        limits = [chain.number(name, given[name], x) if name in given else "" for name in ("min", "max")]
        return chain.add("Clip", x, *limits)
    options: dict[str, Any] = {name: given[name] for name in ACTIVATIONS[kind] if name in given}
    return chain.add(kind, x, **options)


def fused_conv(draft: Draft, context: OpsetContext) -> list[Draft]:
    """FusedConv: the convolution, plus Z, through an activation."""
    _required(draft, 2)
    chain, attributes = _Chain(draft, context), draft.attributes
    kind, params = attributes.pop("activation", None), attributes.pop("activation_params", ())
    y = chain.add("Conv", *draft.inputs[:3], **attributes)
    if draft.input(3):
        y = chain.add("Add", y, draft.input(3))
    given = dict(zip(ACTIVATIONS.get(kind, ()), params, strict=False))
    return chain.done(_activated(chain, y, kind, given))


def fused_gemm(draft: Draft, context: OpsetContext) -> list[Draft]:
    """FusedGemm: the product through an activation."""
    _required(draft, 2)
    chain, attributes = _Chain(draft, context), draft.attributes
    kind = attributes.pop("activation", None)
    given = {name: attributes.pop(f"activation_{name}") for name in ("alpha", "beta", "gamma")
             if f"activation_{name}" in attributes}  # fmt: skip
    y = chain.add("Gemm", *draft.inputs, **attributes)
    return chain.done(_activated(chain, y, kind, given))


def transpose_mat_mul(draft: Draft, context: OpsetContext) -> list[Draft]:
    """TransposeMatMul is what FusedMatMul was called first."""
    draft.type = "FusedMatMul"
    return [draft]


# Activations


def gelu(draft: Draft, context: OpsetContext) -> list[Draft]:
    """Gelu, BiasGelu and FastGelu (by tanh): of the sum of their inputs."""
    _required(draft, 1)
    chain, x = _Chain(draft, context), draft.input(0)
    if draft.input(1):
        x = chain.add("Add", x, draft.input(1))
    return chain.done(chain.add("Gelu", x, approximate="tanh" if draft.type == "FastGelu" else "none"))


def quick_gelu(draft: Draft, context: OpsetContext) -> list[Draft]:
    """QuickGelu: x · sigmoid(alpha · x)."""
    _required(draft, 1)
    chain, x, alpha = _Chain(draft, context), draft.input(0), draft.attributes.get("alpha", 1.702)
    gate = x if alpha == 1 else chain.add("Mul", x, chain.number("alpha", alpha, x))
    return chain.done(chain.add("Mul", x, chain.add("Sigmoid", gate)))


def bias_split_gelu(draft: Draft, context: OpsetContext) -> list[Draft]:
    """BiasSplitGelu: of the halves of X + bias along the last axis, the left times the Gelu of the right."""
    _required(draft, 2)
    chain = _Chain(draft, context)
    both = chain.add("Add", *draft.inputs)
    halves = [context.unique(f"{both}_{side}") for side in ("left", "right")]
    chain.add("Split", both, outputs=halves, axis=-1, num_outputs=2)
    return chain.done(chain.add("Mul", halves[0], chain.add("Gelu", halves[1])))


# Normalisations


def layer_normalization(draft: Draft, context: OpsetContext) -> list[Draft]:
    """LayerNormalization, which onnxruntime saves in ONNX's domain in models of older opsets too."""
    return [draft]


def simplified_layer_normalization(draft: Draft, context: OpsetContext) -> list[Draft]:
    """SimplifiedLayerNormalization became ONNX's RMSNormalization."""
    if any(draft.outputs[1:]):
        raise UnsupportedError(f"its output {draft.outputs[1]!r} is not supported")
    draft.type, draft.outputs = "RMSNormalization", draft.outputs[:1]
    return [draft]


def skip_layer_normalization(draft: Draft, context: OpsetContext) -> list[Draft]:
    """SkipLayerNormalization and SkipSimplifiedLayerNormalization: of input + skip + bias, which is the last output."""
    _required(draft, 3)
    simple = draft.type == "SkipSimplifiedLayerNormalization"
    chain, outputs = _Chain(draft, context), [*draft.outputs, "", "", ""][:4]
    bias = draft.input(3 if simple else 4)
    total = chain.add("Add", *draft.inputs[:2], outputs=None if bias or not outputs[3] else [outputs[3]])
    if bias:
        total = chain.add("Add", total, bias, outputs=[outputs[3]] if outputs[3] else None)
    options = {"axis": -1, "epsilon": draft.attributes.get("epsilon", 1e-12)}
    if not simple:
        y = chain.add("LayerNormalization", total, *draft.inputs[2:4], outputs=outputs[:3], **options)
    elif any(outputs[1:3]):
        raise UnsupportedError("its mean and variance as outputs are not supported")
    else:
        y = chain.add("RMSNormalization", total, draft.input(2), **options)
    return chain.done(y)


def group_norm(draft: Draft, context: OpsetContext) -> list[Draft]:
    """GroupNorm: GroupNormalization, of channels that lie last by default, and perhaps SiLU."""
    _required(draft, 3)
    chain, attributes = _Chain(draft, context), draft.attributes
    last = attributes.get("channels_last", 1)
    x = chain.add("Transpose", draft.input(0), perm=(0, 3, 1, 2)) if last else draft.input(0)
    options = {"num_groups": attributes.get("groups", 0), "epsilon": attributes.get("epsilon", 1e-5)}
    y = chain.add("GroupNormalization", x, *draft.inputs[1:3], **options)
    if attributes.get("activation", 0):
        y = chain.add("Mul", y, chain.add("Sigmoid", y))
    return chain.done(chain.add("Transpose", y, perm=(0, 2, 3, 1)) if last else y)


# Integers


def renamed(draft: Draft, context: OpsetContext) -> list[Draft]:
    """ONNX's operator of this name means the same."""
    draft.domain = ""
    return [draft]


def sampled(draft: Draft, context: OpsetContext) -> list[Draft]:
    """GridSample-16 of ONNX means the same."""
    grid_sample(draft, context)
    return renamed(draft, context)


def _turned(draft: Draft, context: OpsetContext, rank: int) -> list[Draft]:
    """ONNX's operator of the draft's type on a first input whose channels lie last."""
    chain = _Chain(draft, context)
    x = chain.add("Transpose", draft.input(0), perm=(0, rank - 1, *range(1, rank - 1)))
    y = chain.add(draft.type, x, *draft.inputs[1:], **draft.attributes)
    return chain.done(chain.add("Transpose", y, perm=(0, *range(2, rank), 1)))


def nhwc_max_pool(draft: Draft, context: OpsetContext) -> list[Draft]:
    """NhwcMaxPool: MaxPool of channels that lie last."""
    _required(draft, 1)
    draft.type = "MaxPool"
    return _turned(draft, context, len(draft.attributes.get("kernel_shape", ())) + 2)


def q_linear_conv(draft: Draft, context: OpsetContext) -> list[Draft]:
    """QLinearConv of ONNX, with ``channels_last`` for x and y."""
    _required(draft, 8)
    if not draft.attributes.pop("channels_last", 0):
        return renamed(draft, context)
    kernel, w = draft.attributes.get("kernel_shape"), context.shape(draft.input(3))
    if kernel is None and w is None:
        raise UnsupportedError("channels_last where the rank of x is not known is not supported")
    return _turned(draft, context, len(kernel) + 2 if kernel is not None else len(w or ()))


def _scaled(chain: _Chain, total: str, a_scale: str, b_scale: str, bias: str = "") -> str:
    """int32 sums times both scales, in their type, plus a bias."""
    numbers = chain.add("CastLike", total, b_scale)
    y = chain.add("Mul", numbers, chain.add("Mul", a_scale, b_scale))
    return chain.add("Add", y, bias) if bias else y


def mat_mul_integer_to_float(draft: Draft, context: OpsetContext) -> list[Draft]:
    """MatMulIntegerToFloat: MatMulInteger times both scales, plus a bias."""
    _required(draft, 4)
    chain, (a, b, a_scale, b_scale) = _Chain(draft, context), draft.inputs[:4]
    total = chain.add("MatMulInteger", a, b, draft.input(4), draft.input(5))
    return chain.done(_scaled(chain, total, a_scale, b_scale, draft.input(6)))


def dynamic_quantize_mat_mul(draft: Draft, context: OpsetContext) -> list[Draft]:
    """DynamicQuantizeMatMul: A by DynamicQuantizeLinear, times B in integers, times both scales, plus a bias."""
    _required(draft, 3)
    chain, (a, b, b_scale) = _Chain(draft, context), draft.inputs[:3]
    whole, scale, zero_point = (context.unique(f"{draft.outputs[0]}_{what}") for what in ("a", "a_scale", "a_zero_point"))
    chain.add("DynamicQuantizeLinear", a, outputs=[whole, scale, zero_point])
    total = chain.add("MatMulInteger", whole, b, zero_point, draft.input(3))
    return chain.done(_scaled(chain, total, scale, b_scale, draft.input(4)))


def q_gemm(draft: Draft, context: OpsetContext) -> list[Draft]:
    """QGemm: alpha times the product of what A and B stand for, plus C of the scale of their products; as floats, or
    quantised by y_scale."""
    _required(draft, 6)
    chain, (a, a_scale, a_zero, b, b_scale, b_zero) = _Chain(draft, context), draft.inputs[:6]
    a = chain.add("Transpose", a, perm=(1, 0)) if draft.attributes.get("transA", 0) else a
    b = chain.add("Transpose", b, perm=(1, 0)) if draft.attributes.get("transB", 0) else b
    total = chain.add("MatMulInteger", a, b, a_zero, b_zero)
    if draft.input(6):
        total = chain.add("Add", total, draft.input(6))
    alpha = draft.attributes.get("alpha", 1.0)
    if alpha != 1:
        a_scale = chain.add("Mul", a_scale, chain.number("alpha", alpha, a_scale))
    y = _scaled(chain, total, a_scale, b_scale)
    return chain.done(chain.add("QuantizeLinear", y, *draft.inputs[7:9]) if draft.input(7) else y)


RULES: dict[tuple[str, str], Rule] = {
    ("", "LayerNormalization"): layer_normalization,
    ("", "SimplifiedLayerNormalization"): simplified_layer_normalization,
    **{(DOMAIN, name): rule for name, rule in {
        "BiasGelu": gelu,
        "BiasSplitGelu": bias_split_gelu,
        "DequantizeLinear": renamed,
        "DynamicQuantizeMatMul": dynamic_quantize_mat_mul,
        "FastGelu": gelu,
        "FusedConv": fused_conv,
        "FusedGemm": fused_gemm,
        "GatherND": renamed,
        "Gelu": gelu,
        "GridSample": sampled,
        "GroupNorm": group_norm,
        "MatMulIntegerToFloat": mat_mul_integer_to_float,
        "NhwcMaxPool": nhwc_max_pool,
        "Pad": renamed,
        "QGemm": q_gemm,
        "QLinearConv": q_linear_conv,
        "QuantizeLinear": renamed,
        "QuickGelu": quick_gelu,
        "SkipLayerNormalization": skip_layer_normalization,
        "SkipSimplifiedLayerNormalization": skip_layer_normalization,
        "TransposeMatMul": transpose_mat_mul,
        "Trilu": renamed,
    }.items()},
}  # fmt: skip
"""(domain, type) → what it means in the inner vocabulary."""
