"""Kernels against the roofline: every convolution and product of the benchmarks' models, alone, with its real shape and
data, over and over.

ROOF is the least time that the machine's measured roofline allows, over the time taken. Matrix work (GEMM, pointwise and
other convolutions) is measured by its FLOPs; Winograd by the products at its 36 (16) points, while its time holds the
transforms too; depthwise and fully connected layers mostly by the bytes they move. Fully connected layers of 1 MiB or more
find their weights in memory, as they do in a run: the caches are emptied before each."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import engines, models
from benchmarks.latency import about

MEASURED = ("pointwise", "convolution", "winograd", "depthwise", "dense")
"""Kinds of steps (see `nbconv.lowering.step.Impl`) that are layers."""
STREAMED = 1 << 20
"""Bytes of a fully connected layer's weights from which on they are read from memory."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-t", "--threads", type=int, default=1, help="threads (default 1)")
    parser.add_argument(
        "--models",
        type=engines.some_of(models.SHAPES),
        default=models.available(),
        help="names, separated by commas (default: all)",
    )
    parser.add_argument(
        "--kinds", type=engines.some_of(MEASURED), default=",".join(MEASURED), help="kinds of layers (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=0.02, help="how long each layer is run (default 0.02)")
    parser.add_argument("--summary", action="store_true", help="print the summary only")
    parser.add_argument("--json", action="store_true", help="print as JSON: seconds, bytes, operations")
    args = parser.parse_args(argv)
    from nbconv.tools.roofline import roofline

    roof = roofline(args.threads)
    report: dict[str, Any] = {**about(["nbconv"]), "roofline": roof.as_json(), "layers": []}
    for name in args.models:
        report["layers"] += measure(name, args)
    report["summary"] = summary(report["layers"])
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    levels = ", ".join(f"{v.name} {v.read / 1e9:.0f} (copying {v.copy / 1e9:.0f})" for v in roof.levels)
    print(report["machine"])
    print(f"{args.threads} thread{'s' * (args.threads > 1)}: {roof.flops / 1e9:.0f} GFLOP/s; reading, GB/s: {levels}")
    if not args.summary:
        show(report["layers"])
    for kind, s in report["summary"].items():
        worst = f"least {s['least']:4.0%} ({s['where']})"
        print(f"{kind:46} {s['layers']:4} layers {s['seconds'] * 1e3:9.2f} ms {s['share_of_roof']:5.0%} by time, {worst}")
    return 0


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each layer of a model; those with equal arguments are one, measured once."""
    import numpy as np

    import nbconv
    from nbconv.plan.cost import cost
    from nbconv.runtime.executor import Workspace, time_alone
    from nbconv.tools.roofline import roofline
    from nbconv.tools.timed import bounded

    path = models.path(name)
    shapes = models.shapes(name, path)
    plan = nbconv.load(path, threads=args.threads).plan(shapes)
    program, roof, kinds = plan.bound(), roofline(args.threads, plan.target), args.kinds
    space, feeds = Workspace(program), engines.feeds_of(shapes)
    results = [np.empty(shape, dtype) for _, shape, dtype in program.results]
    space.run(feeds, results, args.threads)
    found: dict[Any, dict[str, Any]] = {}
    for i, step in enumerate(plan.steps):
        if i in program.host_steps:
            program.host_steps[i].run(space, args.threads)
            continue
        which, numbers = step.impl.kind, tuple((k, v) for k, v in step.arguments.items() if isinstance(v, (int, float)))
        key = (step.kernel, numbers, len(step.reads))
        if which not in kinds or key in found:
            time_alone(space, i, args.threads, 0.0)  # the next step finds what it does in a run
            if which in kinds:
                found[key]["count"] += 1
            continue
        c = cost(plan, step)
        streams = which == "dense" and c.weights >= STREAMED
        seconds = statistics.median(time_alone(space, i, args.threads, args.seconds, evict if streams else None))
        bound, limit, _ = bounded(c, roof, float("inf") if streams else c.nbytes)
        found[key] = {
            "model": name, "step": i, "kind": which, "layer": describe(plan, step), "count": 1, "seconds": seconds,
            "limit": limit,
            "flops_per_second": c.flops / seconds, "arithmetic_per_second": c.arithmetic / seconds,
            "bytes_per_second": c.nbytes / seconds, "share_of_peak": c.arithmetic / seconds / roof.flops,
            "share_of_roof": bound / seconds, "bound": bound, "group": group(step, which, streams),
        }  # fmt: skip
    return list(found.values())


def describe(plan: Any, step: Any) -> str:
    """The layer's shapes and how it is done."""
    ends = (step.node.inputs[0], step.node.outputs[0])
    return " → ".join("×".join(map(str, plan.specs[n].shape[1:])) for n in ends) + ", " + step.impl.algorithm


def evict() -> None:
    """Fill the caches with something else."""
    import numpy as np

    if not _other:
        _other.append(np.ones(24 << 20, np.float32))
    _other[0].sum()


_other: list[Any] = []


def group(step: Any, kind: str, streams: bool) -> str:
    """Where the summary counts the layer."""
    if kind == "winograd":
        g, size = step.impl.problem.geometry, int(step.impl.name.rpartition("_")[2])
        channels, tiles = min(g.ci, g.co), g.n * -(-g.oh // size) * -(-g.ow // size)
        if channels >= 64:
            many = "128 channels or more" if channels >= 128 else "64 channels or more"
            return f"winograd, {many}, {'49 tiles or more' if tiles >= 49 else 'fewer than 49 tiles'}"
        return "winograd, fewer than 64 channels"
    if kind == "dense":
        return "fully connected, weights from memory" if streams else "fully connected, small"
    return {"pointwise": "GEMM and pointwise", "convolution": "other convolutions"}.get(kind, kind)


def summary(layers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By group: the share of the roof over all its time, and the least of a layer. Winograd's roof is arithmetic alone."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({row["group"] for row in layers}):
        rows = [row for row in layers if row["group"] == name]
        which = "share_of_peak" if name.startswith("winograd") else "share_of_roof"
        seconds = sum(row["seconds"] * row["count"] for row in rows)
        worst = min(rows, key=lambda row: row[which])
        found[name] = {
            "layers": sum(row["count"] for row in rows), "seconds": seconds, "least": worst[which],
            "share_of_roof": sum(row[which] * row["seconds"] * row["count"] for row in rows) / seconds,
            "where": f"{worst['model']} {worst['step']}",
        }  # fmt: skip
    return found


def show(layers: list[dict[str, Any]]) -> None:
    print(f"{'MODEL':13}STEP {'KIND':12}TIMES{'µs':>10}  GFLOP/s   GB/s  PEAK  ROOF  LIMIT    LAYER")
    for row in sorted(layers, key=lambda row: (MEASURED.index(row["kind"]), -row["seconds"])):
        figures = f"{row['seconds'] * 1e6:10.1f}{row['flops_per_second'] / 1e9:9.1f}{row['bytes_per_second'] / 1e9:7.1f}"
        shares = f"{row['share_of_peak']:6.0%}{row['share_of_roof']:6.0%}"
        where = f"{row['model']:13}{row['step']:4} {row['kind']:12}{row['count']:5}"
        print(f"{where}{figures}{shares}  {row['limit']:8} {row['layer']}")


if __name__ == "__main__":
    sys.exit(main())
