"""List or clear what nbconv keeps in the user's cache folder: compiled kernels, the structure of models that were read, and
models that are ready to run (packed weights, plans). It all comes back when it is needed."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path
from typing import Any

from nbconv.commands._text import dump, plural, size, table


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear", action="store_true", help="remove all of it (running programs keep what they have open)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.epilog = """\
The folder is $NBCONV_CACHE, else $XDG_CACHE_HOME/nbconv, else ~/.cache/nbconv.

examples:
  nbconv cache
  nbconv cache --clear"""


def run(args: argparse.Namespace) -> int:
    from nbconv.kernels import store
    from nbconv.runtime import plan_cache

    folder = store.cache_dir()
    if folder is None:
        raise ValueError("there is no cache folder: set NBCONV_CACHE to a folder of your own (mode 0700)")
    if args.clear:
        return _clear(folder, args.json)
    libraries, models, ready = _libraries(folder), _structures(folder), plan_cache.entries()
    if args.json:
        kept = [{"name": os.path.basename(p), "size": n, "age": round(time.time() - t)} for p, n, t in ready]
        dump({"folder": str(folder), "libraries": libraries, "models": models, "prepared": kept})
        return 0
    print(f"{folder}")
    print()
    if libraries:
        rows = [
            (m["family"], m["target"], size(m["size"]), _age(m["age"]), "" if m["current"] else "no longer used")
            for m in libraries
        ]
        table(("KERNELS", "TARGET", "SIZE", "AGE", ""), rows, right=(2, 3))
    else:
        print("no compiled kernels")
    total = sum(m["size"] for m in models)
    print(f"\n{plural(len(models), 'model structure')}, {size(total)}")
    print(f"{plural(len(ready), 'prepared model')}, {size(sum(n for _, n, _ in ready))}")
    return 0


def _libraries(folder: Path) -> list[dict[str, Any]]:
    from nbconv.kernels.cache import listing

    found = []
    for m in listing():
        age = 0.0
        with contextlib.suppress(OSError):
            age = time.time() - os.path.getmtime(folder / f"{m['family']}-{m['key']}.json")
        found.append({k: m[k] for k in ("family", "target", "size", "current", "toolchain")} | {"age": round(age)})
    return sorted(found, key=lambda m: (m["target"], m["family"], m["age"]))


def _structures(folder: Path) -> list[dict[str, Any]]:
    found = []
    with contextlib.suppress(OSError):
        for entry in sorted((folder / "onnx").iterdir()):
            with contextlib.suppress(OSError):
                status = entry.stat()
                found.append({"name": entry.name, "size": status.st_size, "age": round(time.time() - status.st_mtime)})
    return found


def _clear(folder: Path, as_json: bool) -> int:
    from nbconv.kernels import cache
    from nbconv.runtime import plan_cache

    files, freed = (a + b for a, b in zip(cache.clear(), plan_cache.clear(), strict=True))
    for entry in _structures(folder):
        name = entry["name"].lstrip(".").partition(".")[0]
        if len(name) == 64 and set(name) <= set("0123456789abcdef"):  # only what nbconv wrote
            with contextlib.suppress(OSError):
                os.unlink(folder / "onnx" / entry["name"])
                files, freed = files + 1, freed + entry["size"]
    if as_json:
        dump({"folder": str(folder), "files": files, "bytes": freed})
    else:
        print(f"removed {plural(files, 'file')}, {size(freed)}, from {folder}")
    return 0


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
