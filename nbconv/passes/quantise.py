"""What stands between DequantizeLinear and QuantizeLinear, as the operator on 8-bit integers that does all of it.

It knows no shapes: it runs on the authored graph, before constants are folded, which would dequantise weights. A value that
is fetched, or read by others too, stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nbconv.graph import FLOAT32, Graph, Node, spec_of
from nbconv.ops.inner import OfType
from nbconv.ops.integer import QLinearGemm, QLinearMatMul
from nbconv.ops.integer_conv import QLinearConv
from nbconv.ops.pointwise import Unary
from nbconv.ops.qlinear import LookUp, QLinearAdd, QLinearBinary, QLinearConcat, QLinearMul, QLinearSoftmax, QLinearUnary
from nbconv.ops.qlinear_pool import QLinearAveragePool, QLinearGlobalAveragePool
from nbconv.ops.quantize import EIGHT_BITS, DequantizeLinear, QuantizeLinear, limits
from nbconv.ops.rectifier import Clip
from nbconv.ops.shape import Transpose
from nbconv.passes.fold import array

MOVES = frozenset(
    ("DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that move the elements of their first input, or choose among them: they do so with integers, too."""
LIMITS = ("Relu", "Clip")
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow")


class Steps(NamedTuple):
    """A value's integers, and what they stand for: names, and the zero point's array."""

    value: str
    scale: str
    zero: str
    zero_point: np.ndarray

    @property
    def names(self) -> tuple[str, str, str]:
        return self.value, self.scale, self.zero


class Table(NamedTuple):
    """Integers as a function of others, those of ``root``: what each of the 256 becomes, and how many axes they have at
    least, of what root's are broadcast with."""

    root: str
    codes: np.ndarray
    rank: int = 0


def fuse_quantised(graph: Graph, keep: frozenset[str]) -> Graph:
    """Operators between DequantizeLinear and QuantizeLinear become those that ONNX and onnxruntime call QLinear, tables of
    256 integers, or the same operators on integers; those called QLinear that are functions of one integer, tables, too."""
    if not any(isinstance(node.op, (QuantizeLinear, QLinearBinary, QLinearUnary)) for node in graph.nodes):
        return graph
    return _Fusion(graph, keep).graph()


