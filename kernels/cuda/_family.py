"""A family of kernels as PTX, with what must be known to launch them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from nbconv.kernels.target import Target

from ._numba import KINDS, arguments, compile_kernel, kernels_of, variants, width

THREADS = 256
"""Threads of a block of a kernel that is not tiled."""


def compile_family(family: str, goal: Target) -> tuple[bytes, dict]:
    """The PTX modules of all kernels of a family, one after another, and the manifest: arguments, and how to launch each."""
    found = kernels_of(family)
    if not found:
        raise ValueError(f"the family {family} has no kernel for CUDA")
    digits = goal.cpu.removeprefix("sm_")
    capability = int(digits[:-1]), int(digits[-1])
    image, formal, launches = b"", {}, {}
    for name, function in found.items():
        formal[name] = [[a, KINDS[kind]] for a, kind in arguments(function).items()]
        launches[name] = []
        for when, variant in choices(function):
            text = compile_kernel(variant, capability).encode()
            row = [variant.__name__, width(variant), threads(variant), len(image), len(image) + len(text)]
            launches[name].append([when, row])
            image += text
    toolchain = {"numba": version("numba"), "numba_cuda": version("numba-cuda")}
    return image, {"kernels": formal, "launch": launches, "toolchain": toolchain}


def threads(function: Callable) -> int:
    """Threads of a block."""
    bounds = getattr(function, "__tiled__", None)
    return bounds[0] if bounds else THREADS


def choices(function: Callable) -> list[tuple[dict[str, int], Callable]]:
    """A kernel's variants with the arguments that each is for, and last the kernel itself, for all others."""
    return [*variants(function), ({}, function)]
