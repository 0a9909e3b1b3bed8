"""The structure cache: what reading a model yields, kept so that a warm load needs no onnx.

An entry is JSON in the user's cache folder, named by the SHA-256 of the model's bytes and of nbconv's code; weights
stay in the model, an entry says where. It is never trusted: a digest guards against damage, every field is checked while
reading, and whatever does not fit is read from the model again.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

import nbconv.ops
from nbconv.converters.weights import Place, Source
from nbconv.graph import OBJECT, UNRANKED, Graph, Node, Spec, sort
from nbconv.graph.bodies import free
from nbconv.graph.dtypes import added
from nbconv.graph.infer import DTYPES
from nbconv.kernels.store import cache_dir
from nbconv.runtime.digests import code

LARGEST = 8 << 20
"""Bytes of constants that an entry may hold itself; a model with more is read anew each time."""

MOST_ENTRIES = 256
"""Entries kept; beyond them the oldest go."""

_DTYPES = {dtype.name: dtype for dtype in DTYPES.values()}


def _dtype(name: str) -> np.dtype:
    return _DTYPES[name] if name in _DTYPES else added(_str(name))


def key(source: Source) -> str:
    """The name of the model's entry: a digest of its bytes and of nbconv's code; "" where nothing can be kept."""
    if not code():
        return ""
    digest = hashlib.sha256(source.data)
    digest.update(code().encode())
    return digest.hexdigest()


def load(source: Source, name: str) -> Graph | None:
    """The Graph of the entry ``name``, its constants viewing ``source``; None where there is no good entry."""
    path = _path(name)
    if path is None:
        return None
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
        if digest.decode() != hashlib.sha256(body).hexdigest():
            return None
        return decode(json.loads(body), source)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def store(graph: Graph, places: dict[int, dict[str, Place]], name: str) -> None:
    """Write the entry ``name`` aside, then rename; a folder that cannot be written is no error."""
    inline = sum(p.nbytes for part in places.values() for p in part.values() if p.array is not None)
    path = _path(name)
    if path is None or inline > LARGEST:
        return
    body = json.dumps(encode(graph, places), separators=(",", ":")).encode()
    aside = path.with_name(f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        aside.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        os.replace(aside, path)
        entries = sorted(path.parent.glob("*.json"), key=lambda entry: entry.stat().st_mtime)
        for old in entries[:-MOST_ENTRIES]:
            old.unlink(missing_ok=True)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()


def _path(name: str) -> Path | None:
    folder = cache_dir() if name else None
    return None if folder is None else folder / "onnx" / f"{name}.json"


def encode(graph: Graph, places: dict[int, dict[str, Place]]) -> dict[str, Any]:
    """The graph as JSON values; ``places`` says where its constants are, and those of its bodies (by the Graph's `id`)."""
    return {
        "name": graph.name,
        "metadata": graph.metadata,
        "header": graph.header,
        "inputs": [_spec_json(name, spec) for name, spec in graph.inputs.items()],
        "outputs": [_spec_json(name, spec) for name, spec in graph.outputs.items()],
        "optional": [_spec_json(name, spec) for name, spec in graph.optional.items()],
        "constants": [_place_json(name, places[id(graph)][name]) for name in graph.constants],
        "nodes": [
            [
                node.op.type,
                node.op.domain,
                node.name,
                list(node.inputs),
                list(node.outputs),
                {name: _attribute_json(value, places) for name, value in node.op.attributes().items()},
            ]
            for node in graph.nodes
        ],
    }


def decode(entry: Any, source: Source, body: bool = False) -> Graph:
    """`encode` undone. Raises ValueError, TypeError or KeyError (ModelError among them) for what does not fit."""
    constants = {}
    for name, dtype, shape, kind, *rest in entry["constants"]:
        shape = tuple(_int(d) for d in shape)
        if kind == "data":
            place = Place(shape, _dtype(dtype), array=_array(dtype, shape, *rest))
        elif kind == "file":
            file, offset = rest
            place = Place(shape, _dtype(dtype), _str(file), _int(offset))
        else:
            raise ValueError(kind)
        constants[_str(name)] = source.view(name, place)
    inputs = {name: spec for name, spec in map(_spec, entry["inputs"]) if spec is not None}
    outputs = dict(map(_spec, entry["outputs"]))
    optional = {name: spec for name, spec in map(_spec, entry["optional"]) if spec is not None}
    nodes = []
    for type, domain, name, reads, makes, attributes in entry["nodes"]:
        op = nbconv.ops.lookup(type, domain)(**{key: _attribute(value, source) for key, value in attributes.items()})
        nodes.append(Node(op, tuple(map(_str, reads)), tuple(map(_str, makes)), _str(name)))
    known = set(inputs) | set(constants)
    if body:
        known.update(free(Graph(nodes, inputs, outputs, constants)))
    nodes = sort(nodes, known)
    made = known.union(*(node.outputs for node in nodes))
    if not made.issuperset(outputs) or len(inputs) != len(entry["inputs"]) or len(constants) != len(entry["constants"]):
        raise ValueError("incomplete")
    metadata = {_str(key): _str(value) for key, value in entry["metadata"].items()}
    header = {_str(key): value for key, value in entry["header"].items() if isinstance(value, (int, str))}
    return Graph(nodes, inputs, outputs, constants, _str(entry["name"]), metadata, header=header, optional=optional)


def _spec_json(name: str, spec: Spec | None) -> list:
    if spec is None:
        return [name, None]
    return [name, spec.dtype.name, list(spec.shape) if spec.ranked else "...", spec.type]


def _spec(item: list) -> tuple[str, Spec | None]:
    name, dtype, *rest = item
    if dtype is None:
        return _str(name), None
    shape, kind = rest
    dims = UNRANKED if shape == "..." else tuple(d if d is None or isinstance(d, str) else _int(d) for d in shape)
    return _str(name), Spec(dims, _dtype(dtype), type=_str(kind))


def _place_json(name: str, place: Place) -> list:
    head = [name, place.dtype.name, list(place.shape)]
    if place.array is not None:
        return [*head, "data", _base64(place.array)]
    return [*head, "file", place.file, place.offset]


def _attribute_json(value: Any, places: dict[int, dict[str, Place]]) -> Any:
    if isinstance(value, Graph):
        return {"body": encode(value, places)}
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "shape": list(value.shape), "data": _base64(value)}
    return list(value) if isinstance(value, tuple) else value


def _attribute(value: Any, source: Source) -> Any:
    if isinstance(value, dict) and "body" in value:
        return decode(value["body"], source, True)
    if isinstance(value, dict):
        return _array(value["dtype"], tuple(_int(d) for d in value["shape"]), value["data"])
    return value


def _base64(array: np.ndarray) -> str | list[str]:
    """An array's bytes as text; strings as they are."""
    if array.dtype == OBJECT:
        return [_str(text) for text in array.flat]
    return binascii.b2a_base64(np.ascontiguousarray(array).tobytes(), newline=False).decode()


def _array(dtype: str, shape: tuple[int, ...], data: str | list[str]) -> np.ndarray:
    if isinstance(data, list):
        texts = np.empty(len(data), OBJECT)
        texts[:] = [_str(text) for text in data]
        return texts.reshape(shape)
    array = np.frombuffer(binascii.a2b_base64(_str(data)), _dtype(dtype))
    if array.size != math.prod(shape):
        raise ValueError("size")
    return array.reshape(shape)


def _int(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _str(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(value)
    return value
