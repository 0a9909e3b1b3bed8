"""Options of sessions and runs, and what of them nbconv has no use for."""

from __future__ import annotations

import enum
import operator
import warnings
from typing import Any, ClassVar, NamedTuple

from nbconv.compat.onnxruntime.errors import Fail, NotImplemented

_told: set[str] = set()


def without_effect(option: str, instead: str, told: str = "") -> None:
    """Warn, once a process for each option, that the program asks for what changes nothing here, and say what happens
    instead. ``told``: the option and its value, as the warning has it."""
    if option not in _told:
        _told.add(option)
        warnings.warn(f"nbconv.ort: {told or option} has no effect: {instead}", stacklevel=4)


def lacking(what: str) -> NotImplemented:
    """The error for a part of onnxruntime that nbconv lacks."""
    return NotImplemented(f"nbconv.ort has no {what}")


class _Choice(enum.Enum):
    def __int__(self) -> int:
        return self.value

    __index__ = __int__


class GraphOptimizationLevel(_Choice):
    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(_Choice):
    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class ExecutionOrder(_Choice):
    DEFAULT = 0
    PRIORITY_BASED = 1
    MEMORY_EFFICIENT = 2


class Entry(NamedTuple):
    """An entry of onnxruntime's: the values that ask for what nbconv does (None: all do), and what happens at others."""

    done: tuple[str, ...] | None
    instead: str = ""


_UNKNOWN = Entry((), "nbconv has no such entry")


class _Options:
    """Attributes that are set to values of their own type only, and string entries by key."""

    _defaults: ClassVar[dict[str, Any]] = {}
    _done: ClassVar[dict[str, tuple[Any, ...] | None]] = {}
    """Attributes that nbconv does as told: to these values beside the default, or (None) to any."""
    _instead: ClassVar[dict[str, str]] = {}
    """What happens whatever the others say."""
    _known: ClassVar[dict[str, Entry]] = {}
    """Entries that onnxruntime has, by key."""
    _entries: dict[str, str]

    def __init__(self) -> None:
        for name, value in self._defaults.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_entries", {})

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._defaults:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        kind = type(self._defaults[name])
        if kind in (int, bool):
            value = kind(operator.index(value))
        elif not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r}, wanted {kind.__name__}")
        object.__setattr__(self, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _add(self, key: str, value: str) -> None:
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"an entry's key and value are strings, got {key!r} and {value!r}")
        self._entries[key] = value

    def _get(self, key: str) -> str:
        if key not in self._entries:
            raise RuntimeError(f"{type(self).__name__} does not have configuration with key: {key}")
        return self._entries[key]

    def _tell(self) -> None:
        """Warn of what is set and changes nothing."""
        for name, default in self._defaults.items():
            value, done = getattr(self, name), self._done.get(name, ())
            if value != default and done is not None and value not in done:
                option = f"{type(self).__name__}.{name}"
                without_effect(option, self._instead[name], f"{option} = {value}")
        for key, value in self._entries.items():
            entry = self._known.get(key, _UNKNOWN)
            if entry.done is not None and value not in entry.done:
                option = f"the entry {key!r} of {type(self).__name__}"
                without_effect(option, entry.instead, f"{option} = {value!r}")


_LOG: dict[str, tuple[Any, ...] | None] = {"log_severity_level": (2, 3, 4), "log_verbosity_level": (), "logid": None}
_LOGGER = 'messages go to Python\'s logger "nbconv"'
_PLANNED = "a run's memory is planned ahead, as one block that the model keeps"
_ONE_BY_ONE = "nodes are done one by one, in the model's order, each by intra_op_num_threads"
_OPTIMISED = "a model is always optimised"
_SPINS = "threads that wait spin for some 0.1 ms, then sleep"
_CPU = "the CPU does all"


