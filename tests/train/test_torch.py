"""Five steps of stochastic gradient descent with momentum, held to PyTorch's on the same data: models as its exporters write
them, batch normalisation kept."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.converters.onnx import read
from nbconv.edit.parameters import parameters
from nbconv.graph import Graph, Node, Spec
from nbconv.lowering.weights import Weights
from nbconv.ops import lookup
from nbconv.passes.autodiff import backprop
from nbconv.passes.fold import array, fold
from nbconv.train.step import TrainingStep

torch = pytest.importorskip("torch")

F32 = np.dtype(np.float32)
SMALL = {"lenet5": (6, 1, 28, 28), "mobilenet_v2": (4, 3, 48, 40), "resnet18": (4, 3, 48, 40), "unet": (2, 3, 24, 32)}
RATES, MOMENTUM = {"mobilenet_v2": 1e-4}, 0.9
"""Of learning, where it is not 1e-3. A fresh MobileNetV2 multiplies errors from step to step: at 1e-3 PyTorch's losses in
float32 and in float64 are 5e-3 apart after four."""


def with_momentum(graph: Graph, x: np.ndarray, y: np.ndarray) -> TrainingStep:
    """The step that trains all parameters: v = momentum · v + g, p - lr · v."""
    constants = dict(graph.constants)
    nodes = []
    for node in graph.nodes:  # exporters name equal constants by Identity
        if node.op.type == "Identity" and node.inputs[0] in constants:
            constants[node.outputs[0]] = constants[node.inputs[0]]
        else:
            nodes.append(node)
    graph = Graph(nodes, graph.inputs, graph.outputs, constants)
    names, statistics = [p.value for p in parameters(graph)], {}
    for i, node in enumerate(nodes):
        if node.op.type == "BatchNormalization":
            fields = {**node.op.attributes(), "training_mode": 1}
            made = (node.outputs[0], f"{node.outputs[0]}/mean", f"{node.outputs[0]}/var")
            nodes[i] = Node(lookup("BatchNormalization")(**fields), node.inputs, made)
            statistics.update(zip(node.inputs[3:], made[1:], strict=True))
    state = {n: np.array(constants.pop(n)) for n in [*names, *statistics]}
    feeds = {next(iter(graph.inputs)): Spec(x.shape, F32), "labels": Spec(y.shape, np.dtype(np.int64)), "lr": Spec((), F32)}
    nodes.append(Node(lookup("SoftmaxCrossEntropyLoss")(), (next(iter(graph.outputs)), "labels"), ("loss",)))
    inputs = {**feeds, **{n: Spec(a.shape, a.dtype) for n, a in state.items()}}
    graph, specs, _ = fold(Graph(nodes, inputs, {"loss": None}, constants), inputs, Weights(), frozenset(("loss",)))
    constants = {n: array(c) for n, c in graph.constants.items()} | {"one": np.ones((), F32), "m": np.array(MOMENTUM, F32)}
    graph, _, gradients = backprop(
        graph.derive(graph.nodes, constants), {**specs, "one": Spec((), F32)}, {"loss": "one"}, names
    )
    nodes, updates = list(graph.nodes), dict(statistics)
    for n, g in gradients.items():
        state[f"v/{n}"] = np.zeros_like(state[n])
        for kind, reads, writes in (
            ("Mul", (f"v/{n}", "m"), f"{n}/kept"), ("Add", (f"{n}/kept", g), f"{n}/v"),
            ("Mul", (f"{n}/v", "lr"), f"{n}/step"), ("Sub", (n, f"{n}/step"), f"{n}/new"),
        ):  # fmt: skip
            nodes.append(Node(lookup(kind)(), reads, (writes,)))
        updates |= {n: f"{n}/new", f"v/{n}": f"{n}/v"}
    return TrainingStep(graph.derive(nodes), feeds, state, updates, ("loss",), threads=1)


@pytest.mark.parametrize("name", SMALL)
def test_losses(name: str) -> None:
    from benchmarks import nets

    net, shape, rate = nets.make(name, width=0.25), SMALL[name], RATES.get(name, 1e-3)
    graph = read(nets.export(net, shape))
    data = nets.batches(name, shape, 5)
    step = with_momentum(graph, *data[0])
    assert not step.plan.numpy_steps()
    x = next(iter(step.feeds))
    ours = [float(step.run({x: a, "labels": y}, {"lr": rate})["loss"]) for a, y in data]  # pyright: ignore[reportOptionalSubscript]
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM)
    theirs = []
    for a, y in data:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(a)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
