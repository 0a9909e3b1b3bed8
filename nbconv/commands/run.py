"""Run a model on pictures or arrays, and print its best classes, its boxes, or a summary of each output.

A picture is resized and normalised as the options say: (pixel - mean) / std with pixels from 0 to 255. What they do not say
is in the metadata of a model that nbconv trained (so are the classes' names), or in ONNX's metadata Image.NominalPixelRange
and Image.BitmapPixelFormat; else pixels become 0…1. Of other models the file does not say what their training wants: wrong
values give wrong answers, not errors."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nbconv.base.files import check, replace
from nbconv.commands import _model
from nbconv.commands._boxes import Shown, format_of, is_found, show_boxes
from nbconv.commands._text import clip, dims, style, table

if TYPE_CHECKING:
    import numpy as np

    from nbconv.edit.meaning import Meaning, Picture
    from nbconv.graph import Graph, Spec

ARRAYS = (".npy", ".npz")

RANGES = {"Normalized_0_1": (0.0, 255.0), "Normalized_1_1": (127.5, 127.5), "NominalRange_0_255": (0.0, 1.0)}
"""Image.NominalPixelRange → mean and std (ONNX, docs/MetadataProps.md)."""


def add(parser: argparse.ArgumentParser) -> None:
    _model.add_model(parser)
    parser.add_argument("files", nargs="*", metavar="file", help="pictures, .npy or .npz arrays; each is one run")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE", help="one of several inputs; may be repeated"
    )
    picture = parser.add_argument_group("pictures")
    picture.add_argument(
        "--size", type=_size, metavar="HxW", help="size to resize to (default: what the model declares, else the picture's)"
    )
    picture.add_argument(
        "--resize",
        choices=["crop", "stretch", "pad"],
        help="crop the middle of the wanted proportions (default), stretch, or pad with the mean",
    )
    picture.add_argument(
        "--filter",
        choices=["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"],
        help="default bicubic",
    )
    picture.add_argument(
        "--mean", type=_numbers, metavar="R,G,B", help="subtracted from pixels (one number, or one a channel)"
    )
    picture.add_argument("--std", type=_numbers, metavar="R,G,B", help="what pixels are then divided by")
    picture.add_argument(
        "--scale",
        type=float,
        metavar="S",
        help="what pixels are multiplied by, instead of --std: 0.00392 is 1/255, 1 leaves them",
    )
    order = picture.add_mutually_exclusive_group()
    order.add_argument("--rgb", action="store_true", help="red first (default)")
    order.add_argument("--bgr", action="store_true", help="blue first")
    picture.add_argument("--layout", choices=["NCHW", "NHWC"], help="default: what the model's input looks like")
    results = parser.add_argument_group("results")
    results.add_argument("--top-k", type=_model.positive, metavar="K", help="how many classes to print (default 5)")
    results.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    results.add_argument(
        "--softmax",
        action=argparse.BooleanOptionalAction,
        help="turn a classifier's scores into probabilities (default: where the metadata say that they are none)",
    )
    results.add_argument(
        "--score", type=_model.nonnegative, default=0.5, metavar="P", help="least probability of a detector's boxes (0.5)"
    )
    results.add_argument("--draw", metavar="FILE", help="write the picture with a detector's boxes")
    results.add_argument("-o", "--output", metavar="FILE.npz", help="save the outputs")
    _model.add_threads(parser)
    _model.add_device(parser)
    _model.add_exact(parser)
    parser.epilog = """\
