"""Report everything that nbconv lacks for a model (operators, attributes, types), the steps that would run in NumPy for
want of a kernel (with --device cuda: those that the CPU would do for a GPU), what would stand in the way of training it, and
whether this machine is set up well. Without a model: the machine only."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from nbconv.commands import _model
from nbconv.commands._text import dump, plural, size, style, table

if TYPE_CHECKING:
    from nbconv.graph import Graph
    from nbconv.kernels.target import Target
    from nbconv.plan.plan import Plan

PACKAGES = ("nbconv", "numpy", "numba", "llvmlite", "onnx", "Pillow", "onnxruntime")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="an ONNX file")
    _model.add_shape(parser)
    _model.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.epilog = f"""{_model.SHAPES}

exit code: 0 the model runs, 1 something is unsupported, 2 it is no valid model

examples:
  nbconv doctor
  nbconv doctor model.onnx --json
  nbconv doctor model.onnx --device cuda"""


def run(args: argparse.Namespace) -> int:
    report: dict[str, Any] = {"model": args.model, "device": None if args.device == "cpu" else gpu(args.device)}
    if args.model:
        report.update(examine(args.model, args.shape, report["device"]))
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


def examine(path: str, shapes: list[str], device: dict[str, Any] | None = None) -> dict[str, Any]:
    """What is unsupported, which steps NumPy does (``copies``, for a `gpu`: values and bytes that cross over for them, for
    inputs and results), ``unplanned``: why the steps are not known, and ``training``: what has no
    gradient, and whether batch normalisation was folded away. ModelError for a file that is no valid model."""
    from nbconv.converters.onnx import survey
    from nbconv.errors import ModelError
    from nbconv.kernels import KernelError

    try:
        problems = survey(path)
    except ModelError as error:
        raise type(error)(str(error) if path in str(error) else f"{path}: {error}") from None
    found: dict[str, Any] = {
        "problems": [p._asdict() for p in problems],
        "steps": None,
        "numpy_steps": [],
        "unplanned": "",
        "training": None,
        "optional_inputs": [],
    }
    if problems:
        return found
    notes: list[str] = []
    try:
        model = _model.open_model(path)
    except (ValueError, KernelError) as error:
        found["unplanned"] = str(error)
        return found
    found["optional_inputs"] = [port.name for port in model.optional_inputs]
    _model.given_shapes(model.graph, shapes)  # what is no shape of the model's is the caller's error, not a finding
    try:
        sizes, notes = _model.input_shapes(model.graph, shapes)
        plan = model.plan(sizes, target=None if device is None else _goal(device))
    except (ValueError, KernelError) as error:
        found["unplanned"] = "; ".join([str(error), *notes])
        return found
    found["steps"] = len(plan.steps)
    for node in plan.numpy_steps():
        made = ", ".join(str(plan.specs[n]) for n in node.outputs if n)
        found["numpy_steps"].append({"node": node.name, "op": node.op.type, "outputs": made})
    if device is not None:
        found["copies"] = _copies(plan)
    found["training"] = _training(model.graph, sizes)
    return found


def _copies(plan: Plan) -> dict[str, int]:
    """How many values cross over in a run on a GPU, and their bytes: inputs, results, and what steps on the CPU work on."""
    from nbconv.runtime.cuda.placement import transfers

    moved = transfers(plan)
    names = [name for up, down in moved.before.values() for name in (*up, *down)]
    names += [name for name in plan.results if name not in moved.results]
    return {"values": len(names), "bytes": sum(plan.nbytes(name) for name in names)}


def _training(graph: Graph, sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """What stands in the way of training: nodes without a gradient, batch normalisation that was folded away."""
    from nbconv.edit.folded import folded_norms
    from nbconv.edit.parameters import parameters
    from nbconv.graph import Spec
    from nbconv.lowering.weights import Weights
    from nbconv.passes.autodiff import missing_gradients
    from nbconv.passes.fold import fold

    derived, specs, _ = fold(graph, {n: Spec(sizes[n], s.dtype) for n, s in graph.inputs.items()}, Weights())
    wrt = [p.value for p in parameters(derived)]
    missing = [{"node": node, "op": op, "why": why} for node, op, why in missing_gradients(derived, specs, wrt)]
    norms = folded_norms(graph)
    return {"trainable": len(wrt), "missing_gradients": missing, "batch_norm_folded": norms._asdict()}


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
    problems, path = report["problems"], report["model"]
    if problems:
        print(style(f"{path}: nbconv lacks {plural(len(problems), 'thing')} for this model", "red"))
        print()
        table(("NODE", "OP", "WHAT IS UNSUPPORTED"), [(p["node"], p["op"], p["problem"]) for p in problems], width=140)
    elif report["unplanned"]:
        print(style(f"{path}: everything in it is supported, but its steps are not known", "yellow"))
        print(f"  {report['unplanned']}")
    elif report["numpy_steps"] and report["device"]:
        print(style(_on_gpu(report), "yellow"))
        print()
        table(("NODE", "OP", "OUTPUTS"), [(s["node"], s["op"], s["outputs"]) for s in report["numpy_steps"]])
    elif report["device"]:
        print(style(_on_gpu(report), "green"))
    elif report["numpy_steps"]:
        slow = report["numpy_steps"]
        print(
            style(
                f"{path}: runs, but {len(slow)} of {plural(report['steps'], 'step')} in NumPy, for want of a kernel",
                "yellow",
            )
        )
        print()
        table(("NODE", "OP", "OUTPUTS"), [(s["node"], s["op"], s["outputs"]) for s in slow])
    else:
        print(style(f"{path}: runs, all {plural(report['steps'], 'step')} on compiled kernels", "green"))
    if report["optional_inputs"]:
        names = report["optional_inputs"]
        told = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        print(f"inputs: {told} may be fed too; where they are not, the model's own values are constants")
    if report["training"]:
        _print_training(report["training"])


def _on_gpu(report: dict[str, Any]) -> str:
    """One line: where the steps are done, and what is copied for them."""
    copies, device, slow = report["copies"], report["device"], len(report["numpy_steps"])
    would = "runs" if device["found"] else "would run"
    where = f"{slow} of them on the CPU, in NumPy" if slow else "all on kernels"
    copied = f"{plural(copies['values'], 'value')} ({size(copies['bytes'])}) copied"
    return f"{report['model']}: {would} on {device['name']} in {plural(report['steps'], 'step')}, {where}; {copied}"


def _print_training(facts: dict[str, Any]) -> None:
    missing, norms = facts["missing_gradients"], facts["batch_norm_folded"]
    if not facts["trainable"]:
        print("training: it has no weights that train")
    elif missing:
        print(style(f"training: {plural(len(missing), 'node')} on the way to its weights have no gradient", "yellow"))
        print()
        table(("NODE", "OP", "WHY"), [(m["node"], m["op"], m["why"]) for m in missing], width=140)
    else:
        print(f"training: {plural(facts['trainable'], 'weight')} can train, all gradients are there")
    if norms["likely"]:
        share = f"{norms['with_bias']} of {plural(norms['convolutions'], 'convolution')} have a bias"
        print(style("training: batch normalisation seems to have been folded away", "yellow"), end="")
        print(f": {share}, nothing normalises, and")
        for sentence in norms["evidence"]:
            print(f"  - {sentence}")


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
