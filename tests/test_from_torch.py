"""PyTorch modules as models; where PyTorch is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import nbconv
from nbconv.errors import ModelError


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        nbconv.from_torch(object(), 1)


def test_a_module_runs_and_trains() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    net.train()
    for part in net:
        part.training = part is not net[1]
    x = torch.randn(2, 3, 6, 6)
    model = nbconv.from_torch(net, x, threads=2)
    assert [part.training for part in net] == [True, False, True, True, True]
    assert [p.name for p in model.inputs] == ["input"] and [p.name for p in model.outputs] == ["output"]
    y = torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        want = net.eval()(y).numpy()
    np.testing.assert_allclose(model(y.numpy()), want, rtol=1e-4, atol=1e-5)
    assert any(node.op.type == "BatchNormalization" for node in model.graph.nodes)
    trainer = nbconv.Trainer(model, loss="cross_entropy", optimizer=nbconv.SGD(lr=0.1))
    losses = [float(trainer.step(y.numpy(), np.array([0, 1, 2, 3, 0]))) for _ in range(20)]
    assert losses[-1] < losses[0] / 2


def test_several_inputs_and_outputs() -> None:
    torch = pytest.importorskip("torch")

    class Two(torch.nn.Module):
        def forward(self, left, right):
            return left + right, {"d": left - right}

    a, b = torch.randn(2, 3), torch.randn(2, 3)
    found = nbconv.from_torch(Two(), (a, b), batch=False).run({"left": a.numpy(), "right": b.numpy()})
    np.testing.assert_array_equal(found["output_0"], (a + b).numpy())
    np.testing.assert_array_equal(found["output_1"], (a - b).numpy())


def test_what_cannot_be() -> None:
    torch = pytest.importorskip("torch")

    class Odd(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("never")

    with pytest.raises(ModelError, match=r"PyTorch cannot export Odd: trace: never"):
        nbconv.from_torch(Odd(), torch.zeros(1))
    with pytest.raises(TypeError, match=r"wanted a torch\.nn\.Module"):
        nbconv.from_torch(3, torch.zeros(1))
    with pytest.raises(ValueError, match="exporter is 'x'"):
        nbconv.from_torch(torch.nn.ReLU(), torch.zeros(1), exporter="x")
