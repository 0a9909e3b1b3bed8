"""Networks of torchvision and timm, one of sound and those that rapidocr installs, beside onnxruntime on one thread.

Networks are exported here, by PyTorch's older exporter (legacy) or the one through torch.export (dynamo), with seeded
weights and normalisations that have seen some pictures. Each engine has a process of its own; they take turns, and a figure
is the least processor time of a run. The errors are the worst of the outputs against PyTorch in float64, of the largest:
nbconv, nbconv without fast convolution (`exact`), onnxruntime."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import unittest.mock
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.engines import Shapes, Worker, feeds_of, some_of

NETS: dict[str, tuple[str, ...]] = {
    "torchvision": (
        "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet1_0",
        "mobilenet_v2", "mobilenet_v3_large", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d",
        "segmentation.deeplabv3_mobilenet_v3_large", "segmentation.fcn_resnet50",
        "segmentation.lraspp_mobilenet_v3_large", "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "vgg11",
        "video.mc3_18", "video.r2plus1d_18", "video.r3d_18", "vit_b_16", "wide_resnet50_2",
    ),
    "timm": (
        "cspdarknet53", "dla34", "edgenext_small", "efficientvit_b0", "ese_vovnet19b_dw", "fastvit_t8",
        "ghostnet_100", "hrnet_w18_small", "inception_next_tiny", "lcnet_100", "levit_128", "mixnet_s",
        "mobilenetv4_conv_small", "mobileone_s1", "mobilevit_s", "nfnet_l0", "poolformer_s12", "regnetx_008",
        "repvgg_a0", "res2net50_26w_4s", "rexnet_100", "starnet_s1",
    ),
    "audio": (
        "crepe_tiny", "crepe_full",
    ),
    "rapidocr": (
        "PP-OCRv6_det_small", "PP-OCRv6_rec_small", "ch_ppocr_mobile_v2.0_cls_mobile",
    ),
}  # fmt: skip
"""The networks by where they come from."""
SOURCES = {name: source for source, found in NETS.items() for name in found}
SHAPES = {
    "inception_v3": (1, 3, 299, 299),
    "video.mc3_18": (1, 3, 8, 112, 112),
    "video.r2plus1d_18": (1, 3, 8, 112, 112),
    "video.r3d_18": (1, 3, 8, 112, 112),
    "crepe_tiny": (1, 1024),
    "crepe_full": (1, 1024),
    "PP-OCRv6_det_small": (1, 3, 320, 320),
    "PP-OCRv6_rec_small": (1, 3, 48, 320),
    "ch_ppocr_mobile_v2.0_cls_mobile": (1, 3, 48, 192),
}
"""Inputs that are no picture of 224 pixels."""
REPARAMETERISED = ("fastvit_t8", "mobileone_s1", "repvgg_a0")
"""Those that have branches in training which become one convolution; exported in both forms."""
EXPORTERS = ("legacy", "dynamo")
SLOW = 0.9
"""Speeds below this of onnxruntime's are marked."""


