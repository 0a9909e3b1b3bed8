"""ONNX's types as text, as onnxruntime writes them: "tensor(float)", "seq(tensor(int64))", "optional(…)", "map(int64,…)"."""

from __future__ import annotations

import onnx

from nbconv.errors import ModelError, UnsupportedError


def text_of(kind: onnx.TypeProto) -> str:
    """A TypeProto as text; what shapes it declares is left out. UnsupportedError for a type that nbconv lacks."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        number = kind.tensor_type.elem_type
        name = onnx.TensorProto.DataType.Name(number) if number in onnx.TensorProto.DataType.values() else "UNDEFINED"
        if name == "UNDEFINED":
            raise ModelError(f"{number} is no element type")
        return f"tensor({name.lower()})"
    if which == "sequence_type":
        return f"seq({text_of(kind.sequence_type.elem_type)})"
    if which == "optional_type":
        return f"optional({text_of(kind.optional_type.elem_type)})"
    if which == "map_type":
        key = onnx.TensorProto.DataType.Name(kind.map_type.key_type).lower()  # pyright: ignore[reportArgumentType]
        return f"map({key},{text_of(kind.map_type.value_type)})"
    raise UnsupportedError(f"its type is {which.removesuffix('_type')}, not a tensor" if which else "it has no type")


def proto_of(text: str) -> onnx.TypeProto:
    """`text_of` undone."""
    kind = onnx.TypeProto()
    head, _, rest = text.partition("(")
    inner = rest[:-1]
    if head == "tensor":
        kind.tensor_type.elem_type = onnx.TensorProto.DataType.Value(inner.upper())
    elif head == "seq":
        kind.sequence_type.elem_type.CopyFrom(proto_of(inner))
    elif head == "optional":
        kind.optional_type.elem_type.CopyFrom(proto_of(inner))
    elif head == "map":
        key, _, value = inner.partition(",")
        kind.map_type.key_type = onnx.TensorProto.DataType.Value(key.upper())  # pyright: ignore[reportAttributeAccessIssue]
        kind.map_type.value_type.CopyFrom(proto_of(value))
    else:
        raise ModelError(f"{text!r} is no type")
    return kind
