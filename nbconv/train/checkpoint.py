"""Checkpoints: files in the safetensors format, that are whole or not there. They hold all that training goes on from:
parameters, running statistics, the optimizer's slots, and as metadata where it was: step, epoch, batch, learning rate,
history, what callbacks remember (their arrays are beside the others, under "callback/"). Orders of samples, augmentation
and dropout come from the seed and these numbers: there is no other random state."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbconv.base.files import replace
from nbconv.train.auto import adopting
from nbconv.train.learner import Learner
from nbconv.train.schedules import Plateau

VERSION = 2


def save(trainer: Learner, path: str | os.PathLike, more: Mapping[str, Any]) -> None:
    """Write a checkpoint. OSError where it cannot be written: what was at ``path`` stays as it is."""
    with trainer._lock:
        arrays = dict(trainer.state)
        run = trainer.run.state() if trainer.run is not None else {}
        about = {
            "version": VERSION,
            "model": mark(trainer),
            "steps": trainer.steps,
            "epoch": trainer.epoch,
            "seed": trainer.seed,
            "lr_scale": trainer.lr_scale,
            "run": _parted(run, "callback", arrays),
            "more": dict(more),
            "chosen": trainer.chosen._asdict() if trainer.chosen else None,
            "plateau": trainer.schedule.state() if isinstance(trainer.schedule, Plateau) else None,
        }
        replace(path, lambda file: write_tensors(file, arrays, {"nbconv": json.dumps(about)}))


def load(trainer: Learner, path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint into the trainer; where `fit` was. ValueError for a file that is none, or of another training;
    then the trainer is as it was."""
    arrays, metadata = read_tensors(path)
    try:
        about = json.loads(metadata["nbconv"])
        version = about["version"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path} is no checkpoint of nbconv's") from None
    if version != VERSION:
        raise ValueError(f"{path} is a checkpoint of version {version}, wanted {VERSION}")
    with trainer._lock, adopting(trainer, about.get("chosen")):
        if about["model"] != mark(trainer):
            raise ValueError(f"{path} is of another training: its model, what trains or the optimizer differ")
        state, rest = trainer.state, {n: a for n, a in arrays.items() if n not in trainer.state}
        told = all(n in arrays and arrays[n].shape == a.shape for n, a in state.items())
        if not told or any(not n.startswith("callback/") for n in rest):
            raise ValueError(f"{path} holds other arrays than this training has")
        try:
            run = _joined(about["run"], rest)
        except (KeyError, TypeError, RecursionError):
            raise ValueError(f"{path} lacks an array that a callback remembers") from None
        trainer.abandon()
        for name, value in trainer.state.items():
            value[...] = arrays[name]
        trainer.steps, trainer.epoch, trainer.lr_scale = about["steps"], about["epoch"], about["lr_scale"]
        if about["seed"] != trainer.seed:
            trainer.seed = about["seed"]
            trainer._replan(seed=trainer.seed)
        if isinstance(trainer.schedule, Plateau) and about["plateau"]:
            trainer.schedule.restore(about["plateau"])
        trainer.forget()
    return run


def _parted(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """What JSON can say of a value: arrays go to ``arrays``, names stand for them."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        return {key: _parted(v, f"{name}/{key}", arrays) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_parted(v, f"{name}/{i}", arrays) for i, v in enumerate(value)]
    return value


def _joined(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What `_parted` parted."""
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        return {key: _joined(v, arrays) for key, v in value.items()}
    return [_joined(v, arrays) for v in value] if isinstance(value, list) else value


def mark(trainer: Learner) -> str:
    """What must be the same for a checkpoint to fit: structure, what trains, the optimizer. Learning rates may change."""
    graph, digest = trainer.authored, hashlib.sha256(b"undecided" if trainer.undecided else b"")
    for node in graph.nodes:
        digest.update(f"{node.op.type}({node.inputs})->{node.outputs};".encode())
    for name, value in sorted(trainer.state.items()):
        digest.update(f"{name}{value.shape};".encode())
    for name, rows in sorted(trainer.recipe.rows.items()):
        digest.update(f"{name}{list(rows)};".encode())
    digest.update(f"{type(trainer.optimizer).__name__}{trainer.optimizer.op.__name__}".encode())
    return digest.hexdigest()[:16]


def write_tensors(file: Any, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """The safetensors format: 8 bytes, the length of a JSON header, it, and the float32 arrays one behind the other."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array, "<f4").tobytes())


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of a safetensors file of float32 arrays, whoever wrote it. ValueError for another, or for one that
    is damaged: the arrays must fill it, one behind the other."""
    content = Path(path).read_bytes()
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size].decode(), object_pairs_hook=_distinct)
        metadata = header.pop("__metadata__", {})
        body = memoryview(content)[8 + size :]
        arrays, end = {}, 0
        for name, told in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = told["data_offsets"]
            if told["dtype"] != "F32" or first != end or not first <= last <= len(body):
                raise ValueError
            arrays[name] = np.frombuffer(body[first:last], "<f4").astype(np.float32).reshape(_dims(told["shape"]))
            end = last
        if end != len(body) or any(type(text) is not str for text in metadata.values()):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError(f"{path} is no whole safetensors file of float32 arrays") from None
    return arrays, metadata


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _dims(shape: list[int]) -> list[int]:
    if any(type(d) is not int or d < 0 for d in shape):
        raise ValueError(shape)
    return shape
