"""Quantised models beside the same in float32, and beside peers, on one thread: a MobileNet, a ResNet, a recogniser of text
and a net on sound, quantised here by onnxruntime, with a scale a channel.

Every engine and form has a process of its own, and they take turns; a figure is the least processor time of a run. The
integers of results are compared with onnxruntime's, in steps of their scale; and those of each operator alone, given the
same integers: where engines round one value of millions another way, what is behind it differs by more and more."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.engines import Shapes, Worker, feeds_of, installed, some_of
from nbconv.commands._machine import cpu_name
from nbconv.kernels.target import TARGETS, host

SHAPES: dict[str, tuple[int, ...]] = {
    "mobilenet_v2": (1, 3, 224, 224), "resnet18": (1, 3, 224, 224), "ocr": (1, 3, 48, 320), "m5": (1, 1, 32000),
}  # fmt: skip
FORMS = ("qdq", "qdq_int8", "qoperator")
"""QuantizeLinear and DequantizeLinear round each operator, of uint8 and of int8; operators that are called QLinear."""
SAMPLES = 4


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--nets", type=some_of(SHAPES), default=",".join(SHAPES), help="names, separated by commas (default: all)"
    )
    parser.add_argument("--forms", type=some_of(FORMS), default=",".join(FORMS), help="of quantised models (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each process (default 7)")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn (default 0.2; at least 3 runs)")
    parser.add_argument("--target", choices=list(TARGETS), help="whose kernels ours are (default: this machine's best)")
    parser.add_argument("--alone", action=argparse.BooleanOptionalAction, default=True, help="compare each operator alone")
    peers = [name for name in installed() if name != "MNN"]
    parser.add_argument("--engines", type=some_of(peers), default=",".join(peers), help="default: those installed")
    args = parser.parse_args(argv)
    engines = args.engines
    if args.target:
        os.environ["NBCONV_TARGET"] = args.target
    try:
        host()
    except ValueError as error:
        parser.error(str(error))
    for name in args.nets:
        needed = "rapidocr_onnxruntime" if name == "ocr" else "torch"
        if importlib.util.find_spec(needed) is None:
            parser.error(f"{name} needs {needed}, which is not installed: choose other --nets")
    more = f" with {host().dot}" if host().dot else ""
    print(f"{cpu_name()}, kernels for {host().name}{more}, 1 thread, ms of processor time")
    print(f"{'net':14}{'form':11}" + "".join(f"{e + ' int8':>18}{'float32':>10}" for e in engines) + "   steps apart; alone")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.nets:
            plain = os.path.join(folder, f"{name}.onnx")
            exported(name, plain)
            for form in args.forms:
                file = os.path.join(folder, f"{name}.{form}.onnx")
                quantised(plain, file, name, form)
                times, apart = measured(plain, file, name, engines, args)
                cells = "".join(f"{times[e, 1] * 1e3:18.2f}{times[e, 0] * 1e3:10.2f}" for e in engines)
                worst = alone(file, SHAPES[name]) if args.alone else ""
                print(f"{name:14}{form:11}{cells}   {apart}{worst}", flush=True)
    return 0


def exported(name: str, file: str) -> None:
    """The float32 model, as onnxruntime's basic optimisations leave it: batch normalisation folded."""
    import onnx.version_converter
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = file, 3
    if name == "ocr":
        import rapidocr_onnxruntime

        stored = onnx.load(str(Path(rapidocr_onnxruntime.__file__).parent / "models" / "ch_PP-OCRv4_rec_infer.onnx"))
        source = onnx.version_converter.convert_version(stored, 13).SerializeToString()  # scales a channel came with it
    else:
        source = from_torch(name)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def from_torch(name: str) -> bytes:
    """A net with seeded weights whose batch normalisation has seen some batches, so that values have a usual range."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    from benchmarks import nets

    torch.manual_seed(0)
    net = m5(nn) if name == "m5" else nets.make(name)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, *SHAPES[name][1:]))
    return nets.export(net, SHAPES[name])


def m5(nn: Any) -> Any:
    """Dai 2016, Very Deep Convolutional Neural Networks for Raw Waveforms: M5, twice as wide."""
    layers, ci = [], 1
    for co, kernel, stride in ((128, 80, 4), (128, 3, 1), (256, 3, 1), (512, 3, 1)):
        layers += [nn.Conv1d(ci, co, kernel, stride), nn.BatchNorm1d(co), nn.ReLU(), nn.MaxPool1d(4)]
        ci = co
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(ci, 35))


def quantised(plain: str, file: str, name: str, form: str) -> None:
    """The model quantised by onnxruntime, calibrated with normal random inputs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.samples = iter([{input_of(plain): rng.standard_normal(SHAPES[name], np.float32)} for _ in range(SAMPLES)])

        def get_next(self) -> Any:
            return next(self.samples, None)

    kind = QuantFormat.QOperator if form == "qoperator" else QuantFormat.QDQ
    kept = QuantType.QInt8 if form == "qdq_int8" else QuantType.QUInt8
    quantize_static(
        plain, file, Reader(), quant_format=kind, per_channel=True, activation_type=kept, weight_type=QuantType.QInt8
    )


