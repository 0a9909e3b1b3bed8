"""PyTorch modules as models, through `torch.onnx`; PyTorch is imported when a module comes."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Sequence
from typing import Any

from nbconv.errors import ModelError
from nbconv.model import Model, load


def from_torch(
    module: Any, example: Any, *, batch: bool = True, exporter: str = "auto", threads: int | None = None, device: str = "cpu"
) -> Model:
    """The model of a ``torch.nn.Module``, whose forward is traced on ``example``: a tensor, or a tuple of them.

    The module is exported as it is in eval mode, batch normalisation kept, so that it can be fine-tuned; its own mode is
    left as it was. Inputs are named as forward's parameters, outputs "output", or "output_0" and so on.

    ``batch``: the first axis of inputs may have any size. ``exporter``: "trace" (TorchScript's), "dynamo" (torch.export's,
    which needs the onnxscript package), or "auto": the first, and where it fails the second. ``threads`` and ``device`` as
    `nbconv.load` takes them.

    Raises ImportError without PyTorch, TypeError where ``module`` is none, ModelError where PyTorch cannot export it, and
    what `nbconv.load` raises.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ImportError("from_torch needs PyTorch: pip install torch") from None
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is {type(module).__name__}, wanted a torch.nn.Module")
    if exporter not in ("auto", "trace", "dynamo"):
        raise ValueError(f"exporter is {exporter!r}, wanted 'auto', 'trace' or 'dynamo'")
    inputs = tuple(example) if isinstance(example, Sequence) else (example,)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters about themselves
            content = _exported(torch, module, inputs, batch, exporter)
    finally:
        for part, training in modes.items():
            part.training = training
    return load(content, threads=threads, device=device)


def _exported(torch: Any, module: Any, inputs: tuple[Any, ...], batch: bool, exporter: str) -> bytes:
    ways = {"trace": _traced, "dynamo": _dynamo}
    failures = []
    for name in ways if exporter == "auto" else (exporter,):
        try:
            return ways[name](torch, module, inputs, batch)
        except Exception as error:  # each exporter has errors of its own
            failures.append(f"{name}: {' '.join(str(error).split())[:300] or type(error).__name__}")
    raise ModelError(f"PyTorch cannot export {type(module).__name__}: {'; '.join(failures)}")


def _names(module: Any, inputs: tuple[Any, ...]) -> list[str]:
    """The inputs' names: those of forward's parameters."""
    from inspect import Parameter, signature

    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    found = [p.name for p in signature(module.forward).parameters.values() if p.kind in kinds][: len(inputs)]
    return found + [f"input_{i}" for i in range(len(found), len(inputs))]


def _traced(torch: Any, module: Any, inputs: tuple[Any, ...], batch: bool) -> bytes:
    names, made = _names(module, inputs), module(*inputs)
    count = 1 if isinstance(made, torch.Tensor) else len(list(torch.utils._pytree.tree_leaves(made)))
    outputs = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    axes = {n: {0: "batch"} for n, x in zip(names, inputs, strict=True) if x.dim()} if batch else None
    target = io.BytesIO()
    torch.onnx.export(
        module, inputs, target, dynamo=False, input_names=names, output_names=outputs, dynamic_axes=axes,
        do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip
    return target.getvalue()


def _dynamo(torch: Any, module: Any, inputs: tuple[Any, ...], batch: bool) -> bytes:
    target = io.BytesIO()
    size = torch.export.Dim("batch")
    shapes = tuple({0: size} if x.dim() else None for x in inputs) if batch else None
    program = torch.onnx.export(
        module, inputs, dynamo=True, optimize=False, verbose=False, dynamic_shapes=shapes, input_names=_names(module, inputs)
    )
    program.save(target)
    return target.getvalue()
