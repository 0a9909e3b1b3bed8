"""Ten epochs of a head alone, beside PyTorch on the CPU: `Trainer.fit`, which computes the frozen part's features once;
PyTorch that runs the frozen part every step; and PyTorch that computes the features once, too.

Each engine has a process of its own a model, and they take turns at whole fits: making the trainer (or optimizer), features,
steps. A figure is the median of the turns; each process's first fit, in which nbconv plans the model, stands apart. The head
begins as exported every time, SGD with momentum 0.9 on seeded pictures in the same order; the last epoch's mean losses are
compared."""

from __future__ import annotations

import argparse
import json
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

import numpy as np

from benchmarks import training

ENGINES = ("nbconv", "torch", "torch, cached")
CASES = ("resnet18", "mobilenet_v2")
EPOCHS, RATE, MOMENTUM = 10, 0.01, 0.9
Fit = Callable[[], float]


def ours(path: str, x: np.ndarray, y: np.ndarray, batch: int, threads: int) -> Fit:
    import nbconv

    model = nbconv.load(path, threads=threads)

    def fit() -> float:
        trainer = nbconv.Trainer(model, optimizer=nbconv.SGD(lr=RATE, momentum=MOMENTUM), trainable="head")
        return trainer.fit((x, y), epochs=EPOCHS, batch_size=batch)["loss"][-1]

    return fit


def theirs(name: str, path: str, x: np.ndarray, y: np.ndarray, batch: int, threads: int, cached: bool) -> Fit:
    import torch

    from benchmarks import nets
    from nbconv.train.data import Arrays, order

    torch.set_num_threads(threads)
    net = nets.make(name).eval()
    net.load_state_dict(torch.load(Path(path).with_suffix(".pt")))
    assert isinstance(net, torch.nn.Sequential)
    *layers, head = net
    trunk = torch.nn.Sequential(*layers).requires_grad_(False)
    begin = {n: v.clone() for n, v in head.state_dict().items()}
    pictures, labels = torch.from_numpy(x), torch.from_numpy(y)
    orders = [torch.from_numpy(order(Arrays(x, y), epoch, seed=0)) for epoch in range(EPOCHS)]

    def features(numbers: Any) -> Any:
        with torch.no_grad():
            return trunk(pictures[numbers])

    def fit() -> float:
        head.load_state_dict(begin)
        optimizer = torch.optim.SGD(head.parameters(), lr=RATE, momentum=MOMENTUM)
        kept = torch.cat([features(numbers) for numbers in torch.arange(len(x)).split(batch)]) if cached else None
        total = 0.0
        for numbers in orders:
            total = 0.0
            for chosen in numbers.split(batch):
                optimizer.zero_grad()
                values = features(chosen) if kept is None else kept[chosen]
                loss = torch.nn.functional.cross_entropy(head(values), labels[chosen])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(chosen)
        return total / len(x)

    return fit


def work(engine: str, name: str, path: str, data: str, batch: int, threads: int) -> None:
    """A worker: a line of the fits to do in, a line of JSON out."""
    with np.load(data) as held:
        x, y = held["x"], held["y"]
    if engine == "nbconv":
        fit = ours(path, x, y, batch, threads)
    else:
        fit = theirs(name, path, x, y, batch, threads, cached="cached" in engine)
    for line in sys.stdin:
        seconds, losses = [], []
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(fit())
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds, "losses": losses}), flush=True)


class Worker(training.Worker):
    def __init__(self, *words: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, __file__, "--work", *words], stdin=pipe, stdout=pipe, text=True)


def save(name: str, x: np.ndarray, path: Path) -> None:
    """A network as ONNX and, beside it, as PyTorch's state; its normalisations know the statistics of ``x``."""
    import torch

    from benchmarks import nets

    net = nets.make(name)
    norms = [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    with torch.no_grad():
        net(torch.from_numpy(x))
    torch.save(net.state_dict(), path.with_suffix(".pt"))
    path.write_bytes(nets.export(net, x.shape))


def measure(name: str, pictures: int, batch: int, threads: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One row: seconds of a fit and the loss of its last epoch, by engine."""
    from benchmarks import nets

    path, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    if not path.exists():
        ((x, y),) = nets.batches(name, (pictures, *nets.SHAPES[name][1:]), 1)
        np.savez(data, x=x, y=y)
        save(name, x[:batch], path)
    workers: dict[str, Worker] = {}
    turns: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    losses: dict[str, float] = {}
    first: dict[str, float] = {}
    try:
        for engine in ENGINES:
            workers[engine] = Worker(engine, name, str(path), str(data), str(batch), str(threads))
            answer = workers[engine].ask(1)
            first[engine], losses[engine] = answer["seconds"][0], answer["losses"][0]
        for _ in range(rounds):
            for engine, worker in workers.items():
                turns[engine] += worker.ask(1)["seconds"]
    finally:
        for worker in workers.values():
            worker.close()
    medians = {engine: statistics.median(found) for engine, found in turns.items()}
    return {"name": name, "threads": threads, "seconds": medians, "first": first, "losses": losses}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="fits of each engine that count (default 3)")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cases", default=",".join(CASES), help="separated by commas")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    args = parser.parse_args(argv)
    if args.pictures % args.batch:
        parser.error(f"{args.pictures} pictures are no whole number of batches of {args.batch}")
    rows = []
    if not args.json:
        print(f"{args.pictures} pictures, batches of {args.batch}, {EPOCHS} epochs, {args.threads} threads; seconds a fit")
        heads = ("nbconv", "torch", "torch, cached", "torch ÷ ours", "cached ÷ ours", "first: ours", "cached", "loss apart")
        print(f"{'':16}" + "".join(f"{head:>15}" for head in heads))
    with tempfile.TemporaryDirectory() as folder:
        for name in args.cases.split(","):
            row = measure(name, args.pictures, args.batch, args.threads, args.rounds, Path(folder))
            rows.append(row)
            a, b, c = row["seconds"].values()
            p, *others = row["losses"].values()
            apart = max(abs(p - q) / abs(q) for q in others)
            if not args.json:
                first = f"{row['first']['nbconv']:15.3f}{row['first']['torch, cached']:15.3f}"
                print(f"{name:16}{a:15.3f}{b:15.3f}{c:15.3f}{b / a:15.2f}{c / a:15.2f}{first}{apart:15.1e}", flush=True)
    if args.json:
        print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        engine, name, path, data, batch, threads = sys.argv[2:]
        work(engine, name, path, data, int(batch), int(threads))
        sys.exit(0)
    sys.exit(main())