class Export(NamedTuple):
    """A network as it is exported: one of NETS, `.one` behind it where its branches are made one."""

    name: str
    exporter: str

    @property
    def net(self) -> str:
        return self.name.removesuffix(".one")

    @property
    def source(self) -> str:
        return SOURCES[self.net]

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPES.get(self.net, (1, 3, 224, 224))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--nets", type=some_of(names()), default=",".join(names()), help="separated by commas (default: all)"
    )
    parser.add_argument(
        "--exporters", type=some_of(EXPORTERS), default=",".join(EXPORTERS), help="of PyTorch (default: both)"
    )
    parser.add_argument("--opset", type=int, default=17, help="of the legacy exporter (default 17)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each engine (default 5)")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn (default 0.2; at least 3 runs)")
    parser.add_argument("--keep", metavar="FOLDER", help="where exports are kept and looked for (default: nowhere)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    parser.add_argument("--export", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.export:
        export(Export(*args.nets, *args.exporters), args.export, args.opset)
        return 0
    from benchmarks.latency import about

    chosen = ["nbconv", "onnxruntime"]
    report: dict[str, Any] = {**about(chosen), "rows": []}
    print(f"{report['machine']}; 1 thread, ms of processor time; load {os.getloadavg()[0]:.1f}")
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print(f"{'':44}{'nbconv':>9}{'onnxruntime':>13}{'ratio':>8}   {'error':>8}{'exact':>9}{'onnxruntime':>13}", flush=True)
    with tempfile.TemporaryDirectory() as aside:
        for wanted in exports(args.nets, args.exporters):
            row = measured(wanted, Path(args.keep or aside), args)
            report["rows"].append(row)
            print(line(row), flush=True)
    ratios = [row["ratio"] for row in report["rows"] if "ratio" in row]
    if ratios:
        print(f"geomean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f} of {len(ratios)}, least {min(ratios):.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if any("problem" in row for row in report["rows"]) else 0


def names() -> list[str]:
    return [name + end for name in SOURCES for end in ("", ".one")[: 1 + (name in REPARAMETERISED)]]


def exports(nets: list[str], exporters: list[str]) -> list[Export]:
    """Files of rapidocr are exported already."""
    found = []
    for name in nets:
        given = Export(name, "file").source == "rapidocr"
        found += [Export(name, exporter) for exporter in (["file"] if given else exporters)]
    return found


def line(row: dict[str, Any]) -> str:
    name = f"{row['name']:36}{row['exporter']:8}"
    if "ratio" not in row:
        return f"{name}  {row['problem']}"
    mark = "<" if row["ratio"] < SLOW else " "
    errors = "".join(f"{row['errors'][key]:{width}.1e}" for key, width in ERRORS.items()) if "errors" in row else ""
    ends = f"   NumPy: {', '.join(row['numpy'])}" if row["numpy"] else ""
    ends += f"   {row['problem']}" if "problem" in row else ""
    return f"{name}{row['ms'][0]:9.2f}{row['ms'][1]:13.2f}{row['ratio']:8.2f}{mark}  {errors}{ends}"


ERRORS = {"nbconv": 9, "nbconv exact": 9, "onnxruntime": 13}


def measured(wanted: Export, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A row: times, their ratio, errors, steps that NumPy does; or what went wrong."""
    row: dict[str, Any] = {"name": wanted.name, "exporter": wanted.exporter}
    try:
        file = exported(wanted, folder, args.opset)
    except (ImportError, RuntimeError) as error:
        return {**row, "problem": str(error)}
    shapes = shapes_of(wanted, file)
    with contextlib.ExitStack() as stack:
        workers = []
        for engine in ERRORS:
            workers.append(Worker(engine, str(file), 1, shapes))
            stack.callback(workers[-1].close)
        row["numpy"] = workers[0].ask("numpy")
        errors_of(row, workers, file)
        timed = [worker for worker in workers if worker.engine != "nbconv exact"]
        least = [math.inf, math.inf]
        for r in range(args.rounds):
            for k in (0, 1) if r % 2 else (1, 0):
                least[k] = min(least[k], *timed[k].ask("cpu", args.seconds, 3))
    row["ms"] = [seconds * 1e3 for seconds in least]
    row["ratio"] = least[1] / least[0]
    return row


def errors_of(row: dict[str, Any], workers: list[Worker], file: Path) -> None:
    """Against float64's outputs, or onnxruntime's where there are none."""
    found: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for worker in workers:
            saved = os.path.join(folder, "outputs.npz")
            worker.ask("save", saved)
            found[worker.engine] = arrays(saved)
    kept = file.with_suffix(".npz")
    right = arrays(kept) if kept.exists() else found["onnxruntime"]
    row["errors"] = {engine: worst(got, right) for engine, got in found.items()}
    if not row["errors"]["nbconv"] < 1e-3:
        row["problem"] = "outputs differ"


def arrays(file: str | Path) -> list[np.ndarray]:
    with np.load(file) as stored:
        return [stored[name] for name in stored.files]


def worst(got: list[np.ndarray], right: list[np.ndarray]) -> float:
    """The worst difference, of the largest magnitude of its output; infinite for other shapes or what is not finite."""
    if [a.shape for a in got] != [b.shape for b in right]:
        return math.inf
    found = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, right, strict=True)]
    return max(e if math.isfinite(e) else math.inf for e in found)


def shapes_of(wanted: Export, file: Path) -> Shapes:
    import nbconv

    (port,) = nbconv.load(file).inputs
    return {port.name: wanted.shape}


def exported(wanted: Export, folder: Path, opset: int) -> Path:
    """The model's file, made by a process of its own unless it is there; RuntimeError where that fails, ImportError
    without the package that has the file."""
    if wanted.exporter == "file":
        import rapidocr  # pyright: ignore[reportMissingImports]

        return Path(str(rapidocr.__file__)).parent / "models" / f"{wanted.net}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{wanted.name}.{wanted.exporter}{opset if wanted.exporter == 'legacy' else ''}.onnx"
    if not file.exists() or not file.with_suffix(".npz").exists():
        command = [sys.executable, __file__, "--nets", wanted.name, "--exporters", wanted.exporter, "--export", str(file)]
        done = subprocess.run([*command, "--opset", str(opset)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                "not exported: " + (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
            )
    return file


def export(wanted: Export, file: str, opset: int) -> None:
    """Write the model, and what PyTorch computes of the benchmark's inputs in float64 beside it."""
    import torch  # pyright: ignore[reportMissingImports]

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = main_output(made(wanted))
    settle(net, wanted.shape)
    x = torch.from_numpy(feeds_of({"x": wanted.shape})["x"])
    more: dict[str, Any] = {"dynamo": wanted.exporter == "dynamo"}
    if wanted.exporter == "legacy":
        more["opset_version"] = opset
    torch.onnx.export(net, (x,), file, input_names=["x"], external_data=False, **more)
    with torch.no_grad():
        np.savez(Path(file).with_suffix(".npz"), net.double()(x.double()).numpy())


def main_output(net: Any) -> Any:
    """The network with its main output alone: some have results by name, or several."""
    import torch  # pyright: ignore[reportMissingImports]

    class Main(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            y = self.net(x)
            return y["out"] if isinstance(y, dict) else y if isinstance(y, torch.Tensor) else y[0]

    return Main()


def made(wanted: Export) -> Any:
    if wanted.source == "audio":
        return crepe({"crepe_tiny": 4, "crepe_full": 32}[wanted.net])
    declare_torchvision()
    if wanted.source == "timm":
        import timm  # pyright: ignore[reportMissingImports]
        from timm.utils.model import reparameterize_model  # pyright: ignore[reportMissingImports]

        net = timm.create_model(wanted.net, exportable=True)
        if wanted.name != wanted.net:
            settle(net, wanted.shape)  # branches are merged with the statistics that they have seen
            net = reparameterize_model(net)
        return net
    import torchvision.models  # pyright: ignore[reportMissingImports]

    make: Any = torchvision.models
    for part in wanted.net.split("."):
        make = getattr(make, part)
    more = {"weights_backbone": None} if wanted.net.startswith("segmentation") else {}
    if wanted.net in ("googlenet", "inception_v3"):
        more["init_weights"] = False
    return make(weights=None, **more)


def crepe(capacity: int) -> Any:
    """The pitch tracker of Kim et al. (2018): six convolutions on 1024 samples, here as along one axis."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    class Frame(nn.Module):
        def forward(self, x: Any) -> Any:
            return x[:, None]

    layers: list[Any] = [Frame()]
    widths = [1, *(capacity * k for k in (32, 4, 4, 4, 8, 16))]
    for i, (ci, co) in enumerate(itertools.pairwise(widths)):
        kernel, stride = (512, 4) if i == 0 else (64, 1)
        before = (kernel - stride) // 2
        layers += [nn.ConstantPad1d((before, kernel - stride - before), 0.0), nn.Conv1d(ci, co, kernel, stride), nn.ReLU()]
        layers += [nn.BatchNorm1d(co), nn.MaxPool1d(2)]
    return torch.nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * widths[-1], 360), nn.Sigmoid())


def settle(net: Any, shape: tuple[int, ...]) -> None:
    """Give normalisations the statistics of random pictures, and what starts as nothing (scales of residual branches, the
    last normalisation's) an effect; evaluation is on after it."""
    import torch  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() > 1 and float(parameter.abs().max()) < 1e-3 and parameter.dim() <= 3:
                parameter.uniform_(0.05, 0.2)
        norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
        if norms:
            net.train()
            for _ in range(2):
                net(torch.randn(2, *shape[1:]))
    net.eval()


def declare_torchvision() -> None:
    """torchvision declares functions for operators of its native library, and does not start where that was built for
    another PyTorch. No network here calls them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        with unittest.mock.patch("torch.library.register_fake", return_value=lambda function: function):
            importlib.import_module("torchvision")


if __name__ == "__main__":
    sys.exit(main())
