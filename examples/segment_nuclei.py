"""Teach a small U-Net from scratch to find the nuclei of cells under a microscope.

    python examples/segment_nuclei.py [STEPS [OUT.png]]

It learns from three quarters of one picture. Prints the Jaccard index of the nuclei in the last quarter and the time it
took, about a minute; OUT.png shows that quarter, what was found and what is true.
"""

import sys
import time

import numpy as np
from layers import Network
from PIL import Image

import nbconv
from nbconv.models import nuclei
from nbconv.train import schedules

SIDE, SPLIT = 96, 384


def network() -> nbconv.Model:
    """A score (n, 1, h, w) for each pixel; h and w are multiples of 4."""
    net = Network(["n", 1, "h", "w"])
    double, pool = net.constant(np.array([1, 1, 2, 2], np.float32)), {"kernel_shape": [2, 2], "strides": [2, 2]}
    fine = net.block("x", 1, 16)
    middle = net.block(net.add("MaxPool", fine, **pool), 16, 32)
    coarse = net.block(net.add("MaxPool", middle, **pool), 32, 64)
    for beside, inputs, outputs in ((middle, 64 + 32, 32), (fine, 32 + 16, 16)):
        wide = net.add("Resize", coarse, "", double, mode="nearest")
        coarse = net.block(net.add("Concat", wide, beside, axis=1), inputs, outputs)
    return net.load(mask=net.conv(coarse, 16, 1, size=1))


def crop(rng: np.random.Generator, pair: np.ndarray) -> np.ndarray:
    """A piece of picture and mask, turned and mirrored by chance."""
    top, left = rng.integers(0, pair.shape[1] - SIDE + 1), rng.integers(0, SPLIT - SIDE + 1)
    piece = np.rot90(pair[:, top : top + SIDE, left : left + SIDE], int(rng.integers(4)), (1, 2))
    return piece[:, :, ::-1] if rng.random() < 0.5 else piece


def main(argv: list[str]) -> None:
    steps, begin, rng = int(argv[0]) if argv else 300, time.perf_counter(), np.random.default_rng(1)
    x, instances = nuclei()
    pair = np.stack([x / np.float32(64) - 1, instances > 0]).astype(np.float32)
    schedule = schedules.one_cycle(steps)
    trainer = nbconv.Trainer(network(), "binary_cross_entropy", nbconv.Adam(lr=3e-3), schedule=schedule, bn_momentum=0.9)
    batches = (np.stack([crop(rng, pair) for _ in range(8)]) for _ in range(steps))
    losses = [trainer.step(batch[:, :1], batch[:, 1:]) for batch in batches]
    true, told = instances[:, SPLIT:] > 0, trainer.predict(pair[None, :1, :, SPLIT:])[0, 0] > 0
    jaccard = (true & told).sum() / (true | told).sum()
    seconds = time.perf_counter() - begin
    print(f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} at last; Jaccard {jaccard:.3f}, in {seconds:.0f} s")
    if len(argv) > 1:
        Image.fromarray(np.concatenate([x[:, SPLIT:], told * np.uint8(255), true * np.uint8(255)], 1)).save(argv[1])


if __name__ == "__main__":
    main(sys.argv[1:])
