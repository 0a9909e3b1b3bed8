"""What nbconv lacks for a model, and how it is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that nbconv lacks: which node (or input, or initializer), of which op, and what."""

    node: str
    op: str
    problem: str

    def __str__(self) -> str:
        return f"{self.node} ({self.op}): {self.problem}"


def summary(problems: Iterable[Problem]) -> str:
    """Problems on one line, nodes with the same one gathered."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        nodes.setdefault((problem.op, problem.problem), []).append(problem.node)
    told = []
    for (op, problem), names in nodes.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        told.append(f"{op}: {problem} ({', '.join(names[:3])}{more})")
    return "; ".join(told)
