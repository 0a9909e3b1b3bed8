"""Gate (d) for the tiled kernels: each shape of tile on the interpreter, against float64, with the cost of its accesses."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nbconv.kernels.compile import libraries
from nbconv.kernels.params import (
    Activation,
    Addends,
    Batch,
    ConvBlocking,
    ConvImage,
    Epilogue,
    FilterStrides,
    Matrices,
    MatrixBlocking,
    Scatter,
    Sums,
    SumsBatch,
    Window,
    flat,
)
from nbconv.kernels.target import TARGETS, Target, target
from nbconv.lowering.packing import Cut, ceil, cut, pack, pad_bias, padded
from tests.cuda import numeric
from tests.cuda.kernels import COMPILER
from tests.cuda.recordings import Recording

pytestmark = pytest.mark.skipif(bool(COMPILER), reason=COMPILER)

CUDA = target("cuda")
LANES, COLUMNS = CUDA.lanes, CUDA.columns
TILES = {rows: columns for rows, columns, _ in CUDA.tiles}
NONE, SILU, HARD_SWISH, TANH, LEAKY_RELU = (
    Activation.NONE, Activation.SILU, Activation.HARD_SWISH, Activation.TANH, Activation.LEAKY_RELU,
)  # fmt: skip
ACTIVATIONS = {
    NONE: lambda v: np.clip(v, -1.5, 2.5),
    SILU: lambda v: v / (1 + np.exp(-v)),
    HARD_SWISH: lambda v: v * np.clip(0.3 * v + 0.5, 0, 1),
    TANH: np.tanh,
    LEAKY_RELU: lambda v: np.where(v < 0, 0.3 * v, v),
}


kept: list[Recording] | None = None


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


@functools.cache
def module(family: str, kernel: str, rows: int | None):
    """(the interpreter's module, threads of a block) of a kernel's variant."""
    from tests.cuda.interpreter import Module

    library: Any = libraries([family], CUDA)[family]
    launch = dict(library.launches(kernel))[rows]
    return Module(library.text(launch)), launch.threads


@contextlib.contextmanager
def recording() -> Iterator[list[Recording]]:
    """What `run` launches meanwhile."""
    global kept
    kept = []
    try:
        yield kept
    finally:
        kept = None


def run(family: str, kernel: str, rows: int | None, units: int, given: dict[str, Any], blocks: int = 0):
    """Launch a kernel on arrays, numbers and NamedTuples of them by name; arrays come back changed. Counts of the launch."""
    from tests.cuda.interpreter import Interpreter

    given = flat(given)
    names = [name for name, _ in libraries([family], CUDA)[family].arguments(kernel)]
    assert sorted(names) == sorted(given)
    device, (text, threads) = Interpreter(), module(family, kernel, rows)
    words, arrays = [], []
    for value in (*(given[name] for name in names), units):
        if isinstance(value, np.ndarray):
            words.append(device.alloc(value.nbytes))
            device.upload(words[-1], value)
            arrays.append((words[-1], value))
        else:
            words.append(0 if value is None else value)
    before = tuple(array.view(np.uint8).reshape(-1).copy() for _, array in arrays)
    counts = device.launch(text, kernel, blocks or units, threads, words)
    for address, array in arrays:
        device.download(address, array)
    if kept is not None:
        places = iter(range(len(arrays)))
        library: Any = libraries([family], CUDA)[family]
        kinds = tuple(kind for _, kind in library.arguments(kernel))
        values = [given[name] for name in names]
        arguments = [("at", next(places), 0) if isinstance(v, np.ndarray) else 0 if v is None else v for v in values]
        bits = [int(np.float32(v).view(np.uint32)) if k == "float32" else v for v, k in zip(arguments, kinds, strict=True)]
        number = [v for v, _ in library.launches(kernel)].index(rows)
        after = tuple(array.view(np.uint8).reshape(-1).copy() for _, array in arrays)
        kept.append(
            Recording(family, kernel, number, blocks or units, threads, (*bits, units), (*kinds, "int64"), before, after)
        )
    return counts


def finish(exact: np.ndarray, code: Activation, scale: np.ndarray | None, shift: np.ndarray) -> np.ndarray:
    exact = ACTIVATIONS[code](exact)
    return exact if scale is None else exact * scale + shift


def close(got: np.ndarray, exact: np.ndarray) -> None:
    assert np.abs(got - exact).max() <= 1e-5 * np.abs(exact).max()


def seen(array: np.ndarray, kernel: str) -> np.ndarray:
    """What a kernel's products see of float32 numbers, in float64."""
    return (numeric.to_tf32(array) if kernel.endswith("_tf32") else array).astype(float)


def bare(shape: tuple[int, ...], zeros: int) -> dict[str, Any]:
    """y, and what leaves its sums as they are."""
    addends = Addends(np.zeros(zeros, np.float32))
    return {"y": np.full(shape, np.nan, np.float32), "addends": addends, "epilogue": Epilogue()}


def tail(act: Activation, scale: np.ndarray | None, shift: np.ndarray | None) -> Epilogue:
    """With the limits and parameters of `ACTIVATIONS`."""
    return Epilogue(-1.5, 2.5, act, 0.3, 0.5, scale, shift)


def products(
    rows, m, n, k, lda=0, ldy=0, batch=1, residual=False, code=NONE, affine=False, blocks=0, chunk=0, kernel="gemm"
):
    """``chunk``: of k, less of which than all is a part."""
    lda, ldy, columns, chunk = lda or k, ldy or n, TILES[rows], chunk or k
    parts, lds = ceil(k, chunk), ceil(n, 8) * 8
    a, b, bias = rand(batch, m, lda), rand(batch, k, n), rand(n)
    res, y = rand(m, n) if residual else None, np.full((batch, m, ldy), np.nan, np.float32)
    scale, shift = (rand(n) + 2, -rand(n)) if affine else (None, rand(n))
    packed = [None if v is None else pad_bias(v, 1, n, LANES, COLUMNS) for v in (bias, scale, shift if affine else None)]
    wanted = {"y": y, "addends": Addends(packed[0], res, n if residual else 0), "epilogue": tail(code, *packed[1:])}
    found, ld = wanted, ldy
    if parts > 1:
        found, ld = bare((batch, parts, m, lds), padded(n, LANES, COLUMNS)), lds
    counts = run(
        "gemm", kernel, rows, batch * parts * ceil(m, rows) * ceil(n, columns),
        {
            "a": a, "b": pack(b, LANES, COLUMNS), "matrices": Matrices(m, n, k, lda, ld),
            "batch": Batch(m * lda, k * padded(n, LANES, COLUMNS), parts * m * ld),
            "blocking": MatrixBlocking(rows, ceil(columns, COLUMNS), chunk), **found,
        }, blocks,
    )  # fmt: skip
    if parts > 1:
        for part in range(parts):
            some = slice(part * chunk, min((part + 1) * chunk, k))
            close(found["y"][:, part, :, :n], seen(a[:, :, some], kernel) @ seen(b[:, some], kernel))
        assert np.isnan(found["y"][..., n:]).all()
        run(
            "gemm", "finish", None, batch * m * ceil(n, LANES),
            {
                "sums": found["y"], "parts": Sums(m, n, parts, lds, ldy), "batch": SumsBatch(parts * m * lds, 0, m * ldy),
                "oh": 1, "ow": m, "scatter": Scatter(1, m), **wanted,
            }, ceil(blocks, 8),
        )  # fmt: skip
    exact = seen(a[:, :, :k], kernel) @ seen(b, kernel) + bias + (0 if res is None else res)
    close(y[:, :, :n], finish(exact, code, scale, shift))
    assert np.isnan(y[:, :, n:]).all()
    return counts


def convolutions(
    rows, shape, og, kernel=(1, 1), s=(1, 1), d=(1, 1), pads=(0, 0, 0, 0), groups=1, ldx=0, ldy=0, residual=False,
    code=NONE, affine=False, place=(1, 1, 0, 0), blocks=0, chunk=0, name="conv",
):  # fmt: skip
    """``place``: steps down and across between the pixels of y that are made, and the first one's row and column.
    ``chunk``: of channels, less of which than all is a part."""
    (n, h, w, cg), (kh, kw), (down, across, oy0, ox0), columns = shape, kernel, place, TILES[rows]
    ldx, c, chunk = ldx or groups * cg, groups * og, chunk or cg
    oh, ow = (
        (size + before + after - (k - 1) * step - 1) // stride + 1
        for size, before, after, k, step, stride in zip((h, w), pads[:2], pads[2:], kernel, d, s)
    )
    full_h, full_w, ldy = oy0 + (oh - 1) * down + 1, ox0 + (ow - 1) * across + 1, ldy or c
    x, weights, bias = rand(n, h, w, ldx), rand(groups, kh, kw, cg, og), rand(c)
    res, y = rand(n, full_h, full_w, c) if residual else None, np.full((n, full_h, full_w, ldy), np.nan, np.float32)
    scale, shift = (rand(c) + 2, -rand(c)) if affine else (None, rand(c))
    packed = [
        None if v is None else pad_bias(v, groups, og, LANES, COLUMNS) for v in (bias, scale, shift if affine else None)
    ]
    m, all_padded, parts, lds = n * oh * ow, padded(og, LANES, COLUMNS), ceil(cg, chunk), ceil(c, 8) * 8
    wanted = {
        "y": y, "addends": Addends(packed[0], res, c if residual else 0), "epilogue": tail(code, *packed[1:]),
        "scatter": Scatter(full_h, full_w, down, across, oy0, ox0),
    }  # fmt: skip
    found, ld = wanted, ldy
    if parts > 1:
        found, ld = bare((parts, m, lds), groups * all_padded) | {"scatter": Scatter(oh, ow)}, lds
    counts = run(
        "conv", name, rows, groups * parts * ceil(m, rows) * ceil(og, columns),
        {
            "x": x, "w": pack(weights.reshape(groups, -1, og), LANES, COLUMNS), "zeros": np.zeros(cg, np.float32),
            "image": ConvImage(m, h, w, ldx, cg, oh, ow, ld, og), "window": Window(kh, kw, *s, *d, *pads[:2]),
            "blocking": ConvBlocking(rows, ceil(columns, COLUMNS), kh * kw, chunk, all_padded), **found,
        }, blocks,
    )  # fmt: skip
    if parts > 1:
        assert np.isnan(found["y"][..., c:]).all() and not np.isnan(found["y"][..., :c]).any()
        run(
            "gemm", "finish", None, groups * m * ceil(og, LANES),
            {
                "sums": found["y"], "parts": Sums(m, og, parts, lds, ldy), "batch": SumsBatch(og, all_padded, og),
                "oh": oh, "ow": ow, **wanted,
            }, ceil(blocks, 8),
        )  # fmt: skip
    wide = np.pad(seen(x[..., : groups * cg], name), ((0, 0), pads[::2], pads[1::2], (0, 0)))
    exact = np.zeros((n, oh, ow, groups, og))
    for ky, kx in np.ndindex(kh, kw):
        window = wide[:, ky * d[0] :: s[0], kx * d[1] :: s[1]][:, :oh, :ow].reshape(n, oh, ow, groups, cg)
        exact += np.einsum("nhwgc,gco->nhwgo", window, seen(weights[:, ky, kx], name))
    made = (slice(None), slice(oy0, None, down), slice(ox0, None, across), slice(c))
    exact = exact.reshape(n, oh, ow, c) + bias + (0 if res is None else res[made])
    close(y[made], finish(exact, code, scale, shift))
    y[made] = np.nan
    assert np.isnan(y).all()
    return counts


@pytest.mark.parametrize("tf32", ["", "_tf32"])
@pytest.mark.parametrize("rows", TILES)
def test_hot_loops_meet_no_bank_twice_and_use_what_they_load(rows, tf32):
    columns = TILES[rows]
    for counts in (
        products(rows, rows + 64, columns, 64, kernel="gemm" + tf32),
        convolutions(rows, (1, 16, 20, 32), columns, (3, 3), pads=(1, 1, 1, 1), name="conv" + tf32),
    ):
        assert counts.conflicts <= 1.1 and counts.coalescing >= 0.9
        assert all(i.conflicts is None or i.conflicts <= 1.1 for i in counts.instructions)


@pytest.mark.parametrize("tf32", ["", "_tf32"])
@pytest.mark.parametrize("rows", TILES)
def test_gemm(rows, tf32):
    n, gemm = TILES[rows], functools.partial(products, kernel="gemm" + tf32)
    gemm(rows, rows + 2, n - 1, 37, ldy=n + 3)
    gemm(rows, 3, min(n, 33), 5, lda=7, batch=2)
    gemm(rows, rows + 1, min(n + 1, 65) if n > 32 else 31, 24, residual=True, code=SILU, affine=True, blocks=1)
    gemm(rows, 70, n, 20, residual=True, code=HARD_SWISH)
    gemm(rows, 70, n - 4, 12, code=TANH)


@pytest.mark.parametrize("tf32", ["", "_tf32"])
@pytest.mark.parametrize("rows", TILES)
def test_conv(rows, tf32):
    few, conv = TILES[rows] == 32, functools.partial(convolutions, name="conv" + tf32)
    conv(rows, (2, 9, 7, 3), 5, (3, 3), s=(2, 2), pads=(1, 0, 2, 1))
    conv(rows, (1, 11, 10, 12), 20 if few else 40, (3, 2), d=(2, 3), pads=(0, 1, 2, 3), groups=2, residual=True, code=SILU)
    conv(rows, (1, 11, 10, 12), 20 if few else 40, (3, 2), groups=2, code=SILU, affine=True)
    conv(rows, (1, 11, 10, 8), 17 if few else 33, groups=3, ldx=28, ldy=103, blocks=2)
    conv(
        rows, (2, 6, 5, 20), 31 if few else 70, (2, 2), pads=(1, 1, 1, 1), place=(2, 3, 1, 2), residual=True, code=LEAKY_RELU
    )
    conv(rows, (1, 3, 3, 5), 6 if few else 65, (5, 5), pads=(4, 4, 4, 4), code=TANH)
    conv(rows, (1, 1, 67, 4), 4, (1, 3), pads=(0, 1, 0, 1), code=HARD_SWISH, ldx=6)


@pytest.mark.parametrize("tf32", ["", "_tf32"])
@pytest.mark.parametrize("rows", TILES)
def test_gemm_in_parts(rows, tf32):
    gemm = functools.partial(products, kernel="gemm" + tf32)
    n = TILES[rows]
    gemm(rows, rows + 2, n - 1, 37, ldy=n + 3, chunk=16)
    gemm(rows, 3, min(n, 33), 20, lda=23, batch=2, chunk=8, code=SILU)
    gemm(
        rows, rows + 1, min(n + 1, 65) if n > 32 else 31, 40, residual=True, code=LEAKY_RELU, affine=True, blocks=2, chunk=24
    )


@pytest.mark.parametrize("tf32", ["", "_tf32"])
@pytest.mark.parametrize("rows", TILES)
def test_conv_in_parts(rows, tf32):
    conv = functools.partial(convolutions, name="conv" + tf32)
    few = TILES[rows] == 32
    conv(rows, (2, 9, 7, 19), 5, (3, 3), s=(2, 2), pads=(1, 0, 2, 1), chunk=8)
    conv(rows, (1, 11, 10, 20), 20 if few else 40, (3, 2), d=(2, 3), pads=(0, 1, 2, 3), groups=2, residual=True, chunk=16)
    conv(rows, (1, 11, 10, 16), 17 if few else 33, groups=3, ldx=52, ldy=103, blocks=2, code=SILU, affine=True, chunk=8)
    conv(
        rows,
        (2, 6, 5, 20),
        31 if few else 70,
        (2, 2),
        pads=(1, 1, 1, 1),
        place=(2, 3, 1, 2),
        residual=True,
        code=LEAKY_RELU,
        chunk=8,
    )


def test_parts_are_added_in_their_order():
    """To the bit, by few blocks as by many."""
    found = []
    for blocks in (0, 3):
        y = np.full((20, 40), np.nan, np.float32)
        run(
            "gemm", "finish", None, 40,
            {
                **bare((1,), 64), "y": y, "sums": rand(5, 20, 40), "parts": Sums(20, 40, 5, 40, 40),
                "batch": SumsBatch(0, 0, 0), "oh": 1, "ow": 20, "scatter": Scatter(1, 20),
            }, blocks,
        )  # fmt: skip
        found.append(y)
    total = rand(5, 20, 40)
    in_order = (((total[0] + total[1]) + total[2]) + total[3]) + total[4]
    assert np.array_equal(found[0], in_order) and np.array_equal(found[1], in_order)


def cut_on(goal: Target, *shape: int, scratch_limit: float = np.inf, **more: int) -> Cut:
    return cut(
        SimpleNamespace(target=goal, columns=goal.lanes * goal.tile().vectors, scratch_limit=scratch_limit), *shape, **more
    )  # pyright: ignore


@pytest.mark.parametrize(
    "m,k,n,taps,batch,parts",
    [
        (49, 512, 512, 9, 1, 13), (196, 256, 256, 9, 1, 6), (49, 2048, 512, 1, 1, 13), (3136, 64, 64, 9, 1, 2),
        (1, 2048, 1000, 1, 1, 20), (49, 512, 512, 1, 4, 3),
        (12544, 64, 64, 9, 1, 1), (1568, 512, 512, 9, 1, 1), (3136, 64, 64, 1, 1, 1), (49, 64, 64, 1, 1, 1),
        (5, 3, 7, 1, 1, 1), (49, 512, 512, 1, 36, 1),
    ],
)  # fmt: skip
def test_what_is_split(m, k, n, taps, batch, parts):
    """Few tiles with a long k, into so many parts; no others, and nothing on the CPU."""
    how = cut_on(CUDA, m, k, n, taps, batch=batch)
    assert how.parts == parts == ceil(k, how.channel_chunk)
    assert how.units == parts * batch * ceil(m, how.rows) * ceil(n, TILES[how.rows])
    assert parts == 1 or (how.channel_chunk % 8 == 0 and how.channel_chunk * taps >= 64)
    assert all(cut_on(goal, m, k, n, taps, batch=batch).parts == 1 for goal in TARGETS.values())


def test_sums_of_parts_are_no_larger_than_a_limit():
    """As they are in training with ``memory_mb``."""
    most = 4 * 49 * 512 * 6
    assert cut_on(CUDA, 49, 512, 512, 9).parts > 6
    assert 1 < cut_on(CUDA, 49, 512, 512, 9, scratch_limit=most).parts <= 6
    assert cut_on(CUDA, 49, 512, 512, 9, scratch_limit=1).parts == 1


@pytest.mark.parametrize("cg,og,kh,kw,groups", [(40, 128, 3, 3, 1), (5, 70, 2, 3, 2), (300, 96, 1, 1, 1), (4, 20, 1, 1, 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_panels(cg, og, kh, kw, groups, turned):
    """As ONNX has the weights of Conv (output channels outermost), and those of ConvTranspose."""
    from nbconv.lowering.repack import PIECE

    taps = kh * kw
    if turned:
        w = rand(groups, cg, og, kh, kw)
        ci, co, matrices = og * taps, taps, w.transpose(0, 3, 4, 1, 2)
    else:
        w = rand(groups, og, cg, kh, kw)
        ci, co, matrices = taps, cg * taps, w.transpose(0, 3, 4, 2, 1)
    wanted = pack(matrices.reshape(groups, taps * cg, og) * np.float32(0.5), LANES, COLUMNS)
    y = np.full_like(wanted, np.nan)
    counts = run(
        "packing", "panels", None, groups * ceil(og, COLUMNS) * ceil(taps * cg, PIECE),
        {
            "w": w, "y": y, "kh": kh, "kw": kw, "cg": cg, "n": og,
            "strides": FilterStrides(w[0].size, kw, 1, ci, co), "padded": padded(og, LANES, COLUMNS), "scale": 0.5,
        },
    )  # fmt: skip
    assert np.array_equal(y, wanted) and counts.conflicts == 1
