"""Report everything that nbconv lacks for a model (operators, attributes, types), the steps that would run in NumPy for
want of a kernel (with --device cuda: those that the CPU would do for a GPU) or on kernels that are known to be slow, where
planning must wait for a value, what would stand in the way of training, and whether this machine is set up well. Without a
model: the machine only."""

from __future__ import annotations

import argparse
import math
import os
from typing import TYPE_CHECKING, Any

from nbconv.commands import _model
from nbconv.commands._examine import examine
from nbconv.commands._text import dump, plural, size, style, table

if TYPE_CHECKING:
    from nbconv.kernels.target import Target

NAMED = 3
"""Nodes of a group that are named."""
LONGEST = 30
"""Characters of a name that are shown."""
PACKAGES = ("nbconv", "numpy", "numba", "llvmlite", "onnx", "Pillow", "onnxruntime")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="an ONNX or TFLite file")
    _model.add_shape(parser)
    _model.add_value(parser)
    _model.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.epilog = f"""{_model.SHAPES}

exit code: 0 nothing is unsupported, 1 something is, 2 the file is no valid model

examples:
  nbconv doctor
  nbconv doctor model.onnx --json
  nbconv doctor model.onnx --device cuda"""


def run(args: argparse.Namespace) -> int:
    report: dict[str, Any] = {"model": args.model, "device": None if args.device == "cpu" else gpu(args.device)}
    if args.model:
        goal = None if report["device"] is None else _goal(report["device"])
        report.update(examine(args.model, args.shape, args.value, goal))
    report["environment"] = environment()
    if args.json:
        dump(report)
    else:
        if args.model:
            _print_model(report)
            print()
        _print_environment(report["environment"])
        if report["device"]:
            print(f"{args.device:13} {report['device']['found'] or report['device']['missing']}")
    return 1 if report.get("problems") else 0


def gpu(name: str) -> dict[str, Any]:
    """Whether a GPU is there: what was ``found``, or why it is ``missing``, and the ``target`` that plans are made for, then
    too. ValueError for what is no device's name."""
    from nbconv.errors import DeviceError
    from nbconv.runtime.cuda import find

    try:
        device = find(name)
    except DeviceError as error:
        return {"name": name, "found": None, "missing": str(error), "target": "cuda"}
    return {"name": name, "found": repr(device), "missing": None, "target": device.target.name}


def _goal(device: dict[str, Any]) -> Target:
    """What plans for a `gpu` are made for."""
    from nbconv.kernels.target import target, with_tf32
    from nbconv.runtime.cuda import parse

    goal = target(device["target"])
    return with_tf32(goal) if parse(device["name"])[1] else goal


def environment() -> dict[str, Any]:
    """Facts about this machine and installation."""
    import platform

    from nbconv.base.machine import available_threads
    from nbconv.commands._machine import cpu_name, versions
    from nbconv.kernels.target import host

    try:
        goal = host().name
    except ValueError as error:
        goal = f"none: {error}"
    return {
        "cpu": cpu_name(),
        "target": goal,
        "threads": available_threads(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": versions(PACKAGES),
        "cache": _cache(),
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith("NBCONV_")},
    }


def _cache() -> dict[str, Any]:
    from nbconv.kernels import store
    from nbconv.kernels.cache import listing
    from nbconv.kernels.compile import families

    folder = store.cache_dir()
    if folder is None:
        why = "there is none: every process compiles its own kernels; set NBCONV_CACHE to a folder of your own (mode 0700)"
        return {"folder": None, "usable": False, "state": why}
    libraries = [m for m in listing() if m["current"]]
    total = sum(m["size"] for m in libraries)
    state = f"{len(libraries)} current kernel libraries, {size(total)}; {len(families())} families a target"
    usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    if not usable:
        state += "; it cannot be written: what it lacks is compiled by every process"
    elif _noexec(str(folder)):
        state += "; it is mounted noexec: libraries are opened from memory"
    return {"folder": str(folder), "usable": usable, "state": state}


def _noexec(folder: str) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0))
    except (OSError, AttributeError):
        return False


def _print_model(report: dict[str, Any]) -> None:
    problems, path, stages = report["problems"], report["model"], report["stages"]
    if problems:
        print(style(f"{path}: nbconv lacks {plural(len(problems), 'thing')} for this model", "red"))
        _print_groups("WHAT IS UNSUPPORTED", problems, "problem")
    elif report["unplanned"]:
        print(style(f"{path}: everything in it is supported, but its steps are not known", "yellow"))
        print(f"  {report['unplanned']}")
    else:
        good = not report["numpy_steps"] and not report["slow_steps"]
        print(style(_on_gpu(report) if report["device"] else _on_cpu(report), "green" if good else "yellow"))
    if stages:
        print()
        plans = plural(stages["plans"], "plan")
        told = f"planned while it runs ({plans} for a run on {_model.PLAIN}), as values decide shapes"
        print(style(f"{told}: what follows these nodes waits for them", "yellow"))
        _print_groups("WHY IT WAITS", stages["nodes"], "why")
    if report["numpy_steps"]:
        _print_numpy(report["numpy_steps"])
    if report["slow_steps"]:
        print()
        print(style("steps on kernels that are known to be slow", "yellow"))
        _print_groups("WHY", report["slow_steps"], "why")
    if report["optional_inputs"]:
        names = report["optional_inputs"]
        told = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        print(f"inputs: {told} may be fed too; where they are not, the model's own values are constants")
    if report["training"]:
        _print_training(report["training"])


