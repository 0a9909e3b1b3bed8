"""Milliseconds of processor time that each change of augmentation takes a picture of 224×224, 3 channels: alone, and with a
mask that moves with it. The best of seven turns, whose changes are drawn anew."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

import nbconv
from nbconv.train.augment import OPS

SIZE, TURNS, EACH = 224, 7, 16


def changes() -> Iterator[tuple[str, nbconv.Augment]]:
    for options in (
        {"resized_crop": (0.2, 1.0)}, {"rotation": 20.0}, {"crop": 20}, {"flip": 1.0}, {"flip_vertical": 1.0},
        {"brightness": 0.2}, {"contrast": 0.2}, {"saturation": 0.2}, {"cutout": 30}, {"mixup": 0.2},
        {"resized_crop": (0.2, 1.0), "flip": 0.5, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    ):  # fmt: skip
        yield ", ".join(options), nbconv.Augment(**options)
    for name in OPS:
        yield f"RandAugment: {name}", nbconv.RandAugment(1, 15, ops=[name])
    yield "RandAugment, 2 of all", nbconv.RandAugment()


def measured(augment: nbconv.Augment, x: np.ndarray, y: np.ndarray) -> float:
    best = float("inf")
    for turn in range(TURNS + 1):
        begin = time.process_time()
        augment(x, y, [np.random.default_rng([turn, i]) for i in range(len(x))], 3)
        best = min(best, time.process_time() - begin) if turn else best
    return best / len(x) * 1000


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rng = np.random.default_rng(0)
    x = rng.random((EACH, 3, SIZE, SIZE), np.float32) * 255
    labels, masks = rng.integers(0, 3, EACH), rng.integers(0, 3, (EACH, SIZE, SIZE))
    print("| change | ms | with a mask |\n|---|---|---|")
    for name, augment in changes():
        mixed = "" if augment.mixup else f"{measured(augment, x, masks):.2f}"
        print(f"| {name} | {measured(augment, x, labels):.2f} | {mixed} |", flush=True)


if __name__ == "__main__":
    main()
