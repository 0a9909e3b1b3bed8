"""Cells of recurrent networks in NumPy: a step forward, a step back through time, and how a sequence goes through them.

Rows of weights are a gate after another, in ONNX's order. A state is (h,), of an LSTM (h, c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError

State = tuple[np.ndarray, ...]
Formula = Callable[[Any, float, float], Any]


class Activation(NamedTuple):
    """f(x, alpha, beta), its slope, and the parameters that it takes with their defaults; None: it takes none."""

    formula: Formula
    slope: Formula
    alpha: float | None = None
    beta: float | None = None


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(lambda x, a, b: np.maximum(x, 0), lambda x, a, b: (x > 0) * x.dtype.type(1)),
    "tanh": Activation(lambda x, a, b: np.tanh(x), lambda x, a, b: 1 - np.tanh(x) ** 2),
    "sigmoid": Activation(lambda x, a, b: _sigmoid(x), lambda x, a, b: _sigmoid(x) * _sigmoid(-x)),
    "affine": Activation(lambda x, a, b: a * x + b, lambda x, a, b: np.full_like(x, a), 1.0, 0.0),
    "leakyrelu": Activation(
        lambda x, a, b: np.where(x < 0, a * x, x), lambda x, a, b: np.where(x < 0, a, x.dtype.type(1)), 0.01
    ),
    "thresholdedrelu": Activation(
        lambda x, a, b: np.where(x < a, x.dtype.type(0), x), lambda x, a, b: (x >= a) * x.dtype.type(1), 1.0
    ),
    "scaledtanh": Activation(
        lambda x, a, b: a * np.tanh(b * x), lambda x, a, b: a * b * (1 - np.tanh(b * x) ** 2), 1.0, 1.0
    ),
    "hardsigmoid": Activation(
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, a, b: np.where((a * x + b > 0) & (a * x + b < 1), x.dtype.type(a), x.dtype.type(0)),
        0.2,
        0.5,
    ),
    "elu": Activation(
        lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
        lambda x, a, b: np.where(x < 0, a * np.exp(np.minimum(x, 0)), x.dtype.type(1)),
        1.0,
    ),
    "softsign": Activation(lambda x, a, b: x / (1 + np.abs(x)), lambda x, a, b: 1 / (1 + np.abs(x)) ** 2),
    "softplus": Activation(lambda x, a, b: np.logaddexp(x, x.dtype.type(0)), lambda x, a, b: _sigmoid(x)),
}
"""ONNX's list, in lower case."""


class Function(NamedTuple):
    """An activation with its parameters, of an argument that is clipped to ±``clip`` first."""

    kind: str
    alpha: float
    beta: float
    clip: float

    def _clipped(self, x: np.ndarray) -> np.ndarray:
        return x if self.clip == np.inf else np.clip(x, -self.clip, self.clip)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return ACTIVATIONS[self.kind].formula(self._clipped(x), self.alpha, self.beta)

    def slope(self, x: np.ndarray) -> np.ndarray:
        """The derivative at x."""
        found = ACTIVATIONS[self.kind].slope(self._clipped(x), self.alpha, self.beta)
        return found if self.clip == np.inf else found * (np.abs(x) <= self.clip)


def functions(
    names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None, clip: float
) -> list[Function]:
    """The activations of these names, each of which takes the next of the parameters that it has; ModelError for one that
    is not on ONNX's list."""
    alpha, beta = list(alphas or ()), list(betas or ())
    found = []
    for name in names:
        kind = ACTIVATIONS.get(name.lower())
        if kind is None:
            raise ModelError(f"activation {name!r} is none of ONNX's: {', '.join(ACTIVATIONS)}")
        a = 0.0 if kind.alpha is None else alpha.pop(0) if alpha else kind.alpha
        b = 0.0 if kind.beta is None else beta.pop(0) if beta else kind.beta
        found.append(Function(name.lower(), a, b, clip))
    return found


class Weights(NamedTuple):
    """Of one direction: R (gates · H, H), its bias (gates · H), and the peepholes of an LSTM (3 · H), i, o, f."""

    r: np.ndarray
    bias: np.ndarray
    p: np.ndarray | None


class Back(NamedTuple):
    """What a step back makes: the gradients of what was added to the gates from x, and from R · h; those of the state and
    the peepholes."""

    dx: np.ndarray
    dr: np.ndarray
    state: State
    dp: np.ndarray | None = None


def _same(h: np.ndarray) -> np.ndarray:
    return h