def _on_cpu(report: dict[str, Any]) -> str:
    """One line: what does the steps."""
    steps, slow = plural(report["steps"], "step"), report["numpy_steps"]
    by_onnx = sum(s["by"] != "NumPy" for s in slow)
    if not slow:
        more = f", {len(report['slow_steps'])} of them on slow ones" if report["slow_steps"] else ""
        return f"{report['model']}: runs, all {steps} on compiled kernels{more}"
    line = f"{report['model']}: runs, but {len(slow)} of {steps} in NumPy, for want of a kernel"
    return f"{line} ({by_onnx} by onnx.reference, which is very slow)" if by_onnx else line


def _print_groups(head: str, rows: list[dict[str, Any]], key: str) -> None:
    """Nodes by their operator and what is said of them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row["op"], row[key]), []).append(row["node"])
    cells = [(op, str(len(nodes)), text, _names(nodes)) for (op, text), nodes in groups.items()]
    print()
    table(("OP", "NODES", head, "WHICH"), cells, right=(1,), width=180)


def _print_numpy(steps: list[dict[str, Any]]) -> None:
    """NumPy's steps by their operator, those with the most bytes first."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for step in steps:
        groups.setdefault((step["op"], step["by"], step["why"]), []).append(step)
    cells = []
    for (op, by, why), rows in sorted(groups.items(), key=lambda item: -sum(r["bytes"] for r in item[1])):
        largest = max(rows, key=lambda r: r["bytes"])
        cells.append((op, str(len(rows)), by, size(sum(r["bytes"] for r in rows)), largest["outputs"], why,
                      _names([r["node"] for r in rows])))  # fmt: skip
    print()
    table(("OP", "STEPS", "BY", "BYTES", "LARGEST OUTPUT", "WHY", "NODES"), cells, right=(1, 3), width=200)


def _names(nodes: list[str]) -> str:
    """A few of them, long ones by their ends, and how many more there are."""
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return ", ".join(n if len(n) <= LONGEST else f"…{n[1 - LONGEST :]}" for n in nodes[:NAMED]) + more


def _on_gpu(report: dict[str, Any]) -> str:
    """One line: where the steps are done, and what is copied for them."""
    copies, device, slow = report["copies"], report["device"], len(report["numpy_steps"])
    would = "runs" if device["found"] else "would run"
    where = f"{slow} of them on the CPU, in NumPy" if slow else "all on kernels"
    copied = f"{plural(copies['values'], 'value')} ({size(copies['bytes'])}) copied"
    return f"{report['model']}: {would} on {device['name']} in {plural(report['steps'], 'step')}, {where}; {copied}"


def _print_training(facts: dict[str, Any]) -> None:
    missing, norms = facts["missing_gradients"], facts["batch_norm_folded"]
    if missing:
        print(style(f"training: {plural(len(missing), 'node')} on the way to its weights have no gradient", "yellow"))
        print()
        table(("NODE", "OP", "WHY"), [(m["node"], m["op"], m["why"]) for m in missing], width=140)
    elif facts["refused"]:
        print(style(f"training: nothing can train: {facts['refused']}", "yellow"))
    else:
        print(f"training: {plural(facts['trainable'], 'weight')} can train, all gradients are there", end="")
        print(f" ({facts['numbers']:,} numbers)")
    _print_untrained(facts["untrained"])
    if norms["likely"]:
        share = f"{norms['with_bias']} of {plural(norms['convolutions'], 'convolution')} have a bias"
        print(style("training: batch normalisation seems to have been folded away", "yellow"), end="")
        print(f": {share}, nothing normalises, and")
        for sentence in norms["evidence"]:
            print(f"  - {sentence}")


def _print_untrained(rows: list[dict[str, Any]]) -> None:
    """The initializers of floats that do not train, by the reason."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["why"], []).append(row)
    if not groups:
        return
    print()
    cells = [
        (why, str(len(found)), f"{sum(math.prod(r['shape']) for r in found):,}", _names([r["name"] for r in found]))
        for why, found in sorted(groups.items(), key=lambda item: -sum(math.prod(r["shape"]) for r in item[1]))
    ]
    table(("WHAT DOES NOT TRAIN", "VALUES", "NUMBERS", "WHICH"), cells, right=(1, 2), width=180)


def _print_environment(facts: dict[str, Any]) -> None:
    cache = facts["cache"]
    lines = {
        "processor": facts["cpu"],
        "target": facts["target"],
        "threads": facts["threads"],
        "system": facts["system"],
        "packages": ", ".join(f"{k} {v or '(not installed)'}" for k, v in facts["versions"].items()),
        "kernel cache": f"{cache['folder']}: {cache['state']}" if cache["folder"] else cache["state"],
    }
    if not facts["versions"]["numba"]:
        lines["compiler"] = "numba is not installed: only prebuilt kernels run (pip install numba)"
    if facts["settings"]:
        lines["settings"] = ", ".join(f"{k}={v}" for k, v in facts["settings"].items())
    for key, value in lines.items():
        print(f"{key:13} {value}")
