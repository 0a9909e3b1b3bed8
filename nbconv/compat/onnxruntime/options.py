"""Options of sessions and runs, and what of them nbconv has no use for."""

from __future__ import annotations

import enum
import operator
import warnings
from typing import Any, ClassVar

from nbconv.compat.onnxruntime.errors import Fail, NotImplemented

_told: set[str] = set()


def without_effect(what: str) -> None:
    """Warn, once a process for each thing, that the program asks for what changes nothing here."""
    if what not in _told:
        _told.add(what)
        warnings.warn(f"nbconv.ort: {what} has no effect", stacklevel=4)


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


class _Options:
    """Attributes that are set to values of their own type only, and string entries by key."""

    _defaults: ClassVar[dict[str, Any]] = {}
    _done: ClassVar[dict[str, tuple[Any, ...] | None]] = {}
    """Attributes that nbconv does as told: to these values beside the default, or (None) to any."""
    _entries: dict[str, str]

    _known: frozenset[str] = frozenset()
    """entries that have an effect"""

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
                without_effect(f"{type(self).__name__}.{name} = {value}")
        for key in self._entries.keys() - self._known:
            without_effect(f"the entry {key!r} of {type(self).__name__}")


_LOG: dict[str, tuple[Any, ...] | None] = {"log_severity_level": (2, 3, 4), "log_verbosity_level": (), "logid": None}
"""Nothing is written but warnings, by Python's logger "nbconv"."""


class SessionOptions(_Options):
    """Options of an `InferenceSession`.

    With an effect: ``intra_op_num_threads`` (0: as many as affinity and the cgroup allow), ``optimized_model_filepath``
    (the model is written there as nbconv read it, before its own optimisations), ``enable_profiling`` and
    ``profile_file_prefix``, ``add_free_dimension_override_by_name``, and the entry "nbconv.exact" ("1": as `nbconv.load`'s
    ``exact``). nbconv always fuses, plans its memory ahead, does one
    node at a time and gives the same bits in every run: what asks for something else is accepted, and the session warns of
    it, once. Messages go to Python's logger "nbconv".
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
    _known = frozenset(("nbconv.exact",))
    enable_profiling: bool
    intra_op_num_threads: int
    optimized_model_filepath: str
    profile_file_prefix: str
    _free: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_free", {})

    @property
    def _exact(self) -> bool:
        return self._entries.get("nbconv.exact") == "1"

    def add_session_config_entry(self, key: str, value: str) -> None:
        self._add(key, value)

    def get_session_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._get(key)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Give the symbolic dimension ``name`` of the model's inputs a size."""
        self._free[name] = operator.index(size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """Has no effect, and warns of it: denotations of dimensions are not read."""
        without_effect("SessionOptions.add_free_dimension_override_by_denotation")

    def add_provider(self, name: str, options: dict[str, str]) -> None:
        """Warns where it is another than the CPU's, which is what runs."""
        if name != "CPUExecutionProvider":
            without_effect(f"SessionOptions.add_provider({name!r})")

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
    terminate: bool

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._add(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The entry's value; RuntimeError when there is none."""
        return self._get(key)
