"""ONNX models in and out: `read`, `survey`, `write`, `save`.

A model's opset may be any that the onnx package knows. That package parses and checks; once it has, a load
of the same file takes the structure from the cache (`nbconv.converters.structure`) and does not import it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nbconv.converters import structure
from nbconv.converters.weights import Source
from nbconv.graph import Graph

if TYPE_CHECKING:
    from nbconv.converters.problems import Problem


def read(source: str | os.PathLike | bytes | Source) -> Graph:
    """The Graph of an ONNX model, given by path or as its bytes: inner vocabulary, nodes in topological order.

    Constants are read-only views of the file (mapped while they live) wherever it holds them as they are; external data
    must lie in the model's folder. Initializers that are also inputs are constants.

    Raises OSError for a path that cannot be opened, ModelError for what is no valid model (naming what is wrong), and
    one UnsupportedError that names everything nbconv lacks; ImportError where the onnx package is needed and missing.
    """
    model = source if isinstance(source, Source) else Source(source)
    name = structure.key(model)
    graph = structure.load(model, name)
    if graph is None:
        _need_onnx(f"{model.label} was not read here before, so it must be parsed")
        from nbconv.converters.importer import import_graph

        graph, places = import_graph(model)
        structure.store(graph, places, name)
    return graph


def survey(source: str | os.PathLike | bytes) -> list[Problem]:
    """All that nbconv lacks to run a model, in the model's order; [] when nothing. Raises OSError and ModelError as
    `read` does."""
    _need_onnx("a model must be parsed")
    from nbconv.converters.importer import list_problems

    return list_problems(Source(source))


def write(graph: Graph) -> bytes:
    """The graph as an ONNX model; ModelError where it cannot be (`nbconv` ops, more than 2 GB)."""
    _need_onnx("a model is to be written")
    from nbconv.converters.exporter import write

    return write(graph)


def save(graph: Graph, path: str | os.PathLike) -> None:
    """Write the graph to a file, whole or not at all; weights that protobuf cannot hold (2 GB) go to a file beside it."""
    _need_onnx("a model is to be written")
    from nbconv.converters.exporter import save

    save(graph, path)


def _need_onnx(why: str) -> None:
    """ImportError that says what to do, unless the onnx package is there."""
    from importlib.util import find_spec

    if find_spec("onnx") is None:
        raise ImportError(
            f"{why}, and the onnx package is not installed: pip install onnx, or run the model once where it is installed "
            "and copy that machine's cache folder (NBCONV_CACHE)"
        )
