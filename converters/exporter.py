"""A Graph as an ONNX model, in bytes or in a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.helper
import onnx.shape_inference

from nbconv.base.files import replace
from nbconv.converters.contrib import INNER
from nbconv.converters.types import proto_of
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import OBJECT, OPSET, Graph, Node, Spec
from nbconv.graph.bodies import body_of, own_inputs, renamed, surroundings
from nbconv.graph.dtypes import ADDED, SINCE, packed, packed_size
from nbconv.graph.infer import number_of

A = onnx.AttributeProto

IR_VERSION = 10
"""ONNX's file format that goes with opset 21."""

LIMIT = 2**31 - 2**20
"""Bytes that a protobuf message can hold, with room for the structure."""

_KINDS = {
    kind + absent: number
    for kind, number in {
        "int": A.INT, "float": A.FLOAT, "str": A.STRING, "np.ndarray": A.TENSOR, "Graph": A.GRAPH,
        "tuple[int, ...]": A.INTS, "tuple[float, ...]": A.FLOATS, "tuple[str, ...]": A.STRINGS,
    }.items()
    for absent in ("", " | None")
}  # fmt: skip
"""Types of attributes by those of an op's fields."""


def write(graph: Graph, limit: int = LIMIT) -> bytes:
    """The graph as a serialized ModelProto of opset 21 (higher where an op needs it), checked by onnx.

    Raises ModelError for an op of domain ``nbconv``, for constants of more than ``limit`` bytes, and where onnx finds the
    model wrong.
    """
    size = _size(graph)
    if size > limit:
        raise ModelError(f"the weights are {size} bytes, one ONNX file holds {limit}; save the model to a path instead")
    model = _model(graph, lambda name, array: _tensor(name, array, packed(array)))
    return _checked(model).SerializeToString()


def save(graph: Graph, path: str | os.PathLike, limit: int = LIMIT) -> None:
    """Write the graph to ``path``, whole or not at all.

    Weights of more than ``limit`` bytes go to a file beside it, named by their content so that an older model there keeps
    its own. Raises as `write` does, and OSError.
    """
    path = Path(path)
    if _size(graph) <= limit:
        content = write(graph, limit)
        replace(path, lambda file: file.write(content))
        return
    digest, offsets, end = hashlib.sha256(), {}, 0
    for name in _used(graph):
        array = graph.constants[name]
        offsets[name] = end
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        end += packed_size(array.dtype, array.size)
    weights = path.with_name(f"{path.stem}-{digest.hexdigest()[:12]}.data")

    def external(name: str, array: np.ndarray) -> onnx.TensorProto:
        tensor = _tensor(name, array, None)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": weights.name, "offset": offsets[name], "length": packed_size(array.dtype, array.size)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def put(file: Any) -> None:
        for name in _used(graph):
            file.write(packed(graph.constants[name]))

    model = _model(graph, external)
    _infer_outputs(model)
    existed = weights.exists()
    replace(weights, put)
    try:
        content = model.SerializeToString()
        replace(path, lambda file: file.write(content))
    except BaseException:
        if not existed:
            weights.unlink()
        raise


def _used(graph: Graph) -> list[str]:
    """The constants that a node or output reads, in order."""
    read = set(graph.outputs).union(*(node.inputs for node in graph.nodes))
    return [name for name in graph.constants if name in read]


def _size(graph: Graph) -> int:
    """Bytes of the constants that are written, those of bodies too."""
    bodies = [body for node in graph.nodes for body in node.op.bodies().values()]
    return sum(graph.constants[name].nbytes for name in _used(graph)) + sum(map(_size, bodies))


def _model(graph: Graph, tensor: Callable[[str, np.ndarray], onnx.TensorProto]) -> onnx.ModelProto:
    """The graph as a ModelProto, whose initializers ``tensor`` makes."""
    opset = max((_opset(node) for node in graph.nodes), default=OPSET)
    opset = max(opset, _types_opset(graph))
    proto = _graph(graph, opset, tensor)
    told = {"producer_name": "nbconv", **graph.header}
    proto.doc_string = str(told.pop("graph.doc_string", ""))
    model = onnx.ModelProto(ir_version=max(IR_VERSION, _ir_version(opset)), graph=proto, **told)  # pyright: ignore[reportArgumentType]
    model.opset_import.add(domain="", version=opset)
    for domain in sorted(_domains(graph)):
        known = (s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.domain == domain)
        model.opset_import.add(domain=domain, version=max(known, default=1))
    for key, value in graph.metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


def _graph(graph: Graph, opset: int, tensor: Callable[[str, np.ndarray], onnx.TensorProto] | None = None) -> onnx.GraphProto:
    """A graph, or a body, whose initializers always lie in the file."""
    proto = onnx.GraphProto(name=graph.name or "graph")
    taken: set[str] = set()
    tensor = tensor or (lambda name, array: _tensor(name, array, packed(array)))
    for node in graph.nodes:
        made = _node(node, opset)
        made.name = _unique(made.name, taken)
        proto.node.append(made)
    proto.initializer.extend(tensor(name, graph.constants[name]) for name in _used(graph))
    read = set(_used(graph))
    optional = {name: spec for name, spec in graph.optional.items() if name in read}
    proto.input.extend(_value_info(name, spec) for name, spec in (*graph.inputs.items(), *optional.items()))
    proto.output.extend(_value_info(name, spec) for name, spec in graph.outputs.items())
    return proto


def _unique(name: str, taken: set[str]) -> str:
    """A node name not yet taken (onnxruntime refuses two alike)."""
    found, n = name, 1
    while found in taken:
        found, n = f"{name}_{n}", n + 1
    taken.add(found)
    return found


