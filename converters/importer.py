"""A parsed ModelProto as a Graph: every check of a model that `read` and `survey` promise."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.inliner
import onnx.shape_inference

from nbconv.converters import contrib
from nbconv.converters.attributes import hollow, value_of
from nbconv.converters.draft import Draft, OpsetContext
from nbconv.converters.guard import graphs
from nbconv.converters.inferable import inferable
from nbconv.converters.opset import OLDEST, rewrite
from nbconv.converters.parse import first_line, parse
from nbconv.converters.problems import Problem, summary
from nbconv.converters.proto import printable
from nbconv.converters.tensors import dims_of, place_of
from nbconv.converters.tflite.kind import REFUSED
from nbconv.converters.types import text_of
from nbconv.converters.weights import Place, Source
from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import OBJECT, OPSET, UNRANKED, Graph, Node, Spec, sort
from nbconv.graph.bodies import captured
from nbconv.graph.infer import MAX_ELEMENTS, dtype_of
from nbconv.graph.op import Op
from nbconv.ops import lookup
from nbconv.ops.fallback import DOMAINS
from nbconv.passes.refusals import refusals, trial

A = onnx.AttributeProto

HEADER = ("producer_name", "producer_version", "domain", "model_version", "doc_string")
"""Fields of ModelProto that a Graph's ``header`` keeps."""


def import_graph(source: Source) -> tuple[Graph, dict[int, dict[str, Place]]]:
    """The Graph of a model and where its constants are, and those of its bodies (by the `id` of the Graph). ModelError, on
    one line: it is none, or a broken one; UnsupportedError names everything that nbconv lacks."""
    try:
        importer = Importer(source)
        return importer.graph(), importer.found
    except ModelError as error:
        raise type(error)(printable(str(error))) from None


def list_problems(source: Source) -> list[Problem]:
    """Everything that nbconv lacks for a model; ModelError as `import_graph` raises it."""
    try:
        importer = Importer(source)
        importer.ops()
        if not importer.problems:
            with suppress(UnsupportedError):  # its problems are listed
                importer.graph()
    except ModelError as error:
        raise type(error)(printable(str(error))) from None
    return importer.problems


