"""A TFLite file as plain values, every offset, length, index and shape of it checked.

Source: tensorflow/lite/schema/schema.fbs. The flatbuffers reader follows offsets wherever they point and counts as far as a
file says, so nothing of it leaves this module unchecked.
"""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nbconv.converters.proto import printable
from nbconv.converters.weights import Source
from nbconv.errors import ModelError, UnsupportedError

DTYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 10: "float64",
    12: "uint64", 15: "uint32", 16: "uint16", 17: "int4",
}  # fmt: skip
"""TensorType → element type; a 4-bit one is held in 8 bits."""

COMPLEX64 = 8

LONGEST = 400
"""Characters of a message, at most."""

MOST_RANK = 32
MOST_DEPTH = 8
"""of sparse levels"""

COPIES, ROOM = 16, 1 << 30
"""Constants in other forms than the file's take so many times its bytes and as many more, at most."""

DAMAGE = (
    struct.error, ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError,
)  # fmt: skip
"""What the flatbuffers reader, and NumPy, raise for offsets and lengths that lead nowhere."""


class Data(NamedTuple):
    """Where a tensor's bytes lie in the file."""

    offset: int
    length: int


@dataclass
class Tensor:
    """A tensor of the subgraph. ``shape`` has None where the model leaves a dimension open."""

    index: int
    name: str
    shape: tuple[int | None, ...]
    type: int
    data: Data | None = None
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    axis: int = 0
    sparsity: Any = None
    variable: bool = False
    array: np.ndarray | None = None
    """the values of a constant, once they were looked at"""

    @property
    def dtype(self) -> np.dtype:
        """Its element type; UnsupportedError where nbconv has none."""
        if self.type not in DTYPES:
            raise UnsupportedError(f"tensor {self.name!r} has TFLite's element type {_enum('TensorType', self.type)}")
        return np.dtype("int8" if self.type == 17 else DTYPES[self.type])

    @property
    def quantised(self) -> bool:
        return self.scale is not None

    @property
    def constant(self) -> bool:
        return self.data is not None or self.array is not None

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Operator:
    """An operator: its name in capitals (or a custom one's own), the tensors it reads (-1: none) and makes."""

    name: str
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    table: Any = None
    kind: str = ""
    custom_options: bytes = b""

    def options(self, kind: str) -> Any:
        """The operator's options, a table of this class of the schema; all defaults where the file has none."""
        module = schema()
        found = getattr(module, kind)()
        table = self.table if self.kind == kind and self.table is not None else _nothing()
        found.Init(table.Bytes, table.Pos)
        return found


@dataclass
class Subgraph:
    """Operators in order, and the tensors that are the subgraph's inputs and outputs."""

    name: str
    tensors: list[Tensor]
    operators: list[Operator]
    inputs: list[int]
    outputs: list[int]


