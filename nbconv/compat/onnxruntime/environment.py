"""What onnxruntime tells of itself and of its providers, and settings of the whole process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from nbconv import __version__ as NBCONV_VERSION
from nbconv.compat.onnxruntime.options import without_effect

__version__ = "1.20.0"
"""The onnxruntime release whose Python names these are; ``nbconv.__version__`` is nbconv's own."""

CPU = "CPUExecutionProvider"


def check_providers(providers: Any, provider_options: Any) -> None:
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
    """Has no effect, and warns of it."""
    without_effect("set_default_logger_verbosity", 'the level of Python\'s logger "nbconv" decides')


def set_seed(seed: int) -> None:
    """Has no effect, and warns of it: operators that draw random numbers have seeds of their own."""
    without_effect("set_seed", "operators that draw random numbers have seeds of their own")


def set_global_thread_pool_sizes(intra_op_num_threads: int, inter_op_num_threads: int) -> None:
    """Has no effect, and warns of it: the threads are those that `SessionOptions.intra_op_num_threads` says."""
    without_effect("set_global_thread_pool_sizes", "SessionOptions.intra_op_num_threads says how many threads a run uses")


def has_collective_ops() -> bool:
    return False


def preload_dlls(cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None) -> None:
    """Does nothing: there are no libraries of CUDA to load."""


def print_debug_info() -> None:
    """Prints the versions of nbconv, of Python and of the system."""
    import platform

    print(f"{get_build_info()}, Python {platform.python_version()}, {platform.platform()}")


def enable_telemetry_events() -> None:
    """Does nothing: there is no telemetry."""


def disable_telemetry_events() -> None:
    """Does nothing: there is no telemetry."""
