"""Optimizer steps against values written down, and against PyTorch over several steps."""

from __future__ import annotations

from importlib.util import find_spec
from math import sqrt

import numpy as np
import pytest

from nbconv.ops.optimizer import (
    AdaDeltaUpdate,
    AdaGradUpdate,
    AdamUpdate,
    MomentumUpdate,
    RMSPropUpdate,
    SGDUpdate,
)
from nbconv.train import optimizers
from nbconv.train.optimizers import Optimizer
from tests.check import case, run_cases, sampler

r = sampler(31)
P, G, ONE = [1.0, -2.0, 0.0], [0.5, -1.0, 0.0], np.array(0.1, np.float32)
LR = np.array(0.01, np.float32)


def same(*shape: int) -> np.ndarray:
    """All of one sign, so that no sum loses its leading digits: what is allowed is a few roundings of the result."""
    return -np.abs(r(*shape)) - 0.1


def positive(*shape: int) -> np.ndarray:
    return np.abs(r(*shape))


CASES = [
    case(SGDUpdate(), P, G, ONE, outputs=1, expect=[0.95, -1.9, 0.0]),
    case(SGDUpdate(rate=0.5, weight_decay=0.1, l1=0.2), P, G, ONE, outputs=1, expect=[0.96, -1.93, 0.0]),
    case(SGDUpdate(rate=2.0, weight_decay=0.3), same(5, 3, 3, 7), same(5, 3, 3, 7), LR, outputs=1),
    case(MomentumUpdate(), P, G, [1.0, 0.0, 2.0], ONE, outputs=2, expect=([0.86, -1.9, -0.18], [1.4, -1.0, 1.8])),
    case(MomentumUpdate(nesterov=1), P, G, [1.0, 0.0, 2.0], ONE, outputs=2,
         expect=([0.824, -1.81, -0.162], [1.4, -1.0, 1.8])),
    case(MomentumUpdate(momentum=0.5, nesterov=1, weight_decay=0.1, l1=0.01), same(13, 7), same(13, 7), same(13, 7), LR,
         outputs=2),
    case(AdaGradUpdate(), P, G, [0.0, 8.0, 1.0], ONE, outputs=2, expect=([0.9, -2 + 0.1 / 3, 0.0], [0.25, 9.0, 1.0])),
    case(AdaGradUpdate(weight_decay=0.1), same(67), same(67), positive(67), LR, outputs=2),
    case(AdaDeltaUpdate(rho=0.5, epsilon=0.25), P, G, [0.25, 0.0, 0.0], [0.0, 0.0, 0.0], ONE, outputs=3,
         expect=([1 - 0.1 * 0.5 * 0.5 / sqrt(0.5), -2 + 0.1 * 0.5 / sqrt(0.75), 0.0], [0.25, 0.5, 0.0],
                 [0.5 * 0.125, 0.5 / 3, 0.0])),
    case(AdaDeltaUpdate(l1=0.1), same(9, 5), same(9, 5), positive(9, 5), positive(9, 5), ONE, outputs=3),
    case(RMSPropUpdate(alpha=0.5, epsilon=0.5), P, G, [0.25, 7.0, 0.0], [9.0, 9.0, 9.0], ONE, outputs=3,
         expect=([0.95, -1.96, 0.0], [0.25, 4.0, 0.0], [0.5, -0.4, 0.0])),
    case(RMSPropUpdate(momentum=0.9, weight_decay=0.01), same(33), same(33), positive(33), same(33), LR, outputs=3),
    case(AdamUpdate(beta1=0.5, beta2=0.5, epsilon=0.5), P, G, [0.5, 0.0, 0.0], [0.25, 0.0, 0.0], ONE,
         np.array(0.5, np.float32), np.array(1.0, np.float32), outputs=3,
         expect=([0.9, -2 + 0.1 / (sqrt(0.5) + 0.5), 0.0], [0.5, -0.5, 0.0], [0.25, 0.5, 0.0])),
    case(AdamUpdate(weight_decay=0.1, l1=0.1), same(41), same(41), same(41), positive(41), LR, np.array(0.3, np.float32),
         np.array(0.05, np.float32), outputs=3),
    case(SGDUpdate(rows=(1,)), [[1.0], [-2.0], [0.0]], [[4.0]], ONE, outputs=1, expect=[[1.0], [-2.4], [0.0]]),
    case(MomentumUpdate(rows=(0, 2, 3)), same(6, 5, 3), same(3, 5, 3), same(3, 5, 3), LR, outputs=2),
    case(AdamUpdate(rows=(1, 2, 6), weight_decay=0.1), same(7, 70), same(3, 70), same(3, 70), positive(3, 70), LR,
         np.array(0.3, np.float32), np.array(0.05, np.float32), outputs=3),
    case(AdamUpdate(weight_decay=0.1, decoupled=1), same(4, 11), same(4, 11), same(4, 11), positive(4, 11), LR,
         np.array(0.3, np.float32), np.array(0.05, np.float32), outputs=3),
]  # fmt: skip
test_cases = run_cases(CASES)

