"""Operators that nbconv has no code for, done by onnx's reference evaluator, a node at a time.

Their classes are made from ONNX's own schemas when a model has them. A node's result is there only when it has run, so what
follows is planned then. It is slow, and needs the onnx package.
"""

from __future__ import annotations

import importlib
from functools import cache, lru_cache
from typing import Any

import numpy as np

from nbconv.errors import DataDependentError, ModelError, UnsupportedError
from nbconv.graph import FLOAT32, OBJECT, Spec
from nbconv.graph.dtypes import from_text, is_half, text_of
from nbconv.graph.op import Op

RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Dropout")
)
"""Operators whose results are others each time."""

DOMAINS = frozenset(("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training"))
"""Domains whose operators onnx has schemas of."""

ABSENT = frozenset(("Gradient",))
"""Operators with a schema that onnx's reference lacks."""

_KINDS = {
    "FLOAT": "float", "INT": "int", "STRING": "str", "TENSOR": "np.ndarray",
    "FLOATS": "tuple[float, ...]", "INTS": "tuple[int, ...]", "STRINGS": "tuple[str, ...]",
}  # fmt: skip
"""Types of a schema's attributes as those of an op's fields."""


class Fallback(Op, abstract=True):
    """An operator as its schema says it is."""

    evaluator = "onnx.reference"
    since = 0
    """The opset that the schema is of."""

    @classmethod
    def variadic(cls, inputs: int) -> int:
        """How many outputs it has where the schema says any number: the optimizers of (rate, step, *x, *gradients,
        *states) → (*x, *states)."""
        each = 4 if cls.type == "Adam" else 3
        return max((inputs - 2) // each * (each - 1), 1)

    def infer(self, *inputs: Spec | None) -> tuple[Spec, ...]:
        raise DataDependentError("onnx's reference does it, which says what its result is when it has run")

    def types(self, inputs: tuple[Any, ...]) -> tuple[np.dtype, ...]:
        schema = importlib.import_module("onnx.defs").get_schema(self.type, self.domain)
        reads, makes = ([port.type_str for port in ports] for ports in (schema.inputs, schema.outputs))
        given = {reads[min(i, len(reads) - 1)]: s.dtype for i, s in enumerate(inputs) if s is not None}
        half = next(dtype for dtype in given.values() if is_half(dtype))  # of what no input says, too
        return tuple(given.get(kind, FLOAT32 if kind.startswith("tensor(") else half) for kind in makes)

    def reference(self, *inputs: Any) -> tuple[Any, ...]:
        given = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
        evaluator = _evaluator(type(self), _key(self.attributes()), tuple(given))
        try:
            with np.errstate(all="ignore"):
                found = evaluator.run(None, {n: x for n, x in zip(given, inputs, strict=True) if n})
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # the reference raises what NumPy or Python raises
            raise ModelError(f"onnx's reference: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
        return tuple(y.astype(OBJECT) if isinstance(y, np.ndarray) and y.dtype.kind in "US" else y for y in found)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.type, self.domain, self.attributes())


def _made(kind: str, domain: str, attributes: dict[str, Any]) -> Op:
    """The op again, when it is unpickled."""
    return of_schema(kind, domain)(**attributes)


def _key(attributes: dict[str, Any]) -> tuple:
    arrays = {n: (text_of(v.dtype), v.shape, _data(v)) for n, v in attributes.items() if isinstance(v, np.ndarray)}
    return tuple({**attributes, **arrays}.items())


def _data(array: np.ndarray) -> bytes | tuple:
    """What can be hashed of an array's elements: strings are Python objects."""
    return tuple(array.flat) if array.dtype == OBJECT else array.tobytes()


@lru_cache(256)
def _evaluator(cls: type[Fallback], attributes: tuple, inputs: tuple[str, ...]) -> Any:
    onnx = importlib.import_module("onnx")
    reference, numpy_helper = (importlib.import_module(f"onnx.{n}") for n in ("reference", "numpy_helper"))
    values = {n: numpy_helper.from_array(_array(*v)) if cls.kinds[n].startswith("np.") else v for n, v in attributes}
    most = _schema(cls.type, cls.domain).max_output
    outputs = [f"y{i}" for i in range(most if most < 16 else cls.variadic(len(inputs)))]
    node = onnx.helper.make_node(cls.type, list(inputs), outputs, domain=cls.domain, **values)
    graph = onnx.helper.make_graph(
        [node], cls.type, [onnx.ValueInfoProto(name=n) for n in inputs if n], [onnx.ValueInfoProto(name=n) for n in outputs]
    )
    versions = {"": 21, cls.domain: cls.since} if cls.domain else {"": max(cls.since, 21)}
    imports = [onnx.helper.make_opsetid(*version) for version in versions.items()]
    return reference.ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))


def _array(dtype: str, shape: tuple[int, ...], data: bytes | tuple) -> np.ndarray:
    """The array of a `_key`."""
    found = np.frombuffer(data, from_text(dtype)) if isinstance(data, bytes) else np.array(data, from_text(dtype))
    return found.reshape(shape)


def _schema(kind: str, domain: str) -> Any:
    defs = importlib.import_module("onnx.defs")
    if not defs.has(kind, domain):
        raise UnsupportedError(f"operator {f'{domain}.' if domain else ''}{kind} is not supported")
    return defs.get_schema(kind, domain)


@cache
def of_schema(kind: str, domain: str = "") -> type[Op]:
    """The class of an operator of ONNX's own domains; UnsupportedError where there is none, or the reference lacks it."""
    schema = _schema(kind, domain)
    if schema.deprecated or kind in ABSENT:
        raise UnsupportedError(f"operator {f'{domain}.' if domain else ''}{kind} is not supported")
    annotations, defaults = {}, {}
    helper = importlib.import_module("onnx.helper")
    for name, attribute in schema.attributes.items():
        of = attribute.type.name
        if of not in _KINDS:
            raise UnsupportedError(f"operator {kind} (its attribute {name!r} is of type {of}) is not supported")
        annotations[name] = _KINDS[of]
        if attribute.default_value.type:
            value = helper.get_attribute_value(attribute.default_value)
            defaults[name] = value.decode() if isinstance(value, bytes) else tuple(value) if of.endswith("S") else value
        elif not attribute.required:
            annotations[name] += " | None"
            defaults[name] = None
    made = type(kind, (Fallback,), {"__annotations__": annotations, **defaults, "__module__": __name__}, abstract=True)
    made.domain, made.since, made.pure = domain, schema.since_version, kind not in RANDOM
    return made
