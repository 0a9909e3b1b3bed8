"""onnxruntime's Python names: an application written for onnxruntime changes its import and works.

``import nbconv.ort as onnxruntime``, ``from nbconv.ort import InferenceSession``. What an application meets is as
onnxruntime has it: arguments, results, names and shapes of inputs and outputs, the warning for a provider that is not
there, the names of exceptions (which here are ValueErrors, too). Options that nbconv has no use for are accepted and change
nothing: `SessionOptions` says which.
"""

from __future__ import annotations

import os
import sys
import threading
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nbconv import __version__ as NBCONV_VERSION
from nbconv.compat.ort_types import (
    EngineError,
    EPFail,
    ExecutionMode,
    ExecutionOrder,
    Fail,
    GraphOptimizationLevel,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    IOBinding,
    ModelMetadata,
    NodeArg,
    NoModel,
    NoSuchFile,
    NotImplemented,
    OrtValue,
    RunOptions,
    RuntimeException,
    SessionOptions,
    translated,
    type_name,
)
from nbconv.errors import ModelError
from nbconv.graph import Graph, Spec
from nbconv.model import Model, Port, load, save

__version__ = "1.20.0"
"""The onnxruntime release whose Python names these are; ``nbconv.__version__`` is nbconv's own."""

CPU = "CPUExecutionProvider"


