"""Losses and steps beside PyTorch's: every loss and every optimizer with each of its options, in pairs. PyTorch's losses are
recorded, so that they are held to without it; gradients are held to the definitions, by differences in float64."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from nbconv.train.goals import LOSSES
from tests.train import grid, oracles
from tests.train.test_losses import value_and_gradient

ELSEWHERE = {"ctc", "iou", "ssd", "fcos"}
"""Losses of sequences and boxes, which have tests of their own beside PyTorch."""
NAMES = [name for name in LOSSES if name not in ELSEWHERE]
KEPT = json.loads(grid.RECORDED.read_text())


def test_every_row_stands_in_the_part() -> None:
    assert {loss.name for loss in grid.LOSSES} == set(NAMES)
    for rows, taken in ((grid.LOSSES, [p[0] for p in grid.PART]), (grid.RULES, [p[1] for p in grid.PART])):
        assert [row for row in rows if row not in taken] == []
    assert len(KEPT) == len(grid.PART)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_recorded(name: str) -> None:
    for loss, rule in grid.PART:
        if loss.name == name:
            np.testing.assert_allclose(grid.ours(loss, rule)[0], KEPT[f"{loss.title} | {rule.title}"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_definitions(name: str) -> None:
    for loss in grid.LOSSES:
        if loss.name != name:
            continue
        x, targets, state = grid.data(loss)
        w = state["w"].reshape(grid.CLASSES, -1)
        x = (np.einsum("kc,nc...->nk...", w, x) + state["b"].reshape(-1, *[1] * (x.ndim - 2))).astype(np.float32)
        exact, t = x.astype(np.float64), targets if targets.dtype.kind == "i" else targets.astype(np.float64)
        value, gradient = value_and_gradient(LOSSES[name], x, targets, **loss.options)
        oracle = getattr(oracles, name)
        assert value == pytest.approx(oracle(exact, t, **loss.options), rel=1e-5), loss.title
        want, step = np.empty(x.shape), 1e-6
        for at in np.ndindex(x.shape):
            moved = [exact.copy(), exact.copy()]
            moved[0][at] += step
            moved[1][at] -= step
            want[at] = (oracle(moved[0], t, **loss.options) - oracle(moved[1], t, **loss.options)) / (2 * step)
        np.testing.assert_allclose(gradient, want, rtol=2e-5, atol=2e-6 * np.abs(want).max(), err_msg=loss.title)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_recorded_values_are_pytorchs(name: str) -> None:
    for loss, rule in grid.PART:
        if loss.name == name:
            np.testing.assert_allclose(grid.theirs(loss, rule)[0], KEPT[f"{loss.title} | {rule.title}"], rtol=1e-9)
            assert grid.compare(loss, rule) <= 1e-5, (loss.title, rule.title)
