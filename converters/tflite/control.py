"""IF and WHILE: ONNX's If and Loop, whose bodies are other subgraphs of the file."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from nbconv.converters.tflite.builder import Builder
from nbconv.converters.tflite.reader import Operator
from nbconv.errors import ModelError


def outputs(
    to: Builder, nodes: list[onnx.NodeProto], values: Sequence[str], kinds: Sequence[int]
) -> list[onnx.ValueInfoProto]:
    """Values as a body's outputs, each made by a node of the body."""
    found = []
    for value, kind in zip(values, kinds, strict=True):
        name = to.unique(f"{to.at}/result")
        nodes.append(helper.make_node("Identity", [value], [name]))
        found.append(helper.make_tensor_value_info(name, kind, None))
    return found


def kind_of(to: Builder, t: int) -> int:
    return helper.np_dtype_to_tensor_dtype(to.tensors[t].dtype)


def if_(to: Builder, node: Operator) -> None:
    o = node.options("IfOptions")
    cond, given = to.get(node.inputs[0]), [to.get(t, real=False) for t in node.inputs[1:]]
    kinds = [kind_of(to, t) for t in node.outputs]
    bodies = []
    for index in (o.ThenSubgraphIndex(), o.ElseSubgraphIndex()):
        nodes: list[onnx.NodeProto] = []
        made = to.inside(index, given, nodes)
        if len(made) != len(kinds):
            raise ModelError(f"subgraph {index} has {len(made)} outputs, wanted {len(kinds)}")
        bodies.append(helper.make_graph(nodes, to.unique(f"{to.at}/body"), [], outputs(to, nodes, made, kinds)))
    results = to.add("If", cond, count=len(kinds), then_branch=bodies[0], else_branch=bodies[1])
    for t, value in zip(node.outputs, [results] if len(kinds) == 1 else results, strict=True):
        to.put(t, value, real=False)


def while_(to: Builder, node: Operator) -> None:
    """The condition is computed before the loop, and at the end of each pass for the next."""
    o = node.options("WhileOptions")
    given, kinds = [to.get(t, real=False) for t in node.inputs], [kind_of(to, t) for t in node.inputs]
    if len(node.outputs) != len(kinds):
        raise ModelError(f"it has {len(kinds)} inputs and {len(node.outputs)} outputs")

    def goes_on(values: Sequence[str], nodes: list[onnx.NodeProto]) -> str:
        found = to.inside(o.CondSubgraphIndex(), values, nodes)
        if len(found) != 1:
            raise ModelError(f"its condition has {len(found)} outputs")
        return found[0]

    nodes: list[onnx.NodeProto] = []
    names = [to.unique(f"{to.at}/{part}") for part in ("pass", "condition", *("state",) * len(kinds))]
    made = to.inside(o.BodySubgraphIndex(), names[2:], nodes)
    if len(made) != len(kinds):
        raise ModelError(f"its body has {len(made)} outputs, wanted {len(kinds)}")
    BOOL = onnx.TensorProto.BOOL
    results = outputs(to, nodes, [goes_on(made, nodes), *made], [BOOL, *kinds])
    ports = [
        helper.make_tensor_value_info(n, k, [] if i < 2 else None)
        for i, (n, k) in enumerate(zip(names, [onnx.TensorProto.INT64, BOOL, *kinds], strict=True))
    ]
    body = helper.make_graph(nodes, to.unique(f"{to.at}/body"), ports, results)
    done = to.add("Loop", "", goes_on(given, to.nodes), *given, count=len(kinds), body=body)
    for t, value in zip(node.outputs, [done] if len(kinds) == 1 else done, strict=True):
        to.put(t, value, real=False)


RULES = {"IF": if_, "WHILE": while_}
