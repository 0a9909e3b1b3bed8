"""Recurrent networks: RNN, GRU, LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Node, Spec
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, NUMPY, ONLY_FLOAT32, Op
from nbconv.lowering import recurrent, recurrent_grad
from nbconv.lowering.context import Lowering
from nbconv.ops import recurrent_cells as cells
from nbconv.ops.linear import MatMul, reshape, turned
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.shape import Concat, Slice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbconv.graph.backward import Backward

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""For each direction whether it goes backwards."""


def slots(inputs: Sequence[Any]) -> list[Any]:
    """ONNX's eight inputs, None for what is left out."""
    return [*inputs, *[None] * 8][:8]


class Recurrent(Op, abstract=True):
    """What RNN, GRU and LSTM share: X (steps, batch, inputs) in one or two directions.

    W (directions, gates · hidden, inputs), R (directions, gates · hidden, hidden), B (directions, 2 · gates · hidden: W's,
    then R's); ``sequence_lens`` (batch): behind its length a sequence gives 0, and backwards it begins at its end; initial
    states (directions, batch, hidden). Gives Y (steps, directions, batch, hidden) and the last states.
    ``clip`` limits what goes into the gates' activations.

    The ``layout`` 1 of ONNX, batch first, becomes Transposes when a model is read.
    """

    fixed = (5, 6)
    parameters = (1, 2, 3)
    is_layer = True
    processor_dtypes = ONLY_FLOAT32
    gates: ClassVar[int]
    states: ClassVar[int] = 1
    """parts of a state"""
    usual: ClassVar[tuple[str, ...]]
    """its activations where none are given, of one direction"""
    units: ClassVar[int] = 1
    """activations that are no gate's, the last of them"""
    cell: ClassVar[type[cells.Cell]]
    name: ClassVar[str]
    """of its kernel"""

    activation_alpha: tuple[float, ...] | None = None
    activation_beta: tuple[float, ...] | None = None
    activations: tuple[str, ...] | None = None
    clip: float | None = None
    direction: str = "forward"
    hidden_size: int | None = None

    @property
    def flag(self) -> bool:
        """The attribute that changes the cell's equations."""
        return False

    @property
    def ways(self) -> tuple[bool, ...]:
        """For each direction whether it goes backwards."""
        if self.direction not in DIRECTIONS:
            raise ModelError(f"direction is {self.direction!r}, wanted {', '.join(DIRECTIONS)}")
        return DIRECTIONS[self.direction]

    def functions(self) -> list[list[cells.Function]]:
        """The activations of each direction."""
        count, ways = len(self.usual), len(self.ways)
        names = self.usual * ways if self.activations is None else self.activations
        if len(names) < count * ways:
            raise ModelError(f"{len(names)} activations are given, {self.direction} {self.type} wants {count * ways}")
        limit = np.inf if self.clip is None or self.clip <= 0 else self.clip
        found = cells.functions(names[: count * ways], self.activation_alpha, self.activation_beta, limit)
        if self.states > 1:  # what leaves an LSTM is not clipped before
            found = [f._replace(clip=np.inf) if i % count == count - 1 else f for i, f in enumerate(found)]
        return [found[i * count : (i + 1) * count] for i in range(ways)]

    def sizes(self, x: Spec, r: Spec) -> tuple[int, int, int]:
        """(steps, batch, hidden)."""
        return x.shape[0], x.shape[1], r.shape[2]

    def infer(self, *inputs: Spec | None) -> tuple[Spec, ...]:
        x, w, r, b, lengths, h0, c0, p = slots(inputs)
        if x is None or w is None or r is None:
            raise ModelError("X, W and R must be given")
        dtype = want.one_type("f", X=x, W=w, R=r, B=b, initial_h=h0, initial_c=c0, P=p)
        for name, spec in (("X", x), ("W", w), ("R", r)):
            want.rank(spec, 3, 3, name)
        self.functions()
        steps, batch, hidden = self.sizes(x, r)
        ways, rows = len(self.ways), self.gates * hidden
        if self.hidden_size not in (None, hidden):
            raise ModelError(f"hidden_size is {self.hidden_size}, R {r} has {hidden}")
        wanted = {
            "W": (w, (ways, rows, x.shape[2])), "R": (r, (ways, rows, hidden)), "B": (b, (ways, 2 * rows)),
            "sequence_lens": (lengths, (batch,)), "P": (p, (ways, 3 * hidden)),
            "initial_h": (h0, (ways, batch, hidden)), "initial_c": (c0, (ways, batch, hidden)),
        }  # fmt: skip
        for name, (spec, shape) in wanted.items():
            if spec is not None and spec.shape != shape:
                raise ModelError(f"{name} is {spec}, {self.direction} {self.type} wants shape {list(shape)}")
        if lengths is not None:
            want.kind("i", sequence_lens=lengths)
            if lengths.value is not None:
                cells.check_lengths(lengths.value, steps)
        return want.make((steps, ways, batch, hidden), dtype), *[Spec((ways, batch, hidden), dtype)] * self.states

    def seen(self, x: np.ndarray) -> np.ndarray:
        """x, or h, as the weights meet it."""
        return x

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        return self.run(inputs, None)

    def run(self, inputs: Sequence[Any], tapes: list[cells.Tape] | None) -> tuple[np.ndarray, ...]:
        """The outputs; ``tapes`` are filled, one a direction."""
        x, w, r, b, lengths, h0, c0, p = slots(inputs)
        if lengths is not None:
            cells.check_lengths(lengths, len(x))
        hidden, rows = r.shape[2], self.gates * r.shape[2]
        ys, lasts = [], []
        for d, backwards in enumerate(self.ways):
            order = cells.places(len(x), lengths, backwards)
            bias = np.zeros(2 * rows, x.dtype) if b is None else b[d]
            none = np.zeros((x.shape[1], hidden), x.dtype)
            state = tuple(none if v is None else v[d] for v in (h0, c0)[: self.states])
            with np.errstate(all="ignore"):
                added = self.seen(cells.turned(x, order)) @ w[d].T + bias[:rows]
                tape = None if tapes is None else tapes[d]
                weights = cells.Weights(r[d], bias[rows:], None if p is None else p[d])
                y, last = cells.through(self._cell(d), added, state, weights, lengths, tape)
            ys.append(cells.turned(y, order))
            lasts.append(last)
        return np.stack(ys, 1), *(np.stack(of) for of in zip(*lasts, strict=True))

    def _cell(self, d: int) -> cells.Cell:
        return self.cell(self.functions()[d], self.flag, self.seen)

    @property
    def also(self) -> tuple[str, ...]:
        """Of `parts`, those that this cell has beside the others."""
        return ()

    def parts(self, peepholes: bool) -> tuple[str, ...]:
        """What `slopes` gives: the gradients of what the input ``added`` and, where that differs, of what R did (``met``);
        the states that R has ``seen``, and, where that differs, met as ``reset``; the gradients of the first states and the
        peepholes."""
        return ("added", "seen", *self.also, "h", *["c"] * (self.states - 1), *["p"] * peepholes)

    def slopes(self, inputs: Sequence[Any], dy: Any, states: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """The `parts`, (directions, steps, batch, …), of the gradients of the outputs, None where there is none."""
        x, _, r, b, lengths, _, _, p = slots(inputs)
        tapes = [cells.Tape([], []) for _ in self.ways]
        y, *last = self.run(inputs, tapes)
        of = []
        for d, backwards in enumerate(self.ways):
            order = cells.places(len(x), lengths, backwards)
            slope = np.zeros_like(y[:, d]) if dy is None else cells.turned(dy[:, d], order)
            state = tuple(np.zeros_like(v[d]) if g is None else g[d] for v, g in zip(last, states, strict=True))
            bias = np.zeros(2 * self.gates * r.shape[2], x.dtype) if b is None else b[d]
            weights = cells.Weights(r[d], bias[len(bias) // 2 :], None if p is None else p[d])
            with np.errstate(all="ignore"):
                found = cells.back(self._cell(d), tapes[d], slope, state, weights, lengths)
            seen, reset = (cells.turned(v, order) for v in (found.operands * 2)[:2])
            made = {"added": cells.turned(found.added, order), "met": cells.turned(found.met, order), "seen": seen}
            made |= {"reset": reset, "p": found.dp, **dict(zip("hc", found.state, strict=False))}
            of.append([made[name] for name in self.parts(p is not None)])
        return tuple(np.stack(v) for v in zip(*of, strict=True))

    def flops(self, inputs, outputs) -> int:
        x, r = inputs[0], inputs[2]
        return 2 * x.shape[0] * x.shape[1] * r.size // r.shape[2] * (x.shape[2] + r.shape[2])

    def kernel(self) -> str:
        """The kernel of kernels/cpu/recurrent.py that has its activations; "" where none has."""
        first, *others = self.functions()
        gates, units = first[: len(first) - self.units], first[len(first) - self.units :]
        plain = all(f.kind in ("sigmoid", "hardsigmoid") for f in gates) and {f.kind for f in units} in ({"tanh"}, {"relu"})
        return self.name if plain and all(of == first for of in others) else ""

    def kind(self) -> recurrent.Kind:
        """What its kernel is told."""
        first = self.functions()[0]
        gate, hard = first[0], first[0].kind == "hardsigmoid"
        return recurrent.Kind(
            int(self.ways[0]), int(self.flag), gate.clip, int(hard), gate.alpha, gate.beta, int(first[-1].kind == "relu")
        )

    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The gates that the kernel computes together."""
        return (tuple(range(self.gates)),)

    def layout(self, inputs, outputs) -> str:
        return CHANNELS_FIRST if self.has_kernel(inputs, outputs) else NUMPY

    def has_kernel(self, inputs, outputs) -> bool:
        lengths = inputs[4] if len(inputs) > 4 else None
        small = lengths is None or lengths.dtype == np.int32
        return (
            super().has_kernel(inputs, outputs)
            and small
            and all(s.size for s in (*inputs[:3], *outputs))
            and bool(self.kernel())
        )

    def guard(self, node: Node, inputs) -> Node | None:
        if len(inputs) < 5 or inputs[4] is None or inputs[4].value is not None:
            return None
        made = f"{next(filter(None, node.outputs))}#longest"
        op = Longest(steps=inputs[0].shape[0], of=f"{node.name} ({self.type})")
        return Node(op, (node.inputs[4],), (made,), made)

    def lower(self, to: Lowering) -> None:
        recurrent.lower(to, self.kernel(), self.groups(), self.kind())

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        count, hold = len(to.inputs), [to.dy(i) or "" for i in range(1 + self.states)]
        names = [to.x(i) if to.has(i) else "" for i in range(count)] + [""] * (8 - count)
        op = GRADIENTS[self.type](**self.attributes())
        parts = op.parts(count > 7 and to.has(7))
        found = dict(zip(parts, to.add_many(op, len(parts), *names, *hold), strict=True))
        (ways, rows, inputs), hidden = to.inputs[1].shape, to.inputs[2].shape[2]
        pixels = to.inputs[0].shape[0] * to.inputs[0].shape[1]
        added, seen = reshape(to, found["added"], (ways, pixels, rows)), reshape(to, found["seen"], (ways, pixels, hidden))
        met = reshape(to, found["met"], (ways, pixels, rows)) if "met" in found else added
        made: list[str | None] = [None] * 5 + [found.get(name) for name in ("h", "c", "p")]
        if to.wants(0):
            dx = to.add(MatMul(), added, to.x(1))
            dx = to.add(ReduceSum(keepdims=0), dx, to.constant(np.array([0]))) if ways > 1 else dx
            made[0] = reshape(to, dx, to.inputs[0].shape)
        if to.wants(1):
            made[1] = to.add(MatMul(), turned(to, added), reshape(to, to.x(0), (1, pixels, inputs)))
        if to.wants(2):
            met_first = turned(to, met)
            if "reset" in found:
                gates, last = part(to, met_first, 0, 2 * hidden), part(to, met_first, 2 * hidden, rows)
                reset = reshape(to, found["reset"], (ways, pixels, hidden))
                made[2] = to.add(Concat(axis=1), to.add(MatMul(), gates, seen), to.add(MatMul(), last, reset))
            else:
                made[2] = to.add(MatMul(), met_first, seen)
        if to.has(3) and to.wants(3):
            sums = [to.add(ReduceSum(keepdims=0), v, to.constant(np.array([1]))) for v in (added, met)]
            made[3] = to.add(Concat(axis=1), *sums)
        return tuple(made[i] if to.wants(i) else None for i in range(count))


def part(to: Backward, x: str, begin: int, end: int) -> str:
    """Rows of x (ways, rows, …)."""
    return to.add(Slice(), x, *(to.constant(np.array([v], np.int64)) for v in (begin, end, 1)))


class Longest(Op):
    """The longest of ``sequence_lens``, which must be those of sequences of so many ``steps``; ``of``: what has them."""

    domain = "nbconv"

    steps: int
    of: str

    def infer(self, sequence_lens: Spec) -> Spec:
        return Spec((), sequence_lens.dtype)

    def reference(self, sequence_lens: np.ndarray) -> np.ndarray:
        try:
            cells.check_lengths(sequence_lens, self.steps)
        except ModelError as error:
            raise ModelError(f"{self.of}: {error}") from None
        return np.asarray(sequence_lens.max(initial=0))


class RNN(Recurrent):
    """h' = f(W·x + R·h + B)."""

    gates, usual, cell, name = 1, ("Tanh",), cells.RNNCell, "rnn"


class GRU(Recurrent):
    """Gates z, r, h. h' = (1 - z) · n + z · h, with n = g(W·x + R·(r · h) + B), or, with ``linear_before_reset``,
    g(W·x + r · (R·h + B))."""

    gates, usual, cell, name = 3, ("Sigmoid", "Tanh"), cells.GRUCell, "gru"

    linear_before_reset: int = 0

    @property
    def flag(self) -> bool:
        return bool(self.linear_before_reset)

    @property
    def also(self) -> tuple[str, ...]:
        return ("met",) if self.flag else ("reset",)

    def kernel(self) -> str:
        found = super().kernel()
        return found if self.flag or not found else "gru_reset"

    def groups(self) -> tuple[tuple[int, ...], ...]:
        return ((0, 1, 2),) if self.flag else ((0, 1), (2,))


class LSTM(Recurrent):
    """Gates i, o, f, c. c' = f · c + i · g, h' = o · act(c'); ``P`` (directions, 3 · hidden): peepholes of c at i, o, f.
    With ``input_forget`` f is 1 - i."""

    gates, states, usual, cell, name = 4, 2, ("Sigmoid", "Tanh", "Tanh"), cells.LSTMCell, "lstm"
    parameters, units = (1, 2, 3, 7), 2

    input_forget: int = 0

    @property
    def flag(self) -> bool:
        return bool(self.input_forget)


class _Grad(Recurrent, abstract=True):
    """The `parts` of the gradients, of which products over all steps make those of X, W, R and B: inputs are the eight of
    the operator, then the gradients of its outputs."""

    gradient = Op.gradient

    def has_kernel(self, inputs, outputs) -> bool:
        """Without peepholes and limits, of a GRU that resets what R made."""
        peepholes = len(inputs) > 7 and inputs[7] is not None
        simple = not peepholes and self.functions()[0][0].clip == np.inf and "reset" not in self.also
        return simple and super().has_kernel(inputs, outputs)

    def lower(self, to: Lowering) -> None:
        named = [name for name, given in zip(self.parts(False), to.node.outputs, strict=False) if given]
        recurrent_grad.lower(to, self.kernel(), self.groups(), self.kind(), {name: i for i, name in enumerate(named)})

    def infer(self, *inputs: Spec | None) -> tuple[Spec, ...]:
        own = inputs[:8]
        y, *states = super().infer(*own)
        x, w, r, *_, p = own
        assert x is not None and w is not None and r is not None
        for spec, given in zip((y, *states), inputs[8:], strict=False):
            if given is not None and given.shape != spec.shape:
                raise ModelError(f"the gradient of {spec} is {given}")
        lead, state = (w.shape[0], *x.shape[:2]), states[0].shape
        rows, seen = (*lead, w.shape[1]), (*lead, r.shape[2])
        shapes = {"added": rows, "met": rows, "seen": seen, "reset": seen, "h": state, "c": state, "p": p and p.shape}
        return tuple(Spec(shapes[name], y.dtype) for name in self.parts(p is not None))

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        dy, *states = (*inputs[8:], *[None] * 3)[: 1 + self.states]
        return self.slopes(inputs[:8], dy, states)

    def flops(self, inputs, outputs) -> int:
        return 2 * super().flops(inputs, outputs)


class RNNGrad(RNN, _Grad):
    """The gradients of `RNN`."""

    domain = "nbconv"


class GRUGrad(GRU, _Grad):
    """The gradients of `GRU`."""

    domain = "nbconv"


class LSTMGrad(LSTM, _Grad):
    """The gradients of `LSTM`."""

    domain = "nbconv"


GRADIENTS: dict[str, type[Recurrent]] = {"RNN": RNNGrad, "GRU": GRUGrad, "LSTM": LSTMGrad}
