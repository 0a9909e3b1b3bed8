"""Training beside PyTorch on the CPU: milliseconds a step, and the memory it takes beyond what the process had.

Each engine has a process of its own a model, PyTorch one for images with their channels first in memory and one with
them last, of which the faster counts; they take turns, and a process that does not have its turn waits for a line on
its standard input. A figure is the median of the turns' medians; memory is VmHWM less VmRSS just before the trainer is made,
when the network is there: read by `nbconv.load`, or made in PyTorch. SGD with momentum 0.9 on the same seeded batches; the
first steps' losses are printed to compare.

With --memory, our step at ``memory_mb`` = half of what our default plan takes (activations, gradients and scratch) beside
our step as it is by default, in turns.
"""

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

from benchmarks.engines import some_of

CASES = {
    "lenet5": "all", "mobilenet_v2": "all", "resnet18": "all", "resnet18 head": "head", "unet": "all",
    "unet groupnorm": "all", "convnext": "all", "depthwise 7x7": "all", "resnext": "all", "mobilenet_v3": "all",
    "densenet": "all", "1-D": "all", "crnn": "all", "3-D": "all", "text": "all",
}  # fmt: skip
RATE, MOMENTUM = 0.001, 0.9


def resident(what: str) -> float:
    """MiB of this process."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what)) / 1024


def ours(model: Any, name: str, trainable: str, memory_mb: float | None) -> Any:
    """The trainer."""
    import nbconv

    optimizer, loss = nbconv.SGD(lr=RATE, momentum=MOMENTUM), "ctc" if name == "crnn" else "cross_entropy"
    options = {"batch_axis": 1} if name == "crnn" else {}
    return nbconv.Trainer(model, loss, optimizer, trainable, memory_mb=memory_mb, loss_options=options)


def theirs(net: Any, name: str, trainable: str, threads: int, last: bool) -> Callable[[Any, Any], float]:
    """``last``: images have their channels last in memory."""
    import torch

    torch.set_num_threads(threads)
    if trainable == "head":
        net.eval().requires_grad_(False)
        net[-1].requires_grad_(True)
    else:
        net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=RATE, momentum=MOMENTUM)
    layout = torch.channels_last if last else torch.contiguous_format
    net.to(memory_format=layout)

    def loss_of(z: Any, y: Any) -> Any:
        if name != "crnn":
            return torch.nn.functional.cross_entropy(z, y)
        lengths = torch.full((z.shape[1],), len(z)), torch.full((len(y),), y.shape[1])
        return torch.nn.functional.ctc_loss(z.log_softmax(2), y, *lengths)

    def step(x: Any, y: Any) -> float:
        optimizer.zero_grad()
        given = torch.from_numpy(x)
        loss = loss_of(net(given.to(memory_format=layout) if last else given), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def work(engine: str, name: str, path: str, data: str, trainable: str, threads: int) -> None:
    """A worker: a line of the steps to take in, a line of JSON out. ``engine`` "nbconv@12.5" is ours at that memory_mb."""
    import numpy as np

    with np.load(data) as held:
        x, y = held["x"], held["y"]
    if engine.startswith("torch"):
        from benchmarks import nets

        net, trainer = nets.make(name), None
        before = resident("VmRSS")
        step = theirs(net, name, trainable, threads, engine == "torch last")
    else:
        import nbconv

        model = nbconv.load(path, threads=threads)
        before = resident("VmRSS")
        trainer = ours(model, name, trainable, float(engine.partition("@")[2]) if "@" in engine else None)
        step = lambda x, y: float(trainer.step(x, y))  # noqa: E731
    taken = 0
    for line in sys.stdin:
        found, losses = [], []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(step(x[taken % len(x)], y[taken % len(x)]))
            found.append(time.perf_counter() - start)
            taken += 1
        answer = {"seconds": found, "losses": losses, "mib": resident("VmHWM") - before}
        answer["arena"] = trainer.forecast()["activations_mb"] if trainer is not None else None
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


def prepared(case: str, folder: Path) -> tuple[str, str, str, str]:
    """What a worker wants to know beside the engine: the network's name, its file, that of its batches, and what trains."""
    import numpy as np

    from benchmarks import nets

    name = case.removesuffix(" head")
    path, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    if not path.exists():
        nets.save(name, path)
        batches = nets.batches(name, nets.SHAPES[name], 5)
        np.savez(data, x=np.stack([x for x, _ in batches]), y=np.stack([y for _, y in batches]))
    return name, str(path), str(data), CASES[case]


