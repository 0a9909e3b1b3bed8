"""What is to be made small: a loss for one output of a model, or several of them, added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nbconv.graph import Graph, Spec
from nbconv.ops.pointwise import Add, Mul
from nbconv.train import box_losses, losses
from nbconv.train.building import LABELS
from nbconv.train.targets import Targets

Key = str | tuple[str, ...]


class Goal(NamedTuple):
    """A loss of one output, or of several at once (``outputs``), and the values that it is computed of (``logits``)."""

    outputs: tuple[str, ...]
    logits: tuple[str, ...]
    name: str
    function: Callable[..., str]
    options: Mapping[str, Any]
    weight: float
    targets: str
    """the input of a step's graph that holds its targets"""

    @property
    def key(self) -> Key:
        """What targets are found by."""
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs

    @property
    def title(self) -> str:
        """What results of its own begin with."""
        return "+".join(self.outputs)

    def loss(self, to: Any, values: Mapping[str, str]) -> str:
        """Adds the loss; ``values`` renames logits. A function of several outputs gets a tuple of names."""
        logits = tuple(values.get(n, n) for n in self.logits)
        given: Any = logits[0] if len(logits) == 1 else logits
        function, options = self.function, dict(self.options)
        if function is losses.cross_entropy and to.spec(self.targets).dtype.kind == "f":
            function, options = losses.soft_cross_entropy, _soft(options)
        return function(to, given, self.targets, **options)


def _soft(options: Mapping[str, Any]) -> dict[str, Any]:
    """Cross-entropy of shares of classes is a function of its own."""
    if options.get("label_smoothing"):
        raise ValueError("label_smoothing wants integer labels: soft labels can be smoothed themselves")
    return {k: v for k, v in options.items() if k in ("weights", "reduction")}


def total(goals: tuple[Goal, ...], to: Any, values: Mapping[str, str]) -> str:
    """Adds all losses, each times its weight, and their sum."""
    found = ""
    for goal in goals:
        part = goal.loss(to, values)
        if to.spec(part).size != 1:
            raise ValueError(f"the loss {goal.name} is {to.spec(part)}, wanted a scalar")
        if goal.weight != 1:
            part = to.add(Mul(), part, to.constant(np.array(goal.weight, to.spec(part).dtype)))
        found = to.add(Add(), found, part) if found else part
    return found


def goals_of(
    loss: Any,
    options: Mapping[str, Any] | None,
    weights: Mapping[Any, float] | None,
    graph: Graph,
    output: str,
    logits: Callable[[Graph, str, str], str],
) -> tuple[Goal, ...]:
    """The goals of a `Trainer`'s arguments. ``logits`` (graph, output, name of the loss) finds what the loss is computed
    of. ValueError for arguments that make no sense."""
    if not isinstance(loss, Mapping):
        if weights is not None:
            raise ValueError("loss_weights goes with a loss by output: loss={'out': 'mse', …}")
        loss = {output or _one_output(graph): (loss, options or {})}
    elif not loss:
        raise ValueError("loss is an empty dict, wanted a loss by output")
    elif options or output:
        what = "loss_options" if options else "output"
        raise ValueError(f"{what} goes with a single loss; by output: loss={{'out': ('cross_entropy', {{…}})}}")
    wanted = [_outputs(key) for key in loss]
    factors = {_outputs(key): value for key, value in (weights or {}).items()}
    for names, value in factors.items():
        if names not in wanted:
            raise ValueError(f"loss_weights names {', '.join(names)!r}, losses are for {_told(wanted)}")
        if not (np.ndim(value) == 0 and np.isfinite(value) and value >= 0):
            raise ValueError(f"the weight of {', '.join(names)!r} is {value!r}, wanted a number, 0 or more")
    found = []
    for i, (names, given) in enumerate(zip(wanted, loss.values(), strict=True)):
        name, function, more = _function(given)
        ends = tuple(logits(graph, n, name) for n in names)
        feed = LABELS if len(wanted) == 1 else f"{LABELS}/{i}"
        found.append(Goal(names, ends, name, function, more, float(factors.get(names, 1.0)), feed))
    return tuple(found)


