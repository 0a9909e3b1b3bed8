"""The engines that are compared, each behind the same call, and processes that hold one each.

Run as a script this file is such a process: it opens one engine with one model and does what its standard input says, a
line of JSON each. It blocks there between turns, and is stopped (SIGSTOP) besides, so that no thread of it spins while
another engine has its turn."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # a script's folder is on the path, the project's is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

ENGINES = ("nbconv", "onnxruntime", "openvino", "MNN")
Shapes = dict[str, tuple[int, ...]]


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """An argparse type: some of these names, separated by commas."""
    known = list(names)

    def some(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}: choose from {', '.join(known)}")
        return chosen

    return some


def installed() -> list[str]:
    """The engines that can be imported here."""
    import importlib.util

    return [name for name in ENGINES if importlib.util.find_spec(name) is not None]


def version(name: str) -> str:
    from importlib import metadata

    return metadata.version(name)


def open_engine(name: str, path: str, threads: int, shapes: Shapes) -> Callable[[dict[str, Any]], list[Any]]:
    """A function from inputs by name to the outputs in the model's order. float32 on so many threads."""
    engines: dict[str, Callable[[str, int, Shapes], Callable]] = {
        "nbconv": _nbconv, "nbconv exact": partial(_nbconv, exact=True), "onnxruntime": _onnxruntime, "openvino": _openvino,
        "MNN": _mnn,
    }  # fmt: skip
    return engines[name](path, threads, shapes)


def _nbconv(path: str, threads: int, shapes: Shapes, **options: Any) -> Callable:
    import nbconv

    model = nbconv.load(path, threads=threads, **options)
    return lambda feeds: list(model.run(feeds).values())


def _onnxruntime(path: str, threads: int, shapes: Shapes) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _openvino(path: str, threads: int, shapes: Shapes) -> Callable:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    if any(port.partial_shape.is_dynamic for port in model.inputs):
        model.reshape({name: list(shape) for name, shape in shapes.items()})
    # without the precision it would take bfloat16 where the processor has that
    wishes = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    compiled = core.compile_model(model, "CPU", wishes)
    request = compiled.create_infer_request()

    def run(feeds: dict[str, Any]) -> list[Any]:
        found = request.infer(feeds, share_inputs=True, share_outputs=True)
        return [found[port] for port in compiled.outputs]

    return run


def _mnn(path: str, threads: int, shapes: Shapes) -> Callable:
    import MNN
    import numpy as np

    import nbconv

    net = MNN.Interpreter(_converted(path))
    session = net.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    places = {name: net.getSessionInput(session, name) for name in shapes}
    for name, shape in shapes.items():
        net.resizeTensor(places[name], tuple(shape))
    net.resizeSession(session)
    kind, order = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
    plan = nbconv.load(path).plan(shapes)
    found = [(net.getSessionOutput(session, name), plan.specs[name].shape) for name in plan.fetch]  # MNN adds axes of 1

    def run(feeds: dict[str, Any]) -> list[Any]:
        for name, x in feeds.items():
            places[name].copyFrom(MNN.Tensor(x.shape, kind, x, order))
        net.runSession(session)
        results = []
        for tensor, shape in found:
            there = MNN.Tensor(tensor.getShape(), kind, np.empty(tensor.getShape(), np.float32), order)
            tensor.copyToHostTensor(there)
            results.append(np.array(there.getNumpyData()).reshape(shape))
        return results

    return run


