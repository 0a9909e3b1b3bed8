"""Check models: each is read, planned and run once on random input, and its outputs must be finite. One line a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nbconv.commands import _model
from nbconv.commands._machine import gpu_name
from nbconv.commands._text import plural, style
from nbconv.errors import DataDependentError, DeviceError, ModelError

if TYPE_CHECKING:
    import numpy as np

    from nbconv.graph import Graph


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="model", help="ONNX files")
    _model.add_shape(parser)
    _model.add_value(parser)
    _model.add_threads(parser)
    _model.add_device(parser)
    _model.add_exact(parser)
    parser.add_argument("--against", choices=["onnxruntime"], help="also compare the outputs with these")
    _model.add_tolerance(parser, "an output's")
    parser.epilog = f"""{_model.SHAPES}

exit code: 0 all is well, 1 a model is not, 2 a file or --shape is wrong

examples:
  nbconv check *.onnx
  nbconv check model.onnx --against onnxruntime"""


def run(args: argparse.Namespace) -> int:
    if args.against:
        from nbconv.commands._peer import need_onnxruntime

        need_onnxruntime()
    worst = 0
    for path in args.models:
        try:
            code, text = _check(path, args)
        except ModelError as error:
            code, text = 1, str(error).removeprefix(f"{path}: ")
        verdict = (style("ok", "green"), style("fails", "red"), style("not checked", "yellow"))[code]
        print(f"{path}: {verdict}: {' '.join(text.split())}")
        worst = max(worst, code)
    return worst


def _check(path: str, args: argparse.Namespace) -> tuple[int, str]:
    """Exit code and verdict."""
    model = _model.open_model(path, args.threads, args.device, args.exact)
    graph, gpu = model.graph, gpu_name(model)
    shapes, notes = _model.input_shapes(graph, args.shape)
    feeds = _model.random_feeds(graph, shapes, values=_model.given_values(graph, args.value))
    plan = None
    try:
        plan = model.plan(shapes)
    except DataDependentError:
        pass  # it is planned while it runs
    except ModelError as error:
        return (2 if notes else 1), "; ".join([str(error), *notes])
    try:
        results = model.run(feeds)
    except DeviceError as error:
        return 1, str(error)
    wrong = _not_finite(results)
    if wrong:
        return 1, wrong
    numpy_steps = len(plan.numpy_steps()) if plan else 0
    steps = plural(len(plan.steps), "step") if plan else "steps that are planned while it runs"
    text = f"{plural(len(graph.nodes), 'node')} in {steps}{f' on {gpu}' if gpu else ''}"
    text += ", outputs are finite"
    if numpy_steps:
        text += f", {numpy_steps} of them in NumPy{', on the CPU' if gpu else ''} (slow; see nbconv doctor)"
    if args.against:
        good, more = _agrees(path, graph, feeds, results, _model.tolerance(args, model))
        return (0 if good else 1), f"{text}, {more}"
    return 0, text


def _not_finite(results: dict[str, np.ndarray]) -> str:
    import numpy as np

    from nbconv.graph.dtypes import kind_of

    for name, y in results.items():
        if kind_of(y.dtype) == "f":
            bad = int(y.size - np.isfinite(y).sum())
            if bad:
                return f"output {name}: {bad} of {plural(y.size, 'value')} are not finite, for random input"
    return ""


def _agrees(path: str, graph: Graph, feeds: dict, results: dict[str, np.ndarray], tolerance: float) -> tuple[bool, str]:
    from nbconv.commands._peer import difference, session

    peer = session(path)
    worst = 0.0
    for name, b in zip(graph.outputs, peer.run(list(graph.outputs), feeds), strict=True):
        found = difference(results[name], b)
        if not found.ratio <= tolerance:
            return False, f"but output {name} differs from onnxruntime's by {found}; see nbconv compare"
        worst = max(worst, found.ratio)
    return True, f"agrees with onnxruntime (within {worst:.1e} of the greatest value)"
