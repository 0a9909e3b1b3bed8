"""Ops that NumPy does between a program's kernels, such that they can be kept in a file: an op by its family, type and
attributes, its values by `Binding`."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph.dtypes import text_of
from nbconv.plan.program import Program, plain

if TYPE_CHECKING:
    from nbconv.graph.op import Op


class Binding(NamedTuple):
    """Where the array of a value is found during a run; the value lies as ONNX has it.

    ``kind`` and ``key``: "input" and its name, "result" and its number, "constant" and its index, "arena" and the offset in
    bytes; "none" for a value without elements.
    """

    kind: str
    key: str | int
    shape: tuple[int, ...]
    dtype: np.dtype
    root: str = ""
    """the value whose memory it is: a GPU's workspace asks"""

    @property
    def nbytes(self) -> int:
        n = self.dtype.itemsize
        for d in self.shape:
            n *= d
        return n

    @property
    def writable(self) -> bool:
        """Whether a step may write to it."""
        return self.kind not in ("input", "constant")

    def array(self, space: Any) -> np.ndarray:
        """The array, in the run that this workspace serves."""
        key: Any = self.key
        match self.kind:
            case "arena":
                return space.memory(self.root, key, self.nbytes).view(self.dtype).reshape(self.shape)
            case "input":
                return space.feeds[key].reshape(self.shape)
            case "constant":
                return space.program.arrays[key].reshape(self.shape)
            case "result":
                return space.results[key].reshape(self.shape)
        return np.zeros(self.shape, self.dtype)

    def encode(self) -> list:
        return [self.kind, self.key, list(self.shape), text_of(self.dtype)]

    @classmethod
    def decode(cls, kept: list, program: Program) -> Binding:
        """`encode` undone; ValueError or TypeError for what is not within ``program``."""
        kind, key, shape, dtype = kept
        found = cls(kind, key, tuple(shape), plain(dtype))
        if any(type(d) is not int or d < 0 for d in shape):
            raise ValueError(f"shape {shape}")
        if kind == "input" and type(key) is str:
            fits = key in program.inputs
        elif kind == "none":
            fits = key == found.nbytes == 0
        elif type(key) is not int or key < 0:
            fits = False
        elif kind == "result":
            spec = program.spec(key)
            fits = (spec.nbytes, spec.dtype) == (found.nbytes, found.dtype)
        elif kind == "constant":
            fits = key < len(program.constants)
        else:
            fits = kind == "arena" and key + found.nbytes <= program.arena and key % found.dtype.itemsize == 0
        if not fits:
            raise ValueError(f"binding {kept}")
        return found


class HostStep(NamedTuple):
    """An op that NumPy does: its `reference` on the values' arrays. ``label``: the node, as errors call it."""

    op: Op
    inputs: list[Binding | None]
    outputs: list[Binding | None]
    label: str

    def run(self, space: Any, threads: int) -> None:
        try:
            found = self.op.reference(*(None if b is None else b.array(space) for b in self.inputs))
        except ModelError as error:
            raise type(error)(f"{self.label}: {error}") from None
        for binding, value in zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=False):
            if binding is not None:
                array = binding.array(space)
                if self.op.makes_room and value.shape != array.shape:  # it knows how many there may be, the plan did not
                    array[len(value) :] = 0
                    array = array[: len(value)]
                np.copyto(array, value)

    @property
    def portable(self) -> bool:
        """Whether another process can make the op again from its attributes."""
        from nbconv.ops import family_of

        return family_of(self.op) is not None

    @property
    def bodies(self) -> tuple[()]:
        """No programs."""
        return ()

    def encode(self, tables: list[np.ndarray]) -> dict[str, Any]:
        from nbconv.ops import family_of

        return {
            "family": family_of(self.op), "domain": self.op.domain, "type": self.op.type, "label": self.label,
            "attributes": {name: encode_attribute(value) for name, value in self.op.attributes().items()},
            "inputs": [_encode(b) for b in self.inputs], "outputs": [_encode(b) for b in self.outputs],
        }  # fmt: skip

    @classmethod
    def decode(cls, kept: dict[str, Any], program: Program) -> HostStep:
        from nbconv.ops import of_family

        attributes = {name: decode_attribute(value) for name, value in kept["attributes"].items()}
        op = of_family(kept["family"], kept["type"], kept["domain"])(**attributes)
        inputs, outputs = ([b and Binding.decode(b, program) for b in kept[k]] for k in ("inputs", "outputs"))
        if any(b and not b.writable for b in outputs):
            raise ValueError("a step that writes to what is not its own")
        return cls(op, inputs, outputs, str(kept["label"]))


class Check(NamedTuple):
    """What kernels found wrong with the indices that a node was given: two words a unit of theirs, the size of the axis that
    an index leaves, or 0, and that index. ``label``: the node, as errors call it."""

    binding: Binding
    label: str

    def run(self, space: Any) -> None:
        """ModelError for the first such index."""
        found = self.binding.array(space).reshape(-1, 2)
        if found[:, 0].any():
            size, index = found[found[:, 0] > 0][0]
            raise ModelError(f"{self.label}: index {index} leaves an axis of size {size}")

    def encode(self) -> list:
        return [self.binding.encode(), self.label]

    @classmethod
    def decode(cls, kept: list, program: Program) -> Check:
        """`encode` undone; ValueError or TypeError for what is not within ``program``."""
        binding, label = Binding.decode(kept[0], program), str(kept[1])
        if binding.dtype != np.int64 or len(binding.shape) != 2 or binding.shape[1] != 2:
            raise ValueError(f"check {kept}")
        return cls(binding, label)


def _encode(binding: Binding | None) -> list | None:
    return None if binding is None else binding.encode()


def encode_attribute(value: Any) -> Any:
    """An attribute of an op as JSON values, bit for bit."""
    if isinstance(value, float):
        return {"float": np.array(value, ">f8").tobytes().hex()}
    if isinstance(value, np.ndarray):
        data = binascii.b2a_base64(np.ascontiguousarray(value).tobytes(), newline=False).decode()
        return {"array": data, "dtype": text_of(value.dtype), "shape": list(value.shape)}
    return [encode_attribute(v) for v in value] if isinstance(value, tuple) else value


def decode_attribute(kept: Any) -> Any:
    """`encode_attribute` undone; ValueError, TypeError or KeyError for what is none."""
    if isinstance(kept, list):
        return tuple(decode_attribute(v) for v in kept)
    if not isinstance(kept, dict):
        return kept
    if "float" in kept:
        return float(np.frombuffer(bytes.fromhex(kept["float"]), ">f8")[0])
    return np.frombuffer(binascii.a2b_base64(kept["array"]), plain(kept["dtype"])).reshape(kept["shape"])
