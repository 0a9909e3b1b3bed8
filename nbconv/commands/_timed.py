"""The demo's stopwatch: a process that opens one engine, times it on the bundled photograph, and ends.

Two engines in one process would disturb each other: onnxruntime's threads spin after a run, on the processors that nbconv's
next run wants. A user has one engine in a process, so that is what is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

WARM_UP = 5
"""Runs of a process that are not counted."""
ROUNDS = 2
"""Processes of each engine, in turns."""


def race(engines: list[str], threads: int, runs: int) -> list[float]:
    """The median time in seconds of about ``runs`` runs of each engine. Engines take turns, a new process each time, so that
    a machine that grows slower meanwhile does so for all."""
    share = -(-runs // ROUNDS)
    times: list[list[float]] = [[] for _ in engines]
    for _ in range(ROUNDS):
        for engine, found in zip(engines, times):
            found += _process(engine, threads, share)
    return [sorted(found)[len(found) // 2] for found in times]


def _process(engine: str, threads: int, runs: int) -> list[float]:
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)  # the child sees the modules that we see
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", __name__, engine, str(threads), str(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"timing {engine} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _nbconv(threads: int) -> Callable[[], object]:
    from nbconv.model import load
    from nbconv.models import efficientnet_lite0

    model, feeds = load(efficientnet_lite0(), threads=threads), {"input": _photograph()}
    return lambda: model.run(feeds)


def _onnxruntime(threads: int) -> Callable[[], object]:
    from nbconv.commands._peer import session
    from nbconv.models import efficientnet_lite0

    found, feeds = session(os.fspath(efficientnet_lite0()), threads), {"input": _photograph()}
    return lambda: found.run(None, feeds)


def _photograph() -> object:
    from nbconv.base.image import load_image
    from nbconv.models import photograph

    return load_image(photograph(), (224, 224), mean=127, std=128)


def main(argv: list[str]) -> None:
    """ENGINE THREADS RUNS: print the seconds of each run, after some that warm up, as JSON."""
    engine, threads, runs = argv[0], int(argv[1]), int(argv[2])
    call = {"nbconv": _nbconv, "onnxruntime": _onnxruntime}[engine](threads)
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    print(json.dumps(times))


if __name__ == "__main__":
    main(sys.argv[1:])
