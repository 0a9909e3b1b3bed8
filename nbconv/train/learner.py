"""A model that learns, a step at a time."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nbconv.base.machine import thread_count
from nbconv.edit.deploy import deployed, tail
from nbconv.edit.parameters import Parameter, master, norms, stored
from nbconv.edit.selection import select
from nbconv.graph import Graph, Spec
from nbconv.model import Model
from nbconv.train import building, losses
from nbconv.train.building import LABELS, Built, Recipe
from nbconv.train.memory.planned import planned
from nbconv.train.memory.policy import MemoryPolicy
from nbconv.train.optimizers import SGD, Optimizer
from nbconv.train.schedules import Schedule, constant
from nbconv.train.step import TrainingStep

LOSSES: dict[str, Callable[..., str]] = {
    "cross_entropy": losses.cross_entropy,
    "binary_cross_entropy": losses.binary_cross_entropy,
    "hinge": losses.hinge,
    "multiclass_hinge": losses.multiclass_hinge,
    "mse": losses.mse,
    "l1": losses.l1,
    "huber": losses.huber,
    "dice": losses.dice,
}
"""By name, as `Trainer` takes them; their options are `loss_options`."""


class NonFiniteLoss(ArithmeticError):
    """A step's loss was NaN or infinite; the step changed nothing."""