class InferenceSession:
    """A model, given by path or as its bytes, to run.

    ``providers`` may name any; those that are not there warn, and the CPU is used. Other keyword arguments have no effect.
    Raises NoSuchFile, InvalidProtobuf (no ONNX model), InvalidGraph (a broken one), NotImplemented (it uses what nbconv
    lacks).
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict]] | None = None,
        provider_options: Sequence[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(path_or_bytes, (str, os.PathLike, bytes)):
            raise TypeError(f"Unable to load from type '{type(path_or_bytes)}'")
        self._options = SessionOptions() if sess_options is None else sess_options
        self.set_providers(providers, provider_options)
        threads = max(self._options.intra_op_num_threads, 0) or None
        self._model = _load(path_or_bytes, threads)
        if self._options._free:
            self._model = Model(_fixed(self._model.graph, self._options._free), threads=threads)
        self._wanted = {port.name: _arg(port) for port in self._model.inputs}
        self._made = {port.name: _arg(port) for port in self._model.outputs}
        self._types = {port.name: port.dtype for port in self._model.inputs if port.dtype is not None}
        if any(port.dtype is None for port in self._model.outputs):
            self._made = {port.name: _arg(port) for port in _inferred(self._model.graph)}
        if self._options.optimized_model_filepath:
            save(self._model, self._options.optimized_model_filepath)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None = None
    ) -> list[np.ndarray]:
        """The outputs named (None or empty: all of them) for ``{input name: array or OrtValue}``.

        Raises InvalidArgument for names, ranks, sizes and types that the model does not have, Fail where they do not fit
        a node, with its name.
        """
        return self._run(output_names, input_feed, run_options, {})

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[np.ndarray], Any, str], Any],
        user_data: Any,
        run_options: RunOptions | None = None,
    ) -> None:
        """`run` on a thread of its own, which then calls ``callback(results, user_data, error)``: ``error`` is "" when all
        went well, else ``results`` is empty. Raises InvalidArgument for a missing input."""
        self._complete(input_feed)

        def work() -> None:
            try:
                results, error = self.run(output_names, input_feed, run_options), ""
            except Exception as failure:  # belongs to the callback, whatever it is
                results, error = [], str(failure) or type(failure).__name__
            callback(results, user_data, error)

        threading.Thread(target=work, name="nbconv-run", daemon=True).start()

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """`run` with OrtValues."""
        return [OrtValue(y) for y in self.run(output_names, input_dict_ort_values, run_options)]

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None:
        """`run` from and into bound memory; afterwards ``iobinding.get_outputs()`` has the results."""
        if not iobinding._outputs:
            raise InvalidArgument("At least one output should be provided as bound")
        out = {name: value.numpy() for name, value in iobinding._outputs.items() if value is not None}
        results = self._run(list(iobinding._outputs), iobinding._inputs, run_options, out)
        iobinding._results = [OrtValue(y) for y in results]

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def _run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None, out: dict
    ) -> list[np.ndarray]:
        if run_options is not None:
            if not isinstance(run_options, RunOptions):
                raise TypeError(f"run_options is {run_options!r}, wanted RunOptions")
            if run_options.terminate:
                raise Fail("Exiting due to terminate flag being set to true.")
        if isinstance(output_names, str):
            raise TypeError(f"output_names is {output_names!r}, wanted a list of names")
        names = list(output_names or self._made)
        for name in names:
            if name not in self._made:
                raise InvalidArgument(f"Invalid output name:{name}; the outputs are {', '.join(self._made)}")
        self._complete(input_feed)
        feeds = {name: self._array(name, value) for name, value in input_feed.items()}
        try:
            found = self._model.run(feeds, list(dict.fromkeys(names)), out=out)
        except ModelError as error:
            raise translated(error, Fail) from error
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        return [found[name] for name in names]

    def _complete(self, input_feed: Mapping[str, Any]) -> None:
        if not isinstance(input_feed, Mapping):
            raise InvalidArgument(f"input_feed is a {type(input_feed).__name__}, wanted a dict of arrays by input name")
        missing = [name for name in self._wanted if name not in input_feed]
        if missing:
            raise InvalidArgument(f"Required inputs ({missing}) are missing from input feed ({list(input_feed)}).")

    def _array(self, name: str, value: Any) -> np.ndarray:
        """What was fed, as an array of the type that the model wants."""
        if name not in self._wanted:
            raise InvalidArgument(f"Invalid input name: {name}; the inputs are {', '.join(self._wanted)}")
        dtype = self._types[name]
        if isinstance(value, OrtValue):
            value = value.numpy()
        elif value is None:
            raise InvalidArgument(f"input {name!r} is None, wanted an array")
        elif not isinstance(value, (np.ndarray, np.generic)):
            try:
                value = np.asarray(value, dtype)
            except (TypeError, ValueError, OverflowError) as error:
                raise InvalidArgument(f"input {name!r} is no array of {dtype}: {error}") from None
        if value.dtype != dtype:
            have, want = type_name(value.dtype), type_name(dtype)
            raise InvalidArgument(f"Unexpected input data type for {name!r}. Actual: ({have}) , expected: ({want})")
        return value if isinstance(value, np.ndarray) else np.asarray(value)

    def get_inputs(self) -> list[NodeArg]:
        return list(self._wanted.values())

    def get_outputs(self) -> list[NodeArg]:
        """As the model declares them; where it declares no shape, one that tells the rank (when that can be told)."""
        return list(self._made.values())

    def get_overridable_initializers(self) -> list[NodeArg]:
        """None: initializers are constants, even where a model lists them as inputs."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        graph = self._model.graph
        told = [str(graph.header.get(name, "")) for name in ("producer_name", "domain", "doc_string", "graph.doc_string")]
        version = int(graph.header.get("model_version", 2**63 - 1))
        return ModelMetadata(told[0], graph.name, told[1], told[2], told[3], version, dict(graph.metadata))

    def get_session_options(self) -> SessionOptions:
        return self._options

    def get_providers(self) -> list[str]:
        return [CPU]

    def get_provider_options(self) -> dict[str, dict]:
        return {CPU: {}}

    def set_providers(
        self, providers: Sequence[str | tuple[str, dict]] | None = None, provider_options: Sequence[dict] | None = None
    ) -> None:
        """Warns of those that are not there; what runs stays the CPU. ValueError for what is no list of providers."""
        _check_providers(providers, provider_options)

    def enable_fallback(self) -> None:
        """Has no effect: there is nothing to fall back from."""

    def disable_fallback(self) -> None:
        """Has no effect: there is nothing to fall back from."""

    def end_profiling(self) -> str:
        """ "": no profile is written."""
        return ""

    def get_profiling_start_time_ns(self) -> int:
        """0: no profile is written."""
        return 0


def _load(path_or_bytes: str | os.PathLike | bytes, threads: int | None) -> Model:
    try:
        return load(path_or_bytes, threads=threads)
    except FileNotFoundError as error:
        raise NoSuchFile(f"Load model from {path_or_bytes!s} failed. File doesn't exist") from error
    except OSError as error:
        raise Fail(f"Load model from {path_or_bytes!s} failed: {error}") from error
    except ModelError as error:
        raise translated(error, InvalidProtobuf if "is not an ONNX model" in str(error) else InvalidGraph) from error


