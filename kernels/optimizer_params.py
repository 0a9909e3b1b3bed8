"""Parameters of the optimizers' kernels, as those of params.py."""

from typing import NamedTuple

from nbconv.kernels.params import Floats


class Span(NamedTuple):
    """n elements, of which a unit has ``chunk``."""

    n: int
    chunk: int


class Learning(NamedTuple):
    """The learning rate, a number in memory times ``rate``, and the factors of weight decay and of
    the L1 norm's slope."""

    lr: Floats
    rate: float
    decay: float
    l1: float


class AdaDelta(NamedTuple):
    """Factors of AdaDelta; ``rest`` is 1 - rho."""

    rho: float
    rest: float
    epsilon: float


class RMSProp(NamedTuple):
    """Factors of RMSProp; ``rest`` is 1 - alpha."""

    alpha: float
    rest: float
    epsilon: float
    momentum: float


class Adam(NamedTuple):
    """Factors of Adam; ``c1`` and ``root`` are numbers in memory: 1 - beta1^t and sqrt(1 -
    beta2^t), ``rest`` 1 - beta.
    ``decoupled``: weight decay is not part of the gradient."""

    c1: Floats
    root: Floats
    rest1: float
    beta2: float
    rest2: float
    epsilon: float
    decoupled: int
