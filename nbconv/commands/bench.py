"""Time a model on random input: median and percentiles of single runs, after some that are not counted.

With --compare the peer gets the same input and number of threads, and the two take turns, in short blocks that begin with
a run that is not counted: whatever slows the machine down for a while slows both down, and the threads of one, which spin
for a moment when they are done, do not disturb the other.

On a GPU a run copies its inputs there and its results back, and waits for them. The peer runs on the CPU all the same, and
THREADS counts the peer's."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbconv.commands import _model
from nbconv.commands._text import clip, dims, dump, milliseconds, style, table

if TYPE_CHECKING:
    from nbconv.graph import Graph
    from nbconv.model import Model

BLOCK = 0.1
"""Seconds of one side's turn."""
PAUSE = 0.01
"""Seconds between turns, in which spinning threads go to sleep."""


def add(parser: argparse.ArgumentParser) -> None:
    _model.add_model(parser)
    _model.add_shape(parser)
    _model.add_value(parser)
    parser.add_argument(
        "--threads",
        type=_model.positives,
        metavar="N[,N…]",
        help="the CPU's threads, numbers to time (default: all allowed)",
    )
    _model.add_device(parser)
    _model.add_exact(parser)
    parser.add_argument(
        "--batch", type=_model.positives, metavar="N[,N…]", help="batch sizes to time (default 1, or --shape's)"
    )
    parser.add_argument(
        "--warmup", type=_model.positive, default=3, metavar="N", help="first runs that are not counted (default 3)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--runs", type=_model.positive, metavar="N", help="runs to count")
    length.add_argument("--seconds", type=_model.nonnegative, default=2.0, help="how long to time each line (default 2)")
    parser.add_argument("--compare", choices=["onnxruntime"], help="time this too")
    parser.add_argument("--json", action="store_true", help="print as JSON, times in seconds")
    parser.epilog = f"""{_model.SHAPES}

examples:
  nbconv bench model.onnx
  nbconv bench model.onnx --threads 1,2 --batch 1,8 --compare onnxruntime
  nbconv bench detector.onnx --shape 1,3,640,640 --seconds 10 --json
  nbconv bench model.onnx --device cuda --batch 1,32"""


def run(args: argparse.Namespace) -> int:
    from nbconv.base.machine import available_threads

    if args.compare:
        from nbconv.commands._peer import need_onnxruntime

        need_onnxruntime()
    start = time.perf_counter()
    model = _model.open_model(args.model, device=args.device, exact=args.exact)
    loading = time.perf_counter() - start
    graph, allowed = model.graph, available_threads()
    notes, cases = [], []
    values = _model.given_values(graph, args.value)
    for batch in args.batch or [None]:
        shapes, assumed = _model.input_shapes(graph, args.shape, batch)
        notes = notes or assumed
        cases.append((shapes, _model.random_feeds(graph, shapes, values=values)))
    facts = machine(model, args.compare)
    counts: list[int | None] = [*(args.threads or [allowed])]
    if facts["gpu"]:
        notes = [*notes, *_about_gpu(facts, args)]
        counts = counts if args.compare else [None]
    if not args.json:
        _print_head(args.model, loading, facts, notes)
    rows = []
    for threads in counts:
        for shapes, feeds in cases:
            calls: dict[str, Callable[[], Any]] = {"nbconv": lambda f=feeds, n=threads: model.run(f, threads=n)}
            if args.compare:
                calls[args.compare] = _peer(args.model, graph, feeds, threads)
            found = measure(calls, args.warmup, args.runs, args.seconds)
            rows.append(_row(shapes, threads, found))
    report = {"model": args.model, "load_seconds": loading, "machine": facts, "notes": notes, "results": rows}
    if args.json:
        dump(report)
    else:
        _print_rows(rows, args.compare, facts["gpu"] and args.device)
        if any((row["threads"] or 0) > allowed for row in rows):
            print(style(f"note: this process may use {allowed} processors", "yellow"))
    return 0


def machine(model: Model, peer: str | None) -> dict[str, Any]:
    """What the times were measured on; ``gpu`` is None where that is the CPU alone."""
    import platform

    from nbconv.commands._machine import cpu_name, gpu_name, versions

    packages = ["nbconv", "numpy", *([peer] if peer else [])]
    return {
        "cpu": cpu_name(),
        "gpu": gpu_name(model),
        "target": model._target().name,
        "python": platform.python_version(),
        "versions": versions(packages),
    }


