"""Optimizers: what users choose. Each gives the op that updates a parameter (`nbconv.ops.optimizer`) and the scalars of a
step; formulas and defaults are PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from math import isfinite, sqrt
from typing import Any

from nbconv.ops import optimizer as ops
from nbconv.ops.optimizer import Update


class Optimizer:
    """What all have. ``lr``: the learning rate, which a schedule may change; ``weight_decay``: L2, its gradient is
    weight_decay · p; ``l1``: L1, l1 · sign(p); ``clip_value``: gradients are clipped to ± this; ``clip_norm``: all gradients
    are scaled so that their norm together is at most this (Pascanu 2013), as `torch.nn.utils.clip_grad_norm_`;
    ``groups``: options for parameters by glob, ``{"*.bias": {"weight_decay": 0}, "head.*": {"lr": 0.1}}``: the last
    pattern that fits a name counts; lr and weight_decay and l1 may be given. ValueError for what makes no sense."""

    op: type[Update] = ops.SGDUpdate

    def __init__(
        self,
        lr: float,
        *,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        groups: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.lr, self.weight_decay, self.l1 = _positive("lr", lr), _least("weight_decay", weight_decay), _least("l1", l1)
        self.clip_value = None if clip_value is None else _positive("clip_value", clip_value)
        self.clip_norm = None if clip_norm is None else _positive("clip_norm", clip_norm)
        self.groups = {pattern: dict(options) for pattern, options in (groups or {}).items()}
        for pattern, options in self.groups.items():
            for name, value in options.items():
                if name not in ("lr", "weight_decay", "l1"):
                    raise ValueError(f"group {pattern!r} has {name!r}, wanted lr, weight_decay or l1")
                _least(f"{name} of group {pattern!r}", value)

    def clipped(self, norm: float | None = None, value: float | None = None) -> Optimizer:
        """The same with other limits of gradients, where they are given: ``clip_norm`` and ``clip_value``."""
        found = copy(self)
        found.clip_norm = self.clip_norm if norm is None else _positive("clip_norm", norm)
        found.clip_value = self.clip_value if value is None else _positive("clip_value", value)
        return found

    def fields(self) -> dict[str, Any]:
        """The op's attributes that are the same for all parameters."""
        return {}

    def make(self, factor: float, options: Mapping[str, float], rows: tuple[int, ...] = ()) -> Update:
        """The op for a parameter, or for these ``rows`` of it: ``factor`` times the learning rate, with its group's
        ``options``."""
        rate = factor * options.get("lr", self.lr) / self.lr
        decay = options.get("weight_decay", self.weight_decay)
        return self.op(rate=rate, weight_decay=decay, l1=options.get("l1", self.l1), rows=rows, **self.fields())

    def scalars(self, lr: float, step: int) -> dict[str, float]:
        """The scalars of a step (counted from 1), in the op's order."""
        return {"lr": lr}

    def initial(self) -> tuple[float, ...]:
        """What each slot begins with."""
        return (0.0,) * self.op.slots

    def __repr__(self) -> str:
        told = {"lr": self.lr, "weight_decay": self.weight_decay, **self.fields()}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in told.items())})"


class SGD(Optimizer):
    """Stochastic gradient descent; with ``momentum`` Polyak's, with ``nesterov`` Nesterov's."""

    def __init__(self, lr: float = 0.01, momentum: float = 0.0, nesterov: bool = False, **options: Any) -> None:
        super().__init__(lr, **options)
        self.momentum, self.nesterov = _share("momentum", momentum), nesterov
        if nesterov and not momentum:
            raise ValueError("nesterov wants a momentum above 0")
        self.op = ops.MomentumUpdate if momentum else ops.SGDUpdate

    def fields(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "nesterov": int(self.nesterov)} if self.momentum else {}


class AdaGrad(Optimizer):
    """Duchi 2011. ``start``: what the sum of squares begins with."""

    op = ops.AdaGradUpdate

    def __init__(self, lr: float = 0.01, eps: float = 1e-10, start: float = 0.0, **options: Any) -> None:
        super().__init__(lr, **options)
        self.eps, self.start = _positive("eps", eps), _least("start", start)

    def fields(self) -> dict[str, Any]:
        return {"epsilon": self.eps}

    def initial(self) -> tuple[float, ...]:
        return (self.start,)


class AdaDelta(Optimizer):
    """Zeiler 2012."""

    op = ops.AdaDeltaUpdate

    def __init__(self, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, **options: Any) -> None:
        super().__init__(lr, **options)
        self.rho, self.eps = _share("rho", rho), _positive("eps", eps)

    def fields(self) -> dict[str, Any]:
        return {"rho": self.rho, "epsilon": self.eps}


class RMSProp(Optimizer):
    """Tieleman and Hinton 2012."""

    op = ops.RMSPropUpdate

    def __init__(
        self, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0, **options: Any
    ) -> None:
        super().__init__(lr, **options)
        self.alpha, self.eps, self.momentum = _share("alpha", alpha), _positive("eps", eps), _share("momentum", momentum)

    def fields(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "epsilon": self.eps, "momentum": self.momentum}


class Adam(Optimizer):
    """Kingma and Ba 2015."""

    op = ops.AdamUpdate
    decoupled = 0

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **options: Any
    ) -> None:
        super().__init__(lr, **options)
        self.betas = (_share("beta 1", betas[0]), _share("beta 2", betas[1]))
        self.eps = _positive("eps", eps)

    def fields(self) -> dict[str, Any]:
        return {"beta1": self.betas[0], "beta2": self.betas[1], "epsilon": self.eps, "decoupled": self.decoupled}

    def scalars(self, lr: float, step: int) -> dict[str, float]:
        return {"lr": lr, "correction": 1 - self.betas[0] ** step, "root": sqrt(1 - self.betas[1] ** step)}


class AdamW(Adam):
    """Adam whose weight decay is no part of the gradient (Loshchilov and Hutter 2019)."""

    decoupled = 1

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **options: Any
    ) -> None:
        super().__init__(lr, betas, eps, **{"weight_decay": 0.01, **options})


def _positive(name: str, value: float) -> float:
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}, wanted a positive number")
    return float(value)


def _least(name: str, value: float) -> float:
    if not (isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}, wanted 0 or more")
    return float(value)


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}, wanted from 0 up to 1")
    return float(value)
