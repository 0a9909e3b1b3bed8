"""Tuning: what is fastest here is found once, kept, and may be refused."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import nbconv
from nbconv.models import efficientnet_lite0
from nbconv.plan.plan import Plan
from nbconv.runtime import tuner as tune

X = np.random.default_rng(0).standard_normal((1, 16, 22, 26), np.float32)


def convolutions() -> bytes:
    """Two 3×3 convolutions of one geometry and one of another, in a file that is like no other."""
    rng = np.random.default_rng(1)
    weights = {f"w{i}": 0.1 * rng.standard_normal((co, 16, 3, 3), np.float32) for i, co in enumerate((16, 16, 40))}
    nodes = [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1, 1, 1, 1]) for i in range(3)]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, c, 22, 26]) for name, c in (("x0", 16), ("x3", 40))
    ]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, str(uuid.uuid4()), ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


NAMES = "indirect_gemm", "winograd_4", "winograd_2"


def implementations(plan: Plan) -> set[str]:
    return {step.impl.name for step in plan.steps if step.impl.candidates}


@pytest.mark.parametrize("name", NAMES)
def test_choices_are_obeyed_and_timed(name: str) -> None:
    model = nbconv.load(convolutions())
    plain = model.plan({"x0": X.shape})
    choices = dict.fromkeys(tune._chosen(plain), name)
    assert sorted(p.geometry.co for p in choices) == [16, 40]
    assert {impl.candidates for impl in tune._chosen(plain).values()} == {NAMES}
    plan = Plan(model.graph, plain.inputs, model.weights, plain.fetch, plain.target, choices)
    assert implementations(plan) == {name}
    seconds = tune._times(plan, 1)
    assert seconds.keys() == choices.keys() and all(s > 0 for s in seconds.values())


def said(monkeypatch: pytest.MonkeyPatch, default: float, *times: float) -> None:
    """Has plans take so long: that of costs, and those of `NAMES`."""

    def told(plan: Plan, threads: int) -> dict[Any, float]:
        return {p: dict(zip(NAMES, times)).get(plan.choices.get(p, ""), default) for p in tune._chosen(plan)}

    monkeypatch.setattr(tune, "_times", told)


def test_the_fastest_is_taken_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, 2.0, 1.0, 2.0, 3.0)
    data = convolutions()
    default = nbconv.load(data).run({"x0": X})["x3"]
    direct = nbconv.load(data, tune=True).run({"x0": X})["x3"]
    assert direct.tobytes() != default.tobytes()
    np.testing.assert_allclose(direct, default, atol=1e-5 * np.abs(default).max())

    def never(*_: object) -> dict[str, int]:
        raise AssertionError("tuned again")

    monkeypatch.setattr(tune, "tune", never)
    assert nbconv.load(data, tune=True).run({"x0": X})["x3"].tobytes() == direct.tobytes()
    assert nbconv.load(data, tune=True, deterministic=True).run({"x0": X})["x3"].tobytes() == default.tobytes()
    assert nbconv.load(data).run({"x0": X})["x3"].tobytes() == default.tobytes()


def test_a_choice_must_gain_something(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, 2.0, 1.99, 2.0, 3.0)
    model = nbconv.load(convolutions())
    plan = model.plan({"x0": X.shape})
    assert tune.tune(model.graph, model.weights, plan, 1) == {}


def test_without_candidates() -> None:
    model = nbconv.load(efficientnet_lite0())
    plan = model.plan({"input": (1, 3, 224, 224)})
    assert tune.tune(model.graph, model.weights, plan, 1) == {}