class Cell:
    """``seen`` is what is done to h before it meets R; ``met``: how many `operands` there are."""

    met = 1

    def __init__(self, acts: Sequence[Function], flag: bool, seen: Callable[[np.ndarray], np.ndarray] = _same) -> None:
        self.acts, self.flag, self.seen = tuple(acts), flag, seen

    def step(self, x: np.ndarray, state: State, weights: Weights) -> tuple[State, tuple]:
        """(the new state, what `back` wants to see), where x (batch, gates · H) is what the input adds to the gates."""
        raise NotImplementedError

    def back(self, saved: tuple, d: State, weights: Weights) -> Back:
        """Of the gradients of the new state."""
        raise NotImplementedError

    def operands(self, saved: tuple) -> tuple[np.ndarray, ...]:
        """What R's rows met: one for all, or one for those of z and r and one for those of h."""
        return (saved[0],)


class RNNCell(Cell):
    """h' = f(x + R·h)."""

    def step(self, x, state, weights):
        (h,) = state
        a = x + self.seen(h) @ weights.r.T + weights.bias
        return (self.acts[0](a),), (h, a)

    def back(self, saved, d, weights):
        da = d[0] * self.acts[0].slope(saved[1])
        return Back(da, da, (da @ weights.r,))


class GRUCell(Cell):
    """h' = (1 - z) · n + z · h with z, r = f(x + R·h), n = g(x + R·(r · h)); with ``flag`` g(x + r · (R·h))."""

    @property
    def met(self) -> int:
        return 1 if self.flag else 2

    def step(self, x, state, weights):
        (h,), (f, g) = state, self.acts
        n, (rw, rb, _) = h.shape[1], weights
        first = x[:, : 2 * n] + self.seen(h) @ rw[: 2 * n].T + rb[: 2 * n]
        z, r = np.split(f(first), 2, 1)
        if self.flag:
            q = self.seen(h) @ rw[2 * n :].T + rb[2 * n :]
            last = x[:, 2 * n :] + r * q
        else:
            q = r * h
            last = x[:, 2 * n :] + self.seen(q) @ rw[2 * n :].T + rb[2 * n :]
        new = g(last)
        return ((1 - z) * new + z * h,), (h, first, z, r, q, last, new)

    def back(self, saved, d, weights):
        h, first, z, r, q, last, new = saved
        (f, g), (dh,), n = self.acts, d, h.shape[1]
        dn = dh * (1 - z) * g.slope(last)
        dq = dn * r if self.flag else dn @ weights.r[2 * n :]
        dr, met = (dn * q, dq) if self.flag else (dq * h, dn)
        dzr = np.concatenate([dh * (h - new), dr], 1) * f.slope(first)
        back = np.concatenate([dzr, met], 1)
        if self.flag:
            previous = dh * z + back @ weights.r
        else:
            previous = dh * z + dzr @ weights.r[: 2 * n] + dq * r
        return Back(np.concatenate([dzr, dn], 1), back, (previous,))

    def operands(self, saved):
        return (saved[0],) if self.flag else (saved[0], saved[4])


class LSTMCell(Cell):
    """c' = f·c + i·g, h' = o·act(c'), with peepholes of c at i and f, of c' at o; with ``flag`` f is 1 - i."""

    def step(self, x, state, weights):
        (h, c), (f, g, act) = state, self.acts
        n = h.shape[1]
        ai, ao, af, ag = np.split(x + self.seen(h) @ weights.r.T + weights.bias, 4, 1)
        if weights.p is not None:
            ai, af = ai + weights.p[:n] * c, af + weights.p[2 * n :] * c
        i, new = f(ai), g(ag)
        forget = 1 - i if self.flag else f(af)
        after = forget * c + i * new
        if weights.p is not None:
            ao = ao + weights.p[n : 2 * n] * after
        o, out = f(ao), act(after)
        return (o * out, after), (h, c, ai, ao, af, ag, i, o, forget, new, after, out)

    def back(self, saved, d, weights):
        _, c, ai, ao, af, ag, i, o, forget, new, after, out = saved
        (dh, dc), (f, g, act), p, n = d, self.acts, weights.p, c.shape[1]
        dao = dh * out * f.slope(ao)
        dc = dc + dh * o * act.slope(after)
        if p is not None:
            dc = dc + dao * p[n : 2 * n]
        di, df = dc * new, dc * c
        if self.flag:
            di, df = di - df, np.zeros_like(df)
        dai, daf = di * f.slope(ai), df * f.slope(af)
        da = np.concatenate([dai, dao, daf, dc * i * g.slope(ag)], 1)
        previous, dp = dc * forget, None
        if p is not None:
            previous = previous + dai * p[:n] + daf * p[2 * n :]
            dp = np.concatenate([dai * c, dao * after, daf * c], 1).sum(0)
        return Back(da, da, (da @ weights.r, previous), dp)


