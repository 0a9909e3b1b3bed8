"""What an op is: fields, contract, `infer`, `reference`, `lower`. One class an ONNX operator, nothing registered by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph.half import in_float32
from nbconv.graph.spec import CHANNELS_FIRST, CHANNELS_LAST, FLOAT32, Layout, Quantisation, Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nbconv.kernels.params import Epilogue

REGISTRY: dict[tuple[str, str], type[Op]] = {}
"""(domain, type) → class, filled as classes are defined; `nbconv.ops` imports every family."""

ANY, NUMPY = "any", "numpy"
"""What an op can ask for beside a `Layout`, see `Op.layout`."""
ONLY_FLOAT32 = frozenset((FLOAT32,))
STORED = frozenset(np.dtype(t) for t in ("?", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "i8", "u8", "f8"))
"""Element types that kernels move, and do not compute with."""
RANKED = frozenset(np.dtype(t) for t in ("f4", "i4", "i8", "i1", "u1"))
"""Element types whose greatest and least kernels find, and where they stand."""

_REQUIRED: Any = object()


class Op:
    """One ONNX operator; its annotated fields are the attributes, with ONNX's names and defaults.

    A subclass gives ``infer`` and ``reference``, and ``lower`` where it has kernels. A field without a default is
    required; a base that is no operator itself says ``class Base(Op, abstract=True)``. An op with optional outputs returns
    all of them, always: the caller takes as many as the node names. Field types: int, float, str, tuple[int, ...],
    tuple[float, ...], tuple[str, ...], np.ndarray, Graph (a body); ``| None`` when absent by default. Inputs left out come
    as None everywhere. What bodies read of the graph around them are the last inputs.
    """

    domain: ClassVar[str] = ""
    type: ClassVar[str] = ""
    fields: ClassVar[dict[str, Any]] = {}
    kinds: ClassVar[dict[str, str]] = {}
    parameters: ClassVar[tuple[int, ...]] = ()
    """Input slots that hold trainable weights (a convolution's w and b)."""
    pure: ClassVar[bool] = True
    """Whether the result depends on the inputs alone (then constants fold through it)."""
    control: ClassVar[str] = ""
    """For an op with bodies: how a step runs them (see `nbconv.plan.call.CONTROLS`)."""
    kernel_dtypes: ClassVar[frozenset[np.dtype]] = frozenset()
    """Element types of its first input that its kernels take; none where NumPy does it."""
    processor_dtypes: ClassVar[frozenset[np.dtype]] = frozenset()
    """Those for which only processors have kernels: on a GPU the host does the node."""
    kernel_layout: ClassVar[str] = ANY
    """What its kernels ask for, see `layout`."""
    in_place: ClassVar[bool] = False
    """Whether output i may lie where the input of its shape lies: an optimizer's update, element by element."""
    settings: ClassVar[tuple[int, ...]] = ()
    """Input slots that say how it is done, arrays of floats among them (a Resize's scales)."""
    fixed: ClassVar[tuple[int, ...]] = ()
    """Input slots of floats that training leaves alone: limits, scales of quantisation, running statistics, places."""
    batch_inputs: ClassVar[tuple[int, ...]] = ()
    """Inputs that hold a batch along their first axis, where the op does one sample like another. Of elementwise ops the
    class says it, of Concat and Split their axis."""
    batch_sums: ClassVar[tuple[int, ...]] = ()
    """Inputs that hold a batch along their first axis, where the op adds over samples."""
    moves: ClassVar[bool] = False
    """Whether it moves or makes values without arithmetic: no FLOPs."""
    makes_room: ClassVar[bool] = False
    """Whether its first output is as long as any result can be, by the Specs that are known: `reference`, which sees values,
    may make it shorter."""
    rearranges: ClassVar[bool] = False
    """Whether the result has the same elements in another shape or order."""
    converts: ClassVar[bool] = False
    """Whether the result has the same values in another element type: it may stand between a stored weight and its use."""
    keeps_classes: ClassVar[bool] = False
    """Whether scores of classes stay scores of these classes: it may stand behind a classifier."""
    keeps_quantisation: ClassVar[bool] = False
    """Whether the result's elements are the first input's, moved, chosen among or limited: integers mean what they did."""
    is_cheap: ClassVar[bool] = False
    """Whether it costs little more than reading and writing its arrays."""
    is_layer: ClassVar[bool] = False
    """Whether it is a product with trained weights, which counts as a layer where depth is counted."""
    is_norm: ClassVar[bool] = False
    """Whether it normalises."""
    evaluator: ClassVar[str] = "NumPy"
    """What computes its `reference`."""
    in_numpy: ClassVar[str] = ""
    """Why NumPy does it and no kernel will, where that is so; docs/onnx.md lists these."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        cls.type = cls.__name__
        cls.fields, cls.kinds = dict(cls.fields), dict(cls.kinds)
        for name, kind in cls.__annotations__.items() if "__annotations__" in cls.__dict__ else ():
            if not kind.startswith("ClassVar"):
                cls.fields[name] = cls.__dict__.get(name, _REQUIRED)
                cls.kinds[name] = kind
        if "reference" in cls.__dict__:
            cls.reference = in_float32(cls.__dict__["reference"])
        if not abstract:
            REGISTRY[cls.domain, cls.type] = cls

    def __init__(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            if name not in self.fields:
                raise UnsupportedError(f"{self.type} has no attribute {name!r} (it has: {', '.join(self.fields) or 'none'})")
            setattr(self, name, _convert(self.type, name, self.kinds[name], value))
        for name, default in self.fields.items():
            if default is _REQUIRED and name not in attributes:
                raise ModelError(f"{self.type} lacks its attribute {name!r}")

    def attributes(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        found = {}
        for name, default in self.fields.items():
            value = getattr(self, name)
            if value is default or (not isinstance(value, np.ndarray) and value == default):
                continue
            found[name] = value
        return found

    def bodies(self) -> dict[str, Any]:
        """The graphs that it holds, by attribute."""
        return {name: getattr(self, name) for name, kind in self.kinds.items() if kind == "Graph"}

    def __repr__(self) -> str:
        return f"{self.type}({', '.join(f'{k}={_shown(v)}' for k, v in self.attributes().items())})"

    @property
    def label(self) -> str:
        """What listings call it."""
        return self.type

    def infer(self, *inputs: Any, **_: Any) -> Spec | tuple[Spec, ...]:
        """Specs of the outputs from Specs of the inputs (all dimensions known); ValueError says what does not fit."""
        raise NotImplementedError(self.type)

    def reference(self, *inputs: Any, **_: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """The outputs in NumPy, written from the ONNX text: oracle, constant folder and fallback. Works in the inputs'
        own dtype (float64 in, float64 out), half precision in float32 (see `in_float32`), and never writes to its inputs."""
        raise NotImplementedError(self.type)

    def gradient(self, to: Any) -> tuple[str | None, ...]:
        """For each input, the value that holds its gradient. ``to`` is a `nbconv.graph.backward.Backward`: nodes are added
        with ``to.add(Op(), to.dy(), to.x(0))``. None
        where no gradient flows (integers, shapes), or none is wanted (``to.wants(i)``). UnsupportedError where there is
        no gradient yet."""
        raise UnsupportedError(f"{self.type} has no gradient")

    def layout(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> str:
        """How this op's kernels want rank ≥ 3 values: CHANNELS_LAST, CHANNELS_FIRST, ANY (all in the same layout,
        whichever), or NUMPY when no kernel serves these Specs and ``reference`` must run."""
        return self.kernel_layout if self.has_kernel(inputs, outputs) else NUMPY

    def has_kernel(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> bool:
        """Whether a kernel serves these Specs, where it always asks for `kernel_layout`."""
        kinds = self.kernel_dtypes | self.processor_dtypes
        return bool(kinds) and inputs[0].dtype in kinds

    def quantisation(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> Quantisation | None:
        """What the integers of the first output, and others of its type, stand for, where that is known."""
        found = inputs[0].quantisation if self.keeps_quantisation and inputs[0] is not None else None
        if found is None or found.axis is None:
            return found
        axis = self.kept_axis(found.axis, inputs, outputs)
        return None if axis is None else found._replace(axis=axis)

    def kept_axis(self, axis: int, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> int | None:
        """The axis of the results that is this one of the first input, slice by slice; None where there is none such."""
        return None

    def on_processors(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> bool:
        """Whether only processors have kernels for these Specs: on a GPU the host does the node."""
        return bool(inputs) and inputs[0] is not None and inputs[0].dtype in self.processor_dtypes

    def types(self, inputs: tuple[Any, ...]) -> tuple[np.dtype, ...] | None:
        """The outputs' element types, for an op that computes and whose `infer` cannot say."""
        return None

    def known(self, *inputs: Any) -> tuple[np.ndarray, ...] | None:
        """The outputs, where the inputs' Specs alone decide them (Shape, Size); None otherwise."""
        return None

    def interpret(self, inputs: list[Any], run: Callable[[str, list[Any]], list[Any]]) -> Sequence[Any]:
        """For an op with bodies: its outputs, where ``inputs`` are its own and ``run(attribute, inputs)`` gives the outputs
        of a body."""
        raise NotImplementedError(self.type)

    def inlined(self, inputs: tuple[Any, ...]) -> str:
        """The body (its attribute) that stands for this node, where its inputs' Specs decide that; "" otherwise."""
        return ""

    def expand(self, to: Any) -> str | None:
        """The value that stands for the one output where other ops, which have kernels, do this one; None where it stands
        for itself. ``to`` is a `nbconv.graph.backward.Expansion`: nodes are added with ``to.add(Op(), to.x(0))``."""
        return None

    def bound(self) -> tuple[Op, int] | None:
        """For an op whose result is as long as values decide: an op that finds all of it in memory that any result fits in,
        packed at the begin, and says how long it is; and the axis of the result that is. None where there is none such."""
        return None

    def bypass(self, inputs: tuple[Any, ...]) -> bool:
        """Whether the first output is just the first input."""
        return False

    def layouts(
        self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...], given: tuple[Layout, ...]
    ) -> tuple[tuple[Layout, ...], tuple[Layout, ...]] | None:
        """(the layouts that the inputs must have, those that the outputs then have), where the inputs have ``given`` now;
        None where NumPy runs. By default as `layout` says; constants lie as ONNX has them."""
        wanted = self.layout(inputs, outputs)
        if wanted == NUMPY:
            return None
        wide = [s is not None and s.rank >= 3 and not s.constant for s in inputs]
        if wanted == ANY:
            last = any(w and g is CHANNELS_LAST for w, g in zip(wide, given, strict=True))
            wanted = CHANNELS_LAST if last else CHANNELS_FIRST
        asked = tuple(Layout(wanted) if w else CHANNELS_FIRST for w in wide)
        return asked, tuple(Layout(wanted) if s.rank >= 3 else CHANNELS_FIRST for s in outputs)

    def absorbs(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> str:
        """What this op's kernel can do to its result on the way out: "" nothing, "clamp", "activation" (any Epilogue), or
        "residual" (add an array of the result's shape first)."""
        return ""

    def writes_strided(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> bool:
        """Whether its kernel can write pixels ``to.pitch`` elements apart, into the middle of a wider value."""
        return False

    def reads_strided(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...], i: int) -> bool:
        """Whether its kernel can read input i from the middle of a wider value, pixels ``to.ld(i)`` elements apart."""
        return False

    def epilogue(self, inputs: tuple[Any, ...]) -> Epilogue | None:
        """This op on float32 as another kernel's Epilogue, where it is one (an activation with constant limits)."""
        return None

    def guard(self, node: Any, inputs: tuple[Any, ...]) -> Any:
        """A node that NumPy does before the kernels of this ``node``, which raises where values that only a run knows are
        none that these take; None where there is nothing to check."""
        return None

    def lower(self, to: Any) -> None:
        """Emit the kernel steps of this node: ``to.step("family.kernel", units, x=to.input(0), …)``, where ``to`` is a
        `nbconv.lowering.context.Lowering`."""
        raise NotImplementedError(self.type)

    def flops(self, inputs: tuple[Any, ...], outputs: tuple[Spec, ...]) -> int:
        """Floating-point operations, a multiply-add being two; by default one an output element."""
        return sum(spec.size for spec in outputs)


def _shown(value: Any) -> str:
    """An attribute as text."""
    return f"<{len(value.nodes)} nodes>" if _is_graph(value) else repr(value)


def _is_graph(value: Any) -> bool:
    """Whether an attribute is a body: a `nbconv.graph.graph.Graph`, which is made of ops (so this module cannot name it)."""
    return hasattr(value, "nodes") and hasattr(value, "constants")


def same_dtype(specs: tuple[Any, ...]) -> bool:
    """Whether all inputs that are given have one element type."""
    return len({s.dtype for s in specs if s is not None}) <= 1


def _convert(op: str, name: str, kind: str, value: Any) -> Any:
    """An attribute's value as its field's type, or a ModelError that says what came."""
    base = kind.removesuffix(" | None")
    try:
        if value is None:
            if base != kind:
                return None
            raise TypeError
        if base == "int" and isinstance(value, (int, np.integer)):
            return int(value)
        if base == "float" and isinstance(value, (int, float, np.floating)):
            return float(value)
        if base == "str" and isinstance(value, (str, bytes)):
            return value.decode() if isinstance(value, bytes) else value
        if base == "np.ndarray":
            return np.asarray(value)
        if base == "Graph" and _is_graph(value):
            return value
        if base.startswith("tuple["):
            item = base[6:].split(",")[0]
            return tuple(_convert(op, name, item, v) for v in value)
    except (TypeError, UnicodeDecodeError):
        pass
    raise ModelError(f"{op}: attribute {name!r} is {value!r}, wanted {base}")
