"""The second half of the demo: EfficientNet-Lite0 learns a new task, and what it has become is written and read again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from nbconv.commands._text import plural, size, style
from nbconv.model import load
from nbconv.models import efficientnet_lite0, emoji

EPOCHS = 20
CLOSE = 1e-4
"""How far logits of the written file may be from the trainer's, where those are 1 or less; relative where they are more."""


def teach(out: str, threads: int | None, bar: Callable[[float], str]) -> int:
    """Teach a fresh head the bundled emoji, tell how good it is before and after, write the model to ``out`` and compare its
    logits there; 0 where they are equal, else 1. A training that is interrupted writes nothing."""
    import nbconv

    begin = time.perf_counter()
    given = emoji()
    data = nbconv.Arrays(given.x, given.y, size=(224, 224), mean=127, std=128, classes=given.classes)
    train, held = data.part(np.flatnonzero(~given.held_out)), data.part(np.flatnonzero(given.held_out))
    print(
        f"\nNow it learns {len(given.classes)} kinds of emoji from {len(train)} drawings; {len(held)} others test it:\n",
        flush=True,
    )
    model = load(efficientnet_lite0(), threads=threads)
    model.replace_head(len(given.classes))
    trainer = nbconv.Trainer(model, optimizer=nbconv.Adam(lr=1e-3), trainable="head")
    before = trainer.evaluate(held)["accuracy"]
    print(f"  {'a fresh head':<14} {before:.3f}  {style(bar(before), 'green')}", flush=True)
    trainer.fit(train, epochs=EPOCHS)
    after = trainer.evaluate(held)["accuracy"]
    print(f"  {'trained':<14} {after:.3f}  {style(bar(after), 'green')}\n")
    trainer.save(out)
    seconds = time.perf_counter() - begin
    print(f"learned in    {style(f'{seconds:6.1f} s ', 'bold')}   {EPOCHS} epochs on {plural(model.threads, 'thread')}")
    print(f"written       {size(os.path.getsize(out)):>9}   {out}")
    x, _ = held.batch(np.arange(len(held)))
    return _again(out, x, trainer.predict(x), threads)


def _again(path: str, x: np.ndarray, wanted: np.ndarray, threads: int | None) -> int:
    """Read the file with onnxruntime, where that is installed, else with nbconv, and compare logits."""
    try:
        import onnxruntime
    except ImportError:
        reader, found = "nbconv", load(path, threads=threads)(x)
    else:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        reader, found = "onnxruntime", np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])
    difference = np.abs(found - wanted)
    equal = bool((difference <= CLOSE * np.maximum(1, np.abs(wanted))).all())
    says = "same logits   " if equal else style("OTHER logits  ", "red")
    print(f"{says}{difference.max():9.1e}   at most between the trainer's and those of the file in {reader}")
    return 0 if equal else 1
