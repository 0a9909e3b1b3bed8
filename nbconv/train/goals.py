"""What is to be made small: a loss for one output of a model, or several of them, added up."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nbconv.edit.detector import MOVES, SCORES
from nbconv.edit.ends import Ending, ending
from nbconv.edit.head import class_axis
from nbconv.graph import Graph, Node, Spec
from nbconv.ops.pointwise import Add, Mul
from nbconv.ops.shape import Unsqueeze
from nbconv.train import box_losses, class_losses, losses
from nbconv.train.readings import Reading, of_classes
from nbconv.train.recipe import LABELS
from nbconv.train.targets import Targets, Weighted

Key = str | tuple[str, ...]
WEIGHTS = "hyper/weights"
"""The input of a step's graph that holds a weight a sample, where there are."""

LOSSES: dict[str, Callable[..., str]] = {
    "cross_entropy": class_losses.cross_entropy,
    "binary_cross_entropy": losses.binary_cross_entropy,
    "hinge": losses.hinge,
    "multiclass_hinge": class_losses.multiclass_hinge,
    "mse": losses.mse,
    "l1": losses.l1,
    "huber": losses.huber,
    "dice": class_losses.dice,
    "focal": class_losses.focal,
    "binary_focal": losses.binary_focal,
    "ctc": losses.ctc,
    "smooth_l1": box_losses.smooth_l1,
    "iou": box_losses.iou,
    "ssd": box_losses.ssd,
    "fcos": box_losses.fcos,
}
"""By name, as `Trainer` takes them; their options are `loss_options`."""
ACTIVATIONS: dict[Callable[..., str], str] = {
    class_losses.cross_entropy: "softmax",
    class_losses.soft_cross_entropy: "softmax",
    class_losses.focal: "softmax",
    losses.binary_cross_entropy: "sigmoid",
    losses.binary_focal: "sigmoid",
    losses.ctc: "softmax",
    box_losses.ssd: "softmax",
    box_losses.fcos: "sigmoid",
    class_losses.dice: "",
}
"""The activation that a loss has itself, so that a last one of the model is left out; "" for either. Of a head's loss it is
that of the scores, the last output."""
HEADS = (box_losses.ssd, box_losses.fcos)
"""The losses of two outputs of a detector."""
CLASSES: dict[Callable[..., str], bool] = {
    class_losses.cross_entropy: True,
    class_losses.soft_cross_entropy: True,
    class_losses.dice: True,
    class_losses.focal: False,
    class_losses.multiclass_hinge: False,
}
"""The losses that have ``class_axis`` and ``batch_axis``, and whether they take a number for each class beside labels."""


class Goal(NamedTuple):
    """A loss of one output, or of several at once (``outputs``), and the values that it is computed of (``logits``)."""

    outputs: tuple[str, ...]
    logits: tuple[str, ...]
    nodes: tuple[Node, ...]
    """what makes the logits, where the model does not: see `nbconv.edit.ends.Ending`"""
    name: str
    function: Callable[..., str]
    options: Mapping[str, Any]
    axis: int | None
    """the classes' axis as the model tells it, see `nbconv.edit.head.class_axis`"""
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
        options = dict(self.options)
        if self.function in CLASSES and len(logits) == 1:
            options["class_axis"] = self.reading(to.spec(logits[0]).shape, to.spec(self.targets).shape).axis
            if self._squeezed:
                given = to.add(Unsqueeze(), given, to.constant(np.array([1], np.int64)))
        elif self.function is losses.binary_cross_entropy and self.axis and {"weights", "pos_weight"} & options.keys():
            options.setdefault("class_axis", self.axis)
        if WEIGHTS in to.specs:
            if "sample_weights" not in inspect.signature(self.function).parameters:
                raise ValueError(f"the loss {self.name} takes no sample weights")
            options["sample_weights"] = WEIGHTS
        return self.function(to, given, self.targets, **options)

    @property
    def _squeezed(self) -> bool:
        """Whether outputs are pictures of one class, whose axis the model has squeezed away."""
        return self.function is class_losses.dice and self.axis == 0 and "class_axis" not in self.options

    def reading(self, output: tuple[int, ...], targets: tuple[int, ...]) -> Reading:
        """How a loss of classes reads targets of this shape. What the model tells is taken where targets fit it; labels that
        fit another axis alone are read so."""
        given, batch = self.options.get("class_axis"), self.options.get("batch_axis", 0)
        dense = CLASSES.get(self.function, True)
        output = (*output[:1], 1, *output[1:]) if self._squeezed else output
        axis = self.axis if given is None else given
        if given is None and axis is not None and -len(output) <= axis < len(output) and axis % len(output) != batch:
            try:
                return of_classes(self.name, output, targets, axis, batch, dense=dense)
            except ValueError:
                axis = None
        return of_classes(self.name, output, targets, given, batch, dense=dense)


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
    loss: Any, options: Mapping[str, Any] | None, weights: Mapping[Any, float] | None, graph: Graph, output: str
) -> tuple[Goal, ...]:
    """The goals of a `Trainer`'s arguments. ValueError for arguments that make no sense, and for an output of which a loss
    with an activation of its own cannot have the logits."""
    if not isinstance(loss, Mapping):
        if weights is not None:
            raise ValueError("loss_weights goes with a loss by output: loss={'out': 'mse', …}")
        loss = {output or _usual(graph, loss): (loss, options or {})}
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
        feed = LABELS if len(wanted) == 1 else f"{LABELS}/{i}"
        found.append(_goal(graph, names, *_function(given), float(factors.get(names, 1.0)), feed))
    return tuple(found)


