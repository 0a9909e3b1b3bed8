"""Changes of type by kernels: every pair of types, values of every kind."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.graph import Graph, Node, Spec
from nbconv.graph.infer import DTYPES
from nbconv.model import Model
from nbconv.ops.cast import Cast, CastLike, route
from nbconv.passes.layout import arranged
from tests.check import onnxruntime_answer
from tests.ops.test_storage import STORED, check, values

NUMBER = {dtype: number for number, dtype in DTYPES.items()}
TYPES = sorted([*STORED, np.dtype(np.float32)], key=str)
U64, HALF, DOUBLE = np.dtype(np.uint64), np.dtype(np.float16), np.dtype(np.float64)
LEFT = {(DOUBLE, HALF)} | {pair for d in TYPES if d.kind == "f" for pair in ((d, U64), (U64, d))}
"""What NumPy does."""
PAIRS = [(a, b) for a in TYPES for b in TYPES if (a, b) not in LEFT]
SPECIAL = [
    *(np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.9, 1.5, 255.9, -128.9, 300.0, -300.0, 70000.0, 2.0**31, -(2.0**31), 3e9),
    *(2.0**32, -(2.0**63), 1e19, 3e38, -3e38, 2.0**24 + 1, 1e-40, 1e-45, 65504.0, 65519.9, 65520.0, 2.0**-14, 2.0**-24),
    *(2.0**-25, 3 * 2.0**-25, 5 * 2.0**-25, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-14 - 2.0**-25, 6.1e-5, -5.9e-8),
]


def numbers(dtype: np.dtype) -> np.ndarray:
    """Any bits, the special values, and some of every size that small types have; NaNs are quiet ones."""
    x = values(dtype, 4099)
    if dtype.kind == "f":
        rng = np.random.default_rng(1)
        with np.errstate(all="ignore"):
            x[1::2] = (rng.standard_normal(2049) * np.exp(rng.uniform(-20, 22, 2049))).astype(dtype)
            x[100 : 100 + len(SPECIAL)] = np.array(SPECIAL).astype(dtype)
        x[np.isnan(x)] = np.nan
    return x


def within(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The elements that the type has, rounded toward zero."""
    if x.dtype.kind != "f" or dtype.kind not in "iu":
        return x
    limits = np.iinfo(dtype)
    wide = x.astype(np.float64)
    return x[(wide > limits.min - 1.0) & (wide < limits.max + 1.0)]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda d: d.name)
def test_cast(source: np.dtype, target: np.dtype) -> None:
    """No NumPy step, the reference's bits, NumPy's and onnxruntime's values."""
    x = numbers(source)
    made = Cast(to=NUMBER[target])
    check(made, x, differs=True)
    fits = within(x, target)
    assert len(fits) > 500
    with np.errstate(all="ignore"):
        want = fits.astype(target)
    np.testing.assert_array_equal(made.reference(fits), want)
    if source != target:
        peer = onnxruntime_answer(made, (fits,), [target])
        np.testing.assert_array_equal(want, want if peer is None else peer[0])
    for shape in ((), (1,), (0,), (2, 0, 3), (3, 5, 7)):
        check(made, values(source, *shape) if source.kind != "f" else np.ones(shape, source), differs=True)
    check(CastLike(), x, np.zeros(1, target), differs=True)


@pytest.mark.parametrize(
    ("target", "want"),
    [
        ("int8", [0, 0, 0, 0, 0, 44, -44, -1, 127]),
        ("uint8", [0, 0, 0, 0, 0, 44, 212, 255, 127]),
        ("int16", [0, 0, 0, 0, 0, 300, -300, -1, 127]),
        ("uint16", [0, 0, 0, 0, 0, 300, 65236, 65535, 127]),
        ("int32", [-(2**31)] * 5 + [300, -300, -1, 127]),
        ("uint32", [0, 0, 0, 3 * 10**9, 0, 300, 2**32 - 300, 2**32 - 1, 127]),
        ("int64", [-(2**63)] * 3 + [3 * 10**9, -(2**63), 300, -300, -1, 127]),
        ("bool", [True] * 9),
    ],
)
@pytest.mark.parametrize("source", ["float32", "float64"])
def test_out_of_range(source: str, target: str, want: list) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e9, 1e19, 300.5, -300.5, -1.5, 127.9], source)
    made = Cast(to=NUMBER[np.dtype(target)])
    assert made.reference(x).tolist() == want
    check(made, x, differs=True)


def test_signalling_nans_stay_nan() -> None:
    half, single = np.arange(1 << 16, dtype=np.uint16).view(np.float16), np.array([0x7F800001, 0xFF800001], np.uint32)
    for x, to in ((half, 1), (half, 11), (single.view(np.float32), 10), (single.view(np.float32), 11)):
        model = Model(Graph([Node(Cast(to=to), ("x",), ("y",))], {"x": Spec(x.shape, x.dtype)}, {"y": None}, {}))
        np.testing.assert_array_equal(np.isnan(model.run({"x": x})["y"]), np.isnan(x))


def test_what_a_gpu_does() -> None:
    """Three kernels are its own too; where there is another the host does the node."""
    for source, to, there in (("float32", 9, True), ("int64", 1, True), ("bool", 1, True), ("float32", 6, False)):
        specs = {"x": Spec((2, 3), np.dtype(source)), "y": Spec((2, 3), DTYPES[to])}
        node = Node(Cast(to=to), ("x",), ("y",))
        assert (arranged(node, specs, {}, gpu=True) is not None) == there
        assert arranged(node, specs, {}, gpu=False) is not None


def test_what_numpy_does() -> None:
    assert {(a, b) for a in TYPES for b in TYPES if route(a, b) is None} == LEFT