@dataclass
class File:
    """What a file says: its first subgraph, what callers call its inputs and outputs, and what it says of itself."""

    main: Subgraph
    description: str
    subgraph: Callable[[int], Subgraph]
    """reads another subgraph"""
    inputs: dict[int, str] = field(default_factory=dict)
    outputs: list[tuple[str, int]] = field(default_factory=list)
    subgraphs: int = 1
    signatures: tuple[str, ...] = ()
    room: int = 0
    """bytes that constants may still take in other forms than the file's: tensors may share what they point at"""

    def take(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise ModelError("the model's constants, written out, are far larger than its file")


def schema() -> Any:
    """The classes that flatc made of TFLite's schema; ImportError that says what to do."""
    try:
        importlib.import_module("flatbuffers")
        return importlib.import_module("tflite")
    except ImportError:
        raise ImportError(
            "reading a TFLite model needs the tflite and flatbuffers packages: pip install 'nbconv[tflite]', or convert it "
            "to ONNX once where they are installed"
        ) from None


def read(source: Source) -> File:
    """The file's first subgraph. ModelError for what is no TFLite model, or a damaged one."""
    module = schema()
    try:
        return _Reader(source, module).file()
    except ModelError as error:
        raise type(error)(f"{source.label} is not a TFLite model: {short(str(error))}") from None
    except DAMAGE as error:
        told = short(str(error) or type(error).__name__)
        raise ModelError(f"{source.label} is damaged or cut off, get the file again: {told}") from None


def short(text: str) -> str:
    """A message on one line; a damaged file may have names of any length."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


class _Reader:
    def __init__(self, source: Source, module: Any) -> None:
        self.source, self.module = source, module
        self.size = len(source.data)
        self.left = 4 * self.size
        """elements that may still be read: tables that share what they point at would make a small file endless"""
        self.model = module.Model.GetRootAs(source.data, 0)
        if not 0 < self.model._tab.Pos < self.size:
            raise ModelError("its root lies outside the file")

    def count(self, length: int) -> int:
        """The length of a vector, counted."""
        self.left -= length + 1
        if length < 0 or self.left < 0:
            raise ModelError("its vectors are longer than the file")
        return length

    def numbers(self, table: Any, name: str) -> np.ndarray | None:
        """A vector of numbers as an array; None where it is left out."""
        length = self.count(getattr(table, f"{name}Length")())
        if not length:
            return None
        found = getattr(table, f"{name}AsNumpy")()
        if not isinstance(found, np.ndarray) or found.size != length:
            raise ModelError(f"a vector {name} is damaged")
        return found

    def text(self, value: bytes | None) -> str:
        if value is None:
            return ""
        self.count(len(value) // 4)
        return value.decode("utf-8", "replace")

    def file(self) -> File:
        model = self.model
        version = model.Version()
        if version != 3:
            raise ModelError(f"it has version {version}, wanted 3")
        found = File(self.subgraph(0), self.text(model.Description()), self.subgraph, subgraphs=model.SubgraphsLength())
        found.room = COPIES * self.size + ROOM
        if not found.main.outputs:
            raise ModelError("it has no outputs")
        self.name_ports(found)
        return found

    def subgraph(self, index: int) -> Subgraph:
        model = self.model
        if not 0 <= index < self.count(model.SubgraphsLength()):
            raise ModelError(f"it has no subgraph {index}")
        graph = model.Subgraphs(index)
        tensors = [self.tensor(graph.Tensors(i), i) for i in range(self.count(graph.TensorsLength()))]
        codes = [self.code(model.OperatorCodes(i)) for i in range(self.count(model.OperatorCodesLength()))]
        operators = [self.operator(graph.Operators(i), codes) for i in range(self.count(graph.OperatorsLength()))]
        for operator in operators:
            if any(not -1 <= t < len(tensors) for t in operator.inputs):
                raise ModelError(f"{operator.name} reads a tensor that is not there")
            if any(not 0 <= t < len(tensors) for t in operator.outputs):
                raise ModelError(f"{operator.name} makes a tensor that is not there")
        inputs, outputs = (
            [] if v is None else [int(t) for t in v] for v in (self.numbers(graph, "Inputs"), self.numbers(graph, "Outputs"))
        )
        if any(not 0 <= t < len(tensors) for t in inputs + outputs) or len(set(inputs)) < len(inputs):
            raise ModelError("its inputs or outputs are no tensors of it, or given twice")
        return Subgraph(self.text(graph.Name()), tensors, operators, inputs, outputs)

    def code(self, code: Any) -> tuple[str, bool]:
        """An operator's name, and whether it is a custom one."""
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = _enum("BuiltinOperator", number)
        return (self.text(code.CustomCode()) or "CUSTOM", True) if name == "CUSTOM" else (name, False)

    def tensor(self, t: Any, index: int) -> Tensor:
        name = self.text(t.Name()) or f"tensor_{index}"
        shape, signature = self.numbers(t, "Shape"), self.numbers(t, "ShapeSignature")
        shape = () if shape is None else tuple(int(d) for d in shape)
        open_ = shape if signature is None or len(signature) != len(shape) else tuple(int(d) for d in signature)
        if len(shape) > MOST_RANK or min(shape, default=0) < -1 or min(open_, default=0) < -1:
            raise ModelError(f"tensor {name!r} has the shape {list(shape)[:MOST_RANK]}")
        dims = tuple(None if s == -1 or d == -1 else d for d, s in zip(shape, open_, strict=True))
        found = Tensor(index, name, dims, t.Type(), variable=bool(t.IsVariable()))
        found.data = self.data(t.Buffer(), found)
        self.quantisation(t.Quantization(), found)
        found.sparsity = self.sparsity(t.Sparsity(), found)
        if found.data is not None and found.sparsity is None and found.type in DTYPES:
            size = math.prod(d or 0 for d in dims)
            wanted = (size + 1) // 2 if found.type == 17 else size * found.dtype.itemsize
            if wanted != found.data.length:
                raise ModelError(f"tensor {name!r} {list(dims)} has {found.data.length} bytes, wanted {wanted}")
        return found

    def data(self, number: int, tensor: Tensor) -> Data | None:
        """Where a buffer's bytes are; None for an empty one, which an activation has."""
        if not 0 <= number < self.model.BuffersLength():
            raise ModelError(f"tensor {tensor.name!r} lies in buffer {number}, which is not there")
        buffer = self.model.Buffers(number)
        if hasattr(buffer, "Offset") and buffer.Offset() > 1:  # of a file beyond 2 GB: behind the flatbuffer
            data = Data(buffer.Offset(), buffer.Size())
        else:
            length = buffer.DataLength()
            if not length:
                return None
            place = buffer._tab.Offset(4)
            data = Data(buffer._tab.Vector(place), length)
        if data.offset < 0 or data.length < 0 or data.offset + data.length > self.size:
            raise ModelError(f"tensor {tensor.name!r}: its {data.length} bytes at {data.offset} reach outside the file")
        return data

    def quantisation(self, q: Any, tensor: Tensor) -> None:
        if q is None or tensor.type not in (2, 3, 4, 7, 9, 16, 17):
            return
        scale, zero = self.numbers(q, "Scale"), self.numbers(q, "ZeroPoint")
        if scale is None:
            return
        zero = np.zeros(len(scale), np.int64) if zero is None else zero
        if len(zero) == 1:
            zero = np.repeat(zero, len(scale))
        axis = q.QuantizedDimension() if len(scale) > 1 else 0
        wrong = len(zero) != len(scale) or not np.isfinite(scale).all() or (scale <= 0).any()
        if len(scale) > 1:
            wrong = wrong or not 0 <= axis < tensor.rank or tensor.shape[axis] not in (None, len(scale))
        limits = np.iinfo(tensor.dtype)
        if wrong or zero.min() < limits.min or zero.max() > limits.max:
            raise ModelError(f"tensor {tensor.name!r} {list(tensor.shape)} is quantised by scales that do not fit")
        tensor.scale, tensor.zero, tensor.axis = scale.astype(np.float32), zero.astype(tensor.dtype), axis

    def sparsity(self, s: Any, tensor: Tensor) -> Any:
        """(order, block map, levels) of a sparse tensor, each level a size or (segments, indices)."""
        if s is None:
            return None
        order, blocks = self.numbers(s, "TraversalOrder"), self.numbers(s, "BlockMap")
        levels: list[Any] = []
        count = self.count(s.DimMetadataLength())
        if order is None or count != len(order) or count > MOST_DEPTH:
            raise ModelError(f"tensor {tensor.name!r} is sparse in a way that is not understood")
        for i in range(count):
            level = s.DimMetadata(i)
            if level.Format() == 0:
                levels.append(int(level.DenseSize()))
                continue
            parts = []
            for what in ("ArraySegments", "ArrayIndices"):
                kind, table = getattr(level, f"{what}Type")(), getattr(level, what)()
                name = _enum("SparseIndexVector", kind)
                vector = getattr(self.module, name)()
                vector.Init(table.Bytes, table.Pos)
                values = self.numbers(vector, "Values")
                parts.append(np.zeros(0, np.int64) if values is None else values.astype(np.int64))
            levels.append(tuple(parts))
        return order.astype(np.int64), (blocks if blocks is not None else np.zeros(0)).astype(np.int64), levels

    def operator(self, op: Any, codes: list[tuple[str, bool]]) -> Operator:
        index = op.OpcodeIndex()
        if not 0 <= index < len(codes):
            raise ModelError(f"an operator has the code {index}, which is not there")
        inputs, outputs = self.numbers(op, "Inputs"), self.numbers(op, "Outputs")
        reads, makes = (() if v is None else tuple(int(t) for t in v) for v in (inputs, outputs))
        name, custom = codes[index]
        found = Operator(name, custom, reads, makes, op.BuiltinOptions(), _enum("BuiltinOptions", op.BuiltinOptionsType()))
        options = self.numbers(op, "CustomOptions")
        found.custom_options = b"" if options is None else options.tobytes()
        if found.table is not None and not 0 <= found.table.Pos < self.size:
            raise ModelError(f"{name}: its options lie outside the file")
        return found

    def name_ports(self, found: File) -> None:
        """Inputs and outputs under the names of the first signature of the first subgraph, where it has one."""
        known: tuple[dict[int, str], dict[int, str]] = ({}, {})
        keys = []
        for i in range(self.count(self.model.SignatureDefsLength())):
            signature = self.model.SignatureDefs(i)
            keys.append(self.text(signature.SignatureKey()))
            if signature.SubgraphIndex() != 0 or any(known):
                continue
            for names, side in zip(known, ("Inputs", "Outputs"), strict=True):
                for j in range(self.count(getattr(signature, f"{side}Length")())):
                    entry = getattr(signature, side)(j)
                    names.setdefault(entry.TensorIndex(), self.text(entry.Name()))
        found.signatures = tuple(keys)
        main = found.main
        found.inputs = {t: known[0].get(t) or main.tensors[t].name for t in main.inputs}
        found.outputs = [(known[1].get(t) or main.tensors[t].name, t) for t in main.outputs]


def _enum(kind: str, number: int) -> str:
    """The name of a number of one of the schema's enumerations."""
    values = vars(getattr(schema(), kind))
    return next((n for n, v in values.items() if v == number and not n.startswith("_")), f"{kind} {number}")


def _nothing() -> Any:
    """An empty table: every field of it is left out."""
    flatbuffers = importlib.import_module("flatbuffers")
    builder = flatbuffers.Builder(16)
    builder.StartObject(0)
    builder.Finish(builder.EndObject())
    data = builder.Output()
    return flatbuffers.table.Table(data, flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0))
