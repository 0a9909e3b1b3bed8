"""ResNet-50's convolutions, and networks' inference and training, on a GPU beside PyTorch, which calls cuDNN (float32, with
--tf32 both by tensor cores; channels last).

Inputs and results stay on the GPU, but for those of training steps, which go there and bring the loss back; a figure is the
median over turns, engines alternating, of the time a run takes when many are queued one after another. Says why and ends
with 2 where there is no GPU or no PyTorch that has one.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

LAYERS = (
    (3, 64, 224, 7, 2), (64, 64, 56, 1, 1), (64, 64, 56, 3, 1), (64, 256, 56, 1, 1), (256, 64, 56, 1, 1),
    (256, 128, 56, 1, 1), (128, 128, 56, 3, 2), (128, 512, 28, 1, 1), (256, 512, 56, 1, 2), (512, 128, 28, 1, 1),
    (128, 128, 28, 3, 1), (512, 256, 28, 1, 1), (256, 256, 28, 3, 2), (256, 1024, 14, 1, 1), (512, 1024, 28, 1, 2),
    (1024, 256, 14, 1, 1), (256, 256, 14, 3, 1), (1024, 512, 14, 1, 1), (512, 512, 14, 3, 2), (512, 2048, 7, 1, 1),
    (1024, 2048, 14, 1, 2), (2048, 512, 7, 1, 1), (512, 512, 7, 3, 1),
)  # fmt: skip
"""Channels in and out, size of the image, kernel, stride: each of ResNet-50's convolutions once (He 2015, table 1)."""
NETS = ("resnet18", "mobilenet_v2", "unet")
"""Of benchmarks/nets.py."""
GPU = "cuda"
"""As PyTorch names it."""
Run = Callable[[int], None]
"""Does so many runs and waits for the last."""


def ours(graph: Any, feeds: dict[str, Any], device: str = "cuda") -> Run:
    """Runs of a graph whose inputs lie on the GPU."""
    import numpy as np

    from nbconv.model import Model
    from nbconv.runtime.cuda.device import Block, Uploads
    from nbconv.runtime.cuda.program import DeviceProgram
    from nbconv.runtime.cuda.workspace import DeviceWorkspace

    model = Model(graph, device=device)
    gpu = model._device
    assert gpu is not None
    plan = model.plan({name: x.shape for name, x in feeds.items()})
    plan.program.own = [plan.arrays[n] for n in plan.tables]
    gpu.enter()
    stream, held = gpu.stream(), {}
    for name, x in feeds.items():
        held[name] = Block(gpu, x.nbytes)
        gpu.upload(held[name].address, np.ascontiguousarray(x), stream)
    gpu.synchronize(stream)
    program = DeviceProgram(
        plan.program, gpu, [plan.arrays[n] for n in plan.program.constants], Uploads(gpu), plan.inputs, plan=plan,
        resident={name: block.address for name, block in held.items()}, wanted=set(),
    )  # fmt: skip
    space = DeviceWorkspace(program)
    space.bind(feeds, [])

    def run(count: int) -> None:
        for _ in range(count):
            space.span(0, len(plan.steps), 1)
        space.finish()
        held.keys()  # the inputs' memory lives as long as this function

    return run


def theirs(function: Callable[[Any], Any], x: Any, learns: bool = False) -> Run:
    """Runs of a PyTorch function on the GPU."""
    import torch

    def run(count: int) -> None:
        with contextlib.nullcontext() if learns else torch.no_grad():
            for _ in range(count):
                function(x)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def there(array: Any) -> Any:
    """An array on the GPU, channels last where it has such."""
    import torch

    found = torch.from_numpy(array).to(GPU)
    return found.to(memory_format=torch.channels_last) if array.ndim == 4 else found


