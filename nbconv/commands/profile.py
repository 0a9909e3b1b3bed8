"""Time each step of a model's plan, and say how far each is from what this machine can do.

FLOP/s counts the operations of the mathematics: Winograd's convolutions do fewer, and may pass the machine's peak. ROOF is
the share of the roofline: the least time for a step's arithmetic and bytes, at speeds measured now, over the time it took.
LIMIT says what sets that least time, arithmetic ("compute") or a level of the memory.

On a GPU each step is waited for, and its time holds its launch, the copies that it needs and the wait: small steps take less
of a whole run. What the GPU could do is not measured: there is no ROOF and no LIMIT."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from nbconv.commands import _model
from nbconv.commands._text import clip, count, dims, dump, milliseconds, plural, size, style, table

if TYPE_CHECKING:
    from nbconv.model import Model


def add(parser: argparse.ArgumentParser) -> None:
    _model.add_model(parser)
    _model.add_shape(parser)
    _model.add_value(parser)
    _model.add_threads(parser)
    _model.add_device(parser)
    _model.add_exact(parser)
    parser.add_argument("--runs", type=_model.positive, default=20, metavar="N", help="times each step is run (default 20)")
    parser.add_argument("--top", type=_model.positive, default=20, metavar="N", help="slowest steps to list (default 20)")
    parser.add_argument("--all", action="store_true", help="list all steps, in their order")
    parser.add_argument("--trace", metavar="FILE", help="write a Chrome trace, which Perfetto shows")
    parser.add_argument("--html", metavar="FILE", help="write a picture: one page that needs nothing else")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, in seconds, bytes and operations")
    parser.epilog = f"""{_model.SHAPES}

