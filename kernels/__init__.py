"""Kernels: Python functions that Numba compiles to native libraries, and the cache that keeps those
libraries."""

from __future__ import annotations

LOOP_ABI = 2
"""Version of what a kernel and the run loop agree on: ``void kernel(int64_t *args, int64_t first,
int64_t last, int64_t slot)``, one 64-bit word an argument.
A library of another version is never loaded."""


class KernelError(RuntimeError):
    """A kernel library is missing, cannot be compiled or cannot be loaded; the message says what to
    do."""