def _goal(
    graph: Graph,
    outputs: tuple[str, ...],
    name: str,
    function: Callable[..., str],
    options: dict[str, Any],
    weight: float,
    feed: str,
) -> Goal:
    for output in outputs:
        if output not in graph.outputs and output not in graph.producers():
            raise ValueError(f"the model has no output {output!r}, its outputs are {', '.join(graph.outputs)}")
    own = ACTIVATIONS.get(function)
    ends = [None if own is None or (function in HEADS and n != outputs[-1]) else ending(graph, n, own) for n in outputs]
    logits = tuple(n if end is None else end.logits for n, end in zip(outputs, ends, strict=True))
    nodes = tuple(node for end in ends if end is not None for node in end.nodes)
    axis = None
    if (function in CLASSES or function is losses.binary_cross_entropy) and len(outputs) == 1:
        end = ends[0] if ends else None
        if end is not None:
            _tell(end, name, own or "", outputs[0])
            axis = end.axis
        axis = class_axis(graph, outputs[0]) if axis is None else axis
        if function is class_losses.dice and end is not None:
            options.setdefault("activation", end.kind)
    elif own:
        for end, output in zip(ends, outputs, strict=True):
            if end is not None:
                _tell(end, name, own, output)
    return Goal(outputs, logits, nodes, name, function, options, axis, weight, feed)


def _tell(end: Ending, loss: str, own: str, output: str) -> None:
    """Warns of an activation that is not the loss's, and of what stands behind it and does not commute with it."""
    if own and end.kind != own:
        other = "binary_cross_entropy" if end.kind == "sigmoid" else "cross_entropy"
        warnings.warn(
            f"output {output!r} ends in {end.node.name} ({end.node.op.type}), and {loss} has a {own} of its own: it is "
            f"computed of what goes into {end.node.name}; {other} is the loss that fits the model",
            stacklevel=5,
        )
    if end.blurred is not None:
        warnings.warn(
            f"{loss} is computed of logits that went through {end.blurred.name} ({end.blurred.op.type}), the model's output "
            f"of the {end.kind} {end.node.name} that did: near edges they differ",
            stacklevel=5,
        )


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


def _usual(graph: Graph, loss: Any) -> Key:
    """Which output a loss is of, where none is named: the one there is, or what makes a detector's outputs."""
    if loss in ("ssd", box_losses.ssd) and {MOVES, SCORES} <= graph.producers().keys():
        return MOVES, SCORES
    if len(graph.outputs) != 1:
        names = ", ".join(graph.outputs)
        raise ValueError(f"the model has outputs {names}: say which is trained, output=… or loss={{'name': …}}")
    return next(iter(graph.outputs))


def by_goal(goals: tuple[Goal, ...], y: Any) -> dict[str, np.ndarray]:
    """Targets by the inputs that hold them, labels as int64 and others as float32. ``y``: an array, or with several goals a
    dict by output; with weights, `Weighted`. ValueError for what does not fit."""
    if isinstance(y, Weighted):
        return {**by_goal(goals, y.targets), WEIGHTS: y.weights}
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
