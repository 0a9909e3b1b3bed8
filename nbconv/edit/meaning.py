"""What a model's numbers mean: its classes, how its pictures are made, its task, how good it was. It is kept in the model's
metadata (ONNX's metadata_props) under `PREFIX`, as JSON:

- ``nbconv.task``: "classify", "segment", "detect" or "regress";
- ``nbconv.classes``: the classes' names, in the order of their numbers;
- ``nbconv.input``: an object with ``size`` (h, w), ``channels`` (3, or 1 for grey), ``mean`` and ``std`` (lists, in units of
  pixels: the model gets (pixel - mean) / std), ``colours`` ("RGB" or "BGR"), ``layout`` ("NCHW" or "NHWC"), ``resize`` and
  ``filter`` (as `nbconv.image.load_image` takes them);
- ``nbconv.output``: "logits", or "probabilities" where the model ends in a Softmax or Sigmoid;
- ``nbconv.metrics``: an object of numbers, as they were on the samples held out.

A file is anybody's: what is read of it is checked first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nbconv.base.image import FILTERS, MAX_PIXELS, RESIZES
from nbconv.errors import ModelError

PREFIX = "nbconv."
TASKS = ("classify", "segment", "detect", "regress")
MOST_CLASSES, LONGEST = 1_000_000, 1 << 24
"""How many names there may be, and how long a value."""


class Picture(NamedTuple):
    """How pictures become a model's input: see this file's beginning. None: not said."""

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    colours: str = "RGB"
    layout: str | None = None
    resize: str = "crop"
    filter: str = "bicubic"


class Meaning(NamedTuple):
    """What a model's metadata say of it; what they do not say is empty."""

    task: str = ""
    classes: tuple[str, ...] = ()
    input: Picture | None = None
    output: str = ""
    metrics: Mapping[str, float] = {}

    def written(self) -> dict[str, str]:
        """The entries of the metadata."""
        picture = None if self.input is None else {k: v for k, v in self.input._asdict().items() if v is not None}
        values = {**self._asdict(), "input": picture, "metrics": dict(self.metrics)}
        return {f"{PREFIX}{k}": json.dumps(v, ensure_ascii=False) for k, v in values.items() if v}


KEYS = tuple(f"{PREFIX}{name}" for name in Meaning._fields)


def meaning(metadata: Mapping[str, str]) -> Meaning:
    """What a model's metadata say. ModelError, with the key, for what is not as it must be."""
    found: dict[str, Any] = {}
    for name, reads in _READERS.items():
        key = f"{PREFIX}{name}"
        if key not in metadata:
            continue
        try:
            if len(metadata[key]) > LONGEST:
                raise ValueError(f"it is longer than {LONGEST} characters")
            found[name] = reads(json.loads(metadata[key], parse_constant=_no_number))
        except (ValueError, OverflowError, RecursionError) as error:
            text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise ModelError(f"the model's metadata {key}: {text}") from None
    return Meaning(**found)


def without(metadata: Mapping[str, str], *names: str) -> dict[str, str]:
    """The metadata less these entries ("classes", "metrics", …)."""
    gone = {f"{PREFIX}{name}" for name in names}
    return {key: value for key, value in metadata.items() if key not in gone}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _task(value: Any) -> str:
    return _one_of(value, TASKS)


def _output(value: Any) -> str:
    return _one_of(value, ("logits", "probabilities"))


def _one_of(value: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{_short(value)}, wanted one of {', '.join(choices)}")
    return value


def _classes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("wanted a list of names")
    if len(value) > MOST_CLASSES:
        raise ValueError(f"{len(value)} names, at most {MOST_CLASSES} are read")
    return tuple(value)


def _metrics(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ValueError("wanted an object of numbers")
    return {name: _number(name, v) for name, v in value.items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name[:40]} is {_short(value)}, wanted a number")
    return float(value)


def _picture(value: Any) -> Picture:
    if not isinstance(value, dict):
        raise ValueError("wanted an object")
    found: dict[str, Any] = {}
    for name, choices in _CHOICES.items():
        if name in value:
            found[name] = _one_of(value[name], choices)
    if "channels" in value:
        if value["channels"] not in (1, 3) or isinstance(value["channels"], bool):
            raise ValueError(f"channels is {_short(value['channels'])}, wanted 3 or 1")
        found["channels"] = value["channels"]
    if "size" in value:
        size = value["size"]
        whole = isinstance(size, list) and len(size) == 2 and all(type(d) is int and d > 0 for d in size)
        if not whole or size[0] * size[1] > MAX_PIXELS:
            raise ValueError(f"size is {_short(size)}, wanted [height, width], {MAX_PIXELS} pixels at most")
        found["size"] = (size[0], size[1])
    for name in ("mean", "std"):
        if name in value:
            numbers = value[name]
            if not isinstance(numbers, list) or len(numbers) not in (1, 3):
                raise ValueError(f"{name} is {_short(numbers)}, wanted a list of one number, or of 3")
            found[name] = tuple(_number(name, v) for v in numbers)
    if 0 in found.get("std", ()):
        raise ValueError("std is 0")
    if any(len(found.get(name, (0,))) == 3 and found.get("channels") == 1 for name in ("mean", "std")):
        raise ValueError("mean or std has 3 numbers, channels is 1")
    return Picture(**found)


_CHOICES = {"colours": ("RGB", "BGR"), "layout": ("NCHW", "NHWC"), "resize": RESIZES, "filter": FILTERS}
_READERS: dict[str, Callable[[Any], Any]] = {
    "task": _task,
    "classes": _classes,
    "input": _picture,
    "output": _output,
    "metrics": _metrics,
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
