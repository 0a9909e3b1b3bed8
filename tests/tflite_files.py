"""Small TFLite files, written with the classes of TFLite's schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

tflite = pytest.importorskip("tflite")
flatbuffers = pytest.importorskip("flatbuffers")

TYPES = {
    "float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9,
    "float64": 10, "complex64": 8, "int4": 17,
}  # fmt: skip


VERSIONS = {"BROADCAST_TO": 2, "ADD": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "CONV_3D": 1}
"""Of operators whose first version LiteRT lacks."""


class Quantised(NamedTuple):
    scale: Sequence[float]
    zero: Sequence[int]
    axis: int = 0


class T(NamedTuple):
    """A tensor: ``shape`` and ``dtype``, or ``data``; -1 in ``signature`` leaves a dimension open."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    data: np.ndarray | None = None
    quantised: Quantised | None = None
    signature: tuple[int, ...] | None = None
    variable: bool = False


class O(NamedTuple):  # noqa: E742
    """An operator, ``options`` by the names of the schema, "Table.Field" lists among them; -1 among ``inputs``: left out."""

    name: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    options: Mapping[str, Any] = {}
    table: str = ""
    custom: bytes = b""


def constant(name: str, data: Any, dtype: Any = np.float32, quantised: Quantised | None = None) -> T:
    array = np.asarray(data, dtype)
    return T(name, array.shape, array.dtype.name, array, quantised)


class Part(NamedTuple):
    """A subgraph."""

    tensors: Sequence[T]
    operators: Sequence[O]
    inputs: Sequence[int]
    outputs: Sequence[int]


def write(
    tensors: Sequence[T], operators: Sequence[O], inputs: Sequence[int], outputs: Sequence[int], *,
    signature: tuple[str, Mapping[str, int], Mapping[str, int]] | None = None, more: Sequence[Part] = (),
) -> bytes:  # fmt: skip
    """The bytes of a model; ``more``: subgraphs behind the first."""
    b = flatbuffers.Builder(1024)
    parts = [Part(tensors, operators, inputs, outputs), *more]
    buffers = [b"", *(t.data.tobytes() for part in parts for t in part.tensors if t.data is not None)]
    codes = list(dict.fromkeys(o.name for part in parts for o in part.operators))
    made = {i: _vector(b, np.frombuffer(data, np.uint8), 16) for i, data in enumerate(buffers) if data}
    offsets = []
    for i in range(len(buffers)):
        tflite.BufferStart(b)
        if i in made:
            tflite.BufferAddData(b, made[i])
        offsets.append(tflite.BufferEnd(b))
    buffer_vector = _offsets(b, offsets)
    code_offsets = []
    for name in codes:
        number = getattr(tflite.BuiltinOperator, name, tflite.BuiltinOperator.CUSTOM)
        text = b.CreateString(name) if number == tflite.BuiltinOperator.CUSTOM else None
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(number, 127))
        tflite.OperatorCodeAddBuiltinCode(b, number)
        tflite.OperatorCodeAddVersion(b, VERSIONS.get(name, 1))
        if text is not None:
            tflite.OperatorCodeAddCustomCode(b, text)
        code_offsets.append(tflite.OperatorCodeEnd(b))
    code_vector = _offsets(b, code_offsets)
    numbers = iter(range(1, len(buffers)))
    graphs = _offsets(b, [_subgraph(b, part, codes, numbers) for part in parts])
    signatures = _offsets(b, [_signature(b, signature)]) if signature else None
    described = b.CreateString("made by a test")
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, code_vector)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddDescription(b, described)
    tflite.ModelAddBuffers(b, buffer_vector)
    if signatures is not None:
        tflite.ModelAddSignatureDefs(b, signatures)
    b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
    return bytes(b.Output())


def _subgraph(b: Any, part: Part, codes: list[str], buffers: Iterator[int]) -> int:
    tensors = _offsets(b, [_tensor(b, t, next(buffers) if t.data is not None else 0) for t in part.tensors])
    operators = _offsets(b, [_operator(b, o, codes.index(o.name)) for o in part.operators])
    ins, outs = (_vector(b, np.array(v, np.int32)) for v in (part.inputs, part.outputs))
    name = b.CreateString("main")
    tflite.SubGraphStart(b)
    fields = {"Tensors": tensors, "Inputs": ins, "Outputs": outs, "Operators": operators, "Name": name}
    for field, value in fields.items():
        getattr(tflite, f"SubGraphAdd{field}")(b, value)
    return tflite.SubGraphEnd(b)


