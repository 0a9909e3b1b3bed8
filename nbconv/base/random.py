"""Random bits from counters: what comes out depends on the seed, the stream, the step and the place alone, so that it can be
had again at any time, by any number of threads, in any order.

Philox 2×32 with ten rounds (Salmon 2011, Parallel Random Numbers: As Easy as 1, 2, 3). `kernels/cpu/dropout.py` has the
same function.
"""

from __future__ import annotations

from math import prod

import numpy as np

MULTIPLIER, WEYL, ROUNDS = 0xD256D193, 0x9E3779B9, 10
LOW = np.uint64(0xFFFFFFFF)


def philox(key: int, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two words of 32 bits (in uint64) for each counter (``low``, ``high``), words of 32 bits, too, and the key."""
    a, b, k = low.astype(np.uint64), high.astype(np.uint64), key & 0xFFFFFFFF
    for _ in range(ROUNDS):
        product = a * np.uint64(MULTIPLIER)
        a, b = (product >> np.uint64(32)) ^ np.uint64(k) ^ b, product & LOW
        k = (k + WEYL) & 0xFFFFFFFF
    return a, b


def stream_key(seed: int, stream: int) -> int:
    """The key of a stream of a seed: seeds and streams of up to 32 bits all have different ones, but for chance."""
    first, _ = philox(seed, np.array([stream & 0xFFFFFFFF]), np.array([seed >> 32 & 0xFFFFFFFF]))
    return int(first[0])


def bits(seed: int, stream: int, step: int, count: int) -> np.ndarray:
    """``count`` words of 32 random bits: uint32. Streams (one a dropout node, one an augmentation …) are independent; each
    has 2³³ words at each of 2³² steps."""
    pairs = np.arange((count + 1) // 2, dtype=np.uint64)
    high = np.full(len(pairs), step & 0xFFFFFFFF, np.uint64)
    return np.stack(philox(stream_key(seed, stream), pairs, high), 1).reshape(-1)[:count].astype(np.uint32)


def uniform(seed: int, stream: int, step: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Uniform in [0, 1): float32, of 24 bits each."""
    return (bits(seed, stream, step, prod(shape)) >> np.uint32(8)).astype(np.float32).reshape(shape) * np.float32(2**-24)


def integers(seed: int, stream: int, step: int, high: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Uniform among 0 … high - 1: int64, for high ≤ 2³² (bias under high / 2³²)."""
    if not 0 < high <= 1 << 32:
        raise ValueError(f"high is {high}, wanted 1 to 2³²")
    words = bits(seed, stream, step, prod(shape)).astype(np.uint64)
    return (words * np.uint64(high) >> np.uint64(32)).astype(np.int64).reshape(shape)


def normal(seed: int, stream: int, step: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Standard normal: float32, by Box and Muller's transform."""
    count = prod(shape)
    word = bits(seed, stream, step, 2 * count).astype(np.float64)
    radius = np.sqrt(-2 * np.log((word[:count] + 1) * 2.0**-32))
    return (radius * np.cos(word[count:] * (2 * np.pi * 2.0**-32))).astype(np.float32).reshape(shape)
