"""ONNX nodes in place of TFLite's, and the forms in which each tensor is there.

TFLite's images are (N, H, W, C), ONNX's (N, C, H, W). A tensor gets the order in which it is made, and another when an
operator asks for it: so convolutions follow each other without a Transpose between them. Quantised tensors are integers with
a QuantizeLinear before and a DequantizeLinear behind (onnxruntime's QDQ format); what only moves data moves integers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nbconv.converters.proto import SMALLEST
from nbconv.converters.tflite.kind import REFUSED
from nbconv.converters.tflite.reader import File, Operator, Subgraph, Tensor
from nbconv.converters.tflite.sparse import dense
from nbconv.converters.weights import Source
from nbconv.errors import ModelError, UnsupportedError

Order = tuple[int, ...] | None
"""A form's axes, as axes of the tensor; None where they are the tensor's own."""

CHANNELS: dict[int, tuple[int, ...]] = {4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
"""rank → the order with the channels second"""


DEEPEST = 8
"""Bodies in bodies of control flow."""


class Builder:
    """What is written of a subgraph so far; constants and names are the whole model's. ``write`` writes an operator."""

    def __init__(
        self, source: Source, file: File, part: Subgraph, write: Callable[[Builder, Operator], None],
        around: Builder | None = None,
    ) -> None:  # fmt: skip
        self.source, self.file, self.part, self.write = source, file, part, write
        self.tensors = part.tensors
        self.depth = around.depth + 1 if around else 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = around.initializers if around else []
        self.forms: defaultdict[int, dict[tuple[bool, Order], str]] = defaultdict(dict)
        """tensor → (whether numbers stand for what it quantises, order) → the value that is it"""
        self.cast: dict[int, int] = {}
        """tensors that are constants of float16 as float32 → those constants"""
        self.complex: dict[int, str] = {}
        """complex tensors → values with real and imaginary part along a last axis"""
        self.padded: dict[int, tuple[int, list[int]]] = {}
        """images that are others with zeros around them → those, and how many (begin, begin, end, end)"""
        self.taken: set[str] = around.taken if around else set()
        self._last: defaultdict[str, int] = around._last if around else defaultdict(int)
        """name → the last number behind it that is taken: a file may call all its tensors the same"""
        self._numbers: dict[tuple, str] = around._numbers if around else {}
        self.at = "model"
        """what new values are called after"""

    # Values

    def unique(self, hint: str) -> str:
        name, n = hint, self._last[hint]
        while name in self.taken:
            n += 1
            name = f"{hint}_{n}"
        self.taken.add(name)
        self._last[hint] = n
        return name

    def add(self, kind: str, *inputs: str, count: int = 1, domain: str = "", **attributes: Any) -> Any:
        """A node; its output, or a list of ``count``."""
        names = [self.unique(f"{self.at}/{kind}") for _ in range(count)]
        node = helper.make_node(kind, inputs, names, domain=domain, **attributes)
        self.nodes.append(node)
        return names[0] if count == 1 else names

    def constant(self, value: Any, dtype: Any = None, hint: str = "") -> str:
        """An initializer; equal small ones are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.nbytes <= 64 else None
        if key is None or key not in self._numbers:
            name = self.unique(hint or f"{self.at}/constant")
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            if key is None:
                return name
            self._numbers[key] = name
        return self._numbers[key]

    def numbers(self, *values: float) -> str:
        """A float32 constant: a scalar for one value."""
        return self.constant(values[0] if len(values) == 1 else values, np.float32)

    def integers(self, values: Sequence[int]) -> str:
        return self.constant(list(values), np.int64)

    # Tensors

    def name(self, t: int) -> str:
        return self.tensors[t].name

    def known(self, t: int) -> np.ndarray | None:
        """A constant's values; None where the tensor is computed, or left out (-1)."""
        if t < 0:
            return None
        if t in self.cast:
            found = self.known(self.cast[t])
            return None if found is None else found.astype(np.float32)
        tensor = self.tensors[t]
        if tensor.array is None and tensor.data is not None:
            tensor.array = self._read(tensor)
        if tensor.array is None and 0 in tensor.shape and not self.forms[t]:  # of no elements, so of no bytes
            tensor.array = np.zeros(tuple(d or 0 for d in tensor.shape), tensor.dtype)
        return tensor.array

    def _read(self, tensor: Tensor) -> np.ndarray:
        assert tensor.data is not None
        data = self.source.data[tensor.data.offset : tensor.data.offset + tensor.data.length]
        shape = tuple(d or 0 for d in tensor.shape)
        if tensor.type == 17 or tensor.sparsity is not None:
            self.file.take(math.prod(shape) * tensor.dtype.itemsize)
        if tensor.type == 17:
            both = np.frombuffer(data, np.uint8)
            halves = np.stack([both << 4, both & 0xF0], -1).reshape(-1).view(np.int8) >> 4
            values = halves if tensor.sparsity is not None else halves[: math.prod(shape)]
        elif tensor.dtype == np.bool_:
            values = np.frombuffer(data, np.uint8) != 0
        else:
            values = np.frombuffer(data, tensor.dtype.newbyteorder("<"))
        return values.reshape(shape) if tensor.sparsity is None else dense(values, shape, tensor.sparsity, tensor.name)

    def real(self, t: int) -> np.ndarray | None:
        """A constant's values as numbers, where it is quantised."""
        found, tensor = self.known(t), self.tensors[t]
        if found is None or tensor.scale is None or tensor.zero is None:
            return found
        shape = [-1 if i == tensor.axis and len(tensor.scale) > 1 else 1 for i in range(found.ndim)]
        return ((found.astype(np.int64) - tensor.zero.reshape(shape).astype(np.int64)) * tensor.scale.reshape(shape)).astype(
            np.float32
        )

    def whole(self, t: int, what: str) -> list[int]:
        """The integers of a constant; UnsupportedError where it is computed."""
        found = self.known(t)
        if found is None:
            raise UnsupportedError(f"its {what} is computed by the model, a constant is supported")
        if found.dtype.kind not in "iub" or found.ndim > 2:
            raise ModelError(f"its {what} is {found.dtype.name} {list(found.shape)}, wanted integers")
        return [int(v) for v in found.reshape(-1)]

    def indices(self, t: int) -> str:
        """A tensor of integers as int64, for ONNX's operators that want it."""
        found = self.known(t)
        if found is not None:
            return self.constant(found.astype(np.int64), hint=f"{self.name(t)}:int64")
        return self.add("Cast", self.get(t, real=False), to=TensorProto.INT64)

    def get(self, t: int, order: Order = None, real: bool = True) -> str:
        """The value that is tensor ``t`` in this order; numbers where it is quantised, or the integers (not ``real``)."""
        if t < 0:
            return ""
        tensor = self.tensors[t]
        order = None if order is None or order == tuple(range(len(order))) else order
        real = real and tensor.quantised
        forms = self.forms[t]
        if (real, order) not in forms:
            forms[real, order] = self._made(tensor, order, real)
        return forms[real, order]

    def _made(self, tensor: Tensor, order: Order, real: bool) -> str:
        t = tensor.index
        if t in self.cast:
            return self.add("Cast", self.get(self.cast[t], order), to=TensorProto.FLOAT)
        if real and (tensor.constant or (False, order) in self.forms[t]):
            return self._dequantised(self.get(t, order, False), tensor, order)
        if tensor.constant:
            return self._initializer(tensor, order)
        for (numbers, have), value in self.forms[t].items():
            if numbers == real:
                have = have or tuple(range(tensor.rank))
                return self.add("Transpose", value, perm=[have.index(a) for a in order or range(tensor.rank)])
        if real and self.forms[t]:
            self.get(t, next(have for _, have in self.forms[t]))
            return self.get(t, order)
        if self.known(t) is not None:
            return self._initializer(tensor, order)
        raise ModelError(f"reads tensor {tensor.name!r}, which is no input, no constant and no operator's output")

    def _initializer(self, tensor: Tensor, order: Order) -> str:
        """A constant: where it lies in the file as it is, a note of the place, which `nbconv.converters.importer` reads."""
        name = self.unique(tensor.name if order is None else f"{tensor.name}:{letters(order)}")
        as_is = order is None and tensor.array is None and tensor.data is not None and tensor.sparsity is None
        if as_is and tensor.data is not None and tensor.data.length >= SMALLEST and tensor.type not in (6, 17):
            kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
            note = f"raw_data:{tensor.data.offset}:{tensor.data.length}"
            proto = TensorProto(name=name, data_type=kind, dims=[d or 0 for d in tensor.shape], doc_string=note)
        else:
            array = self.known(tensor.index)
            assert array is not None
            self.file.take(array.nbytes)
            proto = numpy_helper.from_array(np.ascontiguousarray(array if order is None else array.transpose(order)), name)
            del proto.dims[:]
            proto.dims.extend(array.shape if order is None else array.transpose(order).shape)
        self.initializers.append(proto)
        return name

    def _dequantised(self, value: str, tensor: Tensor, order: Order) -> str:
        return self.add("DequantizeLinear", value, *self._meaning(tensor), axis=self._axis(tensor, order))

    def _meaning(self, tensor: Tensor) -> tuple[str, ...]:
        """Scale and zero point; int32, as biases are, has no zero point in ONNX."""
        assert tensor.scale is not None and tensor.zero is not None
        one = len(tensor.scale) == 1
        scale, zero = (v[0] if one else v for v in (tensor.scale, tensor.zero))
        found = (self.constant(scale, np.float32), self.constant(zero, tensor.dtype))
        return found[:1] if tensor.dtype.itemsize > 2 else found

    def _axis(self, tensor: Tensor, order: Order) -> int:
        return tensor.axis if order is None else order.index(tensor.axis)

    def put(self, t: int, value: str, order: Order = None, real: bool = True) -> None:
        """``value`` is tensor ``t`` in this order: numbers, which are quantised where the tensor is, or (not ``real``) its
        integers."""
        tensor = self.tensors[t]
        if self.forms[t] or t in self.cast or t in self.complex or tensor.constant:
            raise ModelError(f"makes tensor {tensor.name!r}, which is there already")
        if real and tensor.quantised:
            if tensor.dtype.itemsize > 2:
                raise UnsupportedError(f"its result is quantised as {tensor.dtype.name}: 8 and 16 bits are supported")
            value = self.add("QuantizeLinear", value, *self._meaning(tensor), axis=self._axis(tensor, order))
        self.forms[t][False, order] = value

    def alike(self, *tensors: int) -> bool:
        """Whether these tensors are quantised in the same way, or not at all: integers may then move between them."""
        first, *others = (self.tensors[t] for t in tensors if t >= 0)
        for other in others:
            if first.quantised != other.quantised:
                return False
            if first.scale is not None and other.scale is not None:
                same = np.array_equal(first.scale, other.scale) and np.array_equal(first.zero, other.zero)  # pyright: ignore
                if not same or len(first.scale) > 1:
                    return False
        return True

    # Orders

    def order(self, *tensors: int) -> Order:
        """The order in which an operator that takes any should work on these tensors, all of one rank: as they are there."""
        computed = [t for t in tensors if t >= 0 and not self.tensors[t].constant and t not in self.cast]
        ranks = {self.tensors[t].rank for t in computed}
        channels = CHANNELS.get(max(ranks, default=0))
        if channels is None or len(ranks) > 1:
            return None
        only = [{order for _, order in self.forms[t]} for t in computed]
        return channels if any(found == {channels} for found in only) else None

    def operand(self, t: int, rank: int, order: Order) -> str:
        """A tensor of `rank` or less as it broadcasts to the others, which are in this order."""
        tensor = self.tensors[t]
        if order is None or tensor.rank == rank:
            return self.get(t, order)
        value = self.real(t)
        if value is None or value.size == 1:
            return self.get(t)
        wide = value.reshape((1,) * (rank - value.ndim) + value.shape).transpose(order)
        return self.constant(wide, hint=f"{tensor.name}:{letters(order)}")

    def elements(self, t: int, real: bool = True) -> str:
        """A value with the tensor's elements in their order, in whatever shape: of one pixel, as it is there."""
        tensor = self.tensors[t]
        found = self.forms[t].get((real and tensor.quantised, CHANNELS.get(tensor.rank)))
        return found if found is not None and set(tensor.shape[1:-1]) == {1} else self.get(t, real=real)

    def axes(self, values: Sequence[int], rank: int, order: Order) -> list[int]:
        """Axes of a tensor of this rank as axes of its form."""
        found = []
        for axis in values:
            if not -rank <= axis < rank:
                raise ModelError(f"axis {axis} is out of range for rank {rank}")
            found.append(axis % rank if order is None else order.index(axis % rank))
        return found

    def activated(self, value: str, code: int) -> str:
        """The value behind a fused activation."""
        if code == 1:
            return self.add("Relu", value)
        if code in (2, 3):
            return self.add("Clip", value, self.numbers(-1.0 if code == 2 else 0.0), self.numbers(1.0 if code == 2 else 6.0))
        if code == 4:
            return self.add("Tanh", value)
        if code:
            raise UnsupportedError(f"its fused activation {code} is not supported: RELU, RELU6, RELU_N1_TO_1 and TANH are")
        return value

    def inside(self, index: int, values: Sequence[str], nodes: list[onnx.NodeProto]) -> list[str]:
        """What another subgraph makes of these values, its nodes behind ``nodes``."""
        if self.depth >= DEEPEST:
            raise UnsupportedError(f"subgraphs more than {DEEPEST} deep are not supported")
        part = self.file.subgraph(index)
        if len(part.inputs) != len(values):
            raise ModelError(f"subgraph {index} has {len(part.inputs)} inputs, {len(values)} values are given")
        inner = Builder(self.source, self.file, part, self.write, self)
        inner.nodes = nodes
        for t, value in zip(part.inputs, values, strict=True):
            inner.forms[t][False, None] = value
        for operator in part.operators:
            self.write(inner, operator)
        return [inner.get(t, real=False) for t in part.outputs]

    def refuse(self, operator: Operator, problem: str) -> None:
        """A node that says what is not supported, in the operator's place."""
        made = [t for t in operator.outputs if not self.forms[t]]
        known = {t for t in operator.inputs if t >= 0 and not self.tensors[t].constant}
        read = [value for t in known for value in self.forms[t].values()]
        outputs = [self.unique(f"{self.name(t)}:refused") for t in made]
        node = helper.make_node(operator.name, read, outputs, name=self.at, domain=REFUSED, problem=problem)
        self.nodes.append(node)
        for t, value in zip(made, outputs, strict=True):
            self.forms[t][False, None] = value


def letters(order: tuple[int, ...]) -> str:
    """What a form in this order is called behind its tensor's name."""
    return "nchw" if order == CHANNELS[4] else "ncdhw" if order == CHANNELS[5] else "".join(map(str, order))