def _outputs(key: Any) -> tuple[str, ...]:
    names: Any = (key,) if isinstance(key, str) else key
    if not isinstance(names, tuple) or not names or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"a loss is for {key!r}, wanted the name of an output or a tuple of names")
    return names


def _told(keys: list[tuple[str, ...]]) -> str:
    return ", ".join(repr(k[0] if len(k) == 1 else k) for k in keys)


def _function(given: Any) -> tuple[str, Callable[..., str], dict[str, Any]]:
    """(name, function, options) of a loss as it is given."""
    options: Mapping[str, Any] = {}
    if isinstance(given, tuple):
        if len(given) != 2 or not isinstance(given[1], Mapping):
            raise ValueError(f"loss is {given!r}, wanted a pair of a loss and a dict of its options")
        given, options = given
    if isinstance(given, str):
        if given not in LOSSES:
            raise ValueError(f"loss is {given!r}, wanted one of {', '.join(LOSSES)} or a function")
        return given, LOSSES[given], dict(options)
    if not callable(given):
        raise ValueError(f"loss is {given!r}, wanted one of {', '.join(LOSSES)} or a function")
    function: Any = given
    return getattr(given, "__name__", "a function"), function, dict(options)


def _one_output(graph: Graph) -> str:
    if len(graph.outputs) != 1:
        names = ", ".join(graph.outputs)
        raise ValueError(f"the model has outputs {names}: say which is trained, output=… or loss={{'name': …}}")
    return next(iter(graph.outputs))


def by_goal(goals: tuple[Goal, ...], y: Any) -> dict[str, np.ndarray]:
    """Targets by the inputs that hold them, labels as int64 and others as float32. ``y``: an array, or with several goals a
    dict by output. ValueError for what does not fit."""
    given: Any = y.arrays if isinstance(y, Targets) else y
    if not isinstance(given, Mapping):
        if len(goals) > 1:
            raise ValueError(f"there are losses for {_told([g.outputs for g in goals])}: targets are a dict by these names")
        given = {next(iter(goals)).key: given}
    wanted = {goal.key: goal for goal in goals}
    if set(given) != set(wanted):
        got = ", ".join(map(repr, given)) or "nothing"
        raise ValueError(f"targets are for {got}, losses for {_told([g.outputs for g in goals])}")
    return {goal.targets: _typed(goal, np.asarray(given[goal.key])) for goal in goals}


def _typed(goal: Goal, y: np.ndarray) -> np.ndarray:
    if y.dtype.kind not in "iubf":
        raise ValueError(f"targets of {goal.name} are {y.dtype}, wanted integers (labels) or floats")
    return np.ascontiguousarray(y, np.int64 if y.dtype.kind in "iub" else np.float32)


def specs_of(targets: Mapping[str, np.ndarray]) -> dict[str, Spec]:
    """The Specs of what `by_goal` gave."""
    return {name: Spec(a.shape, a.dtype) for name, a in targets.items()}


LOSSES: dict[str, Callable[..., str]] = {
    "cross_entropy": losses.cross_entropy,
    "binary_cross_entropy": losses.binary_cross_entropy,
    "hinge": losses.hinge,
    "multiclass_hinge": losses.multiclass_hinge,
    "mse": losses.mse,
    "l1": losses.l1,
    "huber": losses.huber,
    "dice": losses.dice,
    "ctc": losses.ctc,
    "smooth_l1": box_losses.smooth_l1,
    "iou": box_losses.iou,
    "ssd": box_losses.ssd,
    "fcos": box_losses.fcos,
}
"""By name, as `Trainer` takes them; their options are `loss_options`."""
