"""InferenceSession: a model under onnxruntime's interface."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nbconv.compat.onnxruntime.binding import IOBinding
from nbconv.compat.onnxruntime.devices import OrtAllocatorType, OrtMemoryInfo, OrtMemType
from nbconv.compat.onnxruntime.environment import CPU, check_providers
from nbconv.compat.onnxruntime.errors import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    RuntimeException,
    translated,
)
from nbconv.compat.onnxruntime.options import RunOptions, SessionOptions, without_effect
from nbconv.compat.onnxruntime.ports import fit, fixed, inputs_of, outputs_of
from nbconv.compat.onnxruntime.profile import Profile
from nbconv.compat.onnxruntime.values import ModelMetadata, NodeArg, OrtValue
from nbconv.errors import ModelError
from nbconv.kernels import KernelError
from nbconv.model import Model, load, save


class InferenceSession:
    """A model, given by path or as its bytes, to run.

    ``providers`` may name any; those that are not there warn, and the CPU is used. Other keyword arguments have no effect
    and warn. Raises NoSuchFile, InvalidProtobuf (no ONNX model), InvalidGraph (a broken one), NotImplemented (it uses what
    nbconv lacks).
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
        if not isinstance(sess_options, (SessionOptions, type(None))):
            raise TypeError(f"sess_options is {sess_options!r}, wanted SessionOptions")
        self._options = options = SessionOptions() if sess_options is None else sess_options
        options._tell()
        for name in kwargs.keys() - {"enable_fallback"}:
            without_effect(f"InferenceSession({name}=...)", _KEYWORDS.get(name, "nbconv has no such argument"))
        self.set_providers(providers, provider_options)
        self._profile = Profile(options.profile_file_prefix) if options.enable_profiling else None
        begin = time.monotonic_ns()
        threads = max(options.intra_op_num_threads, 0) or None
        self._model = _load(path_or_bytes, threads, options)
        if self._profile:
            self._profile.add("model_loading_array" if isinstance(path_or_bytes, bytes) else "model_loading_uri", begin)
        begin = time.monotonic_ns()
        if options._free:
            self._model = self._model._like(fixed(self._model.graph, options._free), self._model.threads)
        self._wanted, self._made = inputs_of(self._model.inputs), outputs_of(self._model)
        self._optional = inputs_of(self._model.optional_inputs)
        ports = (*self._model.inputs, *self._model.optional_inputs)
        self._types = {port.name: port.dtype for port in ports if port.dtype is not None and not port.type}
        if self._profile:
            self._profile.add("session_initialization", begin)
        if self._options.optimized_model_filepath:
            save(self._model, self._options.optimized_model_filepath)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None = None
    ) -> list[Any]:
        """The outputs named (None or empty: all of them) for ``{input name: array or OrtValue}``.

        Raises ValueError for an input that is missing, InvalidArgument for names, ranks, sizes and types that the model does
        not have, Fail where they do not fit a node, with its name, RuntimeException where its kernels cannot be had.
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
        went well, else ``results`` is empty. Raises ValueError for a missing input."""
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
            run_options._tell()
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
        begin = time.monotonic_ns()
        try:
            found = self._model.run(feeds, list(dict.fromkeys(names)), out=out)
        except ModelError as error:
            raise translated(error, Fail) from error
        except KernelError as error:
            raise RuntimeException(str(error)) from error
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        if self._profile:
            self._profile.ran(begin, feeds)
        return [found[name] for name in names]

    def _complete(self, input_feed: Mapping[str, Any]) -> None:
        if not isinstance(input_feed, Mapping):
            raise InvalidArgument(f"input_feed is a {type(input_feed).__name__}, wanted a dict of arrays by input name")
        missing = [n for n, arg in self._wanted.items() if n not in input_feed and not arg.type.startswith("optional")]
        if missing:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({list(input_feed)}).")

    def _array(self, name: str, value: Any) -> Any:
        """What was fed, as an array of the type that the model wants."""
        wanted = self._wanted.get(name) or self._optional.get(name)
        if wanted is None:
            raise InvalidArgument(f"Invalid input name: {name}; the inputs are {', '.join(self._wanted)}")
        dtype = self._types.get(name)
        if isinstance(value, OrtValue):
            value = value._fed()
        if dtype is None:  # no tensor, as far as the model says
            return value
        if value is None:
            raise InvalidArgument(f"input {name!r} is None, wanted an array")
        if not isinstance(value, (np.ndarray, np.generic)):
            try:
                value = np.asarray(value, dtype)
            except (TypeError, ValueError, OverflowError) as error:
                raise InvalidArgument(f"input {name!r} is no array of {dtype}: {error}") from None
        value = np.asarray(value)
        fit(name, value, wanted)
        return value

    def get_inputs(self) -> list[NodeArg]:
        return list(self._wanted.values())

    def get_outputs(self) -> list[NodeArg]:
        """As the model declares them; where it declares no shape, one that tells the rank (when that can be told)."""
        return list(self._made.values())

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Initializers that the model lists as inputs: a run may give them another value."""
        return list(self._optional.values())

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
        check_providers(providers, provider_options)

    def enable_fallback(self) -> None:
        """Has no effect: there is nothing to fall back from."""

    def disable_fallback(self) -> None:
        """Has no effect: there is nothing to fall back from."""

    def get_input_memory_infos(self) -> list[OrtMemoryInfo]:
        return [_memory() for _ in self._wanted]

    def get_output_memory_infos(self) -> list[OrtMemoryInfo]:
        return [_memory() for _ in self._made]

    def set_ep_dynamic_options(self, options: Mapping[str, str]) -> None:
        """Has no effect, and warns of it."""
        without_effect("InferenceSession.set_ep_dynamic_options", "the CPU does all, as it was set up")

    def end_profiling(self) -> str:
        """The file with the profile, written now; "" where ``enable_profiling`` was not set, or the profile has ended."""
        profile, self._profile = self._profile, None
        return profile.write(self._model) if profile else ""

    def get_profiling_start_time_ns(self) -> int:
        """When the profile began, by `time.monotonic_ns`; 0 where there is none."""
        return self._profile.start if self._profile else 0


_KEYWORDS = {"disabled_optimizers": "a model is always optimised"}
"""What happens instead of what an argument of a session asks for."""


def _memory() -> OrtMemoryInfo:
    """Where inputs and results lie."""
    return OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_DEVICE_ALLOCATOR, 0, OrtMemType.DEFAULT)


def _load(path_or_bytes: str | os.PathLike | bytes, threads: int | None, options: SessionOptions) -> Model:
    try:
        return load(path_or_bytes, threads=threads, flush_denormals=options._flush_denormals(), exact=options._exact())
    except FileNotFoundError as error:
        raise NoSuchFile(f"Load model from {path_or_bytes!s} failed. File doesn't exist") from error
    except OSError as error:
        raise Fail(f"Load model from {path_or_bytes!s} failed: {error}") from error
    except ModelError as error:
        raise translated(error, InvalidProtobuf if "is not an ONNX model" in str(error) else InvalidGraph) from error