class Learner:
    """Trains a model's weights, one call of `step` a step; a `Trainer`, which says what the arguments are, adds epochs,
    evaluation and checkpoints."""

    def __init__(
        self,
        model: Model,
        loss: str | Callable[..., str] = "cross_entropy",
        optimizer: Optimizer | None = None,
        trainable: str | Iterable[str] = "all",
        *,
        schedule: Schedule | None = None,
        lr_decay: float = 1.0,
        seed: int = 0,
        memory_mb: float | None = None,
        loss_options: Mapping[str, Any] | None = None,
        output: str = "",
        repair: bool = False,
        bn_momentum: float | None = None,
        threads: int | None = None,
        micro_batch_norm: bool = False,
        steps_per_epoch: int | None = None,
    ) -> None:
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch is {steps_per_epoch}, wanted 1 or more")
        if not 0 < lr_decay <= 1:
            raise ValueError(f"lr_decay is {lr_decay}, wanted a number above 0, at most 1")
        if memory_mb is not None and not memory_mb > 0:
            raise ValueError(f"memory_mb is {memory_mb}, wanted a positive number")
        if bn_momentum is not None and not 0 <= bn_momentum < 1:
            raise ValueError(f"bn_momentum is {bn_momentum}, wanted a share from 0 to below 1")
        self.model, self.optimizer, self.seed, self.memory_mb = model, optimizer or SGD(), int(seed), memory_mb
        self.micro_batch_norm = micro_batch_norm
        self.threads = model.threads if threads is None else thread_count(threads)
        self.schedule: Schedule = schedule or constant()
        self.loss_name = loss if isinstance(loss, str) else getattr(loss, "__name__", "a function")
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}, wanted one of {', '.join(LOSSES)} or a function")
        self.loss_options = dict(loss_options or {})
        function = LOSSES[loss] if isinstance(loss, str) else loss
        self.trainable = trainable if isinstance(trainable, str) else list(trainable)
        self.authored = model.graph
        self.output = output or _one_output(self.authored)
        chosen = select(self.authored, self.trainable, model.frozen, self.output)
        self._authored = tuple(chosen)
        graph, self._back = self.authored, None
        self._state = {p.value: master(p, graph) for p in chosen}
        if repair:
            from nbconv.edit.repair import repaired

            graph, extra, self._back = repaired(graph, chosen)
            self._state.update({p.value: master(p, graph) for p in extra})
            chosen = [*chosen, *extra]
        factors = {p.value: lr_decay**p.depth for p in chosen}
        self.authored_logits = _logits(self.authored, self.output, self.loss_name)
        self.logits = _logits(graph, self.output, self.loss_name)
        self.recipe = Recipe(
            graph,
            self.logits,
            partial(_loss, function, self.loss_options),
            self.optimizer,
            tuple(chosen),
            factors,
            self.seed,
            bn_momentum,
        )
        self._state.update(_statistics(graph, chosen))
        self._state.update(building.initial_state(self.recipe, self._state))
        self._home = None
        if model._device is not None:
            from nbconv.runtime.cuda.device import State

            self._home = State(model._device, self._state)
        self.model.weights.drop()
        self._steps, self.lr_scale = 0, 1.0
        self._epoch: float | None = None
        self.steps_per_epoch = steps_per_epoch
        self._told = False
        self._pending: _Pending | None = None
        self.stop: bool | str = False
        self.run: Any = None
        self.loss_models: dict[tuple, tuple[str, Model]] = {}
        self._works: dict[tuple, _Work] = {}
        self._current: tuple[tuple, Model] | None = None
        self._before: list[Graph] = []
        self._lock = threading.RLock()

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
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.lr * self.lr_scale * self.schedule(self.steps, self.epoch)

    def step(self, x: Any, y: Any, *, budget_ms: float | None = None) -> Any:
        """One step on a batch; its loss, from before the step.

        ``x``: the input, or a dict of inputs by name; ``y``: integer labels (n, …) or what the loss wants. ValueError for
        what does not fit, NonFiniteLoss where the loss is none: then nothing changed. With ``budget_ms`` it works about so
        long and returns None until the step is done: call it again with the same batch (ValueError for another one; a step
        without budget, or `abandon`, gives up what has begun). Schedules by the epoch want ``steps_per_epoch``.
        """
        if self.steps_per_epoch:
            self._epoch = None
        elif self._epoch is None and self.steps and not self._told and (name := getattr(self.schedule, "by_epoch", "")):
            self._told = True
            warnings.warn(
                f"the schedule {name!r} goes by epochs, which a loop of steps does not count: the learning rate stays. "
                "Say Trainer(steps_per_epoch=…), or set trainer.epoch",
                stacklevel=2,
            )
        return self.advance(self._inputs(x), y, self.recipe.graph, budget_ms)

    def advance(
        self,
        feeds: dict[str, np.ndarray],
        y: Any,
        graph: Graph,
        budget_ms: float | None = None,
        then: Callable[[float], None] | None = None,
    ) -> Any:
        """`step` on a graph that begins at the values ``feeds``: the model's, or the part of it behind cached features.
        ``then`` is told the loss when the step is taken, whatever interrupts it; it may be told twice."""
        with self._lock:
            self._settle()
            if budget_ms is not None:
                self._refuse_another(feeds, np.asarray(y))
            work = self._work(feeds, np.asarray(y), graph)
            self._check_labels(np.asarray(y), work.classes)
            given = {**feeds, LABELS: np.ascontiguousarray(y, work.targets)}
            hyper = building.hyper_values(self.recipe, self.lr, self.steps + 1)
            options: dict[str, Any] = {} if budget_ms is None else {"budget_ms": budget_ms}
            for other in self._works.values():
                if other is not work:
                    other.step.abandon()
            found = work.step.prepare(given, hyper, check=partial(self._finite, work.loss), **options)
            if found is None:
                return None
            loss = float(found[work.loss].reshape(()))
            pending = _Pending(work.step, [], self._steps + 1, partial(then, loss) if then else None)
            try:
                self._pending = pending  # from here on the step is taken
                self._settle()
            except BaseException:
                self._settle()
                raise
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

    def abandon(self) -> None:
        """Give up the step that was begun with ``budget_ms``: nothing of it counts."""
        with self._lock:
            for work in self._works.values():
                work.step.abandon()

    def _refuse_another(self, feeds: Mapping[str, np.ndarray], y: np.ndarray) -> None:
        """ValueError for a batch of other shapes than the step under way has."""
        begun = next((key for key, work in self._works.items() if work.step.begun), None)
        if begun is not None and begun != self._key(feeds, y):
            raise ValueError(
                "this batch has other shapes than the one that the step under way began with: call it again with the same "
                "batch until it is done, or give it up (abandon)"
            )

    def _finite(self, name: str, outputs: Mapping[str, np.ndarray]) -> None:
        value = float(outputs[name].reshape(()))
        if not np.isfinite(value):
            raise NonFiniteLoss(
                f"the loss is {value} at step {self.steps + 1}, learning rate {self.lr:g}: the step was not taken"
            )

    def _inputs(self, x: Any) -> dict[str, np.ndarray]:
        if not isinstance(x, Mapping):
            if len(self.model.inputs) != 1:
                raise ValueError(f"the model has {len(self.model.inputs)} inputs: give a dict of arrays by name")
            x = {self.model.inputs[0].name: x}
        return self.model._feeds(x)

    def _check_labels(self, y: np.ndarray, classes: int) -> None:
        if y.dtype.kind not in "iu" or self.loss_name not in ("cross_entropy", "multiclass_hinge", "dice") or not y.size:
            return
        ignored = self.loss_options.get("ignore_index")
        kept = y if ignored is None else y[y != ignored]
        if kept.size and not (kept.min() >= 0 and kept.max() < classes):
            raise ValueError(f"labels from {kept.min()} to {kept.max()}, there are {classes} classes")

    def _work(self, feeds: Mapping[str, np.ndarray], y: np.ndarray, graph: Graph) -> _Work:
        """The step for arrays of these shapes, made when they first come."""
        key, kind = self._key(feeds, y), _kind(y)
        if key not in self._works:
            samples = max((len(a) for a in feeds.values() if a.ndim), default=0)
            if samples == 0:
                raise ValueError("the batch is empty")
            if y.ndim and len(y) != samples:
                raise ValueError(f"{len(y)} targets for {samples} samples")
            specs = {n: Spec(a.shape, a.dtype) for n, a in feeds.items()}
            recipe = self.recipe._replace(graph=graph)
            built, step, policy = planned(
                recipe,
                specs,
                Spec(y.shape, kind),
                self._state,
                self.memory_mb,
                self.micro_batch_norm,
                threads=self.threads,
                drop=self.model.weights.drop,
                home=self._home,
                flush_denormals=self.model.flush_denormals,
                exact=self.model.exact,
            )
            self._works[key] = _Work(step, built.loss, kind, built.classes, built, policy)
            block = max((work.step.block for work in self._works.values()), key=len)
            for work in self._works.values():
                work.step.share(block)
        return self._works[key]

    @staticmethod
    def _key(feeds: Mapping[str, np.ndarray], y: np.ndarray) -> tuple:
        return (*((n, a.shape) for n, a in feeds.items()), y.shape, _kind(y).str)

    @property
    def classes(self) -> int:
        """How many classes the logits have, as the model declares it; 0 where it does not say."""
        spec = self.authored.outputs.get(self.output)
        size = spec.shape[1] if spec is not None and len(spec.shape) > 1 else 0
        return size if isinstance(size, int) else 0

    def forecast(self) -> dict[str, Any]:
        """What the plans of the steps made so far take, in MiB: ``activations_mb`` (with gradients and scratch), and beside
        it ``state_mb``: parameters, statistics and the optimizer's slots. ``micro_batches``: into how many the largest
        step's batch is cut."""
        found = max(self._works.values(), key=lambda work: work.step.memory, default=None)
        state = sum(a.nbytes for a in self._state.values()) / 2**20
        if found is None:
            return {"state_mb": state}
        return {"state_mb": state, "activations_mb": found.step.memory / 2**20, "micro_batches": found.policy.parts}

    def forget(self) -> None:
        """The state was changed from outside: `current` must look again."""
        self._current = None

    # the model that has been learnt

    def training_metadata(self) -> dict[str, Any]:
        """What is written into a saved model's metadata."""
        return {
            "trained": [p.name for p in self.recipe.chosen if p.name in self.authored.constants],
            "steps": self.steps,
            "loss": self.loss_name,
            "optimizer": repr(self.optimizer),
            "seed": self.seed,
        }

    def graph(self) -> Graph:
        """The model as it is now: the authored graph with the weights of the last finished step."""
        with self._lock:
            self._settle()
            if self._home is not None:
                self._home.fetch()
            state = self._state
            if self._back is not None:
                return deployed(self.authored, self._authored, self._back(state), self.training_metadata())
            return deployed(self.authored, self._authored, state, self.training_metadata())

    def current(self, feeds: tuple[str, ...] = (), specs: Mapping[str, Spec] | None = None) -> Model:
        """The model as it is now, to run; with ``feeds`` its part behind these values, of these Specs."""
        with self._lock:
            self._settle()
            key = (self._steps, feeds)
            if self._current is None or self._current[0] != key:
                graph = self.graph()
                if feeds:
                    graph = tail(graph, dict(specs or {}), self.authored_logits)
                self._current = key, self.model._like(graph, self.threads)
            return self._current[1]

    def predict(self, x: Any, batch_size: int = 32) -> np.ndarray:
        """The output for ``x`` (an array, or a dict by name), with the weights as they are now."""
        feeds, model = self._inputs(x), self.current()
        samples = max(len(a) for a in feeds.values())
        parts = [
            model.run({n: a[k : k + batch_size] for n, a in feeds.items()}, [self.output])[self.output]
            for k in range(0, samples, batch_size)
        ]
        return np.concatenate(parts)

    def save(self, path: Any, *, fold: bool = False) -> None:
        """Writes the model as it is now, for inference: see `nbconv.edit.export.save`."""
        from nbconv.edit.export import save

        save(self.graph(), path, self.model._source, fold)

    def commit(self) -> None:
        """Puts the weights as they are now into the model, for the runs that begin from here on."""
        self._before.append(self.model.graph)
        self.model._replace(self.graph())

    def rollback(self) -> None:
        """Takes the last `commit` back. ValueError where there is none."""
        if not self._before:
            raise ValueError("nothing was committed")
        self.model._replace(self._before.pop())