def measure(case: str, threads: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One row: losses of the first steps, milliseconds and MiB by engine; "torch" is PyTorch in its faster layout."""
    from benchmarks import nets

    words = prepared(case, folder)
    workers: dict[str, Worker] = {}
    row: dict[str, Any] = {"case": case, "threads": threads, "ms": {}, "mib": {}, "losses": {}}
    turns: dict[str, list[float]] = {"nbconv": [], "torch": []}
    if len(nets.SHAPES[words[0]]) == 4:
        turns["torch last"] = []
    try:
        for engine in turns:
            workers[engine] = Worker(engine, *words, str(threads))
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
    best = min((e for e in turns if e != "nbconv"), key=lambda e: row["ms"][e])
    row["last"] = best == "torch last"
    for of in ("ms", "mib", "losses"):
        row[of]["torch"] = row[of][best]
    return row


def halved(case: str, threads: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One row: MiB of the default plan and of the one at half of them, their milliseconds and first losses."""
    words = prepared(case, folder)
    workers: dict[str, Worker] = {}
    row: dict[str, Any] = {"case": case, "threads": threads, "ms": {}, "losses": {}, "arena": {}}
    turns: dict[str, list[float]] = {"default": [], "half": []}
    try:
        workers["default"] = Worker("nbconv", *words, str(threads))
        answer = workers["default"].ask(5)
        row["losses"]["default"], row["arena"]["default"] = answer["losses"], answer["arena"]
        workers["half"] = Worker(f"nbconv@{answer['arena'] / 2}", *words, str(threads))
        answer = workers["half"].ask(5)
        row["losses"]["half"], row["arena"]["half"] = answer["losses"], answer["arena"]
        for _ in range(rounds):
            for plan, worker in workers.items():
                turns[plan].append(statistics.median(worker.ask(5)["seconds"]) * 1e3)
    finally:
        for worker in workers.values():
            worker.close()
    row["ms"] = {plan: statistics.median(found) for plan, found in turns.items()}
    row["ratio"] = statistics.median(b / a for a, b in zip(turns["default"], turns["half"], strict=True))
    return row


def apart(a: list[float], b: list[float]) -> float:
    """How far losses are from each other, relative."""
    return max(abs(p - q) / abs(q) for p, q in zip(a, b, strict=True))


def print_halves(args: argparse.Namespace, folder: Path) -> None:
    """The table of --memory."""
    heads = ("", "default MiB", "half MiB", "takes MiB", "default ms", "half ms", "half ÷ default", "losses differ")
    print("".join(f"{head:>15}" for head in heads))
    for case in args.cases:
        row = halved(case, args.threads, args.rounds, folder)
        whole, taken, ms = row["arena"]["default"], row["arena"]["half"], row["ms"]
        differ = apart(row["losses"]["half"], row["losses"]["default"])
        print(
            f"{case:15}{whole:15.1f}{whole / 2:15.1f}{taken:15.1f}{ms['default']:15.1f}{ms['half']:15.1f}"
            f"{row['ratio']:15.2f}{differ:15.1e}", flush=True,
        )  # fmt: skip


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        engine, name, path, data, trainable, threads = sys.argv[2:]
        work(engine, name, path, data, trainable, int(threads))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine, three steps each (default 3)")
    parser.add_argument("--cases", type=some_of(CASES), default=",".join(CASES), help="separated by commas")
    parser.add_argument("--memory", action="store_true", help="our step in half of the memory that it takes by default")
    args = parser.parse_args()
    if args.memory:
        with tempfile.TemporaryDirectory() as folder:
            print_halves(args, Path(folder))
        return 0
    heads = ("", "nbconv ms", "torch ms", "torch ÷ ours", "nbconv MiB", "torch MiB", "ours ÷ torch", "losses differ")
    print("".join(f"{head:>15}" for head in heads))
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for case in args.cases:
            row = measure(case, args.threads, args.rounds, Path(folder))
            a, b = row["ms"]["nbconv"], row["ms"]["torch"]
            ratios.append(b / a)
            differ, mib = apart(row["losses"]["nbconv"], row["losses"]["torch"]), row["mib"]
            print(
                f"{case:15}{a:15.1f}{b:15.1f}{b / a:15.2f}{mib['nbconv']:15.0f}{mib['torch']:15.0f}"
                f"{mib['nbconv'] / mib['torch']:15.2f}{differ:15.1e}{'  channels last' if row['last'] else ''}", flush=True,
            )  # fmt: skip
    print(f"{'geomean':15}{'':30}{math.exp(sum(map(math.log, ratios)) / len(ratios)):15.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
