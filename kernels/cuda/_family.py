"""A family of kernels as PTX, with what must be known to launch them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from nbconv.kernels.target import Target

from ._numba import KINDS, arguments, compile_kernel, kernels_of, width

THREADS = 256
"""Threads of a block of a kernel that is not tiled."""


def compile_family(family: str, goal: Target) -> tuple[bytes, dict]:
    """The PTX modules of all kernels of a family, one after another, and the manifest: arguments,
    and how to launch each."""
    digits = goal.cpu.removeprefix("sm_")
    capability = int(digits[:-1]), int(digits[-1])
    found = kernels_of(family, capability)
    if not found:
        raise ValueError(f"the family {family} has no kernel for CUDA")
    image, formal, launches = b"", {}, {}
    for name, function in found.items():
        formal[name] = [[a, KINDS[kind]] for a, kind in arguments(function).items()]
        by, choices = variants(function)
        rows = []
        for value, variant in choices:
            text = compile_kernel(variant, capability).encode()
            rows.append([value, [name, width(variant), threads(variant), len(image), len(image) + len(text)]])
            image += text
        launches[name] = {"by": by, "variants": rows}
    toolchain = {"numba": version("numba"), "numba_cuda": version("numba-cuda")}
    return image, {"kernels": formal, "launch": launches, "toolchain": toolchain}


def threads(function: Callable) -> int:
    """Threads of a block."""
    bounds = getattr(function, "__tiled__", None)
    return bounds[0] if bounds else THREADS


def variants(function: Callable) -> tuple[str, list[tuple[int | None, Callable]]]:
    """(the argument that decides, (its value, the kernel for it)): for most kernels ("", the one
    that there is)."""
    return getattr(function, "__variants__", None) or ("", [(None, function)])