class SessionOptions(_Options):
    """Options of an `InferenceSession`.

    With an effect: ``intra_op_num_threads`` (0: as many as affinity and the cgroup allow), ``optimized_model_filepath``
    (the model is written there as nbconv read it, before its own optimisations), ``enable_profiling`` and
    ``profile_file_prefix``, ``add_free_dimension_override_by_name``, and two entries: "session.set_denormal_as_zero" ("1"
    flushes denormals to zero, as without it, any other value keeps them) and our own "nbconv.exact" ("1": as `nbconv.load`
    takes ``exact``). nbconv always fuses, plans its memory ahead, does one node at a time and gives the same bits in every
    run: what asks for something else is accepted, and the session warns of it, once a process for each option, and says what
    happens instead.
    """

    _defaults = {
        "enable_cpu_mem_arena": True,
        "enable_mem_pattern": True,
        "enable_mem_reuse": True,
        "enable_profiling": False,
        "execution_mode": ExecutionMode.ORT_SEQUENTIAL,
        "execution_order": ExecutionOrder.DEFAULT,
        "graph_optimization_level": GraphOptimizationLevel.ORT_ENABLE_ALL,
        "inter_op_num_threads": 0,
        "intra_op_num_threads": 0,
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "optimized_model_filepath": "",
        "profile_file_prefix": "onnxruntime_profile_",
        "use_deterministic_compute": False,
        "use_per_session_threads": True,
    }
    _done = {
        **_LOG,
        "enable_profiling": None,
        "inter_op_num_threads": (1,),
        "intra_op_num_threads": None,
        "optimized_model_filepath": None,
        "profile_file_prefix": None,
        "use_deterministic_compute": None,
    }
    _instead = {
        "enable_cpu_mem_arena": _PLANNED,
        "enable_mem_pattern": _PLANNED,
        "enable_mem_reuse": _PLANNED,
        "execution_mode": _ONE_BY_ONE,
        "execution_order": _ONE_BY_ONE,
        "graph_optimization_level": _OPTIMISED,
        "inter_op_num_threads": _ONE_BY_ONE,
        "log_severity_level": _LOGGER,
        "log_verbosity_level": _LOGGER,
        "use_per_session_threads": "sessions share the process's threads, of which a run uses intra_op_num_threads",
    }
    _known = {
        "session.set_denormal_as_zero": Entry(None),
        "nbconv.exact": Entry(None),
        "session.load_model_format": Entry(("ONNX", ""), "models are ONNX's or TensorFlow Lite's"),
        "session.save_model_format": Entry(("ONNX", ""), "a model is written as ONNX"),
        "session.use_env_allocators": Entry(("0",), _PLANNED),
        "session.use_device_allocator_for_initializers": Entry(("0",), _PLANNED),
        "session.disable_prepacking": Entry(("0",), "weights are packed once, when they are first used"),
        "session.intra_op.allow_spinning": Entry(("1",), _SPINS),
        "session.inter_op.allow_spinning": Entry(None),
        "session.force_spinning_stop": Entry(("0",), _SPINS),
        "session.intra_op_thread_affinities": Entry(("",), "threads run where the process may"),
        "session.dynamic_block_base": Entry(("0",), "how work is cut is the plan's, and the same in every run"),
        "session.disable_quant_qdq": Entry(("0",), _OPTIMISED),
        "session.disable_double_qdq_remover": Entry(("0",), _OPTIMISED),
        "session.enable_quant_qdq_cleanup": Entry(("0",), _OPTIMISED),
        "session.disable_aot_function_inlining": Entry(("0",), _OPTIMISED),
        "optimization.enable_gelu_approximation": Entry(("0",), "Gelu is computed as it is defined"),
        "optimization.disable_specified_optimizers": Entry(("",), _OPTIMISED),
        "optimization.minimal_build_optimizations": Entry(("",), _OPTIMISED),
        "session.x64quantprecision": Entry(None),
        "session.model_external_initializers_file_folder_path": Entry((), "external data is read from the model's folder"),
        "mlas.enable_gemm_fastmath_arm64_bfloat16": Entry(("0",), "products are of float32"),
        "session.disable_cpu_ep_fallback": Entry(("0",), _CPU),
    }
    enable_profiling: bool
    intra_op_num_threads: int
    optimized_model_filepath: str
    profile_file_prefix: str
    _free: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_free", {})

    def _exact(self) -> bool:
        """Whether its sums are taken as operators define them."""
        return self._entries.get("nbconv.exact") == "1"

    def add_session_config_entry(self, key: str, value: str) -> None:
        self._add(key, value)

    def _flush_denormals(self) -> bool:
        """What the session's model does with denormals."""
        return self._entries.get("session.set_denormal_as_zero", "1") == "1"

    def get_session_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Give the symbolic dimension ``name`` of the model's inputs a size."""
        self._free[name] = operator.index(size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """Has no effect, and warns of it: denotations of dimensions are not read."""
        instead = "denotations are not read, add_free_dimension_override_by_name gives a dimension its size"
        without_effect("SessionOptions.add_free_dimension_override_by_denotation", instead)

    def add_provider(self, name: str, options: dict[str, str]) -> None:
        """Warns where it is another than the CPU's, which is what runs."""
        if name != "CPUExecutionProvider":
            without_effect(f"SessionOptions.add_provider({name!r})", _CPU)

    def has_providers(self) -> bool:
        return False

    def register_custom_ops_library(self, path: str) -> None:
        raise Fail(f"{path}: libraries of custom operators made for onnxruntime cannot be used")

    def add_initializer(self, name: str, ort_value: Any) -> None:
        raise lacking("SessionOptions.add_initializer")

    def add_external_initializers(self, names: Any, ort_values: Any) -> None:
        raise lacking("SessionOptions.add_external_initializers")


class RunOptions(_Options):
    """Options of one run. ``terminate=True`` makes a run that starts fail; one that has started is not stopped. Only what
    is asked for is ever computed."""

    _defaults = {
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "only_execute_path_to_fetches": False,
        "terminate": False,
    }
    _done = {**_LOG, "only_execute_path_to_fetches": None, "terminate": None}
    _instead = {"log_severity_level": _LOGGER, "log_verbosity_level": _LOGGER}
    _known = {
        "memory.enable_memory_arena_shrinkage": Entry(("",), _PLANNED),
        "disable_synchronize_execution_providers": Entry(None),
    }
    terminate: bool

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._get(key)
