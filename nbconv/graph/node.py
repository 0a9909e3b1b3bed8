"""A node: an op with names for what it reads and makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbconv.errors import ModelError
from nbconv.graph.spec import Spec

if TYPE_CHECKING:
    from nbconv.graph.op import Op


class Node:
    """One application of an op. ``inputs`` may hold "" for an optional input left out; so may ``outputs``."""

    __slots__ = ("inputs", "name", "op", "outputs")

    def __init__(self, op: Op, inputs: tuple[str, ...], outputs: tuple[str, ...], name: str = "") -> None:
        self.op = op
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.name = name or (outputs[0] if outputs else "")

    def infer(self, given: tuple[Spec | None, ...]) -> tuple[Spec, ...]:
        """The op's `infer`, its errors naming the node, and what integers stand for."""
        try:
            found = self.op.infer(*given)
        except ModelError as error:
            raise type(error)(f"{self.name} ({self.op.type}): {error}") from None
        except TypeError as error:
            text = f"{self.name} ({self.op.type}): takes other inputs than these {len(given)} ({error})"
            raise ModelError(text) from None
        except (ValueError, IndexError, OverflowError) as error:
            raise ModelError(f"{self.name} ({self.op.type}): {error}") from None
        made = (found,) if isinstance(found, Spec) else tuple(found)
        stands = self.op.quantisation(given, made)
        if stands is None:
            return made
        return tuple(spec._replace(quantisation=stands) if spec.dtype == made[0].dtype else spec for spec in made)

    def __repr__(self) -> str:
        return f"{','.join(self.outputs)} = {self.op!r}({', '.join(self.inputs)})"
