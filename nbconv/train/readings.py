"""How targets of a shape are read by a loss: the one way in which they fit an output, or a ValueError that says what was
wanted. Nothing is broadcast.

Targets fit where they have the wanted shape but for axes of size one, which may be missing or too many; the first axis
counts samples and must agree. The elements' order is the same then, so there is one such reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from nbconv.graph import Spec
from nbconv.graph.infer import number_of
from nbconv.graph.op import Op
from nbconv.ops.cast import Cast
from nbconv.ops.shape import Reshape, Transpose

Shape = tuple[int, ...]


class Misfit(ValueError):
    """Targets of a shape that does not fit an output."""


class Adds(Protocol):
    """What puts nodes into a graph."""

    def add(self, op: Op, *inputs: str) -> str: ...
    def constant(self, value: Any) -> str: ...
    def spec(self, name: str) -> Spec: ...


class Reading(NamedTuple):
    """Targets as they fit an output. ``order``: the output's axes as (samples, classes, …). ``labels``: whether targets are
    labels, else they have a number for each class. ``shape``: the targets' own, with the axes of size one put right: (n, …)
    of labels, else the output's with samples first. ``inner``: its axes as (samples, classes, …), of other than labels."""

    order: Shape
    labels: bool
    shape: Shape
    inner: Shape

    @property
    def axis(self) -> int:
        """The classes' axis of the output."""
        return self.order[1]


def fits(came: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a shape is the wanted one, but for axes of size one."""
    return tuple(came[:1]) == tuple(wanted[:1]) and _long(came) == _long(wanted)


def _long(shape: Sequence[int]) -> list[int]:
    return [d for d in shape[1:] if d != 1]


def of_classes(
    loss: str, output: Shape, came: Shape, class_axis: int | None = None, batch_axis: int = 0, *, dense: bool = True
) -> Reading:
    """How targets of shape ``came`` are read for an output that has classes along ``class_axis`` and samples along
    ``batch_axis``. ``dense``: whether they may have a number for each class, too. Where no axis is said it is 1, or the only
    other one with which labels fit. ValueError where nothing fits, or labels fit with several axes."""
    rank = len(output)
    if rank < 2:
        raise ValueError(f"{loss}: outputs are {list(output)}, wanted (n, classes, …)")
    batch = _axis(loss, "batch_axis", batch_axis, rank)
    if class_axis is not None:
        class_axis = _axis(loss, "class_axis", class_axis, rank)
        if class_axis == batch:
            raise ValueError(f"{loss}: class_axis and batch_axis are both {batch}, outputs are {list(output)}")
    return _found(loss, tuple(output), tuple(came), class_axis, batch, dense)


@lru_cache(maxsize=256)
def _found(loss: str, output: Shape, came: Shape, class_axis: int | None, batch: int, dense: bool) -> Reading:
    """`of_classes` of axes that there are: each step asks."""
    rank = len(output)
    others = [a for a in range(rank) if a != batch]
    first = 1 if batch != 1 else 0
    axes = [class_axis] if class_axis is not None else [first, *(a for a in others if a != first)]
    if dense and fits(came, [output[a] for a in (batch, *others)]):
        return _reading(axes[0], batch, others, output, False)
    found = [a for a in axes if fits(came, [output[b] for b in (batch, *others) if b != a])]
    if len(found) > 1 and output[found[0]] != 1:
        told = " or ".join(map(str, found))
        raise Misfit(
            f"{loss}: labels {list(came)} fit outputs {list(output)} with classes along axis {told}: give class_axis"
        )
    if not found:
        wanted = f"labels {[output[b] for b in (batch, *others) if b != axes[0]]}"
        if dense:
            wanted += f", or a number for each class {[output[b] for b in (batch, *others)]}"
        where = f" with classes along axis {axes[0]}" if rank > 2 else ""
        raise Misfit(f"{loss}: targets are {list(came)}, outputs {list(output)}{where}: wanted {wanted}")
    return _reading(found[0], batch, others, output, True)


def _reading(axis: int, batch: int, others: list[int], output: Shape, labels: bool) -> Reading:
    rest = [a for a in others if a != axis]
    inner = (0, *(1 + others.index(a) for a in (axis, *rest)))
    wanted = tuple(output[a] for a in ((batch, *rest) if labels else (batch, *others)))
    return Reading((batch, axis, *rest), labels, wanted, inner)


def _axis(loss: str, name: str, axis: Any, rank: int) -> int:
    if not isinstance(axis, (int, np.integer)) or not -rank <= axis < rank:
        raise ValueError(f"{loss}: {name} is {axis!r}, outputs have {rank} axes")
    return int(axis) % rank


def classified(
    to: Adds,
    loss: str,
    output: str,
    targets: str,
    class_axis: int | None = None,
    batch_axis: int = 0,
    *,
    dense: bool = True,
) -> tuple[str, str, bool]:
    """(output as (n, classes, …); targets as int64 labels (n, …), or as numbers of the output's shape and type; whether they
    are labels). See `of_classes`."""
    spec = to.spec(output)
    found = of_classes(loss, spec.shape, to.spec(targets).shape, class_axis, batch_axis, dense=dense)
    output = _turned(to, output, found.order)
    targets = _shaped(to, targets, found.shape)
    if found.labels:
        return output, typed(to, targets, np.dtype(np.int64)), True
    return output, _turned(to, typed(to, targets, spec.dtype), found.inner), False


def alike(to: Adds, loss: str, output: str, targets: str) -> str:
    """Targets as numbers of the output's shape and type. ValueError where they do not fit."""
    wanted, came = to.spec(output), to.spec(targets)
    if not fits(came.shape, wanted.shape):
        raise Misfit(f"{loss}: targets are {list(came.shape)}, outputs {list(wanted.shape)}: wanted one shape")
    return typed(to, _shaped(to, targets, wanted.shape), wanted.dtype)


def typed(to: Adds, name: str, dtype: np.dtype) -> str:
    """The value in another element type, if it has not that one."""
    return name if to.spec(name).dtype == dtype else to.add(Cast(to=number_of(dtype)), name)


def _shaped(to: Adds, name: str, shape: Shape) -> str:
    return name if to.spec(name).shape == shape else to.add(Reshape(), name, to.constant(np.array(shape, np.int64)))


def _turned(to: Adds, name: str, order: Shape) -> str:
    return name if order == tuple(range(len(order))) else to.add(Transpose(perm=order), name)


def per_class(to: Adds, loss: str, name: str, values: Any, spec: Spec, axis: int = 1) -> str:
    """A number for all classes, or one a class, as a constant to broadcast against a value with classes along ``axis``. Of
    these shapes: none, (classes), or (classes, 1, …) and (1, classes, 1, …) as they broadcast. ValueError for others."""
    array = np.asarray(values, spec.dtype)
    if array.size == 1:
        return to.constant(array.reshape(()))
    axis = _axis(loss, "class_axis", axis, spec.rank)
    wide = tuple(d if a == axis else 1 for a, d in enumerate(spec.shape))
    if array.shape not in ((spec.shape[axis],), wide, wide[axis:]):
        raise ValueError(
            f"{loss}: {name} has shape {list(array.shape)}, wanted one number or {spec.shape[axis]}, one a class"
        )
    return to.constant(array.reshape(wide))