examples:
  nbconv run classifier.onnx cat.jpg dog.jpg --mean 127,127,127 --std 128,128,128 --labels names.txt --softmax
  nbconv run tuned.onnx street.jpg --draw found.png
  nbconv run detector.onnx street.png --size 480x640 --resize pad -o found.npz
  nbconv run model.onnx --input image=x.npy --input mask=m.npy"""


def _size(text: str) -> tuple[int, int]:
    try:
        h, w = (int(part) for part in text.lower().replace("×", "x").split("x"))
    except ValueError:
        h = w = 0
    if h < 1 or w < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted height x width, like 224x224")
    return h, w


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted numbers separated by commas, like 127,127,127") from None


def run(args: argparse.Namespace) -> int:
    from nbconv.edit.meaning import meaning

    if args.scale is not None and args.std is not None:
        raise ValueError("--scale and --std say the same in two ways: give one of them")
    if args.output and len(args.files) > 1:
        raise ValueError("-o takes the outputs of one run: give one file")
    if args.draw and len(args.files) != 1:
        raise ValueError("--draw writes one picture: give one file")
    if args.draw:
        format_of(args.draw)
    for path in filter(None, (args.output, args.draw)):
        check(path)
    model = _model.open_model(args.model, args.threads, args.device, args.exact)
    told = meaning(model.graph.metadata)
    labels = _labels(args.labels) if args.labels else None
    named = _model.named(args.input, "--input")
    for name in named:
        if name not in model.graph.inputs and name not in model.graph.optional:
            raise ValueError(f"--input {name}: the model's inputs are {', '.join(model.graph.inputs)}")
    rest = [name for name in model.graph.inputs if name not in named]
    if len(rest) > 1 or bool(rest) != bool(args.files):
        wants = f"the model's inputs are {', '.join(f'{n} {s}' for n, s in model.graph.inputs.items())}"
        raise ValueError(
            f"{wants}: name a file for each, --input NAME=FILE, or all but one"
            if len(rest) != 1
            else f"{wants}: name a file"
        )
    for path in args.files or [""]:
        files = {**named, **({rest[0]: path} if rest else {})}
        feeds = {name: _read(path, name, model.graph, args, told.input) for name, path in files.items()}
        results = model.run(feeds)
        if path and len(args.files) > 1:
            print(style(f"{path}:", "bold"))
        if told.task == "detect" and is_found(results):
            shown = _shown(path, rest[0], model.graph, args, told.input) if rest else None
            show_boxes(results, shown, told.classes if labels is None else labels, args)
        elif args.draw:
            raise ValueError("--draw is for models that nbconv finetune taught boxes")
        else:
            show(results, labels, args.top_k, args.softmax, told)
        if args.output:
            save(args.output, results)
    return 0


def _shown(path: str, name: str, graph: Graph, args: argparse.Namespace, told: Picture | None) -> Shown | None:
    """The picture in a file; None for an array."""
    if path.lower().endswith(ARRAYS):
        return None
    settings = image_settings(graph.inputs[name], name, graph, args, told)
    return Shown(path, settings["size"], settings["resize"] or "crop")


def _read(path: str, name: str, graph: Graph, args: argparse.Namespace, told: Picture | None) -> np.ndarray:
    """The input ``name`` from a file."""
    if path.lower().endswith(ARRAYS):
        return _model.read_array(path, name)
    import numpy as np

    from nbconv.base.image import load_image

    spec = graph.inputs[name] if name in graph.inputs else graph.optional[name]
    settings = image_settings(spec, name, graph, args, told)
    if told is not None and settings["resize"] == "pad":  # training pads with 0 before it normalises
        mean, std = (np.asarray(settings.pop(n), np.float32) for n in ("mean", "std"))
        axis = (1, -1, 1, 1) if settings["layout"] == "NCHW" else (1, 1, 1, -1)
        x = (load_image(path, **settings, mean=0.0, std=1.0) - mean.reshape(axis)) / std.reshape(axis)
    else:
        x = load_image(path, **settings)
    if spec.dtype == np.float32:
        return x
    if spec.dtype == np.uint8:
        return x.round().clip(0, 255).astype(np.uint8)
    raise ValueError(f"input {name} {spec}: a picture gives float32 or uint8 numbers; prepare a .npy file")


def image_settings(
    spec: Spec, name: str, graph: Graph, args: argparse.Namespace, told: Picture | None = None
) -> dict[str, Any]:
    """`load_image`'s arguments from the options, what the model's metadata say of pictures, its input and ONNX's image
    metadata."""
    from nbconv.base.image import layout_of
    from nbconv.edit.meaning import Picture

    told = told or Picture(colours="")
    layout = args.layout or told.layout or layout_of(spec.shape)
    if layout is None or len(spec.shape) != 4:
        hint = "" if len(spec.shape) != 4 else "; say --layout NCHW or NHWC"
        raise ValueError(f"input {name} {spec} does not look like a picture's (batch, channels, height, width){hint}")
    channels, h, w = (spec.shape[i] for i in ((1, 2, 3) if layout == "NCHW" else (3, 1, 2)))
    channels = channels if isinstance(channels, int) else told.channels or 3
    if channels not in (1, 3):
        raise ValueError(f"input {name} {spec} has {channels} channels, a picture 3 or 1; prepare a .npy file")
    size = args.size or ((h, w) if isinstance(h, int) and isinstance(w, int) else told.size)
    if size is None and (isinstance(h, int) or isinstance(w, int)):
        raise ValueError(
            f"input {name} {spec}: say --size {h if isinstance(h, int) else 'H'}x{w if isinstance(w, int) else 'W'}"
        )
    raw = (0.0, 1.0) if spec.dtype.kind in "iu" else RANGES["Normalized_0_1"]
    mean, std = RANGES.get(graph.metadata.get("Image.NominalPixelRange", ""), raw)
    mean, std = (mean if told.mean is None else told.mean), (std if told.std is None else told.std)
    if args.mean is not None or args.std is not None or args.scale is not None:
        mean, std = 0.0, 1.0
    if args.scale is not None and not 0 < abs(args.scale) < 1e9:
        raise ValueError(f"--scale {args.scale}: wanted a number other than 0")
    if args.scale is not None:
        std = 1 / args.scale
    colours = told.colours or graph.metadata.get("Image.BitmapPixelFormat", "").upper()
    bgr = args.bgr or (not args.rgb and colours.startswith("BGR"))
    return {
        "size": size,
        "resize": args.resize or told.resize,
        "filter": args.filter or told.filter,
        "layout": layout,
        "channels": channels,
        "mean": mean if args.mean is None else args.mean,
        "std": std if args.std is None else args.std,
        "bgr": bgr and channels == 3,
    }


def _labels(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as f:
        return [line.strip() for line in f.read(1 << 24).splitlines()]


def show(
    results: dict[str, np.ndarray], labels: list[str] | None, top_k: int | None, softmax: bool | None, told: Meaning
) -> None:
    """Print a classifier's best classes; of other models a line for each output, and of one that tells the classes of pixels
    their shares. ``told``: what its metadata say."""
    y = next(iter(results.values()))
    rows = y.reshape(y.shape[0], -1) if y.ndim >= 2 else y
    classifier = (
        len(results) == 1 and y.dtype.kind == "f" and y.ndim >= 2 and y.shape[0] == 1 and rows.shape[1] == max(y.shape) > 1
    )
    if not classifier:
        if softmax or labels or top_k:
            found = ", ".join(f"{n} {dims(a.shape)}" for n, a in results.items())
            raise ValueError(f"--softmax, --labels and --top-k are for one output (1, classes); this model gives {found}")
        table(
            ("OUTPUT", "SHAPE", "TYPE", "MIN", "MEAN", "MAX"), [_summary(n, a) for n, a in results.items()], right=(3, 4, 5)
        )
        if told.task == "segment" and len(results) == 1:
            _show_shares(y, told)
        return
    if labels is None and told.classes and len(told.classes) <= len(rows[0]):
        labels = [*told.classes, *[""] * (len(rows[0]) - len(told.classes))]
    if softmax is None:
        softmax = told.task == "classify" and told.output == "logits"
    _show_classes(rows[0], labels, top_k or 5, softmax)


def _show_shares(y: np.ndarray, told: Meaning) -> None:
    """Which share of the pixels has which class, by scores (n, classes, …)."""
    import numpy as np

    if y.ndim < 3 or y.shape[1] < 2 or not y.size:
        return
    counts = np.bincount(y.argmax(axis=1).ravel(), minlength=y.shape[1])
    for i in np.argsort(-counts, kind="stable"):
        if counts[i]:
            name = told.classes[i] if i < len(told.classes) else ""
            print(f"{counts[i] / counts.sum():9.2%}  {i:5d}  {clip(name, 40)}".rstrip())


def _show_classes(scores: np.ndarray, labels: list[str] | None, k: int, softmax: bool) -> None:
    import numpy as np

    if labels is not None and len(labels) != len(scores):
        raise ValueError(f"--labels has {len(labels)} lines, the model {len(scores)} classes")
    if softmax:
        e = np.exp(scores - scores.max())
        scores = e / e.sum()
    probabilities = softmax or (scores.min() >= 0 and abs(float(scores.sum()) - 1) < 1e-3)
    best = np.argsort(-scores, kind="stable")[:k]
    for i in best:
        name = f"  {clip(labels[i], 40):40}" if labels else ""
        bar = f"  {style('█' * round(24 * float(scores[i])), 'green')}" if probabilities else ""
        print(f"{scores[i]:9.4f}  {i:5d}{name}{bar}".rstrip())
    if not probabilities:
        print(style("(scores as the model gives them; --softmax turns them into probabilities)", "dim"))


def _summary(name: str, y: np.ndarray) -> tuple[str, ...]:
    import numpy as np

    from nbconv.graph.dtypes import is_added, kind_of

    if y.size == 0 or kind_of(y.dtype) not in "fiubn":
        return name, dims(y.shape), y.dtype.name, "", "", ""
    kind, y = y.dtype.name, y.astype(np.float32) if is_added(y.dtype) else y
    return name, dims(y.shape), kind, *(f"{float(v):.5g}" for v in (y.min(), y.mean(), y.max()))


def save(path: str, results: dict[str, np.ndarray]) -> None:
    """Write the arrays as .npz, whole or not at all."""
    import zipfile

    import numpy as np

    def put(file: Any) -> None:
        # not np.savez: its own parameters are names that an output could have
        with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            for name, y in results.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as f:
                    np.lib.format.write_array(f, y, allow_pickle=False)

    replace(path, put)