def places(steps: int, lengths: np.ndarray | None, backwards: bool) -> np.ndarray | slice:
    """Where a direction finds what it reads one after another: times, or (steps, batch) of them, where a sequence that ends
    early is turned within itself."""
    if not backwards:
        return slice(None)
    if lengths is None:
        return slice(None, None, -1)
    return reversed_within(steps, lengths)


def reversed_within(steps: int, lengths: np.ndarray) -> np.ndarray:
    """(steps, batch): where each entry comes from, where sequences of these lengths are turned within themselves."""
    s = np.arange(steps)[:, None]
    return np.where(s < lengths, lengths - 1 - s, s)


def check_lengths(lengths: np.ndarray, steps: int, name: str = "X") -> None:
    """ModelError for a length that no sequence of so many steps can have."""
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= steps):
        raise ModelError(f"sequence_lens are {lengths.min()} to {lengths.max()}, {name} has {steps} steps")


def turned(x: np.ndarray, order: np.ndarray | slice) -> np.ndarray:
    """x (steps, batch, …) in that order; twice is x again."""
    return x[order] if isinstance(order, slice) else x[order, np.arange(x.shape[1])]


class Tape(NamedTuple):
    """What a sequence left for the way back: of each step what the cell saved, and which of the batch still went on."""

    saved: list[tuple]
    going: list[np.ndarray | None]


def through(
    cell: Cell, x: np.ndarray, state: State, weights: Weights, lengths: np.ndarray | None, tape: Tape | None = None
) -> tuple[np.ndarray, State]:
    """(h of all steps, the last state), from what the input adds to the gates (steps, batch, gates · H)."""
    y = np.zeros((*x.shape[:2], weights.r.shape[1]), x.dtype)
    for s, row in enumerate(x):
        new, saved = cell.step(row, state, weights)
        going = None if lengths is None else (s < lengths)[:, None]
        y[s] = new[0] if going is None else np.where(going, new[0], 0)
        state = new if going is None else tuple(np.where(going, a, b) for a, b in zip(new, state, strict=True))
        if tape is not None:
            tape.saved.append(saved)
            tape.going.append(going)
    return y, state if lengths is None else some(state, lengths)


def some(state: State, lengths: np.ndarray) -> State:
    """The state, 0 where a sequence is empty: of this ONNX says nothing, onnxruntime does it."""
    return tuple(np.where((lengths > 0)[:, None], v, 0) for v in state)


class Gradients(NamedTuple):
    """Of what the input added and of what R did (steps, batch, gates · H), of the peepholes and the first state; and the
    ``operands`` that R met (steps, batch, H)."""

    added: np.ndarray
    met: np.ndarray
    operands: list[np.ndarray]
    dp: np.ndarray | None
    state: State


def back(cell: Cell, tape: Tape, dy: np.ndarray, state: State, weights: Weights, lengths: np.ndarray | None) -> Gradients:
    """Back through time; ``state`` is the gradient of the last state."""
    state = state if lengths is None else some(state, lengths)
    steps, batch, hidden = dy.shape
    added, met = np.zeros((2, steps, batch, len(weights.r)), dy.dtype)
    operands = np.zeros((cell.met, steps, batch, hidden), dy.dtype)
    dp = None if weights.p is None else np.zeros_like(weights.p)
    for s in reversed(range(steps)):
        going, after = tape.going[s], (state[0] + dy[s], *state[1:])
        d = after if going is None else tuple(np.where(going, v, 0) for v in after)
        found = cell.back(tape.saved[s], d, weights)
        added[s], met[s] = found.dx, found.dr
        for i, h in enumerate(cell.operands(tape.saved[s])):
            operands[i, s] = h if going is None else np.where(going, h, 0)
        if going is not None:
            found = found._replace(state=tuple(np.where(going, a, b) for a, b in zip(found.state, state, strict=True)))
        state = found.state
        if dp is not None:
            dp += found.dp
    return Gradients(added, met, list(operands), dp, state)
