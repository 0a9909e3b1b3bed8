"""Kernels of a GPU as a library: PTX texts and how each kernel is launched."""

from __future__ import annotations

from typing import Any, NamedTuple

from nbconv.kernels.library import Library
from nbconv.kernels.target import Target


class Launch(NamedTuple):
    """How a kernel is started.
    ``width`` threads do a unit at a time (a block's, a warp's or one), in blocks of ``threads``;
    ``begin`` and ``end`` say where its PTX, a module of its own with the entry ``entry``, lies in
    the family's.
    """

    entry: str
    width: int
    threads: int
    begin: int
    end: int

    def blocks(self, units: int) -> int:
        """Blocks of a launch: those beyond `MOST_BLOCKS` would wait for others anyway, so blocks
        then do several units."""
        return max(1, min(-(-units * self.width // self.threads), MOST_BLOCKS))


MOST_BLOCKS = 1 << 16


class PtxLibrary(Library):
    """A family's PTX.
    `text` is what a driver loads, `launch` says which variant of a kernel fits its arguments."""

    __slots__ = ("_image", "_launches")

    def __init__(self, family: str, goal: Target, image: bytes, manifest: dict[str, Any]) -> None:
        def address(name: str) -> int:
            raise TypeError(f"{family}.{name} is a kernel of a GPU: it has no address here")

        super().__init__(family, goal, address, manifest["kernels"], manifest["key"])
        self._image, self._launches = image, manifest["launch"]

    def launch(self, kernel: str, arguments: dict[str, int]) -> Launch:
        """How to start a kernel with these integer arguments.
        A kernel may have variants, compiled apart, each for some value of an argument."""
        self.arguments(kernel)
        found = self._launches[kernel]
        if found["by"]:
            value = arguments[found["by"]]
            for wanted, row in found["variants"]:
                if wanted == value:
                    return Launch(*row)
            raise ValueError(f"{self.family}.{kernel} has no variant for {found['by']} = {value}")
        return Launch(*found["variants"][0][1])

    def launches(self, kernel: str) -> list[tuple[int | None, Launch]]:
        """All variants of a kernel with the value that each is for (None: it is the only one)."""
        self.arguments(kernel)
        return [(value, Launch(*row)) for value, row in self._launches[kernel]["variants"]]

    def text(self, launch: Launch) -> str:
        """The PTX module of a kernel."""
        return self._image[launch.begin : launch.end].decode()
