"""Casts and quantisation to types that are only stored: values of the ONNX text's tables, and those of onnx's reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference.ops.op_cast import cast_to

from nbconv.graph.dtypes import ADDED, added
from nbconv.graph.infer import number_of
from nbconv.ops.cast import Cast, CastLike
from nbconv.ops.quantize import DequantizeLinear, QuantizeLinear
from tests.check import sampler

F32 = np.dtype(np.float32)
NAN, INF = np.nan, np.inf
SPECIAL = [0.0, NAN, INF, -INF, 1e6, -1e6]

TABLE = [
    ("float8_e4m3fn", 1, [0, NAN, 448, -448, 448, -448]), ("float8_e4m3fn", 0, [0, NAN, NAN, NAN, NAN, NAN]),
    ("float8_e4m3fnuz", 1, [0, NAN, 240, -240, 240, -240]), ("float8_e4m3fnuz", 0, [0, NAN, NAN, NAN, NAN, NAN]),
    ("float8_e5m2", 1, [0, NAN, 57344, -57344, 57344, -57344]), ("float8_e5m2", 0, [0, NAN, INF, -INF, INF, -INF]),
    ("float8_e5m2fnuz", 1, [0, NAN, 57344, -57344, 57344, -57344]), ("float8_e5m2fnuz", 0, [0, NAN, NAN, NAN, NAN, NAN]),
]  # fmt: skip
"""The text's table of what Cast makes of `SPECIAL`."""


@pytest.mark.parametrize("name, saturate, want", TABLE)
@pytest.mark.parametrize("source", ["float32", "float16", "float64", "bfloat16"])
def test_casts_to_float8(name: str, saturate: int, want: list, source: str) -> None:
    kind = added("bfloat16") if source == "bfloat16" else np.dtype(source)
    with np.errstate(over="ignore"):
        x = np.array(SPECIAL).astype(kind)
    got = Cast(to=number_of(added(name)), saturate=saturate).reference(x)
    assert got.dtype == added(name)
    np.testing.assert_array_equal(got.astype(F32), np.array(want, F32))
    like = CastLike(saturate=saturate).reference(x, np.zeros(1, got.dtype))
    assert like.tobytes() == got.tobytes()


@pytest.mark.parametrize("name", [n for n in ADDED.values() if n != "float8_e8m0fnu"])
def test_casts_are_onnxs(name: str) -> None:
    """Of every float16, and of all 8-bit integers."""
    number, floats = number_of(added(name)), name.startswith(("float", "bfloat"))
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    half = half[np.isfinite(half)]
    inputs = [np.arange(-128, 128).astype(np.int8), np.arange(256).astype(np.uint8)]
    inputs += [half, half.astype(F32) * 1.7] if floats else [half[np.abs(half) < 8]]
    for x in inputs:
        np.testing.assert_array_equal(Cast(to=number).reference(x), cast_to(x, number, True))


@pytest.mark.parametrize(
    "mode, want",
    [
        ("up", [0, 0, 1, 127, 128, 128, 128, 255, 255, 254]),
        ("down", [0, 0, 0, 127, 127, 127, 127, 255, 255, 254]),
        ("nearest", [0, 0, 1, 127, 127, 128, 128, 255, 255, 254]),
    ],
)
def test_casts_to_powers_of_two(mode: str, want: list) -> None:
    """Codes are exponents, of which 127 is 2^0 and 255 NaN."""
    x = np.array([0, 2.0**-127, 1.6 * 2.0**-127, 1, 1.25, 1.5, 1.75, NAN, INF, 1.75 * 2.0**127], F32)
    got = Cast(to=24, round_mode=mode).reference(x)
    assert got.view(np.uint8).tolist() == want
    beyond = Cast(to=24, round_mode=mode, saturate=0).reference(x[-1:])
    assert beyond.view(np.uint8)[0] == (254 if mode == "down" else 255)


@pytest.mark.parametrize(
    "name, low, high", [("int4", -8, 7), ("uint4", 0, 15), ("int2", -2, 1), ("uint2", 0, 3), ("int8", -128, 127)]
)
def test_quantised_integers(name: str, low: int, high: int) -> None:
    kind = added(name) if name != "int8" else np.dtype(np.int8)
    x = np.array([0.25, 0.75, -0.75, -1e9, 1e9, 0.5], F32)
    got = QuantizeLinear(output_dtype=number_of(kind)).reference(x, np.array(0.5, F32))
    assert got.dtype == kind
    assert got.astype(np.int32).tolist() == [max(low, min(high, v)) for v in (0, 2, -2, low, high, 1)]
    zero = np.array(1, np.int8).astype(kind)
    back = DequantizeLinear().reference(got, np.array(0.5, F32), zero)
    assert back.tolist() == [(int(v) - 1) * 0.5 for v in got.astype(np.int32)]


@pytest.mark.parametrize("name, most", [("float8_e4m3fn", 448), ("float8_e5m2", 57344), ("float4_e2m1fn", 6)])
def test_quantised_floats(name: str, most: float) -> None:
    kind = added(name)
    x, scale = np.array([[1, -3, 1e9], [0.5, 2, -1e9]], F32), np.array([0.5, 2], F32)
    got = QuantizeLinear(axis=0, output_dtype=number_of(kind)).reference(x, scale)
    np.testing.assert_array_equal(got.astype(F32), [[2, -6, most], [0.25 if most > 6 else 0, 1, -most]])
    back = DequantizeLinear(axis=0).reference(got, scale, np.zeros(2, kind))
    np.testing.assert_array_equal(back, got.astype(F32) * scale[:, None])


def test_a_float8_scale() -> None:
    """Powers of two as scales of blocks (MX formats)."""
    scale = np.array([[126, 128]], np.uint8).view(added("float8_e8m0fnu"))
    x = sampler(2)(1, 64).astype(added("float8_e4m3fn"))
    got = DequantizeLinear(axis=1, block_size=32, output_dtype=1).reference(x, scale)
    np.testing.assert_array_equal(got, x.astype(F32) * np.repeat([[0.5, 2.0]], 32, 1).astype(F32))
