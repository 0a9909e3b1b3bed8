"""Teach a network from scratch to read drawn captchas, by CTC: convolutions, then a GRU in both directions.

    python examples/captcha.py [STEPS [OUT.onnx]]

Prints the share of characters that are read in pictures not seen before, and the time it took: about a minute.
"""

import sys
import time

import numpy as np
from drawings import HEIGHT, LETTERS, WIDTH, captchas, glyphs
from layers import Network

import nbconv
from nbconv.train import schedules
from nbconv.vision import character_accuracy, ctc


def network() -> nbconv.Model:
    """Scores (n, 32, 21) of a blank and the letters, for each of 32 steps from left to right."""
    net = Network(["n", 1, HEIGHT, WIDTH])
    x = net.block(net.block("x", 1, 16, stride=2), 16, 32)
    x = net.block(net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 32, 64)
    x = net.block(net.add("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1]), 64, 64)
    x = net.add("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1])  # (n, 64, 2, 32)
    rows = net.constant(np.array([0, 0, 128]))
    x = net.add("Reshape", net.add("Transpose", x, perm=[3, 0, 1, 2]), rows)  # (32, n, 128)
    weights = [net.random(2, 3 * 64, inputs, into=2 * inputs) for inputs in (128, 64)]
    bias = net.constant(np.zeros((2, 2 * 3 * 64), np.float32))
    x = net.add("GRU", x, *weights, bias, direction="bidirectional", hidden_size=64, linear_before_reset=1)
    x = net.add("Reshape", net.add("Transpose", x, perm=[2, 0, 1, 3]), rows)  # (n, 32, 128)
    return net.load(scores=net.add("MatMul", x, net.random(128, 1 + len(LETTERS), into=128)))


def main(argv: list[str]) -> None:
    steps, begin, rng, letters = int(argv[0]) if argv else 700, time.perf_counter(), np.random.default_rng(1), glyphs()
    optimizer, schedule = nbconv.Adam(lr=3e-3, clip_norm=5.0), schedules.one_cycle(steps)
    trainer = nbconv.Trainer(network(), "ctc", optimizer, schedule=schedule)
    losses = [trainer.step(*captchas(rng, letters, 32)) for _ in range(steps)]
    x, y = captchas(np.random.default_rng(2), letters, 500)
    read = [ctc(scores, LETTERS).text for scores in trainer.predict(x)]
    true = ["".join(LETTERS[k - 1] for k in labels if k > 0) for labels in y]
    print(f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last; {read[0]!r} is {true[0]!r}")
    print(f"characters read: {character_accuracy(read, true):.3f}, in {time.perf_counter() - begin:.0f} s")
    if len(argv) > 1:
        trainer.save(argv[1])


if __name__ == "__main__":
    main(sys.argv[1:])
