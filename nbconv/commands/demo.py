"""Classify a photograph with the bundled EfficientNet-Lite0, time it, and time onnxruntime beside it where that is
installed; then teach the model's head emoji, and write what comes of it as ONNX. The first run compiles the kernels that
the model needs."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from nbconv.base.files import check
from nbconv.base.image import load_image
from nbconv.commands._model import add_threads, positive
from nbconv.commands._teach import teach
from nbconv.commands._text import plural, style
from nbconv.kernels.target import host
from nbconv.model import Model, load
from nbconv.models import efficientnet_lite0, imagenet_classes, photograph

WIDTH = 64
"""Characters of a bar of probability 1."""
BLOCK = 5
"""Runs in a row of one contender; before each block both rest, so that no spinning thread disturbs the other."""


def add(parser: argparse.ArgumentParser) -> None:
    add_threads(parser)
    parser.add_argument("--runs", type=positive, default=50, metavar="N", help="runs to time (default: 50)")
    parser.add_argument(
        "-o", "--out", default="nbconv-demo.onnx", metavar="FILE", help="the fine-tuned model (default: %(default)s here)"
    )


def run(args: argparse.Namespace) -> int:
    check(args.out)
    path = efficientnet_lite0()
    print(f"EfficientNet-Lite0 looks at {photograph().name} with kernels for {host().name}:", flush=True)
    x = load_image(photograph(), (224, 224), mean=127, std=128)
    begin = time.perf_counter()
    with _progress():
        model = load(path, threads=args.threads)
        logits = model(x)[0]
    first = time.perf_counter() - begin
    print()
    for name, probability in top(logits, 5):
        print(f"  {name:<14} {probability:.3f}  {style(bar(probability), 'green')}".rstrip())
    times = interleaved([lambda: model(x)], args.runs)[0]
    later = " (kernels were compiled; from now on they come from the cache)" if first > 2 else ""
    print(f"\nfirst answer  {_time(first):>9}   from the call of load{later}")
    how = f"p50 of {plural(len(times), 'run')} on {plural(model.threads, 'thread')}"
    print(f"each image    {style(f'{_time(_p50(times)):>9}', 'bold')}   {how}")
    against_onnxruntime(model, path, x, args.runs)
    with _progress():
        return teach(args.out, args.threads, bar)


def top(logits: np.ndarray, count: int) -> list[tuple[str, float]]:
    """The likeliest classes, by their first names, and their probabilities."""
    weights = np.exp(logits - logits.max())
    probabilities = weights / weights.sum()
    names = imagenet_classes()
    return [(names[i].split(",")[0], float(probabilities[i])) for i in np.argsort(-probabilities)[:count]]


def bar(probability: float) -> str:
    """A bar in eighths of a character, or in #, where the terminal has no blocks."""
    eighths = round(probability * WIDTH * 8)
    text = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(eighths / 8)
    return text


def interleaved(contenders: list[Callable[[], object]], runs: int) -> list[list[float]]:
    """Sorted times in seconds of ``runs`` runs of each contender, which take turns of `BLOCK` runs after warming up."""
    times: list[list[float]] = [[] for _ in contenders]
    for contender in contenders:
        for _ in range(3):
            contender()
    while len(times[0]) < runs:
        for contender, found in zip(contenders, times):
            time.sleep(0.01)
            contender()
            for _ in range(min(BLOCK, runs - len(found))):
                begin = time.perf_counter()
                contender()
                found.append(time.perf_counter() - begin)
    return [sorted(found) for found in times]


def against_onnxruntime(model: Model, path: os.PathLike, x: np.ndarray, runs: int) -> None:
    """Time both on one thread and on all, and print how they compare."""
    try:
        import onnxruntime
    except ImportError:
        print("\nTo see onnxruntime beside it, pip install onnxruntime.")
        return
    onnxruntime.set_default_logger_severity(3)
    name = model.inputs[0].name
    print(f"\n{'taking turns':14}{'nbconv':>9}   onnxruntime {onnxruntime.__version__}")
    for threads in sorted({1, model.threads}):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        contenders = [partial(model.run, {name: x}, threads=threads), partial(session.run, None, {name: x})]
        ours, theirs = interleaved(contenders, runs)
        a, b = _p50(ours), _p50(theirs)
        print(f"{plural(threads, 'thread'):14}{_time(a):>9} {_time(b):>9}   nbconv takes {a / b:.2f} of its time")


@contextmanager
def _progress() -> Iterator[None]:
    """Shows the progress of compiling where the kernel compiler has no terminal to draw its line on."""
    if sys.stderr is None or sys.stderr.isatty():
        yield
        return
    import logging

    logger, handler = logging.getLogger("nbconv"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("nbconv: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _p50(times: list[float]) -> float:
    return times[len(times) // 2]


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s " if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
