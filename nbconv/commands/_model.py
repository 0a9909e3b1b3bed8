"""What commands share about models: opening them, sizes for dynamic dimensions, inputs made up or read from files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nbconv.errors import DataDependentError, ModelError

if TYPE_CHECKING:
    import numpy as np

    from nbconv.graph import Graph, Spec
    from nbconv.model import Model
    from nbconv.plan.plan import Plan

ASSUMED = 224
"""Height and width taken for images of any size."""

SHAPES = """\
dynamic dimensions:
  The first axis, the batch, is 1 unless told otherwise. Height and width of an image that may have
  any size are taken as 224. Any other dynamic dimension must be given: --shape ids=1,128"""


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="an ONNX or TFLite file")


def add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape", action="append", default=[], metavar="[NAME=]1,3,224,224", help="the shape of an input; may be repeated"
    )


def add_value(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--value", action="append", default=[], metavar="NAME=NUMBER",
        help="what all of an input is, where values decide shapes (a sampling rate, a count); may be repeated",
    )  # fmt: skip


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="the CPU's threads that work on a run (default: all allowed)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu (default), or a GPU: cuda, cuda:1, cuda:tf32 (docs/cuda.md)"
    )


def add_exact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exact", action="store_true", help="sums as operators define them: no Winograd filtering, which rounds more"
    )


def add_tolerance(parser: argparse.ArgumentParser, of: str) -> None:
    allowed = f"differences allowed, as a share of {of} greatest magnitude (default 1e-4, with TF32 or half precision 1e-2)"
    parser.add_argument("--tolerance", type=nonnegative, metavar="SHARE", help=allowed)


def tolerance(args: argparse.Namespace, model: Model) -> float:
    """What was asked for, or what the products of the model's device, or its element types, are held to."""
    from nbconv.graph.dtypes import is_half

    if args.tolerance is not None:
        return args.tolerance
    half = any(port.dtype is not None and is_half(port.dtype) for port in (*model.inputs, *model.outputs))
    return 1e-2 if half or model._target().tf32 else 1e-4


def add_seed(parser: argparse.ArgumentParser, of: str) -> None:
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=f"of {of} (default 0)")


def positive(text: str) -> int:
    """An argparse type."""
    try:
        n = int(text)
    except ValueError:
        n = 0
    if n < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted a positive integer")
    return n


def positives(text: str) -> list[int]:
    """An argparse type: "1,2"."""
    return [positive(part) for part in text.split(",")]


def nonnegative(text: str) -> float:
    """An argparse type."""
    try:
        x = float(text)
    except ValueError:
        x = -1.0
    if not 0 <= x < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted a number, 0 or more, below 1e9")
    return x


def seed(text: str) -> int:
    """An argparse type."""
    try:
        n = int(text)
    except ValueError:
        n = -1
    if n < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted an integer, 0 or more")
    return n


def open_graph(path: str) -> Graph:
    """Read a model; errors name the file."""
    from nbconv.converters.onnx import read

    try:
        return read(path)
    except ModelError as error:
        raise type(error)(_named(path, error)) from None


def open_model(path: str, threads: int | None = None, device: str = "cpu", exact: bool = False) -> Model:
    """Read a model to run on a device, ``exact`` as `nbconv.load` takes it; errors name the file. DeviceError where the
    device is not there, ValueError for what is no device's name."""
    from nbconv.model import Model

    return Model(open_graph(path), threads=threads, device=device, exact=exact)


def _named(path: str, error: Exception) -> str:
    text, name = str(error), os.fspath(path)
    return text if name in text or text.startswith(os.path.basename(name)) else f"{name}: {text}"


def whole_plan(model: Model, path: str, shapes: dict[str, tuple[int, ...]]) -> Plan:
    """The plan; ModelError for a model that has none, as values decide its shapes."""
    try:
        return model.plan(shapes)
    except DataDependentError as error:
        told = "it has no single plan, as values decide shapes"
        raise ModelError(f"{path}: {told} ({error}); nbconv doctor shows how it is planned while it runs") from None