def measure(engines: dict[str, Run], rounds: int, seconds: float) -> dict[str, float]:
    """Milliseconds a run by engine, in turns of about so many seconds."""
    counts: dict[str, int] = {}
    for name, run in engines.items():
        run(3)  # compiles, captures
        start = time.perf_counter()
        run(5)
        counts[name] = max(1, int(5 * seconds / max(time.perf_counter() - start, 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, run in engines.items():
            start = time.perf_counter()
            run(counts[name])
            found[name].append((time.perf_counter() - start) / counts[name] * 1e3)
    return {name: statistics.median(times) for name, times in found.items()}


def layer(batch: int, shape: tuple[int, int, int, int, int]) -> tuple[Any, dict[str, Any], Any]:
    """A convolution as a graph with its input, and its weights."""
    import numpy as np

    from nbconv.graph import Graph, Node, Spec
    from nbconv.ops import lookup

    ci, co, size, k, stride = shape
    rng = np.random.default_rng(ci + co + k)
    x, w = (rng.standard_normal(s, np.float32) for s in ((batch, ci, size, size), (co, ci, k, k)))
    op = lookup("Conv")(strides=(stride, stride), pads=(k // 2,) * 4)
    graph = Graph([Node(op, ("x", "w"), ("y",))], {"x": Spec(x.shape, x.dtype)}, {"y": None}, {"w": w})
    return graph, {"x": x}, w


def convolutions(batch: int, device: str) -> Iterator[tuple[str, dict[str, Run]]]:
    """Each of `LAYERS`."""
    import torch

    for shape in LAYERS:
        graph, feeds, w = layer(batch, shape)
        k, stride, weights = shape[3], shape[4], there(w)

        def convolve(x: Any, weights: Any = weights, stride: int = stride, k: int = k) -> Any:
            return torch.nn.functional.conv2d(x, weights, stride=stride, padding=k // 2)

        name = f"{shape[0]} → {shape[1]} {k}×{k}/{stride} at {shape[2]}²"
        yield name, {"nbconv": ours(graph, feeds, device), "PyTorch": theirs(convolve, there(feeds["x"]))}


def networks(names: Sequence[str], device: str, folder: Path) -> Iterator[tuple[str, dict[str, Run]]]:
    """Inference of each of benchmarks/nets.py on its batches, then steps of training by SGD with momentum."""
    import torch

    import nbconv
    from benchmarks import nets

    for name in names:
        nets.save(name, folder / f"{name}.onnx")
        ((x, y),) = nets.batches(name, nets.SHAPES[name], 1)
        net = nets.make(name).to(GPU).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
        model = nbconv.load(folder / f"{name}.onnx", device=device)
        trainer = nbconv.Trainer(model, optimizer=nbconv.SGD(lr=1e-3, momentum=0.9))
        (given,) = model.graph.inputs

        def step(x: Any, y: Any = y, net: Any = net, optimizer: Any = optimizer) -> float:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(there(x)), there(y))
            loss.backward()
            optimizer.step()
            return loss.item()

        def steps(count: int, x: Any = x, y: Any = y, trainer: Any = trainer) -> None:
            for _ in range(count):
                trainer.step(x, y)

        net.eval()
        yield (
            f"{name}, {len(x)}, inference",
            {"nbconv": ours(model.graph, {given: x}, device), "PyTorch": theirs(net, there(x))},
        )
        net.train()
        yield f"{name}, {len(x)}, training", {"nbconv": steps, "PyTorch": theirs(step, x, learns=True)}


def missing() -> str:
    """Why nothing can be measured, "" where it can."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    return "" if torch.cuda.is_available() else "PyTorch sees no GPU"


def table(title: str, rows: Iterator[tuple[str, dict[str, Run]]], args: argparse.Namespace) -> None:
    """Measures and prints each row, then the geometric mean."""
    print(f"{title:28}{'nbconv ms':>12}{'PyTorch ms':>12}{'PyTorch ÷ ours':>16}")
    ratios = []
    for name, engines in rows:
        found = measure(engines, args.rounds, args.seconds)
        ratios.append(found["PyTorch"] / found["nbconv"])
        print(f"{name:28}{found['nbconv']:12.3f}{found['PyTorch']:12.3f}{ratios[-1]:16.2f}", flush=True)
    print(f"{'geomean':28}{'':24}{math.exp(sum(map(math.log, ratios)) / len(ratios)):16.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="of the convolutions (default 8)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a turn (default 0.2)")
    parser.add_argument("--tf32", action="store_true", help="products of numbers rounded to TF32, on both sides")
    args = parser.parse_args()
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.tf32
    torch.backends.cudnn.benchmark = True
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, batch {args.batch}{', TF32' * args.tf32}")
    device = "cuda:tf32" if args.tf32 else "cuda"
    with tempfile.TemporaryDirectory() as folder:
        table("convolution", convolutions(args.batch, device), args)
        table("network", networks(NETS, device, Path(folder)), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
