"""An open library of kernels: addresses and arguments by name."""

from __future__ import annotations

from nbconv.kernels import KernelError
from nbconv.kernels.load import Symbols
from nbconv.kernels.target import Target


class Library:
    """An open library of one family's kernels; for a GPU, PTX (see
    `nbconv.kernels.ptx.PtxLibrary`)."""

    __slots__ = ("_addresses", "_kernels", "_symbols", "family", "key", "target")

    def __init__(
        self,
        family: str,
        goal: Target,
        symbols: Symbols,
        kernels: dict[str, list[list[str]]],
        key: str,
    ) -> None:
        self.family = family
        self.target = goal
        self.key = key
        self._symbols = symbols
        self._kernels = kernels
        self._addresses: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Library({self.family}, {self.target.name}: {', '.join(self._kernels)})"

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels."""
        return tuple(self._kernels)

    def address(self, kernel: str) -> int:
        """Address of ``void kernel(int64_t *args, int64_t first, int64_t last, int64_t slot)``.
        Raises KernelError for an unknown name."""
        if kernel not in self._addresses:
            self.arguments(kernel)
            self._addresses[kernel] = self._symbols(kernel)
        return self._addresses[kernel]

    def arguments(self, kernel: str) -> tuple[tuple[str, str], ...]:
        """(name, kind) of each slot of ``args``; kinds are "int64", "float32", "int64*",
        "float32*", and the like."""
        if kernel not in self._kernels:
            raise KernelError(f"the library {self.family} has no kernel {kernel}: it has {', '.join(self._kernels)}")
        return tuple((name, kind) for name, kind in self._kernels[kernel])
