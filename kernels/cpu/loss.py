"""Losses of class labels, and their gradients. A label that is no class makes NaN."""

from nbconv.kernels.params import ClassWeights, Scores

from . import _math
from ._simd import (
    Float,
    Floats,
    Int,
    Ints,
    W,
    at,
    inline,
    kernel,
    load,
    load_part,
    splat,
    spread,
    store,
    store_part,
)


@inline
def _share(labels, p, classes, weighting):
    """The weight of a position: 0 where it is ignored, NaN where its label is no class."""
    label = labels[p]
    share = Float(1.0)
    if weighting.ignoring == 1 and label == weighting.ignore:
        share = Float(0.0)
    elif label < 0 or label >= classes:
        share = Float(_math.NAN)
    elif weighting.weighted == 1:
        share = weighting.weights[label]
    return share


@kernel
def pick(
    logp: Floats,
    labels: Ints,
    share: Floats,
    y: Floats,
    n: Int,
    chunk: Int,
    scores: Scores,
    weighting: ClassWeights,
    first: Int,
    last: Int,
) -> None:
    """share[p], and y[p] = -share[p]·logp at the label; a unit is ``chunk`` positions."""
    classes, size, image, pixel, apart = scores
    p0 = first * chunk
    for i in spread(min(last * chunk, n) - p0):
        p = p0 + i
        s = _share(labels, p, classes, weighting)
        share[p] = s
        if s == 0.0:
            y[p] = 0.0
        elif s != s:
            y[p] = s
        else:
            o = p // size
            y[p] = -logp[o * image + (p - o * size) * pixel + labels[p] * apart] * s


@kernel
def total(each: Floats, share: Floats, y: Floats, n: Int, mean: Int, first: Int, last: Int) -> None:
    """y = Σ each, divided by Σ share where it is the ``mean``; one unit. Sums go in runs of 64."""
    for _ in range(first, last):
        whole = Float(0.0)
        parts = Float(0.0)
        for i0 in range(0, n, 64):
            a = Float(0.0)
            b = Float(0.0)
            for i in range(i0, min(i0 + 64, n)):
                a += each[i]
                b += share[i]
            whole += a
            parts += b
        y[0] = whole / parts if mean == 1 else whole


@kernel
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
    for _ in range(first, last):
        parts = Float(0.0)
        for i0 in range(0, n, 64):
            b = Float(0.0)
            for i in range(i0, min(i0 + 64, n)):
                factor[i] = _share(labels, i, classes, weighting)
                b += factor[i]
            parts += b
        for i in range(n):
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
                _row(at(logp, p * classes), at(dx, p * classes), classes, factor[p], soft)
        else:
            p = p0
            while p < end:
                o = p // size
                s = p - o * size
                count = min(end - p, size - s)
                for j in range(classes):
                    c = o * image + j * apart + s
                    _cells(at(logp, c), at(factor, p), at(dx, c), count, soft)
                p += count
        for p in range(p0, end):
            label = labels[p]
            if label >= 0 and label < classes:
                o = p // size
                c = o * image + (p - o * size) * pixel + label * apart
                f = factor[p]
                dx[c] = dx[c] - f


@inline
def _row(logp, dx, n, factor, soft):
    for i in range(0, n, W):
        if i + W <= n:
            e = _math.exp(load(logp, i)) if soft == 1 else splat(0.0)
            store(dx, i, e * splat(factor))
        else:
            e = _math.exp(load_part(logp, i, n - i)) if soft == 1 else splat(0.0)
            store_part(dx, i, e * splat(factor), n - i)


@inline
def _cells(logp, factor, dx, n, soft):
    for i in range(0, n, W):
        if i + W <= n:
            e = _math.exp(load(logp, i)) if soft == 1 else splat(0.0)
            store(dx, i, e * load(factor, i))
        else:
            e = _math.exp(load_part(logp, i, n - i)) if soft == 1 else splat(0.0)
            store_part(dx, i, e * load_part(factor, i, n - i), n - i)


@kernel
def one_hot(
    labels: Ints,
    y: Floats,
    n: Int,
    chunk: Int,
    scores: Scores,
    on: Float,
    off: Float,
    ignore: Int,
    first: Int,
    last: Int,
) -> None:
    """``on`` at the label, else ``off``; 0 where the label is ``ignore`` or no class; a unit is
    ``chunk`` positions."""
    classes, size, image, pixel, apart = scores
    p0 = first * chunk
    for i in spread(min(last * chunk, n) - p0):
        p = p0 + i
        label = labels[p]
        known = label >= 0 and label < classes and label != ignore
        o = p // size
        c = o * image + (p - o * size) * pixel
        for j in range(classes):
            v = Float(0.0)
            if known:
                v = on if j == label else off
            y[c + j * apart] = v
