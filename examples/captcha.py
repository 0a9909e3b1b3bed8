"""Teach a network from scratch to read drawn captchas, by CTC: convolutions, then a GRU in both directions.

    python examples/captcha.py [OUT.onnx] [--steps N]

Prints the share of the characters of pictures not seen in training that are read, and the time it took: some two minutes.
"""

import argparse
import time

import numpy as np
from layers import Network
from PIL import Image, ImageDraw, ImageFont

import nbconv
from nbconv.train import schedules
from nbconv.vision import character_accuracy, ctc

LETTERS, MOST, HEIGHT, WIDTH = "234678ABCDEFHKMNPRXY", 6, 32, 128


def glyphs() -> list[list[np.ndarray]]:
    """Each letter, turned by some angles."""
    font, found = ImageFont.load_default(24), []
    for letter in LETTERS:
        canvas = Image.new("L", (HEIGHT, HEIGHT))
        ImageDraw.Draw(canvas).text((HEIGHT / 2, HEIGHT / 2), letter, 255, font, "mm")
        found.append([np.asarray(canvas.rotate(a, Image.Resampling.BILINEAR), np.float32) / 255 for a in range(-20, 21, 5)])
    return found


def draw(rng: np.random.Generator, shapes: list[list[np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (count, 1, height, width), light on dark with lines and noise; labels from 1, padded with -1."""
    x, y = 0.3 * rng.random((count, 1, HEIGHT, WIDTH), np.float32), np.full((count, MOST), -1)
    for picture, labels in zip(x[:, 0], y, strict=True):
        at = int(rng.integers(0, 8))
        for j in range(int(rng.integers(4, MOST + 1))):
            labels[j] = 1 + rng.integers(len(LETTERS))
            shape = shapes[labels[j] - 1][rng.integers(9)]
            down, part = int(rng.integers(-4, 5)), picture[:, at : at + HEIGHT]
            part += np.float32(0.5 + 0.5 * rng.random()) * np.roll(shape, down, 0)[:, : part.shape[1]]
            at += int(rng.integers(15, 20))
        for _ in range(2):  # a line from side to side
            ends = rng.integers(0, HEIGHT, 2)
            picture[np.linspace(*ends, WIDTH).astype(int), np.arange(WIDTH)] += 0.6
    return x.clip(0, 1) - 0.5, y


def network() -> nbconv.Model:
    net = Network(["n", 1, HEIGHT, WIDTH])
    x = net.block(net.block("x", 1, 16, 3, 2), 16, 32)
    x = net.block(net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 32, 64)
    x = net.block(net.add("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1]), 64, 64)
    x = net.add("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1])  # (n, 64, 2, 32)
    x = net.add("Reshape", net.add("Transpose", x, perm=[3, 0, 1, 2]), net.constant(np.array([0, 0, 128])))  # (32, n, 128)
    gates, into = 3 * 64, [net.random(2, 3 * 64, k, into=2 * k) for k in (128, 64)]
    bias = net.constant(np.zeros((2, 2 * gates), np.float32))
    x = net.add("GRU", x, *into, bias, direction="bidirectional", hidden_size=64, linear_before_reset=1)
    x = net.add("Reshape", net.add("Transpose", x, perm=[2, 0, 1, 3]), net.constant(np.array([0, 0, 128])))  # (n, 32, 128)
    return net.load(scores=net.add("MatMul", x, net.random(128, 1 + len(LETTERS), into=128)))


class Drawn:
    """Batches of fresh pictures, as many an epoch as there are steps."""

    def __init__(self, steps: int, batch: int = 32) -> None:
        self.steps, self.batch, self.shapes = steps, batch, glyphs()

    def __iter__(self):
        rng = np.random.default_rng(1)
        return (draw(rng, self.shapes, self.batch) for _ in range(self.steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", nargs="?")
    parser.add_argument("--steps", type=int, default=1500)
    args, begin = parser.parse_args(), time.perf_counter()
    optimizer = nbconv.Adam(lr=3e-3, clip_norm=5.0)
    schedule = schedules.one_cycle(args.steps)
    trainer = nbconv.Trainer(network(), "ctc", optimizer, schedule=schedule)
    data = Drawn(args.steps)
    for k, (x, y) in enumerate(data):
        l = trainer.step(x, y)
        if k % 50 == 0:
            print(k, l, time.perf_counter() - begin, flush=True)
    x, y = draw(np.random.default_rng(2), data.shapes, 500)
    read = [ctc(rows, LETTERS).text for rows in trainer.predict(x)]
    true = ["".join(LETTERS[k - 1] for k in row if k > 0) for row in y]
    print(
        f"characters read: {character_accuracy(read, true):.3f}, {read[0]} is {true[0]}; {time.perf_counter() - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