examples:
  nbconv profile model.onnx
  nbconv profile detector.onnx --shape 1,3,320,320 --threads 1 --html detector.html
  nbconv profile model.onnx --trace model.json
  nbconv profile model.onnx --device cuda"""


def run(args: argparse.Namespace) -> int:
    from nbconv.base.files import check
    from nbconv.tools import profiler as profiling

    for path in filter(None, (args.trace, args.html)):
        check(path)
    model = _model.open_model(args.model, args.threads, args.device, args.exact)
    shapes, notes = _model.input_shapes(model.graph, args.shape)
    values = _model.given_values(model.graph, args.value)
    found = profiling.profile(model, _model.random_feeds(model.graph, shapes, values=values), runs=args.runs)
    if found.staged and (args.html or args.trace):
        raise ValueError("values decide shapes, so there are several plans: --html and --trace show one")
    report = {**profiling.as_json(found, args.model, shapes), "machine": _machine(model), "notes": notes}
    if args.trace:
        write(args.trace, json.dumps(trace(report, found), allow_nan=False))
    if args.html:
        from nbconv.commands._picture import page

        write(args.html, page(report, found))
    if args.json:
        dump(report)
    else:
        _print(report, args)
    return 0


def _machine(model: Model) -> dict[str, Any]:
    from nbconv.commands._machine import cpu_name, gpu_name, versions

    return {"cpu": cpu_name(), "gpu": gpu_name(model), "versions": versions(["nbconv", "numpy"])}


def write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    from nbconv.base.files import replace

    replace(path, lambda file: file.write(text.encode()))


def trace(report: dict[str, Any], found: Any) -> dict[str, Any]:
    """The Trace Event Format (Chrome's, version of 2016): steps one after another at their medians, and the memory that is
    in use in each; times in microseconds."""
    from nbconv.tools.profiler import lives

    held = lives(found.plan)
    about = f"nbconv {os.path.basename(report['model'])}"
    machine = report["machine"]
    where = machine["gpu"] or plural(report["threads"], "thread")
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 1, "tid": 0, "args": {"name": about}},
        {
            "name": "thread_name",
            "ph": "M",
            "pid": 1,
            "tid": 1,
            "args": {"name": f"steps, {where}"},
        },
    ]
    at = 0.0
    for s in report["steps"]:
        duration = s["seconds"] * 1e6
        roof = {"share of the roof": round(s["share_of_roof"], 4), "limit": s["limit"]} if report["roofline"] else {}
        events.append(
            {
                "name": s["name"],
                "cat": s["kind"],
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "ts": round(at, 3),
                "dur": round(duration, 3),
                "args": {
                    "step": s["step"],
                    "algorithm": s["algorithm"],
                    "op": s["op"],
                    "output": dims(s["shape"]),
                    "GFLOP/s": round(s["flops_per_second"] / 1e9, 2),
                    "GB/s": round(s["bytes_per_second"] / 1e9, 2),
                    **roof,
                },
            }
        )
        used = sum(v.nbytes for v in held if v.begin <= s["step"] <= v.end)
        events.append({"name": "arena", "ph": "C", "pid": 1, "tid": 1, "ts": round(at, 3), "args": {"bytes in use": used}})
        at += duration
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"machine": machine["gpu"] or machine["cpu"]}}


def _print(report: dict[str, Any], args: argparse.Namespace) -> None:
    roof, memory = report["roofline"], report["memory"]
    inputs = ", ".join(f"{name} {dims(shape)}" for name, shape in report["inputs"].items())
    gpu = report["machine"]["gpu"]
    threads = "" if gpu else f", {plural(report['threads'], 'thread')}"
    print(style(clip(f"{args.model}: {inputs}{threads}"), "bold"))
    print(f"{gpu or report['machine']['cpu']}; kernels for {report['target']}")
    if roof:
        levels = ", ".join(f"{v['name']} {v['read'] / 1e9:.0f}" for v in roof["levels"])
        print(f"measured roofline: {roof['flops'] / 1e9:.0f} GFLOP/s; reading, GB/s: {levels}")
    else:
        print("each step was waited for: its time holds its launch, its copies and the wait")
    if report["stages"]:
        print(f"values decide shapes: {plural(report['stages'], 'plan')}, and what is done between them")
    for note in report["notes"]:
        print(style(f"note: {note}", "yellow"))
    print()
    seconds = report["seconds"]
    speed = f"{report['flops'] / seconds / 1e9:.1f} GFLOP/s"
    print(style(f"{milliseconds(seconds)} a run, {count(report['flops'])} FLOPs, {speed}", "bold"), end="")
    share = f", {report['share_of_roof']:.0%} of the roofline" if roof else ""
    print(f"; steps one by one {milliseconds(report['sum_of_steps'])}{share}")
    print(f"{size(memory['arena'])} of values, {size(memory['weights'])} of weights")
    print()
    _print_kinds(report)
    print()
    _print_steps(report, args)


def _print_kinds(report: dict[str, Any]) -> None:
    cells = [
        (
            name,
            str(k["steps"]),
            milliseconds(k["seconds"]),
            f"{k['share']:.1%}",
            f"{k['flops_per_second'] / 1e9:.1f}",
            *_roof(k),
            "█" * round(40 * k["share"]),
        )
        for name, k in sorted(report["kinds"].items(), key=lambda item: -item[1]["seconds"])
    ]
    roof = ("ROOF",) if report["roofline"] else ()
    table(("KIND", "STEPS", "TIME", "SHARE", "GFLOP/s", *roof, ""), cells, right=(1, 2, 3, 4, 5)[: 4 + len(roof)])


def _roof(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of the columns ROOF and LIMIT, as far as a kind or a step has them."""
    if row["share_of_roof"] is None:
        return ()
    return f"{row['share_of_roof']:.0%}", *([row["limit"]] if "limit" in row else [])


def _print_steps(report: dict[str, Any], args: argparse.Namespace) -> None:
    steps = report["steps"]
    shown = steps if args.all else sorted(steps, key=lambda s: -s["seconds"])[: args.top]
    cells = [
        (
            str(s["step"]),
            s["name"],
            dims(s["shape"]),
            s["algorithm"],
            milliseconds(s["seconds"]),
            f"{s['share']:.1%}",
            f"{s['flops_per_second'] / 1e9:.1f}",
            f"{s['bytes_per_second'] / 1e9:.1f}",
            *_roof(s),
        )
        for s in shown
    ]
    roof = ("ROOF", "LIMIT") if report["roofline"] else ()
    head = ("STEP", "NODE", "OUTPUT", "ALGORITHM", "TIME", "SHARE", "GFLOP/s", "GB/s", *roof)
    table(head, cells, right=(0, 4, 5, 6, 7, *((8,) if roof else ())), width=140)
    rest = len(steps) - len(shown)
    if rest:
        left = 1 - sum(s["share"] for s in shown)
        print(style(f"{plural(rest, 'step')} more take {left:.1%} (--all lists them in their order)", "dim"))
