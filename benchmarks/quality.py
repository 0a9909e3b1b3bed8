"""How good training makes a model: LeNet-5 on handwritten digits, from scratch; a classifier on Twitter's emoji, its head
alone and then all its layers. Three seeds each.

    python benchmarks/quality.py FOLDER [--model efficientnet_lite0_bn.onnx] [--only digits|emoji]

FOLDER has mnist10k.npz (x uint8 (n, 28, 28), y; the first 8,000 train, the others are held out) and, for --model,
emoji32_category.npz (x uint8 (n, 32, 32, 3), y, vendor; vendor 0 is Twitter). emoji_split.json says which are held out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import nbconv
from nbconv.graph import Graph, Node, Spec
from nbconv.ops import lookup
from nbconv.train.initializers import he
from nbconv.train.schedules import one_cycle

SEEDS = (0, 1, 2)


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


def digits(path: Path, threads: int | None, epochs: int, validate: bool) -> None:
    """LeNet-5. With ``validate`` the last 1,000 of the training part stand in for what is held out."""
    data = nbconv.load_npz(path, mean=33, std=79)
    train, held = data.part(np.arange(8000)), data.part(np.arange(8000, len(data)))
    if validate:
        train, held = data.part(np.arange(7000)), data.part(np.arange(7000, 8000))
    for seed in SEEDS:
        begin = time.perf_counter()
        model = nbconv.Model(lenet(seed), threads=threads)
        schedule = one_cycle(epochs * -(-len(train) // 64))
        trainer = nbconv.Trainer(model, optimizer=nbconv.Adam(3e-3), schedule=schedule, seed=seed)
        trainer.fit(train, epochs=epochs, batch_size=64, augment=nbconv.Augment(crop=2))
        seconds = time.perf_counter() - begin
        told(f"digits, LeNet-5, seed {seed}", trainer.evaluate(held, 100)["accuracy"], seconds, model)


def told(what: str, accuracy: float, seconds: float, model: nbconv.Model) -> None:
    print(f"{what}: {accuracy:.4f} held out, {seconds:.1f} s, {model.threads} threads", flush=True)


def resized(path: Path, size: int, threads: int | None) -> nbconv.Model:
    """The classifier for pictures of another size: all it does to them but the last mean is local."""
    graph = nbconv.load(path).graph
    name, spec = next(iter(graph.inputs.items()))
    assert spec.shape is not None
    graph.inputs = {name: Spec((*spec.shape[:2], size, size), spec.dtype)}
    return nbconv.Model(graph, threads=threads)


def emoji(path: Path, classifier: Path, threads: int | None, size: int, epochs: int) -> None:
    """The head of a classifier at 224 pixels, its features computed once; then all layers, at ``size``."""
    with np.load(path) as file:
        mine = file["vendor"] == 0
        x, y = file["x"][mine], file["y"][mine]
    out = np.array(json.loads(Path(__file__).with_name("emoji_split.json").read_text())["held_out"])
    kept, classes = np.setdiff1d(np.arange(len(y)), out), int(y.max()) + 1

    def data(size: int) -> tuple[nbconv.Data, nbconv.Data]:
        whole = nbconv.Arrays(x, y, size=(size, size), mean=127, std=128)
        return whole.part(kept), whole.part(out)

    def head(size: int, seed: int) -> nbconv.Trainer:
        model = resized(classifier, size, threads)
        model.replace_head(classes, seed=seed)
        trainer = nbconv.Trainer(model, optimizer=nbconv.Adam(3e-4, weight_decay=1e-4), trainable="head", seed=seed)
        trainer.fit(data(size)[0], epochs=40)
        return trainer

    for seed in SEEDS:
        begin = time.perf_counter()
        trainer = head(224, seed)
        seconds = time.perf_counter() - begin
        told(f"emoji, head, seed {seed}", trainer.evaluate(data(224)[1])["accuracy"], seconds, trainer.model)
    for seed in SEEDS:
        begin = time.perf_counter()
        first = head(size, seed)
        first.commit()
        train, held = data(size)
        trainer = nbconv.Trainer(
            first.model, optimizer=nbconv.Adam(1e-3), schedule=one_cycle(epochs * -(-len(train) // 32)), lr_decay=0.97,
            bn_momentum=0.9, loss_options={"label_smoothing": 0.1}, seed=seed,
        )  # fmt: skip
        trainer.fit(train, epochs=epochs, augment=nbconv.Augment(flip=0.5, crop=size // 16, fill=255))
        seconds = time.perf_counter() - begin
        told(f"emoji, all layers, seed {seed}", trainer.evaluate(held)["accuracy"], seconds, trainer.model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="an ImageNet classifier that takes (pixel - 127) / 128")
    parser.add_argument("--only", choices=("digits", "emoji"))
    parser.add_argument("--epochs", type=int, default=40, help="of LeNet-5")
    parser.add_argument("--validate", action="store_true", help="digits: measure on 1,000 of the training part")
    parser.add_argument("--size", type=int, default=160, help="of the emoji, where all layers train")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.only != "emoji":
        digits(args.folder / "mnist10k.npz", args.threads, args.epochs, args.validate)
    if args.model and args.only != "digits":
        emoji(args.folder / "emoji32_category.npz", args.model, args.threads, args.size, 6)


if __name__ == "__main__":
    main()