class _Pending(NamedTuple):
    """A step that is taken: what is still to be written."""

    step: TrainingStep
    done: list[Any]
    steps: int
    then: Callable[[], None] | None


class _Work(NamedTuple):
    """A planned step."""

    step: TrainingStep
    loss: str
    targets: np.dtype
    classes: int
    built: Built
    policy: MemoryPolicy


def _kind(y: np.ndarray) -> np.dtype:
    """What targets are for a step: integers or floats."""
    return np.dtype(np.int64) if y.dtype.kind in "iub" else np.dtype(np.float32)


def _loss(function: Callable[..., str], options: Mapping[str, Any], to: Any, logits: str, targets: str) -> str:
    """Adds the loss; cross-entropy of shares of classes is a function of its own."""
    if function is losses.cross_entropy and to.spec(targets).dtype.kind == "f":
        given = {k: v for k, v in options.items() if k in ("weights", "reduction")}
        if options.get("label_smoothing"):
            raise ValueError("label_smoothing wants integer labels: soft labels can be smoothed themselves")
        return losses.soft_cross_entropy(to, logits, targets, **given)
    return function(to, logits, targets, **options)


def _one_output(graph: Graph) -> str:
    if len(graph.outputs) != 1:
        raise ValueError(f"the model has outputs {', '.join(graph.outputs)}: say which is trained, output=…")
    return next(iter(graph.outputs))


def _logits(graph: Graph, output: str, loss: str) -> str:
    """The value the loss is computed of: what goes into a last Softmax, where the loss has a softmax of its own."""
    if output not in graph.outputs:
        raise ValueError(f"the model has no output {output!r}, its outputs are {', '.join(graph.outputs)}")
    ends = {"cross_entropy": ("Softmax", "LogSoftmax"), "dice": ("Softmax", "Sigmoid"), "binary_cross_entropy": ("Sigmoid",)}
    node = graph.producers().get(output)
    return node.inputs[0] if node is not None and node.op.type in ends.get(loss, ()) else output


def _statistics(graph: Graph, chosen: Iterable[Parameter]) -> dict[str, np.ndarray]:
    """The running statistics that will change."""
    found = {}
    made = graph.producers()
    for node in norms(graph, list(chosen)):
        for name in node.inputs[3:5]:
            origin = stored(name, graph, made)
            if origin is None:
                raise ValueError(f"{node.name} (BatchNormalization): its statistics {name!r} are computed, not stored")
            found[name] = master(Parameter(*origin, node, 0), graph)
    return found
