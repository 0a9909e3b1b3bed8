"""Optimizer steps: from a parameter, its gradient and the optimizer's slots, the new parameter and slots.

Formulas are PyTorch's (`torch.optim`). What all share: ``rate`` times the learning rate is the parameter's own; the
gradient gets weight_decay · p (L2) and l1 · sign(p) first. Scalars that change from step to step are inputs of shape ().
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, ONLY_FLOAT32, Op, same_dtype
from nbconv.kernels.optimizer_params import AdaDelta, Adam, Learning, RMSProp, Span
from nbconv.lowering.context import Lowering, Ref


def runs(places: Iterable[int]) -> list[tuple[int, int, int]]:
    """Rising places in runs of neighbours: (the first, how many places come before it, how many there are)."""
    found: list[tuple[int, int, int]] = []
    for k, place in enumerate(places):
        if found and sum(found[-1][::2]) == place:
            found[-1] = (*found[-1][:2], found[-1][2] + 1)
        else:
            found.append((place, k, 1))
    return found


class Update(Op, abstract=True):
    """Inputs p, g, the slots, then the scalars; outputs the new p and the new slots, all of p's shape. ``rows``: the places
    along p's first axis, in rising order, that change; g and the slots have these alone. None: all change."""

    domain = "nbconv"
    in_place = True
    slots: ClassVar[int] = 0
    scalars: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = ("p", "g", "lr", "new_p")
    """what the kernel calls inputs and outputs"""
    kernel: ClassVar[str] = "sgd"

    rate: float = 1.0
    weight_decay: float = 0.0
    l1: float = 0.0
    rows: tuple[int, ...] = ()

    def infer(self, p: Spec, g: Spec, *rest: Spec) -> tuple[Spec, ...]:
        if len(rest) != self.slots + self.scalars:
            raise ModelError(f"{len(rest)} inputs after p and g, wanted {self.slots} slots and {self.scalars} scalars")
        names = {"p": p, "g": g, **{f"input {i + 2}": spec for i, spec in enumerate(rest)}}
        dtype = want.one_type("f", **names)
        shape = (want.rising(self.rows, p.shape[0] if p.shape else 0, "rows"), *p.shape[1:]) if self.rows else p.shape
        for name, spec in list(names.items())[1 : 2 + self.slots]:
            if spec.shape != shape:
                of = f", of which {len(self.rows)} rows change" if self.rows else ""
                raise ModelError(f"{name} is {spec}, p is {p}{of}: wanted {list(shape)}")
        for name, spec in list(names.items())[2 + self.slots :]:
            want.scalar(spec, name)
        return (Spec(p.shape, dtype), *(Spec(shape, dtype) for _ in range(self.slots)))

    def reference(self, p: np.ndarray, g: np.ndarray, *rest: np.ndarray) -> tuple[np.ndarray, ...]:
        if not self.rows:
            return self.updated(p, g, *rest)
        new, which = p.copy(), list(self.rows)
        new[which], *slots = self.updated(p[which], g, *rest)
        return (new, *slots)

    def updated(self, *inputs: Any, **_: Any) -> tuple[np.ndarray, ...]:
        """The new p and the new slots, where all rows change; inputs as for `reference`."""
        raise NotImplementedError(self.type)

    kernel_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    def has_kernel(self, inputs, outputs) -> bool:
        return super().has_kernel(inputs, outputs) and same_dtype(inputs) and outputs[0].size > 0

    def lower(self, to: Lowering) -> None:
        n, count = to.outputs[0].size, len(to.inputs)
        refs = [*(to.input(i) for i in range(count)), *map(Ref, to.node.outputs)]
        refs += [to.floats(n) for _ in range(len(self.names) - len(refs))]  # what nobody reads
        given = dict(zip(self.names, refs, strict=True))
        learning = Learning(given.pop("lr"), self.rate, self.weight_decay, self.l1)
        further = self.factors(given)
        whole = self.names[0], self.names[count]
        arrays = {*whole, *self.names[1 : 2 + self.slots], *self.names[count:]}
        size = n // to.outputs[0].shape[0] if self.rows else n
        for row, place, rows in runs(self.rows) or [(0, 0, 1)]:
            mine = {k: v.at(size * (row if k in whole else place)) if k in arrays else v for k, v in given.items()}
            self.emit(to, mine, rows * size, learning, further)
        if self.rows:
            others = [k for k in range(to.outputs[0].shape[0]) if k not in set(self.rows)]
            for row, _, rows in runs(others):
                old, new = (given[name].at(size * row) for name in whole)
                to.copy(old, new, (rows * size,), (1,), (1,))

    def emit(self, to: Lowering, given: dict[str, Ref], n: int, learning: Learning, further: dict[str, Any]) -> None:
        """The step that updates n elements."""
        chunk = to.target.chunk
        to.step(
            f"optimizer.{self.kernel}",
            -(-n // chunk),
            work=64 * n,
            writes=self.names[len(to.inputs) :],
            **given,
            span=Span(n, chunk),
            learning=learning,
            **further,
        )

    def factors(self, given: dict[str, Ref]) -> dict[str, Any]:
        """The kernel's further arguments; those among the ``given`` that go into them are taken from there."""
        return {}

    def decayed(self, p: np.ndarray, g: np.ndarray) -> np.ndarray:
        """The gradient with what the decays add."""
        t = p.dtype.type
        if self.weight_decay:
            g = g + t(self.weight_decay) * p
        return g + t(self.l1) * np.sign(p) if self.l1 else g


class SGDUpdate(Update):
    """p - lr · g (Robbins and Monro 1951)."""

    def updated(self, p: np.ndarray, g: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, ...]:
        return (p - lr * p.dtype.type(self.rate) * self.decayed(p, g),)


class MomentumUpdate(Update):
    """v = momentum · v + g, p - lr · v (Polyak 1964); with ``nesterov`` p - lr · (g + momentum · v) (Nesterov 1983, in
    Sutskever's 2013 form)."""

    slots = 1
    kernel = "momentum"
    names = ("p", "g", "v", "lr", "new_p", "new_v")

    momentum: float = 0.9
    nesterov: int = 0

    def factors(self, given) -> dict[str, Any]:
        return {"momentum": self.momentum, "nesterov": self.nesterov}

    def updated(self, p: np.ndarray, g: np.ndarray, v: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, ...]:
        t = p.dtype.type
        g = self.decayed(p, g)
        v = t(self.momentum) * v + g
        step = g + t(self.momentum) * v if self.nesterov else v
        return p - lr * t(self.rate) * step, v


class AdaGradUpdate(Update):
    """s = s + g², p - lr · g / (sqrt(s) + epsilon) (Duchi 2011)."""

    slots = 1
    kernel = "adagrad"
    names = ("p", "g", "s", "lr", "new_p", "new_s")

    epsilon: float = 1e-10

    def factors(self, given) -> dict[str, Any]:
        return {"epsilon": self.epsilon}

    def updated(self, p: np.ndarray, g: np.ndarray, s: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, ...]:
        t = p.dtype.type
        g = self.decayed(p, g)
        s = s + g * g
        return p - lr * t(self.rate) * g / (np.sqrt(s) + t(self.epsilon)), s


class AdaDeltaUpdate(Update):
    """s = rho · s + (1 - rho) · g², d = sqrt((u + epsilon) / (s + epsilon)) · g, p - lr · d, u = rho · u + (1 - rho) · d²
    (Zeiler 2012)."""

    slots = 2
    kernel = "adadelta"
    names = ("p", "g", "s", "u", "lr", "new_p", "new_s", "new_u")

    rho: float = 0.9
    epsilon: float = 1e-6

    def factors(self, given) -> dict[str, Any]:
        return {"by": AdaDelta(self.rho, 1 - self.rho, self.epsilon)}

    def updated(self, p: np.ndarray, g: np.ndarray, s: np.ndarray, u: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, ...]:
        t = p.dtype.type
        g = self.decayed(p, g)
        s = t(self.rho) * s + t(1 - self.rho) * (g * g)
        d = np.sqrt(u + t(self.epsilon)) / np.sqrt(s + t(self.epsilon)) * g
        return p - lr * t(self.rate) * d, s, t(self.rho) * u + t(1 - self.rho) * (d * d)


class RMSPropUpdate(Update):
    """s = alpha · s + (1 - alpha) · g², v = momentum · v + g / (sqrt(s) + epsilon), p - lr · v (Tieleman and Hinton
    2012)."""

    slots = 2
    kernel = "rmsprop"
    names = ("p", "g", "s", "v", "lr", "new_p", "new_s", "new_v")

    alpha: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0

    def factors(self, given) -> dict[str, Any]:
        return {"by": RMSProp(self.alpha, 1 - self.alpha, self.epsilon, self.momentum)}

    def updated(self, p: np.ndarray, g: np.ndarray, s: np.ndarray, v: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, ...]:
        t = p.dtype.type
        g = self.decayed(p, g)
        s = t(self.alpha) * s + t(1 - self.alpha) * (g * g)
        v = t(self.momentum) * v + g / (np.sqrt(s) + t(self.epsilon))
        return p - lr * t(self.rate) * v, s, v


class AdamUpdate(Update):
    """m = beta1 · m + (1 - beta1) · g, v = beta2 · v + (1 - beta2) · g², p - lr · m / c1 / (sqrt(v / c2) + epsilon) (Kingma
    and Ba 2015). The scalars after lr are c1 = 1 - beta1^t and root = sqrt(1 - beta2^t) at step t, from 1. ``decoupled``:
    weight_decay is no part of the gradient, p shrinks by lr · weight_decay first (AdamW, Loshchilov and Hutter 2019)."""

    slots = 2
    kernel = "adam"
    names = ("p", "g", "m", "v", "lr", "c1", "root", "new_p", "new_m", "new_v")
    scalars = 3

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decoupled: int = 0

    def factors(self, given) -> dict[str, Any]:
        moments = 1 - self.beta1, self.beta2, 1 - self.beta2
        return {"by": Adam(given.pop("c1"), given.pop("root"), *moments, self.epsilon, self.decoupled)}

    def updated(
        self, p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, lr: np.ndarray, c1: np.ndarray, root: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        t = p.dtype.type
        lr = lr * t(self.rate)
        if self.decoupled:
            g = g + t(self.l1) * np.sign(p) if self.l1 else g
            p = p * (1 - lr * t(self.weight_decay))
        else:
            g = self.decayed(p, g)
        m = m + t(1 - self.beta1) * (g - m)
        v = t(self.beta2) * v + t(1 - self.beta2) * (g * g)
        return p - lr / c1 * m / (np.sqrt(v) / root + t(self.epsilon)), m, v
