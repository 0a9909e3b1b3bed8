"""What makes one of many: sums along axes, places of the greatest, running sums."""

from __future__ import annotations

from onnx import helper

from nbconv.converters.tflite.builder import Builder
from nbconv.converters.tflite.reader import Operator


def reduce(kind: str):
    def rule(to: Builder, node: Operator) -> None:
        x, keep = node.inputs[0], bool(node.options("ReducerOptions").KeepDims())
        rank, order = to.tensors[x].rank, to.order(x)
        chosen = sorted({a % rank for a in to.axes(to.whole(node.inputs[1], "axes"), rank, None)})
        # without the axes that go, the others may stand in another order: only where the channels are last anyway
        order = order if keep or rank - 1 in chosen or chosen == list(range(1, rank - 1)) else None
        if not keep and rank - 1 in chosen and chosen != list(range(rank - len(chosen), rank)):
            order = None
        value = to.get(x, order)
        flags = kind in ("ReduceMin", "ReduceMax") and to.tensors[x].type == 6
        if flags:
            value = to.add("Cast", value, to=2)
        if chosen:  # ONNX takes no axes for all of them
            value = to.add(kind, value, to.integers(to.axes(chosen, rank, order)), keepdims=int(keep))
        if flags:
            value = to.add("Cast", value, to=9)
        to.put(node.outputs[0], value, order if keep or not chosen else None)

    return rule


def arg(kind: str, table: str):
    def rule(to: Builder, node: Operator) -> None:
        x, y = node.inputs[0], node.outputs[0]
        (axis,) = to.whole(node.inputs[1], "axis")
        made = to.add(kind, to.get(x, real=False), axis=axis, keepdims=0)
        to.put(y, to.add("Cast", made, to=helper.np_dtype_to_tensor_dtype(to.tensors[y].dtype)))

    return rule


def topk(to: Builder, node: Operator) -> None:
    x, k = node.inputs[:2]
    count = to.add("Reshape", to.indices(k), to.integers([1]))
    real = not to.alike(x, node.outputs[0])
    values, places = to.add("TopK", to.get(x, real=real), count, axis=-1, count=2)
    to.put(node.outputs[0], values, real=real)
    to.put(node.outputs[1], to.add("Cast", places, to=helper.np_dtype_to_tensor_dtype(to.tensors[node.outputs[1]].dtype)))


def cumsum(to: Builder, node: Operator) -> None:
    o = node.options("CumsumOptions")
    (axis,) = to.whole(node.inputs[1], "axis")
    made = to.add(
        "CumSum", to.get(node.inputs[0]), to.constant(axis, "int64"), exclusive=int(o.Exclusive()), reverse=int(o.Reverse())
    )
    to.put(node.outputs[0], made)


RULES = {
    "MEAN": reduce("ReduceMean"),
    "SUM": reduce("ReduceSum"),
    "REDUCE_MAX": reduce("ReduceMax"),
    "REDUCE_MIN": reduce("ReduceMin"),
    "REDUCE_PROD": reduce("ReduceProd"),
    "REDUCE_ANY": reduce("ReduceMax"),
    "REDUCE_ALL": reduce("ReduceMin"),
    "ARG_MAX": arg("ArgMax", "ArgMaxOptions"),
    "ARG_MIN": arg("ArgMin", "ArgMinOptions"),
    "TOPK_V2": topk,
    "CUMSUM": cumsum,
}
