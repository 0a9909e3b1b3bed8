"""A TFLite file as a ModelProto, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper

from nbconv.converters.tflite import control, conv, custom, movement, pointwise, recurrent, reduction, slices, spectral
from nbconv.converters.tflite.builder import Builder, letters
from nbconv.converters.tflite.kind import REFUSED
from nbconv.converters.tflite.reader import COMPLEX64, DAMAGE, DTYPES, File, Operator, read, short
from nbconv.converters.weights import Source
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import OPSET

IR_VERSION = 10

RULES: dict[str, Callable[[Builder, Operator], None]] = {
    **conv.RULES, **pointwise.RULES, **movement.RULES, **reduction.RULES, **recurrent.RULES, **control.RULES,
    **spectral.RULES, **slices.RULES,
}  # fmt: skip
"""operator → what writes it"""


def convert(source: Source) -> onnx.ModelProto:
    """The model as ONNX; nodes of the domain `REFUSED` stand for what is not supported. ModelError where it is damaged,
    ImportError without the tflite package."""
    file = read(source)
    to = Builder(source, file, file.main, _write)
    for t, name in file.inputs.items():
        to.forms[t][False, None] = to.unique(name)
    with np.errstate(all="ignore"):  # a damaged file may have any numbers
        for operator in file.main.operators:
            _write(to, operator)
        try:
            return _model(to, file)
        except ModelError:
            raise
        except DAMAGE as error:
            told = short(str(error) or type(error).__name__)
            raise ModelError(f"{source.label} is a damaged TFLite model: {told}") from None


def _write(to: Builder, operator: Operator) -> None:
    to.at = next((to.name(t) for t in operator.outputs), operator.name)
    try:
        rule = (custom.RULES if operator.custom else RULES).get(operator.name)
        if rule is None:
            kind = "custom operator" if operator.custom else "operator"
            raise UnsupportedError(f"TFLite's {kind} {operator.name} is not supported")
        for t in (*operator.inputs, *operator.outputs):
            spectrum = t >= 0 and to.tensors[t].type == COMPLEX64 and operator.name in spectral.RULES
            if t >= 0 and to.tensors[t].type not in DTYPES and not spectrum:
                raise UnsupportedError(f"tensor {to.name(t)!r}: TFLite's element type {to.tensors[t].type} is not supported")
        rule(to, operator)
        for t in operator.outputs:
            if not to.forms[t] and t not in to.cast and t not in to.complex and not to.tensors[t].constant:
                raise ModelError(f"does not make {to.name(t)!r}")
    except UnsupportedError as error:
        to.refuse(operator, short(str(error)))
    except ModelError as error:
        raise ModelError(f"{to.source.label}: {short(f'{operator.name} ({to.at[:100]}): {error}')}") from None
    except DAMAGE as error:
        told = f"{operator.name} ({to.at[:100]}) is damaged: {error or type(error).__name__}"
        raise ModelError(f"{to.source.label}: {short(told)}") from None


def _model(to: Builder, file: File) -> onnx.ModelProto:
    outputs: list[tuple[str, int, str]] = []
    try:
        for name, t in file.outputs:
            outputs.append((name, t, to.get(t, real=False)))
    except ModelError as error:
        raise ModelError(f"{to.source.label}: {short(f'an output {error}')}") from None
    names = _names(to, file, outputs)
    for node in to.nodes:
        _rename(node, names)
    used = to.taken.union(names.values())
    ports: dict[str, int] = {}
    for name, t, value in outputs:
        have = names.get(value, value)
        if have != name or name in ports:
            n, fresh = 1, name
            while fresh in used:
                fresh, n = f"{name}_{n}", n + 1
            used.add(fresh)
            to.nodes.append(helper.make_node("Identity", [have], [fresh]))
            name = fresh
        ports[name] = t
    nodes = _live(to.nodes, set(ports))
    read = {value for node in nodes for value in _reads(node)}.union(ports)
    graph = helper.make_graph(
        nodes,
        file.main.name or "main",
        [_port(names.get(to.forms[t][False, None], name), t, to) for t, name in file.inputs.items()],
        [_port(name, t, to) for name, t in ports.items()],
        [init for init in to.initializers if init.name in read],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="TensorFlow Lite",
        doc_string=file.description,
    )  # fmt: skip
    if file.subgraphs > 1 or len(file.signatures) > 1:
        helper.set_model_props(model, {"tflite": _said(file)})
    return model


def _live(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that outputs depend on, and those that say what is refused."""
    found = []
    for node in reversed(nodes):
        if node.domain == REFUSED or not wanted.isdisjoint(node.output):
            wanted.update(_reads(node))
            found.append(node)
    return found[::-1]


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    return (a.g for a in node.attribute if a.HasField("g"))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, its bodies among them."""
    yield from node.input
    for body in _bodies(node):
        for inner in body.node:
            yield from _reads(inner)


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for values in (node.input, node.output):
        for i, value in enumerate(values):
            values[i] = names.get(value, value)
    for body in _bodies(node):
        for inner in body.node:
            _rename(inner, names)


def _said(file: File) -> str:
    """Which part of a file of several was read."""
    told = f"the first of {file.subgraphs} subgraphs"
    return told + (f", signatures {', '.join(file.signatures)}" if file.signatures else "")


def _names(to: Builder, file: File, outputs: list[tuple[str, int, str]]) -> dict[str, str]:
    """What values are called in the end: as the tensors that they are, a form in another order with that behind the name."""
    fixed = {init.name for init in to.initializers} | {to.forms[t][False, None] for t in file.inputs}
    names: dict[str, str] = {}
    used = set(to.taken)
    wanted = [(value, name) for name, _, value in outputs]
    for t, forms in to.forms.items():
        for (real, order), value in forms.items():
            if not to.tensors[t].constant and not real:
                wanted.append((value, to.name(t) + ("" if order is None else f":{letters(order)}")))
    for value, name in wanted:
        if value not in fixed and value not in names and name not in used:
            names[value] = name
            used.add(name)
    return names


def _port(name: str, t: int, to: Builder) -> onnx.ValueInfoProto:
    tensor = to.tensors[t]
    if tensor.type not in DTYPES:
        raise UnsupportedError(f"{to.source.label}: {name!r}: TFLite's element type {tensor.type} is not supported")
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), tensor.shape)
