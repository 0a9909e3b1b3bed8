"""Control flow: ops that hold graphs and run them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Graph, Spec, bodies
from nbconv.graph.infer import BOOL
from nbconv.graph.op import Op


class If(Op):
    """The outputs of one of two bodies. Both give values of equal types and shapes, unless the condition is known when the
    graph is planned: then the one that it chooses stands for the node."""

    control = "if"
    pure = False

    then_branch: Graph
    else_branch: Graph

    def infer(self, cond: Spec, *around: Spec) -> tuple[Spec, ...]:
        if cond.dtype != BOOL or cond.size != 1:
            raise ModelError(f"the condition is {cond}, wanted one bool")
        body = self.inlined((cond, *around))
        if body:
            return self._found(body, around)
        one, other = (self._found(name, around) for name in self.bodies())
        if len(one) != len(other):
            raise ModelError(f"its branches have {len(one)} and {len(other)} outputs")
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise UnsupportedError(f"output {i} is {a} in then_branch, {b} in else_branch: they must be alike")
        return tuple(
            a if a.quantisation == b.quantisation else a._replace(quantisation=None) for a, b in zip(one, other, strict=True)
        )

    def _found(self, name: str, around: tuple[Spec, ...]) -> tuple[Spec, ...]:
        """The Specs of a body's outputs."""
        body = self.bodies()[name]
        specs = bodies.infer(body, self._named(around))
        made = [specs[n] for n in body.outputs]
        return tuple(Spec(s.shape, s.dtype, quantisation=s.quantisation) for s in made)

    def _named(self, around: tuple) -> dict[str, Any]:
        """What the bodies read around them, by the names that they have for it."""
        names = bodies.captured(self.bodies().values())
        if len(names) != len(around):
            raise ModelError(
                f"the branches read {', '.join(names) or 'nothing'} around them, {len(around)} values are given"
            )
        return dict(zip(names, around, strict=True))

    def inlined(self, inputs: tuple[Spec | None, ...]) -> str:
        value = inputs[0].value if inputs and inputs[0] is not None else None
        return "" if value is None else "then_branch" if value.reshape(()) else "else_branch"

    def reference(self, cond: np.ndarray, *around: np.ndarray) -> tuple[np.ndarray, ...]:
        body = self.then_branch if cond.reshape(()) else self.else_branch
        return tuple(np.array(y) for y in bodies.run(body, self._named(around)))

    def flops(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> int:
        """Of the branch that takes more."""
        return max(self._flops(body, inputs[1:]) for body in self.bodies().values())

    def _flops(self, body: Graph, around: tuple[Spec, ...]) -> int:
        specs = bodies.infer(body, self._named(around))
        return sum(
            node.op.flops(tuple(specs[n] if n else None for n in node.inputs), tuple(specs[n] for n in node.outputs if n))
            for node in body.nodes
        )
