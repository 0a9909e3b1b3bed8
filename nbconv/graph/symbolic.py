"""Arithmetic on sizes that is written down while it is done, to be done again for other sizes.

A `Symbol` stands for a size while a graph is planned. What is computed of it is noted in a `Trace`, and so is every decision
that depends on it: a guard. A `Formula` is what remains: for other sizes it gives what the trace computed, or None where a
decision would have been another one (the guards of torch.fx's symbolic shapes are the same). A size that leaves Python's
arithmetic (for NumPy, `range`, `hash` or a text) is a decision too: the formula holds for this size alone. Functions called
through `apply` are noted whole, and decide nothing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

_open: list[Trace] = []
"""Those that are noted now, by any thread."""


class TraceEnded(TypeError):
    """A size that was noted is asked for after its trace ended: what was made of the trace cannot be used."""


class Trace:
    """What is computed of some sizes, in order, and what was decided, within a ``with`` statement."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.values: list[Any] = []
        self._entries: list[tuple[Callable[..., Any], tuple[int, ...]] | None] = []
        self._known: dict[tuple, int] = {}
        self.guards: dict[int, Any] = {}
        """what some entries came to, where that was looked at"""
        self.open = False
        self.count = len(sizes)
        self.inputs = [Symbol(self, self._add(None, size)) for size in sizes]

    def __enter__(self) -> Trace:
        self.open = True
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False
        _open.remove(self)

    def _add(self, entry: tuple[Callable[..., Any], tuple[int, ...]] | None, value: Any) -> int:
        self.values.append(value)
        self._entries.append(entry)
        return len(self.values) - 1

    def constant(self, value: Any) -> int:
        """The place of a value that is the same for all sizes."""
        simple = type(value) in (int, bool, str) or value is None
        key = ("", type(value), value if simple else id(value))
        at = self._known.get(key)
        if at is None or not (simple or self.values[at] is value):
            at = self._known[key] = self._add(None, value)
        return at

    def place(self, value: Any) -> int:
        """The place of a value: a symbol's, a constant's, or that of a tuple made of such."""
        if type(value) is Symbol:
            if value.trace is not self or not self.open:
                raise TraceEnded("a size of another trace")
            return value.at
        if isinstance(value, tuple) and has_symbols(value):
            make = type(value)._make if hasattr(value, "_make") else tuple  # type: ignore[attr-defined]
            return self.note(_Pack(make), value)
        return self.constant(value)

    def note(self, function: Callable[..., Any], arguments: Sequence[Any]) -> int:
        """The place of what the function gives for these arguments."""
        if not self.open:
            raise TraceEnded("a size is computed with after its trace ended")
        places = tuple(map(self.place, arguments))
        key = (function, *places)
        at = self._known.get(key)
        if at is None:
            at = self._known[key] = self._add((function, places), function(*(self.values[i] for i in places)))
        return at

    def decide(self, at: int) -> Any:
        """The value there, on which something is decided now."""
        if not self.open:
            raise TraceEnded("a size is looked at after its trace ended")
        value = self.values[at]
        if isinstance(value, np.ndarray):
            at = self.note(_frozen, (Symbol(self, at),))
        self.guards[at] = self.values[at]
        return value

    def symbol(self, at: int) -> Any:
        """What stands for the value there; a tuple is one of symbols, and its length decided."""
        value = self.values[at]
        if not isinstance(value, (tuple, list)):
            return Symbol(self, at)
        self.decide(self.note(len, (Symbol(self, at),)))
        parts = [self.symbol(self.note(operator.getitem, (Symbol(self, at), i))) for i in range(len(value))]
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)  # type: ignore[union-attr]

    @property
    def narrow(self) -> bool:
        """Whether one of the sizes itself was decided on: then the formula is of no use for others."""
        sizes = range(self.count)
        whole = {self._known.get((_frozen, at), -1) for at in sizes}
        return any(at in sizes or at in whole for at in self.guards)

    def end(self, wanted: Sequence[int]) -> tuple[Formula, dict[int, int]]:
        """The formula, and where in what it gives the values at these places are."""
        needed, waiting = set(range(self.count)), [*wanted, *self.guards]
        while waiting:
            at = waiting.pop()
            if at not in needed:
                needed.add(at)
                entry = self._entries[at]
                waiting += entry[1] if entry is not None else ()
        constants = [at for at in sorted(needed) if at >= self.count and self._entries[at] is None]
        computed = [at for at in sorted(needed) if self._entries[at] is not None]
        moved = {at: i for i, at in enumerate([*range(self.count), *constants, *computed])}
        code: list[tuple[Callable[..., Any], int, int, tuple[int, ...] | None]] = []
        for at in computed:
            function, places = self._entries[at] or (len, ())
            new = tuple(moved[p] for p in places)
            code.append((function, *new, None) if len(new) == 2 else (function, 0, 0, new))  # type: ignore[arg-type]
        checks = [moved[at] for at in self.guards]
        formula = Formula([self.values[at] for at in constants], code, checks, [*self.guards.values()])
        return formula, {at: moved[at] for at in wanted}


class Formula(NamedTuple):
    """What a trace computed, for any sizes."""

    constants: list[Any]
    code: list[tuple[Callable[..., Any], int, int, tuple[int, ...] | None]]
    checks: list[int]
    decided: list[Any]

    def values(self, sizes: Sequence[int]) -> list[Any] | None:
        """All values for these sizes; None where something would be decided otherwise."""
        v = [*sizes, *self.constants]
        add = v.append
        try:
            for function, a, b, more in self.code:
                if more is None:
                    add(function(v[a], v[b]))
                else:
                    add(function(*[v[i] for i in more]))
        except Exception:  # of sizes that the functions were not made for
            return None
        return v if [v[i] for i in self.checks] == self.decided else None