PAIRS: list[tuple[Optimizer, str, dict]] = [
    (optimizers.SGD(0.1), "SGD", {}),
    (optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01), "SGD", {"momentum": 0.9, "weight_decay": 0.01}),
    (optimizers.SGD(0.1, momentum=0.9, nesterov=True), "SGD", {"momentum": 0.9, "nesterov": True}),
    (optimizers.AdaGrad(0.1, weight_decay=0.01), "Adagrad", {"weight_decay": 0.01}),
    (optimizers.AdaGrad(0.1, start=0.5), "Adagrad", {"initial_accumulator_value": 0.5}),
    (optimizers.AdaDelta(), "Adadelta", {}),
    (optimizers.RMSProp(0.01, weight_decay=0.01), "RMSprop", {"weight_decay": 0.01}),
    (optimizers.RMSProp(0.01, momentum=0.5), "RMSprop", {"momentum": 0.5}),
    (optimizers.Adam(0.05, weight_decay=0.01), "Adam", {"weight_decay": 0.01}),
    (optimizers.AdamW(0.05), "AdamW", {}),
]


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("row", PAIRS, ids=[f"{p[1]}-{i}" for i, p in enumerate(PAIRS)])
def test_as_pytorch(row: tuple[Optimizer, str, dict]) -> None:
    import torch

    ours, name, options = row
    rng = np.random.default_rng(4)
    p = rng.standard_normal((7, 5))
    tensor = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    theirs = getattr(torch.optim, name)([tensor], lr=ours.lr, **options)
    op = ours.make(1.0, {})
    slots = [np.full(p.shape, v) for v in ours.initial()]
    for step in range(1, 7):
        g = rng.standard_normal(p.shape)
        tensor.grad = torch.tensor(g)
        theirs.step()
        scalars = [np.array(v) for v in ours.scalars(ours.lr, step).values()]
        p, *slots = op.reference(p, g, *slots, *scalars)
        np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-10)


def test_groups() -> None:
    adam = optimizers.Adam(0.1, weight_decay=0.5, groups={"*.bias": {"weight_decay": 0.0}, "head.*": {"lr": 0.2}})
    assert adam.make(0.5, adam.groups["head.*"]).rate == 1.0
    assert adam.make(1.0, adam.groups["*.bias"]).weight_decay == 0.0
    with pytest.raises(ValueError, match=r"group 'a' has 'momentum', wanted lr"):
        optimizers.SGD(groups={"a": {"momentum": 1}})
    with pytest.raises(ValueError, match="lr is -1"):
        optimizers.SGD(-1)
    with pytest.raises(ValueError, match="nesterov wants a momentum"):
        optimizers.SGD(0.1, nesterov=True)
    with pytest.raises(ValueError, match="momentum is 1"):
        optimizers.SGD(0.1, momentum=1)
