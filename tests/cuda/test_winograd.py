"""Gate (d) for Winograd's filtering on a GPU: the transforms on the interpreter, with the cost of their accesses, and when
plans use them."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nbconv.graph import Graph, Spec
from nbconv.kernels.params import Addends, Tiles
from nbconv.kernels.target import GPUS, target
from nbconv.lowering.context import Lowering
from nbconv.lowering.conv import CONVOLUTIONS, ConvProblem, Geometry, winograd
from nbconv.lowering.implementation import candidates, choose
from nbconv.lowering.packing import ceil, pad_bias
from nbconv.lowering.window import Axis
from nbconv.model import Model
from nbconv.ops import convolution
from tests.cuda.kernels import NO_KERNELS
from tests.cuda.test_tiles import COLUMNS, LANES, NONE, SILU, TANH, close, finish, rand, run, tail
from tests.kernels.harness import reference
from tests.train.models import F32, node

pytestmark = pytest.mark.skipif(bool(NO_KERNELS), reason=NO_KERNELS)

INTO: dict[int, Any] = {
    4: [[225 / 256, 0, -169 / 64, 0, 1, 0],
        [0, -45 / 32, -9 / 4, 5 / 8, 1, 0], [0, 45 / 32, -9 / 4, -5 / 8, 1, 0],
        [0, -75 / 128, -25 / 64, 3 / 2, 1, 0], [0, 75 / 128, -25 / 64, -3 / 2, 1, 0],
        [0, 225 / 256, 0, -169 / 64, 0, 1]],
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
}  # fmt: skip
OUT_OF: dict[int, Any] = {
    4: [[1, 1, 1, 1, 1, 0], [0, 5 / 8, -5 / 8, 3 / 2, -3 / 2, 0], [0, 25 / 64, 25 / 64, 9 / 4, 9 / 4, 0],
        [0, 125 / 512, -125 / 512, 27 / 8, -27 / 8, 1]],
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
}  # fmt: skip
"""Bᵀ and Aᵀ (Lavin and Gray 2015) at the points 0, ±5/8, ±3/2, ∞ and 0, ±1, ∞, for tiles of 4×4 and 2×2 results."""


def into(size, shape, pads, out, ldx=0):
    (n, h, w, c), (oh, ow) = shape, out
    down, across, points = ceil(oh, size), ceil(ow, size), (size + 2) ** 2
    total, ldx = n * down * across, ldx or c
    x, v = rand(n, h, w, ldx), np.full((points, total, c), np.nan, np.float32)
    counts = run(
        "winograd", "transform_input", size, total * ceil(c, LANES),
        {
            "x": x, "v": v, "h": h, "width": w, "ldx": ldx, "c": c, "tiles": Tiles(down, across, total, size),
            "ph": pads[0], "pw": pads[1],
        }, ceil(total * ceil(c, LANES) * LANES, 256),
    )  # fmt: skip
    room = down * size + 2, across * size + 2
    wide = np.zeros((n, *(max(a, b + p) for a, b, p in zip(room, (h, w), pads)), c))
    wide[:, pads[0] : pads[0] + h, pads[1] : pads[1] + w] = x[..., :c]
    tiles = [
        wide[i, ty * size : ty * size + size + 2, tx * size : tx * size + size + 2]
        for i, ty, tx in np.ndindex(n, down, across)
    ]
    b = np.array(INTO[size], float)
    close(v, np.einsum("pi,tijc,qj->pqtc", b, np.array(tiles), b).reshape(v.shape))
    return counts


def out_of(size, shape, ldy=0, residual=False, code=NONE, affine=False):
    n, oh, ow, c = shape
    down, across, edge = ceil(oh, size), ceil(ow, size), size + 2
    total, ldy = n * down * across, ldy or c
    m, bias, y = rand(edge * edge, total, c), rand(c), np.full((n, oh, ow, ldy), np.nan, np.float32)
    res = rand(n, oh, ow, c + 3) if residual else None
    scale, shift = (rand(c) + 2, -rand(c)) if affine else (None, rand(c))
    packed = [None if v is None else pad_bias(v, 1, c, LANES, COLUMNS) for v in (bias, scale, shift if affine else None)]
    counts = run(
        "winograd", "transform_output", size, total * ceil(c, LANES),
        {
            "m": m, "addends": Addends(packed[0], res, c + 3 if residual else 0), "y": y, "oh": oh, "ow": ow, "c": c,
            "ldy": ldy, "tiles": Tiles(down, across, total, size), "epilogue": tail(code, *packed[1:]),
        }, ceil(total * ceil(c, LANES) * LANES, 256),
    )  # fmt: skip
    a = np.array(OUT_OF[size], float)
    whole = np.einsum("ip,pqndwc,jq->ndiwjc", a, m.reshape(edge, edge, n, down, across, c).astype(float), a)
    exact = whole.reshape(n, down * size, across * size, c)[:, :oh, :ow] + bias
    close(y[..., :c], finish(exact if res is None else exact + res[..., :c], code, scale, shift))
    assert np.isnan(y[..., c:]).all()
    return counts


@pytest.mark.parametrize("size", [4, 2])
def test_transforms(size):
    into(size, (2, 5, 9, 33), (1, 1), (5, 9))
    into(size, (1, 3, 4, 12), (2, 0), (4, 3), ldx=17)
    out_of(size, (2, 5, 9, 33), ldy=40, residual=True, code=SILU)
    out_of(size, (1, 3, 4, 12), affine=True)
    out_of(size, (1, 4, 4, 70), residual=True, affine=True, code=TANH)


@pytest.mark.parametrize("size", [4, 2])
@pytest.mark.parametrize("channels", [32, 96])
def test_transforms_use_what_they_load(size, channels):
    assert into(size, (1, 9, 8, channels), (1, 1), (9, 8)).coalescing >= 0.9
    assert out_of(size, (1, 9, 8, channels), residual=True).coalescing >= 0.9


@pytest.mark.parametrize("size", [4, 2])
@pytest.mark.parametrize(
    "ci,co,turned,blocks", [(13, 70, False, 0), (40, 96, True, 2), (16, 128, False, 1), (9, 20, True, 0)]
)
def test_filters(size, ci, co, turned, blocks):
    """As ONNX has the weights of Conv, and those of ConvTranspose, which are read backwards."""
    from nbconv.lowering.repack import FILTERS

    w = rand(ci, co, 3, 3) if turned else rand(co, ci, 3, 3)
    wanted = winograd.weights(w.swapaxes(0, 1)[..., ::-1, ::-1] if turned else w, size, LANES, COLUMNS)
    y = np.full_like(wanted, np.nan)
    counts = run(
        "packing", f"winograd_{size}", None, ceil(co, COLUMNS) * ceil(ci, FILTERS),
        {
            "w": w, "y": y, "ci": ci, "co": co, "cis": 9 * co if turned else 9, "cos": 9 if turned else 9 * ci,
            "turned": int(turned), "padded": wanted.size // ((size + 2) ** 2 * ci),
        }, blocks,
    )  # fmt: skip
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    assert counts.conflicts <= 1.2 and counts.coalescing >= 0.7


def layer(ci: int, co: int, n: int, side: int, w: np.ndarray | None = None) -> Graph:
    constants = {"w": np.zeros((co, ci, 3, 3), np.float32) if w is None else w}
    return Graph(
        [node("Conv", "x w", "y", pads=(1, 1, 1, 1))], {"x": Spec((n, ci, side, side), F32)}, {"y": None}, constants
    )


def only_winograd(monkeypatch) -> None:
    """In tiles of 4×4 results."""
    monkeypatch.setattr(convolution, "CONVOLUTIONS", [row for row in CONVOLUTIONS if row.name == "winograd_steps_4"])


def test_deep_sums_of_positive_numbers_are_precise(device, monkeypatch):
    """What comes from a Relu, in as many channels as ResNets have, in tiles of 4×4 results."""
    only_winograd(monkeypatch)
    graph, x = layer(512, 32, 1, 7, rand(32, 512, 3, 3)), np.abs(rand(1, 512, 7, 7))
    close(Model(graph, device="cuda").run({"x": x})["y"], reference(graph, {"x": x})["y"])
    assert "winograd.transform_output" in device.launched


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_weights_that_vary_may_be_transformed_in_pieces(device, monkeypatch, op):
    only_winograd(monkeypatch)
    monkeypatch.setattr(Lowering, "pieces", lambda self, n, nbytes: [(i, min(n, i + 64)) for i in range(0, n, 64)])
    feeds = {"x": rand(1, 18, 6, 5), "w": rand(70, 18, 3, 3) if op == "Conv" else rand(18, 70, 3, 3)}
    inputs = {n: Spec(a.shape, F32) for n, a in feeds.items()}
    graph = Graph([node(op, "x w", "y", pads=(1, 1, 1, 1))], inputs, {"y": None}, {})
    close(Model(graph, device="cuda").run(feeds)["y"], reference(graph, feeds)["y"])
    assert device.launched.count("packing.winograd_4") == 2


def tiles(ci: int, co: int, n: int, side: int, goal: str = "cuda", **limits: float) -> int:
    """The side of the tiles that a plan takes for a convolution."""
    three = Axis(3, 1, 1, 1, 1)
    geometry = Geometry(False, 2, n, 1, ci, co, side, side, side, side, three, three)
    given = {"packed_limit": inf, "scratch_limit": inf, **limits}
    problem = ConvProblem(geometry, "float32", True, True, target(goal), **given)
    to: Any = SimpleNamespace(choices={})
    name = choose(to, candidates(CONVOLUTIONS, problem), problem).name
    return int(name.removeprefix("winograd_steps_")) if name.startswith("winograd") else 0


def test_where_it_pays():
    assert tiles(64, 64, 32, 56) == tiles(256, 256, 32, 14) == 4
    assert tiles(512, 512, 1, 7) != 4  # four tiles of 4×4 results would fill a sixteenth of a product's rows
    assert tiles(16, 16, 1, 8) == 0  # two launches more cost what is saved
    assert tiles(16, 16, 8, 112) == 0  # so does what is moved
    assert tiles(11, 64, 32, 56) == tiles(64, 11, 32, 56) == 0
    assert {tiles(64, 64, 32, 56, goal) for goal in GPUS} == {4}


def test_what_memory_forbids():
    filters = 4 * 36 * 64 * 64
    assert tiles(64, 64, 32, 56, packed_limit=filters) == 4
    assert tiles(64, 64, 32, 56, packed_limit=filters - 1) in (0, 2)
    moved = 4 * 36 * 32 * 14 * 14 * 128
    assert tiles(64, 64, 32, 56, scratch_limit=moved) == 4
    assert tiles(64, 64, 32, 56, scratch_limit=moved - 1) == 0


def test_a_plan_has_three_steps():
    graph, shapes = layer(64, 64, 32, 56), {"x": (32, 64, 56, 56)}
    plan = Model(graph).plan(shapes, target=target("cuda"))
    steps = [s.kernel for s in plan.steps if not s.kernel.startswith("move.")]
    assert steps == ["winograd.transform_input", "gemm.gemm", "winograd.transform_output"]
    direct = Model(graph).plan(shapes, target=target("cuda")._replace(winograd=False))
    assert "conv.conv" in [s.kernel for s in direct.steps]
