"""How good training makes a model: LeNet-5 on handwritten digits, from scratch; a classifier's head on Twitter's emoji.

    python benchmarks/quality.py FOLDER [--model efficientnet_lite0_bn.onnx]

FOLDER has mnist10k.npz (x uint8 (n, 28, 28), y; the first 8,000 train, the others are held out) and, for --model,
emoji32_category.npz (x uint8 (n, 32, 32, 3), y, vendor; of the drawings of vendor 0 every fifth is held out).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import nbconv
from nbconv.graph import Graph, Node, Spec
from nbconv.ops import lookup
from nbconv.train.initializers import he
from nbconv.train.schedules import one_cycle


def lenet(seed: int) -> Graph:
    """LeNet-5 (LeCun 1998) with rectifiers and maxima: (n, 1, 28, 28) to 10 logits."""
    rng, f32 = np.random.default_rng(seed), np.dtype(np.float32)

    def node(op: str, inputs: str, output: str, **fields) -> Node:
        return Node(lookup(op)(**fields), tuple(inputs.split()), (output,))

    pool = {"kernel_shape": (2, 2), "strides": (2, 2)}
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=(2, 2, 2, 2)), node("Relu", "c1", "r1"), node("MaxPool", "r1", "p1", **pool),
        node("Conv", "p1 w2 b2", "c2"), node("Relu", "c2", "r2"), node("MaxPool", "r2", "p2", **pool),
        node("Flatten", "p2", "f"), node("Gemm", "f w3 b3", "g3", transB=1), node("Relu", "g3", "r3"),
        node("Gemm", "r3 w4 b4", "g4", transB=1), node("Relu", "g4", "r4"), node("Gemm", "r4 w5 b5", "y", transB=1),
    ]  # fmt: skip
    shapes = {1: (6, 1, 5, 5), 2: (16, 6, 5, 5), 3: (120, 400), 4: (84, 120), 5: (10, 84)}
    constants = {f"w{i}": he(s, rng) for i, s in shapes.items()} | {f"b{i}": np.zeros(s[0], f32) for i, s in shapes.items()}
    return Graph(nodes, {"x": Spec(("n", 1, 28, 28), f32)}, {"y": Spec(("n", 10), f32)}, constants)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--model", type=Path, help="an ImageNet classifier that takes (pixel - 127) / 128")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    data = nbconv.load_npz(args.folder / "mnist10k.npz", mean=33, std=79)
    train, held = data.part(np.arange(8000)), data.part(np.arange(8000, len(data)))
    begin = time.perf_counter()
    model = nbconv.Model(lenet(0), threads=args.threads)
    schedule = one_cycle(args.epochs * (len(train) // 64))
    trainer = nbconv.Trainer(model, optimizer=nbconv.Adam(3e-3), schedule=schedule)
    trainer.fit(train, epochs=args.epochs, batch_size=64, augment=nbconv.Augment(crop=2))
    seconds = time.perf_counter() - begin
    print(f"LeNet-5: {trainer.evaluate(held, 100)['accuracy']:.4f} held out, {seconds:.1f} s, {model.threads} threads")
    if args.model:
        emoji(args.folder / "emoji32_category.npz", args.model, args.threads)


def emoji(path: Path, classifier: Path, threads: int | None) -> None:
    """The head of a classifier, three seeds."""
    with np.load(path) as file:
        mine = file["vendor"] == 0
        data = nbconv.Arrays(file["x"][mine], file["y"][mine], size=(224, 224), mean=127, std=128)
    held = np.arange(len(data)) % 5 == 0
    for seed in range(3):
        begin = time.perf_counter()
        model = nbconv.load(classifier, threads=threads)
        model.replace_head(int(data.labels.max()) + 1, seed=seed)
        trainer = nbconv.Trainer(model, optimizer=nbconv.Adam(1e-3, weight_decay=1e-4), trainable="head", seed=seed)
        history = trainer.fit(data.part(np.flatnonzero(~held)), data.part(np.flatnonzero(held)), epochs=20)
        accuracy, seconds = history["val_accuracy"][-1], time.perf_counter() - begin
        print(f"emoji, head, seed {seed}: {accuracy:.4f} held out, {seconds:.1f} s, {model.threads} threads")


if __name__ == "__main__":
    main()
