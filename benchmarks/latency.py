"""Latency beside peers: each model on each engine, batch 1, float32.

Every engine has a process of its own, and they take turns, in another order each round: a run that is not counted, then as
many as fill the turn. A process that does not have its turn is stopped, since the threads of engines spin for a while when
they are done. A figure is the median over rounds of the turns' medians. First the outputs are compared, and nbconv must have
kernels for all steps."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import engines, models
from benchmarks.engines import Worker, some_of

PAUSE = 0.02
"""Seconds between turns."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-t", "--threads", type=int, default=1, help="threads of each engine (default 1)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each engine (default 9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn (default 0.3; at least 3 runs)")
    parser.add_argument(
        "--models", type=some_of(models.SHAPES), default=models.available(), help="names, separated by commas (default: all)"
    )
    parser.add_argument(
        "--engines",
        type=some_of(engines.installed()),
        default=",".join(engines.installed()),
        help="default: those that are installed",
    )
    parser.add_argument("--tolerance", type=float, default=1e-4, help="difference of outputs, of their scale (default 1e-4)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write as JSON, in seconds, to FILE or in place of the table"
    )
    parser.add_argument("--note", default="", help="what else the JSON should say of this run")
    args = parser.parse_args(argv)
    chosen = args.engines
    report: dict[str, Any] = {"threads": args.threads, "rounds": args.rounds, **about(chosen), "models": []}
    report["turn_seconds"], report["note"] = args.seconds, args.note
    if args.json != "-":
        print(f"{report['machine']}; {args.threads} thread{'s' * (args.threads > 1)}, {args.rounds} rounds")
        print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
        print(head(chosen), flush=True)
    for name in args.models:
        row = measure(name, chosen, args)
        report["models"].append(row)
        if args.json != "-":
            print(line(row, chosen), flush=True)
    report["geomean"] = {k: geomean([row[k] for row in report["models"] if k in row]) for k in ("best_peer", "onnxruntime")}
    if args.json:
        document = json.dumps(report, indent=1) + "\n"
        if args.json == "-":
            print(document, end="")
        else:
            Path(args.json).write_text(document, encoding="utf-8")
    if args.json != "-":
        mean = report["geomean"]
        print(f"{'geomean':14}" + " " * 13 * len(chosen) + f"{text(mean['best_peer']):>14}{text(mean['onnxruntime']):>14}")
    return 1 if any(row["problems"] for row in report["models"]) else 0


def about(chosen: list[str]) -> dict[str, Any]:
    """The machine and the versions."""
    from nbconv.commands._machine import cpu_name
    from nbconv.kernels.target import host

    versions = {name: engines.version(name) for name in (*chosen, "numpy")}
    machine = f"{cpu_name()}, kernels for {host().name}, {platform.system()}, Python {platform.python_version()}"
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {"machine": machine, "versions": versions, "date": time.strftime("%Y-%m-%d"), "load_average": load}


def measure(name: str, chosen: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """One model's row: {"name", "seconds" by engine, ratios, "problems"}."""
    path = models.path(name)
    shapes = models.shapes(name, path)
    workers: list[Worker] = []
    try:
        for engine in chosen:
            workers.append(Worker(engine, path, args.threads, shapes))
        problems, notes = compare(workers, args.tolerance)
        turns: dict[str, list[float]] = {engine: [] for engine in chosen}
        for r in range(args.rounds):
            for k in range(len(workers)):
                worker = workers[(k + r) % len(workers)]
                time.sleep(PAUSE)
                turns[worker.engine].append(statistics.median(worker.ask("time", args.seconds, 3)))
    finally:
        for worker in workers:
            worker.close()
    seconds = {engine: statistics.median(found) for engine, found in turns.items()}
    row: dict[str, Any] = {"name": name, "shape": models.SHAPES[name], "seconds": seconds, "turns": turns}
    row["problems"], row["notes"] = problems, notes
    peers = [engine for engine in chosen if engine != "nbconv"]
    if "nbconv" in seconds and peers:
        row["best_peer"] = min(seconds[p] for p in peers) / seconds["nbconv"]
    if "nbconv" in seconds and "onnxruntime" in seconds:
        row["onnxruntime"] = seconds["onnxruntime"] / seconds["nbconv"]
    return row


def compare(workers: list[Worker], tolerance: float) -> tuple[list[str], list[str]]:
    """(what is wrong, what is to note). nbconv must give what one of its peers gives, and NumPy must not do a step; that a
    peer differs from all others is noted (onnxruntime's Sigmoid is 1e-7 off, which is much where all results are near 0)."""
    problems, notes, found = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        for worker in workers:
            file = os.path.join(folder, f"{worker.engine}.npz")
            worker.ask("save", file)
            found[worker.engine] = load(file)
            if worker.engine == "nbconv":
                problems += [f"NumPy does {step}" for step in worker.ask("numpy")]
    for engine, outputs in found.items():
        worst = min((difference(outputs, found[peer]) for peer in found if peer != engine), default=0.0)
        if not worst <= tolerance:
            text = f"{engine}: an output differs from the peers' by {worst:.1e} of its scale"
            (problems if engine == "nbconv" or len(found) == 2 else notes).append(text)
    return problems, notes


def load(file: str) -> list[Any]:
    import numpy as np

    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


def difference(ours: list[Any], theirs: list[Any]) -> float:
    """The greatest difference, as a fraction of the greatest magnitude in that output; infinite for another shape or NaN."""
    import numpy as np

    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return math.inf
        worst = max(worst, float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-30))
    return worst


def geomean(values: list[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def text(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def head(chosen: list[str]) -> str:
    return f"{'ms':14}" + "".join(f"{name:>13}" for name in chosen) + f"{'best ÷ ours':>14}{'ort ÷ ours':>14}"


def line(row: dict[str, Any], chosen: list[str]) -> str:
    times = "".join(f"{row['seconds'][name] * 1e3:13.2f}" for name in chosen)
    ratios = f"{text(row.get('best_peer')):>14}{text(row.get('onnxruntime')):>14}"
    below = [*(f"wrong: {p}" for p in row["problems"]), *(f"note: {n}" for n in row["notes"])]
    return "\n  ".join([f"{row['name']:14}{times}{ratios}", *below])


if __name__ == "__main__":
    sys.exit(main())