def _vector(b: Any, values: np.ndarray, align: int = 0) -> int:
    """A vector of numbers, its first element aligned."""
    size = values.itemsize
    b.StartVector(size, len(values), align or size)
    b.head -= values.nbytes
    b.Bytes[b.Head() : b.Head() + values.nbytes] = values.tobytes()
    return b.EndVector()


def _offsets(b: Any, values: Sequence[int]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependUOffsetTRelative(value)
    return b.EndVector()


def _tensor(b: Any, t: T, buffer: int) -> int:
    name, shape = b.CreateString(t.name), _vector(b, np.array(t.shape, np.int32))
    signature = None if t.signature is None else _vector(b, np.array(t.signature, np.int32))
    quantised = None
    if t.quantised is not None:
        scale, zero = _vector(b, np.array(t.quantised.scale, np.float32)), _vector(b, np.array(t.quantised.zero, np.int64))
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scale)
        tflite.QuantizationParametersAddZeroPoint(b, zero)
        tflite.QuantizationParametersAddQuantizedDimension(b, t.quantised.axis)
        quantised = tflite.QuantizationParametersEnd(b)
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, TYPES[t.dtype])
    tflite.TensorAddBuffer(b, buffer)
    tflite.TensorAddName(b, name)
    tflite.TensorAddIsVariable(b, t.variable)
    if quantised is not None:
        tflite.TensorAddQuantization(b, quantised)
    if signature is not None:
        tflite.TensorAddShapeSignature(b, signature)
    return tflite.TensorEnd(b)


def _operator(b: Any, o: O, code: int) -> int:
    ins, outs = (_vector(b, np.array(v, np.int32)) for v in (o.inputs, o.outputs))
    custom = _vector(b, np.frombuffer(o.custom, np.uint8)) if o.custom else None
    options = None
    if o.table:
        held = {k: _vector(b, np.array(v, np.int32)) if isinstance(v, (list, tuple)) else v for k, v in o.options.items()}
        getattr(tflite, f"{o.table}Start")(b)
        for key, value in held.items():
            getattr(tflite, f"{o.table}Add{key}")(b, value)
        options = getattr(tflite, f"{o.table}End")(b)
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, ins)
    tflite.OperatorAddOutputs(b, outs)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, o.table))
        tflite.OperatorAddBuiltinOptions(b, options)
    if custom is not None:
        tflite.OperatorAddCustomOptions(b, custom)
    return tflite.OperatorEnd(b)


def _signature(b: Any, signature: tuple[str, Mapping[str, int], Mapping[str, int]]) -> int:
    sides = []
    for side in signature[1:]:
        maps = []
        for name, index in side.items():
            text = b.CreateString(name)
            tflite.TensorMapStart(b)
            tflite.TensorMapAddName(b, text)
            tflite.TensorMapAddTensorIndex(b, index)
            maps.append(tflite.TensorMapEnd(b))
        sides.append(_offsets(b, maps))
    key = b.CreateString(signature[0])
    tflite.SignatureDefStart(b)
    tflite.SignatureDefAddInputs(b, sides[0])
    tflite.SignatureDefAddOutputs(b, sides[1])
    tflite.SignatureDefAddSignatureKey(b, key)
    tflite.SignatureDefAddSubgraphIndex(b, 0)
    return tflite.SignatureDefEnd(b)


def litert(content: bytes, feeds: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """What LiteRT's own kernels compute; None where it is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    run = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    for detail, x in zip(run.get_input_details(), feeds):
        run.resize_tensor_input(detail["index"], x.shape)
    run.allocate_tensors()
    for detail, x in zip(run.get_input_details(), feeds):
        run.set_tensor(detail["index"], x)
    run.invoke()
    return [run.get_tensor(detail["index"]) for detail in run.get_output_details()]
