"""Random graphs whose values stay of moderate size."""

from __future__ import annotations

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.op import Op
from nbconv.ops import lookup

F32 = np.dtype(np.float32)
CHANNELS = (1, 2, 3, 5, 8, 16, 17, 33)
SMALL = (
    "Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Softplus", "Abs", "Neg", "Erf", "Identity",
    "Gelu", "Floor", "Selu", "Mish", "Celu", "Softsign", "ThresholdedRelu",
)  # fmt: skip


class Generator:
    """Draws a graph whose values stay of moderate size."""

    def __init__(self, seed: int, without: frozenset[str] = frozenset()) -> None:
        self.without = without
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.masks: dict[str, tuple[int, ...]] = {}

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def graph(self, size: int) -> Graph:
        n, rank = self.pick((1, 2, 3)), self.pick((3, 4, 4, 4))
        for i in range(self.pick((1, 1, 2))):
            self.inputs[f"x{i}"] = (n, self.pick(CHANNELS), *(int(d) for d in self.rng.integers(3, 10, rank - 2)))
        self.shapes.update(self.inputs)
        makers = [getattr(self, name) for name in dir(self) if name.startswith("add_")]
        while len(self.nodes) < size:
            x = self.pick(list(self.shapes)[-5:])
            self.pick(makers)(x, self.shapes[x])
        read = {name for node in self.nodes for name in node.inputs}
        outputs = [name for node in self.nodes for name in node.outputs if name not in read]
        outputs += [name for name in self.shapes if name in read and self.rng.random() < 0.1]
        specs = {name: Spec(shape, F32) for name, shape in self.inputs.items()}
        return Graph(self.nodes, specs, dict.fromkeys(outputs), self.constants)

    def constant(self, *shape: int, scale: float = 1.0, positive: bool = False) -> str:
        name = f"k{len(self.constants)}"
        value = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
        self.constants[name] = np.abs(value) + np.float32(0.5) if positive else value
        return name

    def integers(self, *values: int) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(values, np.int64)
        return name

    def add(self, op: Op, *inputs: str) -> None:
        """Append the node, unless it does not fit, grows too large, or is not wanted."""
        if op.type in self.without:
            return
        known = {name: Spec(v.shape, v.dtype, v, True) for name, v in self.constants.items()}
        known.update({name: Spec(shape, F32) for name, shape in self.shapes.items()})
        known.update({name: Spec(shape, np.dtype(np.bool_)) for name, shape in self.masks.items()})
        try:
            found = op.infer(*(known[n] if n else None for n in inputs))
        except ModelError:
            return
        found = found if type(found) is tuple else (found,)
        if any(s.size > 40_000 or s.dtype != F32 or s.size == 0 for s in found):
            return
        outputs = tuple(f"v{len(self.shapes)}.{i}" for i in range(len(found)))
        self.nodes.append(Node(op, inputs, outputs))
        self.shapes.update({name: s.shape for name, s in zip(outputs, found)})

    def sizes(self, name: str) -> tuple[int, ...]:
        """The shape of a value or constant."""
        return self.shapes[name] if name in self.shapes else self.constants[name].shape

    def add_small(self, x, shape) -> None:
        self.add(lookup(self.pick(SMALL))(), x)

    add_small_2 = add_small

    def add_clip(self, x, shape) -> None:
        low = f"k{len(self.constants)}"
        self.constants[low] = np.float32(-0.5).reshape(())
        self.add(lookup("Clip")(), x, low)

    def add_silu(self, x, shape) -> None:
        self.add(lookup("Sigmoid")(), x)
        self.add(lookup("Mul")(), list(self.shapes)[-1], x)

    def add_conv(self, x, shape) -> None:
        if len(shape) not in (3, 4):
            return
        c, spatial = shape[1], len(shape) - 2
        group = self.pick([g for g in (1, 1, 1, 2, c) if c % g == 0])
        out = group * self.pick((1, 2, 5, 16, 19)) if group < c or c == 1 else c * self.pick((1, 1, 2))
        kernel = [self.pick((1, 1, 2, 3, 5)) for _ in range(spatial)]
        pads = [int(p) for p in self.rng.integers(0, 3, 2 * spatial)]
        op = lookup("Conv")(
            group=group,
            pads=pads,
            strides=[self.pick((1, 1, 2, 3)) for _ in kernel],
            dilations=[self.pick((1, 1, 2)) for _ in kernel],
        )
        w = self.constant(out, c // group, *kernel, scale=(2 / (c // group * np.prod(kernel))) ** 0.5)
        self.add(op, x, w, *([self.constant(out)] if self.rng.random() < 0.7 else []))

    add_conv_2 = add_conv_3 = add_conv

    def add_transpose_conv(self, x, shape) -> None:
        if len(shape) not in (3, 4):
            return
        c, spatial = shape[1], len(shape) - 2
        group = self.pick([g for g in (1, 1, 2) if c % g == 0])
        kernel = [self.pick((1, 2, 3, 4)) for _ in range(spatial)]
        op = lookup("ConvTranspose")(
            group=group, strides=[self.pick((1, 2, 3)) for _ in kernel], dilations=[self.pick((1, 1, 2, 3)) for _ in kernel],
            pads=[self.pick((0, 1)) for _ in range(2 * spatial)],
        )  # fmt: skip
        self.add(op, x, self.constant(c, self.pick((1, 3, 9)), *kernel, scale=c**-0.5))

    def add_batch_norm(self, x, shape) -> None:
        if len(shape) > 1:
            c = shape[1]
            fields = [self.constant(c), self.constant(c), self.constant(c), self.constant(c, positive=True)]
            self.add(lookup("BatchNormalization")(epsilon=self.pick((1e-5, 0.1))), x, *fields)

    add_batch_norm_2 = add_batch_norm

    def add_arithmetic(self, x, shape) -> None:
        op = lookup(self.pick(("Add", "Sub", "Mul", "Max", "Min", "Sum")))()
        pair = (x, self.pick(self.fitting(shape)))
        self.add(op, *(pair if self.rng.random() < 0.5 else pair[::-1]))

    add_arithmetic_2 = add_arithmetic

    def fitting(self, shape: tuple[int, ...]) -> list[str]:
        """Values that broadcast with this shape."""
        return [n for n, s in self.shapes.items() if all(a == b or 1 in (a, b) for a, b in zip(s[::-1], shape[::-1]))]

    def add_constant_arithmetic(self, x, shape) -> None:
        kept = tuple(d if self.rng.random() < 0.4 else 1 for d in shape)
        if self.rng.random() < 0.5 and len(shape) > 1:
            kept = (1, shape[1], *[1] * (len(shape) - 2))
        drop = int(self.rng.integers(len(shape) + 1))
        while drop and any(d != 1 for d in kept[:drop]):
            drop -= 1
        kind = self.pick(("Add", "Mul", "Sub", "Div"))
        c = self.constant(*kept[drop:], positive=kind == "Div")
        self.add(lookup(kind)(), *((x, c) if kind == "Div" or self.rng.random() < 0.7 else (c, x)))

    add_constant_arithmetic_2 = add_constant_arithmetic

    def add_prelu(self, x, shape) -> None:
        if len(shape) > 2:
            self.add(lookup("PRelu")(), x, self.constant(shape[1], *[1] * (len(shape) - 2)))

    def add_pool(self, x, shape) -> None:
        if len(shape) not in (3, 4):
            return
        spatial = len(shape) - 2
        kernel = [self.pick((1, 2, 3)) for _ in range(spatial)]
        pads = [int(self.rng.integers(0, k)) for k in kernel * 2]
        name = self.pick(("MaxPool", "AveragePool"))
        op = lookup(name)(
            kernel_shape=kernel, strides=[self.pick((1, 2)) for _ in kernel], pads=pads, ceil_mode=self.pick((0, 1))
        )
        if name == "AveragePool" or name in self.without:
            self.add(op, x)
            return
        known = Spec(shape, F32)
        try:
            out = op.infer(known)[0]
        except ModelError:
            return
        self.nodes.append(Node(op, (x,), (f"v{len(self.shapes)}.0",)))
        self.shapes[f"v{len(self.shapes)}.0"] = out.shape

    def add_global_pool(self, x, shape) -> None:
        if len(shape) > 2:
            self.add(lookup(self.pick(("GlobalAveragePool", "GlobalMaxPool")))(), x)

    def add_reduce(self, x, shape) -> None:
        axes = [i for i in range(len(shape)) if self.rng.random() < 0.4] or [len(shape) - 1]
        op = lookup(self.pick(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")))(
            keepdims=self.pick((0, 1, 1))
        )
        self.add(op, x, self.integers(*axes))

    def add_standardized(self, x, shape) -> None:
        if len(shape) < 3:
            return
        c, kind = (
            shape[1],
            self.pick(("InstanceNormalization", "GroupNormalization", "LayerNormalization", "LpNormalization")),
        )
        if kind == "LpNormalization":
            self.add(lookup(kind)(axis=self.pick((1, -1)), p=self.pick((1, 2))), x)
            return
        groups = {"num_groups": self.pick([g for g in (1, 2, c) if c % g == 0])} if kind == "GroupNormalization" else {}
        size = shape[-1] if kind == "LayerNormalization" else c
        self.add(lookup(kind)(epsilon=0.1, **groups), x, self.constant(size), self.constant(size))

    def add_gather(self, x, shape) -> None:
        axis = int(self.rng.integers(len(shape))) if shape else 0
        if shape:
            self.add(lookup("Gather")(axis=axis), x, self.integers(*(int(i) for i in self.rng.integers(0, shape[axis], 3))))

    def add_where(self, x, shape) -> None:
        if self.rng.random() < 0.5:
            y = self.pick(self.fitting(shape))
            self.nodes.append(Node(lookup("Greater")(), (x, y), (f"c{len(self.nodes)}",)))
            mask, made = self.nodes[-1].outputs[0], len(self.nodes)
            self.masks[mask] = tuple(np.broadcast_shapes(shape, self.sizes(y)))
            self.add(lookup("Where")(), mask, x, self.constant(1))
            if len(self.nodes) == made:
                self.nodes.pop()

    def add_softmax(self, x, shape) -> None:
        if shape:
            self.add(lookup(self.pick(("Softmax", "LogSoftmax")))(axis=int(self.rng.integers(-len(shape), len(shape)))), x)

    def add_transpose(self, x, shape) -> None:
        perms = {
            4: [(0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (3, 2, 1, 0)],
            3: [(0, 2, 1), (2, 0, 1)],
        }
        if len(shape) in perms:
            self.add(lookup("Transpose")(perm=self.pick(perms[len(shape)])), x)

    add_transpose_2 = add_transpose

    def add_concat(self, x, shape) -> None:
        if not shape:
            return
        axis = self.pick((1, 1, 0, -1)) if len(shape) > 1 else 0
        same = [
            n
            for n, s in self.shapes.items()
            if len(s) == len(shape) and all(a == b for i, (a, b) in enumerate(zip(s, shape)) if i != axis % len(shape))
        ]
        extra = [self.pick(same) for _ in range(self.pick((1, 1, 2)))]
        if self.rng.random() < 0.2:
            extra.append(self.constant(*shape))
        self.add(lookup("Concat")(axis=axis), x, *extra)

    def add_split(self, x, shape) -> None:
        if len(shape) > 1 and shape[1] > 2:
            self.add(lookup("Split")(axis=1), x, self.integers(1, shape[1] - 1))

    def add_slice(self, x, shape) -> None:
        if not shape:
            return
        axis = int(self.rng.integers(len(shape)))
        start, end, step = self.pick(((0, -1, 1), (1, 99, 1), (0, 99, 2), (-1, -99, -1)))
        self.add(lookup("Slice")(), x, *(self.integers(v) for v in (start, end, axis, step)))

    def add_pad(self, x, shape) -> None:
        pads = [int(p) for p in self.rng.integers(-1, 3, 2 * len(shape))]
        self.add(lookup("Pad")(mode=self.pick(("constant", "constant", "edge"))), x, self.integers(*pads))

    def add_reshape(self, x, shape) -> None:
        if len(shape) == 4:
            n, c, h, w = shape
            self.add(
                lookup("Reshape")(),
                x,
                self.integers(*self.pick(((n, c, h * w), (n, h, c, w), (n, -1), (1, n * c, h, w), (n, c, w, h)))),
            )
        elif len(shape) == 3:
            self.add(lookup("Unsqueeze")(), x, self.integers(self.pick((1, 2, 3))))
        elif len(shape) == 2:
            self.add(lookup("Reshape")(), x, self.integers(*shape, 1, 1))

    def add_flatten(self, x, shape) -> None:
        if self.rng.random() < 0.3 and len(shape) > 1:
            self.add(lookup("Flatten")(), x)

    def add_product(self, x, shape) -> None:
        if len(shape) == 2 and self.rng.random() < 0.5:
            n = self.pick((1, 7, 16, 40))
            self.add(lookup("Gemm")(), x, self.constant(shape[1], n, scale=shape[1] ** -0.5), self.constant(n))
        elif shape:
            self.add(lookup("MatMul")(), x, self.constant(shape[-1], self.pick((1, 4, 18)), scale=shape[-1] ** -0.5))

    def add_product_of_two(self, x, shape) -> None:
        if len(shape) >= 3:
            fits = [
                n for n, s in self.shapes.items() if len(s) == len(shape) and s[:-2] == shape[:-2] and s[-2] == shape[-1]
            ]
            if fits:
                self.add(lookup("Tanh")(), x)
                self.add(lookup("MatMul")(), list(self.shapes)[-1], self.pick(fits))

    def add_resize(self, x, shape) -> None:
        if len(shape) == 4:
            op = lookup("Resize")(
                mode=self.pick(("nearest", "linear")), coordinate_transformation_mode=self.pick(("half_pixel", "asymmetric"))
            )
            scales = f"k{len(self.constants)}"
            self.constants[scales] = np.array([1, 1, self.pick((1, 2, 0.6)), self.pick((1, 2, 1.7))], np.float32)
            self.add(op, x, "", scales)

    def add_depth_space(self, x, shape) -> None:
        if len(shape) == 4:
            self.add(self.pick((lookup("DepthToSpace")(blocksize=2, mode="CRD"), lookup("SpaceToDepth")(blocksize=2))), x)

    def add_expand(self, x, shape) -> None:
        if len(shape) == 4 and 1 in shape[2:]:
            self.add(lookup("Expand")(), x, self.integers(1, 1, 3, 2))

    def add_lrn(self, x, shape) -> None:
        if len(shape) > 2:
            self.add(lookup("LRN")(size=self.pick((1, 3, 4)), alpha=0.1), x)
