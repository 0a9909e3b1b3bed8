"""Classify a photograph with the bundled EfficientNet-Lite0; time that, and onnxruntime where it is installed, each engine
in a process of its own; fine-tune the model's head on emoji, and write the result as ONNX. The first run compiles the
kernels that the model needs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from nbconv.base.files import check
from nbconv.base.image import load_image
from nbconv.commands._model import add_threads, positive
from nbconv.commands._teach import teach
from nbconv.commands._text import plural, style
from nbconv.commands._timed import race
from nbconv.kernels.target import host
from nbconv.model import load
from nbconv.models import efficientnet_lite0, imagenet_classes, photograph

WIDTH = 64
"""Characters of a bar of probability 1."""


def add(parser: argparse.ArgumentParser) -> None:
    add_threads(parser)
    parser.add_argument("--runs", type=positive, default=50, metavar="N", help="runs to time (default: 50)")
    parser.add_argument(
        "-o", "--out", default="nbconv-demo.onnx", metavar="FILE", help="the fine-tuned model (default: %(default)s here)"
    )


def run(args: argparse.Namespace) -> int:
    check(args.out)
    print(f"EfficientNet-Lite0 looks at {photograph().name} with kernels for {host().name}:", flush=True)
    x = load_image(photograph(), (224, 224), mean=127, std=128)
    begin = time.perf_counter()
    with _progress():
        model = load(efficientnet_lite0(), threads=args.threads)
        logits = model(x)[0]
    first = time.perf_counter() - begin
    print()
    for name, probability in top(logits, 5):
        print(f"  {name:<14} {probability:.3f}  {style(bar(probability), 'green')}".rstrip())
    later = " (kernels were compiled; from now on they come from the cache)" if first > 2 else ""
    print(f"\nfirst answer  {_time(first):>9}   from the call of load{later}", flush=True)
    compete(model.threads, args.runs)
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


def compete(threads: int, runs: int) -> None:
    """Time nbconv, and onnxruntime where it is installed, each in a process of its own, and print a line each."""
    import importlib.util

    peer = importlib.util.find_spec("onnxruntime") is not None
    ours, *theirs = race(["nbconv", *(["onnxruntime"] if peer else [])], threads, runs)
    how = f"an image, on {plural(threads, 'thread')}"
    print(f"nbconv        {style(f'{_time(ours):>9}', 'bold')}   {how}")
    if theirs:
        print(f"onnxruntime   {_time(theirs[0]):>9}   {how}: {verdict(ours, theirs[0])}")
    else:
        print("onnxruntime           ?   pip install onnxruntime to see its time beside nbconv's")


def verdict(ours: float, theirs: float) -> str:
    """Who is faster, in words."""
    if max(ours, theirs) < 1.02 * min(ours, theirs):
        return "equally fast"
    return (
        f"nbconv is {theirs / ours:.2f} times as fast"
        if ours < theirs
        else f"nbconv takes {ours / theirs:.2f} times as long"
    )


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


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s " if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
