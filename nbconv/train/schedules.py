"""Learning rates over time. A schedule is called with (step, epoch), both from 0, and gives what the optimizer's rate is
multiplied by: epochs may be fractions. One that goes by the epoch says so: its ``by_epoch`` is its name. Formulas are those
of `torch.optim.lr_scheduler`, where it has them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import cos, pi

Schedule = Callable[[int, float], float]


def _by_epoch(name: str, schedule: Schedule) -> Schedule:
    schedule.by_epoch = name  # type: ignore[attr-defined]
    return schedule


def constant(factor: float = 1.0) -> Schedule:
    """Always ``factor``."""
    return lambda step, epoch: factor


def step(every: int | Sequence[int], gamma: float = 0.1) -> Schedule:
    """gamma^(epoch // every) (`StepLR`), or with a list of epochs gamma^(how many of them are past) (`MultiStepLR`)."""
    if isinstance(every, int):
        if every < 1:
            raise ValueError(f"every is {every}, wanted 1 or more epochs")
        return _by_epoch("step", lambda step, epoch: gamma ** (int(epoch) // every))
    milestones = sorted(every)
    return _by_epoch("step", lambda step, epoch: gamma ** bisect_right(milestones, int(epoch)))


def exponential(gamma: float) -> Schedule:
    """gamma^epoch (`ExponentialLR`), of whole epochs."""
    return _by_epoch("exponential", lambda step, epoch: gamma ** int(epoch))


def cosine(epochs: float, least: float = 0.0) -> Schedule:
    """least + (1 - least) · (1 + cos(π · epoch / epochs)) / 2 (`CosineAnnealingLR`; Loshchilov and Hutter 2017), from step
    to step; after ``epochs`` it stays ``least``."""
    if not epochs > 0:
        raise ValueError(f"epochs is {epochs}, wanted a number above 0")
    return _by_epoch("cosine", lambda step, epoch: least + (1 - least) * (1 + cos(pi * min(epoch / epochs, 1.0))) / 2)


def warm_up(steps: int, then: Schedule | None = None, start: float = 0.0) -> Schedule:
    """From ``start`` to 1 in a straight line over ``steps`` steps (Goyal 2017, section 2.2), times ``then``."""

    def factor(step: int, epoch: float) -> float:
        rising = 1.0 if step >= steps else start + (1 - start) * step / steps
        return rising * (then(step, epoch) if then else 1.0)

    return _by_epoch(then.by_epoch, factor) if hasattr(then, "by_epoch") else factor  # type: ignore[union-attr]


def one_cycle(steps: int, rise: float = 0.3, start: float = 25.0, end: float = 1e4) -> Schedule:
    """From 1 / start up to 1 over the share ``rise`` of ``steps``, then down to 1 / (start · end), by cosines, as
    `OneCycleLR` (Smith and Topin 2018): the optimizer's rate is the highest."""
    if steps < 2 or not 0 < rise < 1:
        raise ValueError(f"steps is {steps} and rise {rise}, wanted 2 or more steps and a share between 0 and 1")
    top = rise * steps - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + cos(pi * share))

    def factor(step: int, epoch: float) -> float:
        if step <= top:
            return between(1 / start, 1.0, step / top)
        return between(1.0, 1 / start / end, min((step - top) / (steps - 1 - top), 1.0))

    return factor


NAMES = ("constant", "cosine", "warm_up_cosine", "step", "exponential", "one_cycle", "plateau")


class Named:
    """A schedule by its name, over the epochs of `fit`, which says how many these are: "cosine" falls to 0 at the end, and
    "warm_up_cosine" rises over the first twentieth of the steps before; "step" falls to a tenth after each third;
    "exponential" to a hundredth at the end; "one_cycle" rises and falls over all steps; "plateau" is `Plateau` with its
    defaults. ValueError for other names."""

    def __init__(self, name: str) -> None:
        if name not in NAMES:
            raise ValueError(
                f"schedule is {name!r}, wanted one of {', '.join(NAMES)}, or a function of nbconv.train.schedules"
            )
        self.name = name

    def over(self, epochs: int, steps: int) -> Schedule:
        """The schedule for so many epochs, of so many steps each (0: not known)."""
        if self.name in ("one_cycle", "warm_up_cosine") and not steps:
            raise ValueError(f"schedule {self.name!r} goes over all steps, and an iterable does not say how many it has")
        made: dict[str, Callable[[], Schedule]] = {
            "constant": constant,
            "cosine": lambda: cosine(epochs),
            "warm_up_cosine": lambda: warm_up(max(epochs * steps // 20, 1), cosine(epochs)),
            "step": lambda: step(max(-(-epochs // 3), 1)),
            "exponential": lambda: exponential(0.01 ** (1 / epochs)),
            "one_cycle": lambda: one_cycle(max(epochs * steps, 2)),
            "plateau": Plateau,
        }
        return made[self.name]()

    def __call__(self, step: int, epoch: float) -> float:
        raise ValueError(
            f"schedule {self.name!r}, a name, goes over the epochs of fit: give a loop of steps a function of "
            "nbconv.train.schedules"
        )


class Plateau:
    """Multiplies by ``factor`` where a value has not become better for ``patience`` epochs (`ReduceLROnPlateau`): better
    means lower (``mode`` "min") or higher ("max") by the share ``threshold``. `seen` is told the value each epoch."""

    def __init__(
        self, factor: float = 0.1, patience: int = 10, mode: str = "min", threshold: float = 1e-4, least: float = 0.0
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}, wanted 'min' or 'max'")
        self.factor, self.patience, self.mode, self.threshold, self.least = factor, patience, mode, threshold, least
        self.scale, self.best, self.bad = 1.0, None, 0

    def __call__(self, step: int, epoch: float) -> float:
        return self.scale

    def seen(self, value: float) -> bool:
        """Takes an epoch's value; whether the rate was lowered."""
        if self._better(value):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.bad <= self.patience:
            return False
        self.bad = 0
        lower = max(self.scale * self.factor, self.least)
        changed, self.scale = lower < self.scale, lower
        return changed

    def _better(self, value: float) -> bool:
        if self.best is None:
            return value == value
        if self.mode == "min":
            return value < self.best * (1 - self.threshold)
        return value > self.best * (1 + self.threshold)

    def state(self) -> dict[str, float | int | None]:
        return {"scale": self.scale, "best": self.best, "bad": self.bad}

    def restore(self, state: dict) -> None:
        self.scale, self.best, self.bad = state["scale"], state["best"], state["bad"]
