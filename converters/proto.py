"""The part of the protobuf wire format that is needed to leave weights where they lie.

`strip` copies a serialized ModelProto without its large tensors: each one's bytes are replaced by a note of where in the
file they are. What is left is small, and the onnx package parses it; weights are mapped later, never copied. Source:
https://protobuf.dev/programming-guides/encoding and onnx.proto3 for the field numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from nbconv.errors import ModelError

SMALLEST = 64
"""Bytes from which a tensor's data stays in the file; smaller ones go through the parser."""

DEEPEST = 60
"""Nesting of messages at which a file is refused (protobuf's own parsers stop at 100)."""

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""message → {field number: message inside it}, along every way from a model to a tensor"""

_DOC_STRING = 12
_DATA = {4: "float_data", 9: "raw_data", 10: "double_data"}
"""fields of TensorProto whose bytes in the file are the array's own (packed, little-endian)"""


class Note(NamedTuple):
    """Where a stripped tensor's data lies: the TensorProto field it came from, and the bytes in the file."""

    field: str
    offset: int
    length: int


def read_note(doc_string: str) -> Note | None:
    """The note that `strip` left in a tensor's doc_string (it never lets a file's own doc_string through)."""
    if not doc_string:
        return None
    field, offset, length = doc_string.split(":")
    return Note(field, int(offset), int(length))


def printable(text: str) -> str:
    """A message on one line: what a damaged name brings in (line ends, terminal codes) is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def strip(data: memoryview) -> bytes:
    """A serialized ModelProto, less the tensor data of `SMALLEST` bytes and more. Raises ModelError where the bytes are
    no protobuf message."""
    parts: list[bytes | memoryview] = []
    _message(data, 0, len(data), "model", 0, parts)
    return b"".join(parts)


def _message(data: memoryview, start: int, end: int, kind: str, depth: int, parts: list[bytes | memoryview]) -> int:
    """Append the stripped message in data[start:end] to ``parts``; its new length."""
    if depth > DEEPEST:
        raise ModelError("messages are nested too deeply")
    children = _CHILDREN[kind]
    total, kept, at = 0, start, start
    while at < end:
        first = at
        field, wire, at, stop = _field(data, at, end)
        child = children.get(field)
        if child is not None and wire == 2 and stop - at >= SMALLEST:
            parts.append(data[kept:first])
            total += first - kept
            inner: list[bytes | memoryview] = []
            if child == "tensor":
                length = _tensor(data, at, stop, inner)
            else:
                length = _message(data, at, stop, child, depth + 1, inner)
            head = _varint_bytes(field << 3 | 2) + _varint_bytes(length)
            parts.append(head)
            parts.extend(inner)
            total += len(head) + length
            kept = stop
        at = stop
    parts.append(data[kept:end])
    return total + end - kept


def _tensor(data: memoryview, start: int, end: int, parts: list[bytes | memoryview]) -> int:
    """Like `_message` for a TensorProto: its data field becomes a note when it stands alone and is large."""
    fields, at = [], start
    while at < end:
        first = at
        field, wire, at, stop = _field(data, at, end)
        fields.append((field, wire, first, at, stop))
        at = stop
    alone = sum(field in _DATA for field, *_ in fields) == 1
    total = 0
    for field, wire, first, at, stop in fields:
        if field == _DOC_STRING:
            continue
        part: bytes | memoryview = data[first:stop]
        if alone and field in _DATA and wire == 2 and stop - at >= SMALLEST:
            note = f"{_DATA[field]}:{at}:{stop - at}".encode()
            part = _varint_bytes(_DOC_STRING << 3 | 2) + _varint_bytes(len(note)) + note
        parts.append(part)
        total += len(part)
    return total


def _field(data: memoryview, at: int, end: int) -> tuple[int, int, int, int]:
    """The field at ``at``: its number, wire type, and where its content starts and stops."""
    tag, at = _varint(data, at, end)
    wire = tag & 7
    if wire == 2:
        length, at = _varint(data, at, end)
        stop = at + length
    elif wire == 0:
        _, stop = _varint(data, at, end)
    elif wire == 1:
        stop = at + 8
    elif wire == 5:
        stop = at + 4
    else:
        raise ModelError("the bytes are no protobuf message")
    if tag >> 3 == 0:
        raise ModelError("the bytes are no protobuf message")
    if stop > end:
        raise ModelError("the file is truncated or damaged")
    return tag >> 3, wire, at, stop


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ModelError("the file is truncated or damaged")


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
