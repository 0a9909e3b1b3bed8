"""Losses of class labels, and their gradients; see `kernels/cpu/loss.py`.
Sums over positions are a block's: a thread adds every 256th, then halves are folded, always in the
same order."""

from nbconv.kernels.params import ClassWeights, Scores

from . import _math
from ._numba import shared_source
from ._simd import (
    Float,
    Floats,
    Int,
    Ints,
    W,
    at,
    barrier,
    cuda,
    get,
    inline,
    kernel,
    lane,
    put,
    scalar,
    shared_floats,
    splat,
    tiled,
)

_shared = shared_source("loss")
_share = _shared._share
pick = _shared.pick
one_hot = _shared.one_hot
THREADS = 256


@inline
def _fold(held, mine, v):
    """The sum of all threads' v, on each of them."""
    held[mine] = v
    barrier()
    apart = THREADS // 2
    while apart > 0:
        if mine < apart:
            held[mine] = held[mine] + held[mine + apart]
        barrier()
        apart //= 2
    whole = held[0]
    barrier()
    return whole


@tiled(THREADS)
def total(each: Floats, share: Floats, y: Floats, n: Int, mean: Int, first: Int, last: Int) -> None:
    """y = Σ each, divided by Σ share where it is the ``mean``; one unit."""
    held = shared_floats(THREADS)
    mine = Int(cuda.threadIdx.x)
    a = Float(0.0)
    b = Float(0.0)
    for i in range(mine, n, THREADS):
        a += each[i]
        b += share[i]
    whole = _fold(held, mine, a)
    parts = _fold(held, mine, b)
    if mine == 0:
        y[0] = whole / parts if mean == 1 else whole


@tiled(THREADS)
def factors(
    dy: Floats,
    labels: Ints,
    factor: Floats,
    n: Int,
    classes: Int,
    weighting: ClassWeights,
    mean: Int,
    each: Int,
    first: Int,
    last: Int,
) -> None:
    """factor[p] = dy·share[p], divided by Σ share where it is the ``mean``; dy is one for each
    position where ``each`` is 1; one unit."""
    held = shared_floats(THREADS)
    mine = Int(cuda.threadIdx.x)
    parts = Float(0.0)
    for i in range(mine, n, THREADS):
        share = _share(labels, i, classes, weighting)
        factor[i] = share
        parts += share
    parts = _fold(held, mine, parts)
    for i in range(mine, n, THREADS):
        f = factor[i]
        if mean == 1:
            f = f / parts
        factor[i] = f * (dy[i] if each == 1 else dy[0])


@kernel
def labels_grad(
    logp: Floats,
    labels: Ints,
    factor: Floats,
    dx: Floats,
    n: Int,
    chunk: Int,
    scores: Scores,
    soft: Int,
    first: Int,
    last: Int,
) -> None:
    """dx = factor·(e^logp - [j = label]), or without e^logp where ``soft`` is 0; a unit is
    ``chunk`` positions."""
    classes, size, image, pixel, apart = scores
    for unit in range(first, last):
        p0 = unit * chunk
        end = min(p0 + chunk, n)
        if apart == 1:
            for p in range(p0, end):
                _row(at(logp, p * classes), at(dx, p * classes), classes, factor[p], labels[p], soft)
        else:
            for p in range(p0 + lane(), end, W):
                o = p // size
                c = o * image + (p - o * size) * pixel
                f = factor[p]
                label = labels[p]
                for j in range(classes):
                    e = _math.exp(splat(logp[c + j * apart])) if soft == 1 else splat(0.0)
                    v = scalar(e) * f
                    dx[c + j * apart] = v - f if j == label else v


@inline
def _row(logp, dx, n, factor, label, soft):
    """A position whose classes lie side by side: one a lane."""
    for i in range(0, n, W):
        v = (_math.exp(get(logp, i, n - i)) if soft == 1 else splat(0.0)) * factor
        put(dx, i, v - factor if i + lane() == label else v, n - i)
