"""Half precision of every op: what its reference and its plan compute is float32's result, rounded."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec, spec_of
from nbconv.graph.dtypes import added, is_half
from nbconv.model import Model
from nbconv.ops import lookup
from tests.check import Case, as_tuple
from tests.ops.test_coverage import cases

HALF = (np.dtype(np.float16), added("bfloat16"))
ROWS = [row for row in cases() if not row.op.domain and any(x is not None and x.dtype == np.float32 for x in row.inputs)]


def halved(x: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    with np.errstate(all="ignore"):
        return x if x is None or x.dtype != np.float32 else x.astype(dtype)


def narrowed(row: Case, dtype: np.dtype) -> tuple[list, list] | None:
    """The case's inputs in half precision, and the same values in float32; None where the op wants another type, or gives
    one that does not follow its inputs'."""
    given = [halved(x, dtype) for x in row.inputs]
    wide = [x if x is None or not is_half(x.dtype) else x.astype(np.float32) for x in given]
    try:
        made = as_tuple(row.op.infer(*(None if x is None else spec_of(x) for x in given)))
        meant = as_tuple(row.op.infer(*(None if x is None else spec_of(x) for x in wide)))
    except ModelError:
        return None
    follows = all(a.dtype == (dtype if b.dtype == np.float32 else b.dtype) for a, b in zip(made, meant, strict=True))
    return (given, wide) if follows else None


def same(got: np.ndarray, want: np.ndarray, what: str, ulp: int = 0) -> None:
    """``want`` is float32; the two differ by some of the half type's last places at most, of which NaN is one value."""
    with np.errstate(all="ignore"):
        want = np.asarray(want).astype(got.dtype)
    assert got.shape == want.shape
    if not is_half(got.dtype):
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    a, b = got.astype(np.float32), want.astype(np.float32)
    assert np.array_equal(np.isnan(a), np.isnan(b)), what
    a, b = (np.where(np.isnan(x), 0, np.asarray(y).view(np.int16).astype(np.int32)) for x, y in ((a, got), (b, want)))
    a, b = (np.where(x < 0, -(x & 0x7FFF), x) for x in (a, b))
    assert np.abs(a - b).max(initial=0) <= ulp, what


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_references(dtype: np.dtype) -> None:
    """Every case of every op that takes half precision."""
    done = set()
    for row in ROWS:
        pair = narrowed(row, dtype)
        if pair is None:
            continue
        got, want = as_tuple(row.op.reference(*pair[0])), as_tuple(row.op.reference(*pair[1]))
        for y, e in zip(got, want, strict=True):
            assert y.dtype == (dtype if e.dtype == np.float32 else e.dtype), row
            same(y, e, str(row))
        done.add(row.op.type)
    assert {"Conv", "Gemm", "Softmax", "ReduceMean", "LRN", "InstanceNormalization", "AveragePool", "Resize"} <= done


BIG = np.full((1, 2, 40, 40), 60.0)
BIG[..., ::2] = 100.0
LARGE = [
    ("GlobalAveragePool", {}, (BIG,)),
    ("AveragePool", {"kernel_shape": (40, 40)}, (BIG,)),
    ("ReduceMean", {}, (BIG,)),
    ("ReduceL2", {}, (BIG,)),
    ("ReduceSumSquare", {}, (BIG[..., :1, :3],)),
    ("ReduceLogSumExp", {}, (BIG / 10,)),
    ("InstanceNormalization", {}, (BIG * 9, np.ones(2), np.zeros(2))),
    ("LayerNormalization", {"axis": 1}, (BIG * 9, np.ones((2, 40, 40)))),
    ("GroupNormalization", {"num_groups": 1}, (BIG * 9, np.ones(2), np.zeros(2))),
    ("LRN", {"size": 2}, (BIG * 9,)),
    ("LpNormalization", {}, (BIG * 9,)),
    ("MeanVarianceNormalization", {}, (BIG * 9,)),
    ("BatchNormalization", {}, (BIG, np.ones(2), np.zeros(2), np.full(2, 80.0), np.full(2, 400.0))),
    ("Conv", {}, (BIG, np.where(np.arange(3200) % 2, 1, -0.75).reshape(1, 2, 40, 40))),
    ("Gemm", {"transB": 1}, (BIG[0, 0], np.where(np.arange(40) % 2, 1, -0.75) * np.full((4, 40), 10.0))),
    ("MatMul", {}, (BIG[0, 0] * 9, np.where(np.arange(40) % 2, 1, -0.75).reshape(40, 1) * np.full((40, 4), 1.0))),
    ("Softmax", {}, (BIG.reshape(1, -1) / 20,)),
    ("LogSoftmax", {}, (BIG.reshape(1, -1) / 20,)),
    ("Mean", {}, (BIG * 600, BIG * 600, BIG * 600)),
]
"""Calls whose sums or squares are more than float16 can hold, or have, and whose results are not."""


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind, attributes, inputs", LARGE, ids=[row[0] for row in LARGE])
def test_sums_beyond_float16(kind: str, attributes: dict, inputs: tuple, dtype: np.dtype) -> None:
    """The reference, and a run, are within two last places of float64."""
    op = lookup(kind)(**attributes)
    given = [np.asarray(x).astype(dtype) for x in inputs]
    exact = as_tuple(op.reference(*(x.astype(np.float64) for x in given)))[0]
    assert np.isfinite(exact).all() and np.abs(exact).max() < 65504
    same(as_tuple(op.reference(*given))[0], exact, kind, 2)
    names = tuple(f"x{i}" for i in range(len(given)))
    graph = Graph([Node(op, names, ("y",))], {n: Spec(x.shape, dtype) for n, x in zip(names, given)}, {"y": None}, {})
    found = Model(graph, threads=1).run(dict(zip(names, given, strict=True)))["y"]
    assert found.dtype == dtype
    same(found, exact, kind, 2)
