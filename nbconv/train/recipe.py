"""What is to be trained, and how; and the names of a step's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nbconv.edit.parameters import Parameter
from nbconv.graph import Graph
from nbconv.train.optimizers import Optimizer

STEP = "hyper/step"
"""The input that counts steps, int64, from 1."""
LABELS = "hyper/targets"
"""The input that holds targets; of several losses, what its names begin with."""


class Recipe(NamedTuple):
    """What is to be trained, and how."""

    graph: Graph
    logits: tuple[str, ...]
    """what losses are computed of"""
    loss: Callable[[Any, Mapping[str, str]], str]
    """adds the loss, of values by the names of the logits and of the targets"""
    optimizer: Optimizer
    chosen: tuple[Parameter, ...]
    factors: Mapping[str, float]
    """what the learning rate of each parameter is multiplied by"""
    seed: int
    bn_momentum: float | None = None
    """what batch normalisation keeps of its running statistics, where it is not what the model says"""
    ema: float | None = None
    """what averages of the weights keep of themselves at a step"""
    told: Callable[[Any, Mapping[str, str]], dict[str, str]] | None = None
    """adds what else a step tells, by names of its own"""
    rows: Mapping[str, tuple[int, ...]] = {}
    """of some parameters the places along their first axis that train"""


def slot(value: str, i: int) -> str:
    """The name under which an optimizer's slot i of a parameter is kept."""
    return f"slot{i}/{value}"


def average(value: str) -> str:
    """The name under which the average of a parameter or statistic is kept."""
    return f"slot/average/{value}"