class _Pack:
    """Makes a tuple of its arguments; equal where it makes the same."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *parts: Any) -> Any:
        return self.make(parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pack) and other.make == self.make

    def __hash__(self) -> int:
        return hash(self.make)


def _forward(function: Callable[[Any, Any], Any]) -> Callable[[Symbol, Any], Any]:
    def method(self: Symbol, other: Any) -> Any:
        if not isinstance(other, _NUMBERS):
            return NotImplemented
        return Symbol(self.trace, self.trace.note(function, (self, other)))

    return method


def _backward(function: Callable[[Any, Any], Any]) -> Callable[[Symbol, Any], Any]:
    def method(self: Symbol, other: Any) -> Any:
        if not isinstance(other, _NUMBERS):
            return NotImplemented
        return Symbol(self.trace, self.trace.note(function, (other, self)))

    return method


def _compare(function: Callable[[Any, Any], Any], otherwise: Any = NotImplemented) -> Callable[[Symbol, Any], Any]:
    def method(self: Symbol, other: Any) -> Any:
        if not isinstance(other, _NUMBERS):
            return otherwise
        return self.trace.decide(self.trace.note(function, (self, other)))

    return method


def _alone(function: Callable[[Any], Any]) -> Callable[[Symbol], Any]:
    def method(self: Symbol) -> Any:
        return Symbol(self.trace, self.trace.note(function, (self,)))

    return method


def _settled(function: Callable[[Any], Any]) -> Callable[..., Any]:
    def method(self: Symbol, *rest: Any) -> Any:
        return function(self.trace.decide(self.at), *rest)

    return method


class Symbol:
    """A size, or what was computed of sizes (an array, too), while it is noted."""

    __slots__ = ("at", "trace")
    __array_ufunc__ = None  # NumPy leaves arithmetic with its scalars to this class

    def __init__(self, trace: Trace, at: int) -> None:
        self.trace, self.at = trace, at

    @property
    def value(self) -> Any:
        """What it is here. Nothing may be decided on it."""
        return self.trace.values[self.at]

    __add__, __radd__ = _forward(operator.add), _backward(operator.add)
    __sub__, __rsub__ = _forward(operator.sub), _backward(operator.sub)
    __mul__, __rmul__ = _forward(operator.mul), _backward(operator.mul)
    __floordiv__, __rfloordiv__ = _forward(operator.floordiv), _backward(operator.floordiv)
    __truediv__, __rtruediv__ = _forward(operator.truediv), _backward(operator.truediv)
    __mod__, __rmod__ = _forward(operator.mod), _backward(operator.mod)
    __pow__, __rpow__ = _forward(operator.pow), _backward(operator.pow)
    __neg__, __abs__ = _alone(operator.neg), _alone(operator.abs)
    __ceil__, __floor__, __trunc__ = _alone(math.ceil), _alone(math.floor), _alone(math.trunc)
    __eq__, __ne__ = _compare(operator.eq, False), _compare(operator.ne, True)  # type: ignore[assignment]
    __lt__, __le__ = _compare(operator.lt), _compare(operator.le)
    __gt__, __ge__ = _compare(operator.gt), _compare(operator.ge)
    __index__, __int__, __float__ = _settled(operator.index), _settled(int), _settled(float)
    __hash__, __str__, __repr__, __format__ = _settled(hash), _settled(str), _settled(repr), _settled(format)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return np.asarray(self.trace.decide(self.at))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.trace.decide(self.at), name)

    def __bool__(self) -> bool:
        return self.trace.decide(self.trace.note(bool, (self,)))


_NUMBERS = (int, float, Symbol, np.integer, np.floating, np.bool_)


def has_symbols(value: Any) -> bool:
    """Whether it is a symbol, or a tuple that holds one somewhere."""
    return type(value) is Symbol or (isinstance(value, tuple) and any(map(has_symbols, value)))


def _trace_of(value: Any) -> Trace | None:
    if type(value) is Symbol:
        return value.trace
    if isinstance(value, tuple):
        return next((found for part in value if (found := _trace_of(part)) is not None), None)
    return None


def apply(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function gives, which depends on its arguments alone; where sizes among them (in tuples, too) are noted, so
    is the call, as a whole."""
    trace = _trace_of(arguments) if _open else None
    return function(*arguments) if trace is None else trace.symbol(trace.note(function, arguments))


def _frozen(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """What can be compared in the place of an array."""
    return array.dtype.str, array.shape, array.tobytes()


def _indices(start: int | None, stop: int | None, step: int | None, size: int) -> tuple[int, int, int]:
    return slice(start, stop, step).indices(size)


def indices(cut: slice, size: int) -> tuple[int, int, int]:
    """`slice.indices`."""
    return apply(_indices, cut.start, cut.stop, cut.step, size)


def shape_of(array: Any) -> tuple[int, ...]:
    """The shape of an array, on which something is decided now where it was computed of sizes."""
    return tuple(map(settled, apply(np.shape, array)))


def dtype_of(array: Any) -> np.dtype:
    """The element type of an array, which no size decides."""
    return (array.value if type(array) is Symbol else array).dtype


def settled(value: Any) -> Any:
    """The value itself, or a tuple of such, on which something is decided now."""
    if isinstance(value, tuple) and has_symbols(value):
        parts = map(settled, value)
        return value._make(parts) if hasattr(value, "_make") else tuple(parts)  # type: ignore[attr-defined]
    return value.trace.decide(value.at) if type(value) is Symbol else value


def whole(value: Any) -> Any:
    """The value as an int, a symbol as it is."""
    return value if type(value) is Symbol else int(value)
