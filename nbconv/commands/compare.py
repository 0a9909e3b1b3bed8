"""Run a model with every intermediate value fetched, the same in onnxruntime with its optimisations off, and report the
first node whose value differs. The outputs of the model as it usually runs, fused, are compared too."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nbconv.commands import _model
from nbconv.commands._text import dump, plural, style, table

if TYPE_CHECKING:
    import numpy as np

    from nbconv.commands._peer import Difference
    from nbconv.graph import Graph


def add(parser: argparse.ArgumentParser) -> None:
    _model.add_model(parser)
    _model.add_shape(parser)
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="an input from a .npy or .npz file (default: random)",
    )
    _model.add_seed(parser, "random inputs")
    _model.add_tolerance(parser, "a value's")
    parser.add_argument(
        "--worst", type=_model.positive, default=5, metavar="N", help="how many of the worst values to print (default 5)"
    )
    _model.add_threads(parser)
    _model.add_device(parser)
    _model.add_exact(parser)
    parser.add_argument("--json", action="store_true", help="print all differences as JSON")
    parser.epilog = f"""{_model.SHAPES}

exit code: 0 all values agree, 1 some do not

examples:
  nbconv compare model.onnx
  nbconv compare model.onnx --input x=batch.npy --tolerance 1e-5"""


def run(args: argparse.Namespace) -> int:
    from nbconv.commands._peer import need_onnxruntime

    need_onnxruntime()
    model = _model.open_model(args.model, args.threads, args.device, args.exact)
    graph, args.tolerance = model.graph, _model.tolerance(args, model)
    feeds = _feeds(graph, args)
    wanted, peer = every_value(args.model, graph, feeds)
    ours = model.run(feeds, fetch=wanted)
    fused = model.run(feeds)
    found = differences(graph, wanted, ours, fused, peer)
    bad = [row for row in found if not row["difference"].ratio <= args.tolerance]
    if args.json:
        dump({"model": args.model, "tolerance": args.tolerance, "agrees": not bad, "values": [_as_json(r) for r in found]})
    else:
        _print(args, found, bad)
    return 1 if bad else 0


def _feeds(graph: Graph, args: argparse.Namespace) -> dict[str, np.ndarray]:
    files = _model.named(args.input, "--input")
    given = {name: _model.read_array(path, name) for name, path in files.items() if name in graph.inputs}
    for name in files:
        if name not in given:
            raise ValueError(f"--input {name}: the model's inputs are {', '.join(graph.inputs)}")
        array, wanted = given[name], graph.inputs[name]
        fits = len(array.shape) == len(wanted.shape) and all(
            have == want or not isinstance(want, int) for have, want in zip(array.shape, wanted.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            raise ValueError(f"--input {name}: {files[name]} has shape {list(array.shape)}, wanted {wanted}")
    shapes, _ = _model.input_shapes(graph, [*args.shape, *(f"{n}={','.join(map(str, a.shape))}" for n, a in given.items())])
    return {**_model.random_feeds(graph, shapes, args.seed), **given}


def every_value(path: str, graph: Graph, feeds: dict[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """The values that both sides know, in the graph's order, and what onnxruntime computes for them."""
    import onnx

    from nbconv.commands._peer import session
    from nbconv.converters.complete import complete
    from nbconv.converters.weights import Source

    proto = complete(Source(path))
    there = {name for node in proto.graph.node for name in node.output if name}
    wanted = [name for name in graph.values() if name in there]
    declared = {info.name for info in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in declared)
    try:
        data = proto.SerializeToString()
    except ValueError:
        raise ValueError(f"{path}: onnxruntime cannot be handed more than 2 GB with all values as outputs") from None
    results = session(data, optimise=False).run(wanted, feeds)
    return wanted, dict(zip(wanted, results, strict=True))


def differences(
    graph: Graph, wanted: list[str], ours: dict[str, Any], fused: dict[str, Any], peer: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row for each value in the graph's order, then one for each output of the fused run."""
    from nbconv.commands._peer import difference

    makers = graph.producers()
    rows = [(name, ours[name], "") for name in wanted] + [
        (name, fused[name], " (fused)") for name in graph.outputs if name in peer
    ]
    return [
        {
            "value": f"{name}{how}",
            "node": makers[name].name,
            "op": makers[name].op.type,
            "difference": difference(y, peer[name]),
        }
        for name, y, how in rows
    ]


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    d: Difference = row["difference"]
    figures = {"difference": d.absolute, "greatest": d.scale, "at": list(d.where), "problem": d.problem}
    return {**row, **figures, "ratio": None if d.ratio == float("inf") else d.ratio}


def _print(args: argparse.Namespace, found: list[dict[str, Any]], bad: list[dict[str, Any]]) -> None:
    if bad:
        first = bad[0]
        print(
            style(f"{args.model}: {plural(len(bad), 'value')} of {len(found)} differ by more than {args.tolerance:g}", "red")
        )
        print(f"first: {first['node']} ({first['op']}) makes {first['value']}")
        print(f"       {first['difference']}")
    else:
        print(
            style(
                f"{args.model}: all {plural(len(found), 'value')} agree with onnxruntime within {args.tolerance:g}", "green"
            )
        )
    print()
    worst = sorted(found, key=lambda row: -row["difference"].ratio)[: args.worst]
    cells = [
        (
            r["value"],
            r["op"],
            r["difference"].problem or f"{r['difference'].absolute:.3g}",
            f"{r['difference'].scale:.3g}",
            f"{r['difference'].ratio:.1e}",
        )
        for r in worst
    ]
    table(("WORST VALUES", "OP", "DIFFERENCE", "GREATEST", "RATIO"), cells, right=(3, 4))