class _Fusion:
    def __init__(self, graph: Graph, keep: frozenset[str]) -> None:
        self._graph, self._constants = graph, dict(graph.constants)
        self._makers = graph.producers()
        self._only = {n for n, found in graph.readers().items() if len(found) == 1} - set(graph.outputs) - keep
        self._keep = keep | set(graph.outputs)
        self._tables: dict[str, Table] = {}
        """by result"""
        self._roots: dict[str, np.dtype] = {}
        """the types that integers have which tables are made for"""
        self._rules: dict[str, Callable[[Node, Steps, str], list[Node] | None]] = {
            "Conv": self._conv,
            "Gemm": self._gemm,
            "MatMul": self._mat_mul,
            "Add": self._binary,
            "Mul": self._binary,
            "Concat": self._concat,
            "GlobalAveragePool": self._average,
            "AveragePool": self._average_pool,
            "Softmax": self._softmax,
            **dict.fromkeys(MOVES, self._moved),
        }

    def graph(self) -> Graph:
        nodes: list[Node] = []
        gone: dict[str, str] = {}
        for node in self._graph.nodes:
            ends = isinstance(node.op, QuantizeLinear)
            made = self._made(node) if ends else self._tabled(node)
            if made is None:
                nodes.append(node)
                continue
            nodes += made
            if ends:
                gone |= {n: f"fused into {node.outputs[0]}" for n in self._between(node) if n in self._only}
        return self._graph.derive(nodes, self._constants, gone)

    def _between(self, node: Node) -> list[str]:
        """The values of floats that end in a QuantizeLinear."""
        name, found = node.inputs[0], []
        while name in self._makers and name in self._only:
            found.append(name)
            maker = self._makers[name]
            if maker.op.type not in LIMITS:
                break
            name = maker.inputs[0]
        return found

    def _made(self, node: Node) -> list[Node] | None:
        """The nodes on integers that give what the QuantizeLinear ``node`` gives; None where it stays."""
        y = self._steps(node)
        between = self._between(node)
        if y is None or not between:
            return None
        *limiting, core = between
        maker, output = self._makers[core], node.outputs[0]
        if maker.op.domain or len(maker.outputs) != 1:
            return None
        clamp = [self._makers[name] for name in limiting]
        if isinstance(maker.op, DequantizeLinear):
            x = self._steps(maker)
            known = x is not None and self._ends_known(clamp)
            return [self._looked_up(x.value, x, y, output, clamp[::-1])] if x is not None and known else None
        if maker.op.type in LIMITS or isinstance(maker.op, Unary) or self._is_affine(maker):
            return self._table([maker, *clamp[::-1]], y, output)
        rule = self._rules.get(maker.op.type)
        bounds = self._bounds(clamp, y)
        if rule is None or bounds is None:
            return None
        low, high = limits(y.zero_point.dtype)
        if bounds == (low, high):
            return rule(maker, y, output)
        made = rule(maker, y, wide := f"{output}#all")
        if made is None:
            return None
        names = [
            self._keep_constant(f"{output}#{k}", np.array(v, y.zero_point.dtype)) for k, v in zip(("low", "high"), bounds)
        ]
        return [*made, Node(Clip(), (wide, *names), node.outputs, node.name)]

    def _bounds(self, clamp: list[Node], y: Steps) -> tuple[int, int] | None:
        """The integers between which Relus and Clips leave the results."""
        low, high = limits(y.zero_point.dtype)
        for node in clamp:
            ends = self._ends(node)
            if ends is None:
                return None
            least, most = (int(self._quantised(v, y).reshape(())) for v in ends)
            low, high = max(low, least), max(low, min(high, most))
        return low, high

    def _ends_known(self, clamp: list[Node]) -> bool:
        """Whether the ends of Relus and Clips are known numbers."""
        return all(self._number(n) is not None for node in clamp for n in node.inputs[1:] if n)

    def _ends(self, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
        found = []
        for i, default in ((1, 0.0 if node.op.type == "Relu" else -np.inf), (2, np.inf)):
            name = node.inputs[i] if i < len(node.inputs) else ""
            if name and name not in self._constants:
                return None
            value = self._array(name) if name else np.array(default, np.float32)
            if value.dtype != FLOAT32 or value.size != 1 or np.isnan(value).any():
                return None
            found.append(value.reshape(()))
        return found[0], found[1]

    def _quantised(self, v: np.ndarray, y: Steps) -> np.ndarray:
        return QuantizeLinear().reference(v, self._array(y.scale), y.zero_point)

    # What is known of values

    def _array(self, name: str) -> np.ndarray:
        return array(self._constants[name])

    def _keep_constant(self, name: str, value: np.ndarray) -> str:
        self._constants[name] = value
        return name

    def _steps(self, node: Node | None, weights: bool = False) -> Steps | None:
        """The integers on the other side of a QuantizeLinear or DequantizeLinear by one scale, or with ``weights`` by one of
        each slice; None for another node, or numbers that are not known."""
        if node is None or not isinstance(node.op, (QuantizeLinear, DequantizeLinear)) or len(node.inputs) < 3:
            return None
        value, scale, zero = node.inputs
        if scale not in self._constants or zero not in self._constants or node.op.block_size or node.op.output_dtype:
            return None
        s, z = self._constants[scale], self._constants[zero]
        one = all(int(np.prod(v.shape)) == 1 for v in (s, z))
        if s.dtype != FLOAT32 or z.dtype not in EIGHT_BITS or not (one or weights) or getattr(node.op, "precision", 0):
            return None
        if not one and tuple(s.shape) != tuple(z.shape):
            return None
        if not weights and not 0 < array(s).reshape(()) < np.inf:  # integers would be in another order
            return None
        return Steps(value, scale, zero, array(z))

    def _read(self, name: str) -> Steps | None:
        """The integers that a float value is made of."""
        return None if name in self._keep else self._steps(self._makers.get(name))

    def _weights(self, name: str, axis: int) -> Steps | None:
        """Integers that are constant, of one scale or one for each slice along this axis."""
        maker = self._makers.get(name)
        found = self._steps(maker, weights=True)
        if maker is None or found is None or found.value not in self._constants:
            return None
        w, scale = self._constants[found.value], self._constants[found.scale]
        along: int = maker.op.axis  # type: ignore[attr-defined]
        sliced = len(scale.shape) == 1 and along in (axis, axis - len(w.shape)) and scale.shape[0] == w.shape[axis]
        return found if w.shape and (sliced or int(np.prod(scale.shape)) == 1) else None

    def _bias(self, name: str, x: Steps, w: Steps, output: str) -> str | None:
        """A bias as int32 of the scale of products; None where it is not known, or does not fit."""
        scale = self._array(x.scale).reshape(-1) * self._array(w.scale).reshape(-1)
        maker = self._makers.get(name)
        if maker is not None and isinstance(maker.op, DequantizeLinear) and all(n in self._constants for n in maker.inputs):
            numbers = [self._array(n) for n in maker.inputs]
            maker.infer(tuple(map(spec_of, numbers)))
            zero = len(numbers) < 3 or not numbers[2].any()
            if numbers[0].dtype == np.int32 and zero and _close(numbers[1].reshape(-1), scale):
                return maker.inputs[0]
            values: np.ndarray = maker.op.reference(*numbers)  # type: ignore[assignment]
        elif name in self._constants:
            values = self._array(name)
        else:
            return None
        if values.ndim != 1 or len(scale) not in (1, len(values)):
            return None
        with np.errstate(all="ignore"):
            steps = np.rint(values.astype(np.float64) / scale)
        if not (np.abs(steps) < 2**30).all():
            return None
        return self._keep_constant(f"{output}#bias", steps.astype(np.int32))

    # One operator

    def _conv(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        x, w = self._read(node.inputs[0]), self._weights(node.inputs[1], 0)
        if x is None or w is None or len(self._constants[w.value].shape) > 4:
            return None
        bias = self._bias(node.inputs[2], x, w, output) if len(node.inputs) > 2 and node.inputs[2] else ""
        if bias is None:
            return None
        inputs = (*x.names, *w.names, y.scale, y.zero, *([bias] if bias else []))
        return [Node(QLinearConv(**node.op.attributes()), inputs, (output,), output)]

    def _mat_mul(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        x, w = self._read(node.inputs[0]), self._weights(node.inputs[1], 1)
        if x is None or w is None or len(self._constants[w.value].shape) != 2:
            return None
        return [Node(QLinearMatMul(), (*x.names, *w.names, y.scale, y.zero), (output,), output)]

    def _gemm(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        op: Any = node.op
        x, w = self._read(node.inputs[0]), self._weights(node.inputs[1], 0 if op.transB else 1)
        if x is None or w is None or op.transA or op.alpha != 1 or op.beta != 1 or len(self._constants[w.value].shape) != 2:
            return None
        bias = self._bias(node.inputs[2], x, w, output) if len(node.inputs) > 2 and node.inputs[2] else ""
        columns = self._constants[w.value].shape[0 if op.transB else 1]
        if bias is None or (bias and tuple(self._constants[bias].shape) != (columns,)):
            return None
        turned = f"{output}#b"
        nodes = [Node(Transpose(perm=(1, 0)), (w.value,), (turned,), turned)] if op.transB else []
        names = (turned if op.transB else w.value, w.scale, w.zero)
        inputs = (*x.names, *names, y.scale, y.zero, *([bias] if bias else []))
        return [*nodes, Node(QLinearGemm(), inputs, (output,), output)]

    def _binary(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        a, b = (self._read(name) for name in node.inputs)
        if a is None or b is None or len({s.zero_point.dtype for s in (a, b, y)}) > 1:
            return None
        op = QLinearAdd() if node.op.type == "Add" else QLinearMul()
        left, right = (self._origin(s.value, s.zero_point.dtype) for s in (a, b))
        if left.root == right.root:  # a function of one integer
            of_a, of_b, of_y = ((self._array(s.scale), s.zero_point) for s in (a, b, y))
            codes = op.reference(left.codes, *of_a, right.codes, *of_b, *of_y)
            return [self._entered(Table(left.root, codes, max(left.rank, right.rank)), output)]
        return [Node(op, (*a.names, *b.names, y.scale, y.zero), (output,), output)]

    def _concat(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        parts = [self._read(name) for name in node.inputs]
        names = [n for part in parts if part is not None for n in part.names]
        if len(names) < 3 * len(parts):
            return None
        op = QLinearConcat(axis=node.op.axis)  # type: ignore[attr-defined]
        return [Node(op, (y.scale, y.zero, *names), (output,), output)]

    def _average(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        x = self._read(node.inputs[0])
        if x is None or x.zero_point.dtype != y.zero_point.dtype:
            return None
        return [Node(QLinearGlobalAveragePool(), (*x.names, y.scale, y.zero), (output,), output)]

    def _softmax(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        x = self._read(node.inputs[0])
        if x is None or x.zero_point.dtype != y.zero_point.dtype:
            return None
        op = QLinearSoftmax(opset=13, **node.op.attributes())
        return [Node(op, (*x.names, y.scale, y.zero), (output,), output)]

    def _average_pool(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        given = node.op.attributes()
        padded = any(given.get("pads") or ()) or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        counts = given.pop("count_include_pad", 0) and (padded or given.get("ceil_mode"))  # as onnxruntime's does not
        if counts or len(given["kernel_shape"]) > 2 or any(d != 1 for d in given.pop("dilations", None) or ()):
            return None
        x = self._read(node.inputs[0])
        if x is None or x.zero_point.dtype != y.zero_point.dtype:
            return None
        return [Node(QLinearAveragePool(**given), (*x.names, y.scale, y.zero), (output,), output)]

    def _moved(self, node: Node, y: Steps, output: str) -> list[Node] | None:
        x = self._read(node.inputs[0])
        if x is None:
            return None
        if self._same(x, y):
            typed = f"{output}#typed"
            check = Node(OfType(of=x.zero_point.dtype.name), (x.value,), (typed,), typed)
            return [check, Node(node.op, (typed, *node.inputs[1:]), (output,), output)]
        moved = f"{output}#moved"
        if node.op.type == "MaxPool":  # of a window in the padding it makes the least integer, which is y's
            return [self._looked_up(x.value, x, y, moved, []), Node(node.op, (moved, *node.inputs[1:]), (output,), output)]
        return [Node(node.op, (x.value, *node.inputs[1:]), (moved,), moved), self._looked_up(moved, x, y, output, [])]

    def _same(self, x: Steps, y: Steps) -> bool:
        alike = self._array(x.scale).reshape(()) == self._array(y.scale).reshape(())
        return bool(
            alike and x.zero_point.dtype == y.zero_point.dtype and x.zero_point.reshape(()) == y.zero_point.reshape(())
        )

    def _is_affine(self, node: Node) -> bool:
        """Whether the node does arithmetic of one array and one number, which is known."""
        return (
            node.op.type in ARITHMETIC and len(node.inputs) == 2 and sum(self._number(n) is None for n in node.inputs) == 1
        )

    def _number(self, name: str) -> np.ndarray | None:
        """A constant of one element, of no more axes than any array has, or what one is quantised to."""
        maker = self._makers.get(name)
        steps = self._steps(maker)
        source = steps.value if steps is not None and isinstance(maker.op, DequantizeLinear) else name  # type: ignore[union-attr]
        value = self._constants.get(source)
        if value is None or int(np.prod(value.shape)) != 1 or len(value.shape) > 1:
            return None
        value = array(value)
        if steps is not None:
            value = DequantizeLinear().reference(value, self._array(steps.scale).reshape(()), steps.zero_point.reshape(()))
        return value if value.dtype == FLOAT32 else None

    def _table(self, nodes: list[Node], y: Steps, output: str) -> list[Node] | None:
        """Operators of one element each, one after another, as a table."""
        first, *rest = nodes
        places = [i for i, n in enumerate(first.inputs) if n and self._number(n) is None]
        x = self._read(first.inputs[places[0]]) if len(places) == 1 else None
        if x is None or not self._ends_known(rest):
            return None
        if places[0] and first.op.type not in ARITHMETIC:
            return None
        return [self._looked_up(x.value, x, y, output, nodes)]

    def _tabled(self, node: Node) -> list[Node] | None:
        """An operator called QLinear as a table, where it is a function of one integer."""
        if not isinstance(node.op, (QLinearBinary, QLinearUnary)):
            return None
        places, scales = ((0, 3), (1, 4, 6)) if isinstance(node.op, QLinearBinary) else ((0,), (1, 3))
        varying = [i for i in places if i < len(node.inputs) and node.inputs[i] not in self._constants]
        known = {i: self._constants.get(n) for i, n in enumerate(node.inputs) if i not in varying}
        if not varying or len(node.inputs) != len(places) + 2 * len(scales):
            return None
        if any(v is None or int(np.prod(v.shape)) != 1 or len(v.shape) > 1 for v in known.values()):
            return None
        values: dict[int, Any] = {i: array(v).reshape(()) for i, v in known.items() if v is not None}
        dtype = values[2].dtype
        wanted = all(v.dtype == (FLOAT32 if i in scales else dtype) for i, v in values.items())
        origins = [self._origin(node.inputs[i], dtype) for i in varying]
        if not wanted or dtype not in EIGHT_BITS or len({table.root for table in origins}) > 1:
            return None
        values |= {i: table.codes for i, table in zip(varying, origins)}
        made = node.op.reference(*(values[i] for i in range(len(node.inputs))))
        fixed = [len(v.shape) for i, v in known.items() if v is not None and i in places]
        rank = max(*fixed, *(table.rank for table in origins), 0)
        return [self._entered(Table(origins[0].root, np.asarray(made), rank), node.outputs[0])]

    def _looked_up(self, value: str, x: Steps, y: Steps, output: str, nodes: list[Node]) -> Node:
        """What operators make of the integers ``value`` that stand for what ``x`` says."""
        root, codes, rank = self._origin(value, x.zero_point.dtype)
        v: Any = DequantizeLinear().reference(codes, self._array(x.scale), x.zero_point)
        for node in nodes:
            numbers = [self._number(n) if n else None for n in node.inputs]
            if node.op.type in ARITHMETIC:
                rank = max(rank, *(number.ndim for number in numbers if number is not None))
            v = node.op.reference(*(v if n and m is None else m for n, m in zip(node.inputs, numbers, strict=True)))
        return self._entered(Table(root, self._quantised(v, y), rank), output)

    def _origin(self, value: str, dtype: np.dtype) -> Table:
        """The table that makes these integers, or the one that leaves them."""
        table = self._tables.get(value)
        if table is not None and table.codes.dtype == dtype:
            return table
        self._roots[value] = dtype
        return Table(value, np.arange(256, dtype=np.uint8).view(dtype))

    def _entered(self, table: Table, output: str) -> Node:
        self._tables[output] = table
        codes = self._keep_constant(f"{output}#table({table.root})", table.codes)
        op = LookUp(of=self._roots[table.root].name, rank=table.rank)
        return Node(op, (table.root, codes), (output,), output)


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether scales are the same but for rounding."""
    return len({1, len(a), len(b)}) < 3 and np.allclose(a, b, rtol=1e-5, atol=0)