def _fixed(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph with sizes for some of its symbolic dimensions."""
    if not sizes:
        return graph

    def fix(spec: Spec) -> Spec:
        return spec._replace(shape=tuple(sizes.get(d, d) if isinstance(d, str) else d for d in spec.shape))

    inputs = {name: fix(spec) for name, spec in graph.inputs.items()}
    outputs = {name: spec and fix(spec) for name, spec in graph.outputs.items()}
    return Graph(graph.nodes, inputs, outputs, graph.constants, graph.name, graph.metadata, graph.provenance, graph.header)


def _arg(port: Port) -> NodeArg:
    return NodeArg(port.name, type_name(port.dtype or np.dtype(np.float32)), list(port.shape or ()))


def _inferred(graph: Graph) -> list[Port]:
    """The outputs, with what is not declared filled in from a trial: the shape where no input is dynamic, else the rank;
    nothing where no trial size fits the model."""
    from nbconv.lowering.weights import Weights
    from nbconv.passes.fold import fold

    dynamic = any(not isinstance(d, int) for spec in graph.inputs.values() for d in spec.shape)
    for size in (1, 32, 224):
        trial = {
            n: Spec(tuple(d if isinstance(d, int) else size for d in s.shape), s.dtype) for n, s in graph.inputs.items()
        }
        try:
            specs = fold(graph, trial, Weights(), frozenset(graph.outputs))[1]
        except ModelError:
            continue
        found = {n: Spec((None,) * specs[n].rank if dynamic else specs[n].shape, specs[n].dtype) for n in graph.outputs}
        break
    else:
        found = dict.fromkeys(graph.outputs)
    known = {name: spec or found[name] for name, spec in graph.outputs.items()}
    return [Port(name, spec and spec.shape, spec and spec.dtype) for name, spec in known.items()]


def _check_providers(providers: Any, provider_options: Any) -> None:
    if providers is None:
        return
    if isinstance(providers, str):
        providers = [providers]
    if not isinstance(providers, Sequence):
        raise ValueError("'providers' should be a sequence.")
    if provider_options is not None and (
        not isinstance(provider_options, Sequence) or len(provider_options) != len(providers)
    ):
        raise ValueError("'providers' and 'provider_options' should be sequences of the same length if both are given.")
    for provider in providers:
        pair = isinstance(provider, tuple) and len(provider) == 2 and isinstance(provider[1], dict)
        name = provider[0] if pair else provider
        if not isinstance(name, str):
            raise ValueError("'providers' values must be either strings or (string, dict) tuples.")
        if name != CPU:
            warnings.warn(
                f"Specified provider '{name}' is not in available provider names. Available providers: '{CPU}'", stacklevel=4
            )


def get_available_providers() -> list[str]:
    return [CPU]


def get_all_providers() -> list[str]:
    return [CPU]


def get_device() -> str:
    return "CPU"


def get_version_string() -> str:
    return __version__


def get_build_info() -> str:
    return f"nbconv {NBCONV_VERSION}"


def set_default_logger_severity(severity: int) -> None:
    """0 (verbose) to 4 (fatal): the level of the logger "nbconv"."""
    import logging

    if severity not in range(5):
        raise RuntimeError(f"Invalid logging severity: {severity}, wanted 0 to 4")
    logging.getLogger("nbconv").setLevel(10 * (severity + 1))


def set_default_logger_verbosity(verbosity: int) -> None:
    """Has no effect."""


def set_seed(seed: int) -> None:
    """Has no effect: nothing here draws random numbers."""


def enable_telemetry_events() -> None:
    """Has no effect: there is no telemetry."""


def disable_telemetry_events() -> None:
    """Has no effect: there is no telemetry."""


capi = types.ModuleType("nbconv.ort.capi")
"""So that ``from nbconv.ort.capi.onnxruntime_pybind11_state import InvalidArgument`` works, too."""
capi.onnxruntime_pybind11_state = sys.modules[__name__]  # pyright: ignore[reportAttributeAccessIssue]
sys.modules[capi.__name__] = capi
sys.modules[f"{capi.__name__}.onnxruntime_pybind11_state"] = sys.modules[__name__]

__all__ = [
    "EPFail",
    "EngineError",
    "ExecutionMode",
    "ExecutionOrder",
    "Fail",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelMetadata",
    "NoModel",
    "NoSuchFile",
    "NodeArg",
    "NotImplemented",
    "OrtValue",
    "RunOptions",
    "RuntimeException",
    "SessionOptions",
    "disable_telemetry_events",
    "enable_telemetry_events",
    "get_all_providers",
    "get_available_providers",
    "get_build_info",
    "get_device",
    "get_version_string",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
    "set_seed",
]
