"""Pictures as a network's input: read, turned upright, resized, normalised. Pillow is imported when a picture is read."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 80_000_000
"""A picture that claims more is refused before it is decoded."""

RESIZES = ("crop", "stretch", "pad")
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def layout_of(shape: Sequence[Any]) -> str | None:
    """NCHW or NHWC where a declared shape looks like an image's, else None."""
    if len(shape) != 4:
        return None
    if shape[1] in (1, 3, 4):
        return "NCHW"
    return "NHWC" if shape[3] in (1, 3, 4) else None


def load_image(
    source: Any,
    size: tuple[int, int] | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 255.0,
    *,
    resize: str = "crop",
    filter: str = "bicubic",
    channels: int = 3,
    bgr: bool = False,
    layout: str = "NCHW",
) -> np.ndarray:
    """A picture as float32 (1, channels, h, w), or (1, h, w, channels) where ``layout`` is "NHWC": (pixel - mean) / std.

    ``source``: a path, an open binary file or a PIL image; EXIF orientation is honoured, transparent parts turn white.
    ``size``: (height, width), None for the picture's own. ``resize``: "crop" cuts the middle of the wanted proportions,
    "stretch" changes the proportions, "pad" fits the whole picture and fills up with the mean. ``filter``: one of
    `FILTERS`, as Pillow has them (they average when shrinking). ``mean`` and ``std``: one number or one a channel, in
    units of pixels, 0 to 255, in the order of the output's channels. ``channels``: 3, or 1 for grey. ``bgr``: blue first.

    Raises OSError for a path that cannot be opened, ValueError, on one line, for what is no picture, a damaged one, one of
    more than `MAX_PIXELS`, and for arguments that make no sense.
    """
    _one_of("resize", resize, RESIZES)
    _one_of("filter", filter, FILTERS)
    _one_of("layout", layout, ("NCHW", "NHWC"))
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, wanted 3 or 1")
    if size is not None and (min(size) < 1 or size[0] * size[1] > MAX_PIXELS):
        raise ValueError(
            f"size is {size[0]}x{size[1]}, wanted a height and a width of 1 or more, {MAX_PIXELS} pixels at most"
        )
    centre, spread = _per_channel("mean", mean, channels), _per_channel("std", std, channels)
    if not spread.all():
        raise ValueError("std is 0")
    picture = _flat(open_image(source), channels)
    if size is not None:
        fill = centre[::-1] if bgr else centre
        picture = _resized(picture, size, resize, filter, [int(v) for v in fill.clip(0, 255).round()])
    x = np.asarray(picture, np.float32).reshape(picture.height, picture.width, channels)
    if bgr:
        x = x[:, :, ::-1]
    x = (x - centre) / spread
    return np.ascontiguousarray((x if layout == "NHWC" else x.transpose(2, 0, 1))[None])


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(choices)}")


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> np.ndarray:
    found = np.atleast_1d(np.asarray(value, np.float32))
    if found.shape not in ((1,), (channels,)) or not np.isfinite(found).all():
        raise ValueError(f"{name} is {value}, wanted one number, or {channels}")
    return np.broadcast_to(found, (channels,))


def pillow() -> Any:
    """Pillow's module Image. ImportError says how to get it."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("reading pictures needs Pillow: pip install Pillow") from None
    return Image


def open_image(source: Any) -> Image.Image:
    """The decoded, upright picture, of any mode; errors as `load_image`'s."""
    if isinstance(source, pillow().Image):
        return _upright(source)
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as f:
            return _decoded(f, os.fspath(source))
    return _decoded(source, getattr(source, "name", "the picture"))


def _decoded(file: Any, label: str) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        _quiet()
        picture = Image.open(file)
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"it has {picture.width}x{picture.height} pixels, at most {MAX_PIXELS} are read")
        picture.load()
        return _upright(picture)
    except (Image.DecompressionBombError, UnidentifiedImageError) as error:
        bomb = isinstance(error, Image.DecompressionBombError)
        why = f"it has too many pixels, at most {MAX_PIXELS} are read" if bomb else "no known format"
        raise ValueError(f"{label}: not a picture that can be read: {why}") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, … for damaged files
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{label}: not a picture that can be read: {text}") from None


def _quiet() -> None:
    """Pillow warns of pictures that our own limit refuses, and of odd but readable ones. The filter stays: taking it away
    again would disturb other threads, which have the same filters."""
    wanted = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if wanted not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _upright(picture: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture) or picture


def _flat(picture: Image.Image, channels: int) -> Image.Image:
    """As 8-bit RGB or grey, without transparency."""
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):  # 16 bits a pixel, which convert() would clip
        x = np.asarray(picture).astype(np.float32)
        x = x / 257 if picture.mode != "F" and x.size and x.max() > 255 else x
        picture = Image.fromarray(np.nan_to_num(x).clip(0, 255).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB" if channels == 3 else "L")


Box = tuple[int, int, int, int]


def placed(have: tuple[int, int], size: tuple[int, int], resize: str) -> tuple[Box, Box]:
    """Which part of a picture (height, width) becomes which part of the result of ``size``: each (left, top, right,
    bottom) in pixels."""
    (have_h, have_w), (h, w) = have, size
    if resize == "stretch":
        return (0, 0, have_w, have_h), (0, 0, w, h)
    if resize == "crop":
        cut_w, cut_h = min(have_w, max(1, round(have_h * w / h))), min(have_h, max(1, round(have_w * h / w)))
        left, top = (have_w - cut_w) // 2, (have_h - cut_h) // 2
        return (left, top, left + cut_w, top + cut_h), (0, 0, w, h)
    scale = min(w / have_w, h / have_h)
    fit_w, fit_h = min(w, max(1, round(have_w * scale))), min(h, max(1, round(have_h * scale)))
    left, top = (w - fit_w) // 2, (h - fit_h) // 2
    return (0, 0, have_w, have_h), (left, top, left + fit_w, top + fit_h)


def _resized(picture: Image.Image, size: tuple[int, int], resize: str, filter: str, fill: list[int]) -> Image.Image:
    from PIL import Image

    h, w = size
    how = Image.Resampling[filter.upper()]
    source, to = placed((picture.height, picture.width), size, resize)
    if source != (0, 0, picture.width, picture.height):
        picture = picture.crop(source)
    picture = picture.resize((to[2] - to[0], to[3] - to[1]), how)
    if resize != "pad":
        return picture
    whole = Image.new(picture.mode, (w, h), tuple(fill) if picture.mode == "RGB" else fill[0])
    whole.paste(picture, to[:2])
    return whole
