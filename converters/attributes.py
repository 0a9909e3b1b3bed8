"""Attributes of nodes as plain values."""

from __future__ import annotations

from typing import Any

import onnx

from nbconv.converters.proto import read_note
from nbconv.converters.tensors import place_of
from nbconv.converters.types import text_of
from nbconv.converters.weights import Source
from nbconv.errors import UnsupportedError
from nbconv.graph.dtypes import packed

A = onnx.AttributeProto

_VALUES: dict[Any, str] = {A.FLOAT: "f", A.INT: "i", A.STRING: "s", A.FLOATS: "floats", A.INTS: "ints", A.STRINGS: "strings"}
"""attribute type → the field of its value"""


def value_of(source: Source, name: str, a: onnx.AttributeProto) -> Any:
    """What an attribute of the node ``name`` holds: an array, a GraphProto, a type's text, a number, a text or a tuple.
    UnsupportedError for other types."""
    if a.type == A.TENSOR:
        array = source.view(name, place_of(name, a.t))
        if read_note(a.t.doc_string) is not None:
            a.t.doc_string, a.t.raw_data = "", packed(array)  # for the checker
        return array
    if a.type == A.GRAPH:
        return a.g
    if a.type == A.TYPE_PROTO:
        return text_of(a.tp)
    if a.type not in _VALUES:
        kind = A.AttributeType.Name(a.type) if a.type in A.AttributeType.values() else a.type
        raise UnsupportedError(f"attribute {a.name!r} of type {kind} is not supported")
    value = getattr(a, _VALUES[a.type])
    if isinstance(value, bytes):  # as text: the rules of `opset` compare it
        return value.decode("utf-8", "replace")
    if isinstance(value, (int, float)):
        return value
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value)


def hollow(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with empty bodies: what they hold is looked at apart."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for a in copy.attribute:
        if a.type == A.GRAPH:
            a.g.CopyFrom(onnx.GraphProto(name="body"))
    return copy
