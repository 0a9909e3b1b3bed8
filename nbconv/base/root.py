"""One root for all of nbconv: its packages come from the same checkout or the same installation.

In a checkout's folder Python takes ``nbconv`` from there, and ``nbconv.kernels`` from where an editable install points. Two
versions that mix give wrong results at worst, so that is an ImportError here.
"""

from __future__ import annotations

import importlib
import os
import sys


def check(package: str) -> None:
    """ImportError unless ``nbconv.<name>``, which is being imported, lies in nbconv's own folder or beside it."""
    name = package.rpartition(".")[2]
    homes, places = list(sys.modules["nbconv"].__path__), list(sys.modules[package].__path__)
    if not homes or not places:  # frozen into an executable
        return
    fitting = [os.path.join(folder, name) for home in homes for folder in (home, os.path.dirname(home))]
    if places[0] not in fitting and not any(_same(places[0], path) for path in fitting):
        root = os.path.dirname(homes[0])
        raise ImportError(
            f"nbconv comes from {homes[0]}, but {package} from {places[0]}: two copies of nbconv must not mix. "
            f"To use the second, run Python in another folder than {root} (and without it in PYTHONPATH); "
            f"to use the first, install it: pip install -e {root}"
        )


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _check_kernels() -> None:
    try:
        importlib.import_module("nbconv.kernels")
    except ModuleNotFoundError as error:
        if error.name != "nbconv.kernels":
            raise
        home = sys.modules["nbconv"].__path__[0]
        raise ImportError(
            f"nbconv comes from {home}, a folder of sources that is not installed: run Python in another folder than "
            f"{os.path.dirname(home)}, or install it: pip install -e {os.path.dirname(home)}"
        ) from None
    check("nbconv.kernels")


_check_kernels()  # before anything imports a module of the kernels
