"""Whose losses are right: five steps of SGD with momentum 0.9 by nbconv and by PyTorch, both in float32 on one model and the
same data, beside PyTorch in float64.

The first columns are of the first step: how far its loss, and all gradients together (norm of the difference by the norm),
are from float64's. The last three say how far apart the five losses are at most, relative. A rectifier's gradient jumps
where its input is 0 (or 6), so that one rounding there changes a gradient by its whole size: --smooth puts SiLU in their
place, and what is left is rounding alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch

import nbconv
from benchmarks import nets

MOMENTUM = 0.9
Batches = list[tuple[np.ndarray, np.ndarray]]


class Steps(NamedTuple):
    """``losses`` of the steps and, by name, the ``gradients`` of the first."""

    losses: np.ndarray
    gradients: dict[str, np.ndarray]


def ours(model: bytes, data: Batches, rate: float, threads: int) -> Steps:
    net = nbconv.load(model, threads=threads)
    trainer = nbconv.Trainer(net, optimizer=nbconv.SGD(lr=rate, momentum=MOMENTUM))
    losses, gradients = [], {}
    for k, (x, y) in enumerate(data):
        losses.append(trainer.step(x, y))
        if k == 0:
            gradients = {p.value: np.array(trainer.state[f"slot0/{p.value}"]) for p in trainer.parameters}
    return Steps(np.array(losses), gradients)


def theirs(net: torch.nn.Module, data: Batches, rate: float, kind: torch.dtype) -> Steps:
    net = net.to(kind).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM)
    losses, gradients = [], {}
    for k, (x, y) in enumerate(data):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x).to(kind)), torch.from_numpy(y))
        loss.backward()
        if k == 0:
            gradients = {n: p.grad.numpy().copy() for n, p in net.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(loss.item())
    return Steps(np.array(losses), gradients)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b) / np.abs(b)))


def off(found: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> float:
    """The norm of all gradients' differences, by that of the gradients."""
    if found.keys() != true.keys():
        raise RuntimeError(f"gradients of other parameters: {found.keys() ^ true.keys()}")
    squares = sum(float(np.square(found[n].astype(np.float64) - g).sum()) for n, g in true.items())
    return (squares / sum(float(np.square(g).sum()) for g in true.values())) ** 0.5


def smooth(net: torch.nn.Module) -> None:
    """SiLU in place of every rectifier."""
    for parent in net.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, (torch.nn.ReLU, torch.nn.ReLU6)):
                setattr(parent, name, torch.nn.SiLU())


def row(name: str, rate: float, seed: int, threads: int, dynamo: bool = False, silu: bool = False) -> list[float]:
    """Errors of the first loss (ours, PyTorch's), of its gradients, and how far apart the losses are: see above."""

    def net() -> torch.nn.Module:
        made = nets.make(name, seed=seed)
        if silu:
            smooth(made)
        return made

    data = nets.batches(name, nets.SHAPES[name], 5, seed=seed + 1)
    mine = ours(nets.export(net(), nets.SHAPES[name], dynamo), data, rate, threads)
    single, double = (theirs(net(), data, rate, kind) for kind in (torch.float32, torch.float64))
    first = slice(0, 1)
    return [
        apart(mine.losses[first], double.losses[first]), apart(single.losses[first], double.losses[first]),
        off(mine.gradients, double.gradients), off(single.gradients, double.gradients),
        apart(mine.losses, single.losses), apart(mine.losses, double.losses), apart(single.losses, double.losses),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--cases", default=",".join(nets.SHAPES), help="separated by commas")
    parser.add_argument("--rates", default="0.01,0.001,0.0001", help="learning rates, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="of weights and data, from 0 (default 3)")
    parser.add_argument("--dynamo", action="store_true", help="models from torch.export's exporter, not the older one")
    parser.add_argument("--smooth", action="store_true", help="SiLU in place of rectifiers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    heads = ("loss: ours", "PyTorch", "dw: ours", "PyTorch", "ours - f32", "ours - f64", "f32 - f64")
    print(f"{'':14}{'rate':>8}{'seed':>6}" + "".join(f"{head:>12}" for head in heads))
    for name in args.cases.split(","):
        for rate in map(float, args.rates.split(",")):
            for seed in range(args.seeds):
                found = row(name, rate, seed, args.threads, args.dynamo, args.smooth)
                print(f"{name:14}{rate:8g}{seed:6}" + "".join(f"{v:12.1e}" for v in found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