def _ir_version(opset: int) -> int:
    return onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])


def _domains(graph: Graph) -> set[str]:
    """The domains besides ONNX's whose ops the graph and its bodies have."""
    inner = (_domains(body) for node in graph.nodes for body in node.op.bodies().values())
    return {node.op.domain for node in graph.nodes if node.op.domain}.union(*inner)


def _opset(node: Node) -> int:
    """The opset that a node needs, at least the inner one."""
    op = node.op
    if op.domain == INNER:
        raise ModelError(f"{node.name} ({op.type}): an op of domain {op.domain!r} cannot be written as ONNX yet")
    inner = max((_opset(n) for body in op.bodies().values() for n in body.nodes), default=OPSET)
    if op.domain:
        return inner
    for opset in range(inner, onnx.defs.onnx_opset_version() + 1):
        if onnx.defs.has(op.type, opset, ""):
            schema = onnx.defs.get_schema(op.type, opset, "")
            if not schema.deprecated and set(op.attributes()) <= set(schema.attributes):
                return opset
    raise ModelError(f"{node.name} ({op.type}): ONNX has no operator of this name with {list(op.attributes())}")


def _types_opset(graph: Graph) -> int:
    """The opset that the graph's element types need."""
    read = {name for node in graph.nodes if node.op.type != "Cast" for name in node.inputs}
    names = {x.dtype.name for n, x in (*graph.inputs.items(), *graph.constants.items()) if n in read}
    names.update(ADDED.get(getattr(node.op, "to", 0), "") for node in graph.nodes)
    bodies = [body for node in graph.nodes for body in node.op.bodies().values()]
    return max((OPSET, *(SINCE[name] for name in names & SINCE.keys()), *map(_types_opset, bodies)))


def _node(node: Node, opset: int) -> onnx.NodeProto:
    domain = node.op.domain
    schema = None if domain else onnx.defs.get_schema(node.op.type, opset, "")
    proto = onnx.NodeProto(
        op_type=node.op.type, name=node.name, input=own_inputs(node), output=node.outputs, domain=domain or None
    )
    for name, value in node.op.attributes().items():
        if isinstance(value, Graph):
            value = _graph(_body(node, name), opset)
        kind = int(schema.attributes[name].type.value) if schema else _KINDS[node.op.kinds[name]]  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(value, np.ndarray):
            value = _tensor("", value, packed(value))
        elif kind == onnx.AttributeProto.TYPE_PROTO:
            value = proto_of(str(value))
        proto.attribute.append(onnx.helper.make_attribute(name, value, attr_type=kind))
    return proto


def _body(node: Node, which: str) -> Graph:
    """A body, with what it reads around it under the names that it has there now."""
    body, names = node.op.bodies()[which], surroundings(node)
    if all(old == new for old, new in names.items()):
        return body
    own = {*body.inputs, *body.constants, *body.values()}
    return renamed(body, names) if own.isdisjoint(names.values()) else body_of(node, which)


def _tensor(name: str, array: np.ndarray, data: bytes | None) -> onnx.TensorProto:
    if array.dtype == OBJECT:
        texts = [str(text).encode() for text in array.flat]
        return onnx.TensorProto(name=name, dims=array.shape, data_type=onnx.TensorProto.STRING, string_data=texts)
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=_number(name, array.dtype))
    if data is not None:
        tensor.raw_data = data
    return tensor


def _number(name: str, dtype: np.dtype) -> int:
    try:
        return number_of(dtype)
    except UnsupportedError:
        raise ModelError(f"{name}: element type {dtype} cannot be written as ONNX") from None


def _value_info(name: str, spec: Spec | None) -> onnx.ValueInfoProto:
    info = onnx.ValueInfoProto(name=name)
    if spec is not None and spec.type:
        info.type.CopyFrom(proto_of(spec.type))
    elif spec is not None:
        kind = info.type.tensor_type
        kind.elem_type = _number(name, spec.dtype)
        if not spec.ranked:
            return info
        kind.shape.SetInParent()
        for d in spec.shape:
            dim = kind.shape.dim.add()
            if isinstance(d, str):
                dim.dim_param = d
            elif d is not None:
                dim.dim_value = d
    return info


def _unshaped(info: onnx.ValueInfoProto) -> bool:
    """Whether a shape may be missing."""
    kind = info.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and not info.type.tensor_type.HasField("shape"))


def _infer_outputs(model: onnx.ModelProto) -> None:
    """Declare the outputs that the graph knows nothing of, as onnx infers them."""
    missing = [info for info in model.graph.output if _unshaped(info)]
    if not missing:
        return
    inferred = {info.name: info for info in onnx.shape_inference.infer_shapes(model).graph.output}
    for info in missing:
        info.CopyFrom(inferred[info.name])
        if not info.type.WhichOneof("value"):
            raise ModelError(f"the output {info.name!r} has no known type, which ONNX asks for")


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, its outputs declared as far as onnx infers them; ModelError where onnx finds it wrong. A rank that is not
    known is left out, as IR.md has it, though onnx's checker asks for one."""
    try:
        _infer_outputs(model)
        if not any(map(_unshaped, (*model.graph.input, *model.graph.output))):
            onnx.checker.check_model(model, full_check=True)
            return model
        looked = onnx.ModelProto()
        looked.CopyFrom(model)
        for info in filter(_unshaped, (*looked.graph.input, *looked.graph.output)):
            info.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(looked)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the graph is no valid ONNX model: {' '.join(str(error).split())[:300]}") from None
    return model
