"""Parameters of the kernels of recurrent networks, as those of params.py."""

from typing import NamedTuple

from nbconv.kernels.params import Floats


class Sequences(NamedTuple):
    """``steps`` of a ``batch`` of sequences in ``ways`` directions, of which a unit has ``rows``.
    ``reverse``: the first direction, too, goes backwards; ``flag``: changes the cell's equations;
    ``clip``: limits what goes into the gates.
    ``hard``: gates are hard sigmoids of ``alpha`` and ``beta``; ``relu``: in place of tanh;
    ``rounded``: h is rounded to 8 bits before R meets it."""

    steps: int
    batch: int
    hidden: int
    ways: int
    rows: int
    reverse: int
    flag: int
    clip: float
    hard: int
    alpha: float
    beta: float
    relu: int
    rounded: int


class Recurrence(NamedTuple):
    """R and its bias in panels, and peepholes (i, o, f), where there are such."""

    r: Floats
    bias: Floats
    peepholes: Floats


class States(NamedTuple):
    """States (ways, batch, hidden) before the first step: from one direction to the next ``way``
    floats, from one sequence to the next ``row``."""

    h: Floats
    c: Floats
    way: int
    row: int
    c_way: int
    c_row: int


class Results(NamedTuple):
    """h of all steps (steps, ways, batch, hidden), and, where they are wanted, the last states
    (ways, batch, hidden)."""

    y: Floats
    h: Floats
    c: Floats


class Slopes(NamedTuple):
    """The gradients of `Results`, where there are such."""

    y: Floats
    h: Floats
    c: Floats


class Gradients(NamedTuple):
    """Of what the input added to the gates and, where they differ, of what R did, (ways, steps,
    batch, gates · hidden); the states that R met (ways, steps, batch, hidden); the gradients of the
    first states (ways, batch, hidden)."""

    added: Floats
    met: Floats
    seen: Floats
    h: Floats
    c: Floats