def _about_gpu(facts: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """What must be said about times on a GPU."""
    notes = [f"nbconv runs on {facts['gpu']}: its inputs are copied there and its results back in each run"]
    if args.compare:
        notes.append(f"{args.compare} runs on the CPU, {facts['cpu']}; THREADS counts its")
    elif args.threads:
        notes.append("--threads has no effect on a GPU")
    return notes


def _peer(path: str, graph: Graph, feeds: dict[str, Any], threads: int | None) -> Callable[[], Any]:
    from nbconv.commands._peer import session

    found, names = session(path, threads or 1), list(graph.outputs)
    return lambda: found.run(names, feeds)


def measure(
    calls: dict[str, Callable[[], Any]],
    warmup: int,
    runs: int | None,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each counted run of each call: ``runs`` of them, or as many as take ``seconds``, at least 5."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warmup):
            call()
    collecting = gc.isenabled()
    gc.disable()
    try:
        unfinished = set(calls)
        while unfinished:
            for name, call in calls.items():
                if name in unfinished:
                    if len(calls) > 1:
                        time.sleep(PAUSE)
                        call()
                    _block(call, times[name], runs, seconds, clock)
                    if _enough(times[name], runs, seconds):
                        unfinished.discard(name)
    finally:
        if collecting:
            gc.enable()
    return times


def _block(
    call: Callable[[], Any], times: list[float], runs: int | None, seconds: float, clock: Callable[[], float]
) -> None:
    start = clock()
    while True:
        before = clock()
        call()
        after = clock()
        times.append(after - before)
        if after - start >= BLOCK or _enough(times, runs, seconds):
            return


def _enough(times: list[float], runs: int | None, seconds: float) -> bool:
    if runs is not None:
        return len(times) >= runs
    return len(times) >= 5 and sum(times[-100000:]) >= seconds


def _row(shapes: dict[str, tuple[int, ...]], threads: int | None, times: dict[str, list[float]]) -> dict[str, Any]:
    batch = next((shape[0] for shape in shapes.values() if shape), 1)
    row: dict[str, Any] = {"shapes": {n: list(s) for n, s in shapes.items()}, "batch": batch, "threads": threads}
    row.update((name, statistics(found, batch)) for name, found in times.items())
    if len(times) > 1:
        ours, theirs = times
        row["speedup"] = row[theirs]["p50"] / row[ours]["p50"]
    return row


def statistics(times: list[float], batch: int) -> dict[str, float]:
    """Percentiles (linear between ranks) and minimum in seconds; images a second at the median."""
    import numpy as np

    p50, p90, p99 = (float(p) for p in np.percentile(times, (50, 90, 99)))
    return {"runs": len(times), "min": min(times), "p50": p50, "p90": p90, "p99": p99, "images_per_second": batch / p50}


def _print_head(path: str, loading: float, facts: dict[str, Any], notes: list[str]) -> None:
    print(style(clip(f"{path}, loaded in {milliseconds(loading)}"), "bold"))
    packages = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    print(f"{facts['gpu'] or facts['cpu']}; target {facts['target']}; {packages}")
    for note in notes:
        print(style(f"note: {note}", "yellow"))
    print()


def _print_rows(rows: list[dict[str, Any]], peer: str | None, device: str | None) -> None:
    cells = []
    where = {"nbconv": f" ({device})", peer: " (cpu)"} if device else {}
    for row in rows:
        shape = dims(next(iter(row["shapes"].values()), ()))
        for name in ("nbconv", peer) if peer else ("nbconv",):
            s = row[name]
            figures = [milliseconds(s[k]) for k in ("min", "p50", "p90", "p99")]
            ratio = [f"{row['speedup']:.2f}×" if name == "nbconv" else ""] if peer else []
            cells.append(
                (
                    shape,
                    "" if device and name == "nbconv" else str(row["threads"]),
                    f"{name}{where.get(name, '')}",
                    *figures,
                    f"{s['images_per_second']:.1f}",
                    str(s["runs"]),
                    *ratio,
                )
            )
            shape = ""
    head = ("INPUT", "THREADS", "ENGINE", "MIN", "P50", "P90", "P99", "IMAGES/S", "RUNS", *(["SPEED"] if peer else []))
    table(head, cells, right=(1, 3, 4, 5, 6, 7, 8, 9), width=120)
    if peer:
        cpu, gpu = (" on the CPU", " on the GPU") if device else ("", "")
        print(style(f"(SPEED: {peer}'s median time{cpu} ÷ nbconv's{gpu}; above 1 nbconv is faster)", "dim"))
