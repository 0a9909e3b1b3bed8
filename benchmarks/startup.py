"""Starting up beside onnxruntime: the whole life of a process that imports the engine, loads EfficientNet-Lite0 and runs it
once, with warm caches; and of one that imports numpy alone. Medians of processes that take turns."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import engines
from benchmarks.latency import about

UNWANTED = ("numba", "llvmlite", "onnx", "PIL", "onnxruntime")
"""What a warm run must not import."""
SIDES: dict[str, str | None] = {"nbconv": "nbconv", "onnxruntime": "onnxruntime", "numpy alone": None}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-t", "--threads", type=int, default=1, help="threads of each engine (default 1)")
    parser.add_argument("--rounds", type=int, default=20, help="processes of each (default 20)")
    parser.add_argument("--json", action="store_true", help="print as JSON: seconds, bytes")
    args = parser.parse_args(argv)
    from nbconv.models import efficientnet_lite0

    path, shapes = str(efficientnet_lite0()), {"input": (1, 3, 224, 224)}
    for engine in SIDES.values():
        engines.one_run(engine, path, args.threads, shapes)  # fills the caches
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for side, engine in SIDES.items():
            runs[side].append(engines.one_run(engine, path, args.threads, shapes))
    imported = sorted(set(UNWANTED) & {m.partition(".")[0] for run in runs["nbconv"] for m in run["modules"]})
    sides = {side: row(found) for side, found in runs.items()}
    modules = sorted(set(runs["nbconv"][0]["modules"]) - set(runs["numpy alone"][0]["modules"]))
    report = {"threads": args.threads, **about(["nbconv", "onnxruntime"]), "sides": sides, "unwanted": imported}
    report["modules"] = modules
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        show(report)
    return 1 if imported else 0


def row(runs: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs]
    peaks = [run["peak"] for run in runs if run["peak"] is not None]
    return {"median": statistics.median(seconds), "min": min(seconds), "peak": statistics.median(peaks) if peaks else None}


def show(report: dict[str, Any]) -> None:
    print(report["machine"])
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print(f"{'whole process':14}{'median ms':>12}{'min ms':>10}{'peak MiB':>10}")
    for side, r in report["sides"].items():
        peak = "" if r["peak"] is None else f"{r['peak'] / 2**20:.1f}"
        print(f"{side:14}{r['median'] * 1e3:12.1f}{r['min'] * 1e3:10.1f}{peak:>10}")
    base = report["sides"]["numpy alone"]["median"]
    ours, theirs = (report["sides"][e]["median"] for e in ("nbconv", "onnxruntime"))
    beyond = f"{(ours - base) * 1e3:.1f} ms against {(theirs - base) * 1e3:.1f} ms"
    print(f"onnxruntime's ÷ ours {theirs / ours:.2f}; beyond numpy {beyond}")
    unwanted = ", ".join(report["unwanted"]) or "none"
    print(f"modules beside numpy's: {len(report['modules'])}; of {', '.join(UNWANTED)}: {unwanted}")


if __name__ == "__main__":
    sys.exit(main())
