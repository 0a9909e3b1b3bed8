"""A model's inputs and outputs as onnxruntime tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from nbconv.compat.onnxruntime.errors import InvalidArgument
from nbconv.compat.onnxruntime.values import NodeArg, type_name
from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Graph, Spec
from nbconv.model import Model, Port

FIX = "Please fix either the inputs/outputs or the model."
"""What onnxruntime says after a shape that does not fit."""


def inputs_of(ports: Iterable[Port]) -> dict[str, NodeArg]:
    return {port.name: _arg(port) for port in ports}


def outputs_of(model: Model) -> dict[str, NodeArg]:
    """As the model declares them; where it does not, the rank and type, when they can be told."""
    ports = model.outputs
    if any(port.dtype is None or (port.shape is None and not port.type) for port in ports):
        ports = _inferred(model)
    return {port.name: _arg(port) for port in ports}


def fit(name: str, array: np.ndarray, wanted: NodeArg) -> None:
    """InvalidArgument, as onnxruntime words it, unless the array has the type, rank and sizes that the input wants."""
    have = type_name(array.dtype)
    if have != wanted.type:
        raise InvalidArgument(f"Unexpected input data type. Actual: ({have}) , expected: ({wanted.type}) for input: {name}")
    if wanted.shape and array.ndim != len(wanted.shape):
        raise InvalidArgument(f"Invalid rank for input: {name} Got: {array.ndim} Expected: {len(wanted.shape)} {FIX}")
    wrong = [
        f" index: {i} Got: {got} Expected: {want}\n"
        for i, (got, want) in enumerate(zip(array.shape, wanted.shape, strict=False))
        if isinstance(want, int) and got != want
    ]
    if wrong:
        told = "".join(wrong)
        raise InvalidArgument(f"Got invalid dimensions for input: {name} for the following indices\n{told} {FIX}")


def fixed(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph with sizes for some of its symbolic dimensions."""

    def fix(spec: Spec) -> Spec:
        return spec._replace(shape=tuple(sizes.get(d, d) if isinstance(d, str) else d for d in spec.shape))

    inputs = {name: fix(spec) for name, spec in graph.inputs.items()}
    outputs = {name: spec and fix(spec) for name, spec in graph.outputs.items()}
    return Graph(graph.nodes, inputs, outputs, graph.constants, graph.name, graph.metadata, graph.provenance, graph.header)


def _arg(port: Port) -> NodeArg:
    kind = port.type or type_name(port.dtype or np.dtype(np.float32))
    return NodeArg(port.name, kind, list(port.shape or ()))


def _inferred(model: Model) -> list[Port]:
    """The outputs, with what is not declared filled in from a trial: the shape where no input is dynamic, else the rank;
    from what onnx infers where shapes depend on values; nothing where that package is not there, or no trial size fits."""
    from nbconv.lowering.weights import Weights
    from nbconv.passes.fold import fold

    graph = model.graph
    if any(spec.type or not spec.ranked for spec in graph.inputs.values()):
        return _declared(graph, _by_onnx(model))
    dynamic = any(not isinstance(d, int) for spec in graph.inputs.values() for d in spec.shape)
    found: dict[str, Any] = dict.fromkeys(graph.outputs)
    for size in (1, 32, 224):
        trial = {
            n: Spec(tuple(d if isinstance(d, int) else size for d in s.shape), s.dtype) for n, s in graph.inputs.items()
        }
        try:
            specs = fold(graph, trial, Weights(), frozenset(graph.outputs))[1]
        except DataDependentError:
            found = _by_onnx(model)
            break
        except ModelError:
            continue
        found = {n: Spec((None,) * specs[n].rank if dynamic else specs[n].shape, specs[n].dtype) for n in graph.outputs}
        break
    return _declared(graph, found)


def _declared(graph: Graph, found: Mapping[str, Any]) -> list[Port]:
    """The outputs: what the graph declares of them, else what was found."""
    known = {name: spec or found.get(name) for name, spec in graph.outputs.items()}
    return [Port(n, spec and spec.shape, spec and spec.dtype, spec.type if spec else "") for n, spec in known.items()]


def _by_onnx(model: Model) -> dict[str, Port]:
    """What onnx infers of the outputs, from the model's file; nothing where it cannot."""
    if model._source is None or find_spec("onnx") is None:
        return {}
    from nbconv.converters.parse import inferred_outputs

    return {n: Port(n, shape, dtype) for n, (shape, dtype) in inferred_outputs(model._source).items()}