def input_of(path: str) -> str:
    import onnx

    return onnx.load(path, load_external_data=False).graph.input[0].name


def measured(plain: str, file: str, name: str, engines: list[str], args: argparse.Namespace) -> tuple[dict, str]:
    """Seconds by engine and form (0: float32, 1: quantised), and how far our integers are from onnxruntime's."""
    shapes: Shapes = {input_of(plain): SHAPES[name]}
    workers: dict[tuple[str, int], Worker] = {}
    times = dict.fromkeys(((e, i) for e in engines for i in (0, 1)), float("nan"))
    try:
        for who in times:
            with contextlib.suppress(RuntimeError):  # OpenVINO reads no operators called QLinear
                workers[who] = Worker(who[0], (plain, file)[who[1]], 1, shapes)
        for r in range(args.rounds):
            for k in range(len(workers)):
                who = [*workers][(k + r) % len(workers)]
                found = min(workers[who].ask("cpu", args.seconds, 3))
                times[who] = found if r == 0 else min(times[who], found)
        with tempfile.TemporaryDirectory() as folder:
            results = []
            for engine in ("nbconv", "onnxruntime"):
                saved = os.path.join(folder, f"{engine}.npz")
                workers[engine, 1].ask("save", saved)
                with np.load(saved) as arrays:
                    results.append(next(arrays[n] for n in arrays.files))
        return times, apart(*results)
    finally:
        for worker in workers.values():
            worker.close()


def apart(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The greatest difference, in steps of the scale of onnxruntime's results, and how many are equal."""
    levels = np.unique(theirs)
    step = np.diff(levels).min() if len(levels) <= 256 else np.ptp(theirs) / 255
    return f"{np.abs(ours - theirs).max() / step:.2f} ({(ours == theirs).mean():.1%} equal)"


def alone(file: str, shape: tuple[int, ...]) -> str:
    """The greatest difference of an operator to which both engines are given the same integers, in steps, with its type and
    the share of its results that differ; and how many operators differ of how many."""
    import onnx
    import onnxruntime

    from nbconv import load

    model, options = onnx.load(file), onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    made = [name for node in model.graph.node for name in node.output if name]
    values = load(file, threads=1).run(feeds_of({input_of(file): shape}), fetch=made)
    integers = {name: v for name, v in values.items() if v.dtype.name in ("uint8", "int8")}
    worst, different = (0, 0.0, ""), 0
    for name in integers:
        piece, kind = piece_of(model, name, integers, values)
        if piece is None:
            continue
        given = {v.name: integers[v.name] for v in piece.graph.input}
        source = piece.SerializeToString()
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        theirs = np.asarray(session.run(None, given)[0]).astype(int)
        steps = np.abs(load(source, threads=1).run(given)[name].astype(int) - theirs)
        different += bool(steps.any())
        worst = max(worst, (int(steps.max(initial=0)), float((steps > 0).mean()), kind))
    return f"; {worst[0]} ({worst[2]}, {1 - worst[1]:.1%} equal; {different} of {len(integers)} operators differ)"


def piece_of(model: Any, name: str, integers: dict[str, Any], values: dict[str, Any]) -> tuple[Any, str]:
    """The nodes that make an integer value of other integer values, as a model, and the type of what they do; None for
    those that quantise an input."""
    import onnx
    from onnx import helper

    wanted, nodes, given = {name}, [], {}
    for node in reversed(model.graph.node):
        if wanted.isdisjoint(node.output):
            continue
        nodes.append(node)
        given |= {n: integers[n] for n in node.input if n in integers}
        wanted |= {n for n in node.input if n not in integers}
    if not given or wanted & {v.name for v in model.graph.input}:
        return None, ""
    kinds = [node.op_type for node in nodes if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in (*given.items(), (name, values[name]))
    ]
    constants = [v for v in model.graph.initializer if v.name in wanted]
    graph = helper.make_graph(nodes[::-1], "piece", ports[:-1], ports[-1:], constants)
    piece = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return onnx.shape_inference.infer_shapes(piece), kinds[0] if kinds else "QuantizeLinear"


if __name__ == "__main__":
    sys.exit(main())
