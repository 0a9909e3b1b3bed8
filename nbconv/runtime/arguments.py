"""What a caller gives to a run, checked: inputs, and arrays for results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nbconv.graph import OBJECT, Spec
from nbconv.graph.dtypes import is_added, is_half

if TYPE_CHECKING:
    from nbconv.plan.program import Program
    from nbconv.runtime.cuda.program import DeviceProgram

_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


def checked(wanted: Mapping[str, Spec], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as C-contiguous arrays of the declared types (sequences as lists of such), or a ValueError that says what
    does not fit."""
    if not isinstance(feeds, Mapping):
        raise ValueError(f"inputs come as a dict of arrays by name, got {type(feeds).__name__}")
    for name in feeds:
        if name not in wanted:
            raise ValueError(f"the model has no input {name!r}, its inputs are {', '.join(map(repr, wanted))}")
    found: dict[str, Any] = {}
    for name, spec in wanted.items():
        if spec.type:
            found[name] = _typed(name, spec.type, feeds.get(name))
            continue
        if name not in feeds:
            raise ValueError(f"input {name!r} is missing, wanted {spec}")
        try:
            array = np.asarray(feeds[name])
        except ValueError as error:
            raise ValueError(f"input {name!r} is no array, wanted {spec}: {error}") from None
        if array.dtype != spec.dtype:
            array = _cast(name, array, spec.dtype)
        fit(name, spec, array.shape)
        found[name] = np.require(array, requirements=["C", "A"])
    _agree(wanted, {n: a.shape for n, a in found.items() if wanted[n].ranked and not wanted[n].type})
    return found


def _typed(name: str, kind: str, value: Any) -> Any:
    """A value that is no tensor, of this ONNX type: a list for a sequence, None for an optional value that is not there."""
    if kind.startswith("optional("):
        return None if value is None else _typed(name, kind[9:-1], value)
    if kind.startswith("seq("):
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"input {name!r} is {type(value).__name__}, wanted a list: {kind}")
        return [_typed(name, kind[4:-1], v) for v in value]
    if value is None:
        raise ValueError(f"input {name!r} is missing, wanted {kind}")
    return value if kind.startswith("map(") else np.asarray(value, object if kind == "tensor(string)" else None, order="C")


def _agree(wanted: Mapping[str, Spec], shapes: dict[str, tuple[int, ...]]) -> None:
    """ValueError where one symbolic dimension has two sizes."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        for have, want in zip(shape, wanted[name].shape, strict=True):
            if isinstance(want, str) and want != "?" and sizes.setdefault(want, (have, name))[0] != have:
                raise ValueError(
                    f"dimension {want!r} is {sizes[want][0]} in input {sizes[want][1]!r} and {have} in {name!r}"
                )


def _cast(name: str, array: np.ndarray, wanted: np.dtype) -> np.ndarray:
    if (wanted == np.float32 or is_half(wanted)) and (array.dtype in _FLOATS or is_half(array.dtype)):
        with np.errstate(over="ignore"):
            return array.astype(wanted)
    if is_added(wanted) and array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:
        return array.view(wanted)  # as NumPy reads it from a file
    if wanted == OBJECT and array.dtype.kind in "US":
        return np.char.decode(array, "utf-8").astype(object) if array.dtype.kind == "S" else array.astype(object)
    hint = ""
    if wanted == np.float32 and array.dtype.kind in "iub":
        hint = ": scale it as the model expects, e.g. x.astype(np.float32) / 255"
    raise ValueError(f"input {name!r} is {array.dtype}, wanted {wanted}{hint}")


def fit(name: str, spec: Spec, shape: tuple[int, ...]) -> None:
    """ValueError unless an array of this shape is what the input wants."""
    if not spec.ranked:
        return
    if len(shape) != len(spec.shape):
        raise ValueError(f"input {name!r} has shape {list(shape)}, wanted {len(spec.shape)} dimensions: {spec}")
    for have, want in zip(shape, spec.shape, strict=True):
        if isinstance(want, int) and have != want:
            raise ValueError(f"input {name!r} has shape {list(shape)}, wanted {spec}")


def results_for(
    program: Program | DeviceProgram, out: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Arrays for what is fetched: the caller's, checked, or new ones. A result may be written while inputs and other
    results are still read, so it must share memory with none."""
    _named(out, program.fetch)
    found: list[np.ndarray] = []
    for k, name in enumerate(program.fetch):
        spec = program.spec(k)
        if out.get(name) is None:
            found.append(np.empty(spec.shape, spec.dtype))
        else:
            found.append(_target(name, out[name], spec, (*given.values(), *found)))
    return found


def copied(results: dict[str, Any], out: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The results, those named in the caller's arrays where their shapes are known only now."""
    _named(out, tuple(results))
    for name, array in out.items():
        if not isinstance(results[name], np.ndarray):
            raise ValueError(f"out names {name!r}, which is no tensor")
        others = (*given.values(), *(a for n, a in out.items() if n != name))
        np.copyto(_target(name, array, Spec(results[name].shape, results[name].dtype), others), results[name])
    return {name: out[name] if name in out else _own(value, given) for name, value in results.items()}


def _own(value: Any, given: Mapping[str, np.ndarray]) -> Any:
    """The result, copied where it is a constant or shares memory with an input."""
    if isinstance(value, list):
        return [_own(v, given) for v in value]
    if not isinstance(value, np.ndarray):
        return value
    shared = not value.flags.writeable or any(
        np.may_share_memory(value, x) for x in given.values() if isinstance(x, np.ndarray)
    )
    return value.copy() if shared else value


def _named(out: Mapping[str, np.ndarray], fetch: tuple[str, ...]) -> None:
    for name in out:
        if name not in fetch:
            raise ValueError(f"out names {name!r}, the results are {', '.join(map(repr, fetch))}")


def _target(name: str, array: Any, spec: Spec, others: Iterable[np.ndarray]) -> np.ndarray:
    """The caller's array for a result, or a ValueError that says why it is none."""
    if not isinstance(array, np.ndarray) or array.shape != spec.shape or array.dtype != spec.dtype:
        have = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"out[{name!r}] is {have}, wanted {spec}")
    if not array.flags.c_contiguous or not array.flags.writeable or not array.flags.aligned:
        raise ValueError(f"out[{name!r}] must be C-contiguous, aligned and writeable")
    if any(np.may_share_memory(array, other) for other in others):
        raise ValueError(f"out[{name!r}] shares memory with an input or another result")
    return array