def given_shapes(graph: Graph, texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """What --shape said, by input name. ValueError for what is no shape, or of no input."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, numbers = text.rpartition("=")
        if not equals:
            if len(graph.inputs) != 1:
                raise ValueError(f"--shape {text}: name one of the {len(graph.inputs)} inputs, --shape NAME={text}")
            name = next(iter(graph.inputs))
        if name not in graph.inputs:
            raise ValueError(f"--shape {text}: the model has no input {name!r}, its inputs are {', '.join(graph.inputs)}")
        try:
            shape = tuple(int(d) for d in numbers.replace("x", ",").replace("×", ",").split(",") if d.strip())
        except ValueError:
            raise ValueError(f"--shape {text}: wanted whole numbers separated by commas") from None
        declared = graph.inputs[name].shape
        if not graph.inputs[name].ranked:
            found[name] = shape
            continue
        if len(shape) != len(declared) or min(shape, default=1) < 1:
            raise ValueError(f"--shape {text}: wanted {len(declared)} positive numbers, {name} is {graph.inputs[name]}")
        for have, want in zip(shape, declared, strict=True):
            if isinstance(want, int) and have != want:
                raise ValueError(f"--shape {text}: {name} is {graph.inputs[name]}, dimensions with a number are fixed")
        found[name] = shape
    return found


def input_shapes(
    graph: Graph, texts: Sequence[str], batch: int | None = None
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """A shape for every input, and notes on what was assumed; see `SHAPES`. ValueError asks for --shape."""
    given = given_shapes(graph, texts)
    sizes: dict[str, int] = {}
    for name, shape in given.items():
        declared = graph.inputs[name].shape
        sizes.update((d, n) for d, n in zip(declared, shape, strict=False) if isinstance(d, str))
    found, notes = {}, []
    for name, spec in graph.inputs.items():
        if spec.type:
            raise ValueError(f"the input {name} is {spec}, no tensor: no shape stands for it")
        if not spec.ranked and name not in given:
            raise ValueError(f"the rank of {name} is not declared: say --shape {name}=1,3,224,224 or what it is")
        if not spec.ranked:
            found[name] = given[name]
            continue
        shape = list(given.get(name, ()))
        for axis, d in enumerate(() if shape else spec.shape):
            if isinstance(d, int):
                if batch is not None and axis == 0 and d != batch:
                    raise ValueError(f"--batch {batch}: the first dimension of {name} {spec} is fixed")
                shape.append(d)
            elif axis == 0:
                shape.append(sizes.get(d or "", batch or 1))
            elif d in sizes:
                shape.append(sizes[d])  # type: ignore[index]
            elif _is_size(spec, axis):
                shape.append(ASSUMED)
            else:
                raise ValueError(f"dimension {axis} of {name} {spec} is dynamic: say --shape {name}={_example(spec)}")
        if batch is not None and shape and shape[0] != batch:
            raise ValueError(f"--batch {batch}: --shape says {shape[0]} for {name}")
        if not given.get(name) and any(
            not isinstance(d, int) and _is_size(spec, i) and d not in sizes for i, d in enumerate(spec.shape)
        ):
            notes.append(f"{name} may have any size: {'×'.join(map(str, shape))} taken; --shape sets another")
        found[name] = tuple(shape)
    return found, notes


def _is_size(spec: Spec, axis: int) -> bool:
    """Whether the axis is height or width of an input that looks like an image (1, 3 or 4 channels)."""
    from nbconv.base.image import layout_of

    layout = layout_of(spec.shape)
    return layout is not None and axis in ((2, 3) if layout == "NCHW" else (1, 2))


def _example(spec: Spec) -> str:
    return ",".join(str(d) if isinstance(d, int) else "1" if i == 0 else "N" for i, d in enumerate(spec.shape))


def given_values(graph: Graph, texts: Sequence[str]) -> dict[str, float]:
    """What --value said, by input name. ValueError for what is no number, or of no input."""
    import numpy as np

    found: dict[str, float] = {}
    for name, text in named(texts, "--value", "NUMBER").items():
        if name not in graph.inputs:
            raise ValueError(
                f"--value {name}={text}: the model has no input {name!r}, its inputs are {', '.join(graph.inputs)}"
            )
        dtype = graph.inputs[name].dtype
        try:
            found[name] = float(text) if dtype.kind == "f" else int(text)
            np.array(found[name], dtype)
        except (ValueError, OverflowError):
            wanted = "a number" if dtype.kind == "f" else f"a whole number that {dtype} holds"
            raise ValueError(f"--value {name}={text}: wanted {wanted}") from None
    return found


PLAIN = "made-up inputs"
"""What `plain_feeds` gives, in messages."""


def plain_feeds(
    graph: Graph, shapes: dict[str, tuple[int, ...]], values: Mapping[str, float] = MappingProxyType({})
) -> Iterator[dict[str, np.ndarray]]:
    """Inputs to try in turn where values decide shapes: zeros, with ones for integers, which may be counts; zeros; and 32
    everywhere, for what may be sizes. Those in ``values`` are what these say."""
    import numpy as np

    for integer, real in ((1, 0), (0, 0), (32, 32)):
        usual = {n: integer if graph.inputs[n].dtype.kind in "iu" else real for n in shapes}
        yield {n: np.full(shape, values.get(n, usual[n]), graph.inputs[n].dtype) for n, shape in shapes.items()}


def random_feeds(
    graph: Graph, shapes: dict[str, tuple[int, ...]], seed: int = 0, values: Mapping[str, float] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    """Seeded inputs of these shapes: floats are normal, integers 0 or 1, for they may be indices. Those in ``values`` are
    what these say."""
    import numpy as np

    from nbconv.graph.dtypes import kind_of

    rng = np.random.default_rng(seed)
    feeds = {}
    for name, shape in shapes.items():
        dtype = graph.inputs[name].dtype
        if name in values:
            feeds[name] = np.full(shape, values[name], dtype)
        elif kind_of(dtype) == "f":
            feeds[name] = rng.standard_normal(shape, np.float32).astype(dtype)
        else:
            feeds[name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds


def read_array(path: str, name: str = "") -> np.ndarray:
    """An array from a .npy file, or the one called ``name`` (or the only one) from an .npz; ValueError for what is none."""
    import zipfile

    import numpy as np

    with open(path, "rb") as f:
        try:
            found: Any = np.load(f, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            names = list(found.files)
            if name not in names and len(names) != 1:
                raise ValueError(f"holds the arrays {', '.join(names) or '(none)'}, wanted {name or 'one'}")
            return found[name if name in names else names[0]]
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, OSError) as error:
            text = str(error)
            if "pickle" in text:
                text = "it is no array of numbers"
            raise ValueError(f"{path}: not an array that can be read: {text or type(error).__name__}") from None


def named(texts: Sequence[str], option: str, of: str = "FILE") -> dict[str, str]:
    """``NAME=VALUE`` options as a dict; ``of``: what values are."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"{option} {text}: wanted NAME={of}")
        found[name] = value
    return found
