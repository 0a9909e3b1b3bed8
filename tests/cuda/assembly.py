"""Hand-written PTX for tests: entries around a few lines of body, run on small arrays."""

from __future__ import annotations

import numpy as np

from tests.cuda.interpreter import Interpreter, Module

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
REGISTERS = """.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<33>; .reg .b64 %rd<33>; .reg .f32 %f<33>; .reg .f64 %fd<9>;
"""
DTYPES = {"f32": "f4", "f64": "f8", "u32": "u4", "s32": "i4", "b32": "u4", "u64": "u8", "s64": "i8", "b64": "u8"}
DTYPES |= {"u8": "u1", "s8": "i1", "u16": "u2", "s16": "i2", "b16": "u2"}
Operand = tuple[str, tuple[float, ...]]
"""A type and one value a thread."""


def kernel(body: str, parameters: int = 4, declarations: str = "", module: str = "") -> Module:
    """An entry `k` with 64-bit parameters p0, p1, …: %r0 is the thread in its block, %rd0 to %rd7 are the parameters."""
    listed = ", ".join(f".param .u64 p{i}" for i in range(parameters))
    loads = "".join(f"ld.param.u64 %rd{i}, [p{i}];\n" for i in range(parameters))
    start = f"{REGISTERS}{declarations}\nmov.u32 %r0, %tid.x;\n{loads}"
    return Module(f"{HEAD}{module}\n.visible .entry k({listed})\n{{\n{start}{body}\nret;\n}}\n")


def _register(kind: str) -> str:
    """The type of a register that holds a `kind`."""
    return kind if kind[0] == "f" else f"b{max(16, 8 * np.dtype(DTYPES[kind]).itemsize)}"


def _values(kind: str, values: tuple[float, ...], n: int) -> np.ndarray:
    dtype = np.dtype(DTYPES[kind])
    if dtype.kind != "f":
        return np.resize(np.array([int(v) % 2 ** (8 * dtype.itemsize) for v in values], f"u{dtype.itemsize}"), n).view(dtype)
    return np.resize(np.array(values, dtype), n)


def compute(instruction: str, result: str, *operands: Operand) -> np.ndarray:
    """What `instruction`, from %a, %b, %c to %d, gives in each thread; `result` is the type of %d."""
    n = max(len(values) for _, values in operands)
    device = Interpreter()
    declarations = f".reg .{_register(result)} %d;"
    body, given = "", [device.alloc(8 * n)]
    for i, (kind, values) in enumerate(operands, 1):
        name = "%" + "abc"[i - 1]
        declarations += f" .reg .{_register(kind)} {name};"
        array = _values(kind, values, n)
        given.append(device.alloc(array.nbytes))
        device.upload(given[-1], array)
        body += f"mul.wide.u32 %rd9, %r0, {array.itemsize}; add.s64 %rd10, %rd{i}, %rd9; ld.global.{kind} {name}, [%rd10];\n"
    size = np.dtype(DTYPES[result]).itemsize
    body += f"{instruction};\nmul.wide.u32 %rd9, %r0, {size}; add.s64 %rd10, %rd0, %rd9;\nst.global.{result} [%rd10], %d;"
    device.launch(kernel(body, len(given), declarations), "k", 1, n, given)
    out = np.zeros(n, DTYPES[result])
    device.download(given[0], out)
    return out


def same(got: np.ndarray, expected: list) -> None:
    """Equal bit for bit, but any NaN is a NaN; -0 is not 0."""
    if got.dtype.kind == "f":
        wanted = np.array(expected, got.dtype)
    else:
        wanted = np.array([int(v) % 2 ** (8 * got.itemsize) for v in expected], f"u{got.itemsize}").view(got.dtype)
    assert np.array_equal(got, wanted, equal_nan=got.dtype.kind == "f"), (got, wanted)
    if got.dtype.kind == "f":
        numbers = ~np.isnan(wanted)
        assert np.array_equal(np.signbit(got[numbers]), np.signbit(wanted[numbers])), (got, wanted)
