"""Training beside PyTorch on the CPU: milliseconds a step, and the memory it takes beyond what the process had.

Each engine has a process of its own a model; they take turns, and a process that does not have its turn waits for a line on
its standard input. A figure is the median of the turns' medians; memory is VmHWM less VmRSS before the trainer is made. SGD
with momentum 0.9 on the same seeded batches; the first steps' losses are printed to compare."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

CASES = {"lenet5": "all", "mobilenet_v2": "all", "resnet18": "all", "resnet18 head": "head", "unet": "all"}
RATE, MOMENTUM = 0.001, 0.9


def resident(what: str) -> float:
    """MiB of this process."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what)) / 1024


def ours(path: str, trainable: str, threads: int) -> Callable[[Any, Any], float]:
    import nbconv

    model = nbconv.load(path, threads=threads)
    trainer = nbconv.Trainer(
        model, loss="cross_entropy", optimizer=nbconv.SGD(lr=RATE, momentum=MOMENTUM), trainable=trainable
    )
    return lambda x, y: float(trainer.step(x, y))


def theirs(net: Any, trainable: str, threads: int) -> Callable[[Any, Any], float]:
    import torch

    torch.set_num_threads(threads)
    if trainable == "head":
        net.eval().requires_grad_(False)
        net[-1].requires_grad_(True)
    else:
        net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=RATE, momentum=MOMENTUM)

    def step(x: Any, y: Any) -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def work(engine: str, name: str, path: str, data: str, trainable: str, threads: int) -> None:
    """A worker: a line of the steps to take in, a line of JSON out."""
    import numpy as np

    with np.load(data) as held:
        x, y = held["x"], held["y"]
    net: Any = None
    if engine == "torch":
        from benchmarks import nets

        net = nets.make(name)
    before = resident("VmRSS")
    step = ours(path, trainable, threads) if engine == "nbconv" else theirs(net, trainable, threads)
    taken = 0
    for line in sys.stdin:
        found, losses = [], []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(step(x[taken % len(x)], y[taken % len(x)]))
            found.append(time.perf_counter() - start)
            taken += 1
        answer = {"seconds": found, "losses": losses, "mib": resident("VmHWM") - before}
        print(json.dumps(answer), flush=True)


class Worker:
    def __init__(self, *words: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, __file__, "--work", *words], stdin=pipe, stdout=pipe, text=True)

    def ask(self, steps: int) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure(case: str, threads: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One row: losses of the first steps, milliseconds and MiB by engine."""
    import numpy as np

    from benchmarks import nets

    name = case.split()[0]
    path, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    if not path.exists():
        nets.save(name, path)
        batches = nets.batches(name, nets.SHAPES[name], 5)
        np.savez(data, x=np.stack([x for x, _ in batches]), y=np.stack([y for _, y in batches]))
    workers: dict[str, Worker] = {}
    row: dict[str, Any] = {"case": case, "threads": threads, "ms": {}, "mib": {}, "losses": {}}
    turns: dict[str, list[float]] = {"nbconv": [], "torch": []}
    try:
        for engine in turns:
            workers[engine] = Worker(engine, name, str(path), str(data), CASES[case], str(threads))
            row["losses"][engine] = workers[engine].ask(5)["losses"]
        for _ in range(rounds):
            for engine, worker in workers.items():
                answer = worker.ask(3)
                turns[engine].append(statistics.median(answer["seconds"]) * 1e3)
                row["mib"][engine] = answer["mib"]
    finally:
        for worker in workers.values():
            worker.close()
    row["ms"] = {engine: statistics.median(found) for engine, found in turns.items()}
    return row


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        engine, name, path, data, trainable, threads = sys.argv[2:]
        work(engine, name, path, data, trainable, int(threads))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine, three steps each (default 3)")
    parser.add_argument("--cases", default=",".join(CASES), help="separated by commas")
    args = parser.parse_args()
    heads = ("", "nbconv ms", "torch ms", "torch ÷ ours", "nbconv MiB", "torch MiB", "losses differ")
    print("".join(f"{head:>15}" for head in heads))
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for case in args.cases.split(","):
            row = measure(case, args.threads, args.rounds, Path(folder))
            a, b = row["ms"]["nbconv"], row["ms"]["torch"]
            ratios.append(b / a)
            pairs = zip(row["losses"]["nbconv"], row["losses"]["torch"], strict=True)
            apart = max(abs(p - q) / abs(q) for p, q in pairs)
            mib = row["mib"]
            print(
                f"{case:16}{a:11.1f}{b:11.1f}{b / a:14.2f}{mib['nbconv']:12.0f}{mib['torch']:11.0f}{apart:15.1e}", flush=True
            )
    print(f"{'geomean':15}{'':30}{math.exp(sum(map(math.log, ratios)) / len(ratios)):15.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
