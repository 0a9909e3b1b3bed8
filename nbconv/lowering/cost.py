"""The cost of a matrix product on a processor, in flops of its kernel: what implementations are compared by. It knows shapes
and the target alone, never times, so that for one target the choice is the same in every process."""

from __future__ import annotations

from nbconv.lowering.packing import CACHE, ceil

OWN, SHARED, MEMORY = 1.0, 5.0, 8.0
"""What reading a byte of weights costs, in flops of the matrix kernel: from the core's cache, the shared one, memory."""
SHARED_CACHE = 16 << 20
"""Bytes of weights above which they are taken to come from memory."""


def weighted_product(flops: float, rows: int, tile: int, nbytes: float) -> float:
    """A matrix product's cost in flops: slower where its register tiles are low, plus reading the weights."""
    height = rows / ceil(rows, tile)
    filled = min(1.0, 0.4 + 0.9 * height / tile)
    return flops / filled + reading(nbytes)


def reading(nbytes: float) -> float:
    """What so many bytes of weights cost to read, in flops."""
    return nbytes * (OWN if nbytes <= CACHE else SHARED if nbytes <= SHARED_CACHE else MEMORY)
