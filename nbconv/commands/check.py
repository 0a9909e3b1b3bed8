"""Check models: each is read, planned and run once on random input, and its outputs must be finite. One line a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nbconv.commands import _model
from nbconv.commands._text import plural, style
from nbconv.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from nbconv.graph import Graph


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="model", help="ONNX files")
    _model.add_shape(parser)
    _model.add_threads(parser)
    parser.add_argument("--against", choices=["onnxruntime"], help="also compare the outputs with these")
    parser.add_argument("--tolerance", type=_model.nonnegative, default=1e-4, help="as a fraction of the greatest value (default 1e-4)")
    parser.epilog = f"""{_model.SHAPES}

exit code: 0 all is well, 1 a model is not, 2 a file cannot be opened

examples:
  nbconv check *.onnx
  nbconv check model.onnx --against onnxruntime"""


def run(args: argparse.Namespace) -> int:
    if args.against:
        from nbconv.commands._peer import need_onnxruntime

        need_onnxruntime()
    code = 0
    for path in args.models:
        try:
            text, good = _check(path, args)
        except ModelError as error:
            text, good = str(error).removeprefix(f"{path}: "), False
        verdict = style("ok", "green") if good else style("fails", "red")
        print(f"{path}: {verdict}: {' '.join(text.split())}")
        code = max(code, 0 if good else 1)
    return code


def _check(path: str, args: argparse.Namespace) -> tuple[str, bool]:
    graph = _model.open_graph(path)
    shapes, notes = _model.input_shapes(graph, args.shape)
    from nbconv.model import Model

    model = Model(graph, threads=args.threads)
    feeds = _model.random_feeds(graph, shapes)
    try:
        plan = model.plan(shapes)
    except ModelError as error:
        return "; ".join([str(error), *notes]), False
    results = model.run(feeds)
    wrong = _not_finite(results)
    if wrong:
        return wrong, False
    numpy_steps = len(plan.numpy_steps())
    text = f"{plural(len(graph.nodes), 'node')} in {plural(len(plan.steps), 'step')}, outputs are finite"
    if numpy_steps:
        text += f", {numpy_steps} of them in NumPy (slow; see nbconv doctor)"
    if args.against:
        more, good = _agrees(path, graph, feeds, results, args.tolerance)
        return f"{text}, {more}", good
    return text, True


def _not_finite(results: dict[str, np.ndarray]) -> str:
    import numpy as np

    for name, y in results.items():
        if y.dtype.kind == "f":
            bad = int(y.size - np.isfinite(y).sum())
            if bad:
                return f"output {name}: {bad} of {plural(y.size, 'value')} are not finite, for random input"
    return ""


def _agrees(path: str, graph: Graph, feeds: dict, results: dict[str, np.ndarray], tolerance: float) -> tuple[str, bool]:
    from nbconv.commands._peer import difference, session

    peer = session(path)
    worst = 0.0
    for name, b in zip(graph.outputs, peer.run(list(graph.outputs), feeds), strict=True):
        found = difference(results[name], b)
        if not found.ratio <= tolerance:
            return f"but output {name} differs from onnxruntime's by {found}; see nbconv compare", False
        worst = max(worst, found.ratio)
    return f"agrees with onnxruntime (within {worst:.1e} of the greatest value)", True