class Importer(OpsetContext):
    """One model on its way in, or a node's body. `problems` lists what nbconv lacks; `graph` is there when nothing is."""

    def __init__(self, source: Source, proto: onnx.GraphProto | None = None, around: Importer | None = None) -> None:
        self.source, self.around = source, around
        self.model = around.model if around else parse(source)
        self.proto = proto or self.model.graph
        super().__init__(around.opset if around else _opset(source, self.model))
        self.problems: list[Problem] = around.problems if around else []
        self.found: dict[int, dict[str, Place]] = around.found if around else {}
        """where constants are, by the `id` of the Graph that has them"""
        self.places: dict[str, Place] = {}
        self._types: dict[str, Any] | None = None
        self._read_values()
        self.drafts = self._rewrite()

    # OpsetContext

    def constant(self, hint: str, array: np.ndarray) -> str:
        name = self.unique(hint)
        self._add(name, Place(array.shape, array.dtype, array=array))
        return name

    def value(self, name: str) -> np.ndarray | None:
        if self.around and name not in self.defined:
            return self.around.value(name)
        place = self.places.get(name)
        return None if place is None or place.file else self.source.view(name, place)

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        if name in self.places:
            return self.places[name].shape
        if self.around and name not in self.defined:
            return self.around.shape(name)
        kind = self._type(name)
        return dims_of(name, kind) if kind is not None and kind.HasField("shape") else None

    def dtype(self, name: str) -> np.dtype:
        if name in self.places:
            return self.places[name].dtype
        if self.around and name not in self.defined:
            return self.around.dtype(name)
        kind = self._type(name)
        return np.dtype(np.float32) if kind is None else dtype_of(kind.elem_type)

    def _type(self, name: str) -> Any:
        """A value's TypeProto.Tensor, inferred by onnx; None where it cannot tell."""
        if self.around and name not in self.defined:
            return self.around._type(name)
        if self._types is None:
            try:
                proto = self.proto if self.around else onnx.shape_inference.infer_shapes(inferable(self.model)).graph
            except Exception:  # whatever onnx makes of a damaged model, the model's own declarations stay
                proto = self.proto
            infos = (*proto.value_info, *proto.input, *proto.output)
            self._types = {info.name: info.type.tensor_type for info in infos if info.type.tensor_type.elem_type}
        return self._types.get(name)

    # Values

    def _read_values(self) -> None:
        proto = self.proto
        for tensor in proto.initializer:
            if not tensor.name:
                raise ModelError("an initializer has no name")
            self._tensor(tensor.name, "initializer", tensor)
        for sparse in proto.sparse_initializer:
            self._lacks(sparse.values.name, "initializer", "sparse tensors are not supported")
        self.inputs: dict[str, Spec] = {}
        self.optional: dict[str, Spec] = {}
        """constants that are inputs too"""
        constants = {tensor.name for tensor in proto.initializer}
        seen: set[str] = set()
        for info in proto.input:
            if not info.name or info.name in seen:
                raise ModelError(f"the input {info.name!r} is declared twice" if info.name else "an input has no name")
            seen.add(info.name)
            if info.name in constants and self.model.ir_version < 4:  # where initializers had to be listed as inputs too
                continue
            spec = self._spec(info, "input")
            if spec is not None:
                (self.optional if info.name in constants else self.inputs)[info.name] = spec
        if not proto.output:
            raise ModelError(f"{self.source.label}: the graph has no outputs")
        self.outputs: dict[str, Spec | None] = {}
        for info in proto.output:
            if not info.name or info.name in self.outputs:
                raise ModelError(f"the output {info.name!r} is declared twice" if info.name else "an output has no name")
            self.outputs[info.name] = self._spec(info, "output")
        self.defined = seen | constants | {name for node in proto.node for name in node.output}
        """names that this graph gives a meaning to"""
        self.names = self.around.names if self.around else set()
        for graph in graphs(proto):
            values = (*graph.input, *graph.initializer, *graph.output)
            self.names.update(v.name for v in values)
            self.read.update(v.name for v in graph.output)
            for node in graph.node:
                self.names.update(node.input, node.output)
                self.read.update(node.input)

    def _spec(self, info: onnx.ValueInfoProto, what: str) -> Spec | None:
        """The Spec that an input or output declares; None for an output that declares none."""
        kind = info.type.WhichOneof("value")
        if self.around and what == "input" and not info.type.tensor_type.HasField("shape"):
            return Spec((), np.dtype(np.float32))  # what is given to a body's input says what it is
        declared = info.type.tensor_type.HasField("shape") and info.type.tensor_type.elem_type
        if what == "output" and kind in ("tensor_type", None) and not declared:
            return None
        if kind != "tensor_type":
            try:
                return Spec((), OBJECT, type=text_of(info.type))
            except UnsupportedError as error:
                self._lacks(info.name, what, str(error))
                return None
        tensor = info.type.tensor_type
        if not tensor.elem_type:
            raise ModelError(f"{what} {info.name!r} has no element type")
        try:
            dtype = dtype_of(tensor.elem_type)
        except UnsupportedError as error:
            self._lacks(info.name, what, str(error))
            return None
        if not tensor.HasField("shape"):
            return Spec(UNRANKED, dtype)
        shape = dims_of(info.name, tensor)
        size = math.prod(d for d in shape if isinstance(d, int))
        if size > MAX_ELEMENTS:
            raise ModelError(f"{what} {info.name!r} is declared as {Spec(shape, dtype)}, more than {MAX_ELEMENTS} elements")
        return Spec(shape, dtype)

    def _add(self, name: str, place: Place) -> None:
        if name in self.places:
            raise ModelError(f"the constant {name!r} is given twice")
        self.places[name] = place

    def _tensor(self, name: str, op: str, tensor: onnx.TensorProto) -> None:
        try:
            self._add(name, place_of(name, tensor))
        except UnsupportedError as error:
            self._lacks(name, op, str(error))

    def _lacks(self, node: str, op: str, problem: str) -> None:
        found = Problem(printable(node), op, printable(problem))
        if found not in self.problems[-1:]:
            self.problems.append(found)

    # Nodes

    def _rewrite(self) -> list[Draft]:
        """The model's nodes in the inner vocabulary; Constant nodes become constants."""
        context = onnx.checker.C.CheckerContext()
        context.ir_version = self.model.ir_version
        others = {entry.domain: entry.version for entry in self.model.opset_import}
        context.opset_imports = {**others, "": self.opset}
        drafts = []
        for proto in self.proto.node:
            if proto.op_type == "Constant" and _domain(proto) == "":
                self._constant(proto)
                continue
            name = proto.name or next(filter(None, proto.output), proto.op_type)
            try:
                drafts.append(self._draft(proto, name, context))
            except UnsupportedError as error:
                self._lacks(name, proto.op_type, str(error))
        done = []
        for draft in drafts:  # only now are all constants known
            try:
                for name, value in draft.attributes.items():
                    if isinstance(value, onnx.GraphProto):
                        draft.attributes[name] = Importer(self.source, value, self)
                done += contrib.rewrite(draft, self) or rewrite(draft, self)
            except UnsupportedError as error:
                self._lacks(draft.name, draft.type, str(error))
        return done

    def _draft(self, proto: onnx.NodeProto, name: str, context: Any) -> Draft:
        if proto.domain == REFUSED:
            raise UnsupportedError(
                next((a.s.decode("utf-8", "replace") for a in proto.attribute if a.name == "problem"), "it is refused")
            )
        domain, version = _domain(proto), context.opset_imports.get(_domain(proto), self.opset)
        ours = domain in DOMAINS and onnx.defs.has(proto.op_type, version, domain)
        schema = onnx.defs.get_schema(proto.op_type, version, domain) if ours else None
        if schema is None:
            contrib.check(proto.op_type, domain)
        held = [a for a in proto.attribute if a.type in (A.GRAPH, A.GRAPHS)]
        if held and not all(lookup(proto.op_type, domain).kinds.get(a.name) == "Graph" and a.type == A.GRAPH for a in held):
            raise UnsupportedError(f"operator {proto.op_type} (it has a subgraph) is not supported")
        attributes = {}
        for a in proto.attribute:
            if a.name in attributes:
                raise ModelError(f"{name} ({proto.op_type}): the attribute {a.name!r} is given twice")
            if a.ref_attr_name:
                raise ModelError(f"{name} ({proto.op_type}): the attribute {a.name!r} refers to a function's outside one")
            attributes[a.name] = value_of(self.source, name, a)
        try:
            if schema is not None and not schema.deprecated:  # the checker refuses those
                onnx.checker.check_node(hollow(proto) if held else proto, context)
        except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
            raise ModelError(f"{name} ({proto.op_type}): {first_line(error)}") from None
        return Draft(proto.op_type, list(proto.input), list(proto.output), attributes, name, domain)

    def _constant(self, proto: onnx.NodeProto) -> None:
        name = next(filter(None, proto.output), "")
        if len(proto.attribute) != 1 or len(proto.output) != 1 or not name or proto.input:
            raise ModelError(f"{proto.name or name or 'a node'} (Constant): wants one attribute, one output and no input")
        a = proto.attribute[0]
        if a.name == "value" and a.type == A.TENSOR:
            self._tensor(name, "Constant", a.t)
        elif a.name in ("value_float", "value_floats") and a.type in (A.FLOAT, A.FLOATS):
            value = np.array(a.f if a.type == A.FLOAT else a.floats, np.float32)
            self._add(name, Place(value.shape, value.dtype, array=value))
        elif a.name in ("value_string", "value_strings") and a.type in (A.STRING, A.STRINGS):
            value = np.array([s.decode("utf-8", "replace") for s in ([a.s] if a.type == A.STRING else a.strings)], OBJECT)
            value = value.reshape(()) if a.type == A.STRING else value
            self._add(name, Place(value.shape, value.dtype, array=value))
        elif a.name in ("value_int", "value_ints") and a.type in (A.INT, A.INTS):
            value = np.array(a.i if a.type == A.INT else a.ints, np.int64)
            self._add(name, Place(value.shape, value.dtype, array=value))
        else:
            self._lacks(name, "Constant", f"a constant given as {a.name!r} is not supported")

    # Graph

    def ops(self) -> list[Node]:
        """The nodes, not yet sorted; what cannot be one is added to `problems`."""
        nodes = []
        for draft in self.drafts:
            held = {name: value for name, value in draft.attributes.items() if isinstance(value, Importer)}
            for body in held.values():
                body.ops()
            if held and self.problems:
                continue
            try:
                bodies = {name: body.graph() for name, body in held.items()}
                draft.attributes |= bodies
                op = self._op(draft)
                if bodies:  # they are made once, and what they read comes behind the node's own inputs
                    own = getattr(op, "own", 0)
                    draft.inputs += ("",) * (own - len(draft.inputs)) + captured(op.bodies().values())
            except UnsupportedError as error:
                self._lacks(draft.name, draft.type, str(error))
            except ModelError as error:
                raise ModelError(f"{draft.name}: {error}") from None
            else:
                if any(draft.outputs):
                    if not draft.outputs[0]:  # passes call a node by its first output
                        draft.outputs[0] = self.unique(f"{draft.name}_unread")
                    nodes.append(Node(op, tuple(draft.inputs), tuple(draft.outputs), draft.name))
        return nodes

    def _op(self, draft: Draft) -> Op:
        op = lookup(draft.type, draft.domain)
        newer = self.opset > OPSET and not draft.domain and onnx.defs.has(draft.type, self.opset, "")
        if newer:  # perhaps a newer attribute that says what was always so
            schema = onnx.defs.get_schema(draft.type, self.opset, "")
            for name in [name for name in draft.attributes if name not in op.fields and name in schema.attributes]:
                default = schema.attributes[name].default_value
                if default.type and value_of(self.source, name, default) == draft.attributes[name]:
                    del draft.attributes[name]
        return op(**draft.attributes)

    def graph(self) -> Graph:
        """The Graph. UnsupportedError names everything that nbconv lacks."""
        nodes = self.ops()
        self._refuse()
        clash = next((name for name in self.places if name in self.inputs), None)
        if clash is not None:
            raise ModelError(f"{clash!r} is an input and also a Constant node's output")
        known = set(self.inputs) | set(self.places) | (self._outside() - self.defined)
        nodes = sort(nodes, known)
        made = known.union(*(node.outputs for node in nodes))
        missing = next((name for name in self.outputs if name not in made), None)
        if missing is not None:
            raise ModelError(f"{self.source.label}: nothing makes the output {missing!r}")
        used = set(self.outputs).union(*(node.inputs for node in nodes))
        places = {name: place for name, place in self.places.items() if name in used}
        constants = {name: self.source.view(name, place) for name, place in places.items()}
        metadata = {entry.key: entry.value for entry in self.model.metadata_props}
        name = self.proto.name or "graph"
        header = {} if self.around else self._header()
        metadata, optional = ({}, {}) if self.around else (metadata, self.optional)
        graph = Graph(nodes, self.inputs, self.outputs, constants, name, metadata, header=header, optional=optional)
        self.found[id(graph)] = places
        if self.around is None:
            for node, op, problem in refusals(graph, self._trial):
                self._lacks(node, op, problem)
            self._refuse()
        return graph

    def _refuse(self) -> None:
        if self.problems:
            raise UnsupportedError(f"{self.source.label} uses what nbconv lacks: {summary(self.problems)}")

    def _trial(self, name: str) -> Spec | None:
        """What onnx infers of a value, with sizes for dimensions that have none."""
        kind = self._type(name)
        if kind is None or not kind.HasField("shape"):
            return None
        try:
            return trial(dims_of(name, kind), dtype_of(kind.elem_type))
        except ModelError:
            return None

    def _outside(self) -> set[str]:
        """The names that a body may read around it."""
        if self.around is None:
            return set()
        made = (name for draft in self.around.drafts for name in draft.outputs)
        return {*self.around.inputs, *self.around.places, *made, *self.around._outside()}

    def _header(self) -> dict[str, str | int]:
        """What the file says of itself; a text that is not UTF-8 (bytes, for protobuf) keeps what can be read of it."""
        told = {name: getattr(self.model, name) for name in HEADER if self.model.HasField(name)}
        if self.proto.HasField("doc_string"):
            told["graph.doc_string"] = self.proto.doc_string
        return {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in told.items()}


def _opset(source: Source, model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if not versions and model.ir_version < 3:  # whose models had no opset_import
        return 1
    if not versions:
        if any(_domain(node) == "" for node in model.graph.node):
            raise ModelError(f"{source.label} does not say which opset it uses; nbconv reads {OLDEST} to {newest}")
        return OPSET
    if not OLDEST <= max(versions) <= newest or min(versions) != max(versions):
        raise ModelError(f"{source.label} uses opset {', '.join(map(str, versions))}; nbconv reads {OLDEST} to {newest}")
    return versions[0]


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain
