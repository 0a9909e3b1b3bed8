"""Parameters of the kernels of connectionist temporal classification, as those of params.py."""

from typing import NamedTuple


class Alignment(NamedTuple):
    """``batch`` sequences of ``steps`` rows of ``classes`` scores, which lie ``step`` and ``sample``
    floats apart, each with up to ``symbols`` labels and ``pad`` behind them.
    ``pitch``: floats of a row of states, whose first is at the second vector; ``zero``: an infinite
    loss is 0."""

    batch: int
    steps: int
    classes: int
    symbols: int
    step: int
    sample: int
    blank: int
    pad: int
    pitch: int
    zero: int