def _converted(path: str) -> str:
    """MNN's own file of a model, made with its converter on first use."""
    import hashlib

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbconv-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}.mnn"
    if not file.exists():
        aside = file.with_suffix(f".{os.getpid()}")
        command = [
            str(Path(sys.executable).with_name("mnnconvert")),
            "-f",
            "ONNX",
            "--modelFile",
            path,
            "--MNNModel",
            str(aside),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not aside.exists():
            raise RuntimeError(f"mnnconvert: {done.stdout[-500:]}{done.stderr[-500:]}")
        aside.replace(file)
    return str(file)


def feeds_of(shapes: Shapes, seed: int = 0) -> dict[str, Any]:
    """Seeded normal float32 inputs."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def child_environment() -> dict[str, str]:
    """This process's, less what keeps Python from caching bytecode: warm starts are what is measured."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


class Worker:
    """A process with one engine and one model; it is stopped unless it is asked something."""

    def __init__(self, engine: str, path: str, threads: int, shapes: Shapes) -> None:
        self.engine = engine
        command = [sys.executable, __file__, json.dumps([engine, path, threads, shapes])]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, text=True, env=child_environment(), stdin=pipe, stdout=pipe)
        self.ask("ready")

    def ask(self, *words: Any) -> Any:
        """The worker's answer to a request; RuntimeError where it failed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self._signal("SIGCONT")
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.engine} ended with {self.process.wait()}")
        self._signal("SIGSTOP")
        return json.loads(line)

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))

    def close(self) -> None:
        self._signal("SIGCONT")
        self.process.kill()
        self.process.communicate()


ONE_RUN = {
    "nbconv": "m = nbconv.load({path!r}, threads={threads}); y = list(m.run(x).values())",
    "onnxruntime": (
        "o = onnxruntime.SessionOptions(); o.intra_op_num_threads = {threads}; o.log_severity_level = 3; "
        "y = onnxruntime.InferenceSession({path!r}, o, providers=['CPUExecutionProvider']).run(None, x)"
    ),
}
"""What a fresh process does with an engine, after importing it and making the inputs x: load, then run once."""

AFTER = """
import json, sys
peak = next((int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")), None)
assert all(np.isfinite(a).all() for a in y)
print(json.dumps({"peak": peak and peak * 1024, "modules": sorted(sys.modules)}))
"""


def one_run(engine: str | None, path: str, threads: int, shapes: Shapes) -> dict[str, Any]:
    """What a fresh process says that loads a model and runs it once (or, without an engine, only makes the inputs): the
    seconds from its start to its end, the most memory it had resident, the modules it had imported."""
    ramp = "np.linspace(-1, 1, int(np.prod(s)), dtype=np.float32).reshape(s)"  # numpy.random would take longer to import
    make = f"x = {{n: {ramp} for n, s in {shapes!r}.items()}}; y = []"
    lines = ["import numpy as np", make]
    if engine:
        lines += [f"import {engine}", ONE_RUN[engine].format(path=path, threads=threads)]
    command = [sys.executable, "-c", "\n".join(lines) + AFTER]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{engine} failed: {done.stderr[-2000:]}")
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Serve requests: ["ready"], ["save", file], ["time", seconds, least runs], ["cpu", …] (processor time), ["numpy"]."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines may print
    engine, path, threads, shapes = json.loads(sys.argv[1])
    run, feeds = open_engine(engine, path, threads, shapes), feeds_of(shapes)
    for line in sys.stdin:
        words = json.loads(line)
        answers.write(json.dumps(_answer(words, run, feeds, path, shapes)) + "\n")
        answers.flush()


def _answer(words: list[Any], run: Callable, feeds: dict[str, Any], path: str, shapes: Shapes) -> Any:
    if words[0] == "save":
        import numpy as np

        np.savez(words[1], *run(feeds))
    elif words[0] in ("time", "cpu"):
        clock = time.perf_counter if words[0] == "time" else time.process_time
        return _times(lambda: run(feeds), words[1], words[2], clock)
    elif words[0] == "numpy":
        import nbconv

        return [f"{node.op.type} {node.name}" for node in nbconv.load(path).plan(shapes).numpy_steps()]
    return None


def _times(
    call: Callable[[], Any], seconds: float, least: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of each run, after one that is not counted."""
    call()
    found: list[float] = []
    begin = time.perf_counter()
    while len(found) < least or time.perf_counter() - begin < seconds:
        start = clock()
        call()
        found.append(clock() - start)
    return found


if __name__ == "__main__":
    main()
