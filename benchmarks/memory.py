"""Peak memory beside onnxruntime: the most that a fresh process has resident (VmHWM) when it loads a model and runs it
once, with warm caches. Linux only."""

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
from benchmarks.latency import about, geomean

ENGINES = ("nbconv", "onnxruntime")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-t", "--threads", type=int, default=1, help="threads of each engine (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each engine that count (default 3)")
    parser.add_argument(
        "--models",
        type=engines.some_of(models.SHAPES),
        default=models.available(),
        help="names, separated by commas (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON, in bytes")
    args = parser.parse_args(argv)
    report: dict[str, Any] = {"threads": args.threads, **about(list(ENGINES)), "models": []}
    empty = peak(None, "", args.threads, {})
    report["python_and_numpy"] = empty
    if not args.json:
        print(report["machine"])
        print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
        print(f"{'MiB, peak':14}{'nbconv':>12}{'onnxruntime':>14}{'ours ÷ ort':>12}")
        print(f"{'numpy alone':14}{empty >> 20:12}")
    for name in args.models:
        path = models.path(name)
        shapes = models.shapes(name, path)
        peak("nbconv", path, args.threads, shapes)  # fills the caches
        found = {e: int(statistics.median(peak(e, path, args.threads, shapes) for _ in range(args.rounds))) for e in ENGINES}
        row = {"name": name, "peak": found, "ratio": found["nbconv"] / found["onnxruntime"]}
        report["models"].append(row)
        if not args.json:
            print(f"{name:14}{found['nbconv'] >> 20:12}{found['onnxruntime'] >> 20:14}{row['ratio']:12.2f}", flush=True)
    report["geomean"] = geomean([row["ratio"] for row in report["models"]])
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"{'geomean':40}{report['geomean']:12.2f}")
    return 0


def peak(engine: str | None, path: str, threads: int, shapes: engines.Shapes) -> int:
    """Bytes of one process."""
    found = engines.one_run(engine, path, threads, shapes)["peak"]
    if found is None:
        raise RuntimeError("this system does not tell how much memory a process had")
    return found


if __name__ == "__main__":
    sys.exit(main())
