"""onnx's Backend interface: `prepare`, `run_model`, `run_node`, `supports_device` and so on are functions of this module.

See https://onnx.ai/onnx/api/backend.html. Models and nodes are checked as `nbconv.load` checks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.helper
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from nbconv.converters.importer import import_graph, list_problems
from nbconv.converters.weights import Source
from nbconv.errors import DeviceError, ModelError
from nbconv.model import Model


class NbconvRep(BackendRep):
    """A model that is ready to run."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._outputs = namedtupledict("Outputs", [port.name for port in model.outputs])

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, a tuple that also takes their names, for ``inputs``: arrays in the order of the model's inputs (less
        those that have initializers), one array, or ``{name: array}``. ValueError for what does not fit."""
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, Mapping):
            names = [port.name for port in self.model.inputs]
            if len(inputs) != len(names):
                raise ValueError(f"{len(inputs)} arrays were given, the inputs are {', '.join(map(repr, names))}")
            inputs = dict(zip(names, inputs, strict=True))
        return self._outputs(*self.model.run(inputs).values())


class NbconvBackend(Backend):
    """nbconv as a Backend. ``device`` is "CPU", or "CUDA" or "CUDA:1" where that GPU is; keyword arguments not named have
    no effect."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> NbconvRep:
        """The model, ready to run. Raises what `nbconv.load` raises, and ValueError for another device."""
        if not cls.supports_device(device):
            raise ValueError(f"device {device!r} is not available, wanted 'CPU', or 'CUDA' where there is a GPU")
        graph, _ = import_graph(Source(model.SerializeToString()))  # onnx is here: nothing to gain from the caches
        return NbconvRep(Model(graph, threads=kwargs.get("threads"), device=_ours(device)))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """`prepare`, then run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node on ``inputs``: an array for each input that it does not leave out, in order, or ``{name: array}``.

        The opset is ``opset_version``, or that of the node's domain in ``opset_imports`` (``{domain: version}`` or
        OperatorSetIdProtos), or the newest that onnx knows. ``outputs_info``: (type, shape) of each output, if known.
        """
        names = list(dict.fromkeys(name for name in node.input if name))
        if not isinstance(inputs, Mapping):
            arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            given = [name for name in node.input if name]
            if len(arrays) != len(given):
                raise ValueError(f"{len(arrays)} arrays were given, the node's inputs are {', '.join(map(repr, given))}")
            inputs = dict(zip(given, arrays, strict=True))
        feeds = {name: np.asarray(inputs[name]) for name in names}
        kind = onnx.helper.np_dtype_to_tensor_dtype
        made = [name for name in node.output if name]
        told = [onnx.helper.make_tensor_value_info(n, kind(np.dtype(d)), s) for n, (d, s) in zip(made, outputs_info or ())]
        graph = onnx.helper.make_graph(
            [node],
            node.op_type,
            [onnx.helper.make_tensor_value_info(name, kind(x.dtype), x.shape) for name, x in feeds.items()],
            [*told, *(onnx.ValueInfoProto(name=name) for name in made[len(told) :])],
        )
        imports = [onnx.helper.make_opsetid("", _opset(kwargs))]
        return cls.run_model(onnx.helper.make_model(graph, opset_imports=imports), feeds, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        try:
            name = _ours(device)
            if name != "cpu":
                from nbconv.runtime.cuda import find

                find(name)
        except (AttributeError, ValueError, DeviceError):
            return False
        return True

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether nbconv has all that the model uses."""
        try:
            return cls.supports_device(device) and not list_problems(Source(model.SerializeToString()))
        except ModelError:
            return False

    @classmethod
    def is_opset_supported(cls, model: onnx.ModelProto) -> tuple[bool, str]:
        """Whether the model's opset is one that nbconv reads, and if not, why."""
        from nbconv.converters.opset import OLDEST
        from nbconv.ops.fallback import DOMAINS

        newest = onnx.defs.onnx_opset_version()
        for entry in model.opset_import:
            if entry.domain not in DOMAINS and entry.domain != "ai.onnx":
                return False, f"domain {entry.domain!r} is not supported"
            if entry.domain not in ("", "ai.onnx"):
                continue
            if not OLDEST <= entry.version <= newest:
                return False, f"opset {entry.version} is not supported; nbconv reads {OLDEST} to {newest}"
        return True, ""


def _ours(device: str) -> str:
    """The device as `nbconv.load` names it. AttributeError or ValueError for what is no device of onnx's."""
    wanted = Device(device)
    return "cpu" if wanted.type == DeviceType.CPU else f"cuda:{wanted.device_id}"


def _opset(options: Mapping[str, Any]) -> int:
    """The opset of ONNX's own operators that the arguments of `run_node` ask for."""
    if "opset_version" in options:
        return int(options["opset_version"])
    imports = options.get("opset_imports") or {}
    if not isinstance(imports, Mapping):
        imports = {entry.domain: entry.version for entry in imports}
    return int(imports.get("", imports.get("ai.onnx", onnx.defs.onnx_opset_version())))


prepare = NbconvBackend.prepare
run_model = NbconvBackend.run_model
run_node = NbconvBackend.run_node
supports_device = NbconvBackend.supports_device
is_compatible = NbconvBackend.is_compatible
is_opset_supported = NbconvBackend.is_opset_supported
