"""A model as onnx can infer its shapes: rules that rewrite nodes ask for ranks, channels and element types."""

from __future__ import annotations

import onnx
import onnx.defs

DOMAIN = "com.microsoft"

LIKE: dict[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(
        ("BiasGelu", "FastGelu", "Gelu", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QuickGelu",
         "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), ("Identity", (0,))
    ),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), ("Add", (0, 3))),
    "DequantizeLinear": ("DequantizeLinear", (0, 1, 2)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "FusedMatMul": ("MatMul", (0, 1)),
    "MatMulIntegerToFloat": ("MatMulInteger", (0, 1)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QuantizeLinear": ("QuantizeLinear", (0, 1, 2)),
}  # fmt: skip
"""onnxruntime's operators → ONNX's, on these of its inputs, whose first result has the same shape."""

OTHERWISE = ("channels_last", "transA", "transB", "transBatchA", "transBatchB")
"""Attributes with which it has another."""


def inferable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy whose shapes onnx infers: what has no inference before opset 6 has it there, and operators of
    onnxruntime's are replaced by such as have the same shapes."""
    old = not model.opset_import or any(e.domain in ("", "ai.onnx") and e.version < 6 for e in model.opset_import)
    if not old and not any(map(_foreign, model.graph.node)):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if old:
        del copy.opset_import[:]
        copy.opset_import.add(domain="", version=6)
    opset = next((e.version for e in copy.opset_import if e.domain in ("", "ai.onnx")), onnx.defs.onnx_opset_version())
    for node in filter(_foreign, copy.graph.node):
        _stand_in(node, opset)
    return copy


def _foreign(node: onnx.NodeProto) -> bool:
    """Whether another operator can stand in for it."""
    turned = any(a.name in OTHERWISE and a.i for a in node.attribute) and node.op_type != "FusedGemm"
    return node.domain == DOMAIN and node.op_type in LIKE and not turned


def _stand_in(node: onnx.NodeProto, opset: int) -> None:
    node.op_type, slots = LIKE[node.op_type]
    known = onnx.defs.get_schema(node.op_type, opset, "").attributes
    inputs = [node.input[i] for i in slots if i < len(node.input)]
    attributes = [a for a in node.attribute if a.name in known]
    del node.input[:], node.attribute[:], node.output[1:]
    node.domain = ""
    node.input.extend(inputs)
    node.attribute.extend(attributes)
