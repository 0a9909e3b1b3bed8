"""A network written layer by layer with ONNX's helper, from scratch or behind another model, for other examples to train.

python examples/layers.py    prints the nodes of a small classifier, and the shape of what it gives
"""

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

import nbconv


class Network:
    """Each method adds a layer behind a value, and gives the name of what that makes."""

    def __init__(self, begin: ModelProto | list, seed: int = 0) -> None:
        """``begin``: the shape of the input "x", or a model whose values there are already."""
        self.rng, self.nodes, self.weights = np.random.default_rng(seed), [], []
        if isinstance(begin, ModelProto):
            self.input, self.opset = begin.graph.input[0], begin.opset_import[0].version
            self.nodes, self.weights = list(begin.graph.node), list(begin.graph.initializer)
        else:
            self.input, self.opset = helper.make_tensor_value_info("x", TensorProto.FLOAT, begin), 21

    def constant(self, value: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), f"weight{len(self.weights)}"))
        return self.weights[-1].name

    def random(self, *shape: int, into: int) -> str:
        """Weights of a layer each of whose results adds up ``into`` products (He et al., 2015)."""
        return self.constant((self.rng.standard_normal(shape) * np.sqrt(2 / into)).astype(np.float32))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> str:
        weight, bias = self.random(outputs, inputs, size, size, into=inputs * size**2), np.zeros(outputs, np.float32)
        return self.add("Conv", x, weight, self.constant(bias), pads=[size // 2] * 4, strides=[stride] * 2)

    def block(self, x: str, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> str:
        """Convolution, batch normalisation, ReLU."""
        norm = [self.constant(np.full(outputs, v, np.float32)) for v in (1, 0, 0, 1)]
        return self.add("Relu", self.add("BatchNormalization", self.conv(x, inputs, outputs, size, stride), *norm))

    def load(self, **outputs: str) -> nbconv.Model:
        """The model whose outputs have these names."""
        ends = [helper.make_node("Identity", [value], [name], name) for name, value in outputs.items()]
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph([*self.nodes, *ends], "network", [self.input], made, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        return nbconv.load(model.SerializeToString())


if __name__ == "__main__":
    net = Network(["n", 3, 32, 32])
    model = net.load(y=net.add("Flatten", net.add("GlobalAveragePool", net.conv(net.block("x", 3, 8, stride=2), 8, 10))))
    print(*(node.name for node in net.nodes), model.run({"x": np.zeros((2, 3, 32, 32), np.float32)})["y"].shape)
