"""Inputs and outputs bound to memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nbconv.compat.onnxruntime.devices import on_cpu
from nbconv.compat.onnxruntime.errors import InvalidArgument
from nbconv.compat.onnxruntime.values import NodeArg, OrtValue, at


class Session(Protocol):
    """What an `IOBinding` asks of an `InferenceSession`: its inputs and outputs by name."""

    _wanted: dict[str, NodeArg]
    _made: dict[str, NodeArg]


class IOBinding:
    """Inputs and outputs bound to memory, for `InferenceSession.run_with_iobinding`. A bound output is computed; where it is
    bound without memory, each run makes a new array."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._inputs: dict[str, OrtValue] = {}
        self._outputs: dict[str, OrtValue | None] = {}
        self._results: list[OrtValue] = []

    def bind_cpu_input(self, name: str, arr_on_cpu: np.ndarray) -> None:
        self._input(name, OrtValue(arr_on_cpu))

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Read an input from the caller's memory, which must stay while the binding is used."""
        on_cpu(device_type)
        self._input(name, OrtValue(at(buffer_ptr, element_type, shape)))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        self._input(name, ortvalue)

    def _input(self, name: str, value: OrtValue) -> None:
        if name not in self._session._wanted:
            raise InvalidArgument(f"Invalid input name: {name}")
        self._inputs[name] = value

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Compute an output, into the caller's memory where ``buffer_ptr`` gives it."""
        on_cpu(device_type)
        if buffer_ptr is None:
            self._output(name, None)
        elif element_type is None or shape is None:
            raise InvalidArgument("element_type and shape are wanted with buffer_ptr")
        else:
            self._output(name, OrtValue(at(buffer_ptr, element_type, shape)))

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        self._output(name, ortvalue)

    def _output(self, name: str, value: OrtValue | None) -> None:
        if name not in self._session._made:
            raise InvalidArgument(f"Invalid output name:{name}")
        self._outputs[name] = value

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, in the order they were bound."""
        return list(self._results)

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [value.numpy().copy() for value in self._results]

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._outputs.clear()
        self._results = []

    def synchronize_inputs(self) -> None:
        """Nothing is ever on its way."""

    def synchronize_outputs(self) -> None:
        """Nothing is ever on its way."""
