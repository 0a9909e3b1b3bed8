"""A model that learns, a step at a time."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nbconv.base.machine import thread_count
from nbconv.edit.head import find_head
from nbconv.edit.meaning import Meaning
from nbconv.edit.parameters import Parameter, master
from nbconv.edit.selection import KINDS, select
from nbconv.graph import Graph
from nbconv.model import Model
from nbconv.train import auto, updates
from nbconv.train.building import Built
from nbconv.train.checks import check
from nbconv.train.choosing import Choice
from nbconv.train.gathering import Gathered
from nbconv.train.goals import Goal, by_goal, goals_of, total
from nbconv.train.learnt import ended
from nbconv.train.optimizers import SGD, Optimizer
from nbconv.train.readings import Misfit
from nbconv.train.recipe import Recipe
from nbconv.train.schedules import Named, Schedule, constant
from nbconv.train.step import TrainingStep
from nbconv.train.targets import Targets
from nbconv.train.unchanged import Watch, nonfinite, reason
from nbconv.train.works import Work, Working


class NonFiniteLoss(ArithmeticError):
    """A step's loss was NaN or infinite; the step changed nothing."""


class Learner(Working):
    """Trains a model's weights, one call of `step` a step; a `Trainer`, which says what the arguments are, adds epochs,
    evaluation and checkpoints."""

    def __init__(
        self,
        model: Model,
        loss: Any = "cross_entropy",
        optimizer: Optimizer | None = None,
        trainable: str | Iterable[str] = "all",
        *,
        schedule: Schedule | str | None = None,
        lr_decay: float = 1.0,
        seed: int = 0,
        memory_mb: float | None = None,
        loss_options: Mapping[str, Any] | None = None,
        loss_weights: Mapping[Any, float] | None = None,
        output: str = "",
        repair: bool = False,
        adapters: int | None = None,
        bn_momentum: float | None = None,
        threads: int | None = None,
        micro_batch_norm: bool = False,
        step_ms: float | None = None,
        steps_per_epoch: int | None = None,
        ema: float | None = None,
        accumulate: int = 1,
    ) -> None:
        if accumulate < 1 or accumulate != int(accumulate):
            raise ValueError(f"accumulate is {accumulate}, wanted how many batches a step takes, 1 or more")
        if ema is not None and not 0 <= ema < 1:
            raise ValueError(f"ema is {ema}, wanted a share from 0 to below 1, such as 0.999")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch is {steps_per_epoch}, wanted 1 or more")
        if not 0 < lr_decay <= 1:
            raise ValueError(f"lr_decay is {lr_decay}, wanted a number above 0, at most 1")
        if memory_mb is not None and not memory_mb > 0:
            raise ValueError(f"memory_mb is {memory_mb}, wanted a positive number")
        auto.check(trainable, memory_mb, step_ms, repair)
        if bn_momentum is not None and not 0 <= bn_momentum < 1:
            raise ValueError(f"bn_momentum is {bn_momentum}, wanted a share from 0 to below 1")
        if adapters is not None and (repair or trainable == "auto"):
            raise ValueError("adapters want to know which weights train, as they are: not with 'auto' or repair=True")
        self.model, self.optimizer, self.seed, self.memory_mb = model, optimizer or SGD(), int(seed), memory_mb
        self.micro_batch_norm = micro_batch_norm
        self.threads = model.threads if threads is None else thread_count(threads)
        self.schedule: Schedule = Named(schedule) if isinstance(schedule, str) else schedule or constant()
        self.trainable = trainable if isinstance(trainable, str) else list(trainable)
        self.authored = model.graph
        self.goals = goals_of(loss, loss_options, loss_weights, self.authored, output)
        self.outputs = tuple(dict.fromkeys(n for goal in self.goals for n in goal.outputs))
        self.step_ms, self._limit = step_ms, memory_mb
        self.chosen: Choice | None = None
        self.undecided = self.trainable == "auto"
        begin = "head" if self.undecided else self.trainable
        chosen = _chosen(self.authored, begin, model.frozen, self.outputs)
        self._authored = tuple(chosen)
        graph, self._back = self.authored, None
        self._state = {p.value: master(p, graph) for p in chosen}
        if repair:
            from nbconv.edit.repair import repaired

            graph, extra, self._back = repaired(graph, chosen)
            self._state.update({p.value: master(p, graph) for p in extra})
            chosen = [*chosen, *extra]
        if adapters is not None:
            from nbconv.edit.adapters import adapted

            graph, chosen, bases, self._back = adapted(graph, chosen, adapters, _heads(graph, self.outputs), self.seed)
            self._state = {**{p.value: master(p, graph) for p in chosen}, **bases}
        graph = ended(graph, self.goals)
        self.lr_decay = lr_decay
        factors = {p.value: lr_decay**p.depth for p in chosen}
        self.logits = tuple(dict.fromkeys(n for goal in self.goals for n in goal.logits))
        self.recipe = Recipe(
            graph,
            self.logits,
            partial(total, self.goals),
            self.optimizer,
            tuple(chosen),
            factors,
            self.seed,
            bn_momentum,
            ema,
        )
        self._begin()
        self._steps, self.lr_scale = 0, 1.0
        self.named_schedule: Named | None = None
        self.meaning, self.measured = Meaning(), (-1, {})
        self._epoch: float | None = None
        self.steps_per_epoch = steps_per_epoch
        self.accumulate = int(accumulate)
        self._gathered = Gathered(self.goals, self.accumulate)
        self._warned_of_epochs = False
        self._pending: _Pending | None = None
        self.stop: bool | str = False
        self.run: Any = None
        self.loss_models: dict[tuple, tuple[str, Model]] = {}
        self._warned: set[Any] = set()
        self._tells: tuple = ()
        self._current: tuple[tuple, Model] | None = None
        self._before: list[Graph] = []
        self._lock = threading.RLock()

    def _begin(self) -> None:
        """The rest of the state of what trains, for none of which a step is planned."""
        self._state.update(updates.statistics(self.recipe.graph, self.recipe.chosen))
        self._state.update(updates.initial_state(self.recipe, self._state))
        self._home = None
        if self.model._device is not None:
            from nbconv.runtime.cuda.device import State

            self._home = State(self.model._device, self._state)
        self._watch = Watch(self._state, [p.value for p in self.recipe.chosen]) if self._home is None else None
        self.model.weights.drop()
        self._works: dict[tuple, Work] = {}

    def choose(self, x: Any, y: Any, rows: int = 0) -> Choice | None:
        """With ``trainable="auto"``, what trains, chosen on this batch; the first `step` or `fit` does it on its own. None
        where there is nothing to choose. Where it was chosen before, that. ``rows``: samples of each batch, where this one
        is several (``accumulate``)."""
        if self.undecided:
            with self._lock:
                auto.decide(self, self._inputs(x), by_goal(self.goals, y), rows)
        return self.chosen

    @property
    def state(self) -> dict[str, np.ndarray]:
        """Parameters, running statistics and the optimizer's slots, by name, as the last step left them. They may be written
        to (then call `forget`); where the model runs on a GPU, asking for them copies them from it, and back before the next
        step."""
        self._settle()
        if self._home is not None:
            self._home.touched()
        return self._state

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What trains."""
        return self.recipe.chosen

    @property
    def steps(self) -> int:
        """How many steps were taken; of them is the state."""
        self._settle()
        return self._steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._settle()
        self._steps = value

    @property
    def epoch(self) -> float:
        """How many epochs are done, in fractions, for schedules: what `fit` or the caller last said it is, else the steps
        over ``steps_per_epoch``."""
        if self._epoch is None:
            return self.steps / self.steps_per_epoch if self.steps_per_epoch else 0.0
        return self._epoch

    @epoch.setter
    def epoch(self, value: float) -> None:
        self._epoch = value

    @property
    def output(self) -> str:
        """The output that is trained; the first, where there are several."""
        return self.outputs[0]

    @property
    def loss_options(self) -> Mapping[str, Any]:
        """The options of the loss; of the first, where there are several."""
        return self.goals[0].options

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.lr * self.lr_scale * self.schedule(self.steps, self.epoch)

    def step(self, x: Any, y: Any, *, budget_ms: float | None = None) -> Any:
        """One step on a batch; its loss, from before the step.

        ``x``: the input, or a dict of inputs by name; ``y``: integer labels (n, …) or what the loss wants, a dict by output
        where there are several losses. ValueError for what does not fit, NonFiniteLoss where the loss is none: then nothing
        changed. With ``budget_ms`` it works about so long and returns None until the step is done: call it again with the
        same batch (ValueError for another one; a step without budget, or `abandon`, gives up what has begun). Schedules by
        the epoch want ``steps_per_epoch``. With ``accumulate`` batches are kept, and None returned, until there are so many;
        the step is then one on all of them.
        """
        if self.steps_per_epoch:
            self._epoch = None
        elif (
            self._epoch is None
            and self.steps
            and not self._warned_of_epochs
            and (name := getattr(self.schedule, "by_epoch", ""))
        ):
            self._warned_of_epochs = True
            warnings.warn(
                f"the schedule {name!r} goes by epochs, which a loop of steps does not count: the learning rate stays. "
                "Say Trainer(steps_per_epoch=…), or set trainer.epoch",
                stacklevel=2,
            )
        if self.accumulate > 1:
            return self._gather(self._inputs(x), y, budget_ms)
        return self.advance(self._inputs(x), y, self.recipe.graph, budget_ms)

    def _gather(self, feeds: dict[str, np.ndarray], y: Any, budget_ms: float | None) -> Any:
        """Keeps a batch, and takes the step where it is the last one that it wants."""
        with self._lock:
            whole = self._gathered.whole(feeds, y)
            if whole is None:
                return None
            try:
                loss = self.advance(*whole[:2], self.recipe.graph, budget_ms, rows=whole[2])
            except NonFiniteLoss:
                self._gathered.clear()
                raise
            if loss is not None:
                self._gathered.clear()
            return loss

    def advance(
        self,
        feeds: dict[str, np.ndarray],
        y: Any,
        graph: Graph,
        budget_ms: float | None = None,
        then: Callable[[float, Told], None] | None = None,
        rows: int = 0,
    ) -> Any:
        """`step` on a graph that begins at the values ``feeds``: the model's, or the part of it behind cached features.
        ``then`` is told the loss, and what `tell` asked for, when the step is taken, whatever interrupts it; it may be told
        twice. ``rows``: samples of each batch that this one was gathered from."""
        with self._lock:
            self._settle()
            targets = by_goal(self.goals, y)
            if self.undecided:
                auto.decide(self, feeds, targets, rows)
            if budget_ms is not None:
                self._refuse_another(self._key(feeds, targets, rows))
            work = self._work(feeds, targets, graph, rows)
            for goal in self.goals:
                self._check(goal, targets[goal.targets], work.built.shapes[goal.logits[-1]])
            given = {**feeds, **targets}
            hyper = updates.hyper_values(self.recipe, self.lr, self.steps + 1)
            options: dict[str, Any] = {} if budget_ms is None else {"budget_ms": budget_ms}
            for other in self._works.values():
                if other is not work:
                    other.step.abandon()
            held = self._watch.before(budget_ms is not None) if self._watch and self.lr else {}
            found = work.step.prepare(given, hyper, check=partial(self._finite, work.built, given, hyper), **options)
            if found is None:
                return None
            loss = float(found[work.built.loss].reshape(()))
            told = {name: found[value] for name, value in work.built.told.items()} if then else {}
            pending = _Pending(
                work.step,
                [],
                self._steps + 1,
                partial(then, loss, Told(targets, told, work.built.shapes)) if then else None,
            )
            try:
                self._pending = pending  # from here on the step is taken
                self._settle()
            except BaseException:
                self._settle()
                raise
            if self._watch:
                like = partial(self.model._like, threads=self.threads)
                self._watch.after(held, lambda: reason(work.built, {**given, **hyper, **self._state}, like, self.lr))
            return loss

    def _settle(self) -> None:
        """Finish the step that Ctrl-C interrupted while it wrote the state: state and counters are then of one step."""
        if self._pending is None:
            return
        with self._lock:
            pending = self._pending
            if pending is None:
                return
            pending.step.write(pending.done)
            self._steps = pending.steps
            if pending.then is not None:
                pending.then()
            self._pending = None

    def _finite(
        self, built: Built, given: Mapping[str, np.ndarray], hyper: Mapping[str, Any], outputs: Mapping[str, np.ndarray]
    ) -> None:
        """NonFiniteLoss where the loss or the norm of gradients is none, with what it may come from."""
        value = float(outputs[built.loss].reshape(()))
        if np.isfinite(value) and (not built.norm or np.isfinite(outputs[built.norm])):
            return
        told = f"at step {self.steps + 1}, learning rate {self.lr:g}: the step was not taken"
        if self._home is None:
            like = partial(self.model._like, threads=self.threads)
            why = nonfinite(built, {**given, **hyper, **self._state}, like, np.isfinite(value))
            why = why if self.steps or np.isfinite(value) else ""  # the first loss is what it is at any rate
            raise NonFiniteLoss(f"the loss is {value} {told}{why}" if not np.isfinite(value) else f"{why} {told}")
        raise NonFiniteLoss(f"the loss is {value} {told}" if not np.isfinite(value) else f"gradients are not finite {told}")

    def expect(self, y: Any) -> None:
        """Looks at all targets before the first step, as far as the model's declared outputs tell what they must be; at the
        others as they come. ValueError says what is wrong."""
        arrays = y.arrays.values() if isinstance(y, Targets) else (np.asarray(y),)
        if any(a.dtype.kind not in "iubf" for a in arrays):
            return
        for goal, targets in zip(self.goals, by_goal(self.goals, y).values(), strict=True):
            spec = self.authored.outputs.get(goal.outputs[-1])
            sizes = spec.shape[1:] if spec is not None and spec.ranked and targets.ndim else ()
            if sizes and all(isinstance(d, int) for d in sizes):
                with contextlib.suppress(Misfit):
                    self._check(goal, targets, (len(targets), *sizes))

    def _check(self, goal: Goal, y: np.ndarray, shape: tuple[int, ...]) -> None:
        """`checks.check`; what it tells of a loss's targets is warned of once."""
        told = check(goal, y, shape)
        if told and goal.key not in self._warned:
            self._warned.add(goal.key)
            warnings.warn(told, stacklevel=4)


class Told(NamedTuple):
    """What a step tells beside its loss: targets as `by_goal` has them, what `tell` asked for by name, and the logits'
    shapes."""

    targets: Mapping[str, np.ndarray]
    found: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]


class _Pending(NamedTuple):
    """A step that is taken: what is still to be written."""

    step: TrainingStep
    done: list[Any]
    steps: int
    then: Callable[[], None] | None


def _chosen(graph: Graph, trainable: str | list[str], frozen: frozenset[str], outputs: tuple[str, ...]) -> list[Parameter]:
    """The parameters that train; "head" is the heads of all outputs that are trained, which "bias" and "norm" have, too."""
    if not isinstance(trainable, str) or trainable not in ("head", *KINDS):
        return select(graph, trainable, frozen)
    found = {p.value: p for name in outputs for p in select(graph, trainable, frozen, name)}
    return list(found.values())


def _heads(graph: Graph, outputs: tuple[str, ...]) -> set[str]:
    """The weights of the outputs' heads, as far as they have one."""
    found = set()
    for name in outputs:
        with contextlib.suppress(ValueError):
            found.add(find_head(graph, name).weight)
    return found
