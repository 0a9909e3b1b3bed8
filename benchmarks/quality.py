"""How good training makes a model: LeNet-5 on handwritten digits, from scratch; a classifier on Twitter's emoji, its head
alone and then all its layers. Three seeds each.

    python benchmarks/quality.py FOLDER [--model efficientnet_lite0_bn.onnx] [--only digits|emoji] [--fold 0]

FOLDER has mnist10k.npz (x uint8 (n, 28, 28), y; the first 8,000 train, the others are held out) and, for --model,
emoji32_category.npz (x uint8 (n, 32, 32, 3), y, vendor; vendor 0 is Twitter). emoji_split.json says which are held out, and
how the others are folds to choose a recipe with. docs/training.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import nbconv
from nbconv.edit.initializers import he
from nbconv.graph import Graph, Node, Spec
from nbconv.ops import lookup
from nbconv.train.schedules import one_cycle

SEEDS = (0, 1, 2)
SIZE, EPOCHS = 160, 12
"""Where all layers learn emoji."""


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


def digits(path: Path, threads: int | None, epochs: int, seeds: Sequence[int], fold: int | None) -> None:
    """LeNet-5. With ``fold`` a fifth of the training part stands in for what is held out."""
    data = nbconv.load_npz(path, mean=33, std=79)
    train, held = data.part(np.arange(8000)), data.part(np.arange(8000, len(data)))
    if fold is not None:
        inside = np.arange(8000) // 1600 == fold
        train, held = data.part(np.flatnonzero(~inside)), data.part(np.flatnonzero(inside))
    for seed in seeds:
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


class Emoji:
    """Twitter's drawings; ``train`` and ``held`` say which train and which are looked at in the end: what is held out, or
    with ``fold`` that part of the training part."""

    def __init__(self, path: Path, fold: int | None) -> None:
        with np.load(path) as file:
            mine = file["vendor"] == 0
            self.x, self.y = file["x"][mine], file["y"][mine]
        split = json.loads(Path(__file__).with_name("emoji_split.json").read_text())
        places = np.array(list("".join(split["folds"])))
        kept = places != "-"
        self.train = kept if fold is None else kept & (places != str(fold))
        self.held = ~kept if fold is None else places == str(fold)
        self.classes = int(self.y.max()) + 1

    def data(self, size: int) -> tuple[nbconv.Data, nbconv.Data]:
        """(what trains, what is held out), as the classifier takes them."""
        whole = nbconv.Arrays(self.x, self.y, size=(size, size), mean=127, std=128)
        return whole.part(np.flatnonzero(self.train)), whole.part(np.flatnonzero(self.held))


def emoji(path: Path, classifier: Path, threads: int | None, seeds: Sequence[int], fold: int | None) -> None:
    """The head of a classifier, its features computed once, at its own size; all layers at a smaller one, beginning with the
    head at that size. The recipe was chosen on folds of the training part: docs/training.md says how."""
    drawings = Emoji(path, fold)

    def head(size: int, seed: int) -> nbconv.Model:
        begin = time.perf_counter()
        train, held = drawings.data(size)
        model = resized(classifier, size, threads)
        model.replace_head(drawings.classes, seed=seed)
        trainer = nbconv.Trainer(model, optimizer=nbconv.Adam(3e-4, weight_decay=1e-4), trainable="head", seed=seed)
        trainer.fit(train, epochs=40)
        seconds = time.perf_counter() - begin
        told(f"emoji, head, {size} pixels, seed {seed}", trainer.evaluate(held)["accuracy"], seconds, model)
        trainer.commit()
        return model

    for seed in seeds:
        head(224, seed)
        begin = time.perf_counter()
        model = head(SIZE, seed)
        train, held = drawings.data(SIZE)
        trainer = nbconv.Trainer(
            model, optimizer=nbconv.Adam(1e-3), schedule=one_cycle(EPOCHS * -(-len(train) // 32)), lr_decay=0.97,
            bn_momentum=0.9, seed=seed,
        )  # fmt: skip
        trainer.fit(train, epochs=EPOCHS, augment=nbconv.Augment(flip=0.5, crop=SIZE // 16, mixup=0.4, fill=255))
        seconds = time.perf_counter() - begin
        told(f"emoji, all layers, {SIZE} pixels, seed {seed}", trainer.evaluate(held)["accuracy"], seconds, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="an ImageNet classifier that takes (pixel - 127) / 128")
    parser.add_argument("--only", choices=("digits", "emoji"))
    parser.add_argument("--epochs", type=int, default=40, help="of LeNet-5")
    parser.add_argument("--fold", type=int, choices=range(5), help="hold this fifth of the training part out instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.only != "emoji":
        digits(args.folder / "mnist10k.npz", args.threads, args.epochs, args.seeds, args.fold)
    if args.model and args.only != "digits":
        emoji(args.folder / "emoji32_category.npz", args.model, args.threads, args.seeds, args.fold)


if __name__ == "__main__":
    main()
