"""What an op's `gradient` and `expand` work with; `nbconv.passes.autodiff` and `nbconv.passes.expand` make one a node."""

from __future__ import annotations

from typing import Any, Protocol

from nbconv.graph.node import Node
from nbconv.graph.op import Op
from nbconv.graph.spec import Spec


class Expansion(Protocol):
    """A node's Specs, the names of its inputs, and a place to put nodes. ``inputs`` and ``outputs`` are Specs (None for an
    input left out)."""

    node: Node
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    def has(self, i: int) -> bool:
        """Whether input i was given."""
        ...

    def x(self, i: int = 0) -> str:
        """The name of input i."""
        ...

    def spec(self, name: str) -> Spec:
        """The Spec of a value of the graph, or of one that `add` made."""
        ...

    def add(self, op: Op, *inputs: str) -> str:
        """A new node; the name of its first output. An input "" is left out."""
        ...

    def constant(self, value: Any) -> str:
        """The name of a constant with this value (given its dtype)."""
        ...


class Backward(Expansion, Protocol):
    """That, and the names of gradients."""

    def wants(self, i: int) -> bool:
        """Whether somebody needs the gradient of input i."""
        ...

    def rows(self, i: int) -> tuple[int, ...]:
        """The places along input i's first axis whose gradient is wanted; none: of all. What `gradient` gives may have these
        alone, or all."""
        ...

    def taken(self, x: str, places: tuple[int, ...], axis: int) -> str:
        """These places of x along an axis; x itself where there are none."""
        ...

    def y(self, i: int = 0) -> str:
        """The name of output i (made up where the node left it out, and then computed)."""
        ...

    def dy(self, i: int = 0) -> Any:
        """The name of the gradient of output i; None where nothing depends on it (never so for an op's one output)."""
        ...

    def add_many(self, op: Op, count: int, *inputs: str) -> tuple[str, ...]:
        """A new node; the names of its first ``count`` outputs."""
        ...

    def reduced(self, dy: str, i: int) -> str:
        """``dy``, of the output's shape, summed over the axes along which input i was broadcast."""
        ...
